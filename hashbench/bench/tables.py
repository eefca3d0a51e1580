"""What the command line prints of results: rows, readings, and comparisons of runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import pandas as pd
from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from hashbench.bench.frames import Results
from hashbench.bench.results import REFERENCE
from hashbench.hashing.sizes import format_size

_WIDE = 200
"""Columns of a table that goes to a file or a pipe."""

Texts = Iterable[str]
Columns = Mapping[str, Texts]
"""The cells of each column, by its name."""


def print_table(table: RenderableType) -> None:
    """Prints a table, or several, on standard output."""
    console = Console()
    (console if console.is_terminal else Console(width=_WIDE)).print(table)


def text_table(columns: Columns, numeric: Collection[str], title: str = "") -> Table:
    """A table of plain texts.

    Args:
        columns: the cells of each column, by its name.
        numeric: names of the columns to align to the right.
        title: above the table.
    """
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, title_justify="left")
    table.title = escape(title) if title else None
    for name in columns:
        table.add_column(escape(name.rstrip()), justify="right" if name in numeric else "left", overflow="fold")
    for line in zip(*columns.values(), strict=True):
        table.add_row(*map(escape, line))
    return table


def rows_table(rows: pd.DataFrame) -> Table:
    """Rows of one run: throughput by the device's clock, and how many times that of hashlib on one thread."""
    numbers: Columns = {
        **_sizes(rows),
        "GB/s": rows["gb_per_s"].map("{:.4g}".format),
        "quartiles": _range(rows, "gb_per_s_q1", "gb_per_s_q3"),
        "over hashlib": speed_ups(rows).map("{:.3g}x".format).where(speed_ups(rows).notna(), ""),
    }
    facts: Columns = {"kernel": _kernels(rows), "device": _devices(rows), "strategy": rows["strategy"]}
    columns = {**_models(rows), **facts, "algorithm": rows["algorithm"], **numbers, "verified": rows["verified"]}
    return text_table(columns, numbers)


def readings_table(readings: pd.DataFrame) -> Table:
    """Readings of one run: the median and the quartiles, each in its unit."""
    numbers = {"median": readings["median"].map("{:.4g}".format), "quartiles": _range(readings, "q1", "q3")}
    facts = {**_named(readings, "subject", "quantity", conditions="how"), "algorithm": readings["algorithm"]}
    rest = _named(readings, "unit", "source", "note")
    return text_table({**facts, "device": readings["device_name"], **numbers, **rest}, numbers)


def speed_ups(rows: pd.DataFrame) -> pd.Series[float]:
    """The throughput of each row over hashlib's on one thread for the same algorithm, strategy and chunk size.

    It hardly depends on the size of the input: of several, the reference of the nearest size counts. NaN if `rows` has
    no such reference.
    """
    by = ["experiment", "algorithm", "strategy", "chunk_size"]
    columns = rows[[*by, "bytes", "gb_per_s"]].fillna({"chunk_size": 0}).reset_index(names="place").sort_values("bytes")
    references = columns[
        ((rows["kernel"] == REFERENCE[0]) & (rows["device"] == REFERENCE[1])).loc[columns["place"]].values
    ]
    nearest = pd.merge_asof(
        columns, references, on="bytes", by=by, direction="nearest", suffixes=("", "_reference")
    ).set_index("place")
    return (nearest["gb_per_s"] / nearest["gb_per_s_reference"]).loc[rows.index]


def comparisons_table(pairs: Results, base: str, other: str) -> RenderableType:
    """Points of two runs side by side: rows in GB/s, and readings, in their units, in a table of their own."""
    tables = []
    if not (rows := pairs.rows).empty:
        facts = {"kernel": _both(rows, _kernels), "device": _both(rows, _devices)}
        what = {"experiment": rows["experiment"], **_models(rows), **facts, **_named(rows, "strategy", "algorithm")}
        tables.append(_compared(rows, {**what, **_sizes(rows)}, _sizes(rows), base, other))
    if not (readings := pairs.readings).empty:
        facts = {"device": _both(readings, lambda side: side["device_name"])}
        what = {
            **_named(readings, "experiment", "subject", "quantity", conditions="how"),
            "algorithm": readings["algorithm"],
        }
        tables.append(_compared(readings, {**what, **facts}, (), base, other, unit=readings["unit"]))
    return Group(*tables)


