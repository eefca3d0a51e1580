"""The folder of results: one folder per machine, with its rows, readings, figures and description.

`results/<machine>/<experiment>.csv` holds rows, the measurements of this project's kernels;
`<experiment>.readings.csv` holds readings, all other measurements; `machine.json` describes the machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hashbench.bench.inventories import MODELS
from hashbench.bench.output_check import COVERAGES
from hashbench.bench.readings import READINGS
from hashbench.bench.records import Format, ResultsError, Samples, Tell, check_text, read_file, refuse
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import ALGORITHMS, STRATEGIES
from hashbench.model.strict_json import StrictJsonError, loads, quoted

SCHEMA = 3
"""The version of the file format. Version 1 had no `model` and no `digest`, version 2 no samples."""

REFERENCE = ("hashlib", "1-thread")
"""The kernel and the device that speed-ups are relative to: hashlib on one core."""

MACHINE_FILE = "machine.json"

_LARGEST_DESCRIPTION = 1 << 20

FIGURES_FOLDER = "figures"
"""In a machine's folder for its own figures; beside the machines' folders for figures of all machines."""


class RowPoint(NamedTuple):
    """What a row measures: a new row with the same values in these columns replaces it."""

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
    """One measurement of a kernel, with everything needed to repeat it. The fields are the columns, in order.

    Attributes:
        schema: the version of the file format.
        experiment: the experiment's name.
        model: the inventory (`hashbench.bench.inventories`) that the segments belong to; empty if there is none.
        kernel: the kernel's name.
        variant: the kernel's variant.
        strategy: "batched", "leaves" or "tree".
        algorithm: "sha256" or "sha384".
        device: the device's id, unique for its kernel.
        device_name: the device's own name.
        device_kind: "gpu" or "cpu".
        bytes: input bytes, over all segments.
        chunk_size: bytes per chunk; None (an empty cell) if each segment was one message.
        segments: number of segments.
        repeats: number of timed runs.
        seconds_median, seconds_q1, seconds_q3, seconds_min: seconds per run by the device's clock.
        wall_seconds_median, wall_seconds_q1, wall_seconds_q3: wall-clock seconds of the same runs.
        gb_per_s: input bytes over seconds_median, in 1e9 bytes per second.
        verified: "all" or "sample": how much of the output was checked against hashlib before timing.
        digest: what was computed, as lower-case hex: the hash, by the row's algorithm, of all digests in order, for the
            first of the inputs. The inputs are the same on every machine, and so is this. Empty in rows that were
            migrated from version 1 of the format.
        driver, framework: as the device names them.
        protocol: the version of the measurement protocol.
        commit: the commit of the code that measured.
        date: ISO 8601, UTC.
        seconds_samples, wall_seconds_samples: the seconds of each run, in order. Empty in rows that were migrated from
            earlier versions of the format.
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
    seconds_samples: Samples = ()
    wall_seconds_samples: Samples = ()

    @property
    def point(self) -> RowPoint:
        """Identifies what was measured."""
        return RowPoint(*(getattr(self, name) for name in RowPoint._fields))


def _problem(row: Row) -> str | None:
    if row.chunk_size is None and row.strategy != "batched":
        return f"chunk_size is empty; accepted is that where each segment was one message, not for {row.strategy!r}"
    digits = 2 * ALGORITHMS[row.algorithm].digest_size
    if row.digest and not re.fullmatch(f"[0-9a-f]{{{digits}}}", row.digest):
        return f"digest is {row.digest!r}; accepted are {digits} lower-case hex digits, or an empty cell"
    for name in ("seconds_samples", "wall_seconds_samples"):
        if (count := len(getattr(row, name))) not in (0, row.repeats):
            return f"{name} has {count} values; accepted are {row.repeats}, one per run, or an empty cell"
    return None


ROWS = Format(
    Row,
    SCHEMA,
    {
        "model": ("", *MODELS),
        "strategy": STRATEGIES,
        "algorithm": tuple(ALGORITHMS),
        "device_kind": ("gpu", "cpu"),
        "verified": COVERAGES,
    },
    _problem,
)
"""The files of rows."""


def rows_files(folder: Path) -> list[Path]:
    """The files of rows in a machine's folder, by name."""
    return sorted(file for file in folder.glob("*.csv") if not file.name.endswith(READINGS.suffix))


def experiment_names(folder: Path, tell: Tell = refuse) -> list[str]:
    """The experiments that have rows or readings in a machine's folder, by name.

    Args:
        folder: the machine's folder.
        tell: is told of files with names that cannot be shown.
    """
    found = set()
    for file in sorted(folder.glob("*.csv")):
        try:
            check_text("the name of a file of results", file.name)
            found.add(file.name.removesuffix(READINGS.suffix).removesuffix(ROWS.suffix))
        except ResultsError as problem:
            tell(problem)
    return sorted(found)


