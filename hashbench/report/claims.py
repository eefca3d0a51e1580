"""The claims under test, those of "Scalable GPU-Based Integrity Verification for Large Machine Learning Models"
(Spoczynski and Melara): what is claimed, which experiment tests it, and what the verdict leaves open.

Each experiment judges its claim itself: see `hashbench.report.findings.ClaimExperiment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hashbench.bench.experiment import experiment_named
from hashbench.bench.frames import Results, together
from hashbench.report.findings import Check, ClaimExperiment, Finding


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        name: "C1" to "C9".
        statement: what is claimed.
        experiment: the experiment that tests it; "" if there is none yet.
        shows: what the figure shows.
        leaves_open: what neither the figure nor the verdict says.
        beside: other experiments whose results count; None for all of them.
    """

    name: str
    statement: str
    experiment: str = ""
    shows: str = ""
    leaves_open: str = ""
    beside: Sequence[str] | None = ()

    @property
    def rule(self) -> str:
        """What its checks ask, in plain words."""
        return self._judge.rule if self.experiment else "No experiment measures it yet."

    def finding(self, results: Mapping[str, Results]) -> Finding:
        """What `results`, by experiment, say about the claim."""
        if not self.experiment:
            return Finding((Check("Is there an experiment?", "Not yet.", None),))
        names = sorted(results) if self.beside is None else (self.experiment, *self.beside)
        return self._judge.finding(together(results[name] for name in names if name in results))

    @property
    def _judge(self) -> ClaimExperiment:
        experiment = experiment_named(self.experiment)
        if not isinstance(experiment, ClaimExperiment):
            raise TypeError(f"the experiment {self.experiment!r} of claim {self.name} judges no claim")
        return experiment


CLAIMS: Sequence[Claim] = (
    Claim(
        "C1",
        "GPU hashing scales: models over 100 GB verify in near real time.",
        "model-sizes",
        "Throughput, and the seconds to the roots of all tensors, against the size of the model.",
        "The tensors have real shapes and random bytes, and are in the GPU's memory already: the time includes neither "
        "reading a model nor copying it to the GPU, nor signatures over its roots.",
    ),
    Claim(
        "C2",
        "GPU hashing is faster than verification on a CPU by an order of magnitude and more.",
        "cpu-speedup",
        "How many times as fast as hashlib on one core each kernel and program hashes, on a logarithmic axis.",
        "It compares hashing alone, of bytes that are already in the GPU's memory or in the host's. C6 covers what it "
        "takes to bring them to the GPU. A host with more cores narrows the gap to all cores. The fastest program may "
        "compute plain digests, which is slightly less work than a tree.",
        beside=("peers", "throughput", "vendors"),
    ),
    Claim(
        "C3",
        "A hierarchical Merkle tree makes the hash parallel at little cost.",
        "batched-vs-tree",
        "Throughput against the chunk size, batched and as a tree, and the latency of small tensors.",
        "The cost is relative to the chunks' digests, not to one SHA-2 digest of the whole buffer, which no GPU can "
        "compute in parallel. Small chunks cost more. Without a tree another chunk size may be the fastest; the answer "
        "also gives the cost of the best tree over the best digests.",
    ),
    Claim(
        "C4",
        "One mechanism works on every vendor's hardware.",
        "vendors",
        "The throughput of each kernel on each device, and whether all digests of this experiment are equal.",
        "Vendors whose GPUs were not measured are not covered, even if the source supports them. Kernels on a CPU show "
        "that the code is correct there, not that a CPU is a good place for it.",
        beside=None,
    ),
    Claim(
        "C5",
        "GPU hashing uses the hardware well.",
        "architectures",
        "The measured throughput against the limit of the same GPU, and, in different marks, predictions from machine "
        "code for GPUs that were not measured.",
        "The limit is for SHA-2 as written for the pipes of the GPU; it says nothing about other algorithms. "
        "Predictions do not count.",
    ),
    Claim(
        "C6",
        "Hashing in place removes the copy, and with it the time from check to use.",
        "end-to-end",
        "The seconds of each way to a verdict, split into reading, copying, hashing and reducing.",
        "Only time is measured. That nothing can change between check and use follows from hashing the very bytes that "
        "are used. In place, the model must already be in memory; the time from a file includes bringing it there. "
        "Measured with SHA-256 only.",
    ),
    Claim(
        "C7",
        "It runs beside the model without hurting it.",
        "beside",
        "The share of a decoder's throughput that is lost over what is verified meanwhile, for many schedules.",
        "One decoder, which works without rest: in the pauses of an engine hashing costs nothing. The portions that "
        "its graph carries lie beside the product that was seen to leave most of the GPU idle. Other engines have "
        "other kernels, and other GPUs other multiprocessors.",
    ),
    Claim(
        "C8",
        "Dedicated matrix units help.",
        "matrix-units",
        "The throughput of SHA-256 with parts of its message schedule in Tensor Cores, beside the same code without; "
        "and how much else a multiprocessor still executes beside matrix instructions.",
        "Other uses of matrix units may exist; those that were only counted are in the documentation. SHA-384 was not "
        "measured. Other vendors' units (XMX, MFMA) were not measured.",
        beside=("ablation",),
    ),
    Claim(
        "C9",
        "The whole framework (sign, load verified, attest, appraise) costs little beside hashing.",
        "chain",
        "The milliseconds of each link of the chain of trust beside hashing, and of what a process imports once.",
        "The quote is a simulated platform's: how long a real one takes to make it was not measured. Reading and "
        "copying count as hashing. Signing takes as long as SHA-256 of the largest file on one core, which is most of "
        "its time. Files of a model over 20 GB had holes instead of bytes, so that the time of hashing them is not in "
        "the results.",
    ),
)
"""Every claim, in order."""
