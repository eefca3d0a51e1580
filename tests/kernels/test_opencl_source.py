"""The OpenCL C source without a GPU: compiled for AMD's and Intel's, its instructions and registers held."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import amd_programs
import intel_programs
import pytest

from hashbench.kernels import ALGORITHMS, Device, Unavailable, opencl
from hashbench.kernels.source import opencl_options
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
    intel_programs.held(code, algorithm, target)


def test_intels_gpus_alone_have_options() -> None:
    def options(vendor: str, kind: Literal["gpu", "cpu"], algorithm: str, *sizes: int) -> list[str]:
        return opencl_options(Device("opencl", vendor=vendor, kind=kind), ALGORITHMS[algorithm], sizes)

    intel = "Intel(R) Corporation"
    assert options(intel, "gpu", "sha256", 32, 16) == ["-DSUB_GROUP_SIZE=16"]
    assert options(intel, "gpu", "sha384", 32, 16) == ["-DSUB_GROUP_SIZE=16", "-cl-intel-256-GRF-per-thread"]
    assert options(intel, "gpu", "sha384", 8, 16, 32) == ["-DSUB_GROUP_SIZE=8"]
    assert options(intel, "gpu", "sha256") == []
    assert options(intel, "cpu", "sha256", 4, 8, 16) == []
    assert options("NVIDIA Corporation", "gpu", "sha256", 32) == []


def test_intels_driver_tells_the_sizes_of_sub_groups() -> None:
    try:
        devices = [device for _, device in opencl._enumerate(opencl._load().module) if "Intel" in device.platform.name]
    except ImportError as error:
        pytest.skip(f"pyopencl cannot be imported: {error}")
    if not devices:
        pytest.skip("there is no OpenCL device of Intel's drivers here")
    for device in devices:
        sizes = opencl.sub_group_sizes(device)
        assert sizes
        assert all(size.bit_count() == 1 and size <= 64 for size in sizes)
