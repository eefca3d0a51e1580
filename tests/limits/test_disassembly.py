"""Machine code of the CUDA C source: parsed, its loops found, and the instructions of a message block counted."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import product

import pytest

from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.kernels.source import VARIANTS
from hashbench.limits import disassembly
from hashbench.limits.disassembly import OPERATIONS, Instruction, block_code, count_block, parse
from hashbench.limits.machine_code import FUNCTION, BlockCode, CompileError, Loop, StructureError, loops

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
SHA256, SHA384 = ALGORITHMS["sha256"], ALGORITHMS["sha384"]

LISTING = """
\t.section\t.text.other,"ax",@progbits
.text.other:
        /*0000*/                   EXIT ;
.L_x_9:
        /*0010*/                   BRA `(.L_x_9);
\t.section\t.text.hash_chunks,"ax",@progbits
        .global         hash_chunks
.text.hash_chunks:
.L_x_90:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 EXIT ;
        /*0020*/                   IMAD.MOV.U32 R17, RZ, RZ, 0x1000000 ;
.L_x_3:
        /*0030*/                   LDG.E.128 R4, desc[UR6][R2.64] ;
        /*0040*/             @!UP2 SHF.L.W.U32.HI R46, R22.reuse, 0x12, R23.reuse ;
        /*0050*/               @P0 BRA P1, `(.L_x_3) ;
.L_x_4:
        /*0060*/                   BRA `(.L_x_4);
        /*0070*/                   NOP;
.L_x_91:
\t.section\t.text.third,"ax",@progbits
.text.third:
        /*0000*/                   NOP ;
"""


def listing(lines: Iterable[str]) -> str:
    """A listing of `hash_chunks`: each line an instruction, or a label where it ends in a colon."""
    text = [".text.hash_chunks:"]
    for number, line in enumerate(lines):
        text.append(line if line.endswith(":") else f"        /*{16 * number:04x}*/   {line} ;")
    return "\n".join(text)


def counted(lines: Iterable[str], algorithm: str = "sha256") -> BlockCode:
    return count_block(parse(listing(lines), FUNCTION), ALGORITHMS[algorithm])


LOAD = ["LDG.E.128 R4, desc[UR6][R2.64]"]
LOGIC = ["LOP3.LUT R1, R2, R3, R4, 0x96, !PT"]
SHIFT = ["SHF.L.W.U32.HI R1, R2, 0x12, R2"]
HEAD, BACK = [".L_x_1:"], ["@P0 BRA `(.L_x_1)"]
STRAIGHT = [*HEAD, *4 * LOAD, *352 * LOGIC, *672 * SHIFT, *BACK, "EXIT"]


def rolled(inner_end: list[str]) -> list[str]:
    """SHA-384 with 16 rounds, and a loop of 16 more with the message schedule."""
    inner = [".L_x_2:", *192 * LOGIC, *368 * SHIFT, *inner_end]
    return [*HEAD, *8 * LOAD, *128 * LOGIC, *192 * SHIFT, *inner, *BACK, "EXIT"]


def test_a_function_is_read_from_the_listing_of_several() -> None:
    function = parse(LISTING, FUNCTION)
    assert [i.mnemonic for i in function.instructions] == [
        "LDC",
        "EXIT",
        "IMAD.MOV.U32",
        "LDG.E.128",
        "SHF.L.W.U32.HI",
        "BRA",
        "BRA",
        "NOP",
    ]
    assert [i.predicate for i in function.instructions] == ["", "P0", "", "", "UP2", "P0", "", ""]
    assert function.labels == {".L_x_90": 0, ".L_x_3": 3, ".L_x_4": 6, ".L_x_91": 8}
    assert function.instructions[5].target == ".L_x_3"
    assert function.instructions[3].loaded_bytes == 16
    assert loops(function) == [Loop(3, 5), Loop(6, 6)]


@pytest.mark.parametrize(
    ("mnemonic", "nbytes"),
    [("LDG.E", 0), ("LDG.E.64", 0), ("LDG.E.128.CONSTANT", 16), ("LDG.E.ENL2.256", 32), ("LDS.128", 0), ("STG.128", 0)],
)
def test_wide_loads_are_those_from_global_memory(mnemonic: str, nbytes: int) -> None:
    assert Instruction(mnemonic).loaded_bytes == nbytes


