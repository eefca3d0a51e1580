"""The model-sizes experiment: how do throughput and the time to all roots grow with the model?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, product, starmap
from math import log10
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from hashbench.bench.experiment import Point, Skip
from hashbench.bench.frames import LANE, SPEED, WALL_SECONDS, Results, highest, lines, where
from hashbench.bench.inventories import MODELS
from hashbench.bench.lanes import Lane, apart, labels, of_lane
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, GiB, KiB
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import style
from hashbench.experiments.device_memory import peak_beside_model
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, Unavailable
from hashbench.report import findings

LARGE_BYTES = 100e9
LARGE_SECONDS = 1.0
"""A model of so many bytes is large, and its roots must be there within so many seconds."""

FILLING_BYTES = 2e9
SCALING_SHARE = 0.10
"""Models of so many bytes fill a GPU: throughput must stay within this share of the largest model's."""

LARGE = 50 * GiB
LARGE_CHUNK_SIZE = 16 * KiB
"""Models of so many bytes are also hashed in these chunks, whose digests take a quarter of the memory."""

CPU_LARGEST = 4 * GiB
"""Bytes of the largest model that is hashed on a CPU, in a few seconds per run."""

QUICK = {"gpu": ("bert-base", "llama-3.2-1b", "llama-3.1-8b"), "cpu": ("bert-base",)}
"""The models of the short form."""

PEAK_MEMORY = "peak device memory beside the input"

_COLUMNS = [
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
]


class ModelSizes(findings.ClaimExperiment):
    """The trees over all tensors of a model in one call, for models from 0.4 GB on."""

    name = "model-sizes"
    question = "How do throughput and the time to all roots grow with the model?"
    rule = (
        f"For each algorithm: all roots of a model of {LARGE_BYTES * 1e-9:g} GB or more, in one call on one GPU, take "
        f"at most {LARGE_SECONDS:g} s of wall-clock time; and from {FILLING_BYTES * 1e-9:g} GB on, where a model has "
        f"enough chunks to fill a GPU, throughput stays within {SCALING_SHARE:.0%} of the largest model's. For each "
        "GPU, the kernel and chunk size count that hashed the largest model and the most models; of several, the "
        "fastest. The worst GPU that fits such a model decides."
    )

    def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
        """Every model, the smallest first. The runner skips those that do not fit; CPUs get only the smallest."""
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
        """The memory that a tree over the largest model that fits takes beside the model, on each GPU."""
        gpus = [device for device in devices if device.kind == "gpu" and device.unavailable is None]
        models = QUICK["gpu"] if quick else tuple(MODELS)
        return starmap(partial(_peak_memory, models), product(gpus, ALGORITHMS))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Throughput above, and seconds to all roots below, over the bytes of the model; a column per algorithm."""
        rows = results.rows[results.rows["model"] != ""]
        if rows.empty:
            return []
        named, algorithms = labels(rows), style.algorithms(rows["algorithm"])
        with style.style():
            figure, grid = style.panels([1.3, 1.5], len(algorithms), sharex=True, sharey="row")
            for (upper, lower), algorithm in zip(grid.T, algorithms, strict=True):
                mine = rows[rows["algorithm"] == algorithm]
                upper.set_title(ALGORITHMS[algorithm].title, loc="left")
                drawn, others = apart(mine, named, ["model", "chunk_size"])
                _draw_lanes(upper, mine, drawn, SPEED)
                _draw_lanes(lower, mine, drawn, WALL_SECONDS)
                style.note(upper, others)
                _tell_memory(lower, results.readings[results.readings["algorithm"] == algorithm])
                _name_models(lower, rows, width=(style.WIDTH - 0.5) / len(algorithms))
                upper.label_outer()
                lower.label_outer()
            _scale(grid[0, 0], grid[1, 0], rows, room=0.02 if len(results.readings) else 0.5)
            chunks, names = style.sizes(rows["chunk_size"]), style.names(rows["device_name"])
            what = f"Trees over all tensors of a model in one call, chunks of {chunks}: {names}"
            style.headline(figure, _headline(rows), what)
            hollow = style.sizes(size for size in rows["chunk_size"] if size != CHUNK_SIZE)
            style.legend_of_panels(figure, f"hollow marks: chunks of {hollow}" if hollow else None)
        return style.save(figure, path, rows[_COLUMNS])

    def finding(self, results: Results) -> findings.Finding:
        """How soon the roots of a large model are there, and whether throughput keeps with the model's size."""
        rows = findings.on_gpus(results, "tree").query("model != ''")
        best = findings.of_each_gpu(rows.assign(gigabytes=1e-9 * rows["bytes"]), _best_lane)
        checks = [check(title, part) for title, part in findings.by_algorithm(best) for check in (_reaches, _keeps)]
        columns: Columns = {
            "algorithm": findings.algorithm_title,
            "model": "model",
            "GB": ("gigabytes", number),
            "tensors": ("segments", "{:,}".format),
            "chunk": ("chunk_size", format_size),
            "GB/s": ("gb_per_s", number),
            "seconds to all roots (wall)": ("wall_seconds_median", "{:.3g}".format),
            "quartiles": ("wall_seconds_q1", "wall_seconds_q3", "{:.3g} to {:.3g}".format),
            "kernel and device": where,
        }
        return findings.Finding.of(checks, best, columns)


