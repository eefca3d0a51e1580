"""The segments experiment: what do many segments cost, and how long does a small one take?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from hashbench.experiment import Experiment, Point
from hashbench.experiments import style
from hashbench.experiments.throughput import CHUNK_SIZE, MiB
from hashbench.kernels import ALGORITHMS, Device
from hashbench.readings import Reading
from hashbench.results import Row
from hashbench.sizes import format_size

SEGMENT = 1 * MiB
COUNT = {"gpu": 1000, "cpu": 100}
"""Segments of one call."""


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
        """Left, the throughput of many segments beside that of one buffer; right, the time of a single segment."""
        lanes = list(dict.fromkeys((row.kernel, row.device, row.algorithm) for row in rows))[::-1]
        single = [row for row in rows if row.bytes == SEGMENT]
        large = [row for row in rows if row.bytes > SEGMENT]
        names = {row.kernel: row.device_name for row in rows}
        with style.style():
            figure = style.new_figure(style.PAGE_WIDTH, 1.2 + 0.42 * len(lanes))
            left, right = figure.subplots(1, 2, sharey=True)
            for row in large:
                many = row.segments > 1
                slow, fast = row.gb_per_s_range
                left.barh(
                    lanes.index((row.kernel, row.device, row.algorithm)) + (-0.2 if many else 0.2),
                    row.gb_per_s,
                    xerr=[[row.gb_per_s - slow], [fast - row.gb_per_s]],
                    height=0.36,
                    color=style.kernel_colour(row.kernel),
                    alpha=1.0 if many else 0.55,
                    error_kw={"elinewidth": 0.8, "capsize": 1.5},
                )
                shape = f"{row.segments:,} x {format_size(SEGMENT)}" if many else "one buffer"
                left.annotate(
                    f"{row.gb_per_s:.3g}  {shape}",
                    (fast, lanes.index((row.kernel, row.device, row.algorithm)) + (-0.2 if many else 0.2)),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=6,
                )
            for row in single:
                place = lanes.index((row.kernel, row.device, row.algorithm))
                for seconds, offset, alpha, clock in (
                    (row.seconds_median, 0.2, 0.55, "device"),
                    (row.wall_seconds_median, -0.2, 1.0, "wall"),
                ):
                    right.barh(
                        place + offset, 1e6 * seconds, height=0.36, color=style.kernel_colour(row.kernel), alpha=alpha
                    )
                    right.annotate(
                        f"{1e6 * seconds:,.0f}  {clock}",
                        (1e6 * seconds, place + offset),
                        xytext=(3, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=6,
                    )
            left.set_yticks(range(len(lanes)), [f"{k} {d}\n{a.upper().replace('SHA', 'SHA-')}" for k, d, a in lanes])
            for panel in (left, right):
                panel.set_xscale("log")
                low, high = panel.get_xlim()
                panel.set_xlim(low / 2, high * 6)
                panel.grid(axis="y", visible=False)
            left.set_xlabel("GB/s, logarithmic")
            right.set_xlabel("microseconds, logarithmic")
            left.set_title("many segments", loc="left")
            right.set_title(f"one segment of {format_size(SEGMENT)}", loc="left")
            devices = " and ".join(dict.fromkeys(names.values()))
            figure.suptitle(f"Trees in chunks of {format_size(CHUNK_SIZE)}\n{devices}", fontsize=9)
        columns = ("kernel", "device", "device_name", "algorithm", "bytes", "segments", "verified", "gb_per_s")
        table = [(*(getattr(row, c) for c in columns), row.seconds_median, row.wall_seconds_median) for row in rows]
        return style.save(figure, path, (*columns, "seconds_median", "wall_seconds_median"), table)


EXPERIMENT = Segments()
