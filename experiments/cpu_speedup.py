"""The cpu-speedup experiment: how many times faster than a CPU does a device verify a model?

Kernels hash the tensors of a model as trees. They are compared with hashlib on one core, and with the most that a CPU
can do: OpenSSL and model-signing over files of the model's bytes in memory, and hashlib's trees over the same files
with a process per core.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, product, starmap
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hashbench.bench.experiment import SEED, Point, Skip
from hashbench.bench.frames import SPEED, Results, as_speeds, joined, lines, where
from hashbench.bench.inventories import MODELS
from hashbench.bench.lanes import labels, lane_of
from hashbench.bench.measurement import make_inputs, measure
from hashbench.bench.readings import Reading, phrase
from hashbench.bench.results import REFERENCE
from hashbench.bench.sweeps import CHUNK_SIZE
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import style
from hashbench.experiments.host_tree import HostTree, processes_of
from hashbench.experiments.programs import (
    FileHasher,
    Outcomes,
    file_digest,
    model_signing_on,
    openssl_on,
    or_skip,
    processes_phrase,
    rates_of,
    throughput,
)
from hashbench.experiments.storage import Storage, StorageUnavailable, in_memory_or_elsewhere, write_random
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.report import findings

MAGNITUDE = 10.0
"""How many times faster an order of magnitude is."""

QUICK_MODELS = {"gpu": ("bert-base", "llama-3.2-1b", "llama-3.1-8b"), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": (*QUICK_MODELS["gpu"], "llama-3.1-70b"), "cpu": ("bert-base", "llama-3.2-1b")}
"""Models by kind of device. Those for CPUs are also in files."""

FILES = 32
"""Least number of files per model: one for each of the threads that model-signing starts by default at most."""

RUNS = 3

TREE = "tree in "
"""The beginning of the workers of hashlib's readings."""

ONE_CORE = (f"{TREE}this process", f"{TREE}1 process")
"""The workers of readings of hashlib on one core: measured as a row is; or, in results of earlier versions, in a
process of its own, which is slower and counts only if there is nothing better."""


class CpuSpeedup(findings.ClaimExperiment):
    """Models as trees, by kernels and devices; and the same bytes in files, by programs that use the CPU."""

    name = "cpu-speedup"
    question = "How many times faster than a CPU does a device verify a model?"
    rule = (
        f"For each algorithm: every model is hashed on the GPU at least {MAGNITUDE:g} times as fast as by the fastest "
        "program on one core of the same machine, and as by the fastest on all its cores, in wall-clock time. "
        "Programs are this package's kernels on the CPU, OpenSSL, coreutils, model-signing and Intel's IPsec-MB, over "
        "models, files or messages, whichever were measured on that machine. The model with the smallest ratio counts."
    )

    def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
        """Trees over the model's tensors in chunks of 4 KiB. The full form has larger models too."""
        models = (QUICK_MODELS if quick else FULL_MODELS)[device.kind or "cpu"]
        if device.kernel == REFERENCE[0] and device.id != REFERENCE[1]:
            # Its threads wait for each other between small chunks, so a larger model gives the same rate.
            left = models[1:]
            models = models[:1]
            yield from (Skip(f"{device.kernel} {device.id}: {name}", "one model shows its rate") for name in left)
        for algorithm, name in product(ALGORITHMS, models):
            lengths = tuple(tensor.nbytes for tensor in MODELS[name].tensors)
            yield Point(device, "tree", algorithm, lengths, CHUNK_SIZE, model=name)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Throughput in GB/s, over files.

        If hashlib's first device is not among `devices`, there is no row for one core: that is a reading then, measured
        as the row would be.
        """
        processor = kernel_class(
            REFERENCE[0]
        ).devices()  # one thread; then, if there are several cores, a thread per core
        asked = any((device.kernel, device.id) == REFERENCE for device in devices)
        models = (QUICK_MODELS if quick else FULL_MODELS)["cpu"]
        one_core = () if asked else product(models, ALGORITHMS)
        of_files = (_of_model(name, processor, max(FILES, 2 * processes_of(processor[-1]))) for name in models)
        return chain(starmap(partial(_one_core, processor[0]), one_core), chain.from_iterable(of_files))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Bars of how many times as fast as hashlib on one core: a row of panels per model, a column per algorithm."""
        bars = _bars(results)
        return [] if bars.empty else _draw(bars, path)

    def finding(self, results: Results) -> findings.Finding:
        """How many times as fast as the CPU of the same machine, all by the wall clock."""
        gpus = findings.of_each_gpu(
            findings.on_gpus(results, "tree").query("model != ''"),
            lambda gpu: findings.fastest(gpu, "model", speed="wall_gb_per_s").sort_values("bytes"),
        )
        pairs = gpus.merge(_fastest_programs(results), on=["machine", "algorithm"])
        pairs["ratio"] = pairs["wall_gb_per_s"] / pairs["program_gb_per_s"]
        checks = [
            findings.worst(
                part[part["cores"] == cores],
                "ratio",
                f"{title}: is every model hashed at least {MAGNITUDE:g} times as fast as by the fastest program on "
                f"{cores} of the same machine?",
                lambda pair: (
                    f"{number(pair.ratio)} times at least: {pair.model} by {where(pair)}, against {pair.program}."
                ),
                "No GPU and CPU program of one machine were measured.",
                at_least=MAGNITUDE,
            )
            for title, part in findings.by_algorithm(pairs)
            for cores in ("one core", "all cores")
        ]
        columns: Columns = {
            "algorithm": findings.algorithm_title,
            "model": "model",
            "GPU, GB/s (wall)": ("wall_gb_per_s", number),
            "kernel and device": where,
            "CPU": "cores",
            "fastest program there": "program",
            "CPU, GB/s": ("program_gb_per_s", number),
            "times as fast": ("ratio", number),
        }
        return findings.Finding.of(checks, pairs, columns)


