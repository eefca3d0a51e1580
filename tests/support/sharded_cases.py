"""What ranks do in tests: models of random tensors, sharded in every way, and verified."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as ShardPlacement
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import hashbench.distributed as distributed
import hashbench.distributed.content as content
import hashbench.distributed.sharded as distributed_sharded
import hashbench.distributed.teams as teams
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.distributed import Part, Shard
from hashbench.experiments import sharded_ranks
from hashbench.kernels import Kernel, kernel_class
from hashbench.model.manifest import Manifest


def _reference(device: torch.device, algorithm: str = "sha256") -> Kernel:
    """hashlib, on one core: other frameworks take seconds to start, in every process."""
    kernel = kernel_class("hashlib")
    return kernel(kernel.devices()[0], algorithm)


setattr(content, "kernel_for", _reference)  # noqa: B010  # of another module

DTYPES = (torch.bfloat16, torch.float32, torch.uint8, torch.float64, torch.bool)


@dataclass(frozen=True)
class TensorCase:
    """One tensor.

    Attributes:
        shape: its shape.
        dtype: its dtype.
        placements: for each axis of the mesh the dimension that it shards, or None to replicate.
        form: how its shards are passed: as a DTensor, as a `Shard`, or with gaps in memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    placements: tuple[int | None, ...]
    form: str = "dtensor"


@dataclass(frozen=True)
class Case:
    """A model, and what to hash it with.

    Attributes:
        mesh: the mesh's shape.
        tensors: the tensors.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.
        seed: of the tensors' bytes.
        piece: bytes that a rank gathers of its rows at a time.
    """

    mesh: tuple[int, ...]
    tensors: tuple[TensorCase, ...]
    algorithm: str = "sha256"
    chunk_size: int = 64
    seed: int = 0
    piece: int = 1 << 30

    def model(self) -> dict[str, torch.Tensor]:
        """The whole tensors by name: the same in every process."""
        generator = torch.Generator().manual_seed(self.seed)
        model = {}
        for number, tensor in enumerate(self.tensors):
            if tensor.dtype is torch.bool:
                values = torch.randint(0, 2, tensor.shape, generator=generator).bool()
            else:
                size = torch.empty(0, dtype=tensor.dtype).element_size()
                data = torch.randint(0, 256, (prod(tensor.shape) * size,), dtype=torch.uint8, generator=generator)
                values = data.view(tensor.dtype).reshape(tensor.shape)
            model[f"tensor{number}"] = values
        return model


@cache
def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=tuple(f"axis{number}" for number in range(len(shape))))


def sharded(case: Case) -> dict[str, torch.Tensor | Shard]:
    """This rank's shards of a model."""
    mesh = mesh_of(case.mesh)
    shards: dict[str, torch.Tensor | Shard] = {}
    for (name, values), tensor in zip(case.model().items(), case.tensors, strict=True):
        placements = [Replicate() if dim is None else ShardPlacement(dim) for dim in tensor.placements]
        placed = distribute_tensor(values, mesh, placements)
        local = placed.to_local()
        if tensor.form == "gaps":
            local = _with_gaps(local)
            placed = DTensor.from_local(local, mesh, placements, shape=values.shape, stride=values.stride())
        if tensor.form == "shard":
            shards[name] = Shard(local, tuple(values.shape), _offsets(values.shape, tensor, mesh))
        else:
            shards[name] = placed
    return shards


