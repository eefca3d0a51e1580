"""The common style of all figures: legible at the width of a column, in print, and for colour-blind readers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from hashbench.bench.frames import VALUES, lines
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
    "grey": "#7F7F7F",
    "black": "#000000",
}
"""Okabe and Ito's palette (Color Universal Design, 2008), and a grey."""

KERNEL_COLOURS = {
    "cupy": COLOURS["green"],
    "numba-cuda": COLOURS["orange"],
    "dpnp": COLOURS["blue"],
    "opencl": COLOURS["vermilion"],
    "triton": COLOURS["sky"],
    "hashlib": COLOURS["grey"],
}
"""These colours mean these kernels in every figure, and nothing else."""

OTHER_KERNEL = COLOURS["purple"]

WIDTH = 3.35
"""The width of every figure in inches: one column of a paper."""

TEXT, SMALL = 7.5, 6.5
"""Sizes of text in points: of most, and of the smallest."""

LANE = 0.15
"""The height of a bar with its name or value beside it, in inches."""

LINEAR_UP_TO = 20.0
"""The largest ratio of values that a linear axis still shows well."""

DASHES = (0, (4, 3))

OTHER_PROGRAM: dict[str, Any] = {"facecolor": "white", "edgecolor": "#444444", "hatch": "/////", "linewidth": 0.6}
"""How the bars of other programs look. Those of kernels are solid, in the kernel's colour."""

VALUE_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85}
"""Behind a value, which lines may cross."""

Spread = Sequence[float]
"""A low, a middle and a high value."""

_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # the first comes with matplotlib, so every machine draws the same
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.titlepad": 3,
    "axes.labelsize": 7,
    "axes.labelpad": 2,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.major.size": 2.5,
    "ytick.minor.size": 1.5,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.6,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.02,
    "figure.constrained_layout.hspace": 0,
    "figure.constrained_layout.wspace": 0.02,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # text as text: half the size of outlines
    "svg.hashsalt": "hashbench",  # ids are random without it
    "text.parse_math": False,  # a name with dollar signs is a name
    "savefig.dpi": 300,
}


def kernel_colour(name: str, tint: float = 1.0) -> str:
    """The colour of a kernel, the same in every figure; or that colour mixed with white, of which `tint` is left."""
    red, green, blue = (1 - tint * (1 - part) for part in to_rgb(KERNEL_COLOURS.get(name, OTHER_KERNEL)))
    return to_hex((red, green, blue))


def headline(figure: Figure, finding: str, what: str, **looks: Any) -> None:
    """The title: the finding, and below it in smaller letters what was measured and where.

    Args:
        figure: where to write.
        finding: what the figure shows.
        what: what was measured, and the devices' names.
        looks: options of the finding's text.
    """
    below = wrapped(what, WIDTH - 0.08, 7)
    room = "\n" * (1 + below.count("\n"))
    found = wrapped(finding, WIDTH - 0.08, 8, weight="bold")
    title = figure.suptitle(found + room, x=0.01, ha="left", fontsize=8, weight="bold", **looks)
    figure.add_artist(Annotation(below, (0, 0), xycoords=title, va="bottom", fontsize=7, annotation_clip=False))


