"""The end-to-end experiment: how long does it take from a file to a verdict, and how much does hashing in place save?

There are three ways to a model's root: read the file, copy it to the device and hash it there; hash the model where it
is, in the device's memory; or copy it back and hash it on the host. All must give the same root.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import pandas as pd
import psutil
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hashbench.bench.experiment import SEED, Skip
from hashbench.bench.frames import VALUES, Line, Results, lines, where
from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import Seconds
from hashbench.bench.output_check import check_output
from hashbench.bench.readings import Reading, phrase
from hashbench.bench.results import REFERENCE
from hashbench.bench.sweeps import CHUNK_SIZE
from hashbench.bench.text_table import Columns
from hashbench.experiments import style
from hashbench.experiments.host_tree import HostTree, processes_of
from hashbench.experiments.programs import Outcomes
from hashbench.experiments.storage import Storage, StorageUnavailable, in_memory, leave_page_cache, on_disk
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.selection import FASTEST_FIRST, fastest_first
from hashbench.hashing.sources import FileRange
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Buffer, Bytes, Device, Kernel, Lane, Part, Stage, kernel_class
from hashbench.report.findings import Check, ClaimExperiment, Finding, algorithm_title, worst

IN_PLACE_SHARE = 0.10
"""The largest share of another way's time that hashing in place may take."""

IN_PLACE, FROM_FILE, COPIED_BACK = "in place", "file to verdict", "copied back"
"""The subjects of the readings: the ways to a verdict."""

OTHER_WAYS = {FROM_FILE: "from a file to the verdict", COPIED_BACK: "that copies back to the host and hashes there"}
"""The ways that hashing in place is compared with."""

ALGORITHM = "sha256"

