"""What an experiment is, and the runner that sweeps it over the devices of this machine.

An experiment is one question, the points and readings that answer it, and the figure that shows the answer. Packages
offer theirs through the entry-point group `hashbench.experiments`, so that this module needs to know none of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from traceback import clear_frames
from typing import ClassVar

from hashbench.kernels import Device, Kernel, OutOfDeviceMemory, Strategy, Unavailable, kernel_class
from hashbench.measurement import PROTOCOL, Measurement, input_count, make_inputs, measure
from hashbench.readings import FORMAT as READING_FORMAT
from hashbench.readings import Reading, ReadingsFile
from hashbench.results import SCHEMA, ResultsFile, Row
from hashbench.sizes import format_size
from hashbench.verification import Extent, verify

GROUP = "hashbench.experiments"

SEED = 20250101
"""Of the random input, the same in every measurement; see `Kernel.random`."""

MEMORY_SHARE = 0.85
"""The share of a device's free memory that a measurement may take; the rest is for what the framework needs."""

SMALLEST = 1 << 20
"""Bytes below which a point is not cut further to fit."""


@dataclass(frozen=True)
class Point:
    """One measurement to make.

    Attributes:
        device: where; it names the kernel too.
        strategy: "batched" or "tree".
        algorithm: "sha256" or "sha384".
        lengths: bytes of each segment.
        chunk_size: bytes of a chunk; None, for "batched" alone, makes each segment one message.
        variant: of the kernel; None is its first.
    """

    device: Device
    strategy: Strategy
    algorithm: str
    lengths: tuple[int, ...]
    chunk_size: int | None
    variant: str | None = None

    @property
    def nbytes(self) -> int:
        """The input's bytes."""
        return sum(self.lengths)

    def __str__(self) -> str:
        chunk = "" if self.chunk_size is None else f", {format_size(self.chunk_size)} chunks"
        segments = f" in {len(self.lengths):,} segments" if len(self.lengths) > 1 else ""
        where = " ".join(filter(None, (self.device.kernel, self.variant, self.device.id)))
        return f"{where}: {self.algorithm} {self.strategy}, {format_size(self.nbytes)}{segments}{chunk}"


@dataclass(frozen=True)
class Skip:
    """What was not measured, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class Failure:
    """A point whose output was wrong or whose kernel broke down, or a reading that was not to be had. It has no row.

    Attributes:
        what: what was to be measured.
        error: a VerificationError where the output was wrong, else what was raised.
    """

    what: str
    error: Exception


Outcome = Row | Reading | Skip | Failure


@dataclass
class Report:
    """What a run gave, in order.

    Attributes:
        outcomes: one for each point and reading that was tried or skipped.
        interrupted: whether the user ended the run before its end.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False

    @property
    def rows(self) -> list[Row]:
        """The measurements of kernels."""
        return [outcome for outcome in self.outcomes if isinstance(outcome, Row)]

    @property
    def readings(self) -> list[Reading]:
        """The measurements of anything else."""
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
    """One question, its sweep, and its figure. It overrides `points`, `readings` or both."""

    name: ClassVar[str]
    question: ClassVar[str]

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """What to measure on `device`, one that is available; `quick` asks for the short form."""
        return ()

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """Measures what is no hash by a kernel, each reading when it is asked for; it is saved before the next.

        An exception fails one reading. The others go on where the iterator can: `itertools.chain` and `map` go on with
        their next element, while a generator that raises has ended.

        Args:
            devices: those that were asked for, also where they are unavailable.
            quick: asks for the short form.
        """
        return iter(())

    @abstractmethod
    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Draws `rows` and `readings`, all of this experiment and one machine, from them alone.

        Args:
            rows: in the order of the file.
            readings: in the order of the file; there is at least one row or reading.
            path: of the files to write, without the suffix.

        Returns:
            The files written.
        """


def experiments() -> dict[str, Experiment]:
    """Every experiment that is installed, by name."""
    found = (entry.load() for entry in entry_points(group=GROUP))
    return {experiment.name: experiment for experiment in sorted(found, key=lambda e: e.name)}


def experiment_named(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ValueError: there is no such experiment.
    """
    known = experiments()
    if name not in known:
        raise ValueError(f"unknown experiment {name!r}: accepted are {', '.join(known)}")
    return known[name]


