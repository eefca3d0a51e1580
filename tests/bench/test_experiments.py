"""Experiments end to end: points are verified, measured and written as rows, and figures are drawn from rows alone."""

from __future__ import annotations

import hashlib
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from drawings import keep_figures
from rows import READING, machine_rows, row

from hashbench.bench import experiment, machine, measurement
from hashbench.bench.experiment import (
    Experiment,
    Failure,
    Kept,
    Point,
    Run,
    Skip,
    experiment_named,
    plan,
    run,
)
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.records import ResultsError
from hashbench.bench.results import ROWS, Row
from hashbench.bench.tables import rows_table
from hashbench.cli import bench as bench_commands
from hashbench.cli import report as report_commands
from hashbench.experiments import throughput
from hashbench.hashing import selection
from hashbench.kernels import (
    Buffer,
    Bytes,
    Device,
    Kernel,
    OutOfDeviceMemory,
    Strategy,
    Unavailable,
    Work,
    kernel_class,
)
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.kernels.host_kernel import splitmix64
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

MiB = 1 << 20


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every measurement short, and leaves what it does as it is."""
    monkeypatch.setattr(measurement, "WORKING_SET", 1 * MiB)
    monkeypatch.setattr(measurement, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(throughput, "SIZE", {"gpu": 2 * MiB, "cpu": 2 * MiB})
    keep_figures(monkeypatch)


class Small(Experiment):
    """A few small points."""

    name = "small"
    question = "Does it run?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
        for algorithm in ("sha256", "sha384"):
            yield Point(device, "tree", algorithm, (256 << 10,), 1024)
            if not quick:
                yield Point(device, "batched", algorithm, (100_000, 0, 7), 128)
                yield Point(device, "batched", algorithm, (100_000, 7), None)

    def figure(self, results: Results, path: Path) -> list[Path]:
        return []


ONE_CORE = kernel_class("hashlib").devices()[0]


def run_small(
    folder: Path, devices: Iterable[Device] = (ONE_CORE,), algorithms: Sequence[str] = ("sha256", "sha384")
) -> Run:
    return run_all(Small(), folder, devices, algorithms)


def run_all(
    of: Experiment,
    folder: Path,
    devices: Iterable[Device] = (ONE_CORE,),
    algorithms: Sequence[str] = ("sha256", "sha384"),
    commit: str = "c0ffee",
    again: bool = False,
) -> Run:
    """The whole of an experiment, into its files in `folder`."""
    return run(
        of,
        plan(of, devices, algorithms, quick=False),
        of.readings(list(devices), quick=False),
        ROWS.file(folder / f"{of.name}.csv"),
        READINGS.file(folder / f"{of.name}.readings.csv"),
        commit,
        again,
    )


def test_every_point_becomes_a_row(tmp_path: Path) -> None:
    report = run_small(tmp_path)
    assert [type(outcome) for outcome in report.outcomes] == [Row] * 6
    assert report.rows == ROWS.read(tmp_path / "small.csv")
    assert [(r.algorithm, r.strategy, r.bytes, r.chunk_size, r.segments) for r in report.rows] == [
        (algorithm, *point)
        for algorithm in ("sha256", "sha384")
        for point in (("tree", 262144, 1024, 1), ("batched", 100007, 128, 3), ("batched", 100007, None, 2))
    ]
    for measured in report.rows:
        assert measured.seconds_median == pytest.approx(statistics.median(measured.seconds_samples))
        assert measured.wall_seconds_median == pytest.approx(statistics.median(measured.wall_seconds_samples))
        assert (measured.kernel, measured.device, measured.device_name) == ("hashlib", ONE_CORE.id, ONE_CORE.name)
        assert (measured.verified, measured.commit, measured.protocol) == ("all", "c0ffee", measurement.PROTOCOL)
        assert measured.repeats == measurement.MIN_REPEATS_IN_BUDGET
        assert measured.seconds_min <= measured.seconds_q1 <= measured.seconds_median <= measured.seconds_q3
        assert measured.gb_per_s == pytest.approx(measured.bytes / measured.seconds_median / 1e9)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", measured.date)


@pytest.mark.parametrize("name", ["hashlib", pytest.param("dpnp", marks=pytest.mark.xdist_group("dpnp"))])
def test_the_digest_is_of_all_digests_of_the_first_input(tmp_path: Path, name: str) -> None:
    device = kernel_class(name).devices()[0]
    if device.unavailable is not None:
        pytest.skip(f"{name}: {device.unavailable}")
    tree, batched, whole = run_small(tmp_path, [device], ["sha384"]).rows
    words = splitmix64(experiment.SEED, 0, 262144 // 8).tobytes()
    root = merkle_tree_hash(chunks_of(words, 1024), "sha384")
    assert tree.digest == hashlib.sha384(root).hexdigest()
    segments = (words[:100_000], b"", words[100_096:100_103])  # each begins at a multiple of 256
    digests = (hashlib.sha384(chunk).digest() for segment in segments for chunk in chunks_of(segment, 128))
    assert batched.digest == hashlib.sha384(b"".join(digests)).hexdigest()
    ends = (hashlib.sha384(segment).digest() for segment in (segments[0], segments[2]))
    assert whole.digest == hashlib.sha384(b"".join(ends)).hexdigest()


def test_a_model_is_whole_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OfModels(Small):
        def points(self, device: Device, *, quick: bool) -> Iterable[Point | Skip]:
            yield Point(device, "tree", "sha256", (2 * MiB,), 4096, model="gpt-2")
            yield Skip("the giant", "it is too large for anything here")
            yield Point(device, "tree", "sha256", (8 * MiB,), 4096, model="bert-base")

    class Tight(HashlibCpu):
        def free_memory(self) -> int:
            return 4 * MiB

    use(monkeypatch, Tight)
    report = run_all(OfModels(), tmp_path)
    assert [row.model for row in report.rows] == ["gpt-2"]
    assert [skip.what for skip in report.skips] == [
        "the giant",
        "hashlib 1-thread: sha256 tree bert-base, 8MiB, 4KiB chunks",
    ]
    assert "instead" not in report.skips[1].reason


# What was measured before --------------------------------------------------------------------------------------------


class CannotBuild(HashlibCpu):
    def __init__(self, device: Device, algorithm: str = "", variant: str | None = None) -> None:
        raise RuntimeError("it was built")


def test_points_of_this_commit_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_small(tmp_path).rows
    with monkeypatch.context() as patch:
        use(patch, CannotBuild)
        report = run_small(tmp_path)
    assert report.outcomes == [Kept(row) for row in before]
    assert (report.rows, report.kept, report.current) == ([], before, before)
    assert ROWS.read(tmp_path / "small.csv") == before


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    first = run_small(tmp_path, algorithms=["sha256"])
    assert [type(outcome) for outcome in run_small(tmp_path).outcomes] == [Kept] * 3 + [Row] * 3
    assert ROWS.read(tmp_path / "small.csv")[:3] == first.rows


@pytest.mark.parametrize("change", ["again", "commit", "driver", "framework", "name"])
def test_points_are_measured_again_where_anything_changed(tmp_path: Path, change: str) -> None:
    run_small(tmp_path)
    changes: Any = {change: "another"} if change in ("driver", "framework", "name") else {}
    commit = "decaf" if change == "commit" else "c0ffee"
    report = run_all(Small(), tmp_path, [replace(ONE_CORE, **changes)], commit=commit, again=change == "again")
    assert [type(outcome) for outcome in report.outcomes] == [Row] * 6
    assert len(ROWS.read(tmp_path / "small.csv")) == 6


@pytest.mark.parametrize("commit", ["c0ffee-dirty", "unknown", "0.1.0"])
def test_code_of_no_commit_is_always_measured(tmp_path: Path, commit: str) -> None:
    for _ in range(2):
        report = run_all(Small(), tmp_path, algorithms=["sha256"], commit=commit)
        assert [type(outcome) for outcome in report.outcomes] == [Row] * 3


def test_a_point_that_was_cut_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tight(HashlibCpu):
        def free_memory(self) -> int:
            return 3 * MiB

    class Large(Small):
        def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
            yield Point(device, "tree", "sha256", (8 * MiB,), 4096)

    use(monkeypatch, Tight)
    assert [type(o) for o in run_all(Large(), tmp_path, algorithms=["sha256"]).outcomes] == [Skip, Row]
    assert [type(o) for o in run_all(Large(), tmp_path, algorithms=["sha256"]).outcomes] == [Skip, Kept]


def test_each_algorithm_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    class Counted(HashlibCpu):
        def __init__(self, device: Device, algorithm: str = "", variant: str | None = None) -> None:
            built.append(algorithm)
            super().__init__(device, algorithm, variant)

    use(monkeypatch, Counted)
    assert len(run_small(tmp_path, algorithms=("sha384", "sha256")).rows) == 6
    assert built == ["sha384", "sha256"]


# What goes wrong -----------------------------------------------------------------------------------------------------


def use(monkeypatch: pytest.MonkeyPatch, cls: type[Kernel]) -> None:
    monkeypatch.setattr(experiment, "kernel_class", lambda name: cls)


class WrongWork(Work):
    """Right but for one bit of the last digest."""

    def __init__(self, work: Work) -> None:
        super().__init__(work.kernel)
        self.work = work

    def enqueue(self, stream: object) -> Callable[[], float]:
        return self.work.enqueue(stream)

    def output(self) -> Buffer:
        return self.work.output()

    def digests(self) -> Bytes:
        digests = super().digests()
        digests[-1, 0] ^= 1
        return digests


class WrongTrees(HashlibCpu):
    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        work = super().prepare(strategy, segments, chunk_size)
        return WrongWork(work) if strategy == "tree" else work


def test_wrong_output_is_never_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, WrongTrees)
    report = run_small(tmp_path)
    assert [type(outcome) for outcome in report.outcomes] == [Failure, Row, Row] * 2
    assert all("differs from the reference" in str(failure.error) for failure in report.failures)
    assert {r.strategy for r in ROWS.read(tmp_path / "small.csv")} == {"batched"}


class BreaksDown(HashlibCpu):
    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        if strategy == "tree":
            raise RuntimeError("the driver\nis gone")
        return super().prepare(strategy, segments, chunk_size)


def test_a_kernel_that_breaks_down_fails_its_point_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, BreaksDown)
    report = run_small(tmp_path)
    assert [type(outcome) for outcome in report.outcomes] == [Failure, Row, Row] * 2


def test_an_interrupt_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(HashlibCpu):
        def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
            if chunk_size is None:
                raise KeyboardInterrupt
            return super().prepare(strategy, segments, chunk_size)

    use(monkeypatch, Interrupted)
    report = run_small(tmp_path)
    assert report.interrupted
    assert len(report.rows) == 2
    assert ROWS.read(tmp_path / "small.csv") == report.rows


def test_out_of_memory_is_a_skip_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(HashlibCpu):
        def random(self, nbytes: int, seed: int) -> Buffer:
            raise OutOfDeviceMemory(self.device, nbytes)

    use(monkeypatch, Full)
    report = run_small(tmp_path)
    assert len(report.skips) == len(report.outcomes) == 6
    assert all("out of memory on" in skip.reason and "bytes were asked for" in skip.reason for skip in report.skips)
    assert not (tmp_path / "small.csv").exists()


def test_points_shrink_to_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tight(HashlibCpu):
        def free_memory(self) -> int:
            return 3 * MiB

    class Large(Small):
        def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
            for lengths in ((8 * MiB,), (2 * MiB,), (4 * MiB, 4 * MiB)):
                yield Point(device, "tree", "sha256", lengths, 4096)

    use(monkeypatch, Tight)
    report = run_all(Large(), tmp_path, algorithms=["sha256"])
    assert [type(outcome) for outcome in report.outcomes] == [Skip, Row, Skip]
    assert [r.bytes for r in report.rows] == [2 * MiB]
    assert ["2MiB are measured instead" in skip.reason for skip in report.skips] == [True, False]


def test_a_kernel_gives_its_memory_back_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Told(HashlibCpu):
        def __init__(self, device: Device, algorithm: str = "", variant: str | None = None) -> None:
            events.append(f"build {algorithm}")
            super().__init__(device, algorithm, variant)

        def trim(self) -> None:
            events.append(f"trim {self.algorithm.name}")

    use(monkeypatch, Told)
    run_small(tmp_path)
    assert events == ["build sha256", "trim sha256", "build sha384", "trim sha384"]


def test_unavailable_devices_are_skips(tmp_path: Path) -> None:
    missing = Device("cupy", unavailable="there is no GPU")
    assert run_small(tmp_path, [missing]).outcomes == [Skip("cupy", "there is no GPU")]


# Readings ------------------------------------------------------------------------------------------------------------


class Pipes(Experiment):
    """Readings alone, made by `take`, one after the other."""

    name = "pipes"
    question = "What is read?"
    take: Sequence[Reading | Skip | BaseException] = (READING, replace(READING, subject="SHF"))

    def __init__(self) -> None:
        self.devices: list[Device] = []

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        self.devices += devices
        return chain.from_iterable(map(self._one, self.take))

    def _one(self, what: Reading | Skip | BaseException) -> Iterator[Reading | Skip]:
        if isinstance(what, BaseException):
            raise what
        yield what

    def figure(self, results: Results, path: Path) -> list[Path]:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{len(results.rows)} rows, {len(results.readings)} readings")
        return [path]


def read_by(*take: Reading | Skip | BaseException) -> Pipes:
    of = Pipes()
    of.take = take
    return of


def test_readings_become_records_with_where_they_are_from(tmp_path: Path) -> None:
    values: dict[str, Any] = {"median": 1 / 3, "q1": 1 / 4, "q3": 1 / 2, "samples": (1 / 3, -1 / 7), "repeats": 2}
    odd = replace(READING, subject="SHF", note="two\nlines", experiment="other", **values)
    report = run_all(read_by(READING, odd), tmp_path)
    first, second = report.readings
    assert report.readings == report.outcomes == READINGS.read(tmp_path / "pipes.readings.csv")
    assert (first.experiment, first.commit, first.median) == ("pipes", "c0ffee", READING.median)
    assert (second.experiment, second.note, second.median) == ("pipes", "two lines", 0.3333333)
    assert second.samples == (0.3333333, -0.1428571)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.date)
    assert not (tmp_path / "pipes.csv").exists()


def test_each_reading_is_saved_before_the_next_is_taken(tmp_path: Path) -> None:
    class Watched(Pipes):
        def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
            for subject in ("LOP3", "SHF"):
                yield replace(READING, subject=subject)
                assert [r.subject for r in READINGS.read(tmp_path / "pipes.readings.csv")][-1] == subject

    report = run_all(Watched(), tmp_path)
    assert [type(outcome) for outcome in report.outcomes] == [Reading, Reading]


def test_rows_and_readings_of_one_experiment_do_not_mix(tmp_path: Path) -> None:
    class Both(Small):
        def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
            yield READING

    report = run_all(Both(), tmp_path)
    assert [type(outcome) for outcome in report.outcomes] == [Row] * 6 + [Reading]
    assert len(ROWS.read(tmp_path / "small.csv")) == 6
    assert READINGS.read(tmp_path / "small.readings.csv") == report.readings


def test_a_reading_that_raises_fails_alone(tmp_path: Path) -> None:
    lost = RuntimeError("the pipe\nburst")
    none = OutOfDeviceMemory(ONE_CORE, 5)
    zero = replace(READING, subject="zero", median=0.0)
    report = run_all(read_by(lost, READING, none, zero, replace(READING, subject="SHF")), tmp_path)
    assert [type(outcome) for outcome in report.outcomes] == [Failure, Reading, Skip, Failure, Reading]
    assert report.failures[0] == Failure("pipes: the first reading", lost)
    assert report.failures[1].what == "pipes: the reading after LOP3 instruction rate (8 chains)"
    assert "median is '0.0'; accepted is a positive number" in str(report.failures[1].error)
    assert "5 bytes were asked for" in report.skips[0].reason
    assert [r.subject for r in READINGS.read(tmp_path / "pipes.readings.csv")] == ["LOP3", "SHF"]


def test_an_interrupt_keeps_the_readings(tmp_path: Path) -> None:
    report = run_all(read_by(READING, KeyboardInterrupt(), READING), tmp_path)
    assert report.interrupted
    assert report.readings == READINGS.read(tmp_path / "pipes.readings.csv")
    assert len(report.readings) == 1


def test_experiments_are_found_by_name() -> None:
    assert isinstance(experiment_named("throughput"), throughput.Throughput)
    with pytest.raises(ValueError, match=r"unknown experiment 'speed': accepted are .*throughput"):
        experiment_named("speed")


# Tables --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "columns"), [("", 0), ("gpt-2", 1)])
def test_the_table_names_models_where_there_are_any(model: str, columns: int) -> None:
    table = rows_table(Results.of([row(), row(model=model)]).rows)
    assert table.columns.count("model") == columns
    assert len(table.lines) == 2


# The commands --------------------------------------------------------------------------------------------------------


def bench(*arguments: str | Path) -> Result:
    return CliRunner().invoke(bench_commands.bench, [*map(str, arguments)])


def test_bench_writes_rows_machine_and_figures(tmp_path: Path) -> None:
    kernels = ["--kernel", "hashlib", "--kernel", "cupy"]
    done = bench("throughput", "--quick", *kernels, "--machine", "here", "--results", tmp_path)
    assert done.exit_code == 0, done.output
    available = [d for d in selection.devices() if d.kernel in ("hashlib", "cupy")]
    rows = ROWS.read(tmp_path / "here" / "throughput.csv")
    assert len(rows) == 4 * sum(d.unavailable is None for d in available)
    for device in available:
        assert device.unavailable is None or f"skipped {device.kernel}: {device.unavailable}" in done.stderr
    for file in ("throughput.csv", "figures/throughput.png", "figures/throughput.pdf"):
        assert str(tmp_path / "here" / file) in done.stdout
    described = json.loads((tmp_path / "here" / "machine.json").read_text(encoding="utf-8"))
    assert {d["kernel"] for d in described["devices"]} >= {"hashlib"}

    drawn = tmp_path / "here" / "figures" / "throughput.csv"
    before = drawn.read_bytes()
    drawn.unlink()
    again = CliRunner().invoke(bench_commands.figures, ["--results", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert drawn.read_bytes() == before


def test_bench_measures_what_was_asked_for(tmp_path: Path) -> None:
    only = ("--kernel", "hashlib", "--device", "1-thread", "--algorithm", "sha384")
    assert bench("throughput", "--quick", *only, "--results", tmp_path).exit_code == 0
    (folder,) = tmp_path.iterdir()
    assert folder.name == machine.slug(selection.devices())
    rows = ROWS.read(folder / "throughput.csv")
    assert [(r.device, r.algorithm, r.strategy) for r in rows] == [
        ("1-thread", "sha384", "batched"),
        ("1-thread", "sha384", "tree"),
    ]
    assert bench("throughput", "--quick", *only, "--results", tmp_path).exit_code == 0
    assert len(ROWS.read(folder / "throughput.csv")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown experiment 'speed'"),
        (["--kernel", "md5"], "unknown kernel 'md5': accepted are hashlib, "),
        (["--kernel", "hashlib", "--device", "0"], "unknown device '0': accepted are 1-thread"),
        (["--machine", "../other"], "machine name '../other' is not accepted"),
        (["--machine", "figures"], "machine name 'figures' is not accepted"),
    ],
)
def test_what_bench_cannot_do_is_said_before_anything_is_written(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = bench(*arguments, "--quick", "--results", tmp_path / "results")
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)
    assert not (tmp_path / "results").exists()


def test_bench_measures_nothing_into_a_folder_or_file_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_commands, "run", lambda *_: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("in the way")
    done = bench("--quick", "--kernel", "hashlib", "--results", tmp_path / "file")
    assert "results cannot be written" in str(done.exception)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "throughput.csv").write_text("a,b\n1,2\n")
    done = bench("--quick", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert "is not a results file" in str(done.exception)
    assert (tmp_path / "here" / "throughput.csv").read_text() == "a,b\n1,2\n"


def test_bench_ends_with_1_where_output_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, WrongTrees)
    done = bench("throughput", "--quick", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert done.exit_code == 1
    assert "wrong output, not recorded: hashlib 1-thread: sha256 tree" in done.stderr
    assert {r.strategy for r in ROWS.read(tmp_path / "here" / "throughput.csv")} == {"batched"}


def test_bench_ends_with_the_error_where_a_kernel_broke_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, BreaksDown)
    done = bench("throughput", "--quick", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert isinstance(done.exception, RuntimeError)
    assert ": RuntimeError: the driver is gone\n" in done.stderr
    assert {r.strategy for r in ROWS.read(tmp_path / "here" / "throughput.csv")} == {"batched"}


def install(monkeypatch: pytest.MonkeyPatch, *installed: Experiment) -> None:
    monkeypatch.setattr(experiment, "experiments", lambda: {one.name: one for one in installed})
    monkeypatch.setattr(bench_commands, "experiments", experiment.experiments)


def test_bench_of_readings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = read_by(READING, Skip("SHF", "there is none"), RuntimeError("the pipe\nburst"))
    install(monkeypatch, of)
    done = bench("pipes", "--kernel", "hashlib", "--device", "1-thread", "--machine", "here", "--results", tmp_path)
    assert isinstance(done.exception, RuntimeError)
    assert "skipped SHF: there is none\n" in done.stderr
    after = "pipes: the reading after LOP3 instruction rate (8 chains)"
    assert f"failed, not recorded: {after}: RuntimeError: the pipe burst\n" in done.stderr
    assert [(device.kernel, device.id) for device in of.devices] == [("hashlib", "1-thread")]
    printed = [cell for line in done.stdout.splitlines() for cell in line.split()]
    assert {"LOP3", "63.25", "63", "63.5", "1/clk/SM"} <= set(printed)
    assert f"readings: {tmp_path / 'here' / 'pipes.readings.csv'}" in done.stdout
    assert not (tmp_path / "here" / "pipes.csv").exists()

    drawn = tmp_path / "here" / "figures" / "pipes"
    assert drawn.read_text() == "0 rows, 1 readings"
    drawn.unlink()
    again = CliRunner().invoke(bench_commands.figures, ["--results", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert drawn.read_text() == "0 rows, 1 readings"


def test_overviews_are_drawn_over_all_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Small):
        def overview(self, results: Results, path: Path) -> list[Path]:
            path.parent.mkdir(exist_ok=True)
            counts = {
                name: [sum(part["machine"] == name) for part in (results.rows, results.readings)]
                for name in results.machines
            }
            path.write_text(" ".join(f"{name}:{rows}:{readings}" for name, (rows, readings) in counts.items()))
            return [path]

    install(monkeypatch, Seen(), read_by(READING))
    (tmp_path / "other").mkdir()
    READINGS.file(tmp_path / "other" / "small.readings.csv").add(READING)
    (tmp_path / "empty").mkdir()
    READINGS.file(tmp_path / "empty" / "pipes.readings.csv").add(READING)
    only = ("--kernel", "hashlib", "--device", "1-thread", "--machine", "here")
    done = bench("small", "--quick", *only, "--results", tmp_path)
    assert done.exit_code == 0, done.output
    drawn = tmp_path / "figures" / "small"
    assert f"figure: {drawn}\n" in done.stdout
    assert drawn.read_text() == "here:2:0 other:0:1"
    drawn.unlink()
    again = CliRunner().invoke(bench_commands.figures, ["--results", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert drawn.read_text() == "here:2:0 other:0:1"
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["small"]


def test_bench_refuses_the_folder_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_commands, "run", lambda *_: pytest.fail("it was measured"))
    ours = machine.describe(selection.devices())
    (tmp_path / "here").mkdir()
    theirs = json.dumps(ours | {"cpu": ours["cpu"] | {"name": "Another"}})
    (tmp_path / "here" / "machine.json").write_text(theirs)
    done = bench("--quick", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert isinstance(done.exception, ResultsError)
    assert "describes another machine, with Another (" in str(done.exception)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["machine.json"]
    assert (tmp_path / "here" / "machine.json").read_text() == theirs


def test_bench_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "commit", lambda: "c0ffee")
    only = ("throughput", "--quick", "--kernel", "hashlib", "--device", "1-thread", "--machine", "here")
    told = "throughput: skipped 4 points already measured at this commit (see --again)\n"
    assert told not in bench(*only, "--results", tmp_path).stderr
    before = ROWS.read(tmp_path / "here" / "throughput.csv")
    drawn = tmp_path / "here" / "figures" / "throughput.csv"
    drawn.unlink()
    done = bench(*only, "--results", tmp_path)
    assert done.exit_code == 0, done.output
    assert told in done.stderr
    assert ROWS.read(tmp_path / "here" / "throughput.csv") == before
    assert drawn.exists()
    assert all(f"{row.gb_per_s:.4g}" in done.stdout for row in before)
    monkeypatch.setattr(experiment, "_now", lambda: "2030-01-01T00:00:00Z")
    assert told not in bench(*only, "--again", "--results", tmp_path).stderr
    assert {row.date for row in ROWS.read(tmp_path / "here" / "throughput.csv")} == {"2030-01-01T00:00:00Z"}


def test_bench_that_measured_nothing_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, read_by(Skip("pipes", "no GPU")))
    done = bench("pipes", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert isinstance(done.exception, Unavailable)
    assert str(done.exception) == "nothing was measured: pipes: no GPU"
    assert list((tmp_path / "here").glob("*.csv")) == []


def test_an_interrupted_bench_says_what_it_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, read_by(READING, KeyboardInterrupt()))
    done = bench("pipes", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert done.exit_code != 0
    assert "interrupted: 1 rows and readings were measured and kept\n" in done.stderr
    assert len(READINGS.read(tmp_path / "here" / "pipes.readings.csv")) == 1


def test_bench_reads_nothing_into_a_file_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, read_by(READING))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "pipes.readings.csv").write_text("a,b\n1,2\n")
    done = bench("pipes", "--kernel", "hashlib", "--machine", "here", "--results", tmp_path)
    assert "is not a results file" in str(done.exception)
    assert (tmp_path / "here" / "pipes.readings.csv").read_text() == "a,b\n1,2\n"


def test_compare_shows_rows_and_readings(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ROWS.file(tmp_path / name / "throughput.csv").add(machine_rows()[0])
        READINGS.file(tmp_path / name / "throughput.readings.csv").add(READING)
    done = CliRunner().invoke(report_commands.compare, ["a", "b", "--points", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert points_of_ratio("1.000", done.stdout) == 1
    (line,) = [line.split() for line in done.stdout.splitlines() if "8 chains" in line]
    assert line[-5:] == ["63.25", "63.25", "1.000", "no", "1/clk/SM"]


def points_of_ratio(ratio: str, printed: str) -> int:
    """Lines of the table of points, which give the size, that hold `ratio`."""
    return sum("1GiB" in line and ratio in line for line in printed.splitlines())


def test_compare_prints_the_points_of_both(tmp_path: Path) -> None:
    for name, factor in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        file = ROWS.file(tmp_path / name / "throughput.csv")
        for one in machine_rows():
            file.add(
                replace(
                    one,
                    seconds_median=factor * one.seconds_median,
                    seconds_q1=factor * one.seconds_q1,
                    seconds_q3=factor * one.seconds_q3,
                    gb_per_s=one.gb_per_s / factor,
                )
            )

    def compare(*arguments: str | Path) -> Result:
        return CliRunner().invoke(report_commands.compare, ["--points", *map(str, arguments)])

    for done in (compare(tmp_path / "a", tmp_path / "b"), compare("a", "b", "--results", tmp_path)):
        assert done.exit_code == 0, done.output
        assert points_of_ratio("0.500", done.stdout) == len(machine_rows())
    (document,) = json.loads(compare(tmp_path / "a", tmp_path / "b", "--json").stdout)
    assert (len(document["rows"]), document["readings"]) == (len(machine_rows()), [])
    assert {row["ratio"] for row in document["rows"]} == {0.5}
    assert "none cannot be read: No such file" in str(compare("a", "none", "--results", tmp_path).exception)
    assert compare(tmp_path / "a").exit_code == 2