QUICK_MODELS = {"gpu": ("bert-base", "llama-3.2-1b"), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": (*QUICK_MODELS["gpu"], "llama-3.1-8b"), "cpu": ("bert-base", "llama-3.2-1b")}
"""Models by kind of device."""

RUNS = 3
"""Timed runs of a way that involves a file or the host."""

IN_PLACE_RUNS = 9

LARGEST_ON_DISK = 4 * 10**9
"""Bytes of the largest model that is read from a disk: each run reads it all."""

HOST_COPIES = 4
"""How many times a model must fit in the host's free memory: in a file, in page-locked memory, which a framework may
keep, in pageable memory, and once in reserve."""

DEVICE_COPIES = 2.2
"""And in the device's free memory: hashed in place, and copied to, with a digest per chunk."""

STAGES = ("read", "copy", "hash", "reduce")
WHOLE = "total"
TOTAL = f"{WHOLE} seconds"
"""The quantity of a reading is a stage and "seconds"."""

PAGE_LOCKED, PAGEABLE, OVERLAPPED = "page-locked", "pageable", "overlapped"

READING_ALONE, COPYING_ALONE = "reading alone", "copying alone"
"""Stages of the overlapped way, each measured alone."""

Samples = dict[str, list[float]]
"""Seconds of each run, by stage and in total."""


class EndToEnd(ClaimExperiment):
    """The three ways to a model's root, stage by stage, on one device of each kind."""

    name = "end-to-end"
    question = "How long does it take from a file to a verdict, and how much does hashing in place save?"
    rule = (
        f"Hashing a model where it lies in the GPU's memory takes at most {IN_PLACE_SHARE:.0%} of the time from a file "
        "to the verdict, and of the time of copying it back to the host and hashing it there. The fastest variant of "
        "these ways counts: through page-locked or pageable memory, overlapped, from a disk or from files in memory. "
        "The answer names the kind of memory."
    )

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Seconds of each stage and in total, for SHA-256 trees in chunks of 4 KiB. The full form has more models."""
        models = QUICK_MODELS if quick else FULL_MODELS
        kernel_of = cache(lambda device: kernel_class(device.kernel)(device, ALGORITHM))
        chosen = _one_of_each_kind(devices)
        left_out = (
            Skip(
                f"{self.name}: {d.kernel} {d.id}",
                "one of each kind is measured: --kernel and --device choose",
            )
            for d in devices
            if d.unavailable is None and d not in chosen
        )
        ways = chain.from_iterable(
            _of_model(partial(kernel_of, device), name) for device in chosen for name in models[device.kind or "cpu"]
        )
        return chain(left_out, ways)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Stacked bars of seconds, a panel per model and a figure per kernel. The first one, a GPU's if there is one,
        has the experiment's name; the others also have their kernel's."""
        ways = _ways(results.readings)
        kernels = list(dict.fromkeys(ways.sort_values("device_kind", ascending=False, kind="stable")["kernel"]))
        drawn = []
        for kernel in kernels:
            place = path if kernel == kernels[0] else path.with_name(f"{path.name}_{kernel}")
            drawn += _draw(ways[ways["kernel"] == kernel], place)
        return drawn

    def finding(self, results: Results) -> Finding:
        """The share of the other ways' time that hashing in place takes."""
        totals = results.readings.query("quantity == @TOTAL and device_kind == 'gpu'")
        in_place = totals[totals["subject"] == IN_PLACE]
        hashed = ["machine", "device_name", "algorithm", "kernel", "model"]
        pairs = totals[totals["subject"].isin(OTHER_WAYS)].merge(
            in_place[[*hashed, "median"]].drop_duplicates(hashed, keep="last"), on=hashed, suffixes=("", "_in_place")
        )
        pairs["share"] = pairs["median_in_place"] / pairs["median"]
        checks = tuple(_saves(way, pairs[pairs["subject"] == way]) for way in OTHER_WAYS)
        columns: Columns = {
            "model": "model",
            "algorithm": algorithm_title,
            "in place, s": ("median_in_place", "{:.3g}".format),
            "another way": "subject",
            "how": _how,
            "that way, s": ("median", "{:.3g}".format),
            "in place over it": ("share", "{:.2%}".format),
            "kernel and device": where,
        }
        return Finding.of(checks, pairs, columns)


EXPERIMENT = EndToEnd()


def _how(reading: Line) -> str:
    """Where the file is and which memory it passes through, or who hashes; empty if in place."""
    return phrase(reading.workers, reading.storage, reading.memory)


def _saves(way: str, pairs: pd.DataFrame) -> Check:
    question = f"Does hashing in place take at most {IN_PLACE_SHARE:.0%} of the time of every way {OTHER_WAYS[way]}?"
    memories = [memory for memory in (PAGE_LOCKED, PAGEABLE) if (pairs["memory"] == memory).any()]
    through = f" Measured through {' and '.join(memories)} memory." if memories else ""
    return worst(
        pairs,
        "share",
        question,
        lambda pair: (
            f"{pair.share:.2%} at most: {pair.model}, {pair.median_in_place:.3g} s in place and {pair.median:.3g} s "
            f"{way} ({_how(pair)}), by {where(pair)}.{through}"
        ),
        "The two ways were not measured on one GPU.",
        at_most=IN_PLACE_SHARE,
    )


def _one_of_each_kind(devices: Sequence[Device]) -> list[Device]:
    """The available device of each kind whose kernel is expected to be the fastest."""
    chosen = []
    for kind in FASTEST_FIRST:
        order = fastest_first(kind)
        usable = [device for device in devices if device.unavailable is None and device.kind == kind]
        if usable:
            chosen.append(min(usable, key=lambda d: order.index(d.kernel) if d.kernel in order else len(order)))
    return chosen


# The ways ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """A model in a device's memory.

    Attributes:
        name: the model's name.
        kernel: the kernel, on its device.
        root: the root that every way must give.
    """

    name: str
    kernel: Kernel
    root: bytes

    @property
    def nbytes(self) -> int:
        return MODELS[self.name].nbytes

    def check(self, way: str, root: bytes) -> None:
        """Checks the root that a way gave.

        Raises:
            VerificationError: it is not the model's root.
        """
        if root != self.root:
            where = f"{self.kernel.name} on {self.kernel.device.name}"
            raise VerificationError(f"{where}, {self.name}: {way} gave the root {root.hex()}, not {self.root.hex()}")

    def readings(
        self, way: str, samples: Samples, note: str = "", *, workers: str = "", storage: str = "", memory: str = ""
    ) -> Outcomes:
        """A reading of each stage, and of the total."""
        kernel = self.kernel
        for stage, seconds in samples.items():
            if Seconds.of(seconds).q1 <= 0:  # the time of the tree minus that of its leaves may vanish in the noise
                where = phrase(kernel.name, self.name, workers, storage, memory)
                yield Skip(
                    f"{way}: {stage} seconds ({where})",
                    "the tree took no longer than its leaves alone, within the spread of the runs",
                )
                continue
            yield Reading.of(
                seconds,
                kernel.device,
                subject=way,
                quantity=f"{stage} seconds",
                unit="s",
                kernel=kernel.name,
                model=self.name,
                workers=workers,
                storage=storage,
                memory=memory,
                algorithm=kernel.algorithm.name,
                source=f"hashbench {version('hashbench')}, {kernel.device.framework}",
                note=note,
            )


_SPLIT = (
    "Hash is the device time of the leaves alone, and reduce that of the tree minus it, both run again at the end; the "
    "other stages and the total are wall-clock times. "
)


def _of_model(kernel_for: Callable[[], Kernel], name: str) -> Outcomes:
    kernel = kernel_for()
    nbytes = MODELS[name].nbytes
    what = f"end-to-end: {kernel.name} {kernel.device.id}, {name}"
    on_host = HOST_COPIES + (DEVICE_COPIES if kernel.device.kind == "cpu" else 0)
    for memory, free, copies in (
        ("the device's", kernel.free_memory(), DEVICE_COPIES),
        ("the host's", psutil.virtual_memory().available, on_host),
    ):
        if free < copies * nbytes:
            need = f"{copies:g} times its {1e-9 * nbytes:.2f} GB"
            yield Skip(what, f"{need} do not fit in {memory} free memory of {1e-9 * free:.2f} GB")
            return
    buffer = kernel.random(nbytes, SEED)
    digests = kernel.tree([buffer], CHUNK_SIZE)
    check_output(kernel, "tree", [buffer], CHUNK_SIZE, digests, SEED)
    model = _Model(name, kernel, digests.tobytes())
    yield from _in_place(model, buffer)
    try:
        with in_memory(nbytes) as where:
            path = where.folder / "model"
            np.memmap(path, np.uint8, "w+", shape=(nbytes,))[:] = kernel.get(buffer)
            yield from _copied_back(model, buffer, path)
            del buffer
            yield from _from_file(model, path, where)
            yield from _from_disk(model, path)
    except StorageUnavailable as error:
        yield Skip(f"{what}: {FROM_FILE} and {COPIED_BACK}", str(error))


def _in_place(model: _Model, buffer: Buffer) -> Outcomes:
    samples: Samples = {"hash": [], "reduce": [], WHOLE: []}
    for _ in range(IN_PLACE_RUNS):
        begin = perf_counter()
        model.check(IN_PLACE, model.kernel.tree([buffer], CHUNK_SIZE).tobytes())
        samples[WHOLE].append(perf_counter() - begin)
        _split(model.kernel, buffer, samples)
    yield from model.readings(IN_PLACE, samples, _SPLIT + "The model is in the device's memory already.")


def _split(kernel: Kernel, buffer: Buffer, samples: Samples) -> None:
    """Adds the device seconds of the leaves and of the reduction."""
    leaves = kernel.prepare("leaves", [buffer], CHUNK_SIZE)
    hashing = leaves.run()
    del leaves  # and its digests
    samples["hash"].append(hashing)
    samples["reduce"].append(kernel.prepare("tree", [buffer], CHUNK_SIZE).run() - hashing)


def _copied_back(model: _Model, buffer: Buffer, path: Path) -> Outcomes:
    """The copy to page-locked and to pageable memory of the host, and hashlib there, with a process per core."""
    cores = processes_of(kernel_class(REFERENCE[0]).devices()[-1])
    workers = f"hashlib in {cores} processes"
    note = (
        f"The host's trees are hashlib's, in {cores} processes that were started before. Moving the copy to memory "
        "that they share does not count. Hash is all that they do, and reduce what is above the roots of their pieces."
    )

    def of(memory: str, copied: Bytes) -> Outcomes:
        samples = _hashed_on_host(model, buffer, copied, path, host)
        return model.readings(COPIED_BACK, samples, note, workers=workers, memory=memory)

    with HostTree(cores, ALGORITHM, CHUNK_SIZE) as host:
        stage = model.kernel.stage(model.nbytes)
        yield from of(PAGE_LOCKED, stage.host)
        del stage
        yield from of(PAGEABLE, np.empty(model.nbytes, np.uint8))


def _hashed_on_host(model: _Model, buffer: Buffer, copied: Bytes, path: Path, host: HostTree) -> Samples:
    """All runs that copy to `copied`. The host's processes share the memory of the file at `path`; moving the copy
    there does not count."""
    samples: Samples = {"copy": [], "hash": [], "reduce": [], WHOLE: []}
    copied.fill(1)  # so that the first copy finds memory there
    for run in range(-1, RUNS):
        begin = perf_counter()
        model.kernel.get_into(buffer, copied)
        copying = perf_counter() - begin
        np.memmap(path, np.uint8, "r+")[:] = copied
        begin = perf_counter()
        nodes = host.nodes([path])
        hashing = perf_counter() - begin
        begin = perf_counter()
        model.check(COPIED_BACK, host.fold(nodes)[0])
        folding = perf_counter() - begin
        if run >= 0:  # the first warms up
            for stage, seconds in (("copy", copying), ("hash", hashing), ("reduce", folding)):
                samples[stage].append(seconds)
            samples[WHOLE].append(copying + hashing + folding)
    return samples


def _from_file(model: _Model, path: Path, where: Storage, *, cold: bool = False) -> Outcomes:
    """The file read, copied and hashed: stage by stage through page-locked and through pageable memory, and then with
    all stages overlapped, as `hashbench verify` does it."""
    yield from _page_locked(model, path, where, cold=cold)
    yield from _pageable(model, path, where, cold=cold)
    yield from _overlapped(model, path, where, cold=cold)


def _page_locked(model: _Model, path: Path, where: Storage, *, cold: bool) -> Outcomes:
    stage = model.kernel.stage(model.nbytes)
    samples = _runs(model, path, stage.host, lambda host: stage.upload(host.size), cold=cold)
    yield from model.readings(FROM_FILE, samples, _SPLIT + where.note, storage=where.place, memory=PAGE_LOCKED)


def _pageable(model: _Model, path: Path, where: Storage, *, cold: bool) -> Outcomes:
    samples = _runs(model, path, np.empty(model.nbytes, np.uint8), model.kernel.put, cold=cold)
    yield from model.readings(FROM_FILE, samples, _SPLIT + where.note, storage=where.place, memory=PAGEABLE)


class _Idle(Stage):
    """A stage whose uploads copy nothing."""

    def __init__(self, stage: Stage) -> None:
        self.buffer, self._stage = stage.buffer, stage

    @property
    def host(self) -> Bytes:
        return self._stage.host

    def upload(self, nbytes: int) -> Buffer:
        return self.buffer[:nbytes]


class _IdleLane(Lane):
    """A lane that copies nothing."""

    def send(self, parts: Iterable[Part]) -> None:
        pass


class _Reader:
    """A kernel that neither copies nor hashes, so that hashing a file only reads it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def stage(self, nbytes: int) -> Stage:
        return _Idle(self._kernel.stage(nbytes))

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        return [_IdleLane(np.frombuffer(lane.block, np.uint8)) for lane in self._kernel.lanes(count, nbytes)]

    def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        return np.zeros((len(segments), self._kernel.algorithm.digest_size), np.uint8)


def _overlapped(model: _Model, path: Path, where: Storage, *, cold: bool) -> Outcomes:
    """All stages overlapped; then reading alone by the same threads, and copying alone from one of the same stages."""
    whole = [FileRange(path, 0, model.nbytes)]

    def timed(hasher: Hasher) -> tuple[float, bytes]:
        if cold:
            _go_cold(path)
        begin = perf_counter()
        (root,) = hasher.roots(whole)
        return perf_counter() - begin, root

    samples: Samples = {READING_ALONE: [], COPYING_ALONE: [], WHOLE: []}
    hasher = Hasher(model.kernel, CHUNK_SIZE)
    for run in range(-1, RUNS):  # the first makes the stages
        seconds, root = timed(hasher)
        model.check(f"{FROM_FILE}, {OVERLAPPED}", root)
        if run >= 0:
            samples[WHOLE].append(seconds)
    piece_size = hasher.piece_size
    del hasher
    stage = model.kernel.stage(piece_size)
    stage.host.fill(1)
    for run in range(-1, RUNS):
        begin = perf_counter()
        for start in range(0, model.nbytes, piece_size):
            stage.upload(min(piece_size, model.nbytes - start))
        if run >= 0:
            samples[COPYING_ALONE].append(perf_counter() - begin)
    del stage
    reader = Hasher(cast(Kernel, _Reader(model.kernel)), CHUNK_SIZE)
    samples[READING_ALONE] = [timed(reader)[0] for _ in range(-1, RUNS)][1:]
    note = " ".join(filter(None, ("As `hashbench verify` does it, with its stages allocated before.", where.note)))
    yield from model.readings(FROM_FILE, samples, note, storage=where.place, memory=OVERLAPPED)


def _runs(model: _Model, path: Path, host: Bytes, copy: Callable[[Bytes], Buffer], *, cold: bool) -> Samples:
    """All runs through `host`."""
    host.fill(1)  # so that the first read finds memory there
    samples: Samples = {name: [] for name in (*STAGES, WHOLE)}
    for run in range(0 if cold else -1, RUNS):
        of_run = _staged(model, path, host, copy, cold=cold)
        if run >= 0:  # the first of a file in memory warms up
            for name, seconds in of_run.items():
                samples[name] += seconds
    return samples


def _staged(model: _Model, path: Path, host: Bytes, copy: Callable[[Bytes], Buffer], *, cold: bool) -> Samples:
    """One run through `host`."""
    if cold:
        _go_cold(path)
    samples: Samples = {name: [] for name in STAGES}
    begin = perf_counter()
    _read(path, host)
    after_read = perf_counter()
    buffer = copy(host)
    after_copy = perf_counter()
    model.check(FROM_FILE, model.kernel.tree([buffer], CHUNK_SIZE).tobytes())
    end = perf_counter()
    samples["read"].append(after_read - begin)
    samples["copy"].append(after_copy - after_read)
    _split(model.kernel, buffer, samples)
    return samples | {WHOLE: [end - begin]}


def _read(path: Path, host: Bytes) -> None:
    with path.open("rb", buffering=0) as file:
        filled = 0
        while filled < host.size:  # one call of the system reads 2 GiB at most
            count = file.readinto(host[filled:].data)
            if not count:
                raise OSError(f"{path.name} ended after {filled:,} bytes of {host.size:,}")
            filled += count


def _from_disk(model: _Model, source: Path) -> Outcomes:
    """The same from a disk, with no page of the file in memory."""
    what = f"end-to-end: {model.kernel.name} {model.kernel.device.id}, {model.name} from a disk"
    if model.nbytes > LARGEST_ON_DISK:
        yield Skip(
            what,
            f"its {1e-9 * model.nbytes:.1f} GB are more than the {1e-9 * LARGEST_ON_DISK:g} that are read from one",
        )
        return
    try:
        with on_disk(model.nbytes) as disk:
            path = disk.folder / "model"
            np.memmap(source, np.uint8, "r").tofile(path)
            _go_cold(path)
            place = f"{disk.place} with a cold cache"
            note = "The system held no page of the file; layers below the system may have."
            yield from _from_file(model, path, Storage(disk.folder, place, note), cold=True)
    except StorageUnavailable as error:
        yield Skip(what, str(error))


def _go_cold(path: Path) -> None:
    if not leave_page_cache(path):
        raise StorageUnavailable("the system keeps temporary files in memory, so that no read of a disk can be timed")


# The figure ----------------------------------------------------------------------------------------------------------


def _ways(readings: pd.DataFrame) -> pd.DataFrame:
    """The ways that have a total: its reading, with a column `how`, and one for the median of each stage that was
    measured. Each subject's ways are next to each other, files in memory before those on a disk."""
    stage = readings["quantity"].str.removesuffix(" seconds")
    way = ["subject", "kernel", "model", "workers", "storage", "memory", "device_name"]
    medians = readings.assign(stage=stage).pivot_table("median", way, "stage", aggfunc="last")
    medians = medians.reindex(columns=[*STAGES, READING_ALONE, COPYING_ALONE])
    totals = readings[stage == WHOLE].drop_duplicates(way, keep="last")
    ways = totals.assign(how=list(map(_how, lines(totals)))).join(medians, on=way)
    order = ways.assign(
        rank=ways["subject"].map((IN_PLACE, COPIED_BACK, FROM_FILE).index),
        disk=ways["storage"].str.contains("disk"),
        overlapped=ways["memory"] == OVERLAPPED,
    )
    return order.sort_values(["rank", "disk", "overlapped", "how"], kind="stable")


_LOOKS: dict[str, dict[str, Any]] = {
    "read": {"facecolor": style.COLOURS["sky"], "hatch": "////"},
    "copy": {"facecolor": style.COLOURS["yellow"], "hatch": "----"},
    "hash": {"facecolor": "#444444", "hatch": ""},
    "reduce": {"facecolor": "white", "hatch": "xxxx"},
    "launches and waiting": {"facecolor": "#DDDDDD", "hatch": ""},
    "all stages overlapped": {"facecolor": "white", "hatch": "\\\\\\\\"},
}
"""How the parts of a bar look: in no kernel's colour."""

_BOUND: dict[str, Any] = {"color": "black", "linewidth": 1.8}

_EDGE: dict[str, Any] = {"edgecolor": "#333333", "linewidth": 0.4}


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{1e3 * value:.3g} ms"


def _headline(ways: pd.DataFrame) -> str:
    """The fastest of each kind of way over one model."""
    fastest = ways.sort_values("median", kind="stable").drop_duplicates("subject")
    seconds = [f"{way.subject} {_seconds(way.median)}" for way in lines(fastest)]
    return f"{MODELS[ways['model'].iloc[0]].title}: {', '.join(seconds)}"


def _draw(ways: pd.DataFrame, path: Path) -> list[Path]:
    models = sorted(set(ways["model"]), key=lambda name: MODELS[name].nbytes)
    parts = {name: ways[ways["model"] == name] for name in models}
    layouts = [style.stacked(Counter(map(_group, lines(part)))) for part in parts.values()]
    with style.style():
        figure, grid = style.panels([style.LANE * (max(places) + 1.2) for places, _ in layouts])
        for panel, (places, headings), (name, part) in zip(grid.flat, layouts, parts.items(), strict=True):
            for place, way, stages in zip(places, lines(part), part.to_dict("records"), strict=True):
                _draw_bar(panel, place, way, stages)
            style.head(panel, headings)
            style.name_lanes(panel, places, part["memory"].replace("", "no copy"))
            panel.set_ylim(max(places) + 0.6, -0.6)
            panel.set_xlim(0, 1.2 * part["q3"].max())
            panel.set_title(f"{MODELS[name].title}, {1e-9 * MODELS[name].nbytes:.2f} GB", loc="left")
        grid[-1, 0].set_xlabel("seconds of wall-clock time, median and quartiles")
        names = style.names(map(where, lines(ways)))
        what = f"From the bytes to a verdict: SHA-256 trees by {names}"
        style.headline(figure, _headline(parts[models[-1]]), what)
        keys: list[Artist] = [Patch(**look, **_EDGE, label=name) for name, look in _LOOKS.items()]
        keys.append(Line2D([], [], **_BOUND, label="the slower of reading and copying alone"))
        style.legend(figure, keys)
    shown = pd.concat(parts.values())
    table = shown[["kernel", "device_name", "model"]].assign(bytes=[MODELS[name].nbytes for name in shown["model"]])
    table = table.assign(way=shown["subject"], how=shown["how"])
    for stage in (*STAGES, READING_ALONE, COPYING_ALONE):
        table[f"{stage.replace(' ', '_')}_seconds"] = shown[stage]
    totals = {"median": "total_seconds", "q1": "total_q1", "q3": "total_q3", "repeats": "repeats"}
    return style.save(figure, path, table.join(shown[list(totals)].rename(columns=totals)))


def _group(way: Line) -> str:
    """What the ways of a group have in common: all but the memory."""
    return ": ".join(filter(None, (way.subject, way.workers, way.storage)))


def _draw_bar(panel: Axes, place: float, way: Line, stages: dict[str, Any]) -> None:
    parts = {name: stages[name] for name in STAGES if pd.notna(stages[name])}
    alone = [stages[name] for name in (READING_ALONE, COPYING_ALONE) if pd.notna(stages[name])]
    rest = "launches and waiting" if parts else "all stages overlapped"
    parts[rest] = max(0.0, way.median - sum(parts.values()))
    left = 0.0
    for name, seconds in parts.items():
        panel.barh(place, seconds, left=left, height=0.74, **_LOOKS[name], **_EDGE)
        left += seconds
    if alone:
        panel.plot([max(alone)] * 2, [place - 0.45, place + 0.45], **_BOUND)
    style.error_bar(panel, place, [getattr(way, name) for name in VALUES])
    style.write_value(panel, place, _seconds(way.median), end=max(left, way.q3, *alone))
