"""The rows of an experiment on one machine: tidy CSV, one measurement a line, in `results/<machine>/<experiment>.csv`.

The machine's description lies beside them once, in `machine.json`. Every write is atomic: a file is there as it was, or
as it is meant to be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hashbench.bench.inventories import MODELS
from hashbench.bench.readings import SUFFIX as READINGS_SUFFIX
from hashbench.bench.records import Format, RecordsFile, ResultsError
from hashbench.bench.verification import EXTENTS
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import ALGORITHMS, STRATEGIES

SCHEMA = 2
"""The version of the file format: what the columns are and mean. Version 1 had no `model` and no `digest`."""

REFERENCE = ("hashlib", "1-thread")
"""The kernel and the device that speed-ups are over."""

MACHINE_FILE = "machine.json"

FIGURES_FOLDER = "figures"
"""In a machine's folder, for its own figures; beside the machines' folders, for those over all of them."""


class RowPoint(NamedTuple):
    """What a row measures: those of its columns by which measuring the same again replaces it."""

    experiment: str
    model: str
    kernel: str
    variant: str
    strategy: str
    algorithm: str
    bytes: int
    chunk_size: int | None
    segments: int
    device: str


@dataclass(frozen=True)
class Row:
    """One measurement, with everything needed to repeat it. The fields are the columns, in order.

    Attributes:
        schema: version of the file format.
        experiment: the experiment's name.
        model: the inventory (`hashbench.bench.inventories`) that the segments belong to; empty where there is none.
        kernel: the kernel's name.
        variant: the kernel's variant.
        strategy: "batched", "leaves" or "tree".
        algorithm: "sha256" or "sha384".
        device: the device's id among those of its kernel.
        device_name: the device's own name.
        device_kind: "gpu" or "cpu".
        bytes: input bytes, over all segments.
        chunk_size: bytes of a chunk; None (an empty cell) where each segment was one message.
        segments: number of segments.
        repeats: number of timed runs.
        seconds_median, seconds_q1, seconds_q3, seconds_min: of a run, by the device's clock.
        wall_seconds_median, wall_seconds_q1, wall_seconds_q3: of the same runs, by the wall's clock.
        gb_per_s: input bytes over seconds_median, in 1e9 bytes a second.
        verified: "all" or "sample": how much of the output was checked against hashlib before.
        digest: what the call computed, as lower-case hex: the hash, by the row's algorithm, of all its digests in
            order, over the first of its inputs. The input is the same on every machine, and so is this. Empty in rows
            of version 1 of the format that were carried over.
        driver, framework: as the device names them.
        protocol: version of the measurement protocol.
        commit: of the code that measured.
        date: when, ISO 8601, UTC.
    """

    schema: int
    experiment: str
    model: str
    kernel: str
    variant: str
    strategy: str
    algorithm: str
    device: str
    device_name: str
    device_kind: str
    bytes: int
    chunk_size: int | None
    segments: int
    repeats: int
    seconds_median: float
    seconds_q1: float
    seconds_q3: float
    seconds_min: float
    wall_seconds_median: float
    wall_seconds_q1: float
    wall_seconds_q3: float
    gb_per_s: float
    verified: str
    digest: str
    driver: str
    framework: str
    protocol: str
    commit: str
    date: str

    @property
    def point(self) -> RowPoint:
        """What was measured; measuring the same again replaces the row."""
        return RowPoint(*(getattr(self, name) for name in RowPoint._fields))

    @property
    def gb_per_s_range(self) -> tuple[float, float]:
        """The throughput at the slow and at the fast quartile, in GB/s, with the median's between them."""
        slow, fast = 1e-9 * self.bytes / self.seconds_q3, 1e-9 * self.bytes / self.seconds_q1
        return min(slow, self.gb_per_s), max(fast, self.gb_per_s)  # what is written to a file was rounded

    @property
    def is_reference(self) -> bool:
        """Whether this is what others are compared with: hashlib on one core."""
        return (self.kernel, self.device) == REFERENCE


