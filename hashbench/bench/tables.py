"""The tables that the command line prints: rows and readings of a run, and comparisons of runs."""

from __future__ import annotations

import pandas as pd

from hashbench.bench.frames import Line, Results, lines
from hashbench.bench.results import REFERENCE
from hashbench.bench.text_table import Columns, Table, Text
from hashbench.hashing.sizes import format_size


def speed_ups(rows: pd.DataFrame) -> pd.Series[float]:
    """The throughput of each row over hashlib's on one thread for the same algorithm, strategy and chunk size.

    It hardly depends on the size of the input: of several, the reference of the nearest size counts. NaN if `rows` has
    no such reference.
    """
    by = ["experiment", "algorithm", "strategy", "chunk_size"]
    columns = rows[[*by, "bytes", "gb_per_s"]].fillna({"chunk_size": 0}).reset_index(names="place").sort_values("bytes")
    is_reference = (rows["kernel"] == REFERENCE[0]) & (rows["device"] == REFERENCE[1])
    references = columns[is_reference.loc[columns["place"]].values]
    nearest = pd.merge_asof(
        columns, references, on="bytes", by=by, direction="nearest", suffixes=("", "_reference")
    ).set_index("place")
    return (nearest["gb_per_s"] / nearest["gb_per_s_reference"]).loc[rows.index]


def rows_table(rows: pd.DataFrame) -> Table:
    """Rows of one run: throughput by the device's clock, and how many times that of hashlib on one thread."""
    facts = {**_models(rows), "kernel": _kernel, "device": _device, **_same("strategy", "algorithm"), **_SIZES}
    numbers = {
        "GB/s": ("gb_per_s", _DIGITS),
        "quartiles": ("gb_per_s_q1", "gb_per_s_q3", _RANGE),
        "over hashlib": ("speed_up", "{:.3g}x".format),
    }
    shown = rows.assign(speed_up=speed_ups(rows))
    return Table.of(lines(shown), {**facts, **numbers, "verified": "verified"})


def readings_table(readings: pd.DataFrame) -> Table:
    """Readings of one run: the median and the quartiles, each in its unit."""
    numbers = {"median": ("median", _DIGITS), "quartiles": ("q1", "q3", _RANGE)}
    return Table.of(lines(readings), {**_READ, "device": "device_name", **numbers, **_same("unit", "source", "note")})


def comparison_tables(pairs: Results, base: str, other: str) -> list[Table]:
    """Points of two runs side by side: rows in GB/s, and readings, in their units, in a table of their own."""
    compared: Columns = {
        base: ("value", _DIGITS),
        other if other != base else f"{other} ": ("value_other", _DIGITS),  # both are columns
        "ratio": ("ratio", "{:.3f}".format),
        "beyond the spread": lambda pair: "yes" if pair.beyond_spread else "no",
    }
    of_rows = {**_models(pairs.rows), "kernel": _both(_kernel), "device": _both(_device)}
    of_rows |= {**_same("strategy", "algorithm"), **_SIZES, **compared}
    of_readings = {**_READ, "device": _both(lambda reading: reading.device_name), **compared, "unit": "unit"}
    return [
        Table.of(lines(part), {"experiment": "experiment", **columns})
        for part, columns in ((pairs.rows, of_rows), (pairs.readings, of_readings))
        if not part.empty
    ]


def summary_table(summary: pd.DataFrame, base: str, other: str) -> Table:
    """The points of two runs, summarized: their ratios, and how many differ beyond the spread."""
    within = summary["points"] - summary["higher"] - summary["lower"]
    columns: Columns = {
        "experiment": "experiment",
        "kernel or reading": "what",
        "on": lambda group: group.device_kind.upper(),
        "points": ("points", _COUNT),
        "ratio (geometric mean)": ("ratio", "{:.3f}".format),
        "lowest .. highest": ("lowest", "highest", "{:.3f} .. {:.3f}".format),
        "higher": ("higher", _COUNT),
        "lower": ("lower", _COUNT),
        "within the spread": ("within", _COUNT),
    }
    title = f"{other} over {base}: throughput of kernels, readings in their units"
    return Table.of(lines(summary.assign(within=within)), columns, title)


def _same(*names: str) -> Columns:
    """Columns that are called as the attributes are."""
    return dict(zip(names, names, strict=True))


_DIGITS, _RANGE, _COUNT = "{:.4g}".format, "{:.4g} .. {:.4g}".format, "{:,}".format

_SIZES: Columns = {
    "size": ("bytes", format_size),
    "segments": ("segments", _COUNT),
    "chunk": ("chunk_size", format_size),
}
_READ: Columns = {**_same("subject", "quantity"), "conditions": "how", "algorithm": "algorithm"}


def _models(rows: pd.DataFrame) -> Columns:
    return _same("model") if any(rows["model"]) else {}


def _kernel(row: Line) -> str:
    return row.kernel if row.variant == "plain" else f"{row.kernel} {row.variant}"


def _device(row: Line) -> str:
    """The device's name, and the number of threads where the id gives one."""
    return f"{row.device_name}, {row.device}" if "thread" in row.device else row.device_name


def _both(text: Text) -> Text:
    """The text of both sides of a pair; one of them where they are the same."""

    def of_pair(pair: Line) -> str:
        others = {name.removesuffix("_other"): v for name, v in pair._asdict().items() if name.endswith("_other")}
        return "\nand ".join(dict.fromkeys((text(pair), text(pair._replace(**others)))))

    return of_pair
