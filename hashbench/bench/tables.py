"""The tables that the command line prints: rows and readings of a run, and comparisons of runs."""

from __future__ import annotations

from functools import partial

import pandas as pd

from hashbench.bench.frames import Line, Results, lines
from hashbench.bench.results import REFERENCE
from hashbench.bench.text_table import Columns, Table, Text
from hashbench.hashing.sizes import format_size

_DIGITS, _RANGE, _COUNT = "{:.4g}".format, "{:.4g} .. {:.4g}".format, "{:,}".format


def speed_ups(rows: pd.DataFrame) -> pd.Series[float]:
    """The throughput of each row over hashlib's on one thread for the same algorithm, strategy and chunk size.

    It hardly depends on the size of the input: of several, the reference of the nearest size counts. NaN if `rows` has
    no such reference.
    """
    by = ["experiment", "algorithm", "strategy", "chunk_size"]
    ordered = rows.fillna({"chunk_size": 0}).sort_values("bytes")
    references = ordered[ordered[["kernel", "device"]].eq([*REFERENCE]).all(axis="columns")]
    speeds = references[[*by, "bytes", "gb_per_s"]]
    nearest = pd.merge_asof(ordered, speeds, on="bytes", by=by, direction="nearest", suffixes=("", "_reference"))
    return (nearest["gb_per_s"] / nearest["gb_per_s_reference"]).set_axis(ordered.index).loc[rows.index]


def rows_table(rows: pd.DataFrame) -> Table:
    """Rows of one run: throughput by the device's clock, and how many times that of hashlib on one thread."""
    columns: Columns = {
        **_hashed(rows),
        "GB/s": ("gb_per_s", _DIGITS),
        "quartiles": ("gb_per_s_q1", "gb_per_s_q3", _RANGE),
        "over hashlib": ("speed_up", "{:.3g}x".format),
        "verified": "verified",
    }
    return Table.of(lines(rows.assign(speed_up=speed_ups(rows))), columns)


def readings_table(readings: pd.DataFrame) -> Table:
    """Readings of one run: the median and the quartiles, each in its unit."""
    numbers: Columns = {"median": ("median", _DIGITS), "quartiles": ("q1", "q3", _RANGE)}
    return Table.of(lines(readings), {**_READ, **numbers, **_same("unit", "source", "note")})


def comparison_tables(pairs: Results, base: str, other: str) -> list[Table]:
    """Points of two runs side by side: rows in GB/s, and readings, in their units, in a table of their own."""
    compared: Columns = {
        base: ("value", _DIGITS),
        other if other != base else f"{other} ": ("value_other", _DIGITS),  # both are columns
        "ratio": ("ratio", "{:.3f}".format),
        "beyond the spread": lambda pair: "yes" if pair.beyond_spread else "no",
    }
    of_rows = {**_of_pairs(_hashed(pairs.rows)), **compared}
    of_readings = {**_of_pairs(_READ), **compared, "unit": "unit"}
    return [
        Table.of(lines(part), {"experiment": "experiment", **columns})
        for part, columns in ((pairs.rows, of_rows), (pairs.readings, of_readings))
        if not part.empty
    ]


def summary_table(summary: pd.DataFrame, base: str, other: str) -> Table:
    """The points of two runs, summarized: their ratios, and how many differ beyond the spread."""
    columns: Columns = {
        "experiment": "experiment",
        "kernel or reading": "what",
        "on": lambda group: group.device_kind.upper(),
        "points": ("points", _COUNT),
        "ratio (geometric mean)": ("ratio", "{:.3f}".format),
        "lowest .. highest": ("lowest", "highest", "{:.3f} .. {:.3f}".format),
        "higher": ("higher", _COUNT),
        "lower": ("lower", _COUNT),
        "within the spread": ("points", "higher", "lower", lambda points, *beyond: _COUNT(points - sum(beyond))),
    }
    return Table.of(lines(summary), columns, f"{other} over {base}: throughput of kernels, readings in their units")


def _hashed(rows: pd.DataFrame) -> Columns:
    """What was hashed, and by what."""
    return {
        **(_same("model") if any(rows["model"]) else {}),
        "kernel": lambda row: row.kernel if row.variant == "plain" else f"{row.kernel} {row.variant}",
        # The device's name, and the number of threads where the id gives one.
        "device": lambda row: f"{row.device_name}, {row.device}" if "thread" in row.device else row.device_name,
        **_same("strategy", "algorithm"),
        "size": ("bytes", format_size),
        "segments": ("segments", _COUNT),
        "chunk": ("chunk_size", format_size),
    }


def _same(*names: str) -> Columns:
    """Columns that are called as the attributes are."""
    return dict(zip(names, names, strict=True))


_READ: Columns = {
    **_same("subject", "quantity"),
    "conditions": "how",
    "algorithm": "algorithm",
    "device": lambda reading: reading.device_name,
}
"""What was read, and of which device."""


def _of_pairs(columns: Columns) -> Columns:
    """The columns for pairs, with the texts of both sides."""
    return {name: partial(_both, text) if callable(text) else text for name, text in columns.items()}


def _both(text: Text, pair: Line) -> str:
    """The text of both sides of a pair; one of them where they are the same."""
    others = {name.removesuffix("_other"): v for name, v in pair._asdict().items() if name.endswith("_other")}
    return "\nand ".join(dict.fromkeys((text(pair), text(pair._replace(**others)))))
