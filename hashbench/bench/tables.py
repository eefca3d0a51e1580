"""What the command line prints of results: rows, readings, and comparisons of both."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from hashbench.bench.comparison import Comparison, Summary, value_of
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.hashing.sizes import format_size

_WIDE = 200
"""Columns of a table that goes to a file or a pipe, where there is no terminal to ask."""


def print_table(table: RenderableType) -> None:
    """Prints a table, or several, on standard output."""
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


def comparisons_table(comparisons: Sequence[Comparison], base: str, other: str) -> RenderableType:
    """Points of two runs side by side: rows in GB/s, and readings, in their units, in a table of their own."""
    of_rows = [(p, p.base, p.other) for p in comparisons if isinstance(p.base, Row) and isinstance(p.other, Row)]
    of_readings = [(pair, pair.base) for pair in comparisons if isinstance(pair.base, Reading)]
    tables = []
    if of_rows:
        tables.append(_pairs_of_rows(of_rows, base, other))
    if of_readings:
        tables.append(_pairs_of_readings(of_readings, base, other))
    return Group(*tables)


def _pairs_of_rows(pairs: Sequence[tuple[Comparison, Row, Row]], base: str, other: str) -> Table:
    table = _table()
    models = any(row.model for _, row, _ in pairs)
    for name in ("experiment", *(["model"] if models else []), "kernel", "device", "strategy", "algorithm"):
        table.add_column(name)
    for name in ("size", "segments", "chunk", escape(base), escape(other), "ratio"):
        table.add_column(name, justify="right")
    table.add_column("beyond the spread")
    for pair, row, twin in pairs:
        table.add_row(
            row.experiment,
            *([row.model] if models else []),
            _both(_kernel(row), _kernel(twin)),
            _both(_device(row), _device(twin)),
            row.strategy,
            row.algorithm,
            format_size(row.bytes),
            f"{row.segments:,}",
            _chunk(row),
            *_verdict(pair),
        )
    return table


def _pairs_of_readings(pairs: Sequence[tuple[Comparison, Reading]], base: str, other: str) -> Table:
    table = _table()
    for name in ("experiment", "subject", "quantity", "conditions", "algorithm", "device"):
        table.add_column(name, overflow="fold")
    for name in (escape(base), escape(other), "ratio"):
        table.add_column(name, justify="right")
    for name in ("beyond the spread", "unit"):
        table.add_column(name)
    for pair, reading in pairs:
        texts = (reading.experiment, reading.subject, reading.quantity, reading.conditions, reading.algorithm)
        devices = _both(escape(reading.device_name), escape(pair.other.device_name))
        table.add_row(*map(escape, texts), devices, *_verdict(pair), escape(reading.unit))
    return table


def _verdict(pair: Comparison) -> tuple[str, ...]:
    """Both values, their ratio, and whether it is beyond the spread."""
    values = (f"{value_of(one):.4g}" for one in (pair.base, pair.other))
    return (*values, f"{pair.ratio:.3f}", "yes" if pair.beyond_spread else "no")


def _both(base: str, other: str) -> str:
    """The texts of a pair's two sides; one, where they are the same."""
    return "\nand ".join(dict.fromkeys((base, other)))


def summaries_table(summaries: Sequence[Summary], base: str, other: str) -> RenderableType:
    """What the points of two runs come to: ratios, and how many differ beyond the spread."""
    table = _table()
    table.title = escape(f"{other} over {base}: throughput of kernels, readings in their units")
    table.title_justify = "left"
    for name in ("experiment", "kernel or reading", "on"):
        table.add_column(name, overflow="fold")
    for name in ("points", "ratio (geometric mean)", "lowest .. highest", "higher", "lower", "within the spread"):
        table.add_column(name, justify="right")
    for summary in summaries:
        points = len(summary.ratios)
        table.add_row(
            summary.experiment,
            escape(summary.what),
            summary.device_kind.upper(),
            f"{points:,}",
            f"{summary.ratio:.3f}",
            f"{min(summary.ratios):.3f} .. {max(summary.ratios):.3f}",
            f"{summary.higher:,}",
            f"{summary.lower:,}",
            f"{points - summary.higher - summary.lower:,}",
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
