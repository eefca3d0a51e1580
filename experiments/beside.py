"""The beside experiment: what does hashing cost the workload that runs on the same GPU?

A decoder works, step after step without rest, and another thread or process hashes its weights meanwhile, by one
schedule after the other. Windows with hashing and without alternate, for the clock of a GPU drifts as it warms.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, count, islice
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pandas as pd
from matplotlib.axes import Axes

from hashbench.bench.experiment import Skip
from hashbench.bench.frames import Results, lines
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, KiB, MiB
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import beside_program, style
from hashbench.experiments.decoder import CONTEXT, LLAMA_8B, Decoder, Graph, Steps, by_cublaslt
from hashbench.experiments.programs import Outcomes
from hashbench.hashing.sizes import format_size
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Buffer, Device, Kernel, kernel_class
from hashbench.kernels.contract import Work
from hashbench.report.findings import GPU, MARGIN, Check, ClaimExperiment, Finding

if TYPE_CHECKING:
    from hashbench.kernels.portions import Portions

KERNEL, ALGORITHM, MODEL = "cupy", "sha256", "llama-3.1-8b"

DECODE_64, DECODE_8, PREFILL = "decode, batch 64", "decode, batch 8", "prefill of 4,096 tokens"
"""The workloads, the subjects of the readings."""

VERIFIED, KEPT, LONGER = (
    "verified",
    "throughput with hashing over that without",
    "p99 step time with hashing over that without",
)
"""The quantities of the readings."""

NOTHING = "nothing"
"""The conditions of readings without hashing."""

ROUNDS = {"full": 5, "quick": 2}
SECONDS = 0.25
"""Windows without and with hashing, and the length of each."""

WARMUP_SECONDS = 5.0

PIECE = 56 * MiB
"""Bytes of a launch on few multiprocessors, and of their slices."""
SLICE = MiB

CARRIED_CHUNKS = 128
"""Chunks of a slice where the workload carries portions."""

PIECES = 24
"""Launches that are prepared, over different weights."""


@dataclass(frozen=True)
class Goal:
    """What the claim promises: so much verified at such a cost, of decoding in batches of 64."""

    gb_per_s: float
    lost: float
    slower: float | None


GOALS = (Goal(14, 0.01, 0.02), Goal(50, 0.03, None))
"""141 GB every 10 s at 1 % of throughput and 2 % of the p99 step time; and 50 GB/s at 3 %."""


@dataclass(frozen=True)
class Schedule:
    """A way to hash beside a workload.

    Attributes:
        name: in words.
        piece: bytes of a launch.
        multiprocessors: how many hash; None means all.
        rate: GB/s that are aimed at; None launches without rest.
        together: of how many launches one launch more computes the trees; 1 computes them with each.
        kind: "thread", "process", or "monitor" for `hashbench.torch.Monitor`.
        groups: of threads in a portion, which the workload's own graph carries; 0 if it carries none.
        blocks: of each chunk in a portion; None for all.
        products: beside which of a layer's matrix products a portion begins; of `PRODUCTS`.
        every: of how many layers one carries portions.
        after: seconds from where a product could begin until a portion does: the product has its multiprocessors then,
            and the portion takes others.
        chunk_size: bytes of a leaf.
    """

    piece: int = PIECE
    multiprocessors: int | None = None
    rate: float | None = None
    together: int = 1
    kind: str = "thread"
    groups: int = 0
    blocks: int | None = None
    products: tuple[str, ...] = ()
    every: int = 1
    after: float = 20e-6
    chunk_size: int = CHUNK_SIZE

    @property
    def name(self) -> str:
        """In words, unlike any other's."""
        who = {"thread": "", "process": "another process, ", "monitor": "Monitor, "}[self.kind]
        if self.groups:
            aim = "" if self.rate is None else f", at {self.rate:g} GB/s"
            blocks = "" if self.blocks is None else f", {self.blocks} blocks"
            chunks = "" if self.chunk_size == CHUNK_SIZE else f" of chunks of {format_size(self.chunk_size)}"
            place = " and ".join(self.products)
            place += "" if self.every == 1 else f" of one layer in {self.every}"
            place += f" after {1e6 * self.after:g} µs"
            return f"{who}in the workload's graph, {self.groups} groups{blocks}{chunks}, beside {place}{aim}"
        where = "all SMs" if self.multiprocessors is None else f"{self.multiprocessors} SMs"
        aim = "without rest" if self.rate is None else f"at {self.rate:g} GB/s"
        trees = ", trees of many together" if self.together > 1 else ""
        return f"{who}{where}, {format_size(self.piece)} {aim}{trees}"


