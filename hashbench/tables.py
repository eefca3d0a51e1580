"""What the command line prints of results: rows, readings, and comparisons of rows."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hashbench.comparison import Comparison, Summary
from hashbench.readings import Reading
from hashbench.results import Row
from hashbench.sizes import format_size

_WIDE = 200
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""


def print_table(table: Table) -> None:
    """Prints a table on standard output."""
    console = Console()
    (console if console.is_terminal else Console(width=_WIDE)).print(table)


def rows_table(rows: Sequence[Row]) -> Table:
    """Rows of one run: throughput by the device's clock, and how many times that of hashlib on one thread it is."""
    table = _table()
    models = any(row.model for row in rows)
    for name in (*(["model"] if models else []), "kernel", "device", "strategy", "algorithm"):
        table.add_column(name, overflow="fold")
    for name in ("size", "segments", "chunk", "GB/s", "quartiles", "over hashlib"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verified")
    for row in rows:
        slow, fast = row.gb_per_s_range
        speed_up = speed_up_over_reference(row, rows)
        table.add_row(
            *([row.model] if models else []),
            _kernel(row),
            _device(row),
            row.strategy,
            row.algorithm,
            format_size(row.bytes),
            f"{row.segments:,}",
            _chunk(row),
            f"{row.gb_per_s:.4g}",
            f"{slow:.4g} .. {fast:.4g}",
            "" if speed_up is None else f"{speed_up:.3g}x",
            row.verified,
        )
    return table


def readings_table(readings: Sequence[Reading]) -> Table:
    """Readings of one run: the median and the quartiles, in each one's unit."""
    table = _table()
    for name in ("subject", "quantity", "conditions", "algorithm", "device"):
        table.add_column(name, overflow="fold")
    for name in ("median", "quartiles"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    for name in ("source", "note"):
        table.add_column(name, overflow="fold")
    for reading in readings:
        texts = (reading.subject, reading.quantity, reading.conditions, reading.algorithm, reading.device_name)
        table.add_row(
            *map(escape, texts),
            f"{reading.median:.4g}",
            f"{reading.q1:.4g} .. {reading.q3:.4g}",
            *map(escape, (reading.unit, reading.source, reading.note)),
        )
    return table


def speed_up_over_reference(row: Row, rows: Sequence[Row]) -> float | None:
    """The throughput of `row` over that of hashlib on one thread, for the same algorithm, strategy and chunk size. It
    hardly depends on the size of the input; among several the nearest counts. None where `rows` holds none.
    """
    same = [
        r
        for r in rows
        if r.is_reference
        and (r.experiment, r.algorithm, r.strategy, r.chunk_size)
        == (row.experiment, row.algorithm, row.strategy, row.chunk_size)
    ]
    if not same:
        return None
    return row.gb_per_s / min(same, key=lambda r: abs(r.bytes - row.bytes)).gb_per_s


def comparisons_table(comparisons: Sequence[Comparison], base: str, other: str) -> Table:
    """Points of two runs side by side, each in GB/s."""
    table = _table()
    models = any(pair.base.model for pair in comparisons)
    for name in ("experiment", *(["model"] if models else []), "kernel", "device", "strategy", "algorithm"):
        table.add_column(name)
    for name in ("size", "segments", "chunk", escape(base), escape(other), "ratio"):
        table.add_column(name, justify="right")
    table.add_column("beyond the spread")
    for pair in comparisons:
        row = pair.base
        table.add_row(
            row.experiment,
            *([row.model] if models else []),
            _kernel(row),
            "\nand ".join(dict.fromkeys((_device(row), _device(pair.other)))),
            row.strategy,
            row.algorithm,
            format_size(row.bytes),
            f"{row.segments:,}",
            _chunk(row),
            f"{pair.base.gb_per_s:.4g}",
            f"{pair.other.gb_per_s:.4g}",
            f"{pair.ratio:.3f}",
            "yes" if pair.beyond_spread else "no",
        )
    return table


def summaries_table(summaries: Sequence[Summary], base: str, other: str) -> Table:
    """What the points of two runs come to: ratios of throughput, and how many differ beyond the spread."""
    table = _table()
    table.title = escape(f"throughput of {other} over that of {base}")
    table.title_justify = "left"
    for name in ("experiment", "kernel", "on"):
        table.add_column(name, overflow="fold")
    for name in ("points", "ratio (geometric mean)", "lowest .. highest", "faster", "slower", "within the spread"):
        table.add_column(name, justify="right")
    for summary in summaries:
        points = len(summary.ratios)
        table.add_row(
            summary.experiment,
            summary.kernel,
            summary.device_kind.upper(),
            f"{points:,}",
            f"{summary.ratio:.3f}",
            f"{min(summary.ratios):.3f} .. {max(summary.ratios):.3f}",
            f"{summary.faster:,}",
            f"{summary.slower:,}",
            f"{points - summary.faster - summary.slower:,}",
        )
    return table


def _kernel(row: Row) -> str:
    return row.kernel if row.variant == "plain" else f"{row.kernel} {row.variant}"


def _device(row: Row) -> str:
    """The device's name, and the number of threads where its id gives one."""
    return escape(f"{row.device_name}, {row.device}" if "thread" in row.device else row.device_name)


def _chunk(row: Row) -> str:
    return "" if row.chunk_size is None else format_size(row.chunk_size)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
