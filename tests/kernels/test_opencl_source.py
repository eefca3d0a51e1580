"""The OpenCL C source without a GPU: compiled for AMD's and Intel's, its instructions and registers held."""

from __future__ import annotations

from collections.abc import Iterable

import amd_programs
import pytest

from hashbench.kernels import ALGORITHMS, Device, Unavailable
from hashbench.kernels.source import sub_group_options
from hashbench.limits import amd_assembly, intel_assembly
from hashbench.limits.machine_code import FUNCTION

VALU = {
    "gfx90a": {"sha256": 1579, "sha384": 4988},
    "gfx942": {"sha256": 1578, "sha384": 4162},
    "gfx950": {"sha256": 1401, "sha384": 3426},
    "gfx1100": {"sha256": 1466, "sha384": 4353},
    "gfx1201": {"sha256": 1466, "sha384": 4353},
}
"""Vector instructions of a block (kernels/NOTES.md)."""

OTHER_COMPILERS = 1.01
"""What another compiler than the one of that table may need."""

WAVES = 4
"""Waves that a SIMD must have room for."""

SHORT = [("gfx942", "sha256"), ("gfx1100", "sha384")]


def cases(targets: Iterable[str]) -> list[object]:
    """Those architectures with both algorithms, most of them thorough."""
    pairs = [(target, algorithm) for target in targets for algorithm in ALGORITHMS]
    return [pytest.param(*pair, marks=() if pair in SHORT else pytest.mark.thorough) for pair in pairs]


def held(assembly: str, target: str, algorithm: str) -> None:
    """Checks the instructions of a block, and the registers of each function."""
    code = amd_assembly.count_block(amd_assembly.parse(assembly, FUNCTION), ALGORITHMS[algorithm])
    units = amd_assembly.by_unit(code)
    assert units["VALU"] <= OTHER_COMPILERS * VALU[target][algorithm]
    assert units["scratch"] == 0
    for function in (FUNCTION, "hash_level", "reduce_tiles"):
        assert amd_assembly.resources(assembly, function).waves >= WAVES


@pytest.mark.covers("amd-source")
@pytest.mark.parametrize(("target", "algorithm"), cases(VALU))
def test_a_block_takes_few_instructions_on_amd(target: str, algorithm: str) -> None:
    try:
        assembly = amd_programs.assembly(amd_programs.source(algorithm), target)
    except Unavailable as error:
        pytest.skip(str(error))
    held(assembly, target, algorithm)


@pytest.mark.thorough
@pytest.mark.covers("hip-source")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_block_takes_as_few_as_hip(algorithm: str) -> None:
    try:
        assembly = amd_programs.hip_assembly(algorithm, "gfx942")
    except Unavailable as error:
        pytest.skip(str(error))
    held(assembly, "gfx942", algorithm)


@pytest.mark.thorough
@pytest.mark.covers("intel-source")
@pytest.mark.parametrize(("target", "algorithm"), cases(intel_assembly.LANES))
def test_the_main_loop_has_room_in_the_registers_on_intel(target: str, algorithm: str) -> None:
    try:
        code = intel_assembly.block_code(ALGORITHMS[algorithm], "plain", target)
    except Unavailable as error:
        pytest.skip(str(error))
    assert intel_assembly.by_unit(code)["scratch"] == 0


def test_intels_gpus_alone_have_a_size_of_sub_groups() -> None:
    def device(vendor: str, kind: str) -> Device:
        return Device("opencl", vendor=f"{vendor} Corporation", kind=kind)  # type: ignore[arg-type]

    assert sub_group_options(device("Intel(R)", "gpu"), [32, 16]) == ["-DSUB_GROUP_SIZE=16"]
    assert sub_group_options(device("Intel(R)", "gpu"), []) == []
    assert sub_group_options(device("Intel(R)", "cpu"), [4, 8, 16]) == []
    assert sub_group_options(device("NVIDIA", "gpu"), [32]) == []
