"""The architectures experiment: measured, computed and predicted numbers stand side by side and are never mixed up."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from claim_results import MachineResults, results_of
from drawings import check_legible
from matplotlib.figure import Figure
from rows import READING, row

from hashbench.bench.experiment import Point, Skip
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import Row
from hashbench.experiments import architectures, roofline
from hashbench.experiments.architectures import COLUMNS, EXPERIMENT, LIMIT
from hashbench.kernels import ALGORITHMS, Device, Unavailable
from hashbench.kernels.source import VARIANTS
from hashbench.limits import static_model
from hashbench.limits.gpus import GPU, gpus
from hashbench.limits.microbenchmarks import PIPES, Pipe, Run
from hashbench.limits.roofline import operations
from hashbench.limits.static_model import Prediction

DEFAULT = next(iter(VARIANTS))
GPU_DEVICE = Device("cupy", "0", "NVIDIA H200", "NVIDIA", "gpu", "cupy 14", "CUDA 13.0")
SIZE = 8 << 30


def measured(
    gb_per_s: float, kernel: str = "cupy", variant: str = DEFAULT, name: str = "NVIDIA H200", algorithm: str = "sha256"
) -> Row:
    return row(
        1e-9 * SIZE / gb_per_s,
        experiment="architectures",
        strategy="batched",
        kernel=kernel,
        variant=variant,
        algorithm=algorithm,
        device="0",
        device_name=name,
        bytes=SIZE,
    )


def limit(gb_per_s: float, name: str = "NVIDIA H200", algorithm: str = "sha256") -> Reading:
    return replace(
        READING,
        experiment="architectures",
        subject=LIMIT,
        quantity="throughput",
        unit="GB/s",
        algorithm=algorithm,
        device_name=name,
        median=gb_per_s,
        q1=gb_per_s,
        q3=gb_per_s,
    )


def predicted(gpu: GPU, gb_per_s: float, variant: str = DEFAULT, algorithm: str = "sha256") -> Prediction:
    return Prediction(
        gpu=gpu.name,
        target=gpu.target,
        architecture="Made up",
        algorithm=algorithm,
        variant=variant,
        instructions=1650,
        alu_slots=1040,
        fma_slots=600,
        fp64_slots=None,
        alu_gb_per_s=round(gb_per_s),
        fma_gb_per_s=None,
        fp64_gb_per_s=None,
        issue_gb_per_s=None,
        memory_gb_per_s=None,
        bound="ALU",
        predicted_gb_per_s=gb_per_s,
        predicted_low=gb_per_s,
        predicted_high=1.2 * gb_per_s,
        code="",
        toolchain="",
        source="",
        note="",
        commit="0123456789",
        date="2026-01-02T03:04:05Z",
    )


def drawn(tmp_path: Path, predictions: Sequence[Prediction], *machines: MachineResults) -> list[dict[str, str]]:
    """The table of the overview, in a folder of results that has `predictions`."""
    (tmp_path / "figures").mkdir(exist_ok=True)
    (tmp_path / "predictions.csv").write_bytes(static_model.FORMAT.text(predictions))
    return table(EXPERIMENT.overview(results_of(machines), tmp_path / "figures" / "architectures"))


def table(written: Sequence[Path]) -> list[dict[str, str]]:
    assert [path.suffix for path in written] == [".png", ".pdf", ".svg", ".csv"]
    with written[-1].open() as text:
        lines = csv.DictReader(text)
        assert tuple(lines.fieldnames or ()) == COLUMNS
        return list(lines)


H200, T4 = gpus()["H200"], gpus()["T4"]


def test_the_points_are_of_the_default_variant_and_the_plain_one() -> None:
    def variants(device: Device, *, quick: bool) -> list[tuple[str, str | None]]:
        points = [point for point in EXPERIMENT.points(device, quick=quick) if isinstance(point, Point)]
        assert {(p.strategy, p.nbytes, p.chunk_size) for p in points} <= {("batched", SIZE, 4096)}
        return [(point.algorithm, point.variant) for point in points]

    both = [(algorithm, variant) for algorithm in ALGORITHMS for variant in (None, "plain")]
    for kernel in ("cupy", "numba-cuda", "opencl"):
        assert variants(replace(GPU_DEVICE, kernel=kernel), quick=False) == both
        assert variants(replace(GPU_DEVICE, kernel=kernel), quick=True) == both[::2]
    amd = Device("opencl", "0:0", "AMD Instinct MI300X", "AMD", "gpu")
    assert variants(amd, quick=False) == both[::2]  # whose default is the plain one
    assert variants(replace(GPU_DEVICE, kind="cpu"), quick=False) == []


def test_predicted_and_measured_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    predictions = [
        predicted(T4, 235),
        predicted(H200, 1024),
        predicted(H200, 832, "plain"),
        predicted(T4, 202, "plain"),
    ]
    mine = MachineResults("nvidia-h200", [measured(968), measured(784, variant="plain")], [limit(1020)])
    lines = drawn(tmp_path, predictions, mine)
    assert [(line["gpu"], line["variant"]) for line in lines] == [("T4", DEFAULT), ("H200", DEFAULT), ("H200", "plain")]
    alone, default, plain = lines
    assert alone["predicted_gb_per_s"] == "235.0"
    columns = COLUMNS[COLUMNS.index("machine") :]
    assert {name: alone[name] for name in columns} == dict.fromkeys(columns, "")
    assert (default["machine"], default["kernel"], default["device_name"]) == ("nvidia-h200", "cupy", "NVIDIA H200")
    assert float(default["measured_gb_per_s"]) == pytest.approx(968)
    assert float(default["predicted_gb_per_s"]) == 1024
    assert float(default["computed_limit_gb_per_s"]) == 1020
    assert float(default["share_of_limit"]) == pytest.approx(968 / 1020, abs=1e-4)
    assert float(default["prediction_error"]) == pytest.approx(1024 / 968 - 1, abs=1e-4)
    assert float(plain["share_of_limit"]) == pytest.approx(784 / 1020, abs=1e-4)
    assert float(plain["prediction_error"]) == pytest.approx(832 / 784 - 1, abs=1e-4)


def test_what_others_published_stands_beside_the_default_variant_in_columns_of_its_own(tmp_path: Path) -> None:
    rtx = gpus()["RTX 4090"]
    lines = drawn(tmp_path, [predicted(rtx, 1008), predicted(T4, 235)])
    quoted, without = lines
    assert quoted["hashcat_published_gb_per_s"] == "1406.4"
    assert float(quoted["hashcat_over_predicted_arithmetic"]) == pytest.approx(1406.4 / 1008, abs=1e-3)
    assert quoted["hashcat_source"].startswith("hashcat 6.2.6, mode 1400: gist.github.com/")
    assert (quoted["measured_gb_per_s"], quoted["machine"]) == ("", "")
    assert not any(without[column] for column in COLUMNS if column.startswith("hashcat"))


def test_the_variant_of_a_gpu_without_ptx_is_the_plain_one(tmp_path: Path) -> None:
    amd, intel = gpus()["MI300X"], gpus()["Max 1550"]
    counted = replace(
        predicted(intel, 1, "plain"), bound="unknown", predicted_gb_per_s=None, predicted_low=None, predicted_high=None
    )
    lines = drawn(tmp_path, [predicted(amd, 1657, "plain"), predicted(amd, 1600, "unrolled"), counted])
    assert [(line["gpu"], line["target"], line["variant"]) for line in lines] == [("MI300X", "gfx942", "plain")]


def test_a_gpu_that_is_not_in_the_table_is_drawn_without_a_prediction(tmp_path: Path) -> None:
    name = "AMD Instinct MI100"
    rows = [measured(600, "opencl", "plain", name), measured(700, "cupy", "plain", name)]
    (line,) = drawn(tmp_path, [], MachineResults("amd", rows, []))
    assert (line["gpu"], line["device_name"], line["kernel"]) == ("", name, "cupy")
    columns = [column for column in COLUMNS if "predict" in column or "limit" in column]
    assert {column: line[column] for column in columns} == dict.fromkeys(columns, "")


def test_the_limit_is_that_of_the_device_that_measured(tmp_path: Path) -> None:
    first = MachineResults("first", [], [limit(500)])
    second = MachineResults("second", [measured(968)], [limit(600, "NVIDIA H100"), limit(620, algorithm="sha384")])
    (line,) = drawn(tmp_path, [predicted(H200, 1024)], first, second)
    assert (line["machine"], line["computed_limit_gb_per_s"], line["share_of_limit"]) == ("second", "", "")
    third = replace(second, readings=[*second.readings, limit(1000)])
    (line,) = drawn(tmp_path, [predicted(H200, 1024)], first, third)
    assert line["computed_limit_gb_per_s"] == "1000"


def test_without_predictions_what_was_measured_is_drawn(tmp_path: Path) -> None:
    machine = MachineResults("amd", [measured(700, name="AMD Instinct MI300X")], [])
    lines = table(EXPERIMENT.overview(results_of([machine]), tmp_path / "figures" / "architectures"))
    assert [line["measured_gb_per_s"] for line in lines] == ["700.0"]


def test_one_machines_figure_has_every_kernel_under_the_limit(tmp_path: Path, figures: list[Figure]) -> None:
    rows = [measured(784, variant="plain"), measured(968), measured(950, "numba-cuda", "prefetched")]
    lines = table(EXPERIMENT.figure(Results.of(rows, [limit(1020)]), tmp_path / "architectures"))
    check_legible(figures[0])
    assert [line["kernel"] for line in lines] == ["cupy", "numba-cuda", "cupy"]  # the fastest first
    assert {line["computed_limit_gb_per_s"] for line in lines} == {"1020"}
    assert {line["predicted_gb_per_s"] for line in lines} == {""}
    assert EXPERIMENT.figure(Results.of(readings=[limit(1020)]), tmp_path / "none") == []


# The limit ------------------------------------------------------------------------------------------------------------


@dataclass
class FakeGPU:
    """Micro-benchmarks that answer at once: 64 instructions a clock of each pipe, 1000 MHz."""

    device: Device
    multiprocessors: int = 100

    def __post_init__(self) -> None:
        if self.device.vendor != "NVIDIA":
            raise Unavailable(f"{self.device.name} is not NVIDIA's")

    def run(self, pipe: Pipe, turns: int) -> Run:
        return Run(rate=64.0, megahertz=1000.0, seconds=turns * 1e-4)


def test_the_limit_is_computed_from_the_measured_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "Microbenchmarks", FakeGPU)
    monkeypatch.setattr(roofline, "WARMUP_SECONDS", 0.0)
    found = list(EXPERIMENT.readings([Device("hashlib", "1-thread"), GPU_DEVICE], quick=True))
    taken = [reading for reading in found if isinstance(reading, Reading)]
    assert len(taken) == len(found) == len(ALGORITHMS)
    for reading in taken:
        READINGS.check(reading)
        needed = operations(ALGORITHMS[reading.algorithm])
        # All that is issued at 64 a clock: an instruction for each operation, and for two additions of 32 bits.
        clocks = (needed.total() - needed["add"] / 2) / 64
        expected = 1e-9 * 100 * 1e9 * ALGORITHMS[reading.algorithm].block_size / clocks
        assert (reading.subject, reading.unit, reading.device_name) == (LIMIT, "GB/s", "NVIDIA H200")
        assert reading.q1 == reading.median == reading.q3 == pytest.approx(expected)
        assert reading.repeats == roofline.REPEATS


def test_the_spread_of_a_limit_is_that_of_the_rates() -> None:
    rates = [replace(READING, subject=name, median=64.0, q1=62.0, q3=65.0) for name in PIPES]
    of_all = [
        replace(READING, subject="multiprocessor", quantity=quantity, median=value, q1=value, q3=value, repeats=repeats)
        for quantity, value, repeats in (("count", 100.0, 1), ("clock", 1000.0, 9))
    ]
    found = architectures._limit(GPU_DEVICE, [*rates, *of_all], "sha256")
    assert found.q1 / found.median == pytest.approx(62 / 64)
    assert found.q3 / found.median == pytest.approx(65 / 64)
    assert found.repeats == READING.repeats
    with pytest.raises(ValueError, match="not enough to compute its limit"):
        architectures._limit(GPU_DEVICE, of_all, "sha256")


def test_what_has_no_limit_says_why_and_keeps_none_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "Microbenchmarks", FakeGPU)
    monkeypatch.setattr(roofline, "WARMUP_SECONDS", 0.0)
    (skip,) = EXPERIMENT.readings([Device("hashlib", "1-thread")], quick=True)
    assert isinstance(skip, Skip)
    assert "measured through cupy, which was not asked for" in skip.reason
    devices = [
        Device("cupy", unavailable="the driver finds no GPU"),
        Device("cupy", "0", "AMD Instinct MI300X", "AMD", "gpu"),
        replace(GPU_DEVICE, id="1"),
    ]
    readings = EXPERIMENT.readings(devices, quick=True)
    first: Any = next(readings)
    assert first.reason == "cupy: the driver finds no GPU"
    with pytest.raises(Unavailable, match="not NVIDIA's"):
        next(readings)
    assert [reading.device for reading in readings if isinstance(reading, Reading)] == ["1", "1"]
