"""The end-to-end experiment: how long is the way from a file to a verdict, and what of it does hashing in place save?

Three ways lead to a model's root: the file is read, copied to the device and hashed there; the model is hashed where it
is, in the device's memory; it is copied back and hashed on the host. All must give one and the same root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import Any, cast

import numpy as np
import psutil
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hashbench.bench.experiment import SEED, Experiment, Skip
from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import Seconds
from hashbench.bench.readings import Reading
from hashbench.bench.results import REFERENCE, Row
from hashbench.bench.verification import verify
from hashbench.experiments import style
from hashbench.experiments.host_tree import HostTree, processes_of
from hashbench.experiments.storage import Storage, StorageUnavailable, in_memory, leave_page_cache, on_disk
from hashbench.experiments.throughput import CHUNK_SIZE
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.selection import FASTEST_FIRST
from hashbench.hashing.sources import FileRange
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Buffer, Bytes, Device, Kernel, Stage, kernel_class
from hashbench.report.evidence import COPIED_BACK, FROM_FILE, IN_PLACE, TOTAL

ALGORITHM = "sha256"

QUICK_MODELS = {"gpu": ("bert-base", "llama-3.2-1b"), "cpu": ("bert-base",)}
FULL_MODELS = {"gpu": (*QUICK_MODELS["gpu"], "llama-3.1-8b"), "cpu": ("bert-base", "llama-3.2-1b")}
"""Models by kind of device."""

RUNS = 3
"""Runs of a way with a file or the host in it."""

IN_PLACE_RUNS = 9

LARGEST_ON_DISK = 4 * 10**9
"""Bytes of the largest model that is read from a disk: each run is a whole read of it."""

HOST_COPIES = 4
"""How many times a model must fit in the host's free memory: in a file, in page-locked memory, which a framework may
keep, and in pageable memory, with one to spare."""

DEVICE_COPIES = 2.2
"""And in the device's: where it is hashed in place and where it is copied to, with a digest for each chunk."""

_SECONDS = " seconds"
STAGES = ("read", "copy", "hash", "reduce")
WHOLE = TOTAL.removesuffix(_SECONDS)
"""A reading's quantity is one of these, and `_SECONDS`."""

PAGE_LOCKED, PAGEABLE, OVERLAPPED = "page-locked", "pageable", "overlapped"

READING_ALONE, COPYING_ALONE = "reading alone", "copying alone"
"""Stages of the overlapped way, each by itself."""

Samples = dict[str, list[float]]
"""Seconds of each run, by stage and in total."""

Outcomes = Iterator[Reading | Skip]


class EndToEnd(Experiment):
    """The three ways to a model's root, stage by stage, on one device of each kind."""

    name = "end-to-end"
    question = "How long is the way from a file to a verdict, and what of it does hashing in place save?"

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Seconds of each stage and in total, SHA-256 trees in chunks of 4 KiB; the long form has larger models too."""
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

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Stacked bars of seconds, a panel a model. The first kernel's has the experiment's name, the others' theirs
        too; a GPU's comes first."""
        ways = _ways(readings)
        kernels = list(dict.fromkeys(way.kernel for way in sorted(ways, key=lambda way: way.device_kind != "gpu")))
        drawn = []
        for kernel in kernels:
            place = path if kernel == kernels[0] else path.with_name(f"{path.name}_{kernel}")
            drawn += _draw([way for way in ways if way.kernel == kernel], place)
        return drawn


EXPERIMENT = EndToEnd()


def _one_of_each_kind(devices: Sequence[Device]) -> list[Device]:
    """Of the devices that can be used, the one of each kind whose kernel is expected to be the fastest."""
    chosen = []
    for kind, order in FASTEST_FIRST.items():
        usable = [device for device in devices if device.unavailable is None and device.kind == kind]
        if usable:
            chosen.append(min(usable, key=lambda d: order.index(d.kernel) if d.kernel in order else len(order)))
    return chosen


