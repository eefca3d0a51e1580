"""The segments experiment: what do many segments cost, and how long does a single small one take?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.frames import SECONDS, SPEED, WALL_SECONDS, Line, Results, lines
from hashbench.bench.sweeps import CHUNK_SIZE, MiB
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device

SEGMENT = 1 * MiB
COUNT = {"gpu": 1000, "cpu": 100}
"""Segments per call, by kind of device."""

ONE_BUFFER, MANY, SINGLE = "one buffer", "many segments", "one segment"
"""The shapes of a call's input."""

_LANE = ["kernel", "device"]

_COLUMNS = [
    *("shape", "kernel", "variant", "device", "device_name", "algorithm", "bytes", "segments", "verified", "gb_per_s"),
    *("seconds_median", "seconds_q1", "seconds_q3"),
    *("wall_seconds_median", "wall_seconds_q1", "wall_seconds_q3"),
]


class Segments(Experiment):
    """Trees over one buffer, over the same bytes in segments of 1 MiB, and over a single such segment."""

    name = "segments"
    question = "What do many segments in one call cost, and how long does a single small one take?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """The same in both forms."""
        count = COUNT[device.kind or "cpu"]
        for algorithm, lengths in product(ALGORITHMS, ((count * SEGMENT,), (SEGMENT,) * count, (SEGMENT,))):
            yield Point(device, "tree", algorithm, lengths, CHUNK_SIZE)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """For each algorithm, the throughput of many segments beside that of one buffer, and below it the time of a
        single segment: two bars per kernel and device in each panel.
        """
        if results.rows.empty:
            return []
        shown = _newest(results.rows)
        single, large = shown[shown["shape"] == SINGLE], shown[shown["shape"] != SINGLE]
        fastest_first = pd.concat(
            [part.sort_values("gb_per_s", ascending=False, kind="stable") for part in (large, single)]
        )
        lanes = list(dict.fromkeys(zip(fastest_first["kernel"], fastest_first["device"], strict=True)))[::-1]
        algorithms = style.algorithms(shown["algorithm"])
        with style.style():
            figure, grid = style.panels([1.8 * style.LANE * len(lanes)] * 2 * len(algorithms), sharey=True)
            for upper, lower, algorithm in zip(grid[::2, 0], grid[1::2, 0], algorithms, strict=True):
                mine = shown[shown["algorithm"] == algorithm]
                for place, (kernel, device) in enumerate(lanes):
                    of_lane = mine[(mine["kernel"] == kernel) & (mine["device"] == device)]
                    shapes = {row.shape: row for row in lines(of_lane)}
                    _draw_throughput(upper, place, shapes)
                    _draw_seconds(lower, place, shapes)
                title = ALGORITHMS[algorithm].title
                upper.set_title(f"{title}: one buffer, and segments", loc="left")
                lower.set_title(f"{title}: one segment of {format_size(SEGMENT)}", loc="left")
                for panel in (upper, lower):
                    style.name_lanes(panel, range(len(lanes)), map(" ".join, lanes))
                    panel.set_ylim(-0.55, len(lanes) - 0.45)
            speeds = [*large["gb_per_s_q1"], *large["gb_per_s_q3"]]
            micros = [1e6 * value for name in ("seconds_q1", "seconds_q3", "wall_seconds_q3") for value in single[name]]
            for panels, values, unit in ((grid[::2, 0], speeds, "GB/s"), (grid[1::2, 0], micros, "microseconds")):
                for panel in panels:
                    _finish_axis(panel, values, unit)
            style.headline(figure, _headline(shown), _title(shown))
            pale, full = (style.kernel_colour("hashlib", half.tint) for half in (_UPPER, _LOWER))
            style.legend(
                figure,
                [
                    Patch(color=pale, linewidth=0, label="pale: one buffer, device time"),
                    Patch(color=full, linewidth=0, label="full: segments, wall clock"),
                ],
            )
        return style.save(figure, path, shown[_COLUMNS])


EXPERIMENT = Segments()


@dataclass(frozen=True)
class _Half:
    """One bar of each pair: its distance from the pair's place, and how much of the kernel's colour it has."""

    offset: float
    tint: float


_UPPER, _LOWER = _Half(0.2, 0.5), _Half(-0.2, 1.0)


def _newest(rows: pd.DataFrame) -> pd.DataFrame:
    """The newest row of each kernel, device, algorithm and `shape`: others may be of another variant or size."""
    shape = (rows["bytes"] == SEGMENT).map({True: SINGLE, False: ONE_BUFFER}).where(rows["segments"] == 1, MANY)
    rows = rows.assign(shape=shape)
    keys = [*_LANE, "algorithm", "shape"]
    order = rows.groupby(keys, sort=False).ngroup()
    newest = rows.assign(order=order).sort_values("date", kind="stable").drop_duplicates(keys, keep="last")
    return newest.sort_values("order")


def _draw_throughput(panel: Axes, place: int, shapes: Mapping[str, Line]) -> None:
    one, many = shapes.get(ONE_BUFFER), shapes.get(MANY)
    share = f" ({many.gb_per_s / one.gb_per_s:.1%})" if one and many else ""
    for row, half, note in ((one, _UPPER, ""), (many, _LOWER, share)):
        if row is not None:
            text = (f"{row.gb_per_s:,.0f}" if row.gb_per_s >= 100 else f"{row.gb_per_s:.3g}") + note
            _draw_bar(panel, place, half, row.kernel, [getattr(row, name) for name in SPEED], text)


def _draw_seconds(panel: Axes, place: int, shapes: Mapping[str, Line]) -> None:
    if (row := shapes.get(SINGLE)) is not None:
        for columns, half in ((SECONDS, _UPPER), (WALL_SECONDS, _LOWER)):
            micros = [1e6 * getattr(row, name) for name in columns]
            _draw_bar(panel, place, half, row.kernel, micros, f"{micros[1]:,.0f}")


def _draw_bar(panel: Axes, place: int, half: _Half, kernel: str, value: style.Spread, text: str) -> None:
    """One bar of the pair at `place`."""
    style.bar(
        panel,
        place + half.offset,
        value,
        text,
        look={"height": 0.38, **style.solid(kernel, half.tint)},
    )


def _finish_axis(panel: Axes, values: Sequence[float], unit: str) -> None:
    """The axis below a panel, with room for the numbers beside the bars."""
    linear = style.is_linear(values)
    if not linear:
        panel.set_xscale("log")
        style.plain_numbers(panel.xaxis, "{:,g}")
        panel.set_xlim(0.4 * min(values), max(values) * (max(values) / min(values)) ** 0.4)
    elif values:
        panel.set_xlim(0, 1.35 * max(values))
    panel.set_xlabel(unit if linear else f"{unit}, logarithmic")


def _headline(rows: pd.DataFrame) -> str:
    """What the fastest kernel loses where a buffer is many segments."""
    many = rows[rows["shape"] == MANY].sort_values("gb_per_s", ascending=False, kind="stable")
    for best in lines(many):
        mine = (rows["kernel"] == best.kernel) & (rows["device"] == best.device) & (rows["algorithm"] == best.algorithm)
        one = rows["gb_per_s"][mine & (rows["shape"] == ONE_BUFFER)]
        if len(one):
            share = best.gb_per_s / one.iloc[-1]
            return f"{best.segments:,} segments: {share:.1%} of the speed of one buffer, by {best.kernel}"
    return "How long one segment takes"


def _title(rows: pd.DataFrame) -> str:
    many = rows[rows["shape"] == MANY]
    counts = dict.fromkeys(zip(many["segments"], many["device_kind"], strict=True))
    on_each = ", ".join(f"{count:,} on the {kind.upper()}" for count, kind in counts)
    segments = f"segments of {format_size(SEGMENT)}{f' ({on_each})' if on_each else ''}"
    return f"Trees over {segments} in chunks of {style.sizes(rows['chunk_size'])}: {style.names(rows['device_name'])}"