def _compared(
    pairs: pd.DataFrame, what: Columns, sizes: Collection[str], base: str, other: str, **rest: Texts
) -> Table:
    """What was compared, both values, their ratio, and whether they differ beyond the spread."""
    numbers = [pairs[name].map("{:.4g}".format) for name in ("value", "value_other")]
    verdicts = {"beyond the spread": pairs["beyond_spread"].map({True: "yes", False: "no"}), **rest}
    names = (base, other) if base != other else (base, f"{other} ")  # both are columns
    columns = {**what, **dict(zip(names, numbers, strict=True)), "ratio": pairs["ratio"].map("{:.3f}".format)}
    return text_table({**columns, **verdicts}, {*sizes, *names, "ratio"})


def summaries_table(summaries: pd.DataFrame, base: str, other: str) -> Table:
    """The points of two runs, summarized: their ratios, and how many differ beyond the spread."""
    within = summaries["points"] - summaries["higher"] - summaries["lower"]
    facts = {"experiment": summaries["experiment"], "kernel or reading": summaries["what"]}
    numbers = {
        "points": summaries["points"].map("{:,}".format),
        "ratio (geometric mean)": summaries["ratio"].map("{:.3f}".format),
        "lowest .. highest": _range(summaries, "lowest", "highest", "{:.3f}"),
        "higher": summaries["higher"].map("{:,}".format),
        "lower": summaries["lower"].map("{:,}".format),
        "within the spread": within.map("{:,}".format),
    }
    title = f"{other} over {base}: throughput of kernels, readings in their units"
    return text_table({**facts, "on": summaries["device_kind"].str.upper(), **numbers}, numbers, title)


def _both(pairs: pd.DataFrame, texts: Callable[[pd.DataFrame], Texts]) -> list[str]:
    """The texts of both sides of each pair; one of them where they are the same."""
    others = pairs.filter(regex="_other$").rename(columns=lambda name: name.removesuffix("_other"))
    other = pairs.drop(columns=list(others.columns), errors="ignore").join(others)
    return ["\nand ".join(dict.fromkeys(pair)) for pair in zip(texts(pairs), texts(other), strict=True)]


def _named(frame: pd.DataFrame, *same: str, **others: str) -> Columns:
    """Columns of a frame by the names that a table gives them."""
    return {name: frame[column] for name, column in [*zip(same, same, strict=True), *others.items()]}


def _models(rows: pd.DataFrame) -> Columns:
    return {"model": rows["model"]} if any(rows["model"]) else {}


def _kernels(rows: pd.DataFrame) -> list[str]:
    names = zip(rows["kernel"], rows["variant"], strict=True)
    return [kernel if variant == "plain" else f"{kernel} {variant}" for kernel, variant in names]


def _devices(rows: pd.DataFrame) -> list[str]:
    """The devices' names, and the number of threads where the id gives one."""
    names = zip(rows["device_name"], rows["device"], strict=True)
    return [f"{name}, {device}" if "thread" in device else name for name, device in names]


def _sizes(rows: pd.DataFrame) -> Columns:
    return {
        "size": rows["bytes"].map(format_size),
        "segments": rows["segments"].map("{:,}".format),
        "chunk": rows["chunk_size"].map(lambda size: "" if pd.isna(size) else format_size(size)),
    }


def _range(frame: pd.DataFrame, low: str, high: str, form: str = "{:.4g}") -> Texts:
    return frame[low].map(form.format) + " .. " + frame[high].map(form.format)
