"""Results as pandas DataFrames: every row and reading of an experiment, a machine or a run, with computed columns.

This is the one place where files of results are read for comparison, figures and verdicts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.records import ResultsError, Tell, refuse
from hashbench.bench.results import ROWS, Row, machine_folders

Line = Any
"""One line of a DataFrame: the columns are its attributes."""

SPEED = ("gb_per_s_q1", "gb_per_s", "gb_per_s_q3")
SECONDS = ("seconds_q1", "seconds_median", "seconds_q3")
WALL_SECONDS = ("wall_seconds_q1", "wall_seconds_median", "wall_seconds_q3")
VALUES = ("q1", "median", "q3")
"""Columns with the lower quartile, the median and the upper quartile: of rows, and of readings."""

LANE = ["kernel", "variant", "device"]
"""The columns that tell one line or bar of a figure from another."""

INPUT = ["experiment", "model", "strategy", "algorithm", "bytes", "chunk_size", "segments"]
"""The columns that say what was hashed, and how: rows that agree in them must have the same digest."""

_DTYPES: dict[str, Any] = {"str": object, "int": "int64", "int | None": "Int64", "float": "float64", "Samples": object}


@dataclass(frozen=True)
class Results:
    """Measurements of one or several experiments and machines.

    Attributes:
        rows: a column per field of `Row`; `machine`, the name of the machine's folder; the quartiles of the throughput
            (`gb_per_s_q1` is the slow one); and `wall_gb_per_s`, the throughput by the wall clock.
        readings: a column per field of `Reading`; `machine`; and `how`, the conditions as one phrase.
    """

    rows: pd.DataFrame
    readings: pd.DataFrame

    @classmethod
    def of(cls, rows: Iterable[Row] = (), readings: Iterable[Reading] = (), machine: str = "") -> Results:
        """The results of one machine, from its records."""
        readings = list(readings)
        measured = _frame(Row, list(rows), machine)
        slow, fast = (1e-9 * measured["bytes"] / measured[name] for name in ("seconds_q3", "seconds_q1"))
        return cls(
            measured.assign(
                # Values in a file are rounded: the quartiles of a throughput may round past its median.
                gb_per_s_q1=np.minimum(slow, measured["gb_per_s"]),
                gb_per_s_q3=np.maximum(fast, measured["gb_per_s"]),
                wall_gb_per_s=1e-9 * measured["bytes"] / measured["wall_seconds_median"],
            ),
            _frame(Reading, readings, machine).assign(how=pd.Series([one.how for one in readings], dtype=object)),
        )

    @property
    def empty(self) -> bool:
        """Whether there is neither a row nor a reading."""
        return self.rows.empty and self.readings.empty

    @property
    def machines(self) -> list[str]:
        """The names of the machines, sorted."""
        return sorted({*self.rows["machine"], *self.readings["machine"]})


def together(parts: Iterable[Results]) -> Results:
    """Several results as one, machine by machine."""
    parts = list(parts) or [Results.of()]
    return Results(_by_machine(part.rows for part in parts), _by_machine(part.readings for part in parts))


def read_experiment(results: Path, experiment: str, tell: Tell = refuse) -> Results:
    """The results of one experiment on every machine under `results`.

    Args:
        results: the folder of results.
        experiment: the experiment's name.
        tell: is told of folders and files that cannot be used.

    Raises:
        ResultsError: there is no machine's folder.
    """
    return together(read_machine(folder, experiment, folder.name, tell) for folder in machine_folders(results, tell))


def read_machine(folder: Path, experiment: str, machine: str = "", tell: Tell = refuse) -> Results:
    """The results of one experiment in a machine's folder.

    Args:
        folder: the machine's folder.
        experiment: the experiment's name.
        machine: the name of the machine, as the results give it.
        tell: is told of files that cannot be used.
    """
    files = (form.path(folder, experiment) for form in (ROWS, READINGS))
    return together(_read_files([file for file in files if os.path.lexists(file)], tell, machine))


def read_run(path: Path, tell: Tell = refuse) -> Results:
    """The results in a machine's folder, or in one file of results.

    Args:
        path: the folder or file.
        tell: is told of files in the folder that cannot be used.

    Raises:
        ResultsError: there are none, or the file cannot be used.
    """
    found = together(_read_files(sorted(path.glob("*.csv")), tell) if path.is_dir() else _read_files([path], refuse))
    if found.empty:
        raise ResultsError(f"{path} has no rows or readings: nothing has been measured there yet")
    return found


def _read_files(files: Iterable[Path], tell: Tell, machine: str = "") -> Iterator[Results]:
    """The results in each of `files`, without those that cannot be used."""
    for file in files:
        try:
            if file.name.endswith(READINGS.suffix):
                yield Results.of(readings=READINGS.read(file), machine=machine)
            else:
                yield Results.of(ROWS.read(file), machine=machine)
        except ResultsError as problem:
            tell(problem)


def joined(*frames: pd.DataFrame) -> pd.DataFrame:
    """The lines of several DataFrames. One without lines has no say in the types of the columns."""
    return pd.concat([frame for frame in frames if not frame.empty] or frames[:1])


def as_speeds(readings: pd.DataFrame) -> pd.DataFrame:
    """Readings in GB/s, with the columns in which rows have their throughput."""
    return readings.assign(**{name: readings[column] for name, column in zip(SPEED, VALUES, strict=True)})


def lines(frame: pd.DataFrame) -> Iterator[Line]:
    """The lines of a DataFrame."""
    return iter(frame.itertuples())


def highest(frame: pd.DataFrame, column: str) -> Line:
    """The line with the highest value in a column; of several, the first."""
    return next(lines(frame.nlargest(1, column)))


def where(line: Line) -> str:
    """The kernel and the device of a row, for a reader."""
    return f"{line.kernel} on {line.device_name}"


def with_twins(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a digest, and those of the same input: whatever the kernel and the device, digests must be equal.

    Returns:
        The rows, in order, with three more columns: `input`, a number; `twins`, how many rows are of that input; and
        `equal`, whether all their digests are equal. If they are not, digests alone do not tell which one is right.
    """
    known = rows[rows["digest"] != ""]
    inputs = known.groupby(INPUT, dropna=False, sort=False)
    return known.assign(
        input=inputs.ngroup(),
        twins=inputs["digest"].transform("size"),
        equal=inputs["digest"].transform("nunique") == 1,
    )


def _by_machine(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    return joined(*frames).sort_values("machine", kind="stable", ignore_index=True)


def _frame(kind: type[Row] | type[Reading], records: Sequence[Row | Reading], machine: str) -> pd.DataFrame:
    columns = {
        field.name: pd.Series([getattr(record, field.name) for record in records], dtype=_DTYPES[str(field.type)])
        for field in fields(kind)
    }
    return pd.DataFrame({"machine": pd.Series([machine] * len(records), dtype=object), **columns})
