"""GPUs by architecture: what executes which machine instruction, and how many of them per clock.

NVIDIA's multiprocessors execute arithmetic in several pipes. Sources:

- NVIDIA's table of the throughput of native arithmetic instructions: CUDA C++ Programming Guide 12, section "Arithmetic
  Instructions", and since CUDA 13 the CUDA C++ Best Practices Guide, section 12.1.1;
- NVIDIA's description of the pipes: Nsight Compute Profiling Guide, section "Metrics Decoder": the ALU executes bit
  manipulation, logic and integer instructions other than products and dot products, which the FMA pipe executes, the
  heavier of the two where there are two;
- this project's micro-benchmarks on one H200 (the experiment `roofline`): per clock and multiprocessor 64 LOP3, SHF,
  PRMT, IADD3, IMAD or DFMA, half as many IMAD.WIDE or IMAD.HI, and 60 to 64 of two SHF to one of either, so these two
  take a slot of the ALU as well;
- trials on one H100 (`kernels/NOTES.md`): a dot product (IDP) beside two operations of the ALU takes no slot of it;
- `kernels/NOTES.md`: mixtures of two pipes reach 121 to 124 with one register operand each beside constants;
- hardware counters on that H200 (`kernels/NOTES.md`): VIADD is on the FMA pipe.

AMD's compute units execute all vector arithmetic in one ALU. What Intel's vector engines execute per clock is not
documented for the instructions that matter here, so they have no rates, and their predictions are instruction counts.

An instruction whose pipe or time is not documented has several placements, and predictions become a range.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from hashbench.limits import amd_assembly, intel_assembly

ALU, FMA, FP64, ISSUE = PIPES = ("ALU", "FMA", "FP64", "issue")
"""What bounds arithmetic: three execution pipes, and the schedulers that feed them. AMD's vector ALU is an ALU too."""

NVIDIA, AMD, INTEL = VENDORS = ("NVIDIA", "AMD", "Intel")


class UnplacedError(ValueError):
    """The pipe that executes an instruction is unknown. The message names it."""


@dataclass(frozen=True)
class Placement:
    """Where an instruction is executed.

    Attributes:
        slots: issue slots that one thread's instruction takes on ALU, FMA and FP64. Empty if it only needs to be issued
            (loads, branches, the uniform path).
    """

    slots: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """The part of a GPU of which it has many: a multiprocessor, a compute unit, an Xe-core.

    Attributes:
        target: the compilers' name for it, as "sm_90" or "gfx942".
        name: the vendor's name for the architecture.
        fp32_lanes: FP32 multiply-adds per clock, for the published peak.
        source: the sources for rates and placements.
        note: which of them are not documented.
    """

    target: str
    name: str
    fp32_lanes: int
    source: str
    note: str = ""

    @property
    @abstractmethod
    def vendor(self) -> str:
        """One of VENDORS."""

    @property
    @abstractmethod
    def rates(self) -> Mapping[str, int]:
        """Instructions (of one thread each) per clock of each of PIPES that it has; empty if they are not known."""

    @abstractmethod
    def place(self, mnemonic: str) -> tuple[str, tuple[Placement, ...]]:
        """The name under which a machine instruction is listed ("IMAD.WIDE"), and its placements, the likeliest first.

        Raises:
            UnplacedError: the instruction is not listed.
        """


@dataclass(frozen=True, kw_only=True)
class Multiprocessor(Architecture):
    """NVIDIA's.

    Attributes:
        fp64_lanes: FP64 multiply-adds per clock.
        placements: of opcodes, or of an opcode with one modifier, if they differ from the common ones. Predictions use
            the first of several; the others give the range.
    """

    fp64_lanes: int
    placements: Mapping[str, tuple[Placement, ...]] = field(default_factory=dict)

    @property
    def vendor(self) -> str:
        return NVIDIA

    @property
    def rates(self) -> Mapping[str, int]:
        """Each of four schedulers issues one instruction of a warp per clock (NVIDIA's architecture whitepapers)."""
        return {ALU: 64, FMA: 64, FP64: self.fp64_lanes, ISSUE: 128}

    def place(self, mnemonic: str) -> tuple[str, tuple[Placement, ...]]:
        """As the base class has it."""
        opcode, *modifiers = mnemonic.split(".")
        for name in (*(f"{opcode}.{modifier}" for modifier in modifiers), opcode):
            if found := self.placements.get(name) or _COMMON.get(name):
                return name, found
        if opcode.startswith("U"):
            return opcode, _ISSUED  # the uniform path, one operation for the whole warp
        raise UnplacedError(
            f"no pipe is known for {mnemonic} on {self.target}: add it to hashbench/limits/architectures.py"
        )


