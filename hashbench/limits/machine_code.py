"""The instructions that one message block executes, counted in the machine code of any vendor's compiler.

`count_block` finds the loop of a function that hashes whole message blocks. It relies on the structure of the code
alone, and refuses code whose structure it does not understand. A module for each vendor compiles the device code and
reads its instructions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from hashbench.kernels.contract import Algorithm

FUNCTION = "hash_chunks"
"""The device function whose main loop is counted."""

ROUNDS = {"sha256": 64, "sha384": 80}
"""FIPS 180-4 sections 6.2.2 and 6.4.2."""

EXCESS = 1.1
"""The accepted number of a standard's operations per block, as a multiple of the minimum. With more, the count is of
something else."""


class CompileError(ValueError):
    """A program does not compile for an architecture. The message contains the compiler's."""


class StructureError(ValueError):
    """Machine code has a structure that cannot be counted. The message says what was found and what was expected."""


class Instruction(Protocol):
    """What is asked of a machine instruction, whichever vendor's."""

    @property
    def mnemonic(self) -> str:
        """The operation with its modifiers."""

    @property
    def jumps(self) -> bool:
        """Whether it may go on elsewhere than at the next instruction."""

    @property
    def always_jumps(self) -> bool:
        """Whether it jumps unconditionally."""

    @property
    def target(self) -> str | None:
        """The label that it jumps to."""

    @property
    def loaded_bytes(self) -> float:
        """The bytes of a wide load from global memory, else 0. Narrower loads read unaligned blocks."""

    @property
    def share(self) -> float:
        """The share of the threads executed together that it is for. Several such instructions count as one."""


AnyInstruction = TypeVar("AnyInstruction", bound=Instruction)


@dataclass(frozen=True)
class Function(Generic[AnyInstruction]):
    """The machine code of one function.

    Attributes:
        name: the function's name.
        instructions: its instructions, in the order of their addresses.
        labels: the index of the instruction after each label.
    """

    name: str
    instructions: Sequence[AnyInstruction]
    labels: Mapping[str, int]


@dataclass(frozen=True)
class Loop:
    """Instructions `head` to `end`, the last of which jumps back to the first."""

    head: int
    end: int

    def __contains__(self, index: int) -> bool:
        return self.head <= index <= self.end

    def holds(self, other: Loop) -> bool:
        """Whether `other` is another loop inside this one."""
        return self != other and other.head in self and other.end in self


@dataclass(frozen=True)
class BlockCode:
    """The instructions that one message block executes in the main loop.

    Attributes:
        instructions: how often one thread executes each mnemonic for one block.
        blocks_per_turn: message blocks per iteration of the main loop.
        inner_turns: iterations of the loops inside it; 0 if there are none.
    """

    instructions: Mapping[str, float]
    blocks_per_turn: int
    inner_turns: int

    @property
    def total(self) -> float:
        """Instructions per block."""
        return sum(self.instructions.values())

    def count(self, opcode: str) -> float:
        """Instructions of one opcode per block, with any modifiers."""
        return sum(n for mnemonic, n in self.instructions.items() if mnemonic.partition(".")[0] == opcode)


@dataclass(frozen=True)
class Operations(Generic[AnyInstruction]):
    """Operations of the standard that a compiler translates one to one. They check what was counted.

    Attributes:
        name: what they are in machine code.
        per_round: how many one round has on 32 bits (FIPS 180-4 sections 4.1.2 and 4.1.3).
        per_word: how many a word of the message schedule has, after the first 16.
        executed: how many of them one instruction executes.
    """

    name: str
    per_round: int
    per_word: int
    executed: Callable[[AnyInstruction], float]

    def per_block(self, algorithm: Algorithm) -> int:
        """The minimum per message block, on 32 bits each."""
        rounds = ROUNDS[algorithm.name]
        return _halves(algorithm) * (self.per_round * rounds + self.per_word * (rounds - 16))

    def per_sixteen_rounds(self, algorithm: Algorithm) -> int:
        """The minimum of 16 rounds with 16 words of the message schedule."""
        return _halves(algorithm) * 16 * (self.per_round + self.per_word)


def loops(function: Function[AnyInstruction]) -> list[Loop]:
    """The loops of a function: each jump to itself or backward, and the instructions in between."""
    found = []
    for index, instruction in enumerate(function.instructions):
        head = function.labels.get(instruction.target or "")
        if head is not None and head <= index:
            found.append(Loop(head, index))
    return found


