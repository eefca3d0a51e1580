"""The common style of all figures: legible at the width of a column, in print, and for colour-blind readers."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from textwrap import fill
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hashbench.bench.records import check_writable
from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS

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
"""Widths of figures, in inches."""

LINEAR_UP_TO = 20.0
"""The largest ratio of values that a linear axis still shows well."""

OTHER_PROGRAM: dict[str, Any] = {"facecolor": "white", "edgecolor": "#444444", "hatch": "/////", "linewidth": 0.6}
"""How the bars of other programs look. Those of kernels are solid, in the kernel's colour."""

VALUE_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
"""Behind a value that lines may cross."""

Spread = Sequence[float]
"""A low, a middle and a high value."""

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


def headline(figure: Figure, finding: str, what: str, **looks: Any) -> None:
    """The title: first the finding, and below it what was measured and where."""
    width = int(14 * figure.get_figwidth())  # characters that fit
    figure.suptitle(f"{fill(finding, width)}\n{fill(what, width)}", **{"fontsize": 9, **looks})


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches. It needs no display."""
    with mpl.rc_context(_STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def style() -> Any:
    """The context to draw in."""
    return mpl.rc_context(_STYLE)


def line(panel: Axes, places: Iterable[float], values: Iterable[Spread], **looks: Any) -> None:
    """Draws a line with marks and error bars.

    Args:
        panel: where to draw.
        places: positions along the horizontal axis.
        values: a spread for each place.
        looks: options of `Axes.errorbar`.
    """
    values = list(values)
    middles = [middle for _, middle, _ in values]
    below, above = ([abs(value[end] - value[1]) for value in values] for end in (0, 2))
    panel.errorbar(list(places), middles, yerr=[below, above], capsize=2, **looks)


def bar(
    panel: Axes,
    place: float,
    value: Spread,
    text: str = "",
    *,
    vertical: bool = False,
    start: float = 0,
    look: Mapping[str, Any],
    error: Mapping[str, Any] | None = MappingProxyType({}),
    label: Mapping[str, Any] | None = None,
) -> None:
    """Draws a bar with its error bar, and its value as text at the end.

    Args:
        panel: where to draw.
        place: the position across the bar.
        value: where the bar ends, with the ends of the error bar.
        text: the value, as it is written at the end.
        vertical: whether the bar is upright.
        start: where the bar begins.
        look: options of `Axes.barh`; for an upright bar, of `Axes.bar`.
        error: options of `error_bar`; None draws none.
        label: options of `write_value`, which writes at the end of the error bar if no `end` is given.
    """
    _, middle, high = value
    if vertical:
        panel.bar(place, middle - start, bottom=start, **look)
    else:
        panel.barh(place, middle - start, left=start, **look)
    if error is not None:
        error_bar(panel, place, value, vertical=vertical, **error)
    if text:
        write_value(panel, place, text, **{"end": high, "vertical": vertical, **(label or {})})


def write_value(panel: Axes, place: float, text: str, *, end: float, vertical: bool = False, **looks: Any) -> None:
    """Writes a value beyond the end of a bar; `looks` are options of `Axes.annotate`."""
    where: dict[str, Any] = {"xy": (place, end), "xytext": (0, 2), "ha": "center"}
    if not vertical:
        where = {"xy": (end, place), "xytext": (4, 0), "va": "center"}
    panel.annotate(text, **{**where, "textcoords": "offset points", "fontsize": 7, **looks})


def error_bar(panel: Axes, place: float, value: Spread, *, vertical: bool = False, **looks: Any) -> None:
    """Draws an error bar; `looks` are options of `Axes.errorbar`."""
    low, middle, high = value
    spread = [[middle - low], [high - middle]]
    where = {"x": place, "y": middle, "yerr": spread} if vertical else {"x": middle, "y": place, "xerr": spread}
    panel.errorbar(**{**where, "color": "black", "elinewidth": 0.9, "capsize": 2, **looks})


def solid(kernel: str) -> dict[str, Any]:
    """How the bars of a kernel look."""
    return {"color": kernel_colour(kernel), "linewidth": 0}


def spreads(frame: pd.DataFrame, columns: Sequence[str], unit: float = 1.0) -> list[Spread]:
    """The low, the middle and the high value of each line of a frame, times `unit`."""
    return [tuple(unit * value for value in values) for values in frame[list(columns)].itertuples(index=False)]


def is_linear(values: Iterable[float]) -> bool:
    """Whether a linear axis shows `values` well."""
    values = list(values)
    return not values or max(values) <= LINEAR_UP_TO * min(values)


def plain_numbers(axis: Axis, form: str = "{:g}") -> None:
    """Labels an axis with plain numbers, also a logarithmic one."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))


def algorithms(*columns: Iterable[str]) -> list[str]:
    """The algorithms in `columns`, in their usual order."""
    found = {name for column in columns for name in column}
    return [name for name in ALGORITHMS if name in found]


def sizes(column: Iterable[Any]) -> str:
    """The different sizes in a column, in words."""
    return " and ".join(map(format_size, sorted({size for size in column if pd.notna(size)})))


def names(*columns: Iterable[str], width: int = 90) -> str:
    """The different names in `columns`, in words, on lines of `width`."""
    return fill(" and ".join(dict.fromkeys(chain(*columns))), width)


def seven_digits(column: pd.Series[float]) -> pd.Series[str]:
    """The cells of a column that is computed, as text."""
    return column.map(lambda value: "" if pd.isna(value) else f"{value:.7g}")


def legend_below(figure: Figure, columns: int, title: str | None = None) -> None:
    """Adds one legend for all panels, below them, with one entry per label."""
    legend: dict[str, Artist] = {}
    for panel in figure.axes:
        handles, labels = panel.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    look: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "title": title, "title_fontsize": 7.5}
    figure.legend(list(legend.values()), list(legend), **look)


def save(figure: Figure, path: Path, table: pd.DataFrame) -> list[Path]:
    """Writes a figure as PNG, PDF and SVG, and its data as CSV.

    The same figure always gives the same bytes: the files hold neither a date nor the name of a program.

    Args:
        figure: drawn inside `style()`.
        path: where the files go, without a suffix.
        table: the values that the figure shows.

    Returns:
        The files written.

    Raises:
        OSError, ResultsError: a file cannot be written.
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
    written.append(path.with_suffix(".csv"))
    write_atomically(written[-1], table.to_csv(index=False, lineterminator="\n").encode())
    return written
