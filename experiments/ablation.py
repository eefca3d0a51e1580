"""The ablation experiment: what did each step towards the fastest kernel gain on a GPU?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from matplotlib.axes import Axes

from hashbench.experiment import Experiment, Point
from hashbench.experiments import style
from hashbench.experiments.throughput import CHUNK_SIZE, QUICK_SIZE, KiB
from hashbench.kernels import ALGORITHMS, Device, kernel_class
from hashbench.readings import Reading
from hashbench.results import Row
from hashbench.sizes import format_size

CHUNK_SIZES = (CHUNK_SIZE, 64 * KiB, 512 * KiB)
"""From where all of a GPU is busy to where each of its schedulers has one warp."""

STEPS = {
    "bytewise": "byte loads,\nschedule in an array",
    "unrolled": "16-byte loads,\nregisters, unrolled",
    "plain": "SHA-384's rounds\nin a loop",
    "balanced": "work moved to\nidle pipes",
    "prefetched": "L2 cache fetches\n256 bytes a read",
}
"""The variants in the order in which they build on each other, and what is new in each."""

UNCHANGED = {("sha256", "plain")}
"""Steps that leave an algorithm's code as it was; they are neither measured nor drawn."""

_COLOURS = (style.COLOURS["blue"], style.COLOURS["orange"], style.COLOURS["green"])
_HATCHES = ("", "//", "..")


class Ablation(Experiment):
    """The variants of the device code on each GPU, each with one step more than the one before."""

    name = "ablation"
    question = "What did each step towards the fastest kernel gain?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """All variants that the device's kernel has, batched; one size of chunks in the short form. On a CPU most of
        them are the same, so there nothing.
        """
        variants = [name for name in STEPS if name in kernel_class(device.kernel).variants]
        if device.kind != "gpu":
            return
        for algorithm, variant, chunk_size in product(ALGORITHMS, variants, CHUNK_SIZES[:1] if quick else CHUNK_SIZES):
            if (algorithm, variant) not in UNCHANGED:
                yield Point(device, "batched", algorithm, (QUICK_SIZE["gpu"],), chunk_size, variant)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Bars of throughput for the kernel with the most variants: a panel an algorithm, a group of bars a step."""
        kernel = max({row.kernel for row in rows}, key=lambda name: len({r.variant for r in rows if r.kernel == name}))
        shown = [row for row in rows if row.kernel == kernel]
        algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in shown)]
        with style.style():
            figure = style.new_figure(style.PAGE_WIDTH, 0.8 + 2.0 * len(algorithms))
            panels = figure.subplots(len(algorithms), 1, squeeze=False)[:, 0]
            for panel, algorithm in zip(panels, algorithms, strict=True):
                _panel(panel, algorithm, [row for row in shown if row.algorithm == algorithm])
            (device,) = {row.device_name for row in shown}
            (nbytes,) = {row.bytes for row in shown}
            figure.suptitle(f"Each step's gain: {kernel}, batched, {format_size(nbytes)}\n{device}", fontsize=9)
            handles, labels = panels[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        columns = ("kernel", "variant", "device_name", "algorithm", "bytes", "chunk_size", "verified")
        table = [
            (*(getattr(row, c) for c in columns), row.gb_per_s, *(f"{limit:.7g}" for limit in row.gb_per_s_range))
            for row in shown
        ]
        return style.save(figure, path, (*columns, "gb_per_s", "gb_per_s_q1", "gb_per_s_q3"), table)


EXPERIMENT = Ablation()


def _panel(panel: Axes, algorithm: str, rows: Sequence[Row]) -> None:
    """Grouped bars; above the first of each group its gain over the group before."""
    by_place = {(row.variant, row.chunk_size): row for row in rows}
    variants = [name for name in STEPS if any(row.variant == name for row in rows)]
    chunk_sizes = sorted({row.chunk_size or 0 for row in rows})
    width = 0.8 / len(chunk_sizes)
    for i, chunk_size in enumerate(chunk_sizes):
        present = [(place, by_place[v, chunk_size]) for place, v in enumerate(variants) if (v, chunk_size) in by_place]
        panel.bar(
            [place + (i - (len(chunk_sizes) - 1) / 2) * width for place, _ in present],
            [row.gb_per_s for _, row in present],
            width=0.92 * width,
            color=_COLOURS[i],
            hatch=_HATCHES[i],
            edgecolor="white",
            linewidth=0,
            yerr=[
                [row.gb_per_s - row.gb_per_s_range[0] for _, row in present],
                [row.gb_per_s_range[1] - row.gb_per_s for _, row in present],
            ],
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
            label=f"{format_size(chunk_size)} chunks",
        )
        before = None
        for place, row in present:
            gain = "" if before is None else f"\n{100 * (row.gb_per_s / before - 1):+.1f} %"
            before = row.gb_per_s
            panel.annotate(
                f"{row.gb_per_s:.0f}{gain}",
                (place + (i - (len(chunk_sizes) - 1) / 2) * width, row.gb_per_s_range[1]),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=6,
            )
    panel.set_xticks(range(len(variants)), [f"{name}\n{STEPS[name]}" for name in variants], fontsize=6.5)
    panel.set_title(algorithm.upper().replace("SHA", "SHA-"), loc="left")
    panel.set_ylabel("GB/s")
    panel.set_ylim(0, 1.22 * max(row.gb_per_s_range[1] for row in rows))
    panel.grid(axis="x", visible=False)
