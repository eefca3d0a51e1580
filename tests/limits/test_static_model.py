"""Predictions: the tables behind them, their arithmetic by hand, their check against rows, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rows import row

from hashbench.bench.frames import Results
from hashbench.bench.results import ROWS, Row
from hashbench.cli.predict import predict
from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.kernels.source import VARIANTS
from hashbench.limits import architectures, disassembly, gpus, static_model
from hashbench.limits.architectures import ALU, ARCHITECTURES, FMA, FP64, ISSUE, Placement, UnplacedError, architecture
from hashbench.limits.gpus import GPU, gpu_named
from hashbench.limits.machine_code import BlockCode
from hashbench.limits.static_model import FORMAT, Prediction, demand, error, limits, measured, predicted

SHA256 = ALGORITHMS["sha256"]
ROWS_OF_THE_H200 = Path(__file__).parents[2] / "results" / "nvidia-h200" / "throughput.csv"

SMALL = GPU(
    name="small",
    device_name="NVIDIA Small",
    compute_capability="9.0",
    multiprocessors=10,
    boost_mhz=1000,
    memory_gb_per_s=100.0,
    power_w=10,
    fp32_tflops=2.56,
    source="made up",
    note="",
)
CODE = BlockCode({"LOP3.LUT": 320, "IADD3.X": 64, "IMAD": 100, "IMAD.WIDE.U32": 20, "LDG.E.128": 4, "BRA": 1}, 1, 0)


def guess(gpu: GPU = SMALL, code: BlockCode = CODE, variant: str = "plain") -> Prediction:
    return predicted(gpu, SHA256, variant, code, "a compiler", "0123456789")


@pytest.mark.parametrize("gpu", gpus.gpus().values(), ids=lambda gpu: gpu.name)
def test_a_gpu_agrees_with_its_published_peak(gpu: GPU) -> None:
    lanes = architecture(gpu.compute_capability).fp32_lanes
    peak = 1e-6 * gpu.multiprocessors * lanes * 2 * gpu.boost_mhz
    assert peak == pytest.approx(gpu.fp32_tflops, rel=0.015)


@pytest.mark.parametrize("gpu", gpus.gpus().values(), ids=lambda gpu: gpu.name)
def test_a_gpu_names_its_sources(gpu: GPU) -> None:
    assert "NVIDIA" in gpu.source
    assert min(gpu.multiprocessors, gpu.boost_mhz, gpu.memory_gb_per_s, gpu.power_w) > 0
    if "B200" in gpu.name:
        assert "not published by NVIDIA" in gpu.note


def test_gpus_are_found_by_name() -> None:
    table = gpus.gpus()
    assert {"T4", "A100 SXM 80GB", "L4", "L40S", "RTX 4090", "H100 SXM", "H200", "B200", "RTX 5090"} <= set(table)
    assert len({gpu.device_name for gpu in table.values()}) == len(table)
    assert gpu_named("rtx 4090") is table["RTX 4090"]
    assert gpu_named("H200").architecture == 90
    assert gpu_named("RTX 5090").architecture == 120
    with pytest.raises(ValueError, match="unknown GPU 'H300': accepted are T4, A100"):
        gpu_named("H300")


@pytest.mark.parametrize(
    ("capability", "mnemonic", "name", "first"),
    [
        ("9.0", "LOP3.LUT", "LOP3", Placement({ALU: 1})),
        ("9.0", "SHF.L.W.U32.HI", "SHF", Placement({ALU: 1})),
        ("9.0", "IADD3.X", "IADD3", Placement({ALU: 1})),
        ("9.0", "VIADD", "VIADD", Placement({FMA: 1})),
        ("9.0", "IMAD.MOV.U32", "IMAD", Placement({FMA: 1})),
        ("8.0", "DFMA.RZ", "DFMA", Placement({FP64: 1})),
        ("7.5", "IMAD.WIDE.U32", "IMAD.WIDE", Placement({FMA: 2})),
        ("8.6", "IMAD.HI.U32", "IMAD.HI", Placement({FMA: 2})),
        ("9.0", "IMAD.WIDE.U32", "IMAD.WIDE", Placement({FMA: 2, ALU: 1})),
        ("9.0", "IMAD.HI.U32", "IMAD.HI", Placement({FMA: 2, ALU: 1})),
        ("8.9", "LDG.E.128", "LDG", Placement({})),
        ("10.0", "UIADD3", "UIADD3", Placement({})),
        ("10.0", "IADD3", "IADD3", Placement({ALU: 1})),
        ("12.0", "IADD3", "IADD3", Placement({ALU: 1})),
        ("12.0", "IADD", "IADD", Placement({FMA: 1})),
        ("12.0", "IADD.64", "IADD.64", Placement({FMA: 2})),
    ],
)
def test_instructions_have_their_pipe(capability: str, mnemonic: str, name: str, first: Placement) -> None:
    found, placements = architecture(capability).place(mnemonic)
    assert (found, placements[0]) == (name, first)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UnplacedError, match=r"no pipe is known for FROB.X on compute capability 9.0"):
        architecture("9.0").place("FROB.X")
    with pytest.raises(ValueError, match=r"compute capability 6.0 are unknown: accepted are 7.5, 8.0"):
        architecture("6.0")
    with pytest.raises(UnplacedError, match="FROB"):
        guess(code=BlockCode({"FROB": 1}, 1, 0))


@pytest.mark.parametrize("capability", list(ARCHITECTURES))
def test_an_architecture_tells_its_sources_and_its_doubts(capability: str) -> None:
    found = architecture(capability)
    assert "NVIDIA" in found.source or "Guide" in found.source
    assert set(found.rates) == set(architectures.PIPES)
    known = [found.place(name)[1] for name in (*found.placements, "LOP3", "IADD3", "VIADD", "IMAD.WIDE", "IMAD.HI")]
    assert any(len(placements) > 1 for placements in known) == bool(found.note)
    assert all(set(p.slots) <= {ALU, FMA, FP64} for placements in known for p in placements)


def test_what_products_take_of_the_alu_is_known_where_it_was_measured() -> None:
    for capability, found in ARCHITECTURES.items():
        with_alu = [FMA in p.slots and ALU in p.slots for p in found.place("IMAD.WIDE.U32")[1]]
        assert with_alu == ([True] if capability == "9.0" else [False, True])
        assert ("IMAD.WIDE" in found.note) == (capability != "9.0")


def test_a_block_takes_slots_of_each_pipe() -> None:
    taken = demand(CODE, architecture("9.0"))
    assert taken.instructions == 509
    assert taken.slots == {ALU: 404, FMA: 140, FP64: 0, ISSUE: 509}
    assert taken.range == [taken.slots]


def test_the_limits_are_clocks_over_slots() -> None:
    # 10 multiprocessors at 1 GHz take 640 G ALU slots a second: 384 a block of 64 bytes are 106.7 GB/s.
    found = limits(SMALL, {ALU: 384, FMA: 140, FP64: 0, ISSUE: 509}, 64)
    assert set(found) == {ALU, FMA, ISSUE, "memory"}
    assert found[ALU] == pytest.approx(640 / 384 * 64)
    assert found[FMA] == pytest.approx(640 / 140 * 64)
    assert found[ISSUE] == pytest.approx(1280 / 509 * 64)
    assert found["memory"] == 100


def test_the_lowest_limit_binds() -> None:
    starved = guess()
    assert (starved.bound, starved.predicted_gb_per_s) == ("memory", 100)
    fed = guess(replace(SMALL, memory_gb_per_s=1000.0))
    assert (fed.bound, fed.predicted_gb_per_s) == ("ALU", 101.39)  # 640 G slots of the ALU, 404 a block
    assert fed.predicted_low == fed.predicted_high == fed.predicted_gb_per_s
    multiplying = BlockCode({"LOP3.LUT": 100, "IMAD.WIDE.U32": 200}, 1, 0)
    assert guess(replace(SMALL, memory_gb_per_s=1000.0), multiplying).bound == "FMA"
    doubles = BlockCode({"LOP3.LUT": 64, "DFMA.RZ": 128}, 1, 0)
    of_doubles = guess(replace(SMALL, compute_capability="8.0", memory_gb_per_s=1000.0), doubles)
    assert (of_doubles.bound, of_doubles.predicted_gb_per_s) == ("FP64", 320 / 128 * 64)
    assert (of_doubles.fp64_slots, of_doubles.fma_slots, of_doubles.fma_gb_per_s) == (128, None, None)
    issuing = BlockCode({"LOP3.LUT": 320, "IMAD": 320, "NOP": 320}, 1, 0)
    assert guess(replace(SMALL, memory_gb_per_s=1000.0), issuing).bound == "issue"


def test_what_is_not_documented_makes_a_range() -> None:
    code = BlockCode({"LOP3.LUT": 300, "IADD3": 100, "VIADD": 50}, 1, 0)
    blackwell = replace(SMALL, compute_capability="10.0", memory_gb_per_s=1e6)
    found = guess(blackwell, code)
    assert found.predicted_gb_per_s == pytest.approx(640 / 400 * 64)
    assert found.predicted_low == pytest.approx(640 / 450 * 64, rel=1e-4)
    assert found.predicted_high == pytest.approx(640 / 300 * 64, rel=1e-4)
    assert "not documented" in found.note


def test_predictions_are_written_and_read(tmp_path: Path) -> None:
    found = [guess(), guess(variant="balanced")]
    path = tmp_path / static_model.PREDICTIONS_FILE
    path.write_bytes(FORMAT.text(found))
    assert FORMAT.read(path) == found
    assert "predicted_gb_per_s" in FORMAT.columns
    assert "gb_per_s" not in FORMAT.columns  # the column of rows, for what was measured


def test_a_prediction_is_checked_by_the_row_of_its_point() -> None:
    small: dict[str, Any] = {"kernel": "cupy", "strategy": "batched", "device_name": "NVIDIA Small", "chunk_size": 4096}
    wanted = row(seconds=0.1, bytes=8 << 30, **small)
    others = [
        row(seconds=0.2, bytes=1 << 30, **small),
        row(seconds=0.2, bytes=8 << 30, **small | {"strategy": "tree"}),
        row(seconds=0.2, bytes=8 << 30, **small | {"chunk_size": 1024}),
        row(seconds=0.2, bytes=8 << 30, **small | {"device_name": "NVIDIA Large"}),
        row(seconds=0.2, bytes=8 << 30, **small | {"kernel": "opencl"}),
        row(seconds=0.2, bytes=8 << 30, **small, variant="balanced"),
        row(seconds=0.2, bytes=8 << 30, **small, algorithm="sha384"),
        row(seconds=0.2, bytes=8 << 30, **small, date="2026-01-01T00:00:00Z"),
    ]

    def seconds(*rows: Row) -> float | None:
        found = measured(guess(), SMALL, Results.of(rows).rows)
        return None if found is None else float(found.seconds_median)

    assert seconds(*others, wanted) == 0.1
    assert seconds(*others[1:-1]) is None
    assert seconds(*others, wanted, row(seconds=0.3, bytes=8 << 30, **small, experiment="architectures")) == 0.3
    assert error(guess(), wanted) == pytest.approx(100 / (8 * 2**30 / 0.1 * 1e-9) - 1)
    assert error(guess(), row(seconds=0.05, bytes=8 << 30)) < error(guess(), wanted)


@pytest.fixture(scope="module")
def toolchain() -> str:
    try:
        return disassembly.toolchain()
    except Unavailable as missing:
        pytest.skip(str(missing))


@pytest.mark.covers("static-model")
def test_the_prediction_for_the_h200_is_a_limit_near_what_it_measured(toolchain: str) -> None:
    rows = Results.of(ROWS.read(ROWS_OF_THE_H200)).rows
    of_cupy = rows[rows["kernel"] == "cupy"]
    gpu = gpu_named("H200")
    found = [
        static_model.predict(gpu, ALGORITHMS[algorithm], variant, "0123456789")
        for algorithm, variant in sorted(set(zip(of_cupy["algorithm"], of_cupy["variant"], strict=True)))
        if variant in VARIANTS
    ]
    checked = list(static_model.checks(found, gpus.gpus(), rows))
    assert {prediction.algorithm for prediction, _ in checked} == set(ALGORITHMS)
    for prediction, checking in checked:
        assert prediction.toolchain == toolchain
        assert prediction.predicted_gb_per_s == pytest.approx((1 + error(prediction, checking)) * checking.gb_per_s)
        assert 0 < error(prediction, checking) < 0.2, f"{prediction.algorithm} {prediction.variant}"


@pytest.mark.covers("static-model")
def test_the_command_writes_and_shows_predictions(toolchain: str, tmp_path: Path) -> None:
    folder = tmp_path / "nvidia-h200"
    folder.mkdir()
    (folder / "throughput.csv").write_bytes(ROWS_OF_THE_H200.read_bytes())
    (folder / "pipes.readings.csv").write_text("no rows")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "architectures.csv").write_text("no rows either")
    options = ["--results", str(tmp_path), "--algorithm", "sha256"]

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(predict, [*options, *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    output = run("--gpu", "h200", "--variant", "paired")
    assert "predicted, not measured" in output
    (found,) = FORMAT.read(tmp_path / static_model.PREDICTIONS_FILE)
    assert (found.gpu, found.algorithm, found.variant, found.bound) == ("H200", "sha256", "paired", "ALU")
    checking = measured(found, gpu_named("H200"), Results.of(ROWS.read(ROWS_OF_THE_H200)).rows)
    assert checking is not None
    assert f"{100 * error(found, checking):+.1f} %" in output

    output = run("--gpu", "H100 PCIe", "--variant", "balanced")
    assert "checked" not in output  # no row of that GPU
    assert [p.gpu for p in FORMAT.read(tmp_path / static_model.PREDICTIONS_FILE)] == ["H200", "H100 PCIe"]


def test_the_command_refuses_an_unknown_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown GPU 'H300': accepted are"):
        CliRunner().invoke(predict, ["--results", str(tmp_path), "--gpu", "H300"], catch_exceptions=False)
    assert not (tmp_path / static_model.PREDICTIONS_FILE).exists()
