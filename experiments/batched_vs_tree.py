"""The batched-vs-tree experiment: what does the tree cost, and which chunk size is best?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import style
from hashbench.experiments.throughput import (
    CHUNK_SIZE,
    SIZE,
    KiB,
    Lane,
    MiB,
    labels_of,
    lane_of,
    largest_of,
    speeds_of,
    wall_seconds_of,
)
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, Strategy

COMPARED: tuple[Strategy, ...] = ("batched", "leaves", "tree")
"""From the digests of the chunks, by the leaf prefix, to the nodes above the leaves."""

CHUNK_SIZES = (256, 1 * KiB, 4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB, 1 * MiB)
QUICK_CHUNK_SIZES = (1 * KiB, CHUNK_SIZE, 64 * KiB)

TENSORS = (4 * KiB, 64 * KiB, 1 * MiB, 16 * MiB)
"""Bytes of the small tensors."""

TENSOR_CHUNK_SIZES = (256, 1 * KiB, 4 * KiB, 16 * KiB)

_LOOKS: Mapping[str, Mapping[str, str]] = {
    "batched": {"color": style.COLOURS["blue"], "marker": "o", "linestyle": "-"},
    "leaves": {"color": style.COLOURS["orange"], "marker": "D", "linestyle": ":"},
    "tree": {"color": style.COLOURS["vermilion"], "marker": "s", "linestyle": "-"},
}
"""Of each strategy."""

_TENSOR_LOOKS: Mapping[int, Mapping[str, str]] = {
    256: {"color": style.COLOURS["purple"], "marker": "v"},
    1 * KiB: {"color": style.COLOURS["sky"], "marker": "^"},
    4 * KiB: {"color": style.COLOURS["green"], "marker": "P"},
    16 * KiB: {"color": style.COLOURS["black"], "marker": "X"},
}
"""Of each chunk size of the small tensors."""

_COLUMNS = (
    *("kernel", "variant", "device", "device_name", "algorithm", "strategy", "bytes", "chunk_size", "verified"),
    *("gb_per_s", "seconds_median", "seconds_q1", "seconds_q3"),
    *("wall_seconds_median", "wall_seconds_q1", "wall_seconds_q3"),
)
"""Of the figure's table, before the cost."""


class BatchedVsTree(Experiment):
    """One large buffer by batched, leaves and tree over chunk sizes, and the tree of a small one."""

    name = "batched-vs-tree"
    question = "What does the tree cost, and which chunk size is best?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """All strategies at each chunk size side by side, then the small tensors."""
        nbytes = SIZE[device.kind or "cpu"]
        for algorithm in ALGORITHMS:
            for chunk_size, strategy in product(QUICK_CHUNK_SIZES if quick else CHUNK_SIZES, COMPARED):
                yield Point(device, strategy, algorithm, (nbytes,), chunk_size)
            for chunk_size, length in product((CHUNK_SIZE,) if quick else TENSOR_CHUNK_SIZES, TENSORS):
                yield Point(device, "tree", algorithm, (length,), chunk_size)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """For each kind of device a figure of its fastest kernel, and a table of them all: throughput over chunk sizes,
        what the tree adds to the time of batched, and the time of small tensors. A line of panels an algorithm."""
        kinds = [kind for kind in ("gpu", "cpu") if any(row.device_kind == kind for row in rows)]
        drawn = []
        for kind in kinds:
            name = path.name if kind == kinds[0] else f"{path.name}_{kind}"
            drawn += _draw([row for row in rows if row.device_kind == kind], path.with_name(name))
        return drawn


EXPERIMENT = BatchedVsTree()


def _draw(rows: Sequence[Row], path: Path) -> list[Path]:
    large = largest_of([row for row in rows if row.bytes not in TENSORS])
    small = [row for row in rows if row.bytes in TENSORS]
    lane = _shown(large or small)
    shown = [row for row in large if lane_of(row) == lane]
    tensors = [row for row in small if lane_of(row) == lane]
    algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in (*shown, *tensors))]
    with style.style():
        figure = style.new_figure(style.PAGE_WIDTH, 1.1 + 2.1 * len(algorithms))
        grid = figure.subplots(len(algorithms), 3, sharex="col", sharey="col", squeeze=False)
        for panels, algorithm in zip(grid, algorithms, strict=True):
            speed, cost, latency = panels
            mine = [row for row in shown if row.algorithm == algorithm]
            _draw_speed(speed, mine)
            _draw_cost(cost, mine)
            _draw_latency(latency, [row for row in tensors if row.algorithm == algorithm])
            for panel, what in zip(
                panels, ("throughput", "time beyond batched", "one small tensor's tree"), strict=True
            ):
                panel.set_title(f"{ALGORITHMS[algorithm].title}, {what}", loc="left", fontsize=8)
        _finish(grid[0], grid[-1])
        size = " and ".join(sorted({format_size(row.bytes) for row in shown}))
        label = labels_of([*shown, *tensors])[lane].replace("\n", " ")
        name = next(row.device_name for row in (*shown, *tensors))
        figure.suptitle(
            f"Batched against tree over {size} in one buffer, and small tensors\n{fill(f'{label}: {name}', 90)}",
            fontsize=9,
        )
        style.legend_below(figure, columns=4)
    table = [(*(getattr(row, c) for c in _COLUMNS), _cost_cell(row, large)) for row in (*large, *small)]
    return style.save(figure, path, (*_COLUMNS, "seconds_over_batched"), table)


def _shown(rows: Sequence[Row]) -> Lane:
    """The lane that the figure draws: of those measured at the most points, the fastest."""
    lanes = {lane_of(row): [one for one in rows if lane_of(one) == lane_of(row)] for row in rows}
    return max(lanes, key=lambda lane: (len(lanes[lane]), max(row.gb_per_s for row in lanes[lane])))


def _of(rows: Sequence[Row], strategy: str) -> list[Row]:
    """The rows of a strategy by chunk size, the smallest first."""
    return sorted((row for row in rows if row.strategy == strategy), key=lambda row: row.chunk_size or 0)


def _draw_speed(panel: Axes, rows: Sequence[Row]) -> None:
    for strategy, looks in _LOOKS.items():
        if points := _of(rows, strategy):
            places = [row.chunk_size or 0 for row in points]
            style.draw_line(panel, places, [speeds_of(row) for row in points], label=strategy, **looks)
    if trees := _of(rows, "tree"):
        best = max(trees, key=lambda row: row.gb_per_s)
        text = f"tree's best: {best.gb_per_s:.3g} GB/s,\nchunks of {format_size(best.chunk_size or 0)}"
        panel.text(0.97, 0.05, text, transform=panel.transAxes, ha="right", fontsize=6.5)


def _costs_of(row: Row, batched: Row) -> tuple[float, float, float]:
    """What `row` takes longer than `batched` over the same bytes, as a share of it: the least and the most that their
    quartiles allow, and between them that of the medians."""
    return (
        row.seconds_q1 / batched.seconds_q3 - 1,
        row.seconds_median / batched.seconds_median - 1,
        row.seconds_q3 / batched.seconds_q1 - 1,
    )


def _batched_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The batched row that differs from `row` in its strategy alone."""
    key = (lane_of(row), row.algorithm, row.bytes, row.chunk_size)
    found = (r for r in rows if (lane_of(r), r.algorithm, r.bytes, r.chunk_size) == key and r.strategy == "batched")
    return next(found, None)