@dataclass(frozen=True, kw_only=True)
class ComputeUnit(Architecture):
    """AMD's: four SIMDs of 16 lanes (CDNA) or two of 32 (RDNA). Each executes one vector instruction at a time.

    Scalar instructions, memory accesses and branches of other waves are issued beside them.

    Attributes:
        on_64_bits: placements of a vector instruction with a result of 64 bits.
    """

    on_64_bits: tuple[Placement, ...]

    @property
    def vendor(self) -> str:
        return AMD

    @property
    def rates(self) -> Mapping[str, int]:
        """The lanes of all SIMDs."""
        return {ALU: 64}

    def place(self, mnemonic: str) -> tuple[str, tuple[Placement, ...]]:
        """As the base class has it."""
        if amd_assembly.unit(mnemonic) != amd_assembly.VALU:
            return mnemonic, _ISSUED
        if mnemonic.endswith(("_b64", "_u64", "_i64")):
            return mnemonic, self.on_64_bits
        return mnemonic, _ON_ALU


@dataclass(frozen=True, kw_only=True)
class XeCore(Architecture):
    """Intel's."""

    @property
    def vendor(self) -> str:
        return INTEL

    @property
    def rates(self) -> Mapping[str, int]:
        """Not documented for rotations, three-input logic and sums of three."""
        return {}

    def place(self, mnemonic: str) -> tuple[str, tuple[Placement, ...]]:
        """As the base class has it."""
        return mnemonic, _ON_ALU if intel_assembly.unit(mnemonic) == intel_assembly.ALU else _ISSUED


_ON_ALU = (Placement({ALU: 1}),)
_ON_FMA = (Placement({FMA: 1}),)
_ISSUED = (Placement({}),)
_OPEN = (*_ON_ALU, *_ON_FMA)
_WIDE = ("IMAD.WIDE", "IMAD.HI")
_TWICE_ON_ALU = (Placement({ALU: 2}),)

_COMMON: dict[str, tuple[Placement, ...]] = {
    **dict.fromkeys(("LOP3", "SHF", "PRMT", "IADD3", "LEA", "ISETP", "SEL", "MOV", "PLOP3"), _ON_ALU),
    **dict.fromkeys(("BMSK", "IABS", "IMNMX", "P2R", "R2P", "SGXT", "VIMNMX", "VIMNMX3"), _ON_ALU),
    **dict.fromkeys(("IMAD", "IMUL", "IDP", "HFMA2", "VIADD"), _ON_FMA),
    **dict.fromkeys(("DADD", "DFMA", "DMUL"), (Placement({FP64: 1}),)),
    **dict.fromkeys(_WIDE, (Placement({FMA: 2}), Placement({FMA: 2, ALU: 1}))),
    **dict.fromkeys(("LD", "LDG", "LDL", "LDS", "LDSM", "LDC", "LDCU", "LDGSTS", "LDGDEPBAR"), _ISSUED),
    **dict.fromkeys(("ST", "STG", "STL", "STS", "CCTL", "DEPBAR", "MEMBAR", "ERRBAR"), _ISSUED),
    **dict.fromkeys(("BRA", "BRX", "CALL", "RET", "EXIT", "BSSY", "BSYNC", "BREAK", "BMOV", "BAR"), _ISSUED),
    **dict.fromkeys(("NOP", "YIELD", "WARPSYNC", "NANOSLEEP", "S2R", "S2UR", "CS2R", "R2UR", "SHFL", "VOTE"), _ISSUED),
}

_DOCUMENTED = (
    "CUDA C++ Programming Guide 12, Arithmetic Instructions, columns 7.x to 9.0 (64 results a clock of 32-bit add, "
    "logic, shift and multiply-add; the row of 64-bit floating point); Nsight Compute Profiling Guide, Metrics Decoder"
)
_WIDE_IS_OPEN = "whether IMAD.WIDE and IMAD.HI take a slot of the ALU too, as was measured on 9.0, is not known"


def _cdna(target: str, name: str, fp32_lanes: int) -> ComputeUnit:
    return ComputeUnit(
        target=target,
        name=name,
        fp32_lanes=fp32_lanes,
        source="ROCm Compute Profiler, Pipeline descriptions (four SIMDs of 16 lanes in a compute unit)",
        note="whether a shift or an addition of 64 bits takes one slot or two is not documented: a range over both",
        on_64_bits=(*_ON_ALU, *_TWICE_ON_ALU),
    )


def _rdna(target: str, name: str) -> ComputeUnit:
    return ComputeUnit(
        target=target,
        name=name,
        fp32_lanes=128,
        source="ROCm Compute Profiler, Workgroup processor (two SIMDs of 32 lanes in a compute unit); Mesa, "
        "aco_statistics.cpp, GFX10 and later (two slots for a vector instruction on 64 bits); two operations that the "
        "compiler has put into one instruction (v_dual) count as one",
        on_64_bits=_TWICE_ON_ALU,
    )