def test_a_missing_function_is_told() -> None:
    with pytest.raises(StructureError, match="no function 'absent'"):
        parse(LISTING, "absent")


def test_the_logic_of_a_block_is_that_of_the_standard() -> None:
    # SHA-256: 64 rounds of Ch, Maj and two sums of three rotations, 48 message words of two sums of three each.
    assert OPERATIONS.per_block(SHA256) == 64 * (1 + 1 + 1 + 1) + 48 * (1 + 1) == 352
    # SHA-384: 80 rounds and 64 message words, each operation on two halves.
    assert OPERATIONS.per_block(SHA384) == 2 * (80 * 4 + 64 * 2) == 896


def test_a_straight_loop_counts_once() -> None:
    code = counted(["MOV R1, R2", *STRAIGHT])
    assert code.instructions == {"LDG.E.128": 4, "LOP3.LUT": 352, "SHF.L.W.U32.HI": 672, "BRA": 1}
    assert (code.blocks_per_turn, code.inner_turns, code.total) == (1, 0, 1029)


def test_a_turn_of_two_blocks_is_halved() -> None:
    code = counted([*HEAD, *8 * LOAD, *704 * LOGIC, *BACK])
    assert (code.blocks_per_turn, code.count("LDG"), code.count("LOP3"), code.count("BRA")) == (2, 4, 352, 0.5)


@pytest.mark.parametrize(
    "inner_end",
    [["@P1 BRA `(.L_x_2)"], ["@P1 CALL.REL.NOINC `(.L_x_3)", "BRA `(.L_x_2)", ".L_x_3:"]],
    ids=["branch", "exit-and-branch"],
)
def test_the_loop_inside_counts_as_often_as_it_turns(inner_end: list[str]) -> None:
    code = counted(rolled(inner_end), "sha384")
    assert (code.blocks_per_turn, code.inner_turns) == (1, 4)
    assert code.count("LOP3") == 128 + 4 * 192 == 896
    assert code.count("SHF") == 192 + 4 * 368
    assert code.count("LDG") == 8
    assert code.count("BRA") == 4 + 1


def test_a_way_out_for_threads_that_parted_is_no_branch_within() -> None:
    code = counted([*HEAD, *4 * LOAD, "BRA.DIV ~URZ, `(.L_x_7)", *352 * LOGIC, *BACK, "EXIT", ".L_x_7:", "NOP"])
    assert code.count("LOP3") == 352


def test_the_smallest_loading_loop_is_the_main_loop() -> None:
    code = counted([".L_x_0:", *100 * SHIFT, *STRAIGHT[:-1], "@P2 BRA `(.L_x_0)"])
    assert code.count("SHF") == 672


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["EXIT"], "no loop of hash_chunks loads 16 bytes at a time"),
        ([*HEAD, *352 * LOGIC, "LDG.E R1, [R2]", *BACK], "no loop of hash_chunks loads 16 bytes at a time"),
        (
            [*HEAD, *3 * LOAD, *352 * LOGIC, *BACK],
            "loads 48 bytes per iteration, which is not a multiple of the block size, 64",
        ),
        ([*HEAD, *4 * LOAD, *351 * LOGIC, *BACK], "351 LOP3 per block .* sha256 needs 352"),
        ([*HEAD, *4 * LOAD, *400 * LOGIC, *BACK], "400 LOP3 per block .* sha256 needs 352"),
        ([*HEAD, *4 * LOAD, "@P1 BRA `(.L_x_2)", *352 * LOGIC, ".L_x_2:", *SHIFT, *BACK], "branches within itself"),
        ([*HEAD, *4 * LOAD, *352 * LOGIC, "EXIT", *BACK], "always exits in the middle: EXIT"),
        (
            [*HEAD, *4 * LOAD, ".L_x_2:", *SHIFT, "@P1 BRA `(.L_x_2)", *352 * LOGIC, *BACK],
            "a loop inside .* has 0 LOP3, where 16 rounds of sha256 need 96",
        ),
        ([*HEAD, *4 * LOAD, *352 * LOGIC, *BACK, *SHIFT, *BACK], "jumps back to its head from several places"),
        (
            [*HEAD, *4 * LOAD, ".L_x_2:", ".L_x_3:", *352 * LOGIC, "@P1 BRA `(.L_x_3)", "@P2 BRA `(.L_x_2)", *BACK],
            "contains nested loops",
        ),
    ],
)
def test_code_of_another_structure_is_refused(lines: list[str], complaint: str) -> None:
    with pytest.raises(StructureError, match=complaint):
        counted(lines)


