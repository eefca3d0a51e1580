"""What an experiment is, and the runner that measures it on the devices of this machine.

An experiment is one question, the points and readings that answer it, and the figure that shows the answer. Packages
register theirs in the entry-point group `hashbench.experiments`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from traceback import clear_frames
from typing import Any, ClassVar

from hashbench.bench.frames import Results
from hashbench.bench.machine import is_exact
from hashbench.bench.measurement import PROTOCOL, Measurement, input_count, make_inputs, measure
from hashbench.bench.output_check import LEAVES_AT_A_TIME, Coverage, check_output
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.records import RecordsFile, Samples
from hashbench.bench.results import SCHEMA, Row, RowPoint
from hashbench.hashing.printable import printable
from hashbench.hashing.sizes import format_size
from hashbench.kernels import Device, Kernel, OutOfDeviceMemory, Strategy, Unavailable, kernel_class
from hashbench.kernels.working_directory import outside_working_directory

GROUP = "hashbench.experiments"

SEED = 20250101
"""The seed of the random input, the same in every measurement; see `Kernel.random`."""

MEMORY_SHARE = {"gpu": 0.97, "cpu": 0.85}
"""The share of a device's free memory that a measurement may use, by kind of device. The rest is for the framework, and
on a host for everything else that runs there."""

SMALLEST = 1 << 20
"""Least bytes to which a point is cut to fit."""


@dataclass(frozen=True)
class Point:
    """One measurement to make.

    Attributes:
        device: where to measure. It names the kernel too.
        strategy: "batched", "leaves" or "tree".
        algorithm: "sha256" or "sha384".
        lengths: bytes of each segment.
        chunk_size: bytes per chunk; None, allowed for "batched", makes each segment one message.
        variant: the kernel's variant; None is its default on the device.
        model: the inventory that the segments belong to; empty if there is none.
    """

    device: Device
    strategy: Strategy
    algorithm: str
    lengths: tuple[int, ...]
    chunk_size: int | None
    variant: str | None = None
    model: str = ""

    @property
    def nbytes(self) -> int:
        """The input's bytes."""
        return sum(self.lengths)

    def __str__(self) -> str:
        chunk = "" if self.chunk_size is None else f", {format_size(self.chunk_size)} chunks"
        segments = f" in {len(self.lengths):,} segments" if len(self.lengths) > 1 else ""
        where = " ".join(filter(None, (self.device.kernel, self.variant, self.device.id)))
        what = " ".join(filter(None, (self.algorithm, self.strategy, self.model)))
        return f"{where}: {what}, {format_size(self.nbytes)}{segments}{chunk}"


@dataclass(frozen=True)
class Skip:
    """Something that was not measured, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Failure:
    """A failed point or a failed reading. It is not recorded.

    Attributes:
        what: what was to be measured.
        error: a VerificationError if the output was wrong, else the exception that was raised.
    """

    what: str
    error: Exception


@dataclass(frozen=True)
class Kept:
    """A point that was not measured again: it has a row of this commit, driver and framework."""

    row: Row


Outcome = Row | Kept | Reading | Skip | Failure


@dataclass
class Run:
    """The outcomes of a run.

    Attributes:
        outcomes: one for each point and reading that was tried or skipped, in order.
        interrupted: whether the user interrupted the run.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False

    @property
    def rows(self) -> list[Row]:
        """The rows that were measured."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Row)]

    @property
    def kept(self) -> list[Row]:
        """The rows of points that were not measured again."""
        return [outcome.row for outcome in self.outcomes if isinstance(outcome, Kept)]

    @property
    def current(self) -> list[Row]:
        """The rows of all points, measured now or before."""
        found = (outcome.row if isinstance(outcome, Kept) else outcome for outcome in self.outcomes)
        return [row for row in found if isinstance(row, Row)]

    @property
    def readings(self) -> list[Reading]:
        """The readings that were taken."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Reading)]

    @property
    def skips(self) -> list[Skip]:
        """What was not measured."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Skip)]

    @property
    def failures(self) -> list[Failure]:
        """The points and readings that failed."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Failure)]