def count_block(
    function: Function[AnyInstruction],
    algorithm: Algorithm,
    operations: Operations[AnyInstruction],
    *,
    all_paths: bool = False,
) -> BlockCode:
    """The instructions of one message block in the main loop.

    That is the smallest loop with wide loads that passes every check: each iteration takes one path through it, loads
    whole blocks, and has the `operations` that FIPS 180-4 requires. Loops inside it run once per 16 rounds after the
    first 16, which are unrolled.

    Args:
        function: the code.
        algorithm: what it computes.
        operations: what the count is checked against.
        all_paths: where the main loop branches forward within itself, count all paths as taken. That is an upper limit,
            and what a GPU executes whose threads differ.

    Raises:
        StructureError: the code has another structure.
    """
    every = loops(function)
    loading = [
        loop
        for loop in every
        if any(function.instructions[index].loaded_bytes for index in range(loop.head, loop.end + 1))
    ]
    if not loading:
        raise StructureError(f"no loop of {function.name} loads 16 bytes at a time, so its main loop is unknown")
    refused = None
    for main in sorted(loading, key=lambda loop: loop.end - loop.head):
        inner = [loop for loop in every if main.holds(loop)]
        try:
            if sum(loop.head == main.head for loop in loading) > 1:
                raise StructureError(f"the main loop of {function.name} jumps back to its head from several places")
            _check_paths(function, main, inner, all_paths)
            return _count_loop(function, main, inner, algorithm, operations)
        except StructureError as error:  # loops over unaligned blocks, or of tables, may load wide too
            refused = refused or error
    assert refused is not None
    raise refused


def _count_loop(
    function: Function[AnyInstruction],
    main: Loop,
    inner: Sequence[Loop],
    algorithm: Algorithm,
    operations: Operations[AnyInstruction],
) -> BlockCode:
    _check_rounds(function, inner, algorithm, operations)
    turns_of = {
        index: ROUNDS[algorithm.name] // 16 - 1 if any(index in loop for loop in inner) else 1
        for index in range(main.head, main.end + 1)
    }
    # In the loops inside, constants are loaded.
    loaded = sum(function.instructions[index].loaded_bytes for index, turns in turns_of.items() if turns == 1)
    blocks, rest = divmod(loaded, algorithm.block_size)
    if rest or not blocks:
        raise StructureError(
            f"the main loop of {function.name} loads {loaded:g} bytes per iteration, which is not a multiple of the "
            f"block size, {algorithm.block_size} bytes"
        )
    counts: dict[str, float] = defaultdict(float)
    checked = 0.0
    for index, turns in turns_of.items():
        instruction = function.instructions[index]
        executed = instruction.share * turns / blocks
        counts[instruction.mnemonic] += executed
        checked += executed * operations.executed(instruction)
    needed = operations.per_block(algorithm)
    inner_turns = max(turns_of.values()) if inner else 0
    if not needed <= checked <= EXCESS * needed:
        raise StructureError(
            f"{checked:g} {operations.name} per block were counted, with {blocks:g} blocks per iteration and "
            f"{inner_turns} iterations of inner loops, but {algorithm.name} needs {needed}: the main loop is not "
            "understood"
        )
    return BlockCode(counts, int(blocks), inner_turns)


def _halves(algorithm: Algorithm) -> int:
    """32-bit registers per word."""
    return algorithm.block_size // 64


def _check_paths(function: Function[AnyInstruction], main: Loop, inner: Sequence[Loop], all_paths: bool) -> None:
    """Checks that every iteration of the main loop takes one path: through all of it, and through the inner loops."""
    if any(outer.holds(loop) for outer in inner for loop in inner):
        raise StructureError(
            f"the main loop of {function.name} contains nested loops, whose numbers of iterations are unknown"
        )
    known = {main, *inner}
    for index in range(main.head, main.end + 1):
        instruction = function.instructions[index]
        if not instruction.jumps:
            continue
        target = function.labels.get(instruction.target or "")
        if target is not None and target in main:
            leaves = any(index == loop.end - 1 and target == loop.end + 1 for loop in inner)
            if Loop(target, index) not in known and not leaves and not (all_paths and target > index):
                raise StructureError(
                    f"the main loop of {function.name} branches within itself ({instruction.mnemonic} to "
                    f"{instruction.target}), so how often its instructions run is unknown"
                )
        elif instruction.always_jumps and index != main.end:
            raise StructureError(f"the main loop of {function.name} always exits in the middle: {instruction.mnemonic}")


def _check_rounds(
    function: Function[AnyInstruction],
    inner: Sequence[Loop],
    algorithm: Algorithm,
    operations: Operations[AnyInstruction],
) -> None:
    """Checks that each inner loop computes 16 rounds and their message schedule."""
    needed = operations.per_sixteen_rounds(algorithm)
    for loop in inner:
        counted = sum(map(operations.executed, function.instructions[loop.head : loop.end + 1]))
        if counted < needed:
            raise StructureError(
                f"a loop inside the main loop of {function.name} has {counted:g} {operations.name}, where 16 rounds of "
                f"{algorithm.name} need {needed}: its number of iterations is unknown"
            )
