"""The cpu-speedup experiment: how many times faster than a CPU does a device verify a model?

Kernels hash the tensors of a model as trees. Beside hashlib on one core stand what a CPU can do at most: OpenSSL and
model-signing over files of the model's bytes in memory, and hashlib's trees over the same files in a process a core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from functools import partial
from itertools import chain, product, starmap
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from hashbench.bench.experiment import SEED, Experiment, Point, Skip
from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import make_inputs, measure
from hashbench.bench.readings import Reading
from hashbench.bench.results import REFERENCE, Row
from hashbench.experiments import style
from hashbench.experiments.host_tree import HostTree, processes_of
from hashbench.experiments.programs import (
    FileHasher,
    Outcomes,
    file_digest,
    model_signing_on,
    openssl_on,
    or_skip,
    rates_of,
    throughput,
)
from hashbench.experiments.storage import Storage, StorageUnavailable, in_memory_or_elsewhere, write_random
from hashbench.experiments.throughput import CHUNK_SIZE, labels_of, lane_of
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

QUICK_MODELS = {"gpu": ("bert-base", "llama-3.2-1b", "llama-3.1-8b"), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": (*QUICK_MODELS["gpu"], "llama-3.1-70b"), "cpu": ("bert-base", "llama-3.2-1b")}
"""Models by kind of device. Those of CPUs are in files too."""

FILES = 32
"""Files of a model at least, one a thread for model-signing: the most threads that it starts by default."""

RUNS = 3

TREE = "tree"
"""How the conditions of a reading of hashlib begin, after the model."""

ONE_CORE = (f"{TREE} in this process", f"{TREE} in 1 process")
"""And how they go on where it is on one core: as a row of it is measured, or, in results of earlier versions that have
nothing better, by a process apart, which is slower."""


class CpuSpeedup(Experiment):
    """Models as trees, kernels and devices, and the same bytes in files by programs that use the CPU."""

    name = "cpu-speedup"
    question = "How many times faster than a CPU does a device verify a model?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
        """Trees over the model's tensors in chunks of 4 KiB; the long form has larger models too."""
        models = (QUICK_MODELS if quick else FULL_MODELS)[device.kind or "cpu"]
        if device.kernel == REFERENCE[0] and device.id != REFERENCE[1]:
            # Its threads wait for each other between small chunks, so it is no faster than one for a larger model.
            left = models[1:]
            models = models[:1]
            yield from (Skip(f"{device.kernel} {device.id}: {name}", "one model tells its rate") for name in left)
        for algorithm, name in product(ALGORITHMS, models):
            lengths = tuple(tensor.nbytes for tensor in MODELS[name].tensors)
            yield Point(device, "tree", algorithm, lengths, CHUNK_SIZE, model=name)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Throughput in GB/s, over files. Where hashlib's first device is not among `devices`, so that no row tells
        what one core does, that is a reading too, taken as the row would be."""
        processor = kernel_class(REFERENCE[0]).devices()  # one thread; then, where there are more, one a core
        asked = any((device.kernel, device.id) == REFERENCE for device in devices)
        models = (QUICK_MODELS if quick else FULL_MODELS)["cpu"]
        one_core = () if asked else product(models, ALGORITHMS)
        of_files = (_of_model(name, processor, max(FILES, 2 * processes_of(processor[-1]))) for name in models)
        return chain(starmap(partial(_one_core, processor[0]), one_core), chain.from_iterable(of_files))

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Bars of how many times as fast as hashlib on one core, a row of panels a model, a column an algorithm."""
        bars = _bars(rows, readings)
        return _draw(bars, path) if bars else []


EXPERIMENT = CpuSpeedup()