# The ways ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Model:
    """A model in a device's memory.

    Attributes:
        name: of the model.
        kernel: of the device.
        root: what every way must give.
    """

    name: str
    kernel: Kernel
    root: bytes

    @property
    def nbytes(self) -> int:
        return MODELS[self.name].nbytes

    def check(self, way: str, root: bytes) -> None:
        """The verdict.

        Raises:
            VerificationError: `root` is not the model's.
        """
        if root != self.root:
            where = f"{self.kernel.name} on {self.kernel.device.name}"
            raise VerificationError(f"{where}, {self.name}: {way} gave the root {root.hex()}, not {self.root.hex()}")

    def readings(self, way: str, how: Sequence[str], samples: Samples, note: str = "") -> Outcomes:
        """A reading of each stage, and of the total."""
        kernel = self.kernel
        for stage, seconds in samples.items():
            summary = Seconds.of(seconds)
            if summary.q1 <= 0:  # the tree's time less that of its leaves may vanish in the noise
                yield Skip(
                    f"{way}: {stage} seconds ({', '.join((kernel.name, self.name, *how))})",
                    "the tree took no longer than its leaves alone, within the spread of the runs",
                )
                continue
            yield Reading.of(
                summary,
                kernel.device,
                subject=way,
                quantity=stage + _SECONDS,
                unit="s",
                conditions=", ".join((kernel.name, self.name, *how)),
                algorithm=kernel.algorithm.name,
                source=f"hashbench {version('hashbench')}, {kernel.device.framework}",
                note=note,
            )


