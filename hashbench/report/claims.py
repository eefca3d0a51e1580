"""The claims under test, those of "Scalable GPU-Based Integrity Verification for Large Machine Learning Models"
(Spoczynski and Melara): what is claimed, which experiment answers it, by what rule, and what the answer leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from hashbench.bench.experiment import MachineResults
from hashbench.report.evidence import (
    FILLING_BYTES,
    FRAMEWORKS,
    IN_PLACE_SHARE,
    LARGE_BYTES,
    LARGE_SECONDS,
    LIMIT_SHARE,
    MAGNITUDE,
    MARGIN,
    SCALING_SHARE,
    TREE_COST,
    VENDORS,
    agreement,
    cost_of_the_tree,
    scaling,
    share_of_other_ways,
    share_of_the_limit,
    speed_up,
)
from hashbench.report.findings import Check, Finding

Results = Mapping[str, Sequence[MachineResults]]
"""What was measured: by experiment, and in it by machine."""


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: "C1" to "C8".
        statement: what is claimed.
        rule: what its checks ask, in plain words.
        experiment: that answers it; "" where there is none yet.
        shows: what the figure shows.
        leaves_open: what neither the figure nor the verdict says.
        judge: what finds the answer.
        beside: further experiments whose results it takes up; None for every one.
    """

    name: str
    statement: str
    rule: str
    experiment: str = ""
    shows: str = ""
    leaves_open: str = ""
    judge: Callable[[Sequence[MachineResults]], Finding] | None = None
    beside: Sequence[str] | None = ()

    def finding(self, results: Results) -> Finding:
        """What `results` say of the claim."""
        if self.judge is None:
            return Finding((Check("Is there an experiment?", "Not yet.", None),))
        names = sorted(results) if self.beside is None else (self.experiment, *self.beside)
        return self.judge(_together(results.get(name, ()) for name in names))


def _together(experiments: Iterable[Sequence[MachineResults]]) -> list[MachineResults]:
    """What each machine has of several experiments."""
    found: dict[str, MachineResults] = {}
    for machine in chain.from_iterable(experiments):
        known = found.get(machine.name, MachineResults(machine.name, (), ()))
        rows, readings = (*known.rows, *machine.rows), (*known.readings, *machine.readings)
        found[machine.name] = MachineResults(machine.name, rows, readings)
    return list(found.values())


CLAIMS: Sequence[Claim] = (
    Claim(
        "C1",
        "GPU hashing scales: models over 100 GB verify in near real time.",
        f"For each algorithm: all roots of a model of {LARGE_BYTES * 1e-9:g} GB or more, in one call on one GPU, take "
        f"at most {LARGE_SECONDS:g} s by the wall's clock; and from {FILLING_BYTES * 1e-9:g} GB on, where a model has "
        f"chunks enough to fill a GPU, throughput keeps within {SCALING_SHARE:.0%} of the largest model's. Of each GPU "
        "the kernel and chunk size that hashed the largest model and the most models count, and of several the "
        "fastest. The worst GPU decides, of those that such a model fits.",
        "model-sizes",
        "Throughput, and the seconds to the roots of all tensors, against the bytes of a model.",
        "The tensors are of real shapes, filled with random bytes that are in the GPU's memory already: neither "
        "reading a model nor copying it to the GPU is part of the time, nor are the signatures over its roots.",
        scaling,
    ),
    Claim(
        "C2",
        "GPU hashing is faster than verification on a CPU by an order of magnitude and more.",
        f"For each algorithm: every model is hashed on the GPU at least {MAGNITUDE:g} times as fast as by the fastest "
        "program on one core of the same machine, and as by the fastest on all its cores, all by the wall's clock. "
        "Programs are hashlib, OpenSSL, coreutils and model-signing, over models, files or messages, whatever was "
        "measured of them on that machine; the slowest model on the GPU's side counts.",
        "cpu-speedup",
        "How many times as fast as hashlib on one core each kernel and program hashes, on a logarithmic axis.",
        "It compares hashing alone, each where the bytes lie: in the GPU's memory and in the host's. What it takes to "
        "bring them to the GPU is C6. A host with more cores narrows the gap to all cores. The fastest program may be "
        "one that makes plain digests, which is slightly less work than a tree.",
        speed_up,
        beside=("peers", "throughput", "vendors"),
    ),
    Claim(
        "C3",
        "A hierarchical Merkle tree makes the hash parallel at little cost.",
        "For each algorithm and GPU: with the chunk size at which the tree is fastest, it takes at most "
        f"{TREE_COST:.0%} more time than the digests of the same chunks without a tree. One that takes over "
        f"{MARGIN:.0%} less is a wrong measurement, which leaves the check without an answer.",
        "batched-vs-tree",
        "Throughput against the chunk size, batched and as a tree, and the latency of small tensors.",
        "The cost is over the chunks' digests, not over one SHA-2 digest of the whole buffer, which no GPU can compute "
        "in parallel. Small chunks cost more. Without a tree another chunk size may be the fastest; the answer says "
        "what the best tree costs over the best digests too.",
        cost_of_the_tree,
    ),
    Claim(
        "C4",
        "One mechanism works on every vendor's hardware.",
        "All kernels and devices that hashed the same input give the same digest, in every experiment; one GPU runs "
        f"it through {FRAMEWORKS} frameworks or more; and GPUs of {VENDORS} vendors or more were measured. A vendor is "
        "told by the device's name.",
        "vendors",
        "The throughput of each kernel on each device, and whether all digests of this experiment are equal.",
        "A vendor whose GPUs nobody measured is not covered, whatever the source is written for. Kernels on a CPU show "
        "that the code is right there, not that a CPU is a good place for it.",
        agreement,
        beside=None,
    ),
    Claim(
        "C5",
        "GPU hashing uses the hardware well.",
        f"For each algorithm: every GPU reaches {LIMIT_SHARE:.0%} or more of the limit that its own pipes set, as "
        f"computed from instruction rates that were measured on it. A share of over {1 + MARGIN:.0%} is a wrong "
        "measurement, which leaves the check without an answer.",
        "architectures",
        "The measured throughput against the limit of the same GPU, and beside it what the machine code predicts for "
        "GPUs that were not measured, in marks of their own.",
        "The limit is that of SHA-2 as written for the pipes of the GPU; it says nothing of other algorithms. "
        "Predictions carry no part of the verdict.",
        share_of_the_limit,
    ),
    Claim(
        "C6",
        "Hashing in place removes the copy, and with it the time from check to use.",
        f"Hashing a model where it lies in the GPU's memory takes at most {IN_PLACE_SHARE:.0%} of the time from a file "
        "to the verdict, and of the time of copying it back to the host to hash it there. Of these ways the fastest "
        "that was measured counts: through page-locked or pageable memory, overlapped, from a disk or from files in "
        "memory. The answer says through which memory.",
        "end-to-end",
        "The seconds of each way to a verdict, split into reading, copying, hashing and reducing.",
        "Time alone: that nothing can change between check and use follows from hashing the very bytes that are used, "
        "which no stop-watch shows. In place the model must be there already, which a file to verdict includes. "
        "Measured with SHA-256 alone.",
        share_of_other_ways,
    ),
    Claim("C7", "It runs beside the model without hurting it.", "No experiment measures it yet."),
    Claim("C8", "Dedicated matrix units help.", "No experiment measures it yet."),
)
"""Every claim, in order."""
