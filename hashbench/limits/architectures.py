"""NVIDIA's multiprocessors by compute capability: which pipe executes which instruction, and the rates of the pipes.

Sources:

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

An instruction whose pipe is not documented has several placements, and predictions become a range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ALU, FMA, FP64, ISSUE = PIPES = ("ALU", "FMA", "FP64", "issue")
"""What bounds a multiprocessor's arithmetic: three execution pipes, and the schedulers that feed them."""


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


@dataclass(frozen=True)
class Architecture:
    """The multiprocessor of one compute capability.

    Attributes:
        compute_capability: CUDA's, as "9.0".
        name: NVIDIA's name for the architecture.
        fp32_lanes: FP32 multiply-adds per clock, for the published peak.
        fp64_lanes: FP64 multiply-adds per clock.
        source: the sources for rates and placements.
        note: which of them are not documented.
        placements: of opcodes, or of an opcode with one modifier, if they differ from the common ones. Predictions use
            the first of several; the others give the range.
    """

    compute_capability: str
    name: str
    fp32_lanes: int
    fp64_lanes: int
    source: str
    note: str = ""
    placements: Mapping[str, tuple[Placement, ...]] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, int]:
        """Instructions (of one thread each) per clock of each of PIPES."""
        return {ALU: 64, FMA: 64, FP64: self.fp64_lanes, ISSUE: 128}

    def place(self, mnemonic: str) -> tuple[str, tuple[Placement, ...]]:
        """The name under which a machine instruction is listed ("IMAD.WIDE"), and its placements, the likeliest first.

        Raises:
            UnplacedError: the instruction is not listed.
        """
        opcode, *modifiers = mnemonic.split(".")
        for name in (*(f"{opcode}.{modifier}" for modifier in modifiers), opcode):
            if found := self.placements.get(name) or _COMMON.get(name):
                return name, found
        if opcode.startswith("U"):
            return opcode, _ISSUED  # the uniform path, one operation for the whole warp
        where = f"compute capability {self.compute_capability}"
        raise UnplacedError(f"no pipe is known for {mnemonic} on {where}: add it to hashbench/limits/architectures.py")


_ON_ALU = (Placement({ALU: 1}),)
_ON_FMA = (Placement({FMA: 1}),)
_ISSUED = (Placement({}),)
_OPEN = (*_ON_ALU, *_ON_FMA)
_WIDE = ("IMAD.WIDE", "IMAD.HI")

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

ARCHITECTURES = {
    a.compute_capability: a
    for a in (
        Architecture("7.5", "Turing", 64, 2, _DOCUMENTED, _WIDE_IS_OPEN),
        Architecture("8.0", "Ampere", 64, 32, _DOCUMENTED, _WIDE_IS_OPEN),
        Architecture("8.6", "Ampere", 128, 2, _DOCUMENTED, _WIDE_IS_OPEN),
        Architecture("8.9", "Ada", 128, 2, _DOCUMENTED, _WIDE_IS_OPEN),
        Architecture(
            "9.0",
            "Hopper",
            128,
            64,
            f"{_DOCUMENTED}; measured on an H200: this project's micro-benchmarks (experiment roofline), by which "
            "IMAD.WIDE and IMAD.HI take a slot of the ALU beside two of the FMA pipe, and hardware counters "
            "(kernels/NOTES.md), by which VIADD is on the FMA pipe",
            placements=dict.fromkeys(_WIDE, (Placement({FMA: 2, ALU: 1}),)),
        ),
        Architecture(
            "10.0",
            "Blackwell",
            128,
            64,
            "64 lanes of INT32 and of FP64 as cuda_core_info_table.cc of OpenXLA (github.com/openxla/xla) has them, "
            "which names the CUDA C++ Best Practices Guide 13.0 as its source; pipes taken to be as of 9.0, since the "
            "compiler chooses the same instructions",
            note="whether additions go to the ALU pipe or to the FMA pipe is not documented: a range over both; "
            + _WIDE_IS_OPEN,
            placements={"IADD3": _OPEN, "IADD": _OPEN, "VIADD": _OPEN[::-1]},
        ),
        Architecture(
            "12.0",
            "Blackwell",
            128,
            2,
            "CUDA C++ Best Practices Guide 13.4, section 12.1.1, column 12.0, at second hand (128 results a clock "
            "of 32-bit add, 64 of logic, shift and multiply-add, 2 of FP64); Nsight Compute Profiling Guide, Metrics "
            "Decoder (the ALU is ALUHeavy and ALULite, the latter a part of the physical pipe FMAHeavy)",
            note="which instructions are ALULite's (IADD and not IADD3, MOV, SEL, ISETP) is assumed: no document says "
            "so; pipe and rate of the 64-bit addition are not documented: a range over one or two "
            f"slots of either pipe; {_WIDE_IS_OPEN}",
            placements={
                **dict.fromkeys(("IADD", "MOV", "SEL", "ISETP", "IMNMX", "VIMNMX", "VIMNMX3"), _ON_FMA),
                "MOV.64": (Placement({FMA: 2}),),
                "IADD.64": tuple(Placement(slots) for slots in ({FMA: 2}, {FMA: 1}, {ALU: 1}, {ALU: 2})),
            },
        ),
    )
}
"""By compute capability. Each of a multiprocessor's four schedulers issues one instruction of a warp per clock (see
NVIDIA's architecture whitepapers), so 128 instructions of one thread."""


def architecture(compute_capability: str) -> Architecture:
    """The architecture of a compute capability.

    Raises:
        ValueError: its pipes are unknown.
    """
    try:
        return ARCHITECTURES[compute_capability]
    except KeyError:
        accepted = ", ".join(ARCHITECTURES)
        what = f"the pipes of compute capability {compute_capability} are unknown"
        raise ValueError(f"{what}: accepted are {accepted}") from None
