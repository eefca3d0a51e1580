"""Predictions: the tables behind them, their arithmetic by hand, their check against rows, and the command."""

from __future__ import annotations

import re
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
from hashbench.limits import architectures, disassembly, gpus, hashcat, static_model
from hashbench.limits.architectures import (
    ALU,
    AMD,
    ARCHITECTURES,
    FMA,
    FP64,
    INTEL,
    ISSUE,
    NVIDIA,
    Multiprocessor,
    Placement,
    UnplacedError,
    architecture,
)
from hashbench.limits.gpus import GPU, gpu_named
from hashbench.limits.machine_code import BlockCode, StructureError
from hashbench.limits.static_model import FORMAT, Prediction, demand, error, limits, measured, predicted

SHA256 = ALGORITHMS["sha256"]
ROWS_OF_THE_H200 = Path(__file__).parents[2] / "results" / "nvidia-h200" / "throughput.csv"

SMALL = GPU(
    name="small",
    device_name="NVIDIA Small",
    target="sm_90",
    units=10,
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
    lanes = architecture(gpu.target).fp32_lanes
    peak = 1e-6 * gpu.units * lanes * 2 * gpu.boost_mhz
    assert peak == pytest.approx(gpu.fp32_tflops, rel=0.015)


@pytest.mark.parametrize("gpu", gpus.gpus().values(), ids=lambda gpu: gpu.name)
def test_a_gpu_names_its_sources(gpu: GPU) -> None:
    if architecture(gpu.target).vendor == NVIDIA:
        assert "NVIDIA" in gpu.source
    else:  # every figure says where it was read
        for figure in ("clock", "MHz", "GHz"), ("bandwidth", "GB/s", "TB/s"), ("power", " W", "kW"):
            assert any(word in gpu.source for word in figure), figure
        assert re.search(r"\.(com|ai|club|cz|it|co\.uk)\b", gpu.source)
    assert min(gpu.units, gpu.boost_mhz, gpu.memory_gb_per_s, gpu.power_w) > 0
    if "B200" in gpu.name:
        assert "not published by NVIDIA" in gpu.note


def test_gpus_are_found_by_name() -> None:
    table = gpus.gpus()
    assert {"T4", "A100 SXM 80GB", "L4", "L40S", "RTX 4090", "H100 SXM", "H200", "B200", "RTX 5090"} <= set(table)
    assert len({gpu.device_name for gpu in table.values()}) == len(table)
    assert gpu_named("rtx 4090") is table["RTX 4090"]
    assert gpu_named("H200").target == "sm_90"
    assert gpu_named("mi300x").target == "gfx942"
    with pytest.raises(ValueError, match="unknown GPU 'H300': accepted are T4, A100"):
        gpu_named("H300")


@pytest.mark.parametrize(
    ("target", "mnemonic", "name", "first"),
    [
        ("sm_90", "LOP3.LUT", "LOP3", Placement({ALU: 1})),
        ("sm_90", "SHF.L.W.U32.HI", "SHF", Placement({ALU: 1})),
        ("sm_90", "IADD3.X", "IADD3", Placement({ALU: 1})),
        ("sm_90", "VIADD", "VIADD", Placement({FMA: 1})),
        ("sm_90", "IMAD.MOV.U32", "IMAD", Placement({FMA: 1})),
        ("sm_80", "DFMA.RZ", "DFMA", Placement({FP64: 1})),
        ("sm_75", "IMAD.WIDE.U32", "IMAD.WIDE", Placement({FMA: 2})),
        ("sm_86", "IMAD.HI.U32", "IMAD.HI", Placement({FMA: 2})),
        ("sm_90", "IMAD.WIDE.U32", "IMAD.WIDE", Placement({FMA: 2, ALU: 1})),
        ("sm_90", "IMAD.HI.U32", "IMAD.HI", Placement({FMA: 2, ALU: 1})),
        ("sm_89", "LDG.E.128", "LDG", Placement({})),
        ("sm_100", "UIADD3", "UIADD3", Placement({})),
        ("sm_100", "IADD3", "IADD3", Placement({ALU: 1})),
        ("sm_120", "IADD3", "IADD3", Placement({ALU: 1})),
        ("sm_120", "IADD", "IADD", Placement({FMA: 1})),
        ("sm_120", "IADD.64", "IADD.64", Placement({FMA: 2})),
        ("gfx942", "v_alignbit_b32", "v_alignbit_b32", Placement({ALU: 1})),
        ("gfx942", "v_lshrrev_b64", "v_lshrrev_b64", Placement({ALU: 1})),
        ("gfx1100", "v_lshrrev_b64", "v_lshrrev_b64", Placement({ALU: 2})),
        ("gfx1201", "v_dual_cndmask_b32", "v_dual_cndmask_b32", Placement({ALU: 1})),
        ("gfx90a", "s_add_u32", "s_add_u32", Placement({})),
        ("gfx90a", "global_load_dwordx4", "global_load_dwordx4", Placement({})),
        ("pvc", "bfn.0x96", "bfn.0x96", Placement({ALU: 1})),
        ("dg2", "send.ugm", "send.ugm", Placement({})),
    ],
)
def test_instructions_have_their_pipe(target: str, mnemonic: str, name: str, first: Placement) -> None:
    found, placements = architecture(target).place(mnemonic)
    assert (found, placements[0]) == (name, first)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UnplacedError, match=r"no pipe is known for FROB.X on sm_90"):
        architecture("sm_90").place("FROB.X")
    with pytest.raises(StructureError, match="no unit is known for frob_b32"):
        architecture("gfx942").place("frob_b32")
    with pytest.raises(ValueError, match=r"unknown architecture 'sm_60': accepted are sm_75, sm_80"):
        architecture("sm_60")
    with pytest.raises(UnplacedError, match="FROB"):
        guess(code=BlockCode({"FROB": 1}, 1, 0))