class Experiment(ABC):
    """One question, its sweep, and its figures. It overrides `points`, `readings` or both.

    Attributes:
        name: as in the names of files and on the command line.
        question: on one line.
    """

    name: ClassVar[str]
    question: ClassVar[str]

    def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
        """The points to measure on a device, and skips for what is left out there.

        Args:
            device: an available device.
            quick: whether to measure the short form.
        """
        return ()

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """Takes readings: everything that is measured other than kernels. Each is saved before the next is taken.

        An exception fails one reading. The others follow if the iterator can go on: `itertools.chain` and `map` go on
        with their next element, while a generator that raises has ended.

        Args:
            devices: the devices that were asked for, also unavailable ones.
            quick: whether to measure the short form.
        """
        return iter(())

    @abstractmethod
    def figure(self, results: Results, path: Path) -> list[Path]:
        """Draws one machine's results of this experiment, and nothing else.

        Args:
            results: at least one row or reading.
            path: the files to write, without the suffix.

        Returns:
            The files written.
        """

    def overview(self, results: Results, path: Path) -> list[Path]:
        """Draws the results of this experiment on all machines; nothing unless overridden.

        Args:
            results: at least one row or reading.
            path: the files to write, without the suffix.

        Returns:
            The files written.
        """
        return []


@cache
@outside_working_directory("matplotlibrc")  # which Matplotlib reads when it is imported
def experiments() -> dict[str, Experiment]:
    """All installed experiments, by name."""
    found = (entry.load() for entry in entry_points(group=GROUP))
    return {experiment.name: experiment for experiment in sorted(found, key=lambda e: e.name)}


def experiment_named(name: str) -> Experiment:
    """The installed experiment of that name.

    Raises:
        ValueError: there is none.
    """
    known = experiments()
    if name not in known:
        raise ValueError(f"unknown experiment {name!r}: accepted are {', '.join(known)}")
    return known[name]


def plan(
    experiment: Experiment, devices: Iterable[Device], algorithms: Sequence[str], *, quick: bool
) -> list[Point | Skip]:
    """Plans a run.

    Returns:
        The points of `experiment` on `devices` for `algorithms`, its skips, and a skip for each unavailable device.
    """
    planned: list[Point | Skip] = []
    for device in devices:
        if device.unavailable is not None:
            planned.append(Skip(f"{device.kernel} {device.id}".strip(), device.unavailable))
            continue
        entries = list(experiment.points(device, quick=quick))
        planned += (entry for entry in entries if isinstance(entry, Skip))
        points = [entry for entry in entries if isinstance(entry, Point)]
        for algorithm in algorithms:  # one after another, so that each is compiled once
            planned += (point for point in points if point.algorithm == algorithm)
    return planned


