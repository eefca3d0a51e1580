"""The model-sizes experiment: how do throughput and the time to all roots grow with the model?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, product, starmap
from math import log10
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import ScaledTranslation

from hashbench.bench.experiment import Experiment, Point, Skip
from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import Seconds
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import style
from hashbench.experiments.device_memory import peak_beside_model
from hashbench.experiments.throughput import (
    CHUNK_SIZE,
    LINEAR_UP_TO,
    GiB,
    KiB,
    Lane,
    labels_of,
    lane_of,
    speeds_of,
    wall_seconds_of,
)
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, Unavailable

LARGE = 50 * GiB
LARGE_CHUNK_SIZE = 16 * KiB
"""Models of so many bytes are hashed in these chunks too: their digests take a quarter of the memory."""

CPU_LARGEST = 4 * GiB
"""Bytes of the largest model that is hashed on a CPU, at a few seconds a run."""

QUICK = {"gpu": ("bert-base", "llama-3.2-1b", "llama-3.1-8b"), "cpu": ("bert-base",)}
"""The models of the short form."""

PEAK_MEMORY = "peak device memory beside the input"

_COLUMNS = (
    *(
        "model",
        "kernel",
        "variant",
        "device",
        "device_name",
        "algorithm",
        "bytes",
        "segments",
        "chunk_size",
        "verified",
    ),
    *("gb_per_s", "seconds_median", "seconds_q1", "seconds_q3"),
    *("wall_seconds_median", "wall_seconds_q1", "wall_seconds_q3"),
)
"""Of the figure's table."""