def multiprocessors() -> dict[str, Multiprocessor]:
    return {target: found for target, found in ARCHITECTURES.items() if isinstance(found, Multiprocessor)}


@pytest.mark.parametrize("target", list(multiprocessors()))
def test_a_multiprocessor_tells_its_sources_and_its_doubts(target: str) -> None:
    found = multiprocessors()[target]
    assert "NVIDIA" in found.source or "Guide" in found.source
    assert set(found.rates) == set(architectures.PIPES)
    known = [found.place(name)[1] for name in (*found.placements, "LOP3", "IADD3", "VIADD", "IMAD.WIDE", "IMAD.HI")]
    assert any(len(placements) > 1 for placements in known) == bool(found.note)
    assert all(set(p.slots) <= {ALU, FMA, FP64} for placements in known for p in placements)


def test_what_products_take_of_the_alu_is_known_where_it_was_measured() -> None:
    for target, found in multiprocessors().items():
        with_alu = [FMA in p.slots and ALU in p.slots for p in found.place("IMAD.WIDE.U32")[1]]
        assert with_alu == ([True] if target == "sm_90" else [False, True])
        assert ("IMAD.WIDE" in found.note) == (target != "sm_90")


def test_other_vendors_tell_their_sources_and_their_doubts() -> None:
    others = {target: found for target, found in ARCHITECTURES.items() if target not in multiprocessors()}
    assert {found.vendor for found in others.values()} == {AMD, INTEL}
    for target, found in others.items():
        assert found.source
        assert found.target == target
        # A doubt makes a range, or there is no rate at all.
        doubts = not found.rates or len(found.place("v_lshlrev_b64")[1]) > 1
        assert bool(found.note) == doubts


def test_a_block_takes_slots_of_each_pipe() -> None:
    taken = demand(CODE, architecture("sm_90"))
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
    of_doubles = guess(replace(SMALL, target="sm_80", memory_gb_per_s=1000.0), doubles)
    assert (of_doubles.bound, of_doubles.predicted_gb_per_s) == ("FP64", 320 / 128 * 64)
    assert (of_doubles.fp64_slots, of_doubles.fma_slots, of_doubles.fma_gb_per_s) == (128, None, None)
    issuing = BlockCode({"LOP3.LUT": 320, "IMAD": 320, "NOP": 320}, 1, 0)
    assert guess(replace(SMALL, memory_gb_per_s=1000.0), issuing).bound == "issue"


