"""The ablation experiment: what did each step towards the fastest kernel gain on a GPU?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hashbench.bench.experiment import Experiment, Point
from hashbench.bench.frames import SPEED, Results, lines
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE, KiB, MiB
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class

CHUNK_SIZES = (CHUNK_SIZE, 64 * KiB, 512 * KiB, 1 * MiB)
"""From a size at which a whole GPU is busy to one that leaves its schedulers short of threads."""

STEPS = {
    "bytewise": "byte loads, schedule in an array",
    "unrolled": "16-byte loads, registers, unrolled",
    "plain": "SHA-384's rounds in a loop",
    "balanced": "work moved to idle pipes",
    "prefetched": "L2 cache fetches 256 bytes a read",
    "paired": "two threads a chunk, where they are few",
    "rotated": "SHA-384's rotations on the multiply-add pipe",
    "early": "next block loaded early, where chunks are few",
    "held": "SHA-256: these loads kept early",
    "queued": "for two threads: rounds in a loop, blocks by copies",
    "reordered": "SHA-256's schedule in another order",
    "tabled": "schedules of padding and nodes from tables",
    "sliced": "slices that fill the GPU, of large chunks",
}
"""The variants, in the order in which they build on each other, and what each adds."""

UNCHANGED = {
    ("sha256", "plain"): "unrolled",
    ("sha256", "rotated"): "paired",
    ("sha384", "held"): "early",
    ("sha384", "reordered"): "queued",
    ("sha384", "sliced"): "tabled",
}
"""Steps that do not change an algorithm's code, and the step with the same code. If a kernel has that one too, they are
not measured."""

_LANE = ["kernel", "device", "device_name", "bytes"]
"""What is drawn together."""


class Ablation(Experiment):
    """The variants of the device code on each GPU. Each adds one step to the one before."""

    name = "ablation"
    question = "What did each step towards the fastest kernel gain?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """All variants of a kernel that has several, batched; in the short form only the smallest and largest chunks.

        On a CPU most variants are the same code, so nothing is measured there.
        """
        variants = [name for name in STEPS if name in kernel_class(device.kernel).variants]
        if device.kind != "gpu" or len(variants) < 2:
            return
        chunk_sizes = (CHUNK_SIZES[0], CHUNK_SIZES[-1]) if quick else CHUNK_SIZES
        for algorithm, variant, chunk_size in product(ALGORITHMS, variants, chunk_sizes):
            if UNCHANGED.get((algorithm, variant)) not in variants:
                yield Point(device, "batched", algorithm, (SIZE["gpu"],), chunk_size, variant)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Bars of throughput for the kernel and GPU with the most variants: a figure of each algorithm, a group of bars
        per step, and each bar's gain over the step before. Larger chunks are paler.

        The tables have every kernel and GPU.
        """
        steps = _gains(results.rows[results.rows["variant"].isin(STEPS)])
        if steps.empty:
            return []
        shown = _most_varied(steps)
        variants = [name for name in STEPS if (shown["variant"] == name).any()]
        written: list[Path] = []
        for algorithm in style.algorithms(shown["algorithm"]):
            drawn, table = (frame[frame["algorithm"] == algorithm] for frame in (shown, steps))
            figure = _draw(drawn, variants)
            written += style.save(figure, path.with_name(f"{path.name}_{algorithm}"), _table(table))
        return written


EXPERIMENT = Ablation()


def _headline(steps: pd.DataFrame) -> str:
    """What all steps of an algorithm gained together, where it is most."""
    gains = []
    for _, part in steps.groupby("chunk_size"):
        speed = dict(zip(part["variant"], part["gb_per_s"], strict=True))
        speeds = [speed[name] for name in STEPS if name in speed]
        row = next(lines(part))
        where = f"{ALGORITHMS[row.algorithm].title} in {format_size(row.chunk_size)} chunks"
        gains.append((speeds[-1] / speeds[0], f"{where}: {speeds[0]:,.0f} to {speeds[-1]:,.0f} GB/s"))
    ratio, text = max(gains)
    return f"All steps together: {ratio:.1f} times as fast. {text}"