_XE = (
    "Intel Data Center GPU Max Series Technical Overview, and Intel's GPU Occupancy Calculator (vector engines and "
    "their lanes)"
)
_RATES_ARE_OPEN = (
    "an instruction count alone: how many rotations, sums of three or three-input logic operations a vector engine "
    "executes per clock is not documented"
)


def _documented(target: str, name: str, fp32_lanes: int, fp64_lanes: int) -> Multiprocessor:
    """NVIDIA's architectures whose table of rates has all that is needed."""
    return Multiprocessor(
        target=target,
        name=name,
        fp32_lanes=fp32_lanes,
        fp64_lanes=fp64_lanes,
        source=_DOCUMENTED,
        note=_WIDE_IS_OPEN,
    )


ARCHITECTURES: Mapping[str, Architecture] = {
    a.target: a
    for a in (
        _documented("sm_75", "Turing", 64, 2),
        _documented("sm_80", "Ampere", 64, 32),
        _documented("sm_86", "Ampere", 128, 2),
        _documented("sm_89", "Ada", 128, 2),
        Multiprocessor(
            target="sm_90",
            name="Hopper",
            fp32_lanes=128,
            fp64_lanes=64,
            source=f"{_DOCUMENTED}; measured on an H200: this project's micro-benchmarks (experiment roofline), by "
            "which IMAD.WIDE and IMAD.HI take a slot of the ALU beside two of the FMA pipe, and hardware counters "
            "(kernels/NOTES.md), by which VIADD is on the FMA pipe",
            placements=dict.fromkeys(_WIDE, (Placement({FMA: 2, ALU: 1}),)),
        ),
        Multiprocessor(
            target="sm_100",
            name="Blackwell",
            fp32_lanes=128,
            fp64_lanes=64,
            source="64 lanes of INT32 and of FP64 as cuda_core_info_table.cc of OpenXLA (github.com/openxla/xla) has "
            "them, which names the CUDA C++ Best Practices Guide 13.0 as its source; pipes taken to be as of sm_90, "
            "since the compiler chooses the same instructions",
            note="whether additions go to the ALU pipe or to the FMA pipe is not documented: a range over both; "
            + _WIDE_IS_OPEN,
            placements={"IADD3": _OPEN, "IADD": _OPEN, "VIADD": _OPEN[::-1]},
        ),
        Multiprocessor(
            target="sm_120",
            name="Blackwell",
            fp32_lanes=128,
            fp64_lanes=2,
            source="CUDA C++ Best Practices Guide 13.4, section 12.1.1, column 12.0, at second hand (128 results a "
            "clock of 32-bit add, 64 of logic, shift and multiply-add, 2 of FP64); Nsight Compute Profiling Guide, "
            "Metrics Decoder (the ALU is ALUHeavy and ALULite, the latter a part of the physical pipe FMAHeavy)",
            note="which instructions are ALULite's (IADD and not IADD3, MOV, SEL, ISETP) is assumed: no document says "
            "so; pipe and rate of the 64-bit addition are not documented: a range over one or two "
            f"slots of either pipe; {_WIDE_IS_OPEN}",
            placements={
                **dict.fromkeys(("IADD", "MOV", "SEL", "ISETP", "IMNMX", "VIMNMX", "VIMNMX3"), _ON_FMA),
                "MOV.64": (Placement({FMA: 2}),),
                "IADD.64": tuple(Placement(slots) for slots in ({FMA: 2}, {FMA: 1}, {ALU: 1}, {ALU: 2})),
            },
        ),
        _cdna("gfx90a", "CDNA 2", 64),
        _cdna("gfx942", "CDNA 3", 128),
        _cdna("gfx950", "CDNA 4", 128),
        _rdna("gfx1100", "RDNA 3"),
        _rdna("gfx1201", "RDNA 4"),
        XeCore(target="pvc", name="Xe-HPC", fp32_lanes=128, source=_XE, note=_RATES_ARE_OPEN),
        XeCore(target="dg2", name="Xe-HPG", fp32_lanes=128, source=_XE, note=_RATES_ARE_OPEN),
        XeCore(target="bmg", name="Xe2-HPG", fp32_lanes=128, source=_XE, note=_RATES_ARE_OPEN),
    )
}
"""By target."""


def architecture(target: str) -> Architecture:
    """The architecture that compilers call `target`.

    Raises:
        ValueError: what it executes is unknown.
    """
    try:
        return ARCHITECTURES[target]
    except KeyError:
        raise ValueError(f"unknown architecture {target!r}: accepted are {', '.join(ARCHITECTURES)}") from None
