"""The rows of an experiment on one machine: tidy CSV, one measurement a line, in `results/<machine>/<experiment>.csv`.

The machine's description lies beside them once, in `machine.json`. Every write is atomic: a file is there as it was, or
as it is meant to be.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from hashbench.kernels import ALGORITHMS, STRATEGIES
from hashbench.verification import EXTENTS

SCHEMA = 1
"""The version of the file format: what the columns are and mean."""

REFERENCE = ("hashlib", "1-thread")
"""The kernel and the device that speed-ups are over."""

MACHINE_FILE = "machine.json"
FIGURES_FOLDER = "figures"


class ResultsError(ValueError):
    """A results file or folder cannot be used; the message names it and says what is accepted."""


@dataclass(frozen=True)
class Row:
    """One measurement, with everything needed to repeat it. The fields are the columns, in order.

    Attributes:
        schema: version of the file format.
        experiment: the experiment's name.
        kernel: the kernel's name.
        variant: the kernel's variant.
        strategy: "batched" or "tree".
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
        driver, framework: as the device names them.
        protocol: version of the measurement protocol.
        commit: of the code that measured.
        date: when, ISO 8601, UTC.
    """

    schema: int
    experiment: str
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
    driver: str
    framework: str
    protocol: str
    commit: str
    date: str

    @property
    def point(self) -> tuple[str | int | None, ...]:
        """What was measured; measuring the same again replaces the row."""
        return (*self.point_of_any_device, self.device)

    @property
    def point_of_any_device(self) -> tuple[str | int | None, ...]:
        """What was measured, wherever it was."""
        return (
            self.experiment,
            self.kernel,
            self.variant,
            self.strategy,
            self.algorithm,
            self.bytes,
            self.chunk_size,
            self.segments,
        )

    @property
    def gb_per_s_range(self) -> tuple[float, float]:
        """The throughput at the slow and at the fast quartile, in GB/s, with the median's between them."""
        slow, fast = 1e-9 * self.bytes / self.seconds_q3, 1e-9 * self.bytes / self.seconds_q1
        return min(slow, self.gb_per_s), max(fast, self.gb_per_s)  # what is written to a file was rounded

    @property
    def is_reference(self) -> bool:
        """Whether this is what others are compared with: hashlib on one core."""
        return (self.kernel, self.device) == REFERENCE


COLUMNS = tuple(field.name for field in fields(Row))
_TYPES = get_type_hints(Row)
_WORDS = {"strategy": STRATEGIES, "algorithm": tuple(ALGORITHMS), "device_kind": ("gpu", "cpu"), "verified": EXTENTS}
_ACCEPTED = f"accepted are files of schema {SCHEMA}, as `hashbench bench` writes them"


class ResultsFile:
    """The rows of one experiment on one machine, in a file that is written anew with each row.

    Args:
        path: the file; where it does not exist yet, it starts empty.

    Raises:
        ResultsError: there is a file, and `read_rows` refuses it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows = {row.point: row for row in read_rows(path)} if path.exists() else {}

    @property
    def rows(self) -> list[Row]:
        """All rows of the file."""
        return list(self._rows.values())

    def add(self, row: Row) -> None:
        """Writes the file with `row` in it, in place of an older row of the same point.

        Raises:
            ResultsError: the file cannot be written; it is left as it was.
        """
        rows = self._rows | {row.point: row}
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        lines.writerows(astuple(r) for r in rows.values())
        write_atomically(self.path, text.getvalue().encode())
        self._rows = rows


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file.

    Raises:
        ResultsError: it is missing or unreadable, of another schema, truncated, or not a results file.
    """
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ResultsError(f"{path} is not a results file: it is not text; {_ACCEPTED}") from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from None
    lines = csv.reader(io.StringIO(text))
    try:
        header = tuple(next(lines, []))
        if not header or header[0] != COLUMNS[0]:
            raise ResultsError(f"{path} is not a results file: its first column is not {COLUMNS[0]!r}; {_ACCEPTED}")
        cells = list(lines)
    except csv.Error as error:
        raise ResultsError(f"{path} is not a results file: {error}; {_ACCEPTED}") from None
    for line in cells:  # before the columns, which another schema may have changed
        if line and line[0] != str(SCHEMA):
            raise ResultsError(f"{path} is of schema {line[0]!r}; {_ACCEPTED}")
    if not text.endswith("\n"):
        raise ResultsError(f"{path} is truncated: its last line has no end; {_ACCEPTED}")
    _check_columns(path, header)
    return [_row(f"{path}, line {number}", line) for number, line in enumerate(cells, 2)]


def _check_columns(path: Path, header: Sequence[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    missing = [name for name in COLUMNS if name not in header]
    for what, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise ResultsError(f"{path} has {what} columns: {', '.join(names)}; {_ACCEPTED}")
    if tuple(header) != COLUMNS:
        raise ResultsError(f"{path} has its columns in another order or twice; {_ACCEPTED}")


def _row(place: str, cells: Sequence[str]) -> Row:
    if len(cells) < len(COLUMNS):
        raise ResultsError(f"{place} is truncated: it has {len(cells)} columns of {len(COLUMNS)}; {_ACCEPTED}")
    if len(cells) > len(COLUMNS):
        raise ResultsError(f"{place} has {len(cells)} columns, not {len(COLUMNS)}; {_ACCEPTED}")
    values = {name: _value(place, name, cell) for name, cell in zip(COLUMNS, cells, strict=True)}
    return Row(**values)


def _value(place: str, column: str, cell: str) -> Any:
    kind = _TYPES[column]
    if kind is str:
        accepted = _WORDS.get(column)
        if accepted is not None and cell not in accepted:
            raise ResultsError(f"{place}: {column} is {cell!r}; accepted are {', '.join(accepted)}")
        return cell
    if kind is float:
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ResultsError(f"{place}: {column} is {cell!r}; accepted is a positive number")
        return value
    if kind is not int and cell == "":
        return None
    if not (cell.isascii() and cell.isdigit() and int(cell) > 0):
        raise ResultsError(f"{place}: {column} is {cell!r}; accepted is a positive whole number")
    return int(cell)


def results_files(folder: Path) -> list[Path]:
    """The results files of one machine's folder, by name.

    Raises:
        ResultsError: there is no such folder, or no results file in it.
    """
    if not folder.is_dir():
        raise ResultsError(f"{folder} is not a folder; accepted is a machine's folder, as `hashbench bench` writes it")
    found = sorted(folder.glob("*.csv"))
    if not found:
        raise ResultsError(f"{folder} holds no results: there is no .csv file in it")
    return found


def machine_folders(results: Path) -> list[Path]:
    """The folders of machines under `results`, by name.

    Raises:
        ResultsError: there is no such folder, or no machine's results in it.
    """
    if not results.is_dir():
        raise ResultsError(f"{results} is not a folder; accepted is the folder that `hashbench bench` writes to")
    found = sorted({file.parent for file in results.glob("*/*.csv")})
    if not found:
        raise ResultsError(f"{results} holds no results: run `hashbench bench` first")
    return found


def write_machine(folder: Path, description: Mapping[str, Any]) -> None:
    """Writes a machine's description to its folder.

    Raises:
        ResultsError: it cannot be written.
    """
    write_atomically(folder / MACHINE_FILE, json.dumps(description, indent=2, ensure_ascii=False).encode() + b"\n")


def check_writable(folder: Path) -> None:
    """Makes `folder` where it is missing, and sees that files can be written there.

    Raises:
        ResultsError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultsError(f"results cannot be written to {folder}: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, with the permissions that a new file gets.

    Raises:
        ResultsError: it cannot be written; an older file is left as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)