def _one_core(device: Device, name: str, algorithm: str) -> Reading:
    """What a row of hashlib on one thread would say of a model."""
    kernel = kernel_class(device.kernel)(device, algorithm)
    lengths = [tensor.nbytes for tensor in MODELS[name].tensors]
    works = [kernel.prepare("tree", segments, CHUNK_SIZE) for segments in make_inputs(kernel, lengths, SEED)]
    seconds = measure(works).device
    nbytes = MODELS[name].nbytes
    return Reading(
        subject=device.kernel,
        quantity="throughput",
        unit="GB/s",
        conditions=f"{name}, {ONE_CORE[0]}",
        algorithm=algorithm,
        device=device.id,
        device_name=device.name,
        device_kind=device.kind,
        repeats=seconds.count,
        median=1e-9 * nbytes / seconds.median,
        q1=1e-9 * nbytes / seconds.q3,
        q3=1e-9 * nbytes / seconds.q1,
        source=f"hashlib, {device.driver}",
        note=f"Trees over the tensors in chunks of {format_size(CHUNK_SIZE)}.",
    )


# Files ---------------------------------------------------------------------------------------------------------------


def _of_model(name: str, processor: Sequence[Device], count: int) -> Outcomes:
    """What the CPU makes of a model's bytes in `count` files of about one size.

    Args:
        name: of the model.
        processor: hashlib's devices, which say how many cores there are.
        count: of the files.
    """
    nbytes = MODELS[name].nbytes
    try:
        with in_memory_or_elsewhere(nbytes) as where:
            for number in range(count):
                begin, end = number * nbytes // count, (number + 1) * nbytes // count
                write_random(where.folder / f"part-{number:04}", end - begin, seed=number)
            files = _Files(name, nbytes, where, sorted(where.folder.iterdir()))
            for algorithm in ALGORITHMS:
                yield from _of_programs(files, algorithm, processor)
                yield from or_skip(f"hashlib, {algorithm}, {name}", _of_tree(files, algorithm, processor[-1]))
    except StorageUnavailable as error:
        yield Skip(f"hashing the files of {name}", str(error))


@dataclass(frozen=True)
class _Files:
    """A model's bytes in files."""

    model: str
    nbytes: int
    where: Storage
    paths: Sequence[Path]

    def reading(
        self, hasher: FileHasher, expected: Mapping[str, str], algorithm: str, device: Device, how: str, note: str = ""
    ) -> Reading:
        return throughput(
            hasher.subject,
            algorithm,
            device,
            rates_of(hasher, expected, self.nbytes, RUNS),
            source=hasher.source,
            conditions=f"{self.model}, {how}, {len(self.paths)} files in {self.where.place}",
            note=" ".join(filter(None, (note, self.where.note))),
        )


def _of_programs(files: _Files, algorithm: str, processor: Sequence[Device]) -> Outcomes:
    folder = files.where.folder
    with ThreadPoolExecutor(processes_of(processor[-1])) as pool:
        digests = pool.map(lambda path: file_digest(path, algorithm), files.paths)
        expected = {path.name: digest for path, digest in zip(files.paths, digests, strict=True)}

    def openssl(device: Device) -> Iterator[Reading]:
        hasher = openssl_on(folder, algorithm, processes_of(device))
        note = "The time includes the start of the processes."
        yield files.reading(hasher, expected, algorithm, device, _processes(device), note)

    def model_signing(device: Device) -> Iterator[Reading]:
        hasher = model_signing_on(folder, algorithm)
        yield files.reading(hasher, expected, algorithm, device, "default threads")

    for device in processor:
        yield from or_skip(f"OpenSSL, {algorithm}, {files.model}, {_processes(device)}", openssl(device))
    yield from or_skip(f"model-signing, {algorithm}, {files.model}", model_signing(processor[-1]))


def _of_tree(files: _Files, algorithm: str, device: Device) -> Iterator[Reading]:
    """Hashlib's trees over the files. The first is held against the reference, and every run against the first run."""
    with HostTree(processes_of(device), algorithm, CHUNK_SIZE) as host:

        def roots() -> dict[str, str]:
            found = host.roots(files.paths)
            return {path.name: root.hex() for path, root in zip(files.paths, found, strict=True)}

        first = files.paths[0]
        reference = merkle_tree_hash(chunks_of(first.read_bytes(), CHUNK_SIZE), algorithm)
        hasher = FileHasher("hashlib", f"hashlib, {device.driver}", roots)
        note = f"Trees in chunks of {format_size(CHUNK_SIZE)}, by processes that were started before."
        how = f"{TREE} in {_processes(device)}"
        yield files.reading(hasher, roots() | {first.name: reference.hex()}, algorithm, device, how, note)