EXPERIMENT = CpuSpeedup()


# The claim -----------------------------------------------------------------------------------------------------------


def _fastest_programs(results: Results) -> pd.DataFrame:
    """The fastest program on one core and on all cores of each machine: `program`, its name and how it was run;
    `program_gb_per_s`; and `cores`. The time of some programs includes the start of their processes: since the fastest
    counts, that does no harm."""
    rows = results.rows.query("device_kind == 'cpu' and strategy == 'tree'")
    trees = [
        phrase(row.kernel, row.device, f"tree of {phrase(row.model, format_size(row.bytes))}") for row in lines(rows)
    ]
    readings = results.readings.query("device_kind == 'cpu' and unit == 'GB/s'")
    others = [phrase(reading.subject, reading.how) for reading in lines(readings)]
    programs = joined(
        rows.assign(program=trees, program_gb_per_s=rows["wall_gb_per_s"]),
        readings.assign(program=others, program_gb_per_s=readings["median"]),
    )
    programs["cores"] = (programs["device"] == REFERENCE[1]).map({True: "one core", False: "all cores"})
    best = findings.fastest(programs, "machine", "algorithm", "cores", speed="program_gb_per_s")
    columns = ["machine", "algorithm", "cores", "program", "program_gb_per_s"]
    return best.sort_values("cores", ascending=False, kind="stable")[columns]


# Readings ------------------------------------------------------------------------------------------------------------


def _one_core(device: Device, name: str, algorithm: str) -> Reading:
    """Hashlib on one thread over a model, measured as a row would be."""
    kernel = kernel_class(device.kernel)(device, algorithm)
    lengths = [tensor.nbytes for tensor in MODELS[name].tensors]
    works = [kernel.prepare("tree", segments, CHUNK_SIZE) for segments in make_inputs(kernel, lengths, SEED)]
    return throughput(
        device.kernel,
        algorithm,
        device,
        [MODELS[name].nbytes / seconds for seconds in measure(works).device.samples],
        model=name,
        workers=ONE_CORE[0],
        source=f"hashlib, {device.driver}",
        note=f"Trees over the tensors in chunks of {format_size(CHUNK_SIZE)}.",
    )


