"""The machine code of the micro-benchmarks has the instructions that they measure, and clocks are read correctly."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from hashbench.kernels import Device, Unavailable
from hashbench.limits import disassembly
from hashbench.limits.disassembly import Instruction, parse
from hashbench.limits.machine_code import Function, loops
from hashbench.limits.microbenchmarks import CHAINS, LOADS, LOOP, PIPES, Microbenchmarks, megahertz, rate, source

ARCHITECTURES = (90, 120, *(pytest.param(number, marks=pytest.mark.thorough) for number in (75, 80, 100)))

LOGIC, SHIFT, WIDE, HIGH, DOUBLE = "LOP3.LUT", "SHF.L.W.U32.HI", "IMAD.WIDE.U32", "IMAD.HI.U32", "DFMA.RZ"
DOT = "IDP.2A.LO.U16.U8"
HALF, THIRD = LOOP // 2, LOOP // 3
EXPECTED: dict[str, dict[str, int]] = {
    "LOP3": {LOGIC: LOOP},
    "SHF": {SHIFT: LOOP},
    "PRMT": {"PRMT": LOOP},
    "IADD3": {"IADD3": LOOP},
    "IMAD": {"IMAD": LOOP},
    "IMAD.HI": {HIGH: LOOP},
    "IMAD.WIDE": {WIDE: LOOP},
    "IDP": {DOT: LOOP},
    "BREV": {"BREV": LOOP, LOGIC: LOOP},
    "DMUL": {"DMUL.RZ": LOOP},
    "DFMA": {DOUBLE: LOOP},
    "LOP3+SHF": {LOGIC: HALF, SHIFT: HALF},
    "LOP3+IADD3": {LOGIC: HALF, "IADD3": HALF},
    "LOP3+IMAD": {LOGIC: HALF, "IMAD": HALF},
    "LOP3+IMAD of registers": {LOGIC: HALF, "IMAD": HALF},
    "SHF+IMAD": {SHIFT: HALF, "IMAD": HALF},
    "LOP3+IDP": {LOGIC: HALF, DOT: HALF},
    "SHF+SHF+IDP": {SHIFT: 2 * THIRD, DOT: THIRD},
    "SHF+DFMA": {SHIFT: HALF, DOUBLE: HALF},
    "IMAD+IMAD.WIDE": {"IMAD": HALF, WIDE: HALF},
    "SHF+SHF+IMAD.WIDE": {SHIFT: 2 * THIRD, WIDE: THIRD},
    "SHF+SHF+IMAD.HI": {SHIFT: 2 * THIRD, HIGH: THIRD},
    "LOP3+IMAD+DFMA": {LOGIC: THIRD, "IMAD": THIRD, DOUBLE: THIRD},
}
"""The instructions in the loop of each pipe."""

ADDITIONS = {"IADD", "IADD3", "IMAD.IADD", "VIADD"}
"""The instructions that a sum of two may compile to."""

MOST_BESIDE = LOOP // 20
"""The accepted number of other instructions in a loop: its own, and a few moves."""


@cache
def listing(architecture: int) -> str:
    try:
        return disassembly.disassemble(disassembly.compile_program(source(), architecture).cubin)
    except Unavailable as error:
        pytest.skip(str(error))


def instructions_of(function: Function[Instruction]) -> list[Instruction]:
    """The instructions of a function's largest loop; every function ends with another one."""
    largest = max(loops(function), key=lambda loop: loop.end - loop.head)
    return list(function.instructions[largest.head : largest.end + 1])


def loop_of(function: Function[Instruction]) -> Counter[str]:
    return Counter(i.mnemonic for i in instructions_of(function))


def registers_read(instruction: Instruction) -> set[str]:
    """Their names, without RZ, which is zero."""
    _, _, sources = instruction.operands.partition(",")
    return set(re.findall(r"\bR\d+", sources))


@pytest.mark.covers("microbenchmarks")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{}".format)
@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_pipe_executes_its_own_instructions(name: str, architecture: int) -> None:
    counted = loop_of(parse(listing(architecture), PIPES[name].function))
    beside = counted - Counter(EXPECTED[name])
    assert counted & Counter(EXPECTED[name]) == EXPECTED[name], counted
    assert beside.total() <= MOST_BESIDE, beside