def _most_varied(steps: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lane with the most variants; of several, with the most rows; else the first by name."""
    lanes = [lane for _, lane in steps.groupby(_LANE)]
    return max(lanes, key=lambda lane: (lane["variant"].nunique(), len(lane)))


def _gains(steps: pd.DataFrame) -> pd.DataFrame:
    """`steps`, with the step before each, among those of its lane and algorithm, and the gain over it in per cent. Both
    are empty for the first step, and if the step before has no row of the same chunk size."""
    series = [*_LANE, "algorithm"]
    order = steps["variant"].map(list(STEPS).index)
    rank = order.groupby([steps[name] for name in series]).rank("dense")
    here = steps.assign(rank=rank)
    before = here.assign(rank=rank + 1)[[*series, "chunk_size", "rank", "variant", "gb_per_s"]]
    before = before.rename(columns={"variant": "step_before", "gb_per_s": "before"})
    both = here.merge(before, on=[*series, "chunk_size", "rank"], how="left")
    return both.assign(
        step_before=both["step_before"].fillna(""), gain_percent=100 * (both["gb_per_s"] / both["before"] - 1)
    )


def _draw(rows: pd.DataFrame, variants: Sequence[str]) -> Figure:
    """The rows of one lane and algorithm."""
    kernel, _, device_name, nbytes = rows[_LANE].iloc[0]
    sizes = sorted(set(rows["chunk_size"]))
    looks = {size: style.solid(kernel, 1 - 0.7 * place / len(sizes)) for place, size in enumerate(sizes)}
    with style.style():
        figure, grid = style.panels([style.LANE * (0.8 * len(sizes) + 0.6) * len(variants)])
        panel = grid[0, 0]
        panel.set_title(ALGORITHMS[rows["algorithm"].iloc[0]].title, loc="left")
        _draw_bars(panel, rows, variants, looks)
        panel.set_xlim(0, 1.42 * rows["gb_per_s_q3"].max())
        panel.set_xlabel("GB/s (and % over the step before)")
        what = f"{kernel}, batched, {format_size(nbytes)}, {device_name}"
        style.headline(figure, _headline(rows), f"Throughput after each step: {what}")
        keys = [Patch(**look, label=f"{format_size(size)} chunks") for size, look in looks.items()]
        style.legend(figure, keys)
    return figure


def _table(steps: pd.DataFrame) -> pd.DataFrame:
    texts = steps[["gb_per_s_q1", "gb_per_s_q3"]].apply(style.seven_digits)
    texts["step_before"] = steps["step_before"]
    texts["gain_percent"] = steps["gain_percent"].map(lambda gain: "" if pd.isna(gain) else f"{gain:z.2f}")
    return steps[_COLUMNS].join(texts)


def _draw_bars(
    panel: Axes, rows: pd.DataFrame, variants: Sequence[str], looks: Mapping[int, Mapping[str, Any]]
) -> None:
    """A group of bars per variant, a bar per chunk size, each with its throughput and its gain."""
    width = 0.82 / len(looks)
    for row in lines(rows):
        place = variants.index(row.variant) + (list(looks).index(row.chunk_size) - (len(looks) - 1) / 2) * width
        style.bar(
            panel,
            place,
            [getattr(row, name) for name in SPEED],
            f"{row.gb_per_s:.0f}" + ("" if pd.isna(row.gain_percent) else f" ({_signed(row.gain_percent)} %)"),
            look={"height": 0.92 * width, **looks[row.chunk_size]},
        )
    measured = set(rows["variant"])
    for place, variant in enumerate(variants):
        same = UNCHANGED.get((rows["algorithm"].iloc[0], variant))
        if variant not in measured and same in measured:
            style.write_value(panel, place, f"the code of {same}", end=0)
    style.name_lanes(panel, range(len(variants)), [f"{name}: {STEPS[name]}" for name in variants], width=1.15)
    panel.set_ylim(len(variants) - 0.45, -0.55)


def _signed(percent: float) -> str:
    """Short enough to stand over a bar: "+0.4", "+23"."""
    return f"{percent:+z.1f}" if abs(percent) < 9.95 else f"{percent:+.0f}"


_COLUMNS = ["kernel", "variant", "device", "device_name", "algorithm", "bytes", "chunk_size", "verified", "gb_per_s"]