_SPLIT = (
    "Hash is the device's time of the leaves alone and reduce that of the tree less it, both run again at the end; the "
    "other stages and the total are by the wall's clock. "
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
    verify(kernel, "tree", [buffer], CHUNK_SIZE, digests, SEED)
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
    yield from model.readings(IN_PLACE, [], samples, _SPLIT + "The model lies in the device's memory already.")


def _split(kernel: Kernel, buffer: Buffer, samples: Samples) -> None:
    """Adds the seconds that the leaves and the reduction take by the device's clock."""
    leaves = kernel.prepare("leaves", [buffer], CHUNK_SIZE)
    hashing = leaves.run()
    del leaves  # and its digests
    samples["hash"].append(hashing)
    samples["reduce"].append(kernel.prepare("tree", [buffer], CHUNK_SIZE).run() - hashing)


def _copied_back(model: _Model, buffer: Buffer, path: Path) -> Outcomes:
    """The copy to page-locked and to ordinary memory of the host, and hashlib in a process a core there."""
    cores = processes_of(kernel_class(REFERENCE[0]).devices()[-1])
    note = (
        f"The host's trees are hashlib's, in {cores} processes that were started before; moving the copy to memory "
        "that they share is no part of the time. Hash is all that they do, reduce what is above their pieces' roots."
    )

    def of(memory: str, copied: Bytes) -> Outcomes:
        samples = _hashed_on_host(model, buffer, copied, path, host)
        return model.readings(COPIED_BACK, [f"hashlib in {cores} processes", memory], samples, note)

    with HostTree(cores, ALGORITHM, CHUNK_SIZE) as host:
        stage = model.kernel.stage(model.nbytes)
        yield from of(PAGE_LOCKED, stage.host)
        del stage
        yield from of(PAGEABLE, np.empty(model.nbytes, np.uint8))


def _hashed_on_host(model: _Model, buffer: Buffer, copied: Bytes, path: Path, host: HostTree) -> Samples:
    """All runs that copy to `copied`. The host's processes share the memory of the file at `path`; moving the copy
    there is no part of the time."""
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
    """The file read, copied and hashed, one stage after another through page-locked and through ordinary memory; then
    all of it overlapped, as `hashbench verify` does it."""
    yield from _page_locked(model, path, where, cold=cold)
    yield from _pageable(model, path, where, cold=cold)
    yield from _overlapped(model, path, where, cold=cold)


def _page_locked(model: _Model, path: Path, where: Storage, *, cold: bool) -> Outcomes:
    stage = model.kernel.stage(model.nbytes)
    samples = _runs(model, path, stage.host, lambda host: stage.upload(host.size), cold=cold)
    yield from model.readings(FROM_FILE, [where.place, PAGE_LOCKED], samples, _SPLIT + where.note)


def _pageable(model: _Model, path: Path, where: Storage, *, cold: bool) -> Outcomes:
    samples = _runs(model, path, np.empty(model.nbytes, np.uint8), model.kernel.put, cold=cold)
    yield from model.readings(FROM_FILE, [where.place, PAGEABLE], samples, _SPLIT + where.note)


class _Idle(Stage):
    """A stage that nothing is copied from."""

    def __init__(self, stage: Stage) -> None:
        self.host = stage.host

    def upload(self, nbytes: int) -> Buffer:
        return Buffer(self.host, 0, nbytes)


class _Reader:
    """A kernel that does not copy and does not hash: what is left of hashing a file is reading it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)

    def stage(self, nbytes: int) -> Stage:
        return _Idle(self._kernel.stage(nbytes))

    def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        return np.zeros((len(segments), self._kernel.algorithm.digest_size), np.uint8)


def _overlapped(model: _Model, path: Path, where: Storage, *, cold: bool) -> Outcomes:
    """All of it, and beside it reading alone by the same threads, and copying alone from one of the same stages."""
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
    note = " ".join(filter(None, ("As `hashbench verify` does it, its stages made before.", where.note)))
    yield from model.readings(FROM_FILE, [where.place, OVERLAPPED], samples, note)


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
    """The same from a disk, with nothing of the file in memory."""
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
            note = "The system held no page of the file; what is below the system may have."
            yield from _from_file(model, path, Storage(disk.folder, place, note), cold=True)
    except StorageUnavailable as error:
        yield Skip(what, str(error))


def _go_cold(path: Path) -> None:
    if not leave_page_cache(path):
        raise StorageUnavailable("the system keeps temporary files in memory, so that no read of a disk can be timed")


# The figure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One bar.

    Attributes:
        subject: the way.
        how: where the file lies and what memory it goes through, or who hashes; empty where it is in place.
        seconds: the median of each stage that was measured on its own, one after another.
        alone: that of each stage of the overlapped way by itself.
        total: the median, q1 and q3 in seconds, and repeats.
    """

    kernel: str
    model: str
    device_name: str
    device_kind: str
    subject: str
    how: str
    seconds: dict[str, float]
    alone: dict[str, float]
    total: Reading

    @property
    def label(self) -> str:
        """What the figure calls it."""
        return self.subject if not self.how else f"{self.subject}: {self.how}"


def _ways(readings: Sequence[Reading]) -> list[Way]:
    """Ways that have a total, each subject's next to each other, files in memory before those on a disk.

    Raises:
        ResultsError: a reading is of no model that is known.
    """
    found: dict[tuple[str, ...], dict[str, Reading]] = {}
    for reading in readings:
        stage = reading.quantity.removesuffix(_SECONDS)
        found.setdefault((reading.subject, reading.conditions, reading.device_name), {})[stage] = reading
    ways = []
    for (subject, _, device_name), stages in found.items():
        if WHOLE in stages:
            kernel, model, *how = stages[WHOLE].model_conditions("kernel")
            ways.append(
                Way(
                    kernel=kernel,
                    model=model,
                    device_name=device_name,
                    device_kind=stages[WHOLE].device_kind,
                    subject=subject,
                    how=", ".join(how),
                    seconds={stage: stages[stage].median for stage in STAGES if stage in stages},
                    alone={stage: stages[stage].median for stage in (READING_ALONE, COPYING_ALONE) if stage in stages},
                    total=stages[WHOLE],
                )
            )
    subjects = (IN_PLACE, COPIED_BACK, FROM_FILE)
    return sorted(
        ways, key=lambda way: (subjects.index(way.subject), "disk" in way.how, way.how.endswith(OVERLAPPED), way.how)
    )


_LOOKS: dict[str, dict[str, Any]] = {
    "read": {"facecolor": style.COLOURS["sky"], "hatch": "///"},
    "copy": {"facecolor": style.COLOURS["orange"], "hatch": "..."},
    "hash": {"facecolor": style.COLOURS["green"], "hatch": ""},
    "reduce": {"facecolor": style.COLOURS["purple"], "hatch": "xxx"},
    "launches and waiting": {"facecolor": "#DDDDDD", "hatch": ""},
    "all stages overlapped": {"facecolor": "white", "hatch": "\\\\\\"},
}
"""Of the parts of a bar."""

_BOUND: dict[str, Any] = {"color": style.COLOURS["vermilion"], "linewidth": 1.6}

_EDGE: dict[str, Any] = {"edgecolor": "#333333", "linewidth": 0.4}


def _draw(ways: Sequence[Way], path: Path) -> list[Path]:
    models = sorted({way.model for way in ways}, key=lambda name: MODELS[name].nbytes)
    parts = {name: [way for way in ways if way.model == name][::-1] for name in models}
    heights = [0.5 + 0.28 * len(part) for part in parts.values()]
    with style.style():
        figure = style.new_figure(style.PAGE_WIDTH, 1.2 + sum(heights))
        panels = figure.subplots(len(models), 1, squeeze=False, height_ratios=heights)
        for panel, (name, part) in zip(panels.flat, parts.items(), strict=True):
            for place, way in enumerate(part):
                _draw_bar(panel, place, way)
            panel.set_yticks(range(len(part)), [fill(way.label, 44) for way in part], fontsize=7)
            panel.set_ylim(-0.6, len(part) - 0.4)
            panel.set_xlim(0, 1.15 * max(way.total.q3 for way in part))
            panel.set_title(f"{MODELS[name].title}, {1e-9 * MODELS[name].nbytes:.2f} GB", loc="left")
            panel.grid(axis="y", visible=False)
        panels.flat[-1].set_xlabel("seconds; the whole way by the wall's clock, median and quartiles")
        names = " and ".join(dict.fromkeys(f"{way.kernel} on {way.device_name}" for way in ways))
        figure.suptitle(f"From the bytes to a verdict: SHA-256 trees by {fill(names, 90)}", fontsize=9)
        keys: list[Artist] = [Patch(**look, **_EDGE, label=name) for name, look in _LOOKS.items()]
        keys.append(Line2D([], [], **_BOUND, label="the slower of reading and copying alone"))
        figure.legend(handles=keys, loc="outside lower center", ncols=4)
    columns = ("kernel", "device_name", "model", "bytes", "way", "how", *(f"{stage}_seconds" for stage in STAGES))
    columns += tuple(f"{stage.replace(' ', '_')}_seconds" for stage in (READING_ALONE, COPYING_ALONE))
    table = [
        (
            *(way.kernel, way.device_name, way.model, MODELS[way.model].nbytes, way.subject, way.how),
            *(way.seconds.get(stage, "") for stage in STAGES),
            *(way.alone.get(stage, "") for stage in (READING_ALONE, COPYING_ALONE)),
            *(way.total.median, way.total.q1, way.total.q3, way.total.repeats),
        )
        for part in parts.values()
        for way in reversed(part)
    ]
    return style.save(figure, path, (*columns, "total_seconds", "total_q1", "total_q3", "repeats"), table)


def _draw_bar(panel: Axes, place: int, way: Way) -> None:
    total = way.total.median
    parts = dict(way.seconds)
    rest = "launches and waiting" if parts else "all stages overlapped"
    parts[rest] = max(0.0, total - sum(parts.values()))
    left = 0.0
    for name, seconds in parts.items():
        panel.barh(place, seconds, left=left, height=0.62, **_LOOKS[name], **_EDGE)
        left += seconds
    if way.alone:
        bound = max(way.alone.values())
        panel.plot([bound, bound], [place - 0.31, place + 0.31], **_BOUND)
    error = [[total - way.total.q1], [way.total.q3 - total]]
    panel.errorbar(total, place, xerr=error, color="black", elinewidth=0.9, capsize=2)
    panel.annotate(
        f"{total:.3g} s" if total >= 0.1 else f"{1e3 * total:.3g} ms",
        (max(left, way.total.q3), place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
    )
