"""Tables of text: what each column shows of the lines, and how the command line prints them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Printed

from hashbench.bench.frames import Line

_WIDE = 200
"""Columns of a table that goes to a file or a pipe."""

Text = Callable[[Line], str]

Column = str | Text | tuple[Any, ...]
"""What a column shows of each line: an attribute; the text that a function makes of the line; or, if it is a number, a
tuple of one or more attributes and the function that writes their values. A missing value leaves the cell empty."""

Columns = Mapping[str, Column]
"""The columns by their names, which give the units."""


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: names of the columns.
        numeric: names of the columns that hold numbers, which are aligned to the right.
        lines: for each line, a cell per column.
        title: above the table; may be empty.
    """

    columns: tuple[str, ...]
    numeric: frozenset[str]
    lines: tuple[tuple[str, ...], ...]
    title: str = ""

    @classmethod
    def of(cls, shown: Iterable[Line], columns: Columns, title: str = "") -> Table:
        """A table of these lines."""
        numeric = frozenset(name for name, column in columns.items() if isinstance(column, tuple))
        cells = tuple(tuple(_cell(line, column) for column in columns.values()) for line in shown)
        return cls(tuple(columns), numeric, cells, title)


def _cell(line: Line, column: Column) -> str:
    if callable(column):
        return column(line)
    *names, text = column if isinstance(column, tuple) else (column, str)
    values = [attrgetter(name)(line) for name in names]
    return "" if any(map(pd.isna, values)) else str(text(*values))


def number(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_table(table: Table) -> None:
    """Prints a table on standard output."""
    printed = Printed(title=escape(table.title) or None, title_justify="left", header_style="bold", pad_edge=False)
    printed.box = box.SIMPLE_HEAD
    for name in table.columns:
        printed.add_column(escape(name.rstrip()), overflow="fold")
        printed.columns[-1].justify = "right" if name in table.numeric else "left"
    for line in table.lines:
        printed.add_row(*map(escape, line))
    console = Console()
    (console if console.is_terminal else Console(width=_WIDE)).print(printed)
