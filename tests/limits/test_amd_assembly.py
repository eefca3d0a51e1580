"""AMD's assembly: parsed, its instructions counted by unit, and what a compiler tells of its registers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.limits import amd_assembly
from hashbench.limits.amd_assembly import (
    OPERATIONS,
    Compiler,
    Instruction,
    Resources,
    by_unit,
    compile_program,
    compilers,
    count_block,
    parse,
    resources,
    unit,
)
from hashbench.limits.machine_code import FUNCTION, BlockCode, CompileError, StructureError, loops

SHA256, SHA384 = ALGORITHMS["sha256"], ALGORITHMS["sha384"]

LOAD = ["global_load_dwordx4 v[0:3], v[4:5], off offset:16"]
SELECT = ["v_bfi_b32 v1, v2, v3, v4"]
ROTATE = ["v_alignbit_b32 v1, v2, v2, 7"]
HEAD, BACK = [".LBB0_1:                                ; =>This Inner Loop Header: Depth=1"], ["s_cbranch_scc1 .LBB0_1"]
STRAIGHT = [*HEAD, *4 * LOAD, "s_waitcnt vmcnt(0)", *128 * SELECT, *576 * ROTATE, *BACK, "s_endpgm"]

NOTES = """
.Lfunc_end0:
\t.size\thash_chunks, .Lfunc_end0-hash_chunks
; Kernel info:
; codeLenInByte = 42980
; NumVgprs: 86
; NumAgprs: 4
; TotalNumVgprs: 92
; ScratchSize: 16
; Occupancy: 5
"""


def listing(lines: Iterable[str]) -> str:
    """The assembly of `other` and of `hash_chunks`: each line an instruction, or a label if it has a colon first."""
    text = ["other:", "\ts_endpgm", ".Lfunc_end1:", "; NumVgprs: 7", "hash_chunks:         ; @hash_chunks", "; %bb.0:"]
    for line in lines:
        text.append(line if line.startswith(".L") else f"\t{line}  ; encoding")
    return "\n".join(text) + NOTES


def counted(lines: Iterable[str], algorithm: str = "sha256") -> BlockCode:
    return count_block(parse(listing(lines), FUNCTION), ALGORITHMS[algorithm])


def test_one_function_is_read_from_a_program() -> None:
    function = parse(listing(["s_mov_b32 s3, 0", *HEAD, "v_xor_b32_e32 v1, v2, v3", *BACK, "s_endpgm"]), FUNCTION)
    assert [i.mnemonic for i in function.instructions] == ["s_mov_b32", "v_xor_b32", "s_cbranch_scc1", "s_endpgm"]
    assert function.instructions[1].operands == "v1, v2, v3"
    assert function.instructions[2].target == ".LBB0_1"
    assert [(loop.head, loop.end) for loop in loops(function)] == [(1, 2)]
    with pytest.raises(StructureError, match="no function 'absent'"):
        parse(listing([]), "absent")


@pytest.mark.parametrize(
    ("mnemonic", "expected"),
    [
        ("v_alignbit_b32", "VALU"),
        ("v_dual_mov_b32", "VALU"),
        ("s_add_u32", "SALU"),
        ("s_load_dwordx16", "SMEM"),
        ("global_load_b128", "VMEM"),
        ("flat_load_dword", "VMEM"),
        ("scratch_load_dword", "scratch"),
        ("buffer_store_dword", "scratch"),
        ("ds_read_b32", "LDS"),
        ("s_cbranch_execz", "branch"),
        ("s_delay_alu", "wait"),
        ("s_wait_loadcnt", "wait"),
    ],
)
def test_an_instruction_has_a_unit(mnemonic: str, expected: str) -> None:
    assert unit(mnemonic) == expected


def test_an_instruction_of_no_known_unit_is_refused() -> None:
    with pytest.raises(StructureError, match="no unit is known for frob_b32: add it to"):
        unit("frob_b32")


def test_ch_and_maj_are_bit_selections_and_exclusive_ors_are_not() -> None:
    assert OPERATIONS.per_block(SHA256) == 128
    assert OPERATIONS.per_block(SHA384) == 320
    found = [
        Instruction("v_bfi_b32", "v1, v2, v3, v4"),
        Instruction("v_bitop3_b32", "v1, v2, v3, v4 bitop3:0xca"),
        Instruction("v_bitop3_b32", "v1, v2, v3, v4 bitop3:0x96"),
        Instruction("v_xor_b32", "v1, v2, v3"),
    ]
    assert [instruction.selects for instruction in found] == [True, True, False, False]


def test_a_block_is_counted_by_unit() -> None:
    code = counted(STRAIGHT)
    assert (code.blocks_per_turn, code.inner_turns) == (1, 0)
    expected = {"VALU": 704, "VMEM": 4, "wait": 1, "branch": 1}
    assert {name: count for name, count in by_unit(code).items() if count} == expected


def test_a_loop_over_unaligned_blocks_is_not_the_main_loop() -> None:
    unaligned = [".LBB0_2:", *4 * LOAD, "s_cbranch_execz .LBB0_3", *SELECT, ".LBB0_3:", "s_cbranch_scc0 .LBB0_2"]
    assert by_unit(counted([*unaligned, *STRAIGHT]))["VALU"] == 704


def test_a_loop_of_rounds_counts_as_often_as_it_turns_and_its_loads_are_constants() -> None:
    inner = [".LBB0_2:", *2 * LOAD, *64 * SELECT, *288 * ROTATE, "s_cbranch_scc0 .LBB0_2"]
    code = counted([*HEAD, *8 * LOAD, *64 * SELECT, *inner, *BACK], "sha384")
    assert (code.inner_turns, code.count("v_bfi_b32")) == (4, 320)
    assert code.count("global_load_dwordx4") == 8 + 4 * 2


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["s_endpgm"], "no loop of hash_chunks loads 16 bytes at a time"),
        ([*HEAD, *4 * LOAD, *127 * SELECT, *BACK], "127 bit selections per block .* sha256 needs 128"),
        ([*HEAD, *4 * LOAD, *150 * SELECT, *BACK], "150 bit selections per block .* sha256 needs 128"),
        ([*HEAD, *4 * LOAD, *128 * SELECT, "s_endpgm", *BACK], "always exits in the middle: s_endpgm"),
        (
            [*HEAD, *4 * LOAD, ".LBB0_2:", *SELECT, "s_cbranch_scc0 .LBB0_2", *127 * SELECT, *BACK],
            "a loop inside .* has 1 bit selections, where 16 rounds of sha256 need 32",
        ),
    ],
)
def test_code_of_another_structure_is_refused(lines: list[str], complaint: str) -> None:
    with pytest.raises(StructureError, match=complaint):
        counted(lines)


def test_registers_are_those_that_the_compiler_tells_of_the_function() -> None:
    assert resources(listing(STRAIGHT), FUNCTION) == Resources(registers=92, scratch_bytes=16, waves=5)
    without = listing(STRAIGHT).replace("; Occupancy: 5\n", "")
    with pytest.raises(StructureError, match="does not tell Occupancy of 'hash_chunks'"):
        resources(without, FUNCTION)


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amd_assembly, "compilers", lambda: ())
    with pytest.raises(Unavailable, match=r"no clang here compiles for gfx942 .*: install hashbench\[amd-compilers\]"):
        compile_program("", "gfx942")


def test_a_clang_without_the_target_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clang = tmp_path / "clang"
    clang.write_text('#!/bin/sh\ntest "$1" = --version && echo clang version 30\n')
    clang.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(amd_assembly, "find_spec", lambda name: None)
    monkeypatch.setattr(amd_assembly, "_CLANGS", ("clang",))
    assert compilers.__wrapped__() == ()
    clang.write_text('#!/bin/sh\nif test "$1" = --version; then echo clang version 30; else echo "  gfx942"; fi\n')
    (found,) = compilers.__wrapped__()
    assert found == Compiler((str(clang),), "clang version 30", frozenset({"gfx942"}))


@pytest.mark.covers("amd-compile")
def test_what_does_not_compile_is_told() -> None:
    try:
        compiler = amd_assembly.compiler_for("gfx942")
    except Unavailable as missing:
        pytest.skip(str(missing))
    with pytest.raises(CompileError, match=r"does not compile for gfx942: .*undeclared identifier 'nonsense'"):
        compile_program("__kernel void f() { nonsense; }", "gfx942", compiler)
    with pytest.raises(Unavailable, match="no clang here compiles for gfx1"):
        compile_program("", "gfx1")
    assert subprocess.run([*compiler.command, "--version"], capture_output=True, check=True).stdout
