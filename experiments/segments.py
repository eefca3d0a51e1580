"""The segments experiment: what do many segments cost, and how long does a small one take?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import style
from hashbench.experiments.throughput import CHUNK_SIZE, LINEAR_UP_TO, MiB
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device

SEGMENT = 1 * MiB
COUNT = {"gpu": 1000, "cpu": 100}
"""Segments of one call."""

ONE_BUFFER, MANY, SINGLE = "one buffer", "many segments", "one segment"
"""The shapes of a call's input."""

Lane = tuple[str, str]
Shown = Mapping[tuple[Lane, str, str], Row]


class Segments(Experiment):
    """Trees over one buffer, over as many bytes in segments of 1 MiB, and over one such segment alone."""

    name = "segments"
    question = "What do many segments in one call cost, and how long does a small one take?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """The same in both forms."""
        count = COUNT[device.kind or "cpu"]
        for algorithm, lengths in product(ALGORITHMS, ((count * SEGMENT,), (SEGMENT,) * count, (SEGMENT,))):
            yield Point(device, "tree", algorithm, lengths, CHUNK_SIZE)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Left, the throughput of many segments beside that of one buffer; right, the time of a single segment. Two
        panels an algorithm, and in each two bars a kernel and device.
        """
        if not rows:
            return []
        shown = _newest(rows)
        fastest_first = sorted(shown.values(), key=lambda row: (_shape(row) == SINGLE, -row.gb_per_s))
        lanes = list(dict.fromkeys(map(_lane, fastest_first)))[::-1]
        algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in shown.values())]
        with style.style():
            figure = style.new_figure(style.PAGE_WIDTH, 1.3 + len(algorithms) * (0.35 + 0.34 * len(lanes)))
            grid = figure.subplots(len(algorithms), 2, sharex="col", sharey=True, squeeze=False)
            for (left, right), algorithm in zip(grid, algorithms, strict=True):
                for place, lane in enumerate(lanes):
                    _draw_throughput(
                        left, place, shown.get((lane, algorithm, ONE_BUFFER)), shown.get((lane, algorithm, MANY))
                    )
                    _draw_seconds(right, place, shown.get((lane, algorithm, SINGLE)))
                for panel in (left, right):
                    panel.grid(axis="y", visible=False)
                    panel.tick_params(axis="y", length=0)
                left.set_title(ALGORITHMS[algorithm].title, loc="left")
                left.set_yticks(range(len(lanes)), [fill(" ".join(lane), 22) for lane in lanes])
                left.set_ylim(-0.55, len(lanes) - 0.45)
            single = [row for (_, _, shape), row in shown.items() if shape == SINGLE]
            large = [row for (_, _, shape), row in shown.items() if shape != SINGLE]
            speeds = [speed for row in large for speed in row.gb_per_s_range]
            micros = [
                1e6 * seconds for row in single for seconds in (row.seconds_q1, row.seconds_q3, row.wall_seconds_q3)
            ]
            _finish_axis(grid[-1, 0], speeds, "GB/s", "in one buffer", "in segments, and its share of that")
            unit = f"microseconds for one segment of {format_size(SEGMENT)}"
            _finish_axis(grid[-1, 1], micros, unit, "by the device's clock", "by the wall's clock")
            figure.suptitle(_title(list(shown.values())), fontsize=9)
        table = [(shape, *(getattr(row, name) for name in _COLUMNS)) for (_, _, shape), row in shown.items()]
        return style.save(figure, path, ("shape", *_COLUMNS), table)


EXPERIMENT = Segments()

_COLUMNS = (
    "kernel",
    "variant",
    "device",
    "device_name",
    "algorithm",
    "bytes",
    "segments",
    "verified",
    "gb_per_s",
    "seconds_median",
    "seconds_q1",
    "seconds_q3",
    "wall_seconds_median",
    "wall_seconds_q1",
    "wall_seconds_q3",
)


@dataclass(frozen=True)
class _Half:
    """One bar of each pair: how far from the pair's place, and how opaque."""

    offset: float
    opacity: float