def _all(rate: float | None, *mebibytes: int, together: int = 1) -> tuple[Schedule, ...]:
    """Launches on all multiprocessors, of several sizes."""
    return tuple(Schedule(size * MiB, rate=rate, together=together) for size in mebibytes)


def _few(*counts: int, rate: float | None = None) -> tuple[Schedule, ...]:
    """Launches on a few multiprocessors."""
    return tuple(Schedule(multiprocessors=count, rate=rate) for count in counts)


def _carried(
    *groups: int,
    blocks: int | None = None,
    beside: Sequence[str] = ("down",),
    every: int = 1,
    after: float = 20e-6,
    chunk_size: int = 8 * KiB,
    rate: float | None = None,
    kind: str = "thread",
    slices: int = 4,
) -> tuple[Schedule, ...]:
    """The workload's graph carries portions of so many groups; a piece has so many slices for each group."""
    piece = slices * CARRIED_CHUNKS * chunk_size
    return tuple(
        Schedule(count * piece, None, rate, 1, kind, count, blocks, tuple(beside), every, after, chunk_size)
        for count in groups
    )


PRODUCTS = {"values": "self_attn.v_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
"""Modules of a layer, by what they compute or do."""

_MONITOR = Schedule(16 * MiB, rate=14, kind="monitor")

SCHEDULES: Mapping[str, Sequence[Schedule]] = {
    DECODE_64: (
        *_carried(52, 54, 56, blocks=33),
        *_carried(40, 44, 52, blocks=44),
        *_carried(44, blocks=33, every=3),
        *_carried(58, blocks=33, every=4),
        *_carried(44, blocks=44, every=4),
        *_carried(54, blocks=33, after=5e-6),
        *_carried(40, blocks=44, after=5e-6),
        *_carried(15, 44, blocks=33),
        *_carried(66, blocks=28),
        *_carried(44, blocks=33, every=3, rate=14, kind="monitor"),
        *_carried(30, 52, blocks=33, chunk_size=CHUNK_SIZE),
        *_carried(60, blocks=9, beside=["values"], chunk_size=CHUNK_SIZE),
        *_carried(52, blocks=33, rate=14),
        *_carried(52, blocks=33, rate=1, slices=1),
        _MONITOR,
        *_all(14, 16, 24, together=PIECES),
        *_all(50, 16, 24, together=PIECES),
        *_all(None, 16, together=PIECES),
        *_all(14, 4, 16, 480),
        *_all(50, 16),
        *_few(2, 4),
        *_few(4, rate=14),
        Schedule(480 * MiB, rate=14, kind="process"),
    ),
    DECODE_8: (
        *_carried(44, blocks=33, every=3),
        *_carried(54, blocks=33),
        *_all(14, 16, together=PIECES),
        *_all(50, 16, together=PIECES),
        *_all(14, 16),
        *_few(4),
        *_few(4, rate=14),
        _MONITOR,
    ),
    PREFILL: (*_carried(54, blocks=33), *_all(14, 16, together=PIECES), *_all(14, 480), *_few(2), _MONITOR),
}
"""The schedules beside each workload: those that lose least or were near to it, the cheapest first."""


class Beside(ClaimExperiment):
    """Throughput and step times of a decoder, with hashing beside it and without."""

    name = "beside"
    question = "What does hashing cost the workload that runs on the same GPU?"
    rule = (
        f"Beside Llama 3.1 8B that decodes in batches of 64 without rest, some schedule verifies {GOALS[0].gb_per_s:g} "
        f"GB/s or more (141 GB every 10 s) at no more than {GOALS[0].lost:.0%} of throughput, and the same schedule "
        f"lengthens the p99 step time by no more than {GOALS[0].slower:.0%}; and some schedule verifies "
        f"{GOALS[1].gb_per_s:g} GB/s or more at no more than {GOALS[1].lost:.0%} of throughput. Medians count, and "
        f"{1 - MARGIN:.0%} of a rate are accepted as the rate. The GPU with the largest loss decides."
    )

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Every schedule beside every workload, on each of CuPy's devices; batches of 64 alone in the short form."""
        mine = [device for device in devices if device.kernel == KERNEL and device.unavailable is None]
        if not mine:
            return iter([Skip(self.name, f"it needs a GPU of {KERNEL}'s")])
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                return iter([Skip(self.name, f"{package} is not installed: install hashbench[torch,beside]")])
        return chain.from_iterable(_on(device, quick) for device in mine)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """The share of throughput that is lost over what is verified: a panel for each workload."""
        return _draw(points_of(results.readings), path)

    def finding(self, results: Results) -> Finding:
        """Whether each goal is reached by some schedule."""
        points = points_of(results.readings)
        points = points[points["subject"] == DECODE_64]
        checks = [check for goal in GOALS for check in _checks(goal, points)]
        columns: Columns = {
            "schedule": "conditions",
            "GB/s verified": ("verified", number),
            "throughput lost": ("lost", "{:.2%}".format),
            "p99 step time gained": ("slower", "{:.2%}".format),
        }
        return Finding.of(checks, points, columns)


EXPERIMENT = Beside()


# The claim -----------------------------------------------------------------------------------------------------------


COLUMNS = {VERIFIED: "verified", KEPT: "kept", LONGER: "longer"}
"""The columns of `points_of`, by quantity."""

_POINT = [*GPU, "subject", "conditions"]


def points_of(readings: pd.DataFrame) -> pd.DataFrame:
    """A line for each schedule beside each workload: medians, and the shares that are lost."""
    of_points = readings[(readings["device_kind"] == "gpu") & readings["quantity"].isin(COLUMNS)]
    if of_points.empty:
        return pd.DataFrame(columns=[*_POINT, *COLUMNS.values(), "lost", "slower"])
    table = of_points.pivot_table("median", _POINT, "quantity", sort=False).reset_index()
    table = table.rename(columns=COLUMNS).dropna()
    return table.assign(lost=1 - table["kept"], slower=table["longer"] - 1)


def _checks(goal: Goal, points: pd.DataFrame) -> Iterator[Check]:
    question = (
        f"Is {goal.gb_per_s:g} GB/s verified beside decoding in batches of 64 at no more than {goal.lost:.0%} of its "
        "throughput?"
    )
    gpus = points[GPU].drop_duplicates()
    reached = points[points["verified"] >= (1 - MARGIN) * goal.gb_per_s].sort_values("lost", kind="stable")
    best = reached.drop_duplicates(GPU)
    if gpus.empty:
        yield Check(question, "No decoder was measured on a GPU.", None)
    elif len(best) < len(gpus):
        yield Check(question, f"No schedule verified as much: at most {number(points['verified'].max())} GB/s.", False)
    else:
        worst = next(lines(best[::-1]))
        told = f"by {number(worst.verified)} GB/s with the schedule ({worst.conditions}) on {worst.device_name}."
        yield Check(question, f"{worst.lost:.2%} is lost {told}", bool(worst.lost <= goal.lost))
        if goal.slower is not None:
            question = f"Does the same schedule lengthen the p99 step time by no more than {goal.slower:.0%}?"
            yield Check(question, f"By {worst.slower:.2%}, {told}", bool(worst.slower <= goal.slower))


# The readings --------------------------------------------------------------------------------------------------------


def _on(device: Device, quick: bool) -> Outcomes:
    """All readings on one GPU."""
    import torch

    place = torch.device("cuda", int(device.id))
    with torch.cuda.device(place), by_cublaslt():
        decoder = Decoder(LLAMA_8B, place)
        bench = Bench(device, decoder, torch.cuda.Stream(priority=-5), ROUNDS["quick" if quick else "full"])
        steps = {DECODE_64: decoder.decoding(64)}
        if not quick:
            steps |= {DECODE_8: decoder.decoding(8), PREFILL: decoder.prefilling(4096)}
        for workload, step in steps.items():
            yield from bench.readings(workload, step, SCHEDULES[workload])


_Start: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Begins a window with hashing; the context has its `speed`."""

_Carrying: TypeAlias = Callable[[], AbstractContextManager[Callable[[float], None]]]
"""Begins a step that carries portions; what the context yields carries one, so many seconds later."""


class Startable(Protocol):
    """A work, or several."""

    def start(self) -> None:
        """Starts them."""

    def wait(self) -> float:
        """Waits for their end."""


@dataclass
class _Checked:
    """Works of which the first is started, and the others follow; and whether the last one's result is right.

    Attributes:
        works: in order.
        expected: what the last computes.
        wrong: whether it was another.
    """

    works: Sequence[Work]
    expected: Any
    wrong: bool = False

    def start(self) -> None:
        self.works[0].start()

    def wait(self) -> float:
        seconds = self.works[0].wait() + sum(work.run() for work in self.works[1:])
        self.wrong |= bool((self.works[-1].digests() != self.expected).any())
        return seconds


class Hashing:
    """Hashes the weights in a thread, while it is a context: two launches are always under way or one waits its turn.

    Args:
        works: what to launch, one after another, again and again.
        nbytes: how much each hashes.
        rate: bytes a second; None launches without rest.

    Attributes:
        ended: when each launch was seen to have ended.
    """

    def __init__(self, works: Sequence[Startable], nbytes: int, rate: float | None) -> None:
        self._works, self.nbytes = works, nbytes
        self._interval = nbytes / rate if rate else 0.0
        self.ended: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Hashing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        under_way: list[Startable] = []
        due = perf_counter()
        for turn in count():
            if self._stop.is_set():
                break
            sleep(max(0.0, due - perf_counter()))
            due = max(due + self._interval, perf_counter() - self._interval)
            if len(under_way) == 2:
                under_way.pop(0).wait()
                self.ended.append(perf_counter())
            work = self._works[turn % len(self._works)]
            work.start()
            under_way.append(work)
        for work in under_way:
            work.wait()

    def speed(self) -> float:
        """GB/s, from the first end to the last."""
        if len(self.ended) < 2:
            return 0.0
        return 1e-9 * self.nbytes * (len(self.ended) - 1) / (self.ended[-1] - self.ended[0])


class Bench:
    """One decoder on one GPU, and everything that hashes beside it.

    Args:
        device: CuPy's.
        decoder: on that device.
        stream: where the workload runs.
        rounds: pairs of windows, without hashing and with it.
    """

    def __init__(self, device: Device, decoder: Decoder, stream: Any, rounds: int) -> None:
        self.device, self._decoder, self._stream, self._rounds = device, decoder, stream, rounds
        self._kernel: Kernel = kernel_class(KERNEL)(device, ALGORITHM, priority="low")
        self._works: dict[Schedule, Sequence[Startable]] = {}
        self._portions: dict[Schedule, Portions] = {}
        self._warm = False

    def readings(self, workload: str, step: Callable[[], None], schedules: Iterable[Schedule]) -> Iterator[Reading]:
        """The workload alone, and beside each schedule."""
        usual = Graph(step, self._stream)
        if not self._warm:
            usual.run(WARMUP_SECONDS)
            self._warm = True
        reading = partial(self._reading, workload)
        alone: list[Steps] = []
        for schedule in schedules:
            pairs = list(self._rounds_of(step, usual, schedule))
            before, beside = [a for a, _, _ in pairs], [b for _, b, _ in pairs]
            alone += before
            yield reading(schedule.name, VERIFIED, "GB/s", [speed for _, _, speed in pairs])
            yield reading(schedule.name, KEPT, "1", [a.mean / b.mean for a, b, _ in pairs])
            yield reading(schedule.name, LONGER, "1", [b.p99 / a.p99 for a, b, _ in pairs])
            yield reading(schedule.name, "step time", "ms", [one.mean for one in beside])
        yield reading(NOTHING, "step time", "ms", [one.mean for one in alone])
        yield reading(NOTHING, "p99 step time", "ms", [one.p99 for one in alone])

    def _rounds_of(
        self, step: Callable[[], None], alone: Graph, schedule: Schedule
    ) -> Iterator[tuple[Steps, Steps, float]]:
        with ExitStack() as stack:
            start, carrying = self._starter(schedule, stack)
            beside = alone if carrying is None else self._carrying_graph(step, schedule, carrying)
            for _ in range(self._rounds):
                before = alone.run(SECONDS)
                with start() as hashing:
                    sleep(0.02)
                    yield before, beside.run(SECONDS), hashing.speed()
        for work in self._works.get(schedule, ()):
            if isinstance(work, _Checked) and work.wrong:
                raise VerificationError(f"{schedule.name}: wrong roots")

    def _starter(self, schedule: Schedule, stack: ExitStack) -> tuple[_Start, _Carrying | None]:
        """What hashes by a schedule, each time that it is called, as a context; and what carries portions of it."""
        rate = schedule.rate and 1e9 * schedule.rate
        if schedule.kind == "process":
            return stack.enter_context(_other_process(self.device, schedule.piece, 1e9 * (schedule.rate or 1))), None
        if schedule.kind == "monitor":
            return stack.enter_context(_monitored(self._decoder.model, schedule))
        if schedule not in self._works:
            if schedule.groups:
                self._portions[schedule] = self._place(schedule)
            self._works[schedule] = self._prepared(schedule)
        place = self._portions.get(schedule)
        carrying = None if place is None else partial(_carrying, place, self._stream)
        return lambda: Hashing(self._works[schedule], schedule.piece, rate), carrying

    def _carrying_graph(self, step: Callable[[], None], schedule: Schedule, carrying: _Carrying) -> Graph:
        """The workload's graph, which carries portions."""
        products = [PRODUCTS[name] for name in schedule.products]

        def carried() -> None:
            with (
                carrying() as portion,
                self._decoder.calling(lambda: portion(schedule.after), products, schedule.every),
            ):
                step()

        return Graph(carried, self._stream)

    def _place(self, schedule: Schedule) -> Portions:
        from hashbench.kernels.cupy_cuda import CupyCuda
        from hashbench.kernels.portions import Portions

        assert isinstance(self._kernel, CupyCuda)
        return Portions(self._kernel, schedule.chunk_size, schedule.groups, schedule.blocks)

    def _prepared(self, schedule: Schedule) -> Sequence[Startable]:
        """Works over the weights: each result is checked, or the first one's before anything is timed."""
        model, chunk_size = self._decoder.model, schedule.chunk_size
        if schedule.groups:
            every = _whole_slices(model, CARRIED_CHUNKS * chunk_size, schedule.piece)
        else:
            every = _pieces(model, schedule.piece)
        pieces = list(islice(every, PIECES))
        if (place := self._portions.get(schedule)) is not None:
            return [
                _Checked([place.prepare(piece, chunk_size)], self._kernel.tree(piece, chunk_size)) for piece in pieces
            ]
        if schedule.together > 1:
            return self._trees_together(schedule, pieces)
        if schedule.multiprocessors is None:
            prepare: Callable[[Sequence[Buffer], int], Work] = partial(self._kernel.prepare, "tree")
        else:
            from hashbench.kernels.confined import Confined
            from hashbench.kernels.cupy_cuda import CupyCuda

            assert isinstance(self._kernel, CupyCuda)
            prepare = Confined(self._kernel, schedule.multiprocessors).prepare
        works = [prepare(piece, CHUNK_SIZE) for piece in pieces]
        works[0].run()
        if (works[0].digests() != self._kernel.tree(pieces[0], CHUNK_SIZE)).any():
            raise VerificationError(f"{schedule.name}: wrong roots")
        return works

    def _trees_together(self, schedule: Schedule, pieces: Sequence[Sequence[Buffer]]) -> Sequence[Startable]:
        """Works over leaves, after every so many of which the trees follow, as in `hashbench.torch.Monitor`."""
        from hashbench.kernels.cupy_cuda import CupyCuda
        from hashbench.kernels.short_trees import ShortTrees, leaves_of

        assert isinstance(self._kernel, CupyCuda)
        works: list[Startable] = []
        for start in range(0, len(pieces), schedule.together):
            these = pieces[start : start + schedule.together]
            leaves = [self._kernel.prepare("leaves", piece, CHUNK_SIZE) for piece in these]
            digests = [
                each
                for work, piece in zip(leaves, these, strict=True)
                for each in leaves_of(work.output(), map(len, piece), CHUNK_SIZE, self._kernel.algorithm)
            ]
            trees = ShortTrees(self._kernel).prepare(digests)
            expected = self._kernel.tree([segment for piece in these for segment in piece], CHUNK_SIZE)
            works += [*leaves[:-1], _Checked([leaves[-1], trees], expected)]
        return works

    def _reading(self, workload: str, conditions: str, quantity: str, unit: str, values: Sequence[float]) -> Reading:
        import torch
        import transformers

        return Reading.of(
            values,
            self.device,
            subject=workload,
            quantity=quantity,
            unit=unit,
            kernel=KERNEL,
            model=MODEL,
            conditions=conditions,
            algorithm=ALGORITHM,
            source=f"hashbench {version('hashbench')}, {self.device.framework}, PyTorch {torch.__version__}, "
            f"transformers {transformers.__version__}",
            note=f"Steps of one CUDA graph without rest, contexts of {CONTEXT} tokens; windows of {SECONDS} s.",
        )


def _pieces(model: Any, nbytes: int) -> Iterator[list[Buffer]]:
    """The weights in pieces of that many bytes, cut into slices."""
    piece: list[Buffer] = []
    filled = 0
    for weight in model.parameters():
        rest = Buffer(weight, weight.data_ptr(), weight.nbytes)
        while len(rest):
            part = rest[: min(SLICE, nbytes - filled)]
            rest = rest[len(part) :]
            piece.append(part)
            filled += len(part)
            if filled == nbytes:
                yield piece
                piece, filled = [], 0


def _whole_slices(model: Any, nbytes: int, piece: int) -> Iterator[list[Buffer]]:
    """Slices of so many bytes of the weights in pieces of so many, without those that are shorter."""
    whole = (one for part in _pieces(model, nbytes) for one in part if len(one) == nbytes)
    while len(slices := list(islice(whole, piece // nbytes))) == piece // nbytes:
        yield slices


@contextmanager
def _carrying(place: Portions, stream: Any) -> Iterator[Callable[[float], None]]:
    """A context in which a stream gets portions."""
    yield partial(place.carry, stream)
    place.join(stream)


@contextmanager
def _monitored(model: Any, schedule: Schedule) -> Iterator[tuple[_Start, _Carrying | None]]:
    """The library's own monitor of the model, started and closed for each window."""
    from hashbench.torch import Monitor, Portion, manifest

    nbytes = sum(weight.nbytes for weight in model.parameters())
    monitor = Monitor(
        model,
        manifest(model, algorithm=ALGORITHM, chunk_size=schedule.chunk_size),
        period=1e-9 * nbytes / (schedule.rate or 1),
        budget=1.0,
        multiprocessors=schedule.multiprocessors,
        portion=Portion(schedule.groups, schedule.blocks) if schedule.groups else None,
    )

    @contextmanager
    def window() -> Iterator[Any]:
        before, begin = monitor.status().bytes_read, perf_counter()
        with monitor:
            yield _Speed(lambda: 1e-9 * (monitor.status().bytes_read - before) / (perf_counter() - begin))
        if monitor.findings or monitor.status().ended:
            raise VerificationError(f"the monitor found {monitor.findings} or ended: {monitor.status().ended}")

    yield window, monitor.carrying if schedule.groups else None


@dataclass(frozen=True)
class _Speed:
    """What a window asks for at its end."""

    speed: Callable[[], float]


@contextmanager
def _other_process(device: Device, piece: int, rate: float) -> Iterator[_Start]:
    """A process that hashes memory of its own, for as long as each window asks."""
    program = [sys.executable, "-P", "-m", beside_program.__name__, device.id, str(piece), str(rate)]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        asked, told = child.stdin, child.stdout

        def say(word: str) -> None:
            asked.write(f"{word}\n")
            asked.flush()

        @contextmanager
        def window() -> Iterator[Any]:
            say("start")
            found: list[float] = []

            def stop() -> float:
                say("stop")
                found.append(float(told.readline()))
                return found[0]

            yield _Speed(stop)
            if not found:
                stop()

        try:
            if told.readline() != "ready\n":
                raise RuntimeError("the other process did not start")
            yield window
        finally:
            asked.close()


# The figure ----------------------------------------------------------------------------------------------------------

_LOOKS = (
    ("another process", {"marker": "X", "color": style.COLOURS["grey"]}),
    ("Monitor", {"marker": "*", "color": style.COLOURS["vermilion"]}),
    ("workload's graph", {"marker": "P", "color": style.COLOURS["sky"]}),
    ("trees of many together", {"marker": "^", "color": style.COLOURS["black"]}),
    ("all SMs", {"marker": "o", "color": style.COLOURS["orange"]}),
    ("few SMs", {"marker": "s", "color": style.COLOURS["green"]}),
)
"""Marks by what the name of a schedule contains; the last is of the others."""


def _look(conditions: str) -> tuple[str, dict[str, Any]]:
    return next((look for look in _LOOKS if look[0] in conditions), _LOOKS[-1])


def _headline(points: pd.DataFrame) -> str:
    decoding = points[points["subject"] == DECODE_64]
    part = decoding[decoding["verified"] >= (1 - MARGIN) * GOALS[0].gb_per_s]
    if part.empty:
        return "What hashing beside a decoder costs it"
    best = next(lines(part.sort_values("lost", kind="stable")))
    return f"{number(best.verified)} GB/s verified beside a decoder cost {best.lost:.1%} of its throughput"


def _draw(points: pd.DataFrame, path: Path) -> list[Path]:
    if points.empty:
        return []
    workloads = list(dict.fromkeys(points["subject"]))
    with style.style():
        figure, grid = style.panels([1.5] * len(workloads), sharex=True)
        for panel, workload in zip(grid.flat, workloads, strict=True):
            _draw_panel(panel, points[points["subject"] == workload])
            panel.set_title(workload, loc="left")
        if DECODE_64 in workloads:
            panel = grid.flat[workloads.index(DECODE_64)]
            for goal in GOALS:
                place = (goal.gb_per_s, 100 * goal.lost)
                panel.plot(*place, marker="+", color="black", markersize=8, linestyle="")
                panel.annotate("goal", place, xytext=(6, -9), textcoords="offset points")  # below what was measured
        grid.flat[-1].set_xlabel("GB/s verified")
        grid.flat[-1].set_xlim(left=0)
        what = f"Llama 3.1 8B in bfloat16 at work without rest: {style.names(points['device_name'])}"
        style.headline(figure, _headline(points), what)
        style.legend_of_panels(figure)
    return style.save(figure, path, points)


def _draw_panel(panel: Axes, points: pd.DataFrame) -> None:
    for point in lines(points):
        label, look = _look(point.conditions)
        panel.plot(point.verified, 100 * point.lost, linestyle="", label=label, **look)
    frontier = points.sort_values("verified", ascending=False, kind="stable")
    kept = frontier[frontier["lost"] < frontier["lost"].cummin().shift(fill_value=float("inf"))]
    panel.plot(kept["verified"], 100 * kept["lost"], color="black", linewidth=0.8, label="the least at each rate")
    panel.set_ylabel("% of throughput lost")
    if (points["lost"] >= 0).all():
        panel.set_ylim(bottom=0)