def plan(
    experiment: Experiment, devices: Iterable[Device], algorithms: Sequence[str], *, quick: bool
) -> list[Point | Skip]:
    """The points of `experiment` on `devices` for `algorithms`, and a skip for each device that is unavailable."""
    planned: list[Point | Skip] = []
    for device in devices:
        if device.unavailable is not None:
            planned.append(Skip(f"{device.kernel} {device.id}".strip(), device.unavailable))
            continue
        points = list(experiment.points(device, quick=quick))
        for algorithm in algorithms:  # one after the other, so that each is compiled once
            planned += (point for point in points if point.algorithm == algorithm)
    return planned


def run(
    experiment: Experiment,
    planned: Iterable[Point | Skip],
    readings: Iterator[Reading | Skip],
    results: ResultsFile,
    readings_file: ReadingsFile,
    commit: str,
    on_start: Callable[[Point], None] = lambda point: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
) -> Report:
    """Verifies and measures the points of `planned`, then takes `readings`; each is written as soon as it is there.

    Where a point does not fit in the device's free memory it is skipped, and if it has one segment, the half of it that
    fits (or half of that, and so on) is measured instead. A kernel that breaks down fails that point alone, and a
    reading that raises fails alone where the iterator goes on after it. A keyboard interrupt ends the run; what was
    measured so far stays.

    Args:
        experiment: whose points and readings these are.
        planned: as `plan` gives them.
        readings: as `Experiment.readings` gives them.
        results: the experiment's file of rows.
        readings_file: the experiment's file of readings.
        commit: of the code that measures.
        on_start: called before each point.
        on_end: called with each outcome.

    Raises:
        ResultsError: a row or a reading cannot be written.
    """
    report = Report()
    try:
        for outcome in _outcomes(experiment, planned, readings, commit, on_start):
            if isinstance(outcome, Row):
                results.add(outcome)
            elif isinstance(outcome, Reading):
                readings_file.add(outcome)
            report.outcomes.append(outcome)
            on_end(outcome)
    except KeyboardInterrupt:
        report.interrupted = True
    return report


def _outcomes(
    experiment: Experiment,
    planned: Iterable[Point | Skip],
    readings: Iterator[Reading | Skip],
    commit: str,
    on_start: Callable[[Point], None],
) -> Iterator[Outcome]:
    runner = _Runner(experiment, commit)
    for entry in planned:
        if isinstance(entry, Point):
            on_start(entry)
        yield from runner.outcomes(entry)
    del runner  # the readings may want the memory that its kernel holds
    yield from _taken(experiment, readings, commit)


def _taken(experiment: Experiment, readings: Iterator[Reading | Skip], commit: str) -> Iterator[Outcome]:
    """The outcomes of `readings`, those that raise too."""
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
        except Exception as error:  # one program that is broken does not keep the others from being measured
            clear_frames(error.__traceback__)
            yield Failure(place, error)
        else:
            if isinstance(taken, Reading):
                place = f"{experiment.name}: the reading after {taken}"
            yield taken


def _complete(reading: Reading, experiment: Experiment, commit: str) -> Reading:
    """`reading` as it goes to the file.

    Raises:
        ResultsError: a field holds what its column does not accept.
    """
    complete = replace(
        reading,
        experiment=experiment.name,
        commit=commit,
        date=_now(),
        median=_rounded(reading.median),
        q1=_rounded(reading.q1),
        q3=_rounded(reading.q3),
        conditions=_one_line(reading.conditions),
        device_name=_one_line(reading.device_name),
        source=_one_line(reading.source),
        note=_one_line(reading.note),
    )
    READING_FORMAT.check(complete)
    return complete


