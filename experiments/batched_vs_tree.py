"""The batched-vs-tree experiment: what does the tree cost, and which chunk size is best?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from hashbench.bench.experiment import Point
from hashbench.bench.frames import LANE, SECONDS, SPEED, WALL_SECONDS, Line, Results, highest, joined, lines, where
from hashbench.bench.lanes import Lane, labels, lane_of, largest, of_lane
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE, KiB, MiB
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, Strategy
from hashbench.report import findings

TREE_COST = 0.05
"""What a tree may cost, as a share of the time of its chunks' digests."""

COMPARED: tuple[Strategy, ...] = ("batched", "leaves", "tree")
"""The digests of the chunks; the same with the leaf prefix; and the nodes above the leaves too."""

CHUNK_SIZES = (256, 1 * KiB, 4 * KiB, 16 * KiB, 64 * KiB, 256 * KiB, 1 * MiB)
QUICK_CHUNK_SIZES = (1 * KiB, CHUNK_SIZE, 64 * KiB)

TENSORS = (4 * KiB, 64 * KiB, 1 * MiB, 16 * MiB)
"""Sizes of the small tensors, in bytes."""

TENSOR_CHUNK_SIZES = (256, 1 * KiB, 4 * KiB, 16 * KiB)

_LOOKS: Mapping[str, Mapping[str, Any]] = {
    "batched": {"color": "black", "marker": "o", "linestyle": "-"},
    "leaves": {"color": "#999999", "marker": "D", "linestyle": ":"},
    "tree": {"marker": "s", "linestyle": "-"},
}
"""How the line of each strategy looks; that of the tree has the kernel's colour."""

_TENSOR_LOOKS: Mapping[int, tuple[str, float]] = {
    256: ("v", 0.4),
    1 * KiB: ("^", 0.6),
    4 * KiB: ("P", 0.8),
    16 * KiB: ("X", 1.0),
}
"""How the line of each chunk size of the small tensors looks: its mark, and how much of the kernel's colour it has."""

_COLUMNS = [
    *("kernel", "variant", "device", "device_name", "algorithm", "strategy", "bytes", "chunk_size", "verified"),
    *("gb_per_s", "seconds_median", "seconds_q1", "seconds_q3"),
    *("wall_seconds_median", "wall_seconds_q1", "wall_seconds_q3"),
]


class BatchedVsTree(findings.ClaimExperiment):
    """One large buffer batched, as leaves and as a tree over chunk sizes; and the trees of small tensors."""

    name = "batched-vs-tree"
    question = "What does the tree cost, and which chunk size is best?"
    rule = (
        "For each algorithm and GPU: with the chunk size at which the tree is fastest, it takes at most "
        f"{TREE_COST:.0%} more time than the digests of the same chunks without a tree. If it takes over "
        f"{findings.MARGIN:.0%} less, a measurement is wrong, and the check has no answer."
    )

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """All strategies at each chunk size side by side, then the small tensors."""
        nbytes = SIZE[device.kind or "cpu"]
        for algorithm in ALGORITHMS:
            for chunk_size, strategy in product(QUICK_CHUNK_SIZES if quick else CHUNK_SIZES, COMPARED):
                yield Point(device, strategy, algorithm, (nbytes,), chunk_size)
            for chunk_size, length in product((CHUNK_SIZE,) if quick else TENSOR_CHUNK_SIZES, TENSORS):
                yield Point(device, "tree", algorithm, (length,), chunk_size)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """A figure of the fastest kernel for each kind of device, with a table of all kernels.

        A column of panels per algorithm: throughput over chunk sizes, the tree's time beyond batched, and the time of
        small tensors.
        """
        rows = results.rows
        kinds = [kind for kind in ("gpu", "cpu") if (rows["device_kind"] == kind).any()]
        drawn = []
        for kind in kinds:
            name = path.name if kind == kinds[0] else f"{path.name}_{kind}"
            drawn += _draw(rows[rows["device_kind"] == kind], path.with_name(name))
        return drawn

    def finding(self, results: Results) -> findings.Finding:
        """What the tree costs at its best chunk size."""
        both = _over_batched(findings.on_gpus(results, "batched", "tree"))
        trees = both.query("strategy == 'tree' and over_batched.notna()")
        shown = findings.of_each_gpu(trees.assign(cost=trees["over_batched"] - 1), _of_fastest)
        gpu = ["algorithm", *findings.GPU]
        digests = findings.fastest(shown, *gpu, speed="gb_per_s_batched")
        best = findings.fastest(shown, *gpu).merge(digests, on=gpu, suffixes=("", "_of_digests"))
        checks = [
            findings.worst(
                part,
                "cost",
                f"{title}: at the best chunk size, does the tree take at most {TREE_COST:.0%} more time than the "
                "digests of the same chunks?",
                _told,
                "Batched and tree were not measured at one point of a GPU.",
                at_most=TREE_COST,
                impossible=lambda tree: f"{_told(tree)} A tree cannot take less",
            )
            for title, part in findings.by_algorithm(best)
        ]
        columns: Columns = {
            "algorithm": findings.algorithm_title,
            "chunk": ("chunk_size", format_size),
            "input": ("bytes", format_size),
            "batched, GB/s": ("gb_per_s_batched", number),
            "tree, GB/s": ("gb_per_s", number),
            "cost in time": ("cost", "{:+.1%}".format),
            "kernel and device": where,
        }
        return findings.Finding.of(checks, shown, columns)