def _with_gaps(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with a stride of two in the last dimension."""
    if not tensor.dim():
        return tensor
    spaced = torch.empty((*tensor.shape[:-1], 2 * tensor.shape[-1]), dtype=tensor.dtype)[..., ::2]
    spaced.copy_(tensor)
    return spaced


def _offsets(shape: Sequence[int], tensor: TensorCase, mesh: DeviceMesh) -> list[int]:
    """Where this rank's box begins, split as torch.chunk splits."""
    starts, sizes = [0] * len(shape), list(shape)
    here = mesh.get_coordinate()
    assert here is not None
    for axis, dim in enumerate(tensor.placements):
        if dim is not None:
            each = -(-sizes[dim] // mesh.shape[axis])
            start = min(sizes[dim], here[axis] * each)
            starts[dim] += start
            sizes[dim] = min(sizes[dim], start + each) - start
    return starts


@dataclass(frozen=True)
class Outcome:
    """What a rank found of a case.

    Attributes:
        part: what it holds.
        root: that of the manifest of all ranks.
        verified: the report's text, if the model is what its manifest says; and whether it says so.
        damaged: the names that differ, and the ranks that are blamed, after a bit was flipped on one rank.
    """

    part: Part
    root: bytes
    verified: tuple[bool, str]
    damaged: Mapping[str, tuple[int, ...]]


def check(rank: int, case: Case, expected: Manifest, culprit: int, name: str) -> Outcome:
    """Hashes and verifies a case, then flips a bit of a tensor on one rank and verifies again."""
    teams.PIECE = case.piece
    shards = sharded(case)
    part = distributed.part(shards, algorithm=case.algorithm, chunk_size=case.chunk_size)
    made = distributed.manifest(shards, algorithm=case.algorithm, chunk_size=case.chunk_size)
    report = distributed.verify(shards, expected)
    if rank == culprit:
        flip(shards[name])
    after = distributed.verify(shards, expected)
    return Outcome(part, made.root, (report.ok, str(report)), dict(after.ranks))


def flip(shard: torch.Tensor | Shard) -> None:
    """Flips a bit in the middle of what this rank holds."""
    local = shard.tensor if isinstance(shard, Shard) else shard
    local = local.to_local() if isinstance(local, DTensor) else local
    if not local.numel():
        return
    index = tuple(length // 2 for length in local.shape)
    with torch.no_grad():
        one = local[index].clone().reshape(1)
        one.view(torch.uint8)[0] ^= 1
        local[index] = one[0]


def verify(rank: int, case: Case, expected: Manifest, fault: Fault) -> Any:
    """What a rank finds of a model with a fault: whether it is right, what differs, and who is blamed."""
    shards = fault(rank, sharded(case), case)
    report = distributed.verify(shards, expected)
    return report.ok, report.differs, report.missing, report.extra, dict(report.ranks), str(report)


Fault: TypeAlias = Callable[[int, dict[str, torch.Tensor | Shard], Case], Any]
"""Does something to a rank's shards of a case, and returns them."""


def no_fault(rank: int, shards: dict[str, Any], case: Case) -> Any:
    return shards


def flip_on_last(rank: int, shards: dict[str, Any], case: Case) -> Any:
    if rank == prod(case.mesh) - 1:
        flip(shards["tensor0"])
    return shards


def another_model_on_last(rank: int, shards: dict[str, Any], case: Case) -> Any:
    others = sharded(replace(case, seed=case.seed + 1))  # which all ranks make together
    return others if rank == prod(case.mesh) - 1 else shards


def another_shape_on_last(rank: int, shards: dict[str, Any], case: Case) -> Any:
    if rank == prod(case.mesh) - 1:
        shards["tensor0"] = Shard(torch.zeros(3), (7,), (4,))
    return shards


def swapped(rank: int, shards: dict[str, Any], case: Case) -> Any:
    """Gives each rank the shards of another, of equal shape."""
    local = shards["tensor0"].to_local()
    everyone = [torch.empty_like(local) for _ in range(prod(case.mesh))]
    dist.all_gather(everyone, local.contiguous())
    local.copy_(everyone[(rank + 1) % len(everyone)])
    return shards


def partial(rank: int, shards: dict[str, Any], case: Case) -> Any:
    whole = torch.zeros(case.tensors[0].shape)
    shards["tensor0"] = DTensor.from_local(whole, mesh_of(case.mesh), [Partial()] * len(case.mesh))
    return shards


def meta_on_last(rank: int, shards: dict[str, Any], case: Case) -> Any:
    if rank == prod(case.mesh) - 1:
        shards["tensor0"] = torch.empty(case.tensors[0].shape, device="meta")
    return shards


def gap(rank: int, shards: dict[str, Any], case: Case) -> Any:
    shards["tensor0"] = Shard(torch.zeros(2, dtype=torch.float32), (8,), (3 * rank,))
    return shards


def overlap(rank: int, shards: dict[str, Any], case: Case) -> Any:
    shards["tensor0"] = Shard(torch.zeros(5, dtype=torch.float32), (8,), (3 * rank,))
    return shards


def lost_on_last(rank: int, shards: dict[str, Any], case: Case) -> Any:
    if rank == prod(case.mesh) - 1:
        del shards["tensor0"]
    return shards


def renamed(rank: int, shards: dict[str, Any], case: Case) -> Any:
    """A name that is not listed, and one that is tied to one that is."""
    shards["unlisted"] = torch.zeros(1)
    shards["tied"] = shards["tensor0"]
    return shards


def disagree(rank: int, case: Case) -> Any:
    distributed.manifest(sharded(case), algorithm="sha256" if rank else "sha384", chunk_size=64)


def killed(rank: int, case: Case, expected: Manifest, victim: int, when: str) -> Any:
    """Verifies, while one rank is killed: "early", before it says anything, or "late", when it has hashed."""
    shards = sharded(case)
    if rank == victim:
        hook = {"early": "_exchanged", "late": "_spread", "moving": "move"}[when]
        setattr(distributed_sharded, hook, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    distributed.verify(shards, expected)


def outside(rank: int) -> Any:
    """Verifies in a group that this rank is not in."""
    group = dist.new_group([0])
    if rank == 0:
        return None
    return distributed.manifest({"a": torch.zeros(1)}, group=group)


def verify_different(rank: int, case: Case, manifests: Sequence[Manifest]) -> Any:
    """Verifies against another manifest on each rank."""
    distributed.verify(sharded(case), manifests[rank])


class Block(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not typed
    """A block of a transformer in small, with a dimension that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(24)
        self.up = torch.nn.Linear(24, 40)
        self.down = torch.nn.Linear(40, 24, bias=False)
        self.experts = torch.nn.Parameter(torch.zeros(4, 6, 10))
        self.odd = torch.nn.Parameter(torch.zeros(5, 7))
        self.scale = torch.nn.Parameter(torch.zeros(1))


def network() -> torch.nn.Module:
    """A network with tied weights, a buffer, and an empty tensor: the same in every process."""
    module = torch.nn.Module()
    module.embed = torch.nn.Embedding(33, 24)
    module.layers = torch.nn.ModuleList([Block(), Block()])
    module.head = torch.nn.Linear(24, 33, bias=False)
    module.head.weight = module.embed.weight
    module.register_buffer("steps", torch.tensor(3))
    module.register_buffer("nothing", torch.empty(0, 4))
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def parallel(kind: str) -> torch.nn.Module:
    """The network as PyTorch shards it: "fsdp", "tp", "fsdp-tp", "hsdp"."""
    module = network()
    world = dist.get_world_size()
    if kind in ("tp", "fsdp-tp"):
        shape, names = ((world,), ("tp",)) if kind == "tp" else ((world // 2, 2), ("dp", "tp"))
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        for layer in module.layers:
            parallelize_module(layer, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        data = None if kind == "tp" else mesh["dp"]
    elif kind == "hsdp":
        data = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("replicate", "shard"))
    else:
        data = init_device_mesh("cpu", (world,), mesh_dim_names=("dp",))
    if data is not None:
        for layer in module.layers:
            fully_shard(layer, mesh=data)
        fully_shard(module, mesh=data)
    return module


def verify_parallel(rank: int, kind: str, expected: Manifest) -> Any:
    """The root of a network that PyTorch has sharded, its part, and whether it verifies."""
    module = parallel(kind)
    made = distributed.manifest(module, chunk_size=expected.chunk_size)
    part = distributed.part(module, chunk_size=expected.chunk_size)
    report = distributed.verify(module, expected)
    return made.root, part, report.ok, str(report)


def verify_stages(rank: int, expected: Manifest) -> Any:
    """Verifies a network of which each rank has a stage."""
    stage = {name: tensor for name, tensor in network().state_dict().items() if (".0." in name) == (rank == 0)}
    report = distributed.verify(stage, expected)
    return report.ok, str(report)


def save_parallel(rank: int, kind: str, folder: str, writer: str) -> None:
    """Saves a network that PyTorch has sharded, as `writer` does: "dcp", or "safetensors" in shards."""
    state = parallel(kind).state_dict()
    del state["head.weight"]  # it is tied, and safetensors does not save it twice
    if writer == "dcp":
        dcp.save(state, checkpoint_id=folder)
    else:
        dcp.save(state, storage_writer=dcp.HuggingFaceStorageWriter(folder, save_distributed=True))


TINY = Model(
    "bert-base",
    "BERT base uncased",
    (
        Tensor("layers.0.down_proj.weight", (96, 64), "BF16"),
        Tensor("layers.0.norm.weight", (64,), "F32"),
        Tensor("layers.0.up_proj.weight", (128, 48), "F32"),
        Tensor("lm_head.weight", (63, 64), "BF16"),
    ),
)
"""What the experiment `sharded` measures in tests, under the name of a real model."""


def measure(rank: int, case: sharded_ranks.Case, wrong: bool) -> Any:
    """What one rank of the experiment `sharded` finds of a tiny model; `wrong` makes its bytes another's."""
    MODELS.clear()
    MODELS["bert-base"] = TINY
    if wrong:
        setattr(sharded_ranks, "SEED", 1 + rank)  # noqa: B010  # of another module
    return sharded_ranks._measured(case, rank, "cpu", dist.group.WORLD)


def verify_files(rank: int, case: sharded_ranks.Files) -> Any:
    """The same of a folder."""
    return sharded_ranks._verified(case, rank, dist.group.WORLD)