class _Runner:
    """Measures points, and keeps the kernel that the last one was measured with."""

    def __init__(self, experiment: Experiment, commit: str) -> None:
        self._experiment = experiment
        self._commit = commit
        self._built: tuple[Device, str, str | None] | None = None
        self._kernel: Kernel
        self._seen: set[Point] = set()

    def outcomes(self, entry: Point | Skip) -> Iterator[Outcome]:
        if isinstance(entry, Skip):
            yield entry
            return
        try:
            kernel = self._kernel_for(entry)
            point = _fitting(entry, kernel)
            if point != entry:
                free = f"it does not fit in the {kernel.free_memory() / 2**30:.1f} GiB that are free"
                instead = "" if point is None else f": {format_size(point.nbytes)} are measured instead"
                yield Skip(str(entry), free + instead)
            if point is not None and point not in self._seen:
                self._seen.add(point)
                yield self._measured(point, kernel)
        except (Unavailable, OutOfDeviceMemory) as error:
            yield Skip(str(entry), str(error))
        except Exception as error:  # one broken driver does not keep the other devices from being measured
            self._built = None
            clear_frames(error.__traceback__)  # else its traceback keeps the device's buffers
            yield Failure(str(entry), error)

    def _kernel_for(self, point: Point) -> Kernel:
        build = (point.device, point.algorithm, point.variant)
        if build != self._built:
            self._kernel = kernel_class(point.device.kernel)(*build)
            self._built = build
        return self._kernel

    def _measured(self, point: Point, kernel: Kernel) -> Row:
        inputs = make_inputs(kernel, point.lengths, SEED)
        works = [kernel.prepare(point.strategy, segments, point.chunk_size) for segments in inputs]
        extents: set[Extent] = set()
        for work, segments in zip(works, inputs, strict=True):
            work.run()
            extents.add(verify(kernel, point.strategy, segments, point.chunk_size, work.digests(), SEED))
        (extent,) = extents  # the inputs are of one shape
        return self._row(point, kernel, extent, measure(works))

    def _row(self, point: Point, kernel: Kernel, extent: Extent, measured: Measurement) -> Row:
        device, wall = measured.device, measured.wall
        return Row(
            schema=SCHEMA,
            experiment=self._experiment.name,
            kernel=kernel.name,
            variant=kernel.variant,
            strategy=point.strategy,
            algorithm=point.algorithm,
            device=point.device.id,
            device_name=_one_line(point.device.name),
            device_kind=point.device.kind,
            bytes=point.nbytes,
            chunk_size=point.chunk_size,
            segments=len(point.lengths),
            repeats=device.count,
            seconds_median=_rounded(device.median),
            seconds_q1=_rounded(device.q1),
            seconds_q3=_rounded(device.q3),
            seconds_min=_rounded(device.minimum),
            wall_seconds_median=_rounded(wall.median),
            wall_seconds_q1=_rounded(wall.q1),
            wall_seconds_q3=_rounded(wall.q3),
            gb_per_s=_rounded(1e-9 * point.nbytes / device.median),
            verified=extent,
            driver=_one_line(point.device.driver),
            framework=_one_line(point.device.framework),
            protocol=PROTOCOL,
            commit=self._commit,
            date=_now(),
        )


def _fitting(point: Point, kernel: Kernel) -> Point | None:
    """`point`, or as much of it as fits in the device's free memory; None where it cannot be cut to fit."""
    room = MEMORY_SHARE * kernel.free_memory()
    while _memory(point, kernel) > room:
        (length, *others) = point.lengths
        if others or length <= SMALLEST:
            return None
        point = replace(point, lengths=(length // 2,))
    return point


def _memory(point: Point, kernel: Kernel) -> int:
    """Bytes of the device that the point takes: its inputs, and a digest for each chunk, once more for verification."""
    chunks = sum(1 if point.chunk_size is None else -(-n // point.chunk_size) for n in point.lengths)
    count = input_count(point.nbytes)
    return count * (point.nbytes + chunks * kernel.algorithm.digest_size) + chunks * kernel.algorithm.digest_size


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _one_line(text: str) -> str:
    """A record is one line, whatever a driver calls itself."""
    return " ".join(text.split())


def _rounded(value: float) -> float:
    """To seven significant digits, finer than any clock here, so that a row reads well in a diff."""
    return float(f"{value:.7g}")
