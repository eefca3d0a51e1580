"""The matrix-units experiment: variants are right and compile to what they say, and the verdict follows the rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boundaries import painted
from claim_results import at, reading
from cuda_on_host import CudaOnHost, compiled, host_source
from drawings import check_legible, said
from matplotlib.figure import Figure

from hashbench.bench.experiment import Point, Skip, plan
from hashbench.bench.frames import Results
from hashbench.bench.readings import Reading
from hashbench.experiments import matrix_units, style
from hashbench.experiments.matrix_units import ALU, EXPERIMENT, FORMS, PIPES, Form, text, with_matrix_units
from hashbench.kernels import ALGORITHMS, Device, Unavailable
from hashbench.kernels.source import VARIANTS, device_source
from hashbench.limits import disassembly
from hashbench.limits.machine_code import BlockCode
from hashbench.limits.microbenchmarks import source
from hashbench.limits.roofline import RATE
from hashbench.report.findings import Verdict

GPU = Device("cupy", "0", "NVIDIA H100", "NVIDIA", "gpu", "cupy 14", "CUDA 13.0")
DEFAULT = next(iter(VARIANTS))
SUPPORT = Path(__file__).parent.parent / "support"


def each_form(*short: str) -> list[Any]:
    """The names of all variants; those in `short` are tested in the short form."""
    return [name if name in short else pytest.param(name, marks=pytest.mark.thorough) for name in FORMS]


# The device code -----------------------------------------------------------------------------------------------------


def on_host(form: Form) -> CudaOnHost:
    """The variant with matrix instructions that the host executes."""
    instructions = text().partition("#ifdef FORM")[0]
    program = with_matrix_units(host_source(ALGORITHMS["sha256"], "plain"), form)
    assert instructions in program
    program = program.replace(instructions, (SUPPORT / "matrix_units_on_host.hpp").read_text())
    program = program.replace("CUDA_ON_HOST_ALONE(hash_chunks)", "CUDA_ON_HOST_TOGETHER(hash_chunks)")
    library = compiled(program, ["-O1", "-frounding-math", "-Wno-unknown-pragmas"])
    return CudaOnHost(CudaOnHost.devices()[0], "sha256", "plain", library)


@pytest.mark.covers("matrix-units-on-host")
@pytest.mark.parametrize("name", each_form("tensor-dmma"))
def test_a_variant_gives_the_digests_of_hashlib(name: str) -> None:
    if reason := CudaOnHost.devices()[0].unavailable:
        pytest.skip(reason)
    kernel = on_host(FORMS[name])
    data = painted(128 * 128)
    found = kernel.batched([kernel.put(data)], 128)
    expected = CudaOnHost(kernel.device, "sha256", "plain").batched([kernel.put(data)], 128)
    assert np.array_equal(found, expected)
    assert len(set(map(bytes, found))) == 128


def counted(program: str) -> BlockCode:
    try:
        listing = disassembly.disassemble(disassembly.compile_program(program, 90).cubin)
    except Unavailable as error:
        pytest.skip(str(error))
    return disassembly.count_block(disassembly.parse(listing, "hash_chunks"), ALGORITHMS["sha256"])


@pytest.mark.covers("nvrtc")
@pytest.mark.parametrize("name", each_form("tensor-dmma"))
def test_a_variant_compiles_to_the_matrix_instructions_that_it_names(name: str) -> None:
    form = FORMS[name]
    plain = device_source(ALGORITHMS["sha256"], DEFAULT)
    before, after = counted(plain), counted(with_matrix_units(plain, form))
    if form.form == "DMMA_WORDS":
        assert (after.count("DMMA"), after.count("BMMA")) == (form.count, 0)
        # Words up to W_13 have one shift each, those from W_49 on the other, the rest both: 48 of each in all.
        assert before.count("SHF") - after.count("SHF") <= 2 * form.count
        assert before.count("SHF") - after.count("SHF") == 96 or form.count < 61
    else:
        assert (after.count("DMMA"), after.count("BMMA")) == (0, 16 * form.count)
        assert before.count("SHF") - after.count("SHF") == 6 * form.count
    assert after.count("LDL") == after.count("STL") == 0


def test_the_text_of_another_program_is_refused() -> None:
    with pytest.raises(ValueError, match="must have one line"):
        with_matrix_units("", FORMS["tensor-dmma"])


@pytest.mark.covers("nvrtc")
def test_each_rate_is_of_the_instructions_that_it_names() -> None:
    chosen = [pipe for pipe in PIPES if pipe.name in ("DMMA+3 ALU", "BMMA+7 ALU", "IMMA", "DMMA 16x8x4")]
    try:
        listing = disassembly.disassemble(disassembly.compile_program(source(chosen, text()), 90).cubin)
    except Unavailable as error:
        pytest.skip(str(error))
    for pipe in chosen:
        instructions = disassembly.parse(listing, pipe.function).instructions
        mnemonics = [instruction.opcode for instruction in instructions]
        matrix, other = re.split(r"[+ ]", pipe.name)[0], pipe.operations - 1
        total = 384 // pipe.operations
        assert mnemonics.count(matrix) == total
        # Beside the loop, a few more: to start and to end.
        logic = mnemonics.count("LOP3") + mnemonics.count("SHF")
        assert 0 <= logic - other * total <= 40, pipe.name


# The experiment ------------------------------------------------------------------------------------------------------


def test_only_cupys_gpus_are_measured_without_matrix_units() -> None:
    (point,) = EXPERIMENT.points(GPU, quick=True)
    assert isinstance(point, Point)
    assert (point.algorithm, point.strategy, point.variant) == ("sha256", "batched", None)
    opencl = Device("opencl", "0:0", "NVIDIA H100", "NVIDIA", "gpu")
    assert plan(EXPERIMENT, [opencl], ["sha256"], quick=True) == []


def test_readings_say_why_there_are_none() -> None:
    broken = Device("cupy", unavailable="no driver")
    for devices, reason in (([], "was not asked for"), ([broken], "no driver")):
        (skip,) = EXPERIMENT.readings(devices, quick=True)
        assert isinstance(skip, Skip)
        assert reason in skip.reason
    amd = Device("cupy", "0", "MI300X", "AMD", "gpu")
    (skip,) = EXPERIMENT.readings([amd], quick=True)
    assert isinstance(skip, Skip)
    assert "MI300X" in skip.what


GIB_8 = 8 << 30


def of_gpu(name: str = "NVIDIA H100", without: float = 950, **speeds: float) -> tuple[list[Any], list[Reading]]:
    """A row without matrix units, and readings of variants with them, by name with underscores."""
    common = {"experiment": "matrix-units", "device": "0", "device_name": name, "device_kind": "gpu"}
    kernel = {"kernel": "cupy", "algorithm": "sha256"}
    rows = [at(without, GIB_8, variant=DEFAULT, strategy="batched", **common | {"kernel": "cupy"})]
    readings = [
        reading(
            speed,
            subject=variant.replace("_", "-"),
            quantity="throughput",
            unit="GB/s",
            conditions="batched, 8GiB in chunks of 4KiB",
            **common | kernel,
        )
        for variant, speed in speeds.items()
    ]
    return rows, readings


def rates() -> list[Reading]:
    values = {"": 64.0, "DMMA": 60.0, "BMMA": 62.0, "IMMA": 61.0}
    return [
        reading(
            values[pipe.name.partition("+")[0].partition(" ")[0].replace(ALU, "")],
            experiment="matrix-units",
            subject=pipe.name,
            quantity=RATE,
            unit="1/clk/SM",
            kernel="",
            algorithm="",
            conditions="",
            device="0",
            device_name="NVIDIA H100",
            device_kind="gpu",
        )
        for pipe in PIPES
    ]


@pytest.mark.parametrize(
    ("best", "verdict"),
    [(900, Verdict.NOT_SUPPORTED), (969, Verdict.NOT_SUPPORTED), (969.1, Verdict.SUPPORTED)],
)
def test_the_claim_needs_more_than_two_per_cent(best: float, verdict: Verdict) -> None:
    finding = EXPERIMENT.finding(Results.of(*of_gpu(tensor_dmma=best, tensor_bmma_1=700), "m"))
    assert finding.verdict is verdict
    assert "tensor-dmma, the fastest of them, on NVIDIA H100" in finding.checks[0].answer
    assert finding.table is not None
    assert len(finding.table.lines) == 3


def test_the_worst_gpu_decides() -> None:
    rows, readings = of_gpu(tensor_dmma=1200)
    more_rows, more_readings = of_gpu("NVIDIA A100", without=500, tensor_dmma=400)
    finding = EXPERIMENT.finding(Results.of(rows + more_rows, readings + more_readings, "m"))
    assert finding.verdict is Verdict.NOT_SUPPORTED
    assert "-20.0 %" in finding.checks[0].answer


def test_a_faster_variant_without_counts_wherever_it_was_measured() -> None:
    rows, readings = of_gpu(tensor_dmma=1000)
    (faster, _) = of_gpu(without=1000)
    assert EXPERIMENT.finding(Results.of(rows, readings, "m")).verdict is Verdict.SUPPORTED
    assert EXPERIMENT.finding(Results.of(rows + faster, readings, "m")).verdict is Verdict.NOT_SUPPORTED


def test_nothing_is_judged_without_both() -> None:
    rows, readings = of_gpu(tensor_dmma=1000)
    for results in (Results.of(rows, [], "m"), Results.of([], readings, "m"), Results.of([], rates(), "m")):
        assert EXPERIMENT.finding(results).verdict is Verdict.NOT_MEASURED


def test_the_figure_shows_both_and_its_title_what_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Figure] = []

    def keep(figure: Figure, path: Path, table: Any) -> list[Path]:
        drawn.append(figure)
        assert set(FORMS) <= set(table["variant"].dropna())
        assert {pipe.name for pipe in PIPES} == set(table["instructions"].dropna())
        return []

    monkeypatch.setattr(style, "save", keep)
    speeds = {name.replace("-", "_"): 900.0 - 20 * place for place, name in enumerate(FORMS)}
    rows, readings = of_gpu("NVIDIA H100", 950.0, **speeds)
    matrix_units.EXPERIMENT.figure(Results.of(rows, readings + rates(), "m"), tmp_path / "figure")
    (figure,) = drawn
    assert "Matrix units do not help: -5.3 % at best (tensor-dmma)" in said(figure)
    check_legible(figure)
    assert matrix_units.EXPERIMENT.figure(Results.of([], [], "m"), tmp_path / "figure") == []
