"""Intel's listings: parsed, and counted by what their instructions occupy."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

import pytest

from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.limits import intel_assembly
from hashbench.limits.intel_assembly import OPERATIONS, by_unit, count_block, parse, unit
from hashbench.limits.machine_code import FUNCTION, BlockCode, CompileError, StructureError

XOR = [
    "        bfn.0x96 (8|M0)          r1.0<1>:ud   r2.0<1;0>:ud    r3.0<1;0>:ud    r4.0<1>:ud      {I@5} // s0^s1^s2"
]
LOAD = ["        send.dc1 (8|M0)          r10      r9      null:0  0x0  {A@2} // untyped surface read with xyzw"]
SCRATCH = ["(W)     send.dc0 (16|M0)         r6       r0      null:0  0x0  0x022C200C  // hword scratch block read x4"]
STRAIGHT = ["L16:", *4 * LOAD, *224 * XOR, "(~f0.0) goto (8|M0)  L99  L99", "(W)     jmpi     L16", "L99:"]


def counted(lines: Iterable[str], algorithm: str = "sha256", target: str = "dg2") -> BlockCode:
    return count_block(parse("\n".join(lines), FUNCTION, target), ALGORITHMS[algorithm])


def test_a_listing_is_read() -> None:
    function = parse(
        "\n".join(["L0:", "(W)     mov (1|M0)   r5.3<1>:ud  a0.2<0;1,0>:ud", *XOR, "L8:", "(W&~f1.0) jmpi  L0"]),
        FUNCTION,
        "dg2",
    )
    assert [i.mnemonic for i in function.instructions] == ["mov", "bfn.0x96", "jmpi"]
    assert [i.predicate for i in function.instructions] == ["W", "", "W&~f1.0"]
    assert [i.always_jumps for i in function.instructions] == [False, False, False]
    assert function.labels == {"L0": 0, "L8": 2}
    assert function.instructions[2].target == "L0"
    with pytest.raises(StructureError, match="has no instructions"):
        parse("L0:", FUNCTION, "dg2")


def test_an_instruction_counts_by_the_lanes_that_it_takes() -> None:
    halves = [line.replace("(8|M0)", "(16|M0)") for line in XOR]
    whole = [line.replace("(8|M0)", "(32|M0)") for line in XOR]
    scalar = ["(W)     add (1|M0)   r5.3<1>:ud  a0.2<0;1,0>:ud  1:ud"]
    function = parse("\n".join([*whole, *halves, *scalar]), FUNCTION, "pvc")
    # 32 threads are executed together; an instruction for one lane takes a vector engine of 16 as long as one for all.
    assert [i.share for i in function.instructions] == [1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("mnemonic", "expected"),
    [
        ("bfn.0x96", "ALU"),
        ("add3", "ALU"),
        ("send.ugm", "send"),
        ("send.scratch", "scratch"),
        ("goto.b", "branch"),
        ("join", "branch"),
        ("sync.nop", "sync"),
    ],
)
def test_an_instruction_occupies_a_unit(mnemonic: str, expected: str) -> None:
    assert unit(mnemonic) == expected


def test_a_block_is_counted_by_unit() -> None:
    assert OPERATIONS.per_block(ALGORITHMS["sha256"]) == 224
    code = counted([*STRAIGHT[:5], *SCRATCH, *STRAIGHT[5:]])
    assert by_unit(code) == {"ALU": 224, "send": 4, "scratch": 2, "branch": 2, "sync": 0}


def test_all_paths_through_the_main_loop_are_counted() -> None:
    branching = [
        *STRAIGHT[:5],
        "(f1.0)  goto (8|M0)  L40  L40",
        *XOR,
        "L40:",
        "        join (8|M0)  L99",
        *STRAIGHT[6:],
    ]
    assert counted(branching).count("bfn") == 224
    with pytest.raises(StructureError, match="300 three-way exclusive ors per block"):
        counted([*STRAIGHT[:5], *76 * XOR, *STRAIGHT[5:]])


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match=r"ocloc cannot be found: .*intel-opencl-icd and libigc-dev"):
        intel_assembly.toolchain.__wrapped__("pvc")
    with pytest.raises(Unavailable, match="no vector engine is known for gen9: accepted are pvc, dg2"):
        intel_assembly.toolchain("gen9")
    with pytest.raises(Unavailable, match="no vector engine is known for bmg: accepted are pvc, dg2"):
        intel_assembly.block_code(ALGORITHMS["sha256"], "plain", "bmg")


@pytest.mark.covers("intel-compile")
def test_what_does_not_compile_is_told() -> None:
    try:
        intel_assembly.toolchain("dg2")
    except Unavailable as missing:
        pytest.skip(str(missing))
    with pytest.raises(CompileError, match=r"does not compile for dg2: .*nonsense"):
        intel_assembly.compile_program("__kernel void f() { nonsense; }", "dg2")
