"""The standard experiment: how fast does each kernel of this machine hash, batched and as a tree?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, product
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, Strategy

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30

CHUNK_SIZE = 4 * KiB
CHUNK_SIZES = (1 * KiB, CHUNK_SIZE, 16 * KiB, 64 * KiB, 256 * KiB, 1 * MiB)
SIZE = {"gpu": 8 * GiB, "cpu": 128 * MiB}
"""Bytes of input, of which all of a device is busy."""

STRATEGIES: tuple[Strategy, ...] = ("batched", "tree")
"""Those that a user asks for; the leaves alone are a step on the way."""

LINEAR_UP_TO = 20.0
"""The ratio of the fastest to the slowest that a linear axis still shows."""

_SPREAD = "quartiles of the repeats"


class Throughput(Experiment):
    """Kernels and devices, strategies and algorithms; chunk sizes too in the full form."""

    name = "throughput"
    question = "How fast does each kernel of this machine hash, batched and as a tree?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """One size of chunks in the short form."""
        chunk_sizes = (CHUNK_SIZE,) if quick else CHUNK_SIZES
        for algorithm, strategy, chunk_size in product(ALGORITHMS, STRATEGIES, chunk_sizes):
            yield Point(device, strategy, algorithm, (SIZE[device.kind or "cpu"],), chunk_size)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Bars of throughput; where chunk sizes differ, lines over them too, for each kind of device."""
        largest = largest_of(rows)
        drawn = _save(_bars([row for row in largest if row.chunk_size == CHUNK_SIZE] or largest), path)
        for kind in ("gpu", "cpu"):
            part = [row for row in largest if row.device_kind == kind and row.chunk_size]
            if len({row.chunk_size for row in part}) > 1:
                drawn += _save(_lines(part), path.with_name(f"{path.name}_by_chunk_size_{kind}"))
        return drawn


EXPERIMENT = Throughput()

Lane = tuple[str, str, str]
Drawing = tuple[Figure, Sequence[Row]]


def lane_of(row: Row) -> Lane:
    """What has a bar or a line of its own."""
    return row.kernel, row.variant, row.device


def speeds_of(row: Row) -> tuple[float, float, float]:
    """The throughput at the slow quartile, the median and the fast quartile, in GB/s."""
    slow, fast = row.gb_per_s_range
    return slow, row.gb_per_s, fast


def wall_seconds_of(row: Row) -> tuple[float, float, float]:
    """The quartiles and, between them, the median of the seconds by the wall's clock."""
    return row.wall_seconds_q1, row.wall_seconds_median, row.wall_seconds_q3


def largest_of(rows: Sequence[Row]) -> list[Row]:
    """Of the rows that differ in bytes alone, the one with the most."""
    ordered = sorted(rows, key=lambda row: row.bytes)
    return list({(lane_of(row), row.algorithm, row.strategy, row.chunk_size): row for row in ordered}.values())


def _bars(rows: Sequence[Row]) -> Drawing:
    speeds = [row.gb_per_s for row in rows]
    linear = max(speeds) <= LINEAR_UP_TO * min(speeds)
    labels = labels_of(rows)
    lanes = list(dict.fromkeys(lane_of(row) for row in sorted(rows, key=lambda row: -row.gb_per_s)))[::-1]
    with style.style():
        figure, panels = _panels(rows, panel_height=0.55 + 0.30 * len(lanes))
        for panel, part in panels:
            if not linear:
                panel.set_xscale("log")
            for row in part:
                _bar(panel, lanes.index(lane_of(row)), row)
            panel.set_yticks(range(len(lanes)), [labels[lane] for lane in lanes])
            panel.xaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:g}"))
            panel.grid(axis="y", visible=False)
            panel.set_xlabel("GB/s" if linear else "GB/s, logarithmic")
            panel.label_outer()
        low = 0.0 if linear else 0.5 * min(speeds)
        panels[0][0].set_xlim(low, max(row.gb_per_s_range[1] for row in rows) * (1.2 if linear else 4))
        chunks = " and ".join(map(format_size, sorted({row.chunk_size for row in rows if row.chunk_size})))
        _finish(figure, rows, f" in chunks of {chunks}", columns=2)
    return figure, rows


