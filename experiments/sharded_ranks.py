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
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hashbench.bench.experiment import SEED
from hashbench.bench.inventories import MODELS, Tensor
from hashbench.bench.results import REFERENCE
from hashbench.experiments.in_place import DTYPES, module_with
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

_TIMEOUT = timedelta(seconds=60)
"""How long ranks wait for each other."""

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
        error: what failed; empty if nothing did.
    """

    root: str = ""
    kernel: str = ""
    seconds: list[float] = field(default_factory=list)
    flips: list[float] = field(default_factory=list)
    sent: int = 0
    error: str = ""


class Ranks:
    """Processes that are the ranks of one group: one for each GPU, or for each core. They start when they are needed.

    Args:
        count: how many.
        kind: "gpu" or "cpu".

    Attributes:
        count: how many there are.
    """

    def __init__(self, count: int, kind: str) -> None:
        self.count = count
        self._kind = kind
        self._folder = TemporaryDirectory(prefix="hashbench-ranks-")
        self._pipes: list[Connection] = []
        self._processes: list[SpawnProcess] = []

    def _start(self) -> None:
        context = get_context("spawn")
        store = str(Path(self._folder.name) / "store")
        for rank in range(self.count):
            ours, theirs = context.Pipe()
            arguments = (rank, self.count, self._kind, store, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def close(self) -> None:
        """Ends them."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()

    def measure(self, case: Case | Files) -> list[Answer]:
        """What each rank that takes part found.

        Raises:
            VerificationError: a rank found something wrong.
            RuntimeError: a rank failed or ended.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send(case)
        answers: list[Answer] = []
        for rank, pipe in enumerate(self._pipes):
            try:
                answers.append(pipe.recv())
            except EOFError:
                raise RuntimeError(f"rank {rank} ended while it measured {case}") from None
        if errors := [answer.error for answer in answers if answer.error]:
            raise VerificationError(errors[0])
        return answers[: case.ranks]


def _serve(rank: int, count: int, kind: str, store: str, pipe: Connection) -> None:
    for backend in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{backend}_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    if kind == "gpu":
        os.environ.update(NCCL_NVLS_ENABLE="0", TORCH_SYMM_MEM_DISABLE_MULTICAST="1", TORCH_NCCL_HIGH_PRIORITY="1")
    else:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    import torch
    import torch.distributed as dist

    if kind == "gpu":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(1)  # others would wait for each other on the rank's core
    backend = "cpu:gloo,cuda:nccl" if kind == "gpu" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=count, timeout=_TIMEOUT)
    groups: dict[int, Any] = {}
    while True:
        try:
            case = pipe.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)  # the end of the group would wait for the others
        if case.ranks not in groups:
            groups[case.ranks] = dist.new_group(list(range(case.ranks)))
        answer = Answer()
        if rank < case.ranks:
            try:
                if isinstance(case, Files):
                    answer = _verified(case, rank, groups[case.ranks])
                else:
                    answer = _measured(case, rank, "cuda" if kind == "gpu" else "cpu", groups[case.ranks])
            except Exception as error:
                answer = Answer(error=f"rank {rank}, {case}: {error!r}"[:_ERROR_SIZE])
        pipe.send(answer)


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