def run(
    experiment: Experiment,
    planned: Iterable[Point | Skip],
    readings: Iterator[Reading | Skip],
    results: RecordsFile[Row],
    readings_file: RecordsFile[Reading],
    commit: str,
    again: bool = False,
    on_start: Callable[[Point], None] = lambda point: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> Run:
    """Verifies and measures the points of `planned`, then takes `readings`. Each result is written immediately.

    A point that has a row of the same commit, driver and framework is not measured again, unless `again` is given or
    `commit` does not identify one state of the code. Readings are always taken again, and all together: limits, ratios
    and stages are computed from one another, and half of them from another run would mean nothing.

    A point that does not fit in the device's free memory is skipped. If it has one segment, the half of it that fits
    (or half of that, and so on) is measured instead. A kernel that fails, fails that point alone; a reading that raises
    fails alone if the iterator goes on after it. A keyboard interrupt ends the run and keeps what was measured.

    Args:
        experiment: the experiment of these points and readings.
        planned: what `plan` returned.
        readings: what `Experiment.readings` returned.
        results: the experiment's file of rows.
        readings_file: the experiment's file of readings.
        commit: the commit of the code that measures.
        again: whether to measure points again that have such rows.
        on_start: called before each point.
        on_end: called with each outcome.

    Raises:
        OSError, ResultsError: a row or a reading cannot be written.
    """
    done = Run()
    known = [] if again or not is_exact(commit) else [row for row in results.records if row.commit == commit]
    runner = _Runner(experiment, commit, known)
    try:
        for outcome in _outcomes(experiment, planned, readings, runner, commit, on_start):
            if isinstance(outcome, Row):
                results.add(outcome)
            elif isinstance(outcome, Reading):
                readings_file.add(outcome)
            done.outcomes.append(outcome)
            on_end(outcome)
    except KeyboardInterrupt:
        done.interrupted = True
    return done


def _outcomes(
    experiment: Experiment,
    planned: Iterable[Point | Skip],
    readings: Iterator[Reading | Skip],
    runner: _Runner,
    commit: str,
    on_start: Callable[[Point], None],
) -> Iterator[Outcome]:
    for entry in planned:
        if isinstance(entry, Point):
            on_start(entry)
        yield from runner.outcomes(entry)
    runner.release()  # readings may need the memory that the kernel holds
    yield from _taken(experiment, readings, commit)


def _taken(experiment: Experiment, readings: Iterator[Reading | Skip], commit: str) -> Iterator[Outcome]:
    """The outcomes of `readings`, including those that fail."""
    place = f"{experiment.name}: the first reading"
    while True:
        try:
            taken = next(readings)
            if isinstance(taken, Reading):
                taken = _complete(taken, experiment, commit)
        except StopIteration:
            return
        except (Unavailable, OutOfDeviceMemory) as error:
            yield Skip(place, str(error))
        except Exception as error:  # one broken program does not prevent the others from being measured
            clear_frames(error.__traceback__)
            yield Failure(place, error)
        else:
            if isinstance(taken, Reading):
                place = f"{experiment.name}: the reading after {taken}"
            yield taken


def _complete(reading: Reading, experiment: Experiment, commit: str) -> Reading:
    """`reading` as it is written to the file.

    Raises:
        ResultsError: a column does not accept the value of its field.
    """
    texts: dict[str, Any] = {
        name: _one_line(getattr(reading, name)) for name in ("conditions", "device_name", "source", "note")
    }
    complete = replace(
        reading,
        experiment=experiment.name,
        commit=commit,
        date=_now(),
        median=_rounded(reading.median),
        q1=_rounded(reading.q1),
        q3=_rounded(reading.q3),
        samples=_all_rounded(reading.samples),
        **texts,
    )
    READINGS.check(complete)
    return complete


class _Runner:
    """Measures points, and keeps the kernel of the last one."""

    def __init__(self, experiment: Experiment, commit: str, known: Iterable[Row]) -> None:
        self._experiment = experiment
        self._commit = commit
        self._known = {row.point: row for row in known}
        self._built: tuple[Device, str, str | None] | None = None
        self._kernel: Kernel | None = None
        self._seen: set[Point] = set()

    def outcomes(self, entry: Point | Skip) -> Iterator[Outcome]:
        if isinstance(entry, Skip):
            yield entry
            return
        if known := self._known_row(entry):  # without compiling the kernel
            yield Kept(known)
            return
        try:
            kernel = self._kernel_for(entry)
            point = _fitting(entry, kernel)
            if point != entry:
                free = f"it does not fit in the {room(kernel) / 2**30:.1f} GiB that it may use"
                instead = "" if point is None else f": {format_size(point.nbytes)} are measured instead"
                yield Skip(str(entry), free + instead)
            if point is not None and point not in self._seen:
                self._seen.add(point)
                known = self._known_row(point)  # of less than was planned
                yield Kept(known) if known else self._measured(point, kernel)
        except (Unavailable, OutOfDeviceMemory) as error:
            yield Skip(str(entry), str(error))
        except Exception as error:  # one broken driver does not prevent the other devices from being measured
            clear_frames(error.__traceback__)  # which would keep the device's buffers alive
            self.release()
            yield Failure(str(entry), error)

    def release(self) -> None:
        """Releases the kernel, and the device memory that its framework keeps."""
        kernel, self._kernel, self._built = self._kernel, None, None
        if kernel is not None:
            with suppress(Exception):  # the driver may be what failed
                kernel.trim()

    def _known_row(self, point: Point) -> Row | None:
        """The row that `point` already has, if nothing it depends on has changed since."""
        device = point.device
        row = self._known.get(self._of_row(point))
        now = (_one_line(device.name), _one_line(device.driver), _one_line(device.framework), PROTOCOL)
        return row if row and (row.device_name, row.driver, row.framework, row.protocol) == now else None

    def _of_row(self, point: Point) -> RowPoint:
        """The `Row.point` of a row of `point`."""
        device = point.device
        return RowPoint(
            experiment=self._experiment.name,
            model=point.model,
            kernel=device.kernel,
            variant=point.variant or kernel_class(device.kernel).default_variant(device),
            strategy=point.strategy,
            algorithm=point.algorithm,
            bytes=point.nbytes,
            chunk_size=point.chunk_size,
            segments=len(point.lengths),
            device=device.id,
        )

    def _kernel_for(self, point: Point) -> Kernel:
        build = (point.device, point.algorithm, point.variant)
        if self._kernel is None or build != self._built:
            self.release()
            self._kernel = kernel_class(point.device.kernel)(*build)
            self._built = build
        return self._kernel

    def _measured(self, point: Point, kernel: Kernel) -> Row:
        inputs = make_inputs(kernel, point.lengths, SEED)
        works = [kernel.prepare(point.strategy, segments, point.chunk_size) for segments in inputs]
        coverages: set[Coverage] = set()
        digest = ""
        for work, segments in zip(works, inputs, strict=True):
            work.run()
            digests = work.digests()
            coverages.add(check_output(kernel, point.strategy, segments, point.chunk_size, digests, SEED))
            digest = digest or hashlib.new(point.algorithm, digests.data).hexdigest()
            del digests  # they may be as large as a table of a model's leaves
        (coverage,) = coverages  # the inputs have the same shape
        return self._row(point, coverage, digest, measure(works))

    def _row(self, point: Point, coverage: Coverage, digest: str, measured: Measurement) -> Row:
        device, wall = measured.device, measured.wall
        return Row(
            schema=SCHEMA,
            **self._of_row(point)._asdict(),
            device_name=_one_line(point.device.name),
            device_kind=point.device.kind,
            repeats=device.count,
            seconds_median=_rounded(device.median),
            seconds_q1=_rounded(device.q1),
            seconds_q3=_rounded(device.q3),
            seconds_min=_rounded(device.minimum),
            wall_seconds_median=_rounded(wall.median),
            wall_seconds_q1=_rounded(wall.q1),
            wall_seconds_q3=_rounded(wall.q3),
            gb_per_s=_rounded(1e-9 * point.nbytes / device.median),
            verified=coverage,
            digest=digest,
            driver=_one_line(point.device.driver),
            framework=_one_line(point.device.framework),
            protocol=PROTOCOL,
            commit=self._commit,
            date=_now(),
            seconds_samples=_all_rounded(device.samples),
            wall_seconds_samples=_all_rounded(wall.samples),
        )


def room(kernel: Kernel) -> int:
    """Bytes of the device's memory that a measurement may use."""
    return int(MEMORY_SHARE[kernel.device.kind or "cpu"] * kernel.free_memory())


def _fitting(point: Point, kernel: Kernel) -> Point | None:
    """`point`, or as much of it as fits in the device's free memory; None if it cannot be cut to fit."""
    free, largest = room(kernel), kernel.largest_buffer()
    while _memory(point, kernel) > free or max(point.lengths) > largest:
        (length, *others) = point.lengths
        if others or point.model or length <= SMALLEST:
            return None
        point = replace(point, lengths=(length // 2,))
    return point


def _memory(point: Point, kernel: Kernel) -> int:
    """Bytes of device memory that a point needs: its inputs, their digests, and the leaves of the output check."""
    chunks = sum(1 if point.chunk_size is None else -(-n // point.chunk_size) for n in point.lengths)
    count = input_count(point.nbytes)
    digests = count * chunks + min(chunks, LEAVES_AT_A_TIME)
    return count * point.nbytes + digests * kernel.algorithm.digest_size


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _one_line(text: str) -> str:
    """`text` on one line, as a record is one line, and as it can be shown."""
    return printable(" ".join(text.split()))


def _rounded(value: float) -> float:
    """To seven significant digits: finer than any clock here, and readable in a diff."""
    return float(f"{value:.7g}")


def _all_rounded(samples: Samples) -> Samples:
    return tuple(map(_rounded, samples))
