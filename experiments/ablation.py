"""The ablation experiment: what did each step towards the fastest kernel gain on a GPU?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import style
from hashbench.experiments.throughput import CHUNK_SIZE, SIZE, KiB, MiB
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class

CHUNK_SIZES = (CHUNK_SIZE, 64 * KiB, 1 * MiB)
"""From where all of a GPU is busy to where it has fewer chunks than its schedulers want threads."""

STEPS = {
    "bytewise": "byte loads, schedule\nin an array",
    "unrolled": "16-byte loads,\nregisters, unrolled",
    "plain": "SHA-384's rounds\nin a loop",
    "balanced": "work moved to\nidle pipes",
    "prefetched": "L2 cache fetches\n256 bytes a read",
    "paired": "two threads a chunk,\nwhere they are few",
}
"""The variants in the order in which they build on each other, and what is new in each."""

UNCHANGED = {("sha256", "plain"): "unrolled"}
"""Steps that leave an algorithm's code as it was, and the step whose code it is. Beside that one they are not
measured."""

_COLOURS = [style.COLOURS[name] for name in ("blue", "orange", "green", "purple", "sky", "yellow")]

Lane = tuple[str, str, str, int]


class Ablation(Experiment):
    """The variants of the device code on each GPU, each with one step more than the one before."""

    name = "ablation"
    question = "What did each step towards the fastest kernel gain?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """All variants of a kernel that has several, batched; in the short form with the smallest chunks and the
        largest. On a CPU most variants are the same code, so nothing is measured there.
        """
        variants = [name for name in STEPS if name in kernel_class(device.kernel).variants]
        if device.kind != "gpu" or len(variants) < 2:
            return
        chunk_sizes = (CHUNK_SIZES[0], CHUNK_SIZES[-1]) if quick else CHUNK_SIZES
        for algorithm, variant, chunk_size in product(ALGORITHMS, variants, chunk_sizes):
            if UNCHANGED.get((algorithm, variant)) not in variants:
                yield Point(device, "batched", algorithm, (SIZE["gpu"],), chunk_size, variant)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Bars of throughput for one kernel on one GPU, those with the most variants: a panel an algorithm, a group of
        bars a step, and each bar's gain over the step before. The table has every kernel and GPU.
        """
        steps = [row for row in rows if row.variant in STEPS]
        if not steps:
            return []
        kernel, _, device_name, nbytes = lane = _most_varied(steps)
        shown = [row for row in steps if _lane(row) == lane]
        variants = [name for name in STEPS if any(row.variant == name for row in shown)]
        algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in shown)]
        colours = dict(zip(sorted({row.chunk_size or 0 for row in shown}), cycle(_COLOURS), strict=False))
        with style.style():
            figure = style.new_figure(style.PAGE_WIDTH, 1.1 + 1.9 * len(algorithms))
            panels = figure.subplots(len(algorithms), 1, sharex=True, squeeze=False)[:, 0]
            for panel, algorithm in zip(panels, algorithms, strict=True):
                panel.set_title(ALGORITHMS[algorithm].title, loc="left")
                _draw_bars(panel, [row for row in shown if row.algorithm == algorithm], variants, colours)
            panels[-1].set_xticks(range(len(variants)), [f"{name}\n{STEPS[name]}" for name in variants])
            what = f"{kernel}, batched, {format_size(nbytes)}, {device_name}"
            figure.suptitle(f"What each step gained: GB/s, and per cent over the step before\n{what}", fontsize=9)
            keys = [Patch(color=colours[size], linewidth=0, label=f"{format_size(size)} chunks") for size in colours]
            figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return style.save(figure, path, (*_COLUMNS, *_COMPUTED), [_line(row, steps) for row in steps])


EXPERIMENT = Ablation()


def _lane(row: Row) -> Lane:
    """What is drawn together."""
    return row.kernel, row.device, row.device_name, row.bytes


def _most_varied(rows: Sequence[Row]) -> Lane:
    """The lane with the most variants, and of those the one with the most rows; else the first by name."""
    lanes = sorted({_lane(row) for row in rows})
    mine = {lane: [row.variant for row in rows if _lane(row) == lane] for lane in lanes}
    return max(lanes, key=lambda lane: (len(set(mine[lane])), len(mine[lane])))


def _gain(row: Row, rows: Sequence[Row]) -> tuple[str, float] | None:
    """The step before that of `row`, and the gain over it in per cent. None for the first step, and where the one
    before has no row of this chunk size."""
    alike = [r for r in rows if (_lane(r), r.algorithm) == (_lane(row), row.algorithm)]
    steps = [name for name in STEPS if any(r.variant == name for r in alike)]
    place = steps.index(row.variant)
    for other in alike:
        if place and (other.variant, other.chunk_size) == (steps[place - 1], row.chunk_size):
            return other.variant, 100 * (row.gb_per_s / other.gb_per_s - 1)
    return None


def _draw_bars(panel: Axes, rows: Sequence[Row], variants: Sequence[str], colours: Mapping[int, str]) -> None:
    """A group of bars a variant, a bar a chunk size, each with its throughput and its gain; `rows` of one algorithm."""
    width = 0.84 / len(colours)
    for row in rows:
        chunk_size = row.chunk_size or 0
        place = variants.index(row.variant) + (list(colours).index(chunk_size) - (len(colours) - 1) / 2) * width
        slow, fast = row.gb_per_s_range
        error = [[row.gb_per_s - slow], [fast - row.gb_per_s]]
        panel.bar(place, row.gb_per_s, width=0.92 * width, color=colours[chunk_size], linewidth=0)
        panel.errorbar(place, row.gb_per_s, yerr=error, color="black", elinewidth=0.8, capsize=1.5)
        gain = _gain(row, rows)
        panel.annotate(
            f"{row.gb_per_s:.0f}" if gain is None else f"{row.gb_per_s:.0f}\n{_signed(gain[1])}",
            (place, fast),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=6.5,
            linespacing=0.95,
        )
    measured = {row.variant for row in rows}
    for place, variant in enumerate(variants):
        same = UNCHANGED.get((rows[0].algorithm, variant))
        if variant not in measured and same in measured:
            panel.text(place, 0, f"the code of\n{same}", ha="center", va="bottom", fontsize=6.5)
    panel.set_ylabel("GB/s")
    panel.set_xlim(-0.55, len(variants) - 0.45)
    panel.set_ylim(0, 1.22 * max(row.gb_per_s_range[1] for row in rows))
    panel.grid(visible=False)  # each bar has its number
    panel.tick_params(axis="x", length=0)


def _signed(percent: float) -> str:
    """Short enough to stand over a bar: "+0.4", "+23"."""
    return f"{percent:+z.1f}" if abs(percent) < 9.95 else f"{percent:+.0f}"


_COLUMNS = ("kernel", "variant", "device", "device_name", "algorithm", "bytes", "chunk_size", "verified", "gb_per_s")
_COMPUTED = ("gb_per_s_q1", "gb_per_s_q3", "step_before", "gain_percent")


def _line(row: Row, rows: Sequence[Row]) -> tuple[object, ...]:
    """The table's line of `row`."""
    before, gain = _gain(row, rows) or ("", None)
    limits = (f"{limit:.7g}" for limit in row.gb_per_s_range)
    return (*(getattr(row, name) for name in _COLUMNS), *limits, before, "" if gain is None else f"{gain:z.2f}")