@pytest.mark.covers("microbenchmarks")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{}".format)
def test_sums_are_as_many_as_they_are_counted_for(architecture: int) -> None:
    def sums(name: str) -> tuple[int, Counter[str]]:
        counted = loop_of(parse(listing(architecture), PIPES[name].function))
        return sum(n for mnemonic, n in counted.items() if mnemonic in ADDITIONS), counted

    assert LOOP <= sums("ADD")[0] <= LOOP + 1
    beside_logic, counted = sums("LOP3+ADD")
    assert HALF <= beside_logic <= HALF + 1
    assert counted[LOGIC] == HALF

    _, wide = sums("ADD64")
    if wide["IADD.64"]:
        assert wide["IADD.64"] == LOOP
    else:  # a low word with its carry, and a high word
        assert LOOP <= wide["IADD3"] <= LOOP + 1
        assert wide["IMAD.X"] + wide["IADD3.X"] == LOOP


@pytest.mark.covers("microbenchmarks")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{}".format)
@pytest.mark.parametrize("name", ["LOP3+IMAD", "LOP3+ADD", "SHF+IMAD", "LOP3+IDP", "SHF+DFMA", "LOP3+IMAD+DFMA"])
def test_what_shows_the_issue_rate_reads_one_register_an_instruction(name: str, architecture: int) -> None:
    measured = {*EXPECTED.get(name, {LOGIC: HALF}), *(ADDITIONS if "ADD" in name else ())}
    of_loop = instructions_of(parse(listing(architecture), PIPES[name].function))
    several = [i for i in of_loop if i.mnemonic in measured and len(registers_read(i)) > 1]
    assert len(several) <= MOST_BESIDE, several[:3]
    if name == "LOP3+IMAD":  # and the other does not, or nothing would be told apart
        others = instructions_of(parse(listing(architecture), PIPES["LOP3+IMAD of registers"].function))
        assert sum(len(registers_read(i)) > 1 for i in others) >= LOOP - MOST_BESIDE


@pytest.mark.covers("microbenchmarks")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{}".format)
def test_memory_is_read_by_several_loads_at_once(architecture: int) -> None:
    function = parse(listing(architecture), "read_all")
    inside = [function.instructions[loop.head : loop.end + 1] for loop in loops(function)]
    assert max(sum(i.loaded_bytes for i in loop) for loop in inside) == 16 * LOADS


def test_every_pipe_is_checked() -> None:
    assert {*EXPECTED, "ADD", "ADD64", "LOP3+ADD"} == set(PIPES)
    for pipe in PIPES.values():
        assert pipe.steps * CHAINS * pipe.operations == LOOP
        assert pipe.operations == len(pipe.name.split("+"))
    assert len({pipe.function for pipe in PIPES.values()}) == len(PIPES)


def test_a_rate_is_of_the_clocks_that_a_multiprocessor_was_busy() -> None:
    spans = np.array(
        [
            [7, 1000, 1400, 0, 0],  # two warps, from 1000 to 1500
            [7, 1010, 1500, 0, 0],
            [3, 90, 290, 0, 0],  # two warps, from 50 to 290: on a clock of its own
            [3, 50, 250, 0, 0],
            [5, 2**40, 2**40 + 1000, 0, 0],  # one warp alone
        ],
        dtype=np.uint64,
    )
    assert rate(spans, 6000) == 2 * 6000 / 500  # of 50, 24 and 6


def test_the_clock_is_by_the_timer_around_the_loop() -> None:
    spans = np.array(
        [
            [0, 0, 19_800_000, 2**60, 2**60 + 10_000_000],
            [1, 2**50, 2**50 + 39_600_000, 2**60, 2**60 + 20_000_000],  # which took longer, at the same clock
            [2, 7, 7 + 19_800_000, 2**60, 2**60 + 90_000_000],  # was set aside for a while
        ],
        dtype=np.uint64,
    )
    assert megahertz(spans) == pytest.approx(1980)


def test_other_vendors_are_refused() -> None:
    with pytest.raises(Unavailable, match=r"MI300X is not NVIDIA's"):
        Microbenchmarks(Device("cupy", "0", "MI300X", "AMD", "gpu"))
