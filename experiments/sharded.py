"""The sharded experiment: how long does it take to verify a model that several GPUs or processes hold together?

Each rank is a process, with a GPU or a core of its own. The ranks of one group hold a model in one of two layouts:
everything sharded along its first dimension, as FSDP2 does, or as tensor parallelism (TP) shards it, where a third of
Llama is sharded along an inner dimension and rows move between the ranks. A run is timed on all ranks from the call to
the verdict, and the slowest rank counts. Then bits are flipped, one at a time: each must be found, and blamed on its
rank. In addition, a folder in memory-backed storage is verified by one process with one GPU and with all, and by a
process for each GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from time import perf_counter

import pandas as pd
from matplotlib.axes import Axes

from hashbench.bench.experiment import SEED, Experiment, Skip
from hashbench.bench.frames import VALUES, Results, lines
from hashbench.bench.inventories import MODELS
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, GiB
from hashbench.experiments import style
from hashbench.experiments.programs import Outcomes
from hashbench.experiments.sharded_ranks import FSDP, TP, Answer, Case, Files, Ranks
from hashbench.experiments.storage import StorageUnavailable, in_memory, random_pieces, write_pieces
from hashbench.hashing.selection import choose
from hashbench.hashing.sizes import format_size
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Device, Kernel
from hashbench.model.disk import manifest, verify
from hashbench.model.manifest import Manifest

ALGORITHM = "sha256"

RUNS = {"gpu": 9, "cpu": 3}
FLIPS = {"gpu": 4, "cpu": 2}

GPU_MODELS = ("llama-3.2-1b", "llama-3.1-8b", "qwen2.5-32b", "llama-3.1-70b", "llama-3.1-405b")
CPU_MODEL = "llama-3.2-1b"
QUICK_MODEL = "llama-3.2-1b"

_BESIDE = 6 * GiB
"""Bytes of a GPU that the model may not fill: digests, rows that move, and what the frameworks take."""

VERDICT, NAMED, SENT = "call to verdict", "call to the rank with a flipped bit", "sent by a rank"
"""The quantities of the readings of ranks."""

ONE_PROCESS, PROCESSES = "files in memory, one process", "files in memory, a process a GPU"
"""The subjects of the readings of files."""

THROUGHPUT = "throughput"
FILE_BYTES = {"gpu": 4 * GiB, "cpu": 256 << 20}
FILE_RUNS = 5
LINKS = {"gpu": 16, "cpu": 4}
"""One file with so many names is verified: all are read and hashed."""


class Sharded(Experiment):
    """Models that ranks hold together, verified by all of them; and files verified with several GPUs."""

    name = "sharded"
    question = "How long does it take to verify a model that several GPUs hold together?"

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Ranks with a GPU each, ranks with a core each, and files with one GPU and with all."""
        try:
            import torch
        except ImportError as error:
            return iter([Skip(self.name, f"PyTorch cannot be imported ({error}): install hashbench[torch]")])
        gpus = [device for device in devices if device.kernel == "cupy" and device.unavailable is None]
        cpus = [device for device in devices if device.kind == "cpu" and device.unavailable is None]
        found: list[Outcomes] = []
        if gpus and torch.cuda.is_available():
            pool = Ranks(_counts(torch.cuda.device_count())[-1], "gpu")
            found += [_ranks(pool, "gpu", gpus, quick), _files(pool, gpus, quick), _end(pool)]
        if cpus:
            pool = Ranks(_counts(len(os.sched_getaffinity(0)))[-1], "cpu")
            found += [_ranks(pool, "cpu", cpus, quick), _end(pool)]
        return chain.from_iterable(found)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Seconds from the call to the verdict, by model and layout, and the throughput of files."""
        bars = pd.DataFrame(_bars(results.readings), columns=_BAR).sort_values(
            ["unit", "of"], ascending=[False, True], kind="stable"
        )
        if bars.empty:
            return []
        with style.style():
            figure = style.stacked_panels(bars, _draw)
            names = style.names(results.readings["device_name"])
            style.headline(figure, _headline(results.readings), f"Chunks of {format_size(CHUNK_SIZE)}: {names}")
        return style.save(figure, path, bars[["of", "workers", "unit", *VALUES]])


EXPERIMENT = Sharded()


def _counts(most: int) -> list[int]:
    """How many GPUs or ranks are compared, up to as many as there are."""
    return [count for count in (1, 2, 4, 8) if count <= most]


# Ranks ---------------------------------------------------------------------------------------------------------------


def _ranks(pool: Ranks, kind: str, devices: Sequence[Device], quick: bool) -> Outcomes:
    """The readings of one, two, four ... ranks of one kind."""
    room = 0
    if kind == "gpu":
        import torch

        room = torch.cuda.mem_get_info(0)[0] - _BESIDE
    cases = _cases(kind, _counts(pool.count), room, quick)
    return chain.from_iterable(map(partial(_of_case, pool, kind, devices), cases))


def _end(pool: Ranks) -> Outcomes:
    pool.close()
    yield from ()


def _cases(kind: str, counts: Sequence[int], room: int, quick: bool) -> Iterator[Case]:
    """For each number of ranks the largest model that fits, and the largest that fits one rank, to compare them."""
    case = partial(Case, algorithm=ALGORITHM, chunk_size=CHUNK_SIZE, runs=RUNS[kind], flips=FLIPS[kind])
    for ranks in counts:
        if quick or kind == "cpu":
            models = [QUICK_MODEL if kind == "gpu" else CPU_MODEL]
        else:
            fitting = [[name for name in GPU_MODELS if MODELS[name].nbytes <= each * room][-1] for each in (1, ranks)]
            models = list(dict.fromkeys(fitting))
        for model in models:
            yield case(model, FSDP, ranks)
            if ranks > 1 and model == models[-1]:
                yield case(model, TP, ranks)


def _of_case(pool: Ranks, kind: str, devices: Sequence[Device], case: Case) -> Outcomes:
    answers = pool.measure(case)
    if len({answer.root for answer in answers}) > 1:
        raise VerificationError(f"ranks found several roots of {case.model}")
    name, _, _ = answers[0].kernel.partition(" ")
    device = next((device for device in devices if device.kernel == name), None)
    if device is None:
        workers = _workers(case.ranks, kind)
        yield Skip(f"sharded: {case.model}, {case.layout} layout, {workers}", f"{name} hashed, which was not asked for")
        return
    reading = partial(_reading, case, kind, name, device, answers)
    yield reading(VERDICT, "s", _slowest([answer.seconds for answer in answers]))
    yield reading(NAMED, "s", _slowest([answer.flips for answer in answers]))
    if case.ranks > 1:
        yield reading(SENT, "GB", [max(1e-9 * answer.sent for answer in answers)])


def _slowest(samples: Sequence[Sequence[float]]) -> list[float]:
    """The seconds of the slowest rank, of each run."""
    return [max(of_run) for of_run in zip(*samples, strict=True)]


def _reading(
    case: Case,
    kind: str,
    kernel: str,
    device: Device,
    answers: Sequence[Answer],
    quantity: str,
    unit: str,
    samples: Sequence[float],
) -> Reading:
    import torch

    nbytes = MODELS[case.model].nbytes
    return Reading.of(
        samples,
        device,
        subject=f"{case.layout} layout",
        quantity=quantity if unit != "s" else f"{quantity} seconds",
        unit=unit,
        kernel=kernel,
        model=case.model,
        workers=_workers(case.ranks, kind),
        conditions=f"{len(MODELS[case.model].tensors):,} tensors, {1e-9 * nbytes:.3g} GB",
        algorithm=case.algorithm,
        source=f"hashbench {version('hashbench')}, PyTorch {torch.__version__}, {device.framework}",
        note=(
            f"Trees in chunks of {format_size(case.chunk_size)}; of the slowest rank. Root {answers[0].root[:16]}; one "
            "tensor of each layout was checked against hashlib."
        ),
    )


def _workers(count: int, kind: str) -> str:
    what = "GPU" if kind == "gpu" else "rank"
    return f"{count} {what}{'s' * (count != 1)}" + ("" if kind == "gpu" else " of one core")


# Files ---------------------------------------------------------------------------------------------------------------


def _files(pool: Ranks, gpus: Sequence[Device], quick: bool) -> Outcomes:
    """The throughput of one process that verifies a folder with one, two, four ... GPUs, and of a process for each."""
    kind = "cpu" if quick else "gpu"
    nbytes = FILE_BYTES[kind]
    try:
        with in_memory(nbytes) as where:
            _write_names(where.folder, choose(gpus[0].kernel, gpus[0].id, ALGORITHM), nbytes, LINKS[kind])
            yield from _of_folder(pool, gpus, str(where.folder), nbytes, LINKS[kind])
    except StorageUnavailable as error:
        yield Skip("sharded: files", str(error))


def _write_names(folder: Path, kernel: Kernel, nbytes: int, links: int) -> None:
    """Writes a file of random bytes, which a kernel makes, and gives it more names.

    Raises:
        StorageUnavailable: it cannot be written.
    """
    first = folder / "0.bin"
    try:
        with first.open("wb") as file:
            write_pieces(file.fileno(), random_pieces(kernel, nbytes, SEED))
    except OSError as error:
        raise StorageUnavailable(f"a file of {format_size(nbytes)} cannot be written: {error.strerror}") from None
    for number in range(1, links):
        first.with_name(f"{number}.bin").hardlink_to(first)
    kernel.trim()


def _of_folder(pool: Ranks, gpus: Sequence[Device], folder: str, nbytes: int, links: int) -> Outcomes:
    expected = manifest(folder, algorithm=ALGORITHM, chunk_size=CHUNK_SIZE, device="all")
    ways = list(product(_counts(len(gpus)), (ONE_PROCESS, PROCESSES)))
    seconds: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
    for _ in range(FILE_RUNS + 1):  # in turn, so that what changes on the machine meets all
        for count, subject in ways:
            case = Files(folder, expected.text(), gpus[0].kernel, tuple(gpu.id for gpu in gpus[:count]))
            if subject == ONE_PROCESS:
                seconds[count, subject].append(_in_one_process(case, expected))
            else:
                seconds[count, subject] += _slowest([answer.seconds for answer in pool.measure(case)])
    for count, subject in ways:
        yield _of_files(gpus[:count], subject, seconds[count, subject][1:], links=links, nbytes=nbytes)


def _in_one_process(case: Files, expected: Manifest) -> float:
    """The seconds of one run."""
    begin = perf_counter()
    report = verify(case.folder, expected, kernel=case.kernel, device=",".join(case.devices))
    seconds = perf_counter() - begin
    if not report.ok:
        raise VerificationError(f"the files are what they were, but the verdict is: {report}")
    return seconds


def _of_files(gpus: Sequence[Device], subject: str, seconds: Sequence[float], *, links: int, nbytes: int) -> Reading:
    return Reading.of(
        [1e-9 * links * nbytes / run for run in seconds],
        gpus[0],
        subject=subject,
        quantity=THROUGHPUT,
        unit="GB/s",
        kernel=gpus[0].kernel,
        workers=_workers(len(gpus), "gpu"),
        files=links,
        conditions=f"{links} names of one file of {format_size(nbytes)}",
        storage="memory",
        algorithm=ALGORITHM,
        source=f"hashbench {version('hashbench')}, {gpus[0].framework}",
        note=f"Trees in chunks of {format_size(CHUNK_SIZE)}; every name is read, copied and hashed.",
    )


# The figure ----------------------------------------------------------------------------------------------------------

_BAR = ["of", "workers", "unit", "kernel", *VALUES]
"""The columns of a bar."""


def _bars(readings: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    shown = readings[readings["quantity"].isin([f"{VERDICT} seconds", THROUGHPUT])]
    for one in lines(shown):
        of = f"{MODELS[one.model].title}, {one.subject}" if one.model else one.subject[:1].upper() + one.subject[1:]
        yield (
            of,
            one.workers,
            "seconds" if one.unit == "s" else one.unit,
            one.kernel,
            *(getattr(one, name) for name in VALUES),
        )


def _draw(panel: Axes, bars: pd.DataFrame, places: Sequence[float]) -> None:
    style.bars_of_readings(panel, bars, places, bars["workers"], width=1.3)


def _headline(readings: pd.DataFrame) -> str:
    """How soon the verdict on the largest model is there."""
    verdicts = readings[readings["quantity"] == f"{VERDICT} seconds"]
    if verdicts.empty:
        return "How fast one process verifies files with several GPUs"
    size = verdicts["model"].map(lambda name: MODELS[name].nbytes)
    best = next(lines(verdicts[size == size.max()].sort_values("median", kind="stable")))
    model = MODELS[best.model]
    return (
        f"{model.title} ({1e-9 * model.nbytes:.3g} GB) over {best.workers}: {best.median:.3g} s from the call to the "
        "verdict on all ranks"
    )
