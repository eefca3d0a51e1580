"""The ranks of the experiment `sharded`: processes that hold a model together, and verify it.

Every word of a model follows from its tensor and its place there. So a model has the same bytes however it is sharded,
and any tensor of it can be made again on the host and hashed by hashlib.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hashbench.bench.experiment import SEED
from hashbench.bench.inventories import MODELS, Tensor
from hashbench.bench.results import REFERENCE
from hashbench.experiments.in_place import DTYPES, module_with
from hashbench.experiments.rank_pool import Failed, RankPool
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.selection import choose
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.disk import verify
from hashbench.model.manifest import parse_manifest

if TYPE_CHECKING:
    import torch

    from hashbench.distributed import ShardedReport
    from hashbench.model.manifest import Manifest

FSDP, TP = "FSDP2", "TP"
"""The layouts: everything sharded along its first dimension; or what tensor parallelism shards."""

_COLUMNS = ("o_proj.weight", "down_proj.weight", "w2.weight")
"""The ends of the names of matrices that tensor parallelism shards along their second dimension."""

_ERROR_SIZE = 1000
"""Characters of an error at most."""

_PIECE_WORDS = 1 << 24
"""Words that are made at a time."""


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        model: the name of the inventory.
        layout: FSDP or TP.
        ranks: how many ranks hold the model: the first of those that there are.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.
        runs: how often it is verified.
        flips: how often with a flipped bit.
    """

    model: str
    layout: str
    ranks: int
    algorithm: str
    chunk_size: int
    runs: int
    flips: int


@dataclass(frozen=True)
class Files:
    """One measurement of a folder that ranks verify together, each with a device of its own.

    Attributes:
        folder: the folder.
        manifest: its manifest, as text.
        kernel: what hashes.
        devices: the device of each rank.
    """

    folder: str
    manifest: bytes
    kernel: str
    devices: tuple[str, ...]

    @property
    def ranks(self) -> int:
        """How many ranks take part: the first of those that there are."""
        return len(self.devices)


@dataclass(frozen=True)
class Answer:
    """What one rank found.

    Attributes:
        root: that of the model's manifest.
        kernel: what hashed.
        seconds: from the call to the verdict, of each run.
        flips: the same with a flipped bit, each found and blamed on its rank.
        sent: the bytes that this rank sent to others for one verdict.
    """

    root: str = ""
    kernel: str = ""
    seconds: list[float] = field(default_factory=list)
    flips: list[float] = field(default_factory=list)
    sent: int = 0


class Ranks:
    """The ranks of one group: a process for each GPU, or for each core.

    Args:
        count: how many.
        kind: "gpu" or "cpu".

    Attributes:
        count: how many there are.
    """

    def __init__(self, count: int, kind: str) -> None:
        self.count = count
        self._kind = kind
        backend = "cpu:gloo,cuda:nccl" if kind == "gpu" else "gloo"
        self._pool = RankPool(count, get_context("spawn"), backend, _take_gpu if kind == "gpu" else _take_core)

    def close(self) -> None:
        """Ends them."""
        self._pool.close()

    def measure(self, case: Case | Files) -> list[Answer]:
        """What each rank that takes part found.

        Raises:
            VerificationError: a rank found something wrong.
            RuntimeError: a rank ended.
        """
        answers = self._pool.run(_answer, case, self._kind)
        for rank, answer in enumerate(answers):
            if answer is None:
                raise RuntimeError(f"rank {rank} ended while it measured {case}")
            if isinstance(answer, Failed):
                raise VerificationError(f"rank {rank}, {case}: {answer.kind}: {answer.message}"[:_ERROR_SIZE])
        return answers[: case.ranks]


def _take_gpu(rank: int) -> None:
    os.environ.update(NCCL_NVLS_ENABLE="0", TORCH_SYMM_MEM_DISABLE_MULTICAST="1", TORCH_NCCL_HIGH_PRIORITY="1")
    import torch

    torch.cuda.set_device(rank)