def _wrong(row: Row) -> str | None:
    digits = 2 * ALGORITHMS[row.algorithm].digest_size
    if row.digest and not re.fullmatch(f"[0-9a-f]{{{digits}}}", row.digest):
        return f"digest is {row.digest!r}; accepted are {digits} lower-case hex digits, or an empty cell"
    return None


FORMAT = Format(
    Row,
    SCHEMA,
    {
        "model": ("", *MODELS),
        "strategy": STRATEGIES,
        "algorithm": tuple(ALGORITHMS),
        "device_kind": ("gpu", "cpu"),
        "verified": EXTENTS,
    },
    _wrong,
)


class ResultsFile(RecordsFile[Row]):
    """The rows of one experiment on one machine, in a file that is written anew with each row.

    Args:
        path: the file; where it does not exist yet, it starts empty.

    Raises:
        ResultsError: there is a file, and `read_rows` refuses it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT)


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file.

    Raises:
        ResultsError: as `Format.read`.
    """
    return FORMAT.read(path)


def rows_path(folder: Path, experiment: str) -> Path:
    """The file of an experiment's rows in a machine's folder."""
    return folder / f"{experiment}.csv"


def rows_files(folder: Path) -> list[Path]:
    """The files of rows in one machine's folder, by name; there may be none."""
    return sorted(file for file in folder.glob("*.csv") if not file.name.endswith(READINGS_SUFFIX))


def experiment_names(folder: Path) -> list[str]:
    """The experiments that have rows or readings in one machine's folder, by name."""
    return sorted({file.name.removesuffix(READINGS_SUFFIX).removesuffix(".csv") for file in folder.glob("*.csv")})


def found_machine_folders(results: Path) -> list[Path]:
    """The folders of machines under `results`, by name; there may be none."""
    return sorted({file.parent for file in results.glob("*/*.csv")} - {results / FIGURES_FOLDER})


def machine_folders(results: Path) -> list[Path]:
    """The folders of machines under `results`, by name.

    Raises:
        ResultsError: there is no such folder, or no machine's results in it.
    """
    if not results.is_dir():
        raise ResultsError(f"{results} is not a folder; accepted is the folder that `hashbench bench` writes to")
    found = found_machine_folders(results)
    if not found:
        raise ResultsError(f"{results} holds no results: run `hashbench bench` first")
    return found


def check_machine(folder: Path, description: Mapping[str, Any]) -> None:
    """Checks that a folder has the results of this machine, or of none yet. Two machines are told apart by their
    processors and by the names of their GPUs. Frameworks call one GPU by several names: one in common is enough.

    Args:
        folder: the machine's folder.
        description: of this machine, as `hashbench.bench.machine.describe` gives it.

    Raises:
        ResultsError: it is another machine's, or its description cannot be read.
    """
    path = folder / MACHINE_FILE
    if not path.exists():
        return
    try:
        theirs, ours = (_hardware(found) for found in (json.loads(path.read_bytes()), description))
    except (OSError, ValueError, KeyError, TypeError):
        raise ResultsError(f"{path} cannot be read: accepted is what `hashbench bench` writes there") from None
    same_gpus = theirs.gpus & ours.gpus or theirs.gpus == ours.gpus
    if theirs.processor != ours.processor or not same_gpus:
        raise ResultsError(
            f"{path} is of another machine, with {theirs}; this one has {ours}: name a folder of its own by --machine"
        )


class _Hardware(NamedTuple):
    processor: str
    gpus: frozenset[str]

    def __str__(self) -> str:
        return f"{self.processor} and {', '.join(sorted(self.gpus)) or 'no GPU'}"


def _hardware(description: Mapping[str, Any]) -> _Hardware:
    """The processor and the GPUs that a machine's description names."""
    cpu = description["cpu"]
    listed = (*description["gpus"], *(device for device in description["devices"] if device["kind"] == "gpu"))
    gpus = frozenset(str(gpu["name"]) for gpu in listed)
    return _Hardware(f"{cpu['name']} ({cpu['logical_cores']} cores)", gpus)


def write_machine(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes a machine's description to its folder.

    Raises:
        ResultsError: it cannot be written.
    """
    write_atomically(folder / MACHINE_FILE, json.dumps(description, indent=2, ensure_ascii=False).encode() + b"\n")
