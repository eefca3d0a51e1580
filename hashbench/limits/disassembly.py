"""The machine code of the CUDA C source for any architecture, without a GPU: compiled by NVRTC and disassembled.

`block_code` finds the loop of `hash_chunks` that hashes whole message blocks and counts the instructions that one block
executes. It relies on the structure of the code alone, and refuses code whose structure it does not understand.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hashbench.kernels.contract import Algorithm, Unavailable
from hashbench.kernels.source import device_source

FUNCTION = "hash_chunks"
"""The device function whose main loop is counted."""

ROUNDS = {"sha256": 64, "sha384": 80}
"""FIPS 180-4 sections 6.2.2 and 6.4.2."""

LOGIC_EXCESS = 1.1
"""The accepted number of LOP3 per block, as a multiple of the minimum. With more, the count is of something else."""

_COMPILERS = "install hashbench[cuda-compilers]"
_LABEL = re.compile(r"\s*(\.L\w+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?(U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_JUMPS = frozenset({"BRA", "BRX", "CALL", "JMP", "JMX", "RET", "EXIT"})
_GLOBAL_LOADS = frozenset({"LDG", "LD", "LDGSTS"})
_WIDE_LOADS = {"128": 16, "256": 32}
"""Bytes of a load, by modifier. Narrower loads read tables, or the words of unaligned blocks."""


class CompileError(ValueError):
    """A program does not compile for an architecture. The message contains the compiler's."""


class StructureError(ValueError):
    """Machine code has a structure that cannot be counted. The message says what was found and what was expected."""


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        mnemonic: the operation with its modifiers, such as "IMAD.WIDE.U32".
        predicate: the predicate register that guards it, or "".
        operands: the rest of its line.
    """

    mnemonic: str
    predicate: str = ""
    operands: str = ""

    @property
    def opcode(self) -> str:
        """The mnemonic without its modifiers."""
        return self.mnemonic.partition(".")[0]

    @property
    def modifiers(self) -> list[str]:
        """The modifiers after the opcode."""
        return self.mnemonic.split(".")[1:]

    @property
    def target(self) -> str | None:
        """The label that it jumps to."""
        found = _TARGET.search(self.operands)
        return found[1] if found and self.opcode in _JUMPS else None

    @property
    def always_jumps(self) -> bool:
        """Whether it jumps unconditionally: without a predicate, and whether or not threads have diverged."""
        condition = self.predicate or "P" in self.operands.partition("`")[0] or {"DIV", "CONV"} & set(self.modifiers)
        return self.opcode in _JUMPS and not condition

    @property
    def loaded_bytes(self) -> int:
        """The bytes of a wide load from global memory, else 0."""
        if self.opcode not in _GLOBAL_LOADS:
            return 0
        return max((_WIDE_LOADS.get(modifier, 0) for modifier in self.modifiers), default=0)


@dataclass(frozen=True)
class Function:
    """The machine code of one function.

    Attributes:
        name: the function's name.
        instructions: its instructions, in the order of their addresses.
        labels: the index of the instruction after each label.
    """

    name: str
    instructions: Sequence[Instruction]
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


def logic_operations(algorithm: Algorithm) -> int:
    """The minimum number of three-input logic operations on 32 bits per block.

    Ch, Maj, and the two exclusive ors of each sigma take one operation each (FIPS 180-4 sections 4.1.2 and 4.1.3).
    """
    rounds = ROUNDS[algorithm.name]
    return _halves(algorithm) * (4 * rounds + 2 * (rounds - 16))


def _halves(algorithm: Algorithm) -> int:
    """32-bit registers per word."""
    return algorithm.block_size // 64


def architectures() -> list[int]:
    """The architectures that this NVRTC compiles for: 90 for compute capability 9.0.

    Raises:
        Unavailable: NVRTC is missing.
    """
    return [int(number) for number in _call("nvrtcGetSupportedArchs")]


@cache
def toolchain() -> str:
    """The names and versions of the compiler and the disassembler.

    Raises:
        Unavailable: one of them is missing.
    """
    major, minor = _call("nvrtcVersion")
    found = re.search(r"release [\d.]+, V([\d.]+)", _output([_nvdisasm(), "--version"]))
    return f"NVRTC {major}.{minor}, nvdisasm {found[1] if found else 'of unknown version'}"


@cache
def block_code(algorithm: Algorithm, variant: str, architecture: int) -> BlockCode:
    """The instructions that a message block executes in `device_source(algorithm, variant)`.

    Raises:
        CompileError: the source does not compile.
        StructureError: the code has no main loop that can be counted.
        Unavailable: NVRTC or nvdisasm is missing, or does not support `architecture`.
    """
    text = disassemble(compile_program(device_source(algorithm, variant), architecture).cubin)
    return count_block(parse(text, FUNCTION), algorithm)


@dataclass(frozen=True)
class Program:
    """A compiled CUDA C program.

    Attributes:
        cubin: its machine code.
        log: the compiler's messages, with the registers and the spills of each function.
    """

    cubin: bytes
    log: str


def compile_program(source: str, architecture: int) -> Program:
    """Compiles a CUDA C program.

    Raises:
        Unavailable: NVRTC is missing, or does not support `architecture`.
        CompileError: the program does not compile.
    """
    known = architectures()
    if architecture not in known:
        accepted = ", ".join(f"sm_{number}" for number in known)
        raise Unavailable(f"this NVRTC does not compile for sm_{architecture}: accepted are {accepted}")
    program = _call("nvrtcCreateProgram", source.encode(), b"device_source.cu", 0, [], [])
    try:
        options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--ptxas-options=-v"]
        try:
            _call("nvrtcCompileProgram", program, len(options), options)
        except RuntimeError as error:
            complaint = " ".join(_log(program).split()) or error
            raise CompileError(f"the program does not compile for sm_{architecture}: {complaint}") from None
        cubin = bytes(_call("nvrtcGetCUBINSize", program))
        _call("nvrtcGetCUBIN", program, cubin)
        return Program(cubin, _log(program))
    finally:
        _call("nvrtcDestroyProgram", program)


def _log(program: Any) -> str:
    text = bytes(_call("nvrtcGetProgramLogSize", program))
    _call("nvrtcGetProgramLog", program, text)
    return text.decode(errors="replace").rstrip("\0")


def disassemble(cubin: bytes) -> str:
    """The listing that nvdisasm prints of machine code.

    Raises:
        Unavailable: nvdisasm is missing, or does not understand the code.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.cubin"
        path.write_bytes(cubin)
        return _output([_nvdisasm(), "--print-code", str(path)])


