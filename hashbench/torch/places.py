"""Roots of tensors, hashed in place by the kernel of the device that they are on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch

from hashbench.hashing.hasher import Hasher
from hashbench.hashing.lanes import Lanes
from hashbench.hashing.packing import packed
from hashbench.hashing.selection import FASTEST_FIRST, choose, devices_of
from hashbench.kernels import Buffer, Bytes, Kernel, Unavailable
from hashbench.merkle.rfc9162 import root_of
from hashbench.torch.tensors import InMemory, Memory

CUDA_KERNELS = ("cupy", "numba-cuda", "triton")
"""The kernels that hash tensors in GPU memory, the fastest first."""

PIECE_ITEMS = 1 << 22
"""Items of a non-contiguous tensor that are gathered at a time, except that a piece has at least one chunk."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By item size in bytes: the dtypes that every device can gather."""

Roots: TypeAlias = Callable[[Sequence[torch.Tensor]], list[bytes]]
"""Computes the roots of contiguous tensors, which nothing may write to meanwhile."""


def kernel_for(device: torch.device, algorithm: str = "sha256") -> Kernel:
    """The kernel that hashes the tensors of a device. It is built in the first call, and kept.

    Args:
        device: the CPU or a GPU, by default the current one.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: the algorithm is unknown.
        Unavailable: PyTorch cannot use the device, no kernel can, or its tensors cannot be hashed in place.
    """
    return place_of(indexed(device), algorithm).kernel


def indexed(device: torch.device) -> torch.device:
    """The device itself, or the current one where it is any GPU.

    Raises:
        Unavailable: tensors there cannot be hashed in place, or PyTorch finds no GPU.
    """
    if device.type not in ("cpu", "cuda"):
        raise Unavailable(f"tensors on {device} cannot be hashed in place: only those on cpu and cuda devices can")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Unavailable(f"{device} cannot be used: PyTorch finds no GPU of CUDA or ROCm here")
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device


