"""The cross-check of the clock: what NVBench is told and asked, and what becomes of both times."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from drawings import check_legible
from matplotlib.figure import Figure

from hashbench.bench import measurement
from hashbench.bench.experiment import Skip
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS, Reading
from hashbench.experiments import clock, nvbench_program
from hashbench.experiments.nvbench_program import NVBenchError
from hashbench.kernels import Device
from hashbench.kernels.hashlib_cpu import HashlibCpu

GPU = Device("cupy", "0", "NVIDIA H200", "NVIDIA", "gpu", "cupy 14", "CUDA 13.0")
SAMPLES = [0.0092, 0.0094, 0.0093]


class FakeNVBench(ModuleType):
    """As much of `cuda.bench` as the program uses: it runs a benchmark, and tells how it was asked to.

    Args:
        samples: what it claims to have measured.
        reason: why the state was skipped; "" where it was not.
    """

    def __init__(self, samples: Sequence[float] = SAMPLES, reason: str = "") -> None:
        super().__init__("cuda.bench")
        self.samples, self.reason = samples, reason
        self.asked: dict[str, Any] = {}
        self.arguments: list[str] = []
        self.name = ""
        self.benchmark: Callable[[Any], None]

    def register(self, benchmark: Callable[[Any], None]) -> FakeNVBench:
        self.benchmark = benchmark
        return self

    def set_name(self, name: str) -> None:
        self.name = name

    def run_all_benchmarks(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.benchmark(SimpleNamespace(exec=self._exec))

    def _exec(self, launcher: Callable[[Any], None], **asked: Any) -> None:
        self.asked = asked
        assert launcher(None) is None  # type: ignore[func-returns-value]

    def from_json(self, path: Path) -> dict[str, Any]:
        assert str(path) in self.arguments
        state = {"is_skipped": bool(self.reason), "skip_reason": self.reason, "samples": array("f", self.samples)}
        return {self.name: SimpleNamespace(states=[SimpleNamespace(**state)])}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNVBench:
        results = ModuleType("cuda.bench.results")
        results.BenchmarkResult = self  # type: ignore[attr-defined]
        package = ModuleType("cuda")
        package.bench = self  # type: ignore[attr-defined]
        for module in (package, self, results):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        return self


class CountingWork:
    runs = 0

    def run(self) -> float:
        self.runs += 1
        return 0.01


def test_nvbench_times_the_run_of_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvbench = FakeNVBench().install(monkeypatch)
    work: Any = CountingWork()
    samples = nvbench_program.nvbench_samples(work, "3", tmp_path / "n.json")
    assert samples == pytest.approx(SAMPLES)
    assert work.runs == 1
    assert nvbench.asked == {"sync": True, "batched": False}  # a run waits, which would stop NVBench for ever
    assert nvbench.arguments[1:5] == ["--devices", "3", "--jsonbin", str(tmp_path / "n.json")]


@pytest.mark.parametrize(
    ("nvbench", "reason"),
    [(FakeNVBench(reason="the launch failed"), "the launch failed"), (FakeNVBench([]), "it gives no reason")],
)
def test_no_samples_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvbench: FakeNVBench, reason: str
) -> None:
    nvbench.install(monkeypatch)
    work: Any = CountingWork()
    with pytest.raises(NVBenchError, match=f"NVBench returned no samples: {reason}"):
        nvbench_program.nvbench_samples(work, "0", tmp_path / "n.json")


def test_the_program_writes_both_times_of_one_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNVBench().install(monkeypatch)
    monkeypatch.setattr(nvbench_program, "CupyCuda", HashlibCpu)
    monkeypatch.setattr(measurement, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(HashlibCpu, "free_memory", lambda self: 3 << 20)
    path = tmp_path / "given.json"
    nvbench_program.main(["1-thread", "sha384", str(8 << 20), "4096", str(path)])
    given = json.loads(path.read_text())
    assert given["nbytes"] == 2 << 20  # what fits
    assert len(given["hashbench"]) == measurement.MIN_REPEATS_IN_BUDGET
    assert given["nvbench"] == pytest.approx(SAMPLES)


# The experiment -------------------------------------------------------------------------------------------------------


def times(device: Device, algorithm: str, folder: Path) -> dict[str, Any]:
    return {"nbytes": 8 << 30, "hashbench": [0.008, 0.01, 0.012], "nvbench": [0.0101, 0.0102, 0.0103]}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Reading]:
    monkeypatch.setattr(clock, "_program", times)
    monkeypatch.setattr(clock, "find_spec", lambda name: object())
    monkeypatch.setattr(clock, "version", lambda name: "0.3.0")
    found = list(clock.EXPERIMENT.readings([Device("hashlib", "1-thread"), GPU], quick=True))
    assert all(isinstance(reading, Reading) for reading in found)
    return [reading for reading in found if isinstance(reading, Reading)]


def test_both_times_and_their_ratio_are_readings(taken: list[Reading]) -> None:
    assert [(r.algorithm, r.subject) for r in taken] == [
        (algorithm, subject)
        for algorithm in ("sha256", "sha384")
        for subject in ("hashbench", "NVBench", "NVBench over hashbench")
    ]
    for reading in taken:
        READINGS.check(reading)
        assert reading.conditions == "batched, 8GiB in chunks of 4KiB"
    ours, theirs, ratio = taken[:3]
    assert [ours.q1, ours.median, ours.q3] == pytest.approx([0.009, 0.01, 0.011])
    assert (ours.repeats, ours.unit, ours.samples) == (3, "s", (0.008, 0.01, 0.012))
    assert (theirs.median, theirs.repeats, theirs.source) == (0.0102, 3, "cuda-bench 0.3.0")
    assert ratio.median == pytest.approx(1.02)
    assert ratio.q1 == pytest.approx(theirs.q1 / 0.011)
    assert ratio.q3 == pytest.approx(theirs.q3 / 0.009)


def test_the_figure_shows_both(taken: list[Reading], tmp_path: Path, figures: list[Figure]) -> None:
    written = clock.EXPERIMENT.figure(Results.of(readings=taken), tmp_path / "clock")
    assert len(written[-1].read_text().splitlines()) == 1 + 6
    check_legible(figures[0])
    assert [panel.get_title(loc="left") for panel in figures[0].axes] == [
        f"{name}, NVIDIA H200: 1.0200 times by NVBench" for name in ("SHA-256", "SHA-384")
    ]


def reasons(*devices: Device) -> list[str]:
    found = list(clock.EXPERIMENT.readings(devices, quick=True))
    assert all(isinstance(skip, Skip) for skip in found)
    return [skip.reason for skip in found if isinstance(skip, Skip)]


def test_what_is_missing_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reasons(Device("hashlib", "1-thread")) == ["the launch is one of cupy's, which was not asked for"]
    monkeypatch.setattr(clock, "find_spec", lambda name: None)
    missing = "NVBench's Python package is not installed: install hashbench[crosscheck]"
    assert reasons(GPU) == [missing]
    monkeypatch.setattr(clock, "find_spec", lambda name: object())
    assert reasons(replace(GPU, unavailable="the driver finds no GPU")) == ["cupy: the driver finds no GPU"]


def test_a_program_that_fails_says_its_last_line(tmp_path: Path) -> None:
    absent = replace(GPU, id="no such device")
    with pytest.raises(RuntimeError, match=r"NVBench's program exited with 1 and no times: \w+Error: "):
        clock._program(absent, "sha256", tmp_path)
