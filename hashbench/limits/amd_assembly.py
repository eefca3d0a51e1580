"""AMD's machine code of the OpenCL C source, without a GPU and without ROCm: compiled by clang, read from its assembly.

Any clang with the target amdgcn will do: ROCm's own, that of a distribution, or the one in the Python package ziglang.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from hashbench.kernels.contract import Algorithm, Unavailable
from hashbench.kernels.source import device_source
from hashbench.limits import machine_code
from hashbench.limits.machine_code import FUNCTION, BlockCode, CompileError, Function, Operations, StructureError

VALU, SALU, SMEM, VMEM, LDS, SCRATCH, BRANCH, WAIT = UNITS = (
    *("VALU", "SALU", "SMEM", "VMEM", "LDS", "scratch", "branch", "wait"),
)
"""What executes an instruction: the vector and the scalar ALU, scalar and vector memory, the local data share, memory
that holds what did not fit the registers, branches; and what only makes a wave wait."""

_UNIT_OF_PREFIX = {
    **dict.fromkeys(("s_load_", "s_buffer_load_"), SMEM),
    **dict.fromkeys(("s_cbranch", "s_branch", "s_endpgm", "s_setpc", "s_swappc", "s_call"), BRANCH),
    **dict.fromkeys(("s_wait", "s_nop", "s_delay_alu", "s_clause", "s_sleep", "s_barrier"), WAIT),
    "s_": SALU,
    "v_": VALU,
    **dict.fromkeys(("global_", "flat_"), VMEM),
    **dict.fromkeys(("scratch_", "buffer_"), SCRATCH),
    "ds_": LDS,
}
"""The first prefix that fits. The device code has no buffers, so what accesses one accesses scratch memory."""

_CLANGS = ("/opt/rocm/llvm/bin/clang", *(f"clang-{version}" for version in range(30, 17, -1)), "clang")
_TARGET = ("--target=amdgcn-amd-amdhsa", "-nogpulib")
_OPTIONS = (*_TARGET, "-x", "cl", "-cl-std=CL2.0", "-cl-no-stdinc", "-O3", "-w")
_LEAST_OUTPUT = ("-mllvm", "-amdgpu-internalize-symbols")
"""Newer versions of clang compile the body of each kernel twice, once to be called; nothing calls it."""

_LABEL = re.compile(r"(\.L\w+):")
_INSTRUCTION = re.compile(r"\t([a-z]\w*)(?:\s+([^;]*))?")
_ENCODING = re.compile(r"_(?:e32|e64|sdwa|dpp|e64_dpp)$")
_WIDE_LOAD = re.compile(r"(?:global|flat)_load_(?:dwordx4|b128)$")
_XOR = "bitop3:0x96"


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        mnemonic: the operation, without the suffix of its encoding.
        operands: the rest of its line.
    """

    mnemonic: str
    operands: str = ""

    @property
    def unit(self) -> str:
        """Which of `UNITS` executes it.

        Raises:
            StructureError: that is not known.
        """
        return unit(self.mnemonic)

    @property
    def jumps(self) -> bool:
        """Whether it may go on elsewhere than at the next instruction."""
        return self.unit == BRANCH

    @property
    def always_jumps(self) -> bool:
        """Whether it jumps unconditionally."""
        return self.jumps and not self.mnemonic.startswith("s_cbranch")

    @property
    def target(self) -> str | None:
        """The label that it jumps to."""
        return self.operands.strip() if self.jumps and self.operands.startswith(".L") else None

    @property
    def share(self) -> float:
        """It is for all threads of a wave."""
        return 1

    @property
    def loaded_bytes(self) -> int:
        """The bytes of a wide load from global memory, else 0."""
        return 16 if _WIDE_LOAD.match(self.mnemonic) else 0

    @property
    def selects(self) -> bool:
        """Whether it is a function of three inputs as Ch and Maj are: a bit-field insert, or any but exclusive or."""
        return self.mnemonic == "v_bfi_b32" or (self.mnemonic == "v_bitop3_b32" and _XOR not in self.operands)


OPERATIONS: Operations[Instruction] = Operations("bit selections", 2, 0, lambda instruction: instruction.selects)
"""Ch and Maj take one each. The exclusive ors are written differently for each architecture."""


@dataclass(frozen=True)
class Resources:
    """What one function takes of a SIMD.

    Attributes:
        registers: vector registers of a thread.
        scratch_bytes: a thread's memory for what does not fit its registers.
        waves: waves that fit on a SIMD at a time.
    """

    registers: int
    scratch_bytes: int
    waves: int


@dataclass(frozen=True)
class Compiler:
    """A clang with the target amdgcn.

    Attributes:
        command: how to call it.
        name: its name and version.
        targets: the architectures that it compiles for, such as "gfx942".
    """

    command: tuple[str, ...]
    name: str
    targets: frozenset[str]


@cache
def compilers() -> tuple[Compiler, ...]:
    """The compilers on this machine, the preferred one first: ziglang's, ROCm's, the newest of the others."""
    commands: list[tuple[str, ...]] = [(path,) for name in _CLANGS if (path := shutil.which(name))]
    if (package := find_spec("ziglang")) and package.origin:
        commands.insert(0, (str(Path(package.origin).with_name("zig")), "clang"))
    return tuple(found for command in commands if (found := _compiler(command)))