def parse(text: str, name: str) -> Function:
    """One function of nvdisasm's listing.

    Raises:
        StructureError: the listing does not contain it.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    inside = False
    for line in text.splitlines():
        if line.strip() == f".text.{name}:":
            inside = True
        elif inside and line.lstrip().startswith(".section"):
            break
        elif inside and (label := _LABEL.match(line)):
            labels[label[1]] = len(instructions)
        elif inside and (found := _INSTRUCTION.match(line)):
            instructions.append(Instruction(found[2], found[1] or "", found[3].strip()))
    if not instructions:
        raise StructureError(f"the machine code contains no function {name!r}")
    return Function(name, instructions, labels)


def loops(function: Function) -> list[Loop]:
    """The loops of a function: each jump to itself or backward, and the instructions in between."""
    found = []
    for index, instruction in enumerate(function.instructions):
        head = function.labels.get(instruction.target or "")
        if head is not None and head <= index:
            found.append(Loop(head, index))
    return found


def count_block(function: Function, algorithm: Algorithm) -> BlockCode:
    """The instructions of one message block in the main loop, the smallest loop with loads of 16 bytes or more, if
    possible one that permutes bytes.

    Loops inside it run once per 16 rounds after the first 16, which are unrolled. The count is checked against the
    logic operations that FIPS 180-4 requires.

    Raises:
        StructureError: the code has another structure.
    """
    main = _main_loop(function)
    inner = [loop for loop in loops(function) if main.holds(loop)]
    _check_paths(function, main, inner)
    _check_rounds(function, inner, algorithm)

    loaded = sum(function.instructions[index].loaded_bytes for index in range(main.head, main.end + 1))
    blocks, rest = divmod(loaded, algorithm.block_size)
    if rest or not blocks:
        raise StructureError(
            f"the main loop of {function.name} loads {loaded} bytes per iteration, which is not a multiple of the "
            f"block size, {algorithm.block_size} bytes"
        )
    turns = ROUNDS[algorithm.name] // 16 - 1 if inner else 0
    counts: Counter[str] = Counter()
    for index in range(main.head, main.end + 1):
        weight = turns if any(index in loop for loop in inner) else 1
        counts[function.instructions[index].mnemonic] += weight
    code = BlockCode({mnemonic: n / blocks for mnemonic, n in counts.items()}, blocks, turns)
    _check_logic(code, algorithm)
    return code


def _main_loop(function: Function) -> Loop:
    found = {loop: function.instructions[loop.head : loop.end + 1] for loop in loops(function)}
    loading = [loop for loop, code in found.items() if any(i.loaded_bytes for i in code)]
    if not loading:
        raise StructureError(f"no loop of {function.name} loads 16 bytes at a time, so its main loop is unknown")
    # A loop over a table of message schedules has no bytes to permute.
    permuting = [loop for loop in loading if any(i.opcode == "PRMT" for i in found[loop])]
    main = min(permuting or loading, key=lambda loop: loop.end - loop.head)
    if sum(loop.head == main.head for loop in loading) > 1:
        raise StructureError(f"the main loop of {function.name} jumps back to its head from several places")
    return main


def _check_paths(function: Function, main: Loop, inner: Sequence[Loop]) -> None:
    """Checks that every iteration of the main loop takes one path: through all of it, and through the inner loops."""
    if any(outer.holds(loop) for outer in inner for loop in inner):
        raise StructureError(
            f"the main loop of {function.name} contains nested loops, whose numbers of iterations are unknown"
        )
    known = {main, *inner}
    for index in range(main.head, main.end + 1):
        instruction = function.instructions[index]
        if instruction.opcode not in _JUMPS:
            continue
        target = function.labels.get(instruction.target or "")
        if target is not None and target in main:
            leaves = any(index == loop.end - 1 and target == loop.end + 1 for loop in inner)
            if Loop(target, index) not in known and not leaves:
                raise StructureError(
                    f"the main loop of {function.name} branches within itself ({instruction.mnemonic} to "
                    f"{instruction.target}), so how often its instructions run is unknown"
                )
        elif instruction.always_jumps and index != main.end:
            raise StructureError(f"the main loop of {function.name} always exits in the middle: {instruction.mnemonic}")


def _check_rounds(function: Function, inner: Sequence[Loop], algorithm: Algorithm) -> None:
    """Checks that each inner loop computes 16 rounds and their message schedule."""
    needed = 16 * 6 * _halves(algorithm)
    for loop in inner:
        counted = sum(i.opcode == "LOP3" for i in function.instructions[loop.head : loop.end + 1])
        if counted < needed:
            raise StructureError(
                f"a loop inside the main loop of {function.name} has {counted} LOP3, where 16 rounds of "
                f"{algorithm.name} need {needed}: its number of iterations is unknown"
            )


def _check_logic(code: BlockCode, algorithm: Algorithm) -> None:
    needed, counted = logic_operations(algorithm), code.count("LOP3")
    if not needed <= counted <= LOGIC_EXCESS * needed:
        raise StructureError(
            f"{counted:g} LOP3 per block were counted, with {code.blocks_per_turn} blocks per iteration and "
            f"{code.inner_turns} iterations of inner loops, but {algorithm.name} needs {needed}: the main loop is not "
            "understood"
        )


@cache
def _nvdisasm() -> str:
    """The path of nvdisasm: in NVIDIA's Python packages, else in the CUDA toolkit, else on PATH."""
    found: str | None = None
    try:
        from cuda.pathfinder import find_nvidia_binary_utility
    except ImportError:  # an older version
        pass
    else:
        found = find_nvidia_binary_utility("nvdisasm")
    found = found or shutil.which("nvdisasm")
    if found is None:
        raise Unavailable(f"nvdisasm cannot be found: {_COMPILERS}, or put CUDA's bin folder on PATH")
    return found


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise Unavailable(f"{Path(command[0]).name} cannot be run: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{Path(command[0]).name} failed: {' '.join(error.stderr.split())}") from None
    return done.stdout


def _call(function: str, *arguments: Any) -> Any:
    """Calls a function of NVRTC and returns its results without the status."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise Unavailable(f"NVRTC's bindings cannot be imported ({error}): {_COMPILERS}") from None
    try:
        status, *results = getattr(nvrtc, function)(*arguments)
    except RuntimeError as error:  # the first call loads the library
        raise Unavailable(f"NVRTC cannot be loaded ({error}): {_COMPILERS}") from None
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"{function}: {status.name}")
    return results[0] if len(results) == 1 else tuple(results)