def _of_model(name: str, processor: Sequence[Device], count: int) -> Outcomes:
    """The throughput of programs on the CPU, over a model's bytes in files of about the same size.

    Args:
        name: the model's name.
        processor: hashlib's devices, which tell the number of cores.
        count: the number of files.
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
        self,
        hasher: FileHasher,
        expected: Mapping[str, str],
        algorithm: str,
        device: Device,
        workers: str,
        note: str = "",
    ) -> Reading:
        return throughput(
            hasher.subject,
            algorithm,
            device,
            rates_of(hasher, expected, self.nbytes, RUNS),
            source=hasher.source,
            model=self.model,
            workers=workers,
            files=len(self.paths),
            storage=self.where.place,
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
        yield files.reading(hasher, expected, algorithm, device, processes_phrase(processes_of(device)), note)

    def model_signing(device: Device) -> Iterator[Reading]:
        hasher = model_signing_on(folder, algorithm)
        yield files.reading(hasher, expected, algorithm, device, "default threads")

    for device in processor:
        yield from or_skip(
            f"OpenSSL, {algorithm}, {files.model}, {processes_phrase(processes_of(device))}", openssl(device)
        )
    yield from or_skip(f"model-signing, {algorithm}, {files.model}", model_signing(processor[-1]))


def _of_tree(files: _Files, algorithm: str, device: Device) -> Iterator[Reading]:
    """Hashlib's trees over the files. The first tree is checked against the reference, all runs against the first."""
    with HostTree(processes_of(device), algorithm, CHUNK_SIZE) as host:

        def roots() -> dict[str, str]:
            found = host.roots(files.paths)
            return {path.name: root.hex() for path, root in zip(files.paths, found, strict=True)}

        first = files.paths[0]
        reference = merkle_tree_hash(chunks_of(first.read_bytes(), CHUNK_SIZE), algorithm)
        hasher = FileHasher("hashlib", f"hashlib, {device.driver}", roots)
        note = f"Trees in chunks of {format_size(CHUNK_SIZE)}, by processes that were started before."
        workers = f"{TREE}{processes_phrase(processes_of(device))}"
        yield files.reading(hasher, roots() | {first.name: reference.hex()}, algorithm, device, workers, note)


# The figure ----------------------------------------------------------------------------------------------------------

_SPEEDS = ["gb_per_s", "gb_per_s_q1", "gb_per_s_q3"]
_SPEED_UPS = ["speedup", "speedup_q1", "speedup_q3"]
_PLACE = ["model", "algorithm", "kernel", "label", "device", "device_name", "device_kind"]


def _bars(results: Results) -> pd.DataFrame:
    """A bar for each row of a model and each reading, the newest of each: its throughput, and how many times as fast as
    hashlib on one core it is.

    `label` says what hashed, and on how much of which device. `reference_model` is the model that hashlib hashed on one
    core: the same one, or the largest that it hashed. The speed-ups `_q1` and `_q3` are of the quartiles that are
    farthest apart. An algorithm without hashlib on one core has no bars.
    """
    rows, readings = results.rows[results.rows["model"] != ""], results.readings
    named = labels(rows)
    programs = as_speeds(readings).assign(
        kernel="",  # another program, or hashlib's processes
        label=[_label(reading.subject, reading.workers) for reading in lines(readings)],
    )
    kernels = rows.assign(label=[" ".join(named[lane_of(row)].split()) for row in lines(rows)])
    bars = joined(*(frame[[*_PLACE, *SPEED, "date"]] for frame in (programs, kernels)))
    bars = bars.sort_values("date", kind="stable").drop_duplicates(["model", "algorithm", "label"], keep="last")
    bars = bars.assign(nbytes=[MODELS[name].nbytes for name in bars["model"]])
    referenced = bars.merge(_references(bars), on="algorithm", suffixes=("", "_reference"))
    referenced["same"] = referenced["model"] == referenced["model_reference"]
    best = referenced.sort_values(["same", "nbytes_reference", "rank"], kind="stable").drop_duplicates(
        ["model", "algorithm", "label"], keep="last"
    )
    return best.assign(
        reference_model=best["model_reference"],
        speedup=best["gb_per_s"] / best["gb_per_s_reference"],
        speedup_q1=best["gb_per_s_q1"] / best["gb_per_s_q3_reference"],
        speedup_q3=best["gb_per_s_q3"] / best["gb_per_s_q1_reference"],
    ).sort_values(["nbytes", "speedup"], ascending=[True, False], kind="stable", ignore_index=True)