def _processes(device: Device) -> str:
    """One for each thread of one of hashlib's devices."""
    count = processes_of(device)
    return f"{count} process{'' if count == 1 else 'es'}"


# The figure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One bar: a throughput in GB/s, and how many times as fast that is as hashlib on one core.

    Attributes:
        kernel: the kernel's name; empty for another program, and for hashlib in processes.
        label: what hashed, and on how much of which device.
        reference_model: the model that hashlib hashed on one core: the same, or the largest that it hashed where it did
            not hash this one.
        speedup: of the medians.
        speedup_q1, speedup_q3: of the quartiles that are farthest apart.
    """

    model: str
    algorithm: str
    kernel: str
    label: str
    device: str
    device_name: str
    device_kind: str
    gb_per_s: float
    gb_per_s_q1: float
    gb_per_s_q3: float
    reference_model: str = ""
    speedup: float = 1.0
    speedup_q1: float = 1.0
    speedup_q3: float = 1.0

    @property
    def nbytes(self) -> int:
        """Of the model."""
        return MODELS[self.model].nbytes


def _bars(rows: Sequence[Row], readings: Sequence[Reading]) -> list[Bar]:
    """A bar for each row of a model and each reading, the newest of each; none of an algorithm without hashlib on one
    core.

    Raises:
        ResultsError: a reading is of no model that is known.
    """
    rows = [row for row in rows if row.model]
    labels = labels_of(rows)
    newest: dict[tuple[str, ...], Bar] = {}
    everything: list[Row | Reading] = [*readings, *rows]
    for measured in sorted(everything, key=lambda one: one.date):
        bar = _of_row(measured, labels[lane_of(measured)]) if isinstance(measured, Row) else _of_reading(measured)
        newest[bar.model, bar.algorithm, bar.label] = bar
    return [_over(bar, reference) for bar in newest.values() if (reference := _reference(newest.values(), bar))]


def _of_row(row: Row, label: str) -> Bar:
    return Bar(
        model=row.model,
        algorithm=row.algorithm,
        kernel=row.kernel,
        label=" ".join(label.split()),
        device=row.device,
        device_name=row.device_name,
        device_kind=row.device_kind,
        gb_per_s=row.gb_per_s,
        gb_per_s_q1=row.gb_per_s_range[0],
        gb_per_s_q3=row.gb_per_s_range[1],
    )


def _of_reading(reading: Reading) -> Bar:
    model, *rest = reading.model_conditions()
    how = ", ".join(rest[:1])
    return Bar(
        model=model,
        algorithm=reading.algorithm,
        kernel="",
        label=f"{reading.subject} {how}" if how.startswith(TREE) else f"{reading.subject}, {how}",
        device=reading.device,
        device_name=reading.device_name,
        device_kind=reading.device_kind,
        gb_per_s=reading.median,
        gb_per_s_q1=reading.q1,
        gb_per_s_q3=reading.q3,
    )


def _reference(bars: Iterable[Bar], bar: Bar) -> Bar | None:
    """What `bar` is over: hashlib's on one core of the same model, else of the largest; and of several of one model, a
    row before a reading."""
    ranks = {f"hashlib {how}": -place for place, how in enumerate(ONE_CORE)}
    found = [
        (one.model == bar.model, one.nbytes, 1 if one.kernel else ranks[one.label], one)
        for one in bars
        if one.algorithm == bar.algorithm and ((one.kernel, one.device) == REFERENCE or one.label in ranks)
    ]
    return max(found, key=lambda entry: entry[:-1])[-1] if found else None


def _over(bar: Bar, reference: Bar) -> Bar:
    return replace(
        bar,
        reference_model=reference.model,
        speedup=bar.gb_per_s / reference.gb_per_s,
        speedup_q1=bar.gb_per_s_q1 / reference.gb_per_s_q3,
        speedup_q3=bar.gb_per_s_q3 / reference.gb_per_s_q1,
    )


_PROGRAM: dict[str, Any] = {"facecolor": "white", "edgecolor": "#444444", "hatch": "/////", "linewidth": 0.6}
_KEYS = (
    Patch(facecolor="#555555", label="solid: a kernel of this package, by its colour"),
    Patch(**_PROGRAM, label="hatched: a program or hashlib's processes, on files"),
    Line2D([], [], color="black", linestyle=(0, (4, 3)), linewidth=0.9, label="hashlib on one core"),
)


def _draw(bars: Sequence[Bar], path: Path) -> list[Path]:
    fastest_first = sorted(bars, key=lambda bar: (bar.nbytes, -bar.speedup))
    models = list(dict.fromkeys(bar.model for bar in fastest_first))
    algorithms = [name for name in ALGORITHMS if any(bar.algorithm == name for bar in bars)]
    lanes = {name: list(dict.fromkeys(b.label for b in fastest_first if b.model == name))[::-1] for name in models}
    heights = [0.45 + 0.2 * len(lanes[name]) for name in models]
    with style.style():
        figure = style.new_figure(style.PAGE_WIDTH, 1.3 + sum(heights))
        grid = figure.subplots(
            len(models), len(algorithms), sharex=True, sharey="row", squeeze=False, height_ratios=heights
        )
        for panels, model in zip(grid, models, strict=True):
            for panel, algorithm in zip(panels, algorithms, strict=True):
                part = [bar for bar in bars if (bar.model, bar.algorithm) == (model, algorithm)]
                _draw_panel(panel, part, lanes[model], f"{MODELS[model].title}, {ALGORITHMS[algorithm].title}")
        grid[0, 0].set_xlim(0.7 * min(1.0, *(bar.speedup_q1 for bar in bars)), 6 * max(bar.speedup_q3 for bar in bars))
        for panel in grid[-1]:
            panel.set_xlabel("times as fast as hashlib on one core, logarithmic")
        names = " and ".join(sorted({bar.device_name for bar in bars}))
        figure.suptitle(
            f"Trees over models, against hashlib on one core of the same machine\n{fill(names, 90)}", fontsize=9
        )
        figure.legend(handles=_KEYS, loc="outside lower center", ncols=2)
    columns = tuple(field.name for field in fields(Bar))
    table = [[f"{v:.7g}" if isinstance(v, float) else v for v in astuple(bar)] for bar in fastest_first]
    return style.save(figure, path, columns, table)


def _draw_panel(panel: Axes, bars: Sequence[Bar], lanes: Sequence[str], title: str) -> None:
    others = {bar.reference_model for bar in bars if bar.reference_model != bar.model}
    panel.set_title(title + "".join(f"\n(over hashlib's rate on {MODELS[name].title})" for name in others), loc="left")
    panel.set_xscale("log")
    for bar in bars:
        place = lanes.index(bar.label)
        look = {"color": style.kernel_colour(bar.kernel), "linewidth": 0} if bar.kernel else _PROGRAM
        panel.barh(place, bar.speedup - 1, left=1, height=0.66, **look)
        error = [[bar.speedup - bar.speedup_q1], [bar.speedup_q3 - bar.speedup]]
        panel.errorbar(bar.speedup, place, xerr=error, color="black", elinewidth=0.9, capsize=2)
        panel.annotate(
            f"{bar.speedup:,.0f}\u00d7" if bar.speedup >= 100 else f"{bar.speedup:.3g}\u00d7",
            (max(1.0, bar.speedup_q3), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    panel.axvline(1, color="black", linestyle=(0, (4, 3)), linewidth=0.9)
    panel.set_yticks(range(len(lanes)), lanes, fontsize=7)
    panel.set_ylim(-0.6, len(lanes) - 0.4)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda factor, _: f"{factor:,g}"))
    panel.grid(axis="y", visible=False)