EXPERIMENT = BatchedVsTree()


def _over_batched(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the columns of the batched row of the same input, which have the suffix `_batched`, and the ratio of
    their seconds over it: `over_batched`, and the least and the most that the quartiles allow."""
    alike = ["machine", *LANE, "algorithm", "model", "bytes", "chunk_size", "segments"]
    batched = rows[rows["strategy"] == "batched"].drop_duplicates(alike)[[*alike, *SECONDS, "gb_per_s"]]
    both = rows.merge(batched, on=alike, how="left", suffixes=("", "_batched"))
    return both.assign(
        over_batched_q1=both["seconds_q1"] / both["seconds_q3_batched"],
        over_batched=both["seconds_median"] / both["seconds_median_batched"],
        over_batched_q3=both["seconds_q3"] / both["seconds_q1_batched"],
    )


# The claim -----------------------------------------------------------------------------------------------------------


def _of_fastest(trees: pd.DataFrame) -> pd.DataFrame:
    """The trees of the lane and input with the fastest one, over all chunk sizes, the smallest chunks first."""
    trees = trees.sort_values("chunk_size", kind="stable")
    best = highest(trees, "gb_per_s")
    return of_lane(trees[trees["bytes"] == best.bytes], lane_of(best))


def _told(tree: Line) -> str:
    return (
        f"{tree.cost:+.1%} at {format_size(tree.chunk_size)}: {number(tree.gb_per_s)} GB/s as a tree, "
        f"{number(tree.gb_per_s_batched)} GB/s batched, by {where(tree)}. The best of each: "
        f"{tree.seconds_median / tree.seconds_median_batched_of_digests - 1:+.1%} over "
        f"{number(tree.gb_per_s_batched_of_digests)} GB/s batched at {format_size(tree.chunk_size_of_digests)}."
    )


# The figure ----------------------------------------------------------------------------------------------------------


def _headline(rows: pd.DataFrame) -> str:
    """What the fastest tree costs over its chunks' digests."""
    trees = rows.query("strategy == 'tree' and over_batched.notna()") if len(rows) else rows
    if trees.empty:
        return "How long a small tensor takes"
    best = next(lines(trees.sort_values("gb_per_s", ascending=False, kind="stable")))
    added = best.over_batched - 1
    more = f"{added:.1%} more" if added > 0 else "no more"
    return (
        f"A tree takes {more} time than its chunks' digests: "
        f"{ALGORITHMS[best.algorithm].title}, {format_size(best.chunk_size)} chunks"
    )


def _draw(rows: pd.DataFrame, path: Path) -> list[Path]:
    is_small = rows["bytes"].isin(TENSORS)
    large, small = largest(rows[~is_small]), rows[is_small]
    lane = _shown(small if large.empty else large)
    shown, tensors = _over_batched(of_lane(large, lane)), of_lane(small, lane)
    both = joined(shown, tensors)
    algorithms = style.algorithms(both["algorithm"])
    with style.style():
        figure, grid = style.panels([1.1] * 3, len(algorithms), sharex="row", sharey="row")
        for panels, algorithm in zip(grid.T, algorithms, strict=True):
            mine = shown[shown["algorithm"] == algorithm].sort_values("chunk_size", kind="stable")
            colour = style.kernel_colour(lane[0])
            _draw_speed(panels[0], mine, colour)
            _draw_cost(panels[1], mine, colour)
            _draw_latency(panels[2], tensors[tensors["algorithm"] == algorithm], lane[0])
            for panel, what in zip(panels, ("throughput", "time added", "small tensors"), strict=True):
                panel.set_title(f"{ALGORITHMS[algorithm].title}, {what}", loc="left")
        _finish(grid)
        label = labels(both)[lane].replace("\n", " ")
        size = " and ".join(sorted(set(map(format_size, shown["bytes"]))))
        subject = f"Batched against tree over {size} in one buffer, and trees of small tensors"
        style.headline(figure, _headline(shown), f"{subject}: {label}: {both['device_name'].iloc[0]}")
        style.legend_of_panels(figure)
    table = _over_batched(joined(large, small))
    ratios = table["over_batched"].map(lambda ratio: "" if pd.isna(ratio) else f"{ratio:.4f}")
    return style.save(figure, path, table[_COLUMNS].assign(seconds_over_batched=ratios))


def _shown(rows: pd.DataFrame) -> Lane:
    """The lane to draw: of those measured at the most points, the fastest."""
    lanes = {lane: of_lane(rows, lane) for lane in map(lane_of, lines(rows))}
    return max(lanes, key=lambda lane: (len(lanes[lane]), lanes[lane]["gb_per_s"].max()))


def _draw_speed(panel: Axes, rows: pd.DataFrame, colour: str) -> None:
    for strategy, looks in _LOOKS.items():
        points = rows[rows["strategy"] == strategy]
        if not points.empty:
            spreads = style.spreads(points, SPEED)
            style.line(panel, points["chunk_size"], spreads, label=strategy, **{"color": colour, **looks})
    trees = rows[rows["strategy"] == "tree"]
    if not trees.empty:
        best = highest(trees, "gb_per_s")
        text = f"tree's best: {best.gb_per_s:.3g} GB/s\nin {format_size(best.chunk_size)} chunks"
        panel.text(0.03, 0.05, text, transform=panel.transAxes, fontsize=style.SMALL, bbox=style.VALUE_BOX)


def _draw_cost(panel: Axes, rows: pd.DataFrame, colour: str) -> None:
    for strategy in ("leaves", "tree"):
        points = rows[(rows["strategy"] == strategy) & rows["over_batched"].notna()]
        if points.empty:
            continue
        ratios = style.spreads(points, ("over_batched_q1", "over_batched", "over_batched_q3"))
        costs = [[100 * (ratio - 1) for ratio in spread] for spread in ratios]
        style.line(panel, points["chunk_size"], costs, label=strategy, **{"color": colour, **_LOOKS[strategy]})
        if strategy == "tree":
            best = highest(points, "gb_per_s")
            text = f"{best.over_batched - 1:.1%} where it is\nfastest, at {format_size(best.chunk_size)}"
            where: dict[str, Any] = {"transform": panel.transAxes, "ha": "right", "va": "top"}
            panel.text(0.98, 0.97, text, fontsize=style.SMALL, bbox=style.VALUE_BOX, **where)
    panel.axhline(0, color=_LOOKS["batched"]["color"], linewidth=0.9)


def _draw_latency(panel: Axes, rows: pd.DataFrame, kernel: str) -> None:
    for chunk_size, (mark, tint) in _TENSOR_LOOKS.items():
        points = rows[rows["chunk_size"] == chunk_size].sort_values("bytes", kind="stable")
        if not points.empty:
            looks = {"color": style.kernel_colour(kernel, tint), "marker": mark}
            label = f"tree, {_size(chunk_size)} chunks"
            style.line(panel, points["bytes"], style.spreads(points, WALL_SECONDS, 1e6), label=label, **looks)


def _finish(grid: Any) -> None:
    """The axes of the three rows of panels."""
    speed, cost, latency = grid[:, 0]
    speed.set_ylim(bottom=0)
    low, high = cost.get_ylim()
    cost.set_ylim(low, high + 0.3 * (high - low))  # room for the text above the lines
    latency.set_yscale("log")
    latency.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    style.plain_numbers(latency.yaxis)
    latency.minorticks_off()
    for panels, unit, axis, sizes in zip(
        grid,
        ("GB/s", "% over batched", "microseconds (wall clock)"),
        ("chunk size", "chunk size", "bytes of the tensor"),
        (CHUNK_SIZES, CHUNK_SIZES, TENSORS),
        strict=True,
    ):
        panels[0].set_ylabel(unit)
        for panel in panels:
            panel.set_xscale("log", base=2)
            panel.set_xlim(sizes[0] / 2, 2 * sizes[-1])
            panel.set_xticks(sizes, list(map(_size, sizes)), rotation=90)
            panel.minorticks_off()
            panel.set_xlabel(axis)


def _size(nbytes: int) -> str:
    return format_size(nbytes) if nbytes >= KiB else f"{nbytes}B"