@dataclass(frozen=True)
class Place(ABC):
    """The memory that tensors are in, and the kernel that hashes there, for one thread at a time."""

    kernel: Kernel
    busy: Lock = field(default_factory=Lock)

    def roots_over(self, chunk_size: int) -> Roots:
        """Computes roots over chunks of that size. What it needs memory for, it keeps for its next call."""
        roots_of = self._roots(chunk_size)

        def in_turn(tensors: Sequence[torch.Tensor]) -> list[bytes]:
            with self.busy:
                return roots_of(tensors)

        return in_turn

    @cached_property
    def lanes(self) -> Lanes:
        """To the device."""
        return Lanes(self.kernel)

    @abstractmethod
    def _roots(self, chunk_size: int) -> Roots:
        """What `roots_over` gives, for one thread."""

    def _in_place(self, segments: Sequence[Buffer], chunk_size: int) -> list[bytes]:
        """The roots of segments, in calls whose digests take half of the free memory at most."""
        chunks = [-(-segment.nbytes // chunk_size) or 1 for segment in segments]
        size = self.kernel.algorithm.digest_size
        calls = packed(chunks, self.kernel.free_memory() // 2 // size)
        roots = b"".join(self.kernel.tree(segments[run], chunk_size).tobytes() for run in calls)
        return [roots[start : start + size] for start in range(0, len(roots), size)]


class DeviceMemory(Place):
    """A GPU's memory."""

    def _roots(self, chunk_size: int) -> Roots:
        return lambda tensors: self._in_place([device_buffer(tensor) for tensor in tensors], chunk_size)


class HostMemory(Place):
    """The host's memory."""

    def _roots(self, chunk_size: int) -> Roots:
        # It keeps the memory that it copies through, so one hasher serves all tensors of a call, but no longer.
        hasher = Hasher(self.kernel, chunk_size)

        def roots_of(tensors: Sequence[torch.Tensor]) -> list[bytes]:
            data = [host_bytes(tensor) for tensor in tensors]
            try:
                segments = [self.kernel.view(array) for array in data]
            except TypeError:  # a framework whose CPU devices have memory of their own, as OpenCL's
                return hasher.roots(data)
            return self._in_place(segments, chunk_size)

        return roots_of


def device_buffer(tensor: torch.Tensor) -> Buffer:
    """The bytes of a contiguous tensor on a GPU."""
    return Buffer(tensor, tensor.data_ptr(), tensor.nbytes)


class _HostArray:
    """The bytes of a contiguous tensor in host memory, in the form in which NumPy takes them and keeps the tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        self.__array_interface__ = {
            "data": (tensor.data_ptr(), False),
            "shape": (tensor.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def host_bytes(tensor: torch.Tensor) -> Bytes:
    """The bytes of a contiguous tensor in host memory, which the array shares."""
    # Not by tensor.numpy(), which forbids a storage to be resized from then on.
    return np.asarray(_HostArray(tensor))


@cache
def place_of(device: torch.device, algorithm: str) -> Place:
    """The place of a device's tensors, built once.

    Raises:
        Unavailable: no kernel can be used there.
    """
    if device.type == "cpu":
        return HostMemory(_host_kernel(algorithm))
    return DeviceMemory(_cuda_kernel(str(device.index), algorithm))


def roots_on(device: torch.device, algorithm: str, chunk_size: int) -> Roots:
    """Computes roots of contiguous tensors on a device, over chunks of that size.

    Raises:
        ValueError: the chunk size is not accepted there.
        Unavailable: as for `kernel_for`.
    """
    return place_of(indexed(device), algorithm).roots_over(chunk_size)


def _cuda_kernel(device: str, algorithm: str) -> Kernel:
    refusals = []
    for name in CUDA_KERNELS:
        try:
            return choose(name, device, algorithm)
        except Unavailable as error:
            refusals.append(str(error))
    raise Unavailable("; ".join(refusals))


def _host_kernel(algorithm: str) -> Kernel:
    """The fastest CPU kernel; GPU frameworks are not imported for it.

    On every processor it is one that hashes in place: tensors would be copied to the memory of OpenCL's devices.
    """
    listed = (device for name in FASTEST_FIRST["cpu"] for device in reversed(devices_of(name)))
    device = next(device for device in listed if device.kind == "cpu" and device.unavailable is None)
    return choose(device.kernel, device.id, algorithm)


def roots_by_memory(
    tensors: Collection[InMemory], algorithm: str, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[Memory, bytes]:
    """The roots of tensors by memory: memory that several share is hashed once.

    Raises:
        TypeError: `stream` is not a stream.
        Unavailable: a device has no kernel.
        OutOfDeviceMemory: a GPU has no room for the digests of one tensor's chunks.
    """
    by_device: defaultdict[torch.device, dict[Memory, InMemory]] = defaultdict(dict)
    for found in tensors:
        by_device[found.device][found.memory] = found
    streams = {device: stream_on(device, stream) for device in by_device}
    for one in streams.values():
        if one is not None:
            one.synchronize()

    def hashed(device: torch.device) -> dict[Memory, bytes]:
        return _hashed(by_device[device], place_of(device, algorithm), chunk_size, streams[device])

    roots: dict[Memory, bytes] = {}
    with ThreadPoolExecutor(max(1, len(by_device))) as pool:
        for hashes in pool.map(hashed, by_device):
            roots |= hashes
    return roots


def stream_on(device: torch.device, given: torch.cuda.Stream | None) -> torch.cuda.Stream | None:
    """The stream on which a device's tensors are written; None for the CPU.

    Raises:
        TypeError: what was given is not a stream.
    """
    if given is not None and not isinstance(given, torch.cuda.Stream):
        raise TypeError(f"{type(given).__name__} is not accepted: the stream must be a torch.cuda.Stream")
    if device.type == "cpu":
        return None
    return given if given is not None and given.device == device else torch.cuda.current_stream(device)


def _hashed(
    tensors: Mapping[Memory, InMemory], place: Place, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[Memory, bytes]:
    """The roots of one device's tensors by memory."""
    dense = {memory: found.tensor for memory, found in tensors.items() if found.contiguous}
    roots_of = place.roots_over(chunk_size)
    roots = dict(zip(dense, roots_of(list(dense.values())), strict=True))
    with torch.cuda.stream(stream):
        for memory in tensors.keys() - dense.keys():
            pieces = _pieces(tensors[memory].tensor, chunk_size, stream)
            of_pieces = [root for piece in pieces for root in roots_of([piece])]
            roots[memory] = root_of(of_pieces, place.kernel.algorithm.name)
    return roots


def _pieces(tensor: torch.Tensor, chunk_size: int, stream: torch.cuda.Stream | None) -> Iterator[torch.Tensor]:
    """A non-contiguous tensor in contiguous pieces, of which all but the last are complete subtrees."""
    items = tensor.detach()
    items = torch.view_as_real(items) if items.is_complex() else items
    items = items.view(_INTEGERS[items.element_size()])
    count = items.numel()
    step = chunk_size // items.element_size()
    while 2 * step <= PIECE_ITEMS:
        step *= 2
    for start in range(0, count, step):
        piece = items.take(torch.arange(start, min(start + step, count), device=items.device))
        if stream is not None:
            stream.synchronize()
        yield piece