def _bar(panel: Axes, place: int, row: Row) -> None:
    slow, fast = row.gb_per_s_range
    panel.barh(place, row.gb_per_s, height=0.66, color=style.kernel_colour(row.kernel), linewidth=0)
    error = [[row.gb_per_s - slow], [fast - row.gb_per_s]]
    panel.errorbar(row.gb_per_s, place, xerr=error, color="black", elinewidth=0.9, capsize=2, label=_SPREAD)
    panel.annotate(
        f"{row.gb_per_s:.3g}",
        (fast, place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )
    if row.is_reference:
        panel.axvline(row.gb_per_s, color="black", linestyle=(0, (4, 3)), linewidth=0.9, label="hashlib on one core")


def _lines(rows: Sequence[Row]) -> Drawing:
    labels = labels_of(rows)
    marks = dict(zip(labels, cycle("osD^vP*X"), strict=False))
    with style.style():
        figure, panels = _panels(rows, panel_height=2.1)
        for panel, part in panels:
            for lane, label in labels.items():
                points = sorted((row for row in part if lane_of(row) == lane), key=lambda row: row.chunk_size or 0)
                if points:
                    _line(panel, points, label, marks[lane])
            panel.set_xscale("log", base=2)
            panel.xaxis.set_major_formatter(FuncFormatter(lambda size, _: format_size(int(size))))
            panel.set_ylim(0, 1.08 * max(row.gb_per_s_range[1] for row in rows))
            panel.set_xlabel("chunk size")
            panel.set_ylabel("GB/s")
            panel.label_outer()
        _finish(figure, rows, " by chunk size", columns=3)
    return figure, rows


def _line(panel: Axes, points: Sequence[Row], label: str, mark: str) -> None:
    style.draw_line(
        panel,
        [row.chunk_size or 0 for row in points],
        [speeds_of(row) for row in points],
        color=style.kernel_colour(points[0].kernel),
        linestyle=":" if points[0].is_reference else "-",
        marker=mark,
        label=label,
    )


def _panels(rows: Sequence[Row], panel_height: float) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A figure with a panel for each algorithm and strategy of `rows`, and the rows that belong there."""
    algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in rows)]
    strategies = [name for name in STRATEGIES if any(row.strategy == name for row in rows)]
    figure = style.new_figure(style.PAGE_WIDTH, 0.7 + len(algorithms) * panel_height)
    grid = figure.subplots(len(algorithms), len(strategies), sharex=True, sharey=True, squeeze=False)
    panels = []
    for panel, (algorithm, strategy) in zip(grid.flat, product(algorithms, strategies), strict=True):
        panel.set_title(f"{ALGORITHMS[algorithm].title}, {strategy}", loc="left")
        panels.append((panel, [r for r in rows if (r.algorithm, r.strategy) == (algorithm, strategy)]))
    return figure, panels


def _finish(figure: Figure, rows: Sequence[Row], what: str, columns: int) -> None:
    """The title, with the devices' names, and one legend for all panels."""
    sizes = " and ".join(
        f"{format_size(nbytes)} ({kind.upper()})"
        for kind, nbytes in sorted({(row.device_kind, row.bytes) for row in rows}, reverse=True)
    )
    names = " and ".join(sorted({row.device_name for row in rows}))
    figure.suptitle(f"SHA-2 throughput, {sizes}{what}\n{fill(names, 90)}", fontsize=9)
    style.legend_below(figure, columns)


def labels_of(rows: Sequence[Row]) -> dict[Lane, str]:
    """Each lane's name: the kernel, what tells its device from the others, and its variant where there are several."""
    labels = {}
    for row in sorted(rows, key=lambda row: -row.gb_per_s):
        names = {r.device_name for r in rows if r.device_kind == row.device_kind}
        twins = {r.device for r in rows if (r.kernel, r.device_name) == (row.kernel, row.device_name)}
        device = row.device_kind.upper() if len(names) == 1 else row.device_name
        if "thread" in row.device:
            device = row.device.replace("-", " ")
        elif len(twins) > 1:
            device = f"{device} {row.device}"
        variant = f" ({row.variant})" if len({r.variant for r in rows if r.kernel == row.kernel}) > 1 else ""
        labels[lane_of(row)] = fill(f"{row.kernel}{variant}, {device}", 26)
    return labels


def _save(drawing: Drawing, path: Path) -> list[Path]:
    figure, rows = drawing
    columns = ("kernel", "variant", "device", "device_name", "algorithm", "strategy", "bytes", "chunk_size", "verified")
    table = [
        (*(getattr(row, c) for c in columns), row.gb_per_s, *(f"{limit:.7g}" for limit in row.gb_per_s_range))
        for row in rows
    ]
    return style.save(figure, path, (*columns, "gb_per_s", "gb_per_s_q1", "gb_per_s_q3"), table)