def test_what_is_not_documented_makes_a_range() -> None:
    code = BlockCode({"LOP3.LUT": 300, "IADD3": 100, "VIADD": 50}, 1, 0)
    blackwell = replace(SMALL, target="sm_100", memory_gb_per_s=1e6)
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


def test_a_compute_unit_issues_64_vector_instructions_a_clock() -> None:
    fast = replace(SMALL, target="gfx942", memory_gb_per_s=1e6)
    found = guess(fast, BlockCode({"v_xor_b32": 800, "v_lshl_add_u64": 100, "s_add_u32": 900, "s_waitcnt": 9}, 1, 0))
    assert (found.bound, found.alu_slots, found.instructions) == ("ALU", 900, 1809)
    assert found.predicted_gb_per_s == pytest.approx(640 / 900 * 64, rel=1e-4)
    assert found.predicted_low == pytest.approx(640 / 1000 * 64, rel=1e-4)
    assert (found.issue_gb_per_s, found.arithmetic_gb_per_s) == (None, found.alu_gb_per_s)


def test_without_rates_a_prediction_is_a_count_of_instructions() -> None:
    found = guess(replace(SMALL, target="dg2"), BlockCode({"rol": 576, "send.scratch": 2, "jmpi": 1}, 1, 0))
    assert (found.bound, found.instructions, found.alu_slots, found.spread) == ("unknown", 579, 576, None)
    assert (found.predicted_gb_per_s, found.arithmetic_gb_per_s) == (None, None)
    assert measured(found, SMALL, Results.of([row(1.0)]).rows) is None
    FORMAT.check(found)


def test_the_rates_of_hashcat_are_quoted_for_gpus_of_the_table() -> None:
    quoted = hashcat.published()
    assert {gpu for gpu, _ in quoted} <= set(gpus.gpus())
    assert quoted["RTX 4090", "sha256"].gb_per_s == pytest.approx(21975.5e6 * 64e-9)
    assert quoted["RTX 4090", "sha384"].gb_per_s == pytest.approx(7483.4e6 * 128e-9)
    assert all(re.match(r"hashcat [67][\d.-]+, mode 1[47]00: (gist\.)?github\.com/", q.source) for q in quoted.values())


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


def test_the_command_names_the_variants_of_a_gpu_that_has_none_of_those_asked_for(tmp_path: Path) -> None:
    options = ["--results", str(tmp_path), "--gpu", "MI300X", "--variant", "early"]
    with pytest.raises(ValueError, match="nothing was predicted"):
        CliRunner().invoke(predict, options, catch_exceptions=False)
    output = CliRunner().invoke(predict, options).output
    assert "any of those variants: the different ones there are plain, unrolled, bytewise (MI300X)" in output


@pytest.mark.parametrize("gpu", ["H200", "MI300X", "Max 1550"])
def test_the_command_predicts_the_variant_that_cannot_be_counted_only_where_it_is_named(
    gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def missing(_gpu: Any, _algorithm: Any, variant: str, _commit: str) -> Any:
        tried.append(variant)
        raise Unavailable("no compiler here")

    monkeypatch.setattr(static_model, "predict", missing)
    options = ["--results", str(tmp_path), "--gpu", gpu, "--algorithm", "sha256"]
    CliRunner().invoke(predict, options)
    assert tried == [variant for variant in static_model.toolchain(gpu_named(gpu)).variants if variant != "bytewise"]
    tried.clear()
    CliRunner().invoke(predict, [*options, "--variant", "bytewise"])
    assert tried == ["bytewise"]


def test_the_command_refuses_an_unknown_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown GPU 'H300': accepted are"):
        CliRunner().invoke(predict, ["--results", str(tmp_path), "--gpu", "H300"], catch_exceptions=False)
    assert not (tmp_path / static_model.PREDICTIONS_FILE).exists()