def compiler_for(target: str) -> Compiler:
    """The preferred compiler for an architecture.

    Raises:
        Unavailable: there is none.
    """
    for found in compilers():
        if target in found.targets:
            return found
    there = "; ".join(f"{found.name} does not" for found in compilers()) or "there is none"
    raise Unavailable(f"no clang here compiles for {target} ({there}): install hashbench[amd-compilers]")


def toolchain(target: str) -> str:
    """The name and version of the compiler for an architecture.

    Raises:
        Unavailable: there is none.
    """
    return compiler_for(target).name


def opencl_source(algorithm: Algorithm, variant: str) -> str:
    """The device code with what a plain clang lacks to compile it."""
    return (files("hashbench.limits") / "amdgcn.h").read_text() + device_source(algorithm, variant)


def compile_program(source: str, target: str, compiler: Compiler | None = None) -> str:
    """Compiles an OpenCL C program to assembly.

    Args:
        source: the program, as of `opencl_source`.
        target: the architecture, such as "gfx942".
        compiler: one of `compilers`, if not the preferred one.

    Raises:
        Unavailable: there is no compiler for `target`.
        CompileError: the program does not compile.
    """
    return _compiled(source, target, compiler or compiler_for(target), "-S").decode()


def compile_object(source: str, target: str, compiler: Compiler | None = None) -> bytes:
    """Compiles an OpenCL C program to an object file, which a linker turns into a code object.

    Raises:
        Unavailable: there is no compiler for `target`.
        CompileError: the program does not compile.
    """
    return _compiled(source, target, compiler or compiler_for(target), "-c")


@cache
def block_code(algorithm: Algorithm, variant: str, target: str) -> BlockCode:
    """The instructions that a message block executes in `device_source(algorithm, variant)`.

    Raises:
        CompileError: the source does not compile.
        StructureError: the code has no main loop that can be counted.
        Unavailable: there is no compiler for `target`.
    """
    return count_block(parse(compile_program(opencl_source(algorithm, variant), target), FUNCTION), algorithm)


def count_block(function: Function[Instruction], algorithm: Algorithm) -> BlockCode:
    """The instructions of one message block in the main loop.

    Raises:
        StructureError: the structure of the code is not as expected.
    """
    return machine_code.count_block(function, algorithm, OPERATIONS)


def parse(assembly: str, name: str) -> Function[Instruction]:
    """One function of a program in assembly.

    Raises:
        StructureError: the program does not contain it.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in _section(assembly, name).splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(_ENCODING.sub("", found[1]), (found[2] or "").strip()))
    return Function(name, instructions, labels)


def resources(assembly: str, name: str) -> Resources:
    """The registers, scratch memory and waves of one function, as the compiler tells them.

    Raises:
        StructureError: it does not.
    """
    notes = assembly[assembly.index(_section(assembly, name)) :]

    def told(what: str) -> int:
        found = re.search(rf"^; {what}: (\d+)", notes, re.MULTILINE)
        if found is None:
            raise StructureError(f"the assembly does not tell {what} of {name!r}")
        return int(found[1])

    total = "TotalNumVgprs" if "; TotalNumVgprs:" in notes else "NumVgprs"  # with those of the matrix units
    return Resources(told(total), told("ScratchSize"), told("Occupancy"))


def unit(mnemonic: str) -> str:
    """Which of `UNITS` executes an instruction.

    Raises:
        StructureError: that is not known.
    """
    for prefix, found in _UNIT_OF_PREFIX.items():
        if mnemonic.startswith(prefix):
            return found
    raise StructureError(f"no unit is known for {mnemonic}: add it to hashbench/limits/amd_assembly.py")


def by_unit(code: BlockCode) -> dict[str, float]:
    """How many instructions of a block each of `UNITS` executes.

    Raises:
        StructureError: the unit of an instruction is not known.
    """
    counts = dict.fromkeys(UNITS, 0.0)
    for mnemonic, count in code.instructions.items():
        counts[unit(mnemonic)] += count
    return counts


def _section(assembly: str, name: str) -> str:
    """The lines of one function."""
    found = re.search(rf"^{re.escape(name)}:.*?^\.Lfunc_end", assembly, re.MULTILINE | re.DOTALL)
    if found is None:
        raise StructureError(f"the assembly contains no function {name!r}")
    return found[0]


def _compiler(command: tuple[str, ...]) -> Compiler | None:
    """A compiler, None if it has not the target."""
    try:
        version = _run((*command, "--version")).decode()
        listed = _run((*command, *_TARGET, "--print-supported-cpus")).decode()
    except (OSError, subprocess.CalledProcessError):
        return None
    targets = frozenset(re.findall(r"^\s+(gfx\w+)$", listed, re.MULTILINE))
    return Compiler(command, version.splitlines()[0].strip(), targets) if targets else None


def _compiled(source: str, target: str, compiler: Compiler, output: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device_source.cl"
        path.write_text(source)
        result = path.with_suffix(".out")
        try:
            _run(
                (*compiler.command, *_OPTIONS, *_LEAST_OUTPUT, f"-mcpu={target}", output, str(path), "-o", str(result))
            )
        except subprocess.CalledProcessError as error:
            complaint = " ".join(error.stdout.decode(errors="replace").split())
            raise CompileError(f"the program does not compile for {target}: {complaint}") from None
        return result.read_bytes()


def _run(command: Sequence[str]) -> bytes:
    """What a command writes to either stream. It reads nothing."""
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    ).stdout