def _label(subject: str, workers: str) -> str:
    return f"{subject} {workers}" if workers.startswith(TREE) else f"{subject}, {workers}"


def _references(bars: pd.DataFrame) -> pd.DataFrame:
    """The bars of hashlib on one core, with their `rank`: a row counts before a reading."""
    ranks = {f"hashlib {workers}": -place for place, workers in enumerate(ONE_CORE)}
    is_row = (bars["kernel"] == REFERENCE[0]) & (bars["device"] == REFERENCE[1])
    rank = bars["label"].map(ranks).where(~is_row, 1)
    return bars.assign(rank=rank)[rank.notna()][["algorithm", "model", *SPEED, "nbytes", "rank"]]


_KEYS = (
    Patch(facecolor="#555555", label="solid: a kernel of this package"),
    Patch(**style.OTHER_PROGRAM, label="hatched: a program, on files"),
    Line2D([], [], color="black", linestyle=style.DASHES, linewidth=0.9, label="hashlib on one core"),
)


def _draw(bars: pd.DataFrame, path: Path) -> list[Path]:
    models = list(dict.fromkeys(bars["model"]))
    algorithms = style.algorithms(bars["algorithm"])
    places = list(product(models, algorithms))
    parts = [bars[(bars["model"] == model) & (bars["algorithm"] == algorithm)] for model, algorithm in places]
    with style.style():
        figure, grid = style.panels([style.LANE * (len(part) + 0.3) for part in parts], sharex=True)
        for panel, part, (model, algorithm) in zip(grid.flat, parts, places, strict=True):
            _draw_panel(panel, part, f"{MODELS[model].title}, {ALGORITHMS[algorithm].title}")
        grid[0, 0].set_xlim(0.7 * min(1.0, bars["speedup_q1"].min()), 6 * bars["speedup_q3"].max())
        grid[-1, 0].set_xlabel("times hashlib on one core")
        names = style.names(sorted(bars["device_name"]))
        best = next(lines(bars.sort_values("speedup", ascending=False, kind="stable")))
        finding = f"{best.label}: {number(best.speedup)} times hashlib on one core, over {MODELS[best.model].title}"
        style.headline(figure, finding, f"Trees over models, on one machine: {names}")
        style.legend(figure, _KEYS, _other_references(bars))
    speeds, speed_ups = (bars[columns].apply(style.seven_digits) for columns in (_SPEEDS, _SPEED_UPS))
    return style.save(figure, path, bars[_PLACE].join(speeds).join(bars["reference_model"]).join(speed_ups))


def _other_references(bars: pd.DataFrame) -> str | None:
    """Which models are compared with hashlib's rate on another one, in words."""
    others = bars[bars["reference_model"] != bars["model"]].drop_duplicates("model")
    if others.empty:
        return None
    names = style.names(MODELS[name].title for name in others["model"])
    rates = style.names(MODELS[name].title for name in others["reference_model"])
    return style.wrapped(f"{names}: over hashlib's rate on {rates}", style.WIDTH - 0.1)


def _draw_panel(panel: Axes, bars: pd.DataFrame, title: str) -> None:
    """The bars of a panel, the first at the top."""
    panel.set_title(title, loc="left")
    panel.set_xscale("log")
    for place, bar in enumerate(lines(bars)):
        style.bar(
            panel,
            place,
            [bar.speedup_q1, bar.speedup, bar.speedup_q3],
            f"{bar.speedup:,.0f}\u00d7" if bar.speedup >= 100 else f"{bar.speedup:.3g}\u00d7",
            start=1,
            look={"height": 0.72, **(style.solid(bar.kernel) if bar.kernel else style.OTHER_PROGRAM)},
            label={"end": max(1.0, bar.speedup_q3)},
        )
    panel.axvline(1, color="black", linestyle=style.DASHES, linewidth=0.9)
    style.name_lanes(panel, range(len(bars)), bars["label"], width=1.7)
    panel.set_ylim(len(bars) - 0.35, -0.65)
    style.plain_numbers(panel.xaxis, "{:,g}")