EXPERIMENT = ModelSizes()


# The claim -----------------------------------------------------------------------------------------------------------


def _best_lane(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lane and chunk size that hashed the largest model and the most models; of several, the fastest.
    Smaller models come first."""
    lanes = [lane for _, lane in rows.sort_values("bytes", kind="stable").groupby([*LANE, "chunk_size"], sort=False)]
    return max(lanes, key=lambda lane: (lane["bytes"].iloc[-1], len(lane), lane["gb_per_s"].iloc[-1]))


def _reaches(title: str, best: pd.DataFrame) -> findings.Check:
    missing = "No model was measured on a GPU."
    if not best.empty:
        row = highest(best, "bytes")
        missing = f"The largest model measured is {row.model}, {number(row.gigabytes)} GB."
    largest = best.drop_duplicates(findings.GPU, keep="last")
    return findings.worst(
        largest[largest["bytes"] >= LARGE_BYTES],  # other GPUs may not have the memory
        "wall_seconds_median",
        f"{title}: do all roots of a model of {LARGE_BYTES * 1e-9:g} GB or more take at most {LARGE_SECONDS:g} s?",
        lambda row: f"{row.wall_seconds_median:.3g} s for {row.model}, {number(row.gigabytes)} GB, by {where(row)}.",
        missing,
        at_most=LARGE_SECONDS,
    )


def _keeps(title: str, best: pd.DataFrame) -> findings.Check:
    filling = best[best["bytes"] >= FILLING_BYTES]
    speeds = filling.groupby(findings.GPU)["gb_per_s"]
    filling = filling.assign(models=speeds.transform("size"), largest=speeds.transform("last"))
    change = filling["gb_per_s"] / filling["largest"] - 1
    return findings.worst(
        filling.assign(change=change, distance=change.abs()).query("models > 1"),
        "distance",
        f"{title}: does the throughput of every model of {FILLING_BYTES * 1e-9:g} GB or more keep within "
        f"{SCALING_SHARE:.0%} of the largest's?",
        lambda row: (
            f"{row.models} models; furthest from the largest's {number(row.largest)} GB/s is {row.model} with "
            f"{number(row.gb_per_s)} GB/s ({row.change:+.1%}), by {where(row)}."
        ),
        "Fewer than two such models were measured on one GPU.",
        at_most=SCALING_SHARE,
    )


# Readings and figure -------------------------------------------------------------------------------------------------

_NOTE = (
    "memory in use on all NVIDIA GPUs while the call is prepared, runs and returns its roots, minus that with the "
    "input in place: digests, tables, code and what the driver takes for launches, but not the framework's context"
)

_NAMES_APART = 0.11
"""The least distance between the names of two models, in inches."""


def _peak_memory(models: Sequence[str], device: Device, algorithm: str) -> Reading | Skip:
    try:
        peak = peak_beside_model(device, algorithm, models, CHUNK_SIZE)
    except Unavailable as error:
        return Skip(f"{device.kernel} {device.id}: {algorithm} {PEAK_MEMORY}", str(error))
    return Reading.of(
        [1e-9 * peak.nbytes],
        device,
        subject=device.kernel,
        quantity=PEAK_MEMORY,
        unit="GB",
        model=peak.model,
        conditions=f"chunks of {format_size(CHUNK_SIZE)}",
        algorithm=algorithm,
        source=peak.source,
        note=_NOTE,
    )


def _headline(rows: pd.DataFrame) -> str:
    """How fast the largest model is hashed."""
    largest = rows[rows["bytes"] == rows["bytes"].max()]
    best = next(lines(largest.sort_values("wall_seconds_median", kind="stable")))
    return (
        f"All roots of {MODELS[best.model].title} ({1e-9 * best.bytes:.3g} GB) in {best.wall_seconds_median:.3g} s: "
        f"{ALGORITHMS[best.algorithm].title} at {number(best.gb_per_s)} GB/s by {best.kernel}"
    )


def _draw_lanes(panel: Axes, rows: pd.DataFrame, named: Mapping[Lane, str], values: Sequence[str]) -> None:
    """A line for each lane and chunk size, with full marks for the common chunk size and hollow ones for others."""
    for (lane, label), mark in zip(named.items(), cycle("osD^vP*X"), strict=False):
        mine = of_lane(rows, lane).sort_values("bytes", kind="stable")
        for chunk_size in sorted(set(mine["chunk_size"])):
            points = mine[mine["chunk_size"] == chunk_size]
            common = chunk_size == CHUNK_SIZE
            style.line(
                panel,
                points["bytes"],
                style.spreads(points, values),
                color=style.kernel_colour(lane[0]),
                linestyle="-" if common else ":",
                marker=mark,
                markerfacecolor=None if common else "white",
                label=label if common else None,
            )


def _tell_memory(panel: Axes, readings: pd.DataFrame) -> None:
    """Writes the peak memory in the corner under the lines; of several for one kernel, that of the largest model."""
    largest = readings.sort_values("median", kind="stable").groupby("subject", sort=False).tail(1)
    told = [
        f"{one.subject} {one.median:.3g} {one.unit}, {MODELS[one.model].title}, {one.conditions}"
        for one in lines(largest)
    ]
    style.note(panel, [f"{PEAK_MEMORY}: {'; '.join(told)}"] if told else [])


def _name_models(panel: Axes, rows: pd.DataFrame, width: float) -> None:
    """Names each model at its bytes on the horizontal axis of a panel, about `width` inches wide. Names stand upright,
    but for a single one, and those that are too near to each other move apart."""
    smallest_first = rows.sort_values("bytes", kind="stable")
    names = {n: MODELS[model].title for n, model in zip(smallest_first["bytes"], smallest_first["model"], strict=True)}
    low, high = 0.75 * min(names), 1.35 * max(names)
    panel.set_xscale("log")
    panel.set_xlim(low, high)
    texts = [f"{name}, {1e-9 * nbytes:.3g} GB" for nbytes, name in names.items()]
    panel.set_xticks(list(names), texts, rotation=90 if len(texts) > 1 else 0)
    panel.minorticks_off()
    free = 0.0
    for nbytes, label in zip(names, panel.get_xticklabels(), strict=True):
        place = log10(nbytes / low) / log10(high / low)
        aside = width * max(0.0, free - place)
        label.set_transform(label.get_transform() + ScaledTranslation(aside, 0, panel.figure.dpi_scale_trans))
        free = max(free, place) + _NAMES_APART / width


def _scale(speed: Axes, seconds: Axes, rows: pd.DataFrame, room: float) -> None:
    """The vertical axes, which the panels of a row share. That of seconds begins at `room` times the lowest value."""
    speeds = rows[list(SPEED)].to_numpy()
    linear = style.is_linear(speeds.flat)
    if linear:
        speed.set_ylim(0, 1.08 * speeds.max())
    else:
        speed.set_yscale("log")
        style.plain_numbers(speed.yaxis)
    speed.set_ylabel("GB/s" if linear else "GB/s, logarithmic")
    seconds.set_yscale("log")
    low, high = rows["wall_seconds_q1"].min(), rows["wall_seconds_q3"].max()
    seconds.set_ylim(room * low, 2 * high)
    style.plain_numbers(seconds.yaxis)
    seconds.set_ylabel("seconds to all roots, wall clock")