_UPPER, _LOWER = _Half(0.2, 0.5), _Half(-0.2, 1.0)


def _lane(row: Row) -> Lane:
    return row.kernel, row.device


def _shape(row: Row) -> str:
    if row.segments > 1:
        return MANY
    return SINGLE if row.bytes == SEGMENT else ONE_BUFFER


def _newest(rows: Sequence[Row]) -> Shown:
    """The newest row of each kernel, device, algorithm and shape: others may be of another variant or size."""
    found: dict[tuple[Lane, str, str], Row] = {}
    for row in rows:
        key = (_lane(row), row.algorithm, _shape(row))
        if key not in found or row.date >= found[key].date:
            found[key] = row
    return found


def _draw_throughput(panel: Axes, place: int, one: Row | None, many: Row | None) -> None:
    for row, half in ((one, _UPPER), (many, _LOWER)):
        if row is not None:
            slow, fast = row.gb_per_s_range
            text = f"{row.gb_per_s:,.0f}" if row.gb_per_s >= 100 else f"{row.gb_per_s:.3g}"
            if row is many and one is not None:
                text += f" ({row.gb_per_s / one.gb_per_s:.1%})"
            _draw_bar(panel, place, half, row, (slow, row.gb_per_s, fast), text)


def _draw_seconds(panel: Axes, place: int, row: Row | None) -> None:
    if row is not None:
        device = (row.seconds_q1, row.seconds_median, row.seconds_q3)
        wall = (row.wall_seconds_q1, row.wall_seconds_median, row.wall_seconds_q3)
        for seconds, half in ((device, _UPPER), (wall, _LOWER)):
            low, middle, high = (1e6 * value for value in seconds)
            _draw_bar(panel, place, half, row, (low, middle, high), f"{middle:,.0f}")


def _draw_bar(panel: Axes, place: int, half: _Half, row: Row, values: tuple[float, float, float], text: str) -> None:
    """One bar of the pair at `place`, of a low, a middle and a high value."""
    low, middle, high = values
    y = place + half.offset
    panel.barh(y, middle, height=0.38, color=style.kernel_colour(row.kernel), alpha=half.opacity, linewidth=0)
    panel.errorbar(middle, y, xerr=[[middle - low], [high - middle]], color="black", elinewidth=0.8, capsize=1.5)
    panel.annotate(text, (high, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6.5)


def _finish_axis(panel: Axes, values: Sequence[float], unit: str, upper: str, lower: str) -> None:
    """The axis of a column, under its last panel, with room for the numbers beside the bars, and what the bars of a
    pair are."""
    linear = not values or max(values) <= LINEAR_UP_TO * min(values)
    if not linear:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        panel.set_xlim(0.4 * min(values), max(values) * (max(values) / min(values)) ** 0.4)
    elif values:
        panel.set_xlim(0, 1.35 * max(values))
    panel.set_xlabel(unit if linear else f"{unit}, logarithmic")
    keys = [
        Patch(color="#555555", linewidth=0, alpha=half.opacity, label=label)
        for half, label in ((_UPPER, upper), (_LOWER, lower))
    ]
    # The distance from the axis to below its label, in inches, is the same whatever the panel's height.
    below = panel.transAxes + ScaledTranslation(0, -0.36, panel.figure.dpi_scale_trans)
    panel.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, ncols=2)


def _title(rows: Sequence[Row]) -> str:
    counts = dict.fromkeys((row.segments, row.device_kind.upper()) for row in rows if _shape(row) == MANY)
    many = ", ".join(f"{count:,} on the {kind}" for count, kind in counts)
    chunks = " and ".join(map(format_size, sorted({row.chunk_size for row in rows if row.chunk_size})))
    names = " and ".join(dict.fromkeys(row.device_name for row in rows))
    segments = f"segments of {format_size(SEGMENT)}{f' ({many})' if many else ''}"
    return f"Trees over {segments} in chunks of {chunks}\n{fill(names, 90)}"
