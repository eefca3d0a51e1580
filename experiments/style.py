"""One look for every figure: legible at the width of a column, in print and to colour-blind readers."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hashbench.bench.records import check_writable
from hashbench.hashing.atomic_write import write_atomically

COLOURS = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
}
"""Okabe and Ito's palette (Color Universal Design, 2008)."""

KERNEL_COLOURS = {
    "cupy": COLOURS["green"],
    "numba-cuda": COLOURS["orange"],
    "dpnp": COLOURS["blue"],
    "opencl": COLOURS["vermilion"],
    "hashlib": "#7F7F7F",
}

PAGE_WIDTH = 7.2
COLUMN_WIDTH = 3.5
"""Of a figure, in inches."""

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # the first comes with matplotlib, so every machine draws the same
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # text as text: half the size of outlines
    "svg.hashsalt": "hashbench",  # ids are random without it
    "savefig.dpi": 200,
}


def kernel_colour(name: str) -> str:
    """The colour of a kernel, the same in every figure."""
    return KERNEL_COLOURS.get(name, COLOURS["purple"])


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. It opens no window and needs no display."""
    with mpl.rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def style() -> Any:
    """The context to draw in."""
    return mpl.rc_context(_STYLE)


def draw_line(panel: Axes, places: Sequence[float], values: Sequence[tuple[float, float, float]], **looks: Any) -> None:
    """A line with marks and error bars through `values`, each a low, a middle and a high one.

    Args:
        panel: to draw in.
        places: along the horizontal axis.
        values: as many as places.
        looks: as `Axes.errorbar` takes them.
    """
    middles = [middle for _, middle, _ in values]
    below, above = ([abs(value[end] - value[1]) for value in values] for end in (0, 2))
    panel.errorbar(places, middles, yerr=[below, above], capsize=2, **looks)


def legend_below(figure: Figure, columns: int) -> None:
    """One legend for all panels of a figure, under them: what has the same label stands there once."""
    legend: dict[str, Artist] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=columns)


def save(figure: Figure, path: Path, columns: Sequence[str], table: Iterable[Sequence[Any]]) -> list[Path]:
    """Writes a figure as PNG, PDF and SVG, and its data as CSV.

    The same figure always gives the same bytes: the files hold neither a date nor the name of a program.

    Args:
        figure: drawn inside `style()`.
        path: where the files go, without a suffix.
        columns: names of the data's columns.
        table: the data's lines.

    Returns:
        The files written.

    Raises:
        ResultsError: a file cannot be written.
    """
    check_writable(path.parent)
    nameless: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
        ".svg": {"Creator": None, "Date": None},
    }
    written = []
    for suffix, metadata in nameless.items():
        drawn = io.BytesIO()
        with style():
            figure.savefig(drawn, format=suffix[1:], metadata=metadata)
        written.append(path.with_suffix(suffix))
        write_atomically(written[-1], drawn.getvalue())
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    lines.writerows(table)
    written.append(path.with_suffix(".csv"))
    write_atomically(written[-1], text.getvalue().encode())
    return written