def _draw_cost(panel: Axes, rows: Sequence[Row]) -> None:
    for strategy in ("leaves", "tree"):
        pairs = [(row, batched) for row in _of(rows, strategy) if (batched := _batched_of(row, rows))]
        if not pairs:
            continue
        places = [row.chunk_size or 0 for row, _ in pairs]
        costs = [(100 * low, 100 * middle, 100 * high) for low, middle, high in (_costs_of(*pair) for pair in pairs)]
        style.draw_line(panel, places, costs, label=strategy, **_LOOKS[strategy])
        if strategy == "tree":
            for place, (_, middle, high) in zip(places, costs, strict=True):
                panel.annotate(
                    f"{middle:.1f}%",
                    (place, high),
                    xytext=(2, 2),
                    textcoords="offset points",
                    fontsize=6,
                )
    panel.axhline(0, color=_LOOKS["batched"]["color"], linewidth=0.9)


def _draw_latency(panel: Axes, rows: Sequence[Row]) -> None:
    for chunk_size, looks in _TENSOR_LOOKS.items():
        if points := sorted((row for row in rows if row.chunk_size == chunk_size), key=lambda row: row.bytes):
            micros = [(1e6 * low, 1e6 * middle, 1e6 * high) for low, middle, high in map(wall_seconds_of, points)]
            label = f"tree, chunks of {_size(chunk_size)}"
            style.draw_line(panel, [row.bytes for row in points], micros, label=label, **looks)


def _finish(first: Sequence[Axes], last: Sequence[Axes]) -> None:
    """The axes of the three columns, which their panels share."""
    speed, cost, latency = first
    speed.set_ylim(bottom=0)
    low, high = cost.get_ylim()
    cost.set_ylim(low, high + 0.15 * (high - low))  # with room for the numbers over the marks
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    latency.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for panel, sizes in ((speed, CHUNK_SIZES), (cost, CHUNK_SIZES), (latency, TENSORS)):
        panel.set_xscale("log", base=2)
        panel.set_xlim(sizes[0] / 1.6, 3.6 * sizes[-1])
        panel.set_xticks(sizes, list(map(_size, sizes)))
        panel.minorticks_off()
    units = ("GB/s", "% of batched", "microseconds, wall clock")
    axes = ("chunk size", "chunk size", "bytes of the tensor")
    for above, below, unit, axis in zip(first, last, units, axes, strict=True):
        below.set_xlabel(axis)
        for panel in {above, below}:
            panel.set_ylabel(unit)
            panel.tick_params(axis="x", labelbottom=panel is below, labelrotation=90)


def _size(nbytes: int) -> str:
    return format_size(nbytes) if nbytes >= KiB else f"{nbytes}B"


def _cost_cell(row: Row, rows: Sequence[Row]) -> str:
    """The table's cell of a row: its seconds over those of batched; empty where that was not measured."""
    batched = _batched_of(row, rows)
    return "" if batched is None else f"{row.seconds_median / batched.seconds_median:.4f}"
