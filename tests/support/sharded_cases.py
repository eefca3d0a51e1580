"""What the ranks of `rank_pool` do in tests: models of random tensors, sharded in every way, and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.distributed.tensor import Shard as ShardPlacement

import hashbench.distributed as distributed
from hashbench.distributed import Part, Shard
from hashbench.model.manifest import Manifest

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
    """

    mesh: tuple[int, ...]
    tensors: tuple[TensorCase, ...]
    algorithm: str = "sha256"
    chunk_size: int = 64
    seed: int = 0

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
