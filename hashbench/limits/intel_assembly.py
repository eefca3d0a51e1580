"""Intel's machine code of the OpenCL C source, without a GPU: compiled and disassembled by ocloc.

ocloc comes with Intel's compute runtime (Debian: intel-opencl-icd), and disassembles with its library libiga64 (Debian:
libigc-dev).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hashbench.kernels.contract import Algorithm, Unavailable
from hashbench.kernels.source import device_source, intel_gpu_options
from hashbench.limits import machine_code
from hashbench.limits.machine_code import FUNCTION, BlockCode, CompileError, Function, Operations, StructureError

LANES = {"pvc": 16, "dg2": 8}
"""The lanes of a vector engine, by ocloc's name of the architecture: 32-bit results of one instruction that it computes
at once. An instruction for fewer takes as long."""

ALU, SEND, SCRATCH, BRANCH, SYNC = UNITS = ("ALU", "send", "scratch", "branch", "sync")
"""What an instruction occupies: the vector engine, memory, memory for what did not fit the registers; control flow; and
what only makes a thread wait."""

_UNIT_OF_OPCODE = {
    **dict.fromkeys(("goto", "join", "jmpi", "while", "brc", "brd", "call", "calla", "ret", "break", "cont"), BRANCH),
    **dict.fromkeys(("if", "else", "endif", "halt"), BRANCH),
    **dict.fromkeys(("send", "sends", "sendc"), SEND),
    **dict.fromkeys(("sync", "nop", "wait"), SYNC),
}
_OPTIONS = "-cl-std=CL2.0"
_LABEL = re.compile(r"([A-Za-z_]\w*):\s*$")
_INSTRUCTION = re.compile(
    r"(?:\((?P<predicate>[^)]*)\))?\s*(?P<mnemonic>[a-z]\w*(?:\.\w+)*)\s*(?:\((?P<lanes>\d+)\|M\d+\))?(?P<operands>.*)"
)
_TARGET = re.compile(r"\bL\d+\b")
_FILE = re.compile(r"^\.text\.|(?:_KernelHeap)?\.asm$")
_WIDE_LOAD = re.compile(r"untyped surface read with xyzw|rd:4; a64 dword gathering read|load\.ugm\.d32x4\.")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    Attributes:
        mnemonic: the operation with its modifiers; "send.scratch" for one that accesses scratch memory.
        share: how many lanes it takes, as a share of the threads that are executed together.
        predicate: what guards it, or "".
        operands: the rest of its line, with the disassembler's comment.
    """

    mnemonic: str
    share: float
    predicate: str = ""
    operands: str = ""

    @property
    def jumps(self) -> bool:
        """Whether it may go on elsewhere than at the next instruction."""
        return unit(self.mnemonic) == BRANCH and not self.mnemonic.startswith("join")

    @property
    def always_jumps(self) -> bool:
        """Whether it jumps unconditionally. "W" alone means that it ignores which threads are active."""
        return self.jumps and self.predicate in ("", "W")

    @property
    def target(self) -> str | None:
        """The label that it jumps to. A goto's second one is for when all threads have left."""
        found = _TARGET.search(self.operands)
        return found[0] if found and self.jumps else None

    @property
    def loaded_bytes(self) -> float:
        """The bytes of a wide load from global memory, else 0."""
        wide = unit(self.mnemonic) == SEND and _WIDE_LOAD.search(self.operands)
        return 16 * self.share if wide else 0


OPERATIONS: Operations[Instruction] = Operations(
    "three-way exclusive ors", 2, 2, lambda instruction: instruction.mnemonic == "bfn.0x96"
)
"""Each sigma takes one."""


@cache
def toolchain(target: str) -> str:
    """The name and version of the compiler for an architecture.

    Raises:
        Unavailable: it is missing, or `target` is not one of `LANES`.
    """
    _lanes(target)
    with tempfile.TemporaryDirectory() as folder:
        _run(("query", "OCL_DRIVER_VERSION"), folder)
        return f"ocloc {(Path(folder) / 'OCL_DRIVER_VERSION').read_text().strip(chr(0) + ' ')}"