def wrapped(text: str, width: float, size: float = 7, weight: str = "normal") -> str:
    """A text on lines of at most `width` inches, if its words allow."""
    lines: list[str] = []
    for word in _BETWEEN_WORDS.split(text.strip()):
        if lines and text_width(longer := f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


_BETWEEN_WORDS = re.compile(r"(?<!\d)\s+|\s+(?!(?:m?s|GB(?:/s)?|%|times)(?!\w))")
"""Where a line may end: not between a number and its unit."""


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """The width of a line of text, in inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def panels(heights: Sequence[float], columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """An empty figure, one column wide, and the grid of its panels. It needs no display.

    Args:
        heights: the height of each row of panels in inches, without titles, axes and legends: see `fit`.
        columns: the number of panels in a row.
        options: of `Figure.subplots`.
    """
    figure = Figure(figsize=(WIDTH, sum(heights) + 2), layout=_Layout())
    return figure, figure.subplots(len(heights), columns, squeeze=False, height_ratios=heights, **options)


class _Layout(ConstrainedLayoutEngine):
    """Matplotlib's, with rounded positions: its solver takes terms in the order of their hashes, so that the last bits
    differ from one run to the next, and with them the names of shapes in an SVG."""

    def execute(self, fig: Figure) -> None:
        super().execute(fig)
        for panel in fig.axes:
            panel.set_position(Bbox(panel.get_position(original=True).get_points().round(12)), which="original")
            panel.set_in_layout(True)  # which set_position ends


def fit(figure: Figure) -> None:
    """Makes a figure as high as its panels and all that is written around them need."""
    grid: Any = figure.axes[0].get_subplotspec()
    grid = grid.get_gridspec()
    figure.draw_without_rendering()
    drawn = sum(panel.get_position().height for panel in figure.axes[: grid.nrows * grid.ncols : grid.ncols])
    height = figure.get_figheight()
    figure.set_figheight(height + sum(grid.get_height_ratios()) - drawn * height)


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
    start: float = 0,
    look: Mapping[str, Any],
    error: Mapping[str, Any] | None = MappingProxyType({}),
    label: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Draws a horizontal bar with its error bar, and its value as text at the end.

    Args:
        panel: where to draw.
        place: the position of the bar along the vertical axis.
        value: where the bar ends, with the ends of the error bar.
        text: the value, as it is written at the end.
        start: where the bar begins.
        look: options of `Axes.barh`.
        error: options of `error_bar`; None draws none.
        label: options of `write_value`, which writes at the end of the error bar if no `end` is given.
    """
    _, middle, high = value
    panel.barh(place, middle - start, left=start, **look)
    if error is not None:
        error_bar(panel, place, value, **error)
    if text:
        write_value(panel, place, text, **{"end": high, **label})


def write_value(panel: Axes, place: float, text: str, *, end: float, **looks: Any) -> None:
    """Writes a value beyond the end of a bar; `looks` are options of `Axes.annotate`."""
    offset: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center_baseline"}
    panel.annotate(text, (end, place), **{**offset, "fontsize": SMALL, **looks})


def error_bar(panel: Axes, place: float, value: Spread, **looks: Any) -> None:
    """Draws a horizontal error bar; `looks` are options of `Axes.errorbar`."""
    low, middle, high = value
    usual = {"color": "black", "elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7}
    panel.errorbar(middle, place, xerr=[[middle - low], [high - middle]], **{**usual, **looks})


def solid(kernel: str, tint: float = 1.0) -> dict[str, Any]:
    """How the bars of a kernel look."""
    return {"color": kernel_colour(kernel, tint), "linewidth": 0}


def name_lanes(panel: Axes, places: Sequence[float], names: Iterable[str], width: float = 1.0) -> None:
    """Names the bars or groups of bars at `places`, to the left of the panel, on lines of `width` inches."""
    panel.set_yticks(list(places), [wrapped(name, width) for name in names])
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="y", visible=False)


def bars_of_readings(
    panel: Axes, bars: pd.DataFrame, places: Sequence[float], names: Iterable[str], width: float
) -> None:
    """Horizontal bars of readings of one unit, in the colours of their kernels, on an axis that shows all of them.

    Args:
        panel: where they are drawn.
        bars: the readings.
        places: the place of each.
        names: the name of each, to the left.
        width: of the names, in inches.
    """
    for place, one in zip(places, lines(bars), strict=True):
        spread = [getattr(one, name) for name in VALUES]
        bar(panel, place, spread, f"{one.median:.3g}", look={"height": 0.74, **solid(one.kernel)})
    name_lanes(panel, places, names, width=width)
    unit = bars["unit"].iloc[0]
    if is_linear(bars["median"]):
        panel.set_xlim(0, 1.2 * bars["q3"].max())
        panel.set_xlabel(unit)
    else:
        panel.set_xscale("log")
        plain_numbers(panel.xaxis)
        panel.set_xlim(0.5 * bars["median"].min(), 4 * bars["q3"].max())
        panel.set_xlabel(f"{unit}, logarithmic")


def stacked(groups: Mapping[str, int], first: float = 1.0) -> tuple[list[float], dict[float, str]]:
    """The places of bars in groups, downwards, and those of the groups' names, each above its bars.

    Args:
        groups: the number of bars of each group, by its name.
        first: the distance of a group's name from its first bar. That of one bar from the next is 1.
    """
    places: list[float] = []
    headings: dict[float, str] = {}
    place = 0.0
    for name, count in groups.items():
        headings[place] = name
        places += [place + first + number for number in range(count)]
        place = places[-1] + first + 0.1
    return places, headings


def stacked_panels(
    bars: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame, list[float]], object], lane: float = LANE
) -> Figure:
    """A figure with a panel for each unit of the bars, in which they are stacked in groups by what they are `of`.

    Args:
        bars: in their order, with the columns `unit` and `of`.
        draw: draws the bars of one unit at their places.
        lane: the distance of a bar from the next, in inches: more than usual where names have two lines.
    """
    parts = [part for _, part in bars.groupby("unit", sort=False)]
    layouts = [stacked(dict(part.groupby("of", sort=False).size())) for part in parts]
    figure, grid = panels([lane * (max(places) + 1.2) for places, _ in layouts])
    for part, (places, headings), panel in zip(parts, layouts, grid.flat, strict=True):
        draw(panel, part, places)
        head(panel, headings)
        panel.set_ylim(max(places) + 0.6, -0.6)
    return figure


