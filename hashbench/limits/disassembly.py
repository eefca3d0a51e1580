"""NVIDIA's machine code of the CUDA C source, without a GPU: compiled by NVRTC for any architecture, disassembled."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hashbench.kernels.contract import Algorithm, Unavailable
from hashbench.kernels.source import device_source
from hashbench.limits import machine_code
from hashbench.limits.machine_code import FUNCTION, BlockCode, CompileError, Function, Operations, StructureError

_COMPILERS = "install hashbench[cuda-compilers]"
_LABEL = re.compile(r"\s*(\.L\w+):")
_INSTRUCTION = re.compile(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?(U?P\w+)\s+)?([A-Z]\w*(?:\.\w+)*)\s*([^;]*);")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_JUMPS = frozenset({"BRA", "BRX", "CALL", "JMP", "JMX", "RET", "EXIT"})
_GLOBAL_LOADS = frozenset({"LDG", "LD", "LDGSTS"})
_WIDE_LOADS = {"128": 16, "256": 32}
"""Bytes of a load, by modifier."""


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
        return found[1] if found and self.jumps else None

    @property
    def jumps(self) -> bool:
        """Whether it may go on elsewhere than at the next instruction."""
        return self.opcode in _JUMPS

    @property
    def always_jumps(self) -> bool:
        """Whether it jumps unconditionally: without a predicate, and whether or not threads have diverged."""
        condition = self.predicate or "P" in self.operands.partition("`")[0] or {"DIV", "CONV"} & set(self.modifiers)
        return self.jumps and not condition

    @property
    def share(self) -> float:
        """It is for all threads of a warp."""
        return 1

    @property
    def loaded_bytes(self) -> int:
        """The bytes of a wide load from global memory, else 0."""
        if self.opcode not in _GLOBAL_LOADS:
            return 0
        return max((_WIDE_LOADS.get(modifier, 0) for modifier in self.modifiers), default=0)


OPERATIONS: Operations[Instruction] = Operations("LOP3", 4, 2, lambda instruction: instruction.opcode == "LOP3")
"""Three-input logic: Ch, Maj, and the two exclusive ors of each sigma take one operation each."""


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


def parse(text: str, name: str) -> Function[Instruction]:
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


def count_block(function: Function[Instruction], algorithm: Algorithm) -> BlockCode:
    """The instructions of one message block in the main loop.

    Raises:
        StructureError: the structure of the code is not as expected.
    """
    return machine_code.count_block(function, algorithm, OPERATIONS)


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