def found_machine_folders(results: Path, tell: Tell = refuse) -> list[Path]:
    """The machines' folders under `results`, by name.

    Args:
        results: the folder of results.
        tell: is told of folders that are links or have names that cannot be shown.
    """
    found = []
    for folder in sorted(results.glob("*")):
        if folder.name != FIGURES_FOLDER and next(folder.glob("*.csv"), None):
            try:
                if folder.is_symlink():
                    raise ResultsError(f"{folder} is not accepted: it is a link")
                check_text("the name of a machine's folder", folder.name)
                found.append(folder)
            except ResultsError as problem:
                tell(problem)
    return found


def machine_folders(results: Path, tell: Tell = refuse) -> list[Path]:
    """The machines' folders under `results`, by name.

    Args:
        results: the folder of results.
        tell: as for `found_machine_folders`.

    Raises:
        ResultsError: `results` is not a folder, or holds no results.
    """
    if not results.is_dir():
        raise ResultsError(f"{results} is not a folder; accepted is the folder that `hashbench bench` writes to")
    found = found_machine_folders(results, tell)
    if not found:
        raise ResultsError(f"{results} holds no results: run `hashbench bench` first")
    return found


def figures_folder(folder: Path) -> Path:
    """The folder of figures in a machine's folder, or in the folder of results.

    Raises:
        ResultsError: it is a link.
    """
    figures = folder / FIGURES_FOLDER
    if figures.is_symlink():
        raise ResultsError(f"{figures} is not accepted: it is a link")
    return figures


def read_description(folder: Path) -> Mapping[str, Any]:
    """A machine's description, of which nothing is known but that it is a JSON object.

    Raises:
        ResultsError: it is none, or cannot be read.
    """
    path = folder / MACHINE_FILE
    try:
        description = loads(read_file(path, _LARGEST_DESCRIPTION), max_depth=20, floats=True)
    except StrictJsonError as error:
        raise ResultsError(f"{path} is not a machine's description: {error}") from None
    if not isinstance(description, dict):
        raise ResultsError(f"{path} is not a machine's description: it is not a JSON object")
    return description


def check_machine(folder: Path, description: Mapping[str, Any]) -> None:
    """Checks that a folder does not hold results of another machine.

    Machines are told apart by their processors and the names of their GPUs. Frameworks give one GPU different names, so
    one name in common is enough. Processors of several generations have one name in virtual machines, so all that
    distinguishes them counts too, as far as both descriptions tell: those of earlier versions tell less.

    Args:
        folder: the machine's folder.
        description: this machine, as `hashbench.bench.machine.describe` describes it.

    Raises:
        ResultsError: the folder belongs to another machine, or its description cannot be read.
    """
    path = folder / MACHINE_FILE
    if not os.path.lexists(path):
        return
    try:
        theirs, ours = (_hardware(found) for found in (read_description(folder), description))
    except (KeyError, TypeError):
        raise ResultsError(f"{path} is not a machine's description, as `hashbench bench` writes it") from None
    known = [name for name in _TELLING if None not in (theirs.telling[name], ours.telling[name])]
    differing = [name for name in known if theirs.telling[name] != ours.telling[name]]
    same_gpus = theirs.gpus & ours.gpus or theirs.gpus == ours.gpus
    if theirs.processor != ours.processor or differing or not same_gpus:
        theirs_is, ours_is = (hardware.phrase(differing) for hardware in (theirs, ours))
        raise ResultsError(
            f"{path} describes another machine, with {theirs_is}; this one has {ours_is}: choose another with --machine"
        )


_TELLING = ("family", "model", "stepping", "sha_instructions", "vector_instructions", "cache_bytes")
"""What a description says of its processor that tells it from others of the same name and number of cores."""


class _Hardware(NamedTuple):
    """What tells machines apart: the processor's name and number of cores, the values of `_TELLING` by name, and the
    names of the GPUs."""

    processor: str
    telling: Mapping[str, Any]
    gpus: frozenset[str]

    def phrase(self, differing: Sequence[str]) -> str:
        """In words, with those values of `telling` alone that differ."""
        values = (f", {name.replace('_', ' ')} {_plain(self.telling[name])}" for name in differing)
        return f"{self.processor}{''.join(values)} and {', '.join(sorted(self.gpus)) or 'no GPU'}"


def _plain(value: object) -> str:
    return quoted(value).strip("[]{}").replace("'", "") or "none"


def _hardware(description: Mapping[str, Any]) -> _Hardware:
    """The processor and the GPUs that a machine's description names."""
    cpu = description["cpu"]
    processor = f"{cpu['name']} ({cpu['logical_cores']} cores)"
    listed = (*description["gpus"], *(device for device in description["devices"] if device["kind"] == "gpu"))
    gpus = frozenset(str(gpu["name"]) for gpu in listed)
    return _Hardware(processor, {name: cpu.get(name) for name in _TELLING}, gpus)


def write_machine(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes a machine's description to its folder.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(folder / MACHINE_FILE, json.dumps(description, indent=2, ensure_ascii=False).encode() + b"\n")
