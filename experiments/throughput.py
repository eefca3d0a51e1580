"""The standard experiment: how fast does each kernel of this machine hash, batched and as a tree?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import cycle, product
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.frames import SPEED, Line, Results, lines
from hashbench.bench.lanes import apart, labels, lane_of, largest, of_lane
from hashbench.bench.results import REFERENCE
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE, STRATEGIES, KiB, MiB
from hashbench.bench.text_table import number
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device

CHUNK_SIZES = (1 * KiB, CHUNK_SIZE, 16 * KiB, 64 * KiB, 256 * KiB, 1 * MiB)

_COLUMNS = ["kernel", "variant", "device", "device_name", "algorithm", "strategy", "bytes", "chunk_size", "verified"]


class Throughput(Experiment):
    """Kernels and devices, strategies and algorithms; in the full form chunk sizes too."""

    name = "throughput"
    question = "How fast does each kernel of this machine hash, batched and as a tree?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """One chunk size in the short form."""
        chunk_sizes = (CHUNK_SIZE,) if quick else CHUNK_SIZES
        for algorithm, strategy, chunk_size in product(ALGORITHMS, STRATEGIES, chunk_sizes):
            yield Point(device, strategy, algorithm, (SIZE[device.kind or "cpu"],), chunk_size)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Bars of throughput. If there are several chunk sizes, also lines over them, a figure per kind of device."""
        rows = largest(results.rows)
        common = rows[rows["chunk_size"] == CHUNK_SIZE]
        drawn = _save(_bars, rows if common.empty else common, path)
        for kind in ("gpu", "cpu"):
            part = rows[(rows["device_kind"] == kind) & rows["chunk_size"].notna()]
            if part["chunk_size"].nunique() > 1:
                drawn += _save(_lines, part, path.with_name(f"{path.name}_by_chunk_size_{kind}"))
        return drawn


EXPERIMENT = Throughput()


def _is_reference(row: Line) -> bool:
    return (row.kernel, row.device) == REFERENCE


def _bars(rows: pd.DataFrame) -> Figure:
    linear = style.is_linear(rows["gb_per_s"])
    named = labels(rows)
    lanes = list(named)[::-1]
    with style.style():
        figure, panels = _panels(rows, style.LANE * (len(lanes) + 0.4))
        for panel, part in panels:
            if not linear:
                panel.set_xscale("log")
            for row in lines(part):
                _bar(panel, lanes.index(lane_of(row)), row)
            style.name_lanes(panel, range(len(lanes)), [named[lane] for lane in lanes], 1.4)
            panel.set_ylim(-0.7, len(lanes) - 0.3)
            style.plain_numbers(panel.xaxis, "{:,g}")
            panel.set_xlabel("GB/s" if linear else "GB/s, logarithmic")
            panel.label_outer()
        low = 0.0 if linear else 0.5 * rows["gb_per_s"].min()
        panels[0][0].set_xlim(low, rows["gb_per_s_q3"].max() * (1.2 if linear else 4))
        _finish(figure, rows, f" in chunks of {style.sizes(rows['chunk_size'])}")
    return figure


def _bar(panel: Axes, place: int, row: Line) -> None:
    style.bar(
        panel,
        place,
        [getattr(row, name) for name in SPEED],
        f"{row.gb_per_s:.3g}",
        look={"height": 0.74, **style.solid(row.kernel)},
        error={"label": "quartiles of the repeats"},
        label={"bbox": style.VALUE_BOX},
    )
    if _is_reference(row):
        panel.axvline(row.gb_per_s, color="black", linestyle=style.DASHES, linewidth=0.9, label="hashlib on one core")


def _lines(rows: pd.DataFrame) -> Figure:
    sizes, named = sorted(set(rows["chunk_size"])), labels(rows)
    with style.style():
        figure, panels = _panels(rows, 1.15, columns=2)
        for panel, part in panels:
            drawn, others = apart(part, named, ["chunk_size"])
            style.note(panel, others)
            for (lane, label), mark in zip(drawn.items(), cycle("osD^vP*X"), strict=False):
                points = of_lane(part, lane).sort_values("chunk_size", kind="stable")
                if not points.empty:
                    style.line(
                        panel,
                        points["chunk_size"],
                        style.spreads(points, SPEED),
                        color=style.kernel_colour(lane[0]),
                        linestyle=":" if _is_reference(next(lines(points))) else "-",
                        marker=mark,
                        label=label,
                    )
            panel.set_xscale("log", base=2)
            panel.tick_params(axis="x", labelrotation=90)
            panel.set_xticks(sizes, list(map(format_size, sizes)))
            panel.minorticks_off()
            panel.set_ylim(0, 1.08 * rows["gb_per_s_q3"].max())
            panel.set_xlabel("chunk size")
            panel.set_ylabel("GB/s")
            panel.label_outer()
        _finish(figure, rows, " by chunk size")
    return figure


def _panels(rows: pd.DataFrame, height: float, columns: int = 1) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A figure with a panel per algorithm and strategy, each `height` inches high, and the rows that belong there."""
    algorithms = style.algorithms(rows["algorithm"])
    strategies = [name for name in STRATEGIES if (rows["strategy"] == name).any()]
    shown = list(product(algorithms, strategies))
    columns = min(columns, len(strategies))
    figure, grid = style.panels([height] * (len(shown) // columns), columns, sharex=True, sharey=True)
    panels = []
    for panel, (algorithm, strategy) in zip(grid.flat, shown, strict=True):
        panel.set_title(f"{ALGORITHMS[algorithm].title}, {strategy}", loc="left")
        panels.append((panel, rows[(rows["algorithm"] == algorithm) & (rows["strategy"] == strategy)]))
    return figure, panels


def _finish(figure: Figure, rows: pd.DataFrame, what: str) -> None:
    """The title, with the devices' names, and one legend for all panels."""
    measured = sorted(set(zip(rows["device_kind"], rows["bytes"], strict=True)), reverse=True)
    sizes = " and ".join(f"{format_size(nbytes)} ({kind.upper()})" for kind, nbytes in measured)
    best = rows.sort_values("gb_per_s", ascending=False, kind="stable").drop_duplicates("algorithm")
    speeds = [
        f"{number(row.gb_per_s)} GB/s of {ALGORITHMS[row.algorithm].title} by {row.kernel}" for row in lines(best)
    ]
    devices = style.names(sorted(rows["device_name"]))
    style.headline(figure, f"Up to {' and '.join(speeds)}", f"Throughput, {sizes}{what}: {devices}")
    style.legend_of_panels(figure)


def _save(draw: Callable[[pd.DataFrame], Figure], rows: pd.DataFrame, path: Path) -> list[Path]:
    quartiles = rows[["gb_per_s_q1", "gb_per_s_q3"]].apply(style.seven_digits)
    return style.save(draw(rows), path, rows[[*_COLUMNS, "gb_per_s"]].join(quartiles))