class ModelSizes(Experiment):
    """The trees over all tensors of a model in one call, for models from 0.4 GB on."""

    name = "model-sizes"
    question = "How do throughput and the time to all roots grow with the model?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
        """Every model, the smallest first; the runner skips what does not fit. On a CPU the smallest ones alone."""
        kind = device.kind or "cpu"
        models = [MODELS[name] for name in (QUICK[kind] if quick else MODELS)]
        if kind == "cpu" and (left_out := [model.title for model in models if model.nbytes > CPU_LARGEST]):
            yield Skip(f"{device.kernel} {device.id}: {', '.join(left_out)}", "a CPU takes minutes for each of them")
            models = [model for model in models if model.nbytes <= CPU_LARGEST]
        for model, algorithm in product(models, ALGORITHMS):
            lengths = tuple(tensor.nbytes for tensor in model.tensors)
            yield Point(device, "tree", algorithm, lengths, CHUNK_SIZE, model=model.name)
            if model.nbytes >= LARGE:
                yield Point(device, "tree", algorithm, lengths, LARGE_CHUNK_SIZE, model=model.name)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """The memory of each GPU that a tree over the largest model there takes beside the model."""
        gpus = [device for device in devices if device.kind == "gpu" and device.unavailable is None]
        models = QUICK["gpu"] if quick else tuple(MODELS)
        return starmap(partial(_peak_memory, models), product(gpus, ALGORITHMS))

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Throughput above and seconds to all roots below, over the bytes of the model; a column an algorithm."""
        rows = [row for row in rows if row.model]
        if not rows:
            return []
        labels = labels_of(rows)
        algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in rows)]
        with style.style():
            figure = style.new_figure(style.PAGE_WIDTH, 6.2)
            grid = figure.subplots(2, len(algorithms), sharex=True, sharey="row", squeeze=False)
            for (upper, lower), algorithm in zip(grid.T, algorithms, strict=True):
                mine = [row for row in rows if row.algorithm == algorithm]
                upper.set_title(ALGORITHMS[algorithm].title, loc="left")
                _draw_lanes(upper, mine, labels, speeds_of)
                _draw_lanes(lower, mine, labels, wall_seconds_of)
                _tell_memory(lower, [reading for reading in readings if reading.algorithm == algorithm])
                _name_models(lower, rows, width=style.PAGE_WIDTH / len(algorithms) - 0.7)
                upper.label_outer()
                lower.label_outer()
            _scale(grid[0, 0], grid[1, 0], rows)
            chunks = " and ".join(map(format_size, sorted({row.chunk_size for row in rows if row.chunk_size})))
            names = " and ".join(dict.fromkeys(row.device_name for row in rows))
            figure.suptitle(
                f"Trees over all tensors of a model in one call, chunks of {chunks}\n{fill(names, 90)}", fontsize=9
            )
            style.legend_below(figure, columns=3)
        return style.save(figure, path, _COLUMNS, [[getattr(row, name) for name in _COLUMNS] for row in rows])


EXPERIMENT = ModelSizes()

_NOTE = (
    "memory in use on all NVIDIA GPUs while the call is prepared, runs and gives its roots, less that in use with the "
    "input in place: digests, tables, code and what the driver takes for launches, but not the framework's context"
)

_NAMES_APART = 0.045
"""The least distance between the names of two models, as a share of the axis."""


def _peak_memory(models: Sequence[str], device: Device, algorithm: str) -> Reading | Skip:
    try:
        peak = peak_beside_model(device, algorithm, models, CHUNK_SIZE)
    except Unavailable as error:
        return Skip(f"{device.kernel} {device.id}: {algorithm} {PEAK_MEMORY}", str(error))
    return Reading.of(
        Seconds.of([1e-9 * peak.nbytes]),
        device,
        subject=device.kernel,
        quantity=PEAK_MEMORY,
        unit="GB",
        conditions=f"{MODELS[peak.model].title}, chunks of {format_size(CHUNK_SIZE)}",
        algorithm=algorithm,
        source=peak.source,
        note=_NOTE,
    )


def _draw_lanes(
    panel: Axes, rows: Sequence[Row], labels: Mapping[Lane, str], values_of: Callable[[Row], tuple[float, float, float]]
) -> None:
    """A line for each lane and size of chunks: full marks for the first size, hollow ones for others."""
    for (lane, label), mark in zip(labels.items(), cycle("osD^vP*X"), strict=False):
        mine = sorted((row for row in rows if lane_of(row) == lane), key=lambda row: row.bytes)
        for chunk_size in sorted({row.chunk_size or 0 for row in mine}):
            points = [row for row in mine if row.chunk_size == chunk_size]
            common = chunk_size == CHUNK_SIZE
            style.draw_line(
                panel,
                [row.bytes for row in points],
                [values_of(row) for row in points],
                color=style.kernel_colour(lane[0]),
                linestyle="-" if common else ":",
                marker=mark,
                markerfacecolor=None if common else "white",
                label=label if common else f"{label}, {format_size(chunk_size)} chunks",
            )


def _tell_memory(panel: Axes, readings: Sequence[Reading]) -> None:
    """What the readings say, in the corner under the lines; of several for one kernel, the one of the largest model."""
    largest = {one.subject: one for one in sorted(readings, key=lambda one: one.median)}
    lines = [f"{name} {one.median:.3g} {one.unit}, {one.conditions}" for name, one in largest.items()]
    if lines:
        text = "\n".join((f"{PEAK_MEMORY}:", *lines))
        panel.text(0.98, 0.03, text, transform=panel.transAxes, ha="right", va="bottom", fontsize=6)


def _name_models(panel: Axes, rows: Sequence[Row], width: float) -> None:
    """The horizontal axis of a panel, about `width` inches wide: each model by name at its bytes, a line up from there.
    Names too near to each other move apart."""
    names = {row.bytes: MODELS[row.model].title for row in sorted(rows, key=lambda row: row.bytes)}
    low, high = 0.75 * min(names), 1.35 * max(names)
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    texts = [f"{name}, {1e-9 * nbytes:.3g} GB" for nbytes, name in names.items()]
    panel.set_xticks(list(names), texts, rotation=90)
    panel.minorticks_off()
    free = 0.0
    for nbytes, label in zip(names, panel.get_xticklabels(), strict=True):
        place = log10(nbytes / low) / log10(high / low)
        aside = width * max(0.0, free - place)
        label.set_transform(label.get_transform() + ScaledTranslation(aside, 0, panel.figure.dpi_scale_trans))
        free = max(free, place) + _NAMES_APART


def _scale(speed: Axes, seconds: Axes, rows: Sequence[Row]) -> None:
    """The vertical axes, each the same in all panels of a line."""
    speeds = [value for row in rows for value in speeds_of(row)]
    linear = max(speeds) <= LINEAR_UP_TO * min(speeds)
    if linear:
        speed.set_ylim(0, 1.08 * max(speeds))
    else:
        speed.set_yscale("log")
        speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    speed.set_ylabel("GB/s" if linear else "GB/s, logarithmic")
    seconds.set_yscale("log")
    low, high = min(row.wall_seconds_q1 for row in rows), max(row.wall_seconds_q3 for row in rows)
    seconds.set_ylim(0.1 * low, 2 * high)  # with room for what is told under the lines
    seconds.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    seconds.set_ylabel("seconds to all roots, wall clock")