def _take_core(rank: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    import torch

    torch.set_num_threads(1)  # others would wait for each other on the rank's core


def _answer(rank: int, case: Case | Files, kind: str) -> Answer:
    """What a rank finds; nothing if it takes no part."""
    group = _group(case.ranks)
    if rank >= case.ranks:
        return Answer()
    if isinstance(case, Files):
        return _verified(case, rank, group)
    return _measured(case, rank, "cuda" if kind == "gpu" else "cpu", group)


@cache
def _group(count: int) -> Any:
    """The group of the first ranks. All ranks make it, also those that are not in it."""
    import torch.distributed as dist

    return dist.new_group(list(range(count)))


def _verified(case: Files, rank: int, group: Any) -> Answer:
    import torch.distributed as dist

    from hashbench.distributed.launched import Launched

    team = Launched(group)
    expected = parse_manifest(case.manifest)
    dist.barrier(group)
    begin = perf_counter()
    report = verify(case.folder, expected, kernel=case.kernel, device=case.devices[rank], team=team)
    seconds = perf_counter() - begin
    if not report.ok:
        raise VerificationError(f"the files are what they were, but the verdict is: {report}")
    return Answer(seconds=[seconds])


def _measured(case: Case, rank: int, kind: str, group: Any) -> Answer:
    import torch
    import torch.distributed as dist

    from hashbench import distributed
    from hashbench.torch import kernel_for

    place = torch.device(kind, rank) if kind == "cuda" else torch.device("cpu")
    kernel = kernel_for(place, case.algorithm)
    kernel.trim()
    module = _ready(case, rank, place, group)
    expected = distributed.manifest(module, algorithm=case.algorithm, chunk_size=case.chunk_size, group=group)
    _check(case, expected)
    seconds, sent = [], 0
    for _ in range(case.runs + 1):
        dist.barrier(group)
        begin = perf_counter()
        report = distributed.verify(module, expected, group)
        seconds.append(perf_counter() - begin)
        sent = report.sent
        _expect(report, (), set())
    flips = []
    for name, culprit in _flipped(case):
        _flip(module, name, culprit == rank)
        dist.barrier(group)
        begin = perf_counter()
        report = distributed.verify(module, expected, group)
        flips.append(perf_counter() - begin)
        _expect(report, (name,), {culprit})
        _flip(module, name, culprit == rank)
    _expect(distributed.verify(module, expected, group), (), set())
    del module
    if kind == "cuda":
        torch.cuda.empty_cache()
    return Answer(expected.root.hex(), f"{kernel.name} {kernel.device.id}", seconds[1:], flips, sent)


def _ready(case: Case, rank: int, place: torch.device, group: Any) -> torch.nn.Module:
    """A rank's share of a model, once all ranks have theirs.

    Raises:
        VerificationError: a rank could not make its share.
    """
    import torch
    import torch.distributed as dist

    reason, module = "", None
    try:
        module = _module(case, rank, place, group)
    except Exception as error:  # which keeps alive what it was raised with
        reason = repr(error)
    failed = torch.tensor([bool(reason)], dtype=torch.int32)
    dist.all_reduce(failed, group=group)
    if module is None or failed.item():
        del module
        gc.collect()
        if place.type == "cuda":
            torch.cuda.empty_cache()
        raise VerificationError(reason or "another rank could not make its share of the model")
    return module


def _expect(report: ShardedReport, differs: tuple[str, ...], culprits: set[int]) -> None:
    """Checks a verdict: the names that differ, and ranks that must be among those that are blamed.

    Raises:
        VerificationError: it is another.
    """
    if (report.differs, report.missing, report.extra) != (differs, (), ()):
        raise VerificationError(f"{', '.join(differs) or 'nothing'} should differ, but the verdict is: {report}")
    for name in differs:
        if not culprits <= set(report.ranks[name]):
            raise VerificationError(f"{name} should differ on ranks {culprits}, but the verdict is: {report}")


def _flipped(case: Case) -> Iterator[tuple[str, int]]:
    """Names of tensors, and the rank that a bit of each is flipped on."""
    drawn = random.Random(SEED)
    tensors = MODELS[case.model].tensors
    first = next(tensor for tensor in tensors if tensor.name.endswith((*_COLUMNS, "output.dense.weight")))
    yield from ((first.name, case.ranks - 1), (tensors[-1].name, 0))[: case.flips]
    for _ in range(case.flips - 2):
        yield drawn.choice(tensors).name, drawn.randrange(case.ranks)


def _flip(module: torch.nn.Module, name: str, here: bool) -> None:
    """Flips a bit of what this rank holds of a tensor."""
    import torch

    if here:
        local = module.get_parameter(name).data._local_tensor.view(torch.uint8).view(-1)
        local[len(local) // 2] ^= 1


def sharded_dimension(tensor: Tensor, layout: str) -> int | None:
    """The dimension along which a layout shards a tensor; None if every rank has all of it."""
    if layout == TP and len(tensor.shape) == 1:
        return None if "norm" in tensor.name.lower() else 0
    return 1 if layout == TP and tensor.name.endswith(_COLUMNS) else 0


def _module(case: Case, rank: int, place: torch.device, group: Any) -> torch.nn.Module:
    """A rank's share of a model, as DTensors in a module."""
    import torch
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh = DeviceMesh.from_group(group, place.type)
    shares, unfilled = {}, []
    for number, tensor in enumerate(MODELS[case.model].tensors):
        dimension = sharded_dimension(tensor, case.layout)
        shape, starts = list(tensor.shape), [0] * len(tensor.shape)
        if dimension is not None:
            each = -(-shape[dimension] // case.ranks)
            starts[dimension] = min(shape[dimension], rank * each)
            shape[dimension] = min(shape[dimension], starts[dimension] + each) - starts[dimension]
        local = torch.empty(shape, dtype=getattr(torch, DTYPES[tensor.dtype]), device=place)
        unfilled.append((local, number, tensor, starts))
        placements = [Replicate() if dimension is None else Shard(dimension)]
        stride = tuple(torch.empty(tensor.shape, device="meta").stride())
        shares[tensor.name] = DTensor.from_local(
            local, mesh, placements, run_check=False, shape=torch.Size(tensor.shape), stride=stride
        )
    for share in unfilled:  # after all are there: what filling takes does not come between them
        _fill(*share)
    if place.type == "cuda":
        torch.cuda.empty_cache()
    return module_with(shares)


def _fill(local: torch.Tensor, number: int, tensor: Tensor, starts: Sequence[int]) -> None:
    """Fills a box of a tensor, which begins at `starts`: the same words wherever they lie."""
    import torch

    if not local.numel():
        return
    rows = local.view(1, -1) if local.dim() == 1 else local
    words = rows.view(torch.uint8).view(torch.int32)
    width = tensor.nbytes // 4 // (tensor.shape[0] if len(tensor.shape) > 1 else 1)
    row, column = (starts[0], starts[1]) if len(starts) > 1 else (0, starts[0])
    first = column * local.itemsize // 4
    at_once = max(1, _PIECE_WORDS // words.shape[1])
    columns = torch.arange(first, first + words.shape[1], device=local.device)
    for start in range(0, len(words), at_once):
        stop = min(start + at_once, len(words))
        place = torch.arange(row + start, row + stop, device=local.device)[:, None] * width + columns
        place += (number << 40) + SEED
        for factor in (0x1D8E4E27C47D124F, 0x14D049BB133111EB):
            place *= factor
            place ^= place >> 29
        words[start:stop] = place.to(torch.int32) ^ (place >> 32).to(torch.int32)


def _check(case: Case, expected: Manifest) -> None:
    """Checks roots of the manifest against hashlib: of the first tensor of each of four kinds.

    Raises:
        VerificationError: a root is wrong.
    """
    import torch

    kernel, device = REFERENCE
    hasher = Hasher(choose(kernel, device, case.algorithm), case.chunk_size)
    kinds: dict[tuple[int, int | None], tuple[int, Tensor]] = {}
    for number, tensor in sorted(enumerate(MODELS[case.model].tensors), key=lambda found: found[1].nbytes):
        kinds.setdefault((len(tensor.shape), sharded_dimension(tensor, case.layout)), (number, tensor))
    for number, tensor in kinds.values():
        whole = torch.empty(tensor.shape, dtype=getattr(torch, DTYPES[tensor.dtype]))
        _fill(whole, number, tensor, [0] * len(tensor.shape))
        (root,) = hasher.roots([whole.view(-1).view(torch.uint8).numpy()])
        if root != expected.by_name[tensor.name].root:
            raise VerificationError(f"{tensor.name} has another root than hashlib finds")
