"""How fast a GPU that is not at hand would hash, predicted from the machine code alone.

The code that the compiler makes for the GPU's architecture is disassembled (`hashbench.limits.disassembly`), and the
instructions of one message block are counted by the pipe that executes them (`hashbench.limits.architectures`). The
busiest of the pipes, the schedulers and the memory's bandwidth bounds the throughput. Nothing is fitted to
measurements: a prediction is the limit of a multiprocessor that never waits, at the clock that is promised.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product

from hashbench.bench.records import Format
from hashbench.bench.results import Row
from hashbench.kernels import Algorithm
from hashbench.limits.architectures import ALU, FMA, FP64, ISSUE, PIPES, Architecture, Placement, architecture
from hashbench.limits.disassembly import BlockCode, block_code, toolchain
from hashbench.limits.gpus import GPU

SCHEMA = 1
"""The version of the file format: what the columns are and mean."""

KERNEL = "cupy"
"""The kernel that the counted source is launched by, and whose rows check the predictions."""

MEMORY = "memory"
BOUNDS = (*PIPES, MEMORY)
"""What can bound a throughput."""

CHECKED_BY = "architectures"
"""The experiment whose rows check predictions before those of others do."""

CHECKED_CHUNK_SIZE = 4096
"""Bytes of a chunk in the rows that check predictions: many chunks, to fill a GPU, few blocks that are not whole."""


@dataclass(frozen=True)
class Demand:
    """What one message block takes of a multiprocessor, for one thread.

    Attributes:
        instructions: how many are issued.
        slots: lanes' turns on each of PIPES, as the architecture's first placements have it.
        range: the same for every way of placing what is not documented, the first placements' among them.
    """

    instructions: float
    slots: Mapping[str, float]
    range: Sequence[Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One predicted throughput, nothing of it measured. The fields are the columns, in order.

    Attributes:
        schema: version of the file format.
        gpu: the GPU's name.
        compute_capability: of the GPU.
        architecture: NVIDIA's name of it.
        algorithm: "sha256" or "sha384".
        variant: of the device code.
        instructions: that a message block executes in one thread, rounded.
        alu_slots, fma_slots, fp64_slots: lanes' turns that it takes on each pipe, rounded; None (an empty cell) where
            it takes none.
        alu_gb_per_s, fma_gb_per_s, fp64_gb_per_s, issue_gb_per_s, memory_gb_per_s: the limit of each pipe, of the
            schedulers and of the memory's bandwidth, rounded; None where it is none.
        bound: which of them is the lowest.
        predicted_gb_per_s: that limit, in 1e9 bytes a second.
        predicted_low, predicted_high: the range that placements which are not documented leave, in GB/s.
        code: the block's instructions, by opcode.
        toolchain: the compiler and the disassembler.
        source: where the GPU's and the pipes' figures stand.
        note: what is uncertain.
        commit: of the code that predicted.
        date: when, ISO 8601, UTC.
    """

    schema: int = SCHEMA
    gpu: str
    compute_capability: str
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
    predicted_gb_per_s: float
    predicted_low: float
    predicted_high: float
    code: str
    toolchain: str
    source: str
    note: str
    commit: str
    date: str

    @property
    def point(self) -> tuple[str, ...]:
        """What was predicted; predicting the same again replaces the record."""
        return (self.gpu, self.algorithm, self.variant)


FORMAT = Format(Prediction, SCHEMA, {"bound": BOUNDS})

PREDICTIONS_FILE = "predictions.csv"
"""Where predictions stand in the folder of results."""


def demand(code: BlockCode, target: Architecture) -> Demand:
    """What a block's instructions take of a multiprocessor.

    Raises:
        UnplacedError: an instruction's pipe is not known.
    """
    counts: dict[str, float] = defaultdict(float)
    placements: dict[str, tuple[Placement, ...]] = {}
    for mnemonic, count in code.instructions.items():
        name, placements[name] = target.place(mnemonic)
        counts[name] += count
    ways = [_slots(counts, dict(zip(placements, way, strict=True))) for way in product(*placements.values())]
    return Demand(code.total, ways[0], ways)


def limits(gpu: GPU, slots: Mapping[str, float], block_size: int) -> dict[str, float]:
    """The throughput in GB/s that each of BOUNDS allows; those of which a block takes nothing are left out.

    Args:
        gpu: whose multiprocessors, clock and memory count.
        slots: that a block takes of each of PIPES.
        block_size: bytes of a block, each of which is read once; digests are not counted.
    """
    rates = architecture(gpu.compute_capability).rates
    clocks = 1e6 * gpu.boost_mhz * gpu.multiprocessors
    found = {pipe: 1e-9 * clocks * rates[pipe] / slots[pipe] * block_size for pipe in PIPES if slots[pipe]}
    return {**found, MEMORY: gpu.memory_gb_per_s}


def predict(gpu: GPU, algorithm: Algorithm, variant: str, commit: str) -> Prediction:
    """What `gpu` would hash a second, by the code that is compiled for it.

    Raises:
        CompileError: the code does not compile for it.
        StructureError: the code is not understood.
        Unavailable: the compiler or the disassembler is missing.
        UnplacedError: an instruction's pipe is not known.
    """
    return predicted(gpu, algorithm, variant, block_code(algorithm, variant, gpu.architecture), toolchain(), commit)


def predicted(gpu: GPU, algorithm: Algorithm, variant: str, code: BlockCode, tools: str, commit: str) -> Prediction:
    """The prediction for code that was counted already.

    Raises:
        UnplacedError: an instruction's pipe is not known.
    """
    target = architecture(gpu.compute_capability)
    taken = demand(code, target)
    of_each = limits(gpu, taken.slots, algorithm.block_size)
    over_ways = [min(limits(gpu, slots, algorithm.block_size).values()) for slots in taken.range]
    bound = min(of_each, key=lambda name: of_each[name])
    return Prediction(
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
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
        predicted_gb_per_s=_rounded(of_each[bound]),
        predicted_low=_rounded(min(over_ways)),
        predicted_high=_rounded(max(over_ways)),
        code=_by_opcode(code),
        toolchain=tools,
        source=f"{gpu.source}; pipes: {target.source}",
        note="; ".join(filter(None, (gpu.note, target.note))),
        commit=commit,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def measured(prediction: Prediction, gpu: GPU, rows: Iterable[Row]) -> Row | None:
    """The row that checks a prediction: the same source on that GPU, if not by the same compiler, batched, in chunks of
    4 KiB, of the most bytes. Those of the experiment that draws predictions go first, so that its figure and every
    table say the same; of several the middle one in throughput. None where there is no such row."""
    found = [
        row
        for row in rows
        if (row.kernel, row.strategy, row.chunk_size) == (KERNEL, "batched", CHECKED_CHUNK_SIZE)
        and (row.device_name, row.algorithm, row.variant) == (gpu.device_name, prediction.algorithm, prediction.variant)
    ]
    found = [row for row in found if row.experiment == CHECKED_BY] or found
    most = max((row.bytes for row in found), default=0)
    found = sorted((row for row in found if row.bytes == most), key=lambda row: row.gb_per_s)
    return found[len(found) // 2] if found else None


def error(prediction: Prediction, row: Row) -> float:
    """How far a prediction lies above what was measured, as a share of it."""
    return prediction.predicted_gb_per_s / row.gb_per_s - 1


def checks(
    predictions: Sequence[Prediction], gpus: Mapping[str, GPU], rows: Sequence[Row]
) -> Iterator[tuple[Prediction, Row]]:
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
    """To five significant digits: more would say that a prediction knows them."""
    return float(f"{value:.5g}")
