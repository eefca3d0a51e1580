"""The segments experiment: what do many segments cost, and how long does a small one take?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hashbench.experiment import Experiment, Point
from hashbench.experiments import style
from hashbench.experiments.throughput import CHUNK_SIZE, LINEAR_UP_TO, MiB
from hashbench.kernels import ALGORITHMS, Device
from hashbench.readings import Reading
from hashbench.results import Row
from hashbench.sizes import format_size

SEGMENT = 1 * MiB
COUNT = {"gpu": 1000, "cpu": 100}
"""Segments of one call."""

ONE_BUFFER, MANY, SINGLE = "one buffer", "many segments", "one segment"
"""The shapes of a call's input."""


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
        """Left, the throughput of many segments beside that of one buffer; right, the time of a single segment. A row
        of panels an algorithm, a pair of bars a kernel and device.
        """
        newest = _newest(rows)
        shown = list(newest.values())
        lanes = list(dict.fromkeys((row.kernel, row.device) for row in shown))[::-1]
        algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in shown)]
        with style.style():
            figure = style.new_figure(style.PAGE_WIDTH, 1.2 + len(algorithms) * (0.35 + 0.34 * len(lanes)))
            grid = figure.subplots(len(algorithms), 2, sharex="col", sharey=True, squeeze=False)
            for (left, right), algorithm in zip(grid, algorithms, strict=True):
                _draw_throughput(left, algorithm, lanes, newest)
                _draw_seconds(right, algorithm, lanes, newest)
                left.set_title(algorithm.upper().replace("SHA", "SHA-"), loc="left")
                left.set_yticks(range(len(lanes)), [fill(f"{kernel} {device}", 24) for kernel, device in lanes])
                left.set_ylim(-0.6, len(lanes) - 0.4)
            large = [row.gb_per_s_range[1] for row in shown if _shape(row) != SINGLE]
            small = [1e6 * row.wall_seconds_q3 for row in shown if _shape(row) == SINGLE]
            _finish_column(grid[:, 0], large, "GB/s", room=1.42)
            _finish_column(grid[:, 1], small, f"microseconds for one segment of {format_size(SEGMENT)}", room=1.15)
            counts = {f"{row.segments:,} ({row.device_kind.upper()})": None for row in shown if _shape(row) == MANY}
            many = f"{' or '.join(counts)} segments of {format_size(SEGMENT)}, % of one buffer" if counts else MANY
            _add_key(grid[-1, 0], "as many bytes in one buffer", many)
            _add_key(grid[-1, 1], "the device's clock", "the wall's clock")
            names = fill(" and ".join(dict.fromkeys(row.device_name for row in shown)), 90)
            figure.suptitle(f"Trees over many segments and over one, {format_size(CHUNK_SIZE)} chunks\n{names}", fontsize=9)
        return style.save(figure, path, ("shape", *_COLUMNS), [_line(row) for row in shown])


EXPERIMENT = Segments()
