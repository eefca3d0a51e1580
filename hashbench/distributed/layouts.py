"""Where the memory of one rank lies in the tensors of a sharded model."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple, TypeAlias

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement, Replicate, _StridedShard
from torch.distributed.tensor.placement_types import Shard as ShardPlacement

from hashbench.distributed.claims import Layout
from hashbench.distributed.content import Extent
from hashbench.distributed.subtrees import Box, Run
from hashbench.model.dtypes import tensor_nbytes, torch_description
from hashbench.torch.held import values_of
from hashbench.torch.tensors import InMemory, TensorError, described, plain_tensors

Sharded: TypeAlias = "torch.nn.Module | Mapping[str, torch.Tensor | Shard]"
"""A module, or tensors and shards by name."""


class Shard(NamedTuple):
    """A box of a tensor that one rank holds and that no DTensor describes, as of vLLM or Megatron.

    Attributes:
        tensor: the box's elements.
        global_shape: the shape of the whole tensor.
        offsets: the index of the box's first element along each dimension.
    """

    tensor: torch.Tensor
    global_shape: Sequence[int]
    offsets: Sequence[int]


class Local(NamedTuple):
    """What a rank has in memory of a tensor, and where that belongs.

    Attributes:
        name: the tensor's name.
        layout: where it belongs.
        memory: the rank's tensor, checked.
    """

    name: str
    layout: Layout
    memory: InMemory

    @property
    def content(self) -> Hashable:
        """What tied tensors have in common: their memory, and what it means."""
        return self.memory.memory, self.layout

    def extents(self) -> Iterator[Extent]:
        """The runs that the rank holds, in its memory."""
        offset = 0
        for run in self.layout.runs:
            yield Extent(run, self.layout.nbytes, self.memory.tensor, offset)
            offset += run[1] - run[0]

    def as_whole(self) -> Local:
        """The same memory, as if it were a tensor of its own."""
        tensor, (dtype, shape) = self.memory.tensor, (self.memory.dtype, tuple(self.memory.shape))
        box = Box.whole(tuple(tensor.shape))
        return self._replace(layout=Layout.of(dtype, shape, self.memory.nbytes, tensor.itemsize, box, ()))


def locals_of(model: Sharded, rank: int) -> Iterator[Local]:
    """What this rank has in memory of a model's tensors. Those of which it is not to hold anything are left out.

    Args:
        model: a module, or tensors and shards by name.
        rank: this rank.

    Raises:
        TypeError: `model` is neither.
        TensorError: a tensor has no bytes, as `hashbench.torch.manifest` has it; is not yet reduced (Partial); has a
            placement that is not known; has another size than its placement says; or is on a device other than cpu and
            cuda.
    """
    for name, value, refusal in values_of(model):
        if refusal is not None:
            raise TensorError(name, refusal)
        if not isinstance(value, (DTensor, Shard)):
            for part, tensor in plain_tensors(name, value):
                memory = _described(part, tensor)
                yield Local(part, _layout(Box.whole(tuple(memory.tensor.shape)), tensor.dtype, (rank,)), memory)
            continue
        try:
            if isinstance(value, Shard):
                local, layout = value.tensor, _layout(_box_of_shard(value), value.tensor.dtype, ())
            else:
                spec = value._spec
                local = value._local_tensor  # not to_local(), which autograd would record
                placed = _placed(spec.mesh, spec.placements, spec.shape, local.dtype)
                if placed is None:
                    continue
                layout = placed
            if [part for part, _ in plain_tensors(name, local)] != [name]:
                raise ValueError("its shards are wrappers around other tensors, such as quantised ones")
            memory = _described(name, local)
            # Of a tensor that is not to have elements here, frameworks keep memory of some shape.
            if layout.local_shape != local.shape and (memory.nbytes or all(layout.box.held)):
                raise ValueError(
                    f"this rank has a tensor of shape {list(local.shape)}, but its place in one of shape "
                    f"{list(layout.box.shape)} needs {list(layout.local_shape)}"
                )
        except TensorError:
            raise
        except ValueError as error:
            raise TensorError(name, str(error)) from None
        yield Local(name, layout, memory)


def _described(name: str, tensor: torch.Tensor) -> InMemory:
    """Describes a tensor that this rank can hash and exchange with others.

    Raises:
        TensorError: it cannot.
    """
    found = described(name, tensor)
    if found.device.type not in ("cpu", "cuda"):
        raise TensorError(name, f"it is on {found.device}: sharded models are hashed on cpu and cuda devices alone")
    return found


@lru_cache(1 << 14)
def _layout(box: Box, dtype: torch.dtype, ranks: tuple[int, ...]) -> Layout:
    """The layout of a box.

    Raises:
        ValueError: safetensors has no such dtype.
    """
    name, shape = torch_description(str(dtype), box.shape)
    return Layout.of(name, shape, tensor_nbytes(name, shape), dtype.itemsize, box, ranks)


def _box_of_shard(shard: Shard) -> Box:
    shape, offsets, local = tuple(shard.global_shape), tuple(shard.offsets), tuple(shard.tensor.shape)
    if not len(shape) == len(offsets) == len(local):
        raise ValueError(
            f"a shard of shape {list(local)} at {list(offsets)} of a tensor of shape {list(shape)}: all three must "
            "have as many dimensions"
        )
    for length, offset, size in zip(local, offsets, shape, strict=True):
        if not 0 <= offset <= offset + length <= size:
            raise ValueError(
                f"a shard of shape {list(local)} at {list(offsets)} is not inside a tensor of shape {list(shape)}"
            )
    return Box(shape, tuple(((a, a + n),) if n else () for n, a in zip(local, offsets, strict=True)))


@lru_cache(1 << 14)
def _placed(
    mesh: DeviceMesh, placements: tuple[Placement, ...], shape: tuple[int, ...], dtype: torch.dtype
) -> Layout | None:
    """What this rank holds of a DTensor; None if its mesh does not include this rank.

    Raises:
        ValueError: a placement is not known, or safetensors has no such dtype.
    """
    here = mesh.get_coordinate()
    if here is None:
        return None
    for placement in placements:
        if placement.is_partial():
            raise ValueError("it is not yet reduced (Partial): its bytes are not there until it is redistributed")
        if type(placement) not in (Replicate, ShardPlacement, _StridedShard):
            raise ValueError(f"the placement {placement} is not known: accepted are Replicate and Shard")
    held: list[tuple[Run, ...]] = [((0, length),) if length else () for length in shape]
    for axis in _in_order(placements, mesh.shape):
        placement = placements[axis]
        dimension = placement.dim
        held[dimension] = _share(held[dimension], mesh.shape[axis], here[axis])
    copy = mesh.mesh
    for axis in reversed(range(len(placements))):
        if isinstance(placements[axis], Replicate):
            copy = copy.select(axis, here[axis])
    return _layout(Box(tuple(shape), tuple(held)), dtype, tuple(sorted(copy.flatten().tolist())))


def _in_order(placements: Sequence[Placement], sizes: Sequence[int]) -> Iterator[int]:
    """The axes of a mesh that shard a tensor, in the order in which they split it.

    They do so from left to right, except that FSDP splits what tensor parallelism on axes to its right has split
    before. The factor of a strided shard says so: it is the number of these splits.

    Raises:
        ValueError: the factor is another.
    """
    later: list[int] = []
    for axis, placement in enumerate(placements):
        if not isinstance(placement, (ShardPlacement, _StridedShard)):
            continue
        if not isinstance(placement, _StridedShard) or placement.split_factor == 1:
            if axis not in later:
                yield axis
            continue
        right = [
            other
            for other in range(axis + 1, len(placements))
            if isinstance(placements[other], (ShardPlacement, _StridedShard)) and placements[other].dim == placement.dim
        ]
        while right and prod(sizes[other] for other in right) > placement.split_factor:
            right.pop()
        if prod(sizes[other] for other in right) != placement.split_factor:
            raise ValueError(f"the placement {placement} does not follow from those of the other axes {placements}")
        yield from (other for other in right if other not in later)
        later += right
        yield axis


def _share(ranges: tuple[Run, ...], count: int, index: int) -> tuple[Run, ...]:
    """The indexes that the one of `count` ranks gets out of ranges, split as torch.chunk does."""
    total = sum(stop - start for start, stop in ranges)
    each = -(-total // count)
    first, end = min(total, index * each), min(total, (index + 1) * each)
    found = []
    for start, stop in ranges:
        a, b = max(start, start + first), min(stop, start + end)
        if a < b:
            found.append((a, b))
        first, end = first - (stop - start), end - (stop - start)
    return tuple(found)