def test_a_missing_disassembler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="cuda-pathfinder is not installed")
    monkeypatch.setattr(pathfinder, "find_nvidia_binary_utility", lambda name: None, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    disassembly._nvdisasm.cache_clear()
    try:
        with pytest.raises(Unavailable, match=r"nvdisasm cannot be found: install hashbench\[cuda-compilers\]"):
            disassembly.disassemble(b"")
    finally:
        disassembly._nvdisasm.cache_clear()


def compiled(algorithm: str, variant: str, architecture: int) -> BlockCode:
    try:
        disassembly.toolchain()
    except Unavailable as error:
        pytest.skip(str(error))
    return block_code(ALGORITHMS[algorithm], variant, architecture)


def each_of(seconds: Iterable[object], short: Iterable[tuple[str, object]]) -> list[object]:
    """Each algorithm with each of those; the pairs of the short form are among them."""
    pairs = product(ALGORITHMS, seconds)
    return [pytest.param(*pair, marks=[] if pair in short else [pytest.mark.thorough]) for pair in pairs]


@pytest.mark.covers("static-model")
@pytest.mark.parametrize(
    ("algorithm", "architecture"), each_of(ARCHITECTURES, short=(("sha256", 90), ("sha384", 120))), ids="{}".format
)
def test_the_compiled_block_has_the_operations_of_the_standard(algorithm: str, architecture: int) -> None:
    code = compiled(algorithm, "plain", architecture)
    # Rotations and shifts of FIPS 180-4 section 4.1: six a round, and six for each message word beyond the 16th.
    rounds, halves = {"sha256": (64, 1), "sha384": (80, 2)}[algorithm]
    assert code.count("SHF") == halves * (6 * rounds + 6 * (rounds - 16))
    assert code.count("LOP3") >= OPERATIONS.per_block(ALGORITHMS[algorithm])
    assert code.count("PRMT") >= 16 * halves  # each word's bytes are turned round
    assert 16 * code.count("LDG") == ALGORITHMS[algorithm].block_size
    assert code.inner_turns in (0, rounds // 16 - 1)


@pytest.mark.covers("static-model")
@pytest.mark.parametrize(
    ("algorithm", "variant"),
    each_of(VARIANTS, short=(("sha256", "plain"), *((algorithm, "paired") for algorithm in ALGORITHMS))),
)
def test_every_variant_is_counted_or_refused_with_a_reason(algorithm: str, variant: str) -> None:
    try:
        code = compiled(algorithm, variant, 90)
    except StructureError as refused:
        reason = str(refused)
    else:
        reason = ""
    if variant in ("balanced", "plain"):
        assert not reason
    if reason:
        assert FUNCTION in reason or "LOP3" in reason
    else:
        assert code.count("LOP3") >= OPERATIONS.per_block(ALGORITHMS[algorithm])
        assert code.total > code.count("LOP3") + code.count("PRMT")


@pytest.mark.covers("static-model")
def test_what_does_not_compile_is_told() -> None:
    try:
        disassembly.toolchain()
    except Unavailable as error:
        pytest.skip(str(error))
    with pytest.raises(Unavailable, match="does not compile for sm_12: accepted are sm_"):
        disassembly.compile_program("", 12)
    with pytest.raises(CompileError, match=r'does not compile for sm_90: .*identifier "nonsense" is undefined'):
        disassembly.compile_program('extern "C" __global__ void f() { nonsense; }', 90)
    with pytest.raises(Unavailable, match="nvdisasm failed"):
        disassembly.disassemble(b"no machine code")
