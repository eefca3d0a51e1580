"""A tensor as it would be stored: which memory has its bytes, and what they mean, or why it has none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch

from hashbench.model.dtypes import TORCH_NAMES, torch_description
from hashbench.torch.devices import can_be_hashed

PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
"""The types of nearly all tensors: neither lazy nor wrappers."""

_PLAIN_DTYPES = {
    getattr(torch, name): ours
    for name, ours in TORCH_NAMES.items()
    if hasattr(torch, name) and not name.endswith("_x2")
}
"""The name in safetensors of each dtype whose tensors have the same shape there."""

Memory = tuple[Any, ...]
"""Identifies the memory of a tensor: equal for two tensors only if they have the same bytes in the same order."""


class TensorError(ValueError):
    """A tensor does not have bytes as they would be stored.

    Args:
        name: the tensor's.
        reason: why, without its name.
        more: how many other tensors the same is true of.
    """

    def __init__(self, name: str, reason: str, more: int = 0) -> None:
        super().__init__(f"tensor {name!r}{f' and {more:,} more' if more else ''}: {reason}")
        self.reason = reason


class InMemory(NamedTuple):
    """A tensor, its device, what identifies its memory, and its description in safetensors."""

    tensor: torch.Tensor
    device: torch.device
    contiguous: bool
    memory: Memory
    nbytes: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def content(self) -> tuple[Memory, str, tuple[int, ...]]:
        """What tied tensors have in common: their memory, and how its bytes are interpreted."""
        return self.memory, self.dtype, self.shape


def plain_tensors(name: str, tensor: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a tensor consists of, by name: itself, or what a subclass says that it wraps.

    The parts of a subclass are named as torchao names them in files: the part `qdata` of `layer.weight` is
    `layer._weight_qdata`.

    Raises:
        TensorError: it is no tensor, is lazy, is sharded over processes, or wraps no tensors that it names.
    """
    if type(tensor) not in PLAIN_TYPES:
        if refusal := _refusal_of_type(tensor):
            raise TensorError(name, refusal)
        if _wraps(tensor):
            prefix, dot, leaf = name.rpartition(".")
            if not (parts := tensor.__tensor_flatten__()[0]):
                raise TensorError(name, f"it is a {type(tensor).__name__}, which says that it wraps no tensors")
            for part in parts:
                yield from plain_tensors(f"{prefix}{dot}_{leaf}_{part}", getattr(tensor, part))
            return
    yield name, tensor


def described(name: str, tensor: torch.Tensor) -> InMemory:
    """Describes one of `plain_tensors`, if it has bytes as they would be stored.

    This runs for every tensor of every call, so it gets each property once.

    Raises:
        TensorError: it has no such bytes.
    """
    if type(tensor) not in PLAIN_TYPES or tensor.__dict__:
        # What a class or an attribute of the instance overrides must not choose which memory is hashed.
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            tensor = torch.Tensor.as_subclass(tensor, torch.Tensor)
    device, layout = tensor.device, tensor.layout
    if refusal := _refusal_of_device(device):
        raise TensorError(name, refusal)
    if layout is not torch.strided or tensor.is_nested:
        raise TensorError(
            name, f"it is nested or has the layout {layout}: only strided tensors have bytes in row-major order"
        )
    nbytes, storage, contiguous = tensor.nbytes, tensor.untyped_storage(), tensor.is_contiguous()
    if nbytes and storage.nbytes() < (last_byte(tensor) if tensor.storage_offset() or not contiguous else nbytes):
        raise TensorError(name, "its memory was freed, as sharding frameworks do between uses: gather the tensor first")
    if tensor.is_conj() or tensor.is_neg():
        raise TensorError(name, "it is a lazy conjugate or negative: call resolve_conj() or resolve_neg() first")
    dtype, shape = tensor.dtype, tensor.shape
    if not nbytes:
        memory: Memory = device, storage._cdata, 0  # its address identifies nothing
    elif contiguous:
        memory = device, tensor.data_ptr(), nbytes
    else:
        memory = device, tensor.data_ptr(), dtype, shape, tensor.stride()
    if dtype in _PLAIN_DTYPES:
        return InMemory(tensor, device, contiguous, memory, nbytes, _PLAIN_DTYPES[dtype], shape)
    try:
        return InMemory(tensor, device, contiguous, memory, nbytes, *torch_description(str(dtype), shape))
    except ValueError as error:
        raise TensorError(name, str(error)) from None


def _refusal_of_type(tensor: Any) -> str | None:
    if not isinstance(tensor, torch.Tensor):
        return f"it is a {type(tensor).__name__}, not a tensor: pass a state dict without it"
    if tensor.is_meta and not _wraps(tensor):
        return _refusal_of_device(tensor.device)
    if torch.nn.parameter.is_lazy(tensor):
        return "it has no bytes until its lazy module has run"
    if type(tensor).__module__.startswith("torch.distributed."):
        return f"it is a {type(tensor).__name__}, sharded over processes: hashbench.distributed verifies such models"
    if _wraps(tensor) and not hasattr(type(tensor), "__tensor_flatten__"):
        return (
            f"it is a {type(tensor).__name__}, a wrapper around other tensors that it does not name by "
            "__tensor_flatten__: pass those in a state dict"
        )
    return None


def _wraps(tensor: torch.Tensor) -> bool:
    return type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


@cache
def _refusal_of_device(device: torch.device) -> str | None:
    if device.type == "meta":
        return "it is on the meta device, where tensors have no bytes: load the weights first"
    if not can_be_hashed(device):
        return f"it is on {device}: only tensors on cpu, cuda and xpu devices can be hashed in place"
    return None


def last_byte(tensor: torch.Tensor) -> int:
    """The end of a non-empty tensor in its storage, in bytes."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((tensor.storage_offset() + steps + 1) * tensor.itemsize)