def note(panel: Axes, texts: Iterable[str]) -> None:
    """Writes texts, if there are any, in the lower right corner of a panel, where its lines leave room."""
    text = "\n".join(wrapped(one, 1.15, SMALL) for one in texts)
    look: dict[str, Any] = {"fontsize": SMALL, "bbox": VALUE_BOX, "ha": "right", "va": "bottom"}
    if text:
        panel.text(0.98, 0.03, text, transform=panel.transAxes, **look)


def head(panel: Axes, headings: Mapping[float, str]) -> None:
    """Writes the names of groups of bars, where `stacked` places them."""
    for place, text in headings.items():
        panel.text(0, place, text, transform=panel.get_yaxis_transform(), va="center_baseline", weight="bold", size=7)


def spreads(frame: pd.DataFrame, columns: Sequence[str], unit: float = 1.0) -> list[Spread]:
    """The low, the middle and the high value of each line of a frame, times `unit`."""
    return [tuple(unit * value for value in values) for values in frame[list(columns)].itertuples(index=False)]


def is_linear(values: Iterable[float]) -> bool:
    """Whether a linear axis shows `values` well."""
    values = list(values)
    return not values or max(values) <= LINEAR_UP_TO * min(values)


def plain_numbers(axis: Axis, form: str = "{:g}") -> None:
    """Labels an axis with plain numbers, also a logarithmic one, whose minor ticks have none."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: form.format(value)))
    axis.set_minor_formatter(NullFormatter())


def algorithms(*columns: Iterable[str]) -> list[str]:
    """The algorithms in `columns`, in their usual order."""
    found = {name for column in columns for name in column}
    return [name for name in ALGORITHMS if name in found]


def sizes(column: Iterable[Any]) -> str:
    """The different sizes in a column, in words."""
    return " and ".join(map(format_size, sorted({size for size in column if pd.notna(size)})))


def names(*columns: Iterable[str]) -> str:
    """The different names in `columns`, in words."""
    return " and ".join(dict.fromkeys(chain(*columns)))


def seven_digits(column: pd.Series[float]) -> pd.Series[str]:
    """The cells of a column that is computed, as text."""
    return column.map(lambda value: "" if pd.isna(value) else f"{value:.7g}")


def legend(figure: Figure, entries: Iterable[Artist], title: str | None = None) -> None:
    """Adds a legend below all panels, in as many columns as fit; `entries` have labels."""
    entries = list(entries)
    widths = [text_width(str(entry.get_label()), 7) + 0.35 for entry in entries]
    columns = max(1, len(widths))
    while columns > 1 and sum(map(max, np.array_split(widths, columns))) > WIDTH:
        columns -= 1
    figure.legend(handles=entries, loc="outside lower center", ncols=columns, title=title)


def legend_of_panels(figure: Figure, title: str | None = None) -> None:
    """Adds one legend for what is labelled in any panel, with one entry per label."""
    labelled: dict[str, Artist] = {}
    for panel in figure.axes:
        entries, labels = panel.get_legend_handles_labels()
        labelled |= dict(zip(labels, entries, strict=True))
    for label, entry in labelled.items():
        entry.set_label(label)
    legend(figure, labelled.values(), title)


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
    with style():
        fit(figure)
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
