"""Predicts the throughput of a GPU from its machine code alone.

The code that its vendor's compiler generates for its architecture is disassembled, and the instructions of one message
block are counted (`hashbench.limits.machine_code`) by the pipe that executes them (`hashbench.limits.architectures`).
The throughput is bound by the busiest of the pipes, the schedulers and the memory bandwidth. Nothing is fitted to
measurements: a prediction is the limit of a multiprocessor that never stalls, at its published boost clock. Where no
rates are documented, it is a count of instructions alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product

import pandas as pd

from hashbench.bench.frames import Line, lines
from hashbench.bench.records import Format
from hashbench.kernels import Algorithm
from hashbench.kernels.source import VARIANTS
from hashbench.limits import amd_assembly, disassembly, intel_assembly
from hashbench.limits.architectures import (
    ALU,
    AMD,
    FMA,
    FP64,
    INTEL,
    ISSUE,
    NVIDIA,
    PIPES,
    Architecture,
    Placement,
    architecture,
)
from hashbench.limits.gpus import GPU
from hashbench.limits.machine_code import BlockCode

SCHEMA = 3
"""The version of the file format. Version 2 had compute capabilities instead of targets, as all GPUs were NVIDIA's."""

MEMORY = "memory"
UNKNOWN = "unknown"
BOUNDS = (*PIPES, MEMORY, UNKNOWN)
"""What can bound the throughput."""

CHECKED_BY = "architectures"
"""The experiment whose rows check predictions, if it has any."""

CHECKED_CHUNK_SIZE = 4096
"""Bytes per chunk in the rows that check predictions: enough chunks to fill a GPU, and little padding."""


@dataclass(frozen=True)
class Toolchain:
    """How the code for one vendor's GPUs is compiled and counted.

    Attributes:
        block_code: the instructions of a message block, by algorithm, variant and target.
        name: the names and versions of the compiler and the disassembler for a target.
        kernel: the kernel that launches the counted source, and whose rows check the predictions.
        variants: the variants that differ there, the default first.
    """

    block_code: Callable[[Algorithm, str, str], BlockCode]
    name: Callable[[str], str]
    kernel: str
    variants: Sequence[str]


def _sm(target: str) -> int:
    """NVIDIA's number for a target: 90 for "sm_90"."""
    return int(target.removeprefix("sm_"))


_WITHOUT_PTX = ("plain", "unrolled", "bytewise")

TOOLCHAINS = {
    NVIDIA: Toolchain(
        lambda algorithm, variant, target: disassembly.block_code(algorithm, variant, _sm(target)),
        lambda target: disassembly.toolchain(),
        "cupy",
        tuple(VARIANTS),
    ),
    AMD: Toolchain(amd_assembly.block_code, amd_assembly.toolchain, "opencl", _WITHOUT_PTX),
    INTEL: Toolchain(intel_assembly.block_code, intel_assembly.toolchain, "opencl", _WITHOUT_PTX),
}
"""By vendor."""


def toolchain(gpu: GPU) -> Toolchain:
    """The toolchain of a GPU's vendor."""
    return TOOLCHAINS[architecture(gpu.target).vendor]


