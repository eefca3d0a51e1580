"""AMD's machine code, executed by an emulator: every path of the device code, as a compiler translated it.

HASHBENCH_TINYGRAD must name a clone of tinygrad: see `amd_emulator`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import amd_emulator
import amd_programs
import pytest
from amd_emulator import EMULATED, AmdEmulated, CodeObject
from boundaries import painted, split_mix_64
from reference import check

from hashbench.kernels import ALGORITHMS, STRATEGIES, Unavailable, layout
from hashbench.limits import amd_assembly

SEGMENTS = [
    *(slice(start, start + length) for start, length in ((0, 384), (16, 4 * 192 + 55), (64, 3 * 192 + 120))),
    *(slice(start, start + 192 + 7 * start) for start in (1, 2, 3, 5, 6, 7)),
    *(slice(start, start + length) for start, length in ((8, 0), (9, 1), (11, 111))),
]
"""For chunks of 192 bytes: aligned ones, read 16 bytes at a time, and others, tails of both, an empty one."""


def emulated(algorithm: str, target: str, source: str) -> AmdEmulated:
    """A kernel that executes that source."""
    (device,) = (device for device in AmdEmulated.devices() if device.id == target)
    if device.unavailable:
        pytest.skip(device.unavailable)
    try:
        return AmdEmulated(device, algorithm, CodeObject(amd_programs.code_object(source, target), target))
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.thorough
@pytest.mark.covers("amd-emulated")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("target", EMULATED)
def test_machine_code(algorithm: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = emulated(algorithm, target, amd_programs.source(algorithm))
    content = painted(2000)
    buffer, messages = kernel.put(content), [content[part].tobytes() for part in SEGMENTS]
    for strategy in STRATEGIES:
        check(kernel, strategy, [buffer[part] for part in SEGMENTS], messages, 192)

    leaves = painted(301 * 64)  # two tiles of a tree
    check(kernel, "tree", [kernel.put(leaves)], [leaves.tobytes()], 64)
    monkeypatch.setattr(layout, "MANY_TILES", 1)  # a launch per level
    check(kernel, "tree", [kernel.put(leaves)], [leaves.tobytes()], 64)

    assert kernel.get(kernel.random(1001, 3)).tobytes() == split_mix_64(126, 3)[:1001].tobytes()


@pytest.mark.thorough
@pytest.mark.covers("amd-emulated")
def test_a_wrong_instruction_is_noticed() -> None:
    right = amd_programs.source("sha256")
    wrong = right.replace("__builtin_amdgcn_perm(high, low,", "__builtin_amdgcn_perm(low, high,")
    assert wrong != right
    kernel, message = emulated("sha256", "gfx1100", wrong), painted(64)
    with pytest.raises(AssertionError):
        check(kernel, "batched", [kernel.put(message)], [message.tobytes()], 64)


@pytest.fixture
def unknown_emulator() -> Iterator[None]:
    """It is looked for again, in the test and after it."""
    amd_emulator.emulator.cache_clear()
    yield
    amd_emulator.emulator.cache_clear()


@pytest.mark.usefixtures("unknown_emulator")
def test_a_missing_emulator_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(amd_emulator.VARIABLE, raising=False)
    assert all("HASHBENCH_TINYGRAD is not set" in str(device.unavailable) for device in AmdEmulated.devices())
    monkeypatch.setenv(amd_emulator.VARIABLE, str(tmp_path))
    reason = f"HASHBENCH_TINYGRAD is {tmp_path}, where there is no clone of"
    assert all(reason in str(device.unavailable) for device in AmdEmulated.devices())


@pytest.mark.usefixtures("unknown_emulator")
def test_a_missing_compiler_of_the_emulator_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "test" / "mockgpu" / "amd" / "emu.py"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setenv(amd_emulator.VARIABLE, str(tmp_path))
    monkeypatch.setattr(amd_assembly, "compilers", tuple)
    assert all("the emulator needs a clang: install" in str(device.unavailable) for device in AmdEmulated.devices())