def compile_program(source: str | bytes, target: str, options: Sequence[str] = ()) -> dict[str, str]:
    """Compiles a program in OpenCL C or, as bytes, in SPIR-V, and disassembles it: the listing of each function.

    Args:
        source: the program.
        target: one of `LANES`.
        options: options of the compiler, as of `intel_gpu_options`.

    Raises:
        Unavailable: the compiler or the disassembler is missing, or `target` is not one of `LANES`.
        CompileError: the program does not compile.
    """
    toolchain(target)
    with tempfile.TemporaryDirectory() as folder:
        compiling = ["compile", "-device", target, "-output", "program"]
        if isinstance(source, str):
            (Path(folder) / "device_source.cl").write_text(source)
            compiling += ["-file", "device_source.cl", "-options", " ".join((_OPTIONS, *options))]
        else:
            (Path(folder) / "device_source.spv").write_bytes(source)
            compiling += ["-file", "device_source.spv", "-spirv_input", "-options", " ".join(options)]
        told = _run(compiling, folder)
        binary = next(Path(folder).glob("*.bin"), None)  # its name ends in the architecture's
        if binary is None:
            raise CompileError(f"the program does not compile for {target}: {' '.join(told.split())}")
        told = _run(("disasm", "-file", binary.name, "-device", target, "-dump", "listing"), folder)
        listings = {file.name: file.read_text() for file in (Path(folder) / "listing").glob("*.asm")}
    if not listings:
        raise Unavailable(f"ocloc does not disassemble: install libiga64.so (Debian: libigc-dev): {told.strip()}")
    return {_FILE.sub("", name): text for name, text in listings.items()}


@cache
def block_code(algorithm: Algorithm, variant: str, target: str) -> BlockCode:
    """The instructions that a message block executes in `device_source(algorithm, variant)`.

    Raises:
        CompileError: the source does not compile.
        StructureError: the code has no main loop that can be counted.
        Unavailable: the compiler or the disassembler is missing, or `target` is not one of `LANES`.
    """
    options = intel_gpu_options(algorithm, [_lanes(target)])
    listings = compile_program(device_source(algorithm, variant), target, options)
    return count_block(parse(listings[FUNCTION], FUNCTION, target), algorithm)


def count_block(function: Function[Instruction], algorithm: Algorithm) -> BlockCode:
    """The instructions of one message block in the main loop, all paths through it counted as taken.

    Raises:
        StructureError: the structure of the code is not as expected.
    """
    return machine_code.count_block(function, algorithm, OPERATIONS, all_paths=True)


def parse(listing: str, name: str, target: str) -> Function[Instruction]:
    """One function, from its listing."""
    lines = [line for line in listing.splitlines() if line.strip()]
    matches = [_LABEL.match(line) or _INSTRUCTION.match(line) for line in lines]
    found = [match for match in matches if match is not None and match.re is _INSTRUCTION]
    # "W" ignores which threads are active: such an instruction may be for more lanes than there are threads.
    threads = max((int(match["lanes"] or 0) for match in found if (match["predicate"] or "")[:1] != "W"), default=0)
    if not threads:
        raise StructureError(f"the listing of {name!r} has no instructions")
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for match in matches:
        if match is None:
            continue
        if match.re is _LABEL:
            labels[match[1]] = len(instructions)
        else:
            mnemonic = "send.scratch" if "scratch block" in match["operands"] else match["mnemonic"]
            share = max(int(match["lanes"] or 0), LANES[target]) / threads
            instructions.append(Instruction(mnemonic, share, match["predicate"] or "", match["operands"].strip()))
    return Function(name, instructions, labels)


def unit(mnemonic: str) -> str:
    """Which of `UNITS` an instruction occupies: the vector engine, unless it is known to be another."""
    if mnemonic == "send.scratch":
        return SCRATCH
    return _UNIT_OF_OPCODE.get(mnemonic.partition(".")[0], ALU)


def by_unit(code: BlockCode) -> dict[str, float]:
    """How many instructions of a block each of `UNITS` executes."""
    counts = dict.fromkeys(UNITS, 0.0)
    for mnemonic, count in code.instructions.items():
        counts[unit(mnemonic)] += count
    return counts


def _lanes(target: str) -> int:
    if target not in LANES:
        raise Unavailable(f"no vector engine is known for {target}: accepted are {', '.join(LANES)}")
    return LANES[target]


def _run(arguments: Sequence[str], folder: str) -> str:
    """Runs ocloc in `folder`, and returns what it writes. It tells of errors by leaving out files."""
    program = shutil.which("ocloc")
    if program is None:
        raise Unavailable("ocloc cannot be found: install Intel's compute runtime (Debian: intel-opencl-icd)")
    done = subprocess.run(
        (program, *arguments),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.stdout