@dataclass(frozen=True)
class Demand:
    """What one message block of one thread demands of a multiprocessor.

    Attributes:
        instructions: how many instructions are issued.
        slots: issue slots on each of PIPES, by the architecture's first placements.
        range: the same for every possible placement of what is not documented, including the first ones.
    """

    instructions: float
    slots: Mapping[str, float]
    range: Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One predicted throughput. None of it is measured. The fields are the columns, in order.

    Attributes:
        schema: the version of the file format.
        gpu: the GPU's name.
        target: the compilers' name for its architecture.
        architecture: the vendor's name for it.
        algorithm: "sha256" or "sha384".
        variant: the variant of the device code.
        instructions: instructions per message block and thread, rounded.
        alu_slots, fma_slots, fp64_slots: issue slots they need on each pipe, rounded; None (an empty cell) if none.
        alu_gb_per_s, fma_gb_per_s, fp64_gb_per_s, issue_gb_per_s, memory_gb_per_s: the limits set by each pipe, the
            schedulers and the memory bandwidth, rounded; None if there is none.
        bound: which of these limits is the lowest; UNKNOWN if those of the pipes are not known.
        predicted_gb_per_s: that limit, in 1e9 bytes per second; None if it is not known.
        predicted_low, predicted_high: the range over possible placements of what is not documented, in GB/s.
        code: the block's instructions, by opcode.
        toolchain: the compiler and the disassembler.
        source: the sources for the GPU's and the pipes' figures.
        note: what is uncertain.
        commit: the commit of the code that predicted.
        date: ISO 8601, UTC.
    """

    schema: int = SCHEMA
    gpu: str
    target: str
    architecture: str
    algorithm: str
    variant: str
    instructions: int
    alu_slots: int | None
    fma_slots: int | None
    fp64_slots: int | None
    alu_gb_per_s: int | None
    fma_gb_per_s: int | None
    fp64_gb_per_s: int | None
    issue_gb_per_s: int | None
    memory_gb_per_s: int | None
    bound: str
    predicted_gb_per_s: float | None
    predicted_low: float | None
    predicted_high: float | None
    code: str
    toolchain: str
    source: str
    note: str
    commit: str
    date: str

    @property
    def point(self) -> tuple[str, ...]:
        """Identifies what was predicted."""
        return (self.gpu, self.algorithm, self.variant)

    @property
    def spread(self) -> tuple[float, float, float] | None:
        """The lowest, the likeliest and the highest throughput; None if none is known."""
        if self.predicted_low is None or self.predicted_gb_per_s is None or self.predicted_high is None:
            return None
        return self.predicted_low, self.predicted_gb_per_s, self.predicted_high

    @property
    def arithmetic_gb_per_s(self) -> int | None:
        """The limit set by the pipes and the schedulers, if the memory were fast enough; None if it is not known."""
        of_each = (self.alu_gb_per_s, self.fma_gb_per_s, self.fp64_gb_per_s, self.issue_gb_per_s)
        return min((limit for limit in of_each if limit), default=None)


FORMAT = Format(Prediction, SCHEMA, {"bound": BOUNDS})

PREDICTIONS_FILE = "predictions.csv"
"""The file of predictions in the folder of results."""


def demand(code: BlockCode, target: Architecture) -> Demand:
    """What a block's instructions demand of a multiprocessor.

    Raises:
        UnplacedError: the pipe of an instruction is unknown.
    """
    counts: dict[str, float] = defaultdict(float)
    placements: dict[str, tuple[Placement, ...]] = {}
    for mnemonic, count in code.instructions.items():
        name, placements[name] = target.place(mnemonic)
        counts[name] += count
    ways = [_slots(counts, dict(zip(placements, way, strict=True))) for way in product(*placements.values())]
    return Demand(code.total, ways[0], ways)


def limits(gpu: GPU, slots: Mapping[str, float], block_size: int) -> dict[str, float]:
    """The throughput in GB/s that each of BOUNDS allows, except pipes that a block does not use.

    Args:
        gpu: its units, clock and memory bandwidth set the limits.
        slots: issue slots that a block needs on each of PIPES.
        block_size: bytes of a block. Each is read once; digests are not counted.
    """
    rates = architecture(gpu.target).rates
    clocks = 1e6 * gpu.boost_mhz * gpu.units
    found = {pipe: 1e-9 * clocks * rate / slots[pipe] * block_size for pipe, rate in rates.items() if slots[pipe]}
    return {**found, MEMORY: gpu.memory_gb_per_s}


def predict(gpu: GPU, algorithm: Algorithm, variant: str, commit: str) -> Prediction:
    """Predicts the throughput of `gpu` with the code that is compiled for it.

    Raises:
        CompileError: the code does not compile for the GPU.
        StructureError: the structure of the code is not as expected.
        Unavailable: the compiler or the disassembler is missing, or does not support the GPU.
        UnplacedError: the pipe of an instruction is unknown.
    """
    tools = toolchain(gpu)
    code = tools.block_code(algorithm, variant, gpu.target)
    return predicted(gpu, algorithm, variant, code, tools.name(gpu.target), commit)


def predicted(gpu: GPU, algorithm: Algorithm, variant: str, code: BlockCode, tools: str, commit: str) -> Prediction:
    """The prediction for code whose instructions are already counted.

    Raises:
        UnplacedError: the pipe of an instruction is unknown.
    """
    target = architecture(gpu.target)
    taken = demand(code, target)
    of_each = limits(gpu, taken.slots, algorithm.block_size)
    over_ways = [min(limits(gpu, slots, algorithm.block_size).values()) for slots in taken.range]
    bound = min(of_each, key=lambda name: of_each[name]) if target.rates else UNKNOWN
    return Prediction(
        gpu=gpu.name,
        target=gpu.target,
        architecture=target.name,
        algorithm=algorithm.name,
        variant=variant,
        instructions=round(taken.instructions),
        alu_slots=_whole(taken.slots[ALU]),
        fma_slots=_whole(taken.slots[FMA]),
        fp64_slots=_whole(taken.slots[FP64]),
        alu_gb_per_s=_whole(of_each.get(ALU)),
        fma_gb_per_s=_whole(of_each.get(FMA)),
        fp64_gb_per_s=_whole(of_each.get(FP64)),
        issue_gb_per_s=_whole(of_each.get(ISSUE)),
        memory_gb_per_s=_whole(of_each.get(MEMORY)),
        bound=bound,
        predicted_gb_per_s=_rounded(of_each[bound]) if target.rates else None,
        predicted_low=_rounded(min(over_ways)) if target.rates else None,
        predicted_high=_rounded(max(over_ways)) if target.rates else None,
        code=_by_opcode(code),
        toolchain=tools,
        source=f"{gpu.source}; pipes: {target.source}",
        note="; ".join(filter(None, (gpu.note, target.note))),
        commit=commit,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def measured(prediction: Prediction, gpu: GPU, rows: pd.DataFrame) -> Line | None:
    """The row that checks a prediction; None if there is none, or nothing to check.

    It is of the same source on that GPU, if not by the same compiler: batched, in chunks of 4 KiB. Rows of `CHECKED_BY`
    come first, so that its figure and every table agree; of several, those of the most bytes; of those, the median
    throughput.
    """
    if prediction.predicted_gb_per_s is None:
        return None
    wanted = {
        "kernel": toolchain(gpu).kernel,
        "strategy": "batched",
        "chunk_size": CHECKED_CHUNK_SIZE,
        "device_name": gpu.device_name,
        "algorithm": prediction.algorithm,
        "variant": prediction.variant,
    }
    found = rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis="columns")]
    if (found["experiment"] == CHECKED_BY).any():
        found = found[found["experiment"] == CHECKED_BY]
    found = found[found["bytes"] == found["bytes"].max()].sort_values("gb_per_s", kind="stable")
    return list(lines(found))[len(found) // 2] if len(found) else None


def error(prediction: Prediction, row: Line) -> float:
    """How far a prediction is above the measured throughput, as a share of it."""
    assert prediction.predicted_gb_per_s is not None, "no row checks a count of instructions"
    return float(prediction.predicted_gb_per_s / row.gb_per_s - 1)


def checks(
    predictions: Sequence[Prediction], gpus: Mapping[str, GPU], rows: pd.DataFrame
) -> Iterator[tuple[Prediction, Line]]:
    """Each prediction that a row checks, with that row."""
    for prediction in predictions:
        if row := measured(prediction, gpus[prediction.gpu], rows):
            yield prediction, row


def _slots(counts: Mapping[str, float], way: Mapping[str, Placement]) -> dict[str, float]:
    slots = dict.fromkeys(PIPES, 0.0)
    for name, count in counts.items():
        for pipe, taken in way[name].slots.items():
            slots[pipe] += count * taken
    return slots | {ISSUE: float(sum(counts.values()))}


def _by_opcode(code: BlockCode) -> str:
    counts: dict[str, float] = defaultdict(float)
    for mnemonic, count in code.instructions.items():
        counts[mnemonic.partition(".")[0]] += count
    return ", ".join(f"{opcode} {counts[opcode]:g}" for opcode in sorted(counts, key=lambda o: (-counts[o], o)))


def _whole(value: float | None) -> int | None:
    return round(value or 0) or None


def _rounded(value: float) -> float:
    """To five significant digits: more would suggest a precision that predictions do not have."""
    return float(f"{value:.5g}")
