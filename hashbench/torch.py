"""Models in PyTorch, hashed where they lie: the manifest of what is in memory, and whether it is what a manifest says.

Tensors in the memory of a GPU are hashed there, through their pointers, all of one device in one call: nothing is
copied but roots. Beside the model a call takes one digest a chunk of the device's memory (0.8 % with SHA-256 and chunks
of 4 KiB), or less where less is free: the tensors are then hashed in several calls. CuPy keeps that memory for the next
call. Tensors in host memory go through the fastest kernel of the CPU, in bounded memory.

A tensor's root is that of its bytes as safetensors stores them: little-endian and row-major. So it is the root of the
same tensor in its file, whatever its strides in memory. A tensor that is not contiguous is made so piece by piece, in
at most 128 MiB beside it, or as much as one chunk needs where that is more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import torch

from hashbench.dtypes import torch_description
from hashbench.kernels import Buffer, Kernel, Unavailable, algorithm_named, check_chunk_size, kernel_class
from hashbench.manifest import Manifest, TensorEntry
from hashbench.merkle import root_of
from hashbench.packing import packed
from hashbench.range_hasher import RangeHasher
from hashbench.selection import FASTEST_FIRST, choose
from hashbench.verify import Report, compare

CUDA_KERNELS = ("cupy", "numba-cuda")
"""The kernels that hash tensors in the memory of a GPU, the fastest first."""

PIECE_ITEMS = 1 << 22
"""Items of a tensor that is not contiguous that are gathered at a time, except that a piece is at least one chunk."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes an item: the dtypes that every device can gather."""

Model: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]
_Memory = tuple[Any, ...]


class TensorError(ValueError):
    """A tensor whose bytes cannot be had as they would be stored; the message names it."""


class _Tensor(NamedTuple):
    """A tensor, what tells its memory from others', and how safetensors describes it."""

    tensor: torch.Tensor
    memory: _Memory
    dtype: str
    shape: tuple[int, ...]


def manifest(
    module_or_state_dict: Model,
    *,
    algorithm: str = "sha256",
    chunk_size: int = 4096,
    stream: torch.cuda.Stream | None = None,
) -> Manifest:
    """The manifest of the tensors of a module, hashed where they lie.

    Every tensor of `state_dict()` has its entry: parameters, and buffers that are persistent. Tied weights have one
    under each name, and are hashed once. What modules keep there as their extra state has none where it is no tensor.

    Args:
        module_or_state_dict: the module, or tensors by name. Nothing may write to them until the call returns.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a positive multiple of 64.
        stream: what was put on it before the call is waited for, and then hashed; where it is None, and on other
            devices, that is each device's current stream.

    Returns:
        The manifest, with dtypes by safetensors' names.

    Raises:
        TypeError: `module_or_state_dict` is neither, or `stream` is not a stream.
        ValueError: `algorithm` or `chunk_size` is not accepted.
        TensorError: a tensor has no bytes here (it is on the meta device, or lazy), lies on a device that is neither a
            GPU of CUDA or ROCm nor the CPU, is sparse, is a wrapper around others, or is of a dtype that safetensors
            does not know.
        Unavailable: a GPU's tensors are asked for and neither CuPy nor numba-cuda can be used.
        OutOfDeviceMemory: a GPU has no room for the digests of one tensor's chunks.
    """
    algorithm = algorithm_named(algorithm).name
    return _manifest(_tensors(module_or_state_dict), algorithm, check_chunk_size(chunk_size), stream)


def verify(module_or_state_dict: Model, manifest: Manifest, *, stream: torch.cuda.Stream | None = None) -> Report:
    """Holds the tensors of a module against a manifest, where they lie.

    A tensor that the manifest does not name is extra, unless it is tied to one that the manifest names: its bytes are
    those that were verified. Files of models store tied weights under one name, while modules have them under several.

    Args:
        module_or_state_dict: as for `manifest`.
        manifest: made from the model's files, or by `manifest`; it says with which algorithm and chunk size.
        stream: as for `manifest`.

    Raises:
        TypeError: `manifest` is none; and as `manifest`.
        TensorError, Unavailable, OutOfDeviceMemory: as `manifest`.
    """
    if not isinstance(manifest, Manifest):
        raise TypeError(
            f"{type(manifest).__name__} is not accepted: hashbench.manifest.read_manifest() gives a manifest"
        )
    tensors = _tensors(module_or_state_dict)
    named = {entry.name for entry in manifest.entries}
    verified = {found.memory for name, found in tensors.items() if name in named and found.tensor.nbytes}
    wanted = {name: found for name, found in tensors.items() if name in named or found.memory not in verified}
    return compare(manifest, _manifest(wanted, manifest.algorithm, manifest.chunk_size, stream))


def kernel_for(device: torch.device, algorithm: str = "sha256") -> Kernel:
    """The kernel that hashes the tensors of a device. It is built in the first call, and kept.

    Args:
        device: a GPU, the current one where it has no index, or the CPU.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: there is no such algorithm.
        Unavailable: none can be used there, or tensors there cannot be hashed at all.
    """
    if device.type not in ("cpu", "cuda"):
        raise Unavailable(
            f"tensors on {device} cannot be hashed where they are: only those on cpu and cuda devices can"
        )
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return _place(device, algorithm).kernel


@dataclass(frozen=True)
class _Place(ABC):
    """The memory that tensors lie in, and the kernel that hashes there, for one thread at a time."""

    kernel: Kernel
    busy: Lock = field(default_factory=Lock)

    @abstractmethod
    def roots(self, tensors: Sequence[torch.Tensor], chunk_size: int) -> list[bytes]:
        """The roots of contiguous tensors, which nothing writes to meanwhile."""


class _DeviceMemory(_Place):
    def roots(self, tensors: Sequence[torch.Tensor], chunk_size: int) -> list[bytes]:
        segments = [Buffer(tensor, tensor.data_ptr(), tensor.nbytes) for tensor in tensors]
        chunks = [max(1, -(-segment.nbytes // chunk_size)) for segment in segments]
        with self.busy:
            room = self.kernel.free_memory() // 2 // self.kernel.algorithm.digest_size
            calls = [self.kernel.tree(segments[run], chunk_size) for run in packed(chunks, room)]
        return [root.tobytes() for roots in calls for root in roots]


class _HostMemory(_Place):
    def roots(self, tensors: Sequence[torch.Tensor], chunk_size: int) -> list[bytes]:
        # Where there are less than two items, reshape() may keep a stride that view() does not take.
        flat = [tensor.detach().as_strided((tensor.numel(),), (1,)) for tensor in tensors]
        arrays = [one.view(torch.uint8).numpy() for one in flat]
        with self.busy:
            return RangeHasher(self.kernel, chunk_size).roots(arrays)


@cache
def _place(device: torch.device, algorithm: str) -> _Place:
    if device.type == "cpu":
        return _HostMemory(_host_kernel(algorithm))
    return _DeviceMemory(_cuda_kernel(str(device.index), algorithm))


def _cuda_kernel(device: str, algorithm: str) -> Kernel:
    refusals = []
    for name in CUDA_KERNELS:
        try:
            return choose(name, device, algorithm)
        except Unavailable as error:
            refusals.append(str(error))
    raise Unavailable("; ".join(refusals))


def _host_kernel(algorithm: str) -> Kernel:
    """The fastest kernel of the CPU; no framework of GPUs is imported for it."""
    listed = (device for name in FASTEST_FIRST["cpu"] for device in reversed(kernel_class(name).devices()))
    device = next(device for device in listed if device.kind == "cpu" and device.unavailable is None)
    return choose(device.kernel, device.id, algorithm)


def _tensors(model: Model) -> dict[str, _Tensor]:
    """The tensors of a model by name, each of them one that can be hashed."""
    state = model.state_dict(keep_vars=True) if isinstance(model, torch.nn.Module) else model
    if not isinstance(state, Mapping):
        raise TypeError(f"{type(model).__name__} is not accepted: a module or a mapping of names to tensors is")
    return {name: _checked(name, value) for name, value in state.items() if not _is_extra_state(name, value)}


def _is_extra_state(name: Any, value: Any) -> bool:
    """Whether it is what a module's `get_extra_state` gave, and no tensor."""
    return not isinstance(value, torch.Tensor) and str(name).rpartition(".")[2] == "_extra_state"


def _checked(name: Any, tensor: Any) -> _Tensor:
    """Refuses what has no bytes to hash, or none as they would be stored."""
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not accepted as a tensor's name: it must be a string")
    if not isinstance(tensor, torch.Tensor):
        refusal = f"it is a {type(tensor).__name__}, not a tensor: pass a state dict without it"
    elif tensor.is_meta:
        refusal = "it is on the meta device, where tensors have no bytes: load its weights first"
    elif torch.nn.parameter.is_lazy(tensor):
        refusal = "it has no bytes before its lazy module has run"
    elif type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        refusal = f"it is a {type(tensor).__name__}, a wrapper around other tensors: pass those in a state dict"
    elif tensor.is_nested or tensor.layout is not torch.strided:
        refusal = f"it is nested or has the layout {tensor.layout}: only strided tensors are bytes in row-major order"
    elif not (tensor.is_cuda or tensor.is_cpu):
        refusal = f"it lies on {tensor.device}: only tensors on cpu and cuda devices can be hashed where they are"
    elif tensor.untyped_storage().nbytes() < _last_byte(tensor):
        refusal = "its memory was given back, as sharding frameworks do between uses: gather the tensor first"
    elif tensor.is_conj() or tensor.is_neg():
        refusal = "it is a conjugate or negative that is not computed yet: call resolve_conj() or resolve_neg() first"
    else:
        try:
            return _Tensor(tensor, _memory(tensor), *torch_description(str(tensor.dtype), tensor.shape))
        except ValueError as error:
            refusal = str(error)
    raise TensorError(f"tensor {name!r}: {refusal}")


def _last_byte(tensor: torch.Tensor) -> int:
    """How far into its storage the tensor reaches."""
    if not tensor.numel():
        return 0
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((tensor.storage_offset() + steps + 1) * tensor.element_size())


def _memory(tensor: torch.Tensor) -> _Memory:
    if tensor.is_contiguous():
        return tensor.device, tensor.data_ptr(), tensor.nbytes
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _manifest(
    tensors: Mapping[str, _Tensor], algorithm: str, chunk_size: int, stream: torch.cuda.Stream | None
) -> Manifest:
    by_device: dict[torch.device, dict[_Memory, torch.Tensor]] = {}
    for found in tensors.values():
        by_device.setdefault(found.tensor.device, {}).setdefault(found.memory, found.tensor)
    streams = {device: _stream(device, stream) for device in by_device}
    for one in streams.values():
        if one is not None:
            one.synchronize()

    def hashed(device: torch.device) -> dict[_Memory, bytes]:
        return _hashed(by_device[device], _place(device, algorithm), chunk_size, streams[device])

    roots: dict[_Memory, bytes] = {}
    with ThreadPoolExecutor(max(1, len(by_device))) as pool:
        for hashes in pool.map(hashed, by_device):
            roots |= hashes
    entries = [
        TensorEntry(name, found.dtype, found.shape, found.tensor.nbytes, roots[found.memory])
        for name, found in tensors.items()
    ]
    return Manifest(algorithm, chunk_size, tuple(entries))


def _stream(device: torch.device, given: torch.cuda.Stream | None) -> torch.cuda.Stream | None:
    """The stream that a device's tensors are written on; None for the CPU."""
    if given is not None and not isinstance(given, torch.cuda.Stream):
        raise TypeError(f"{type(given).__name__} is not accepted: the stream must be a torch.cuda.Stream")
    if device.type == "cpu":
        return None
    return given if given is not None and given.device == device else torch.cuda.current_stream(device)


def _hashed(
    tensors: Mapping[_Memory, torch.Tensor], place: _Place, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[_Memory, bytes]:
    """The roots of one device's tensors, by memory."""
    dense = {memory: tensor for memory, tensor in tensors.items() if tensor.is_contiguous()}
    roots = dict(zip(dense, place.roots(list(dense.values()), chunk_size), strict=True))
    with torch.cuda.stream(stream):
        for memory in tensors.keys() - dense.keys():
            roots[memory] = _gathered_root(tensors[memory], place, chunk_size, stream)
    return roots


def _gathered_root(tensor: torch.Tensor, place: _Place, chunk_size: int, stream: torch.cuda.Stream | None) -> bytes:
    """The root of a tensor that is not contiguous, over pieces that are complete subtrees but for the last."""
    items = tensor.detach()
    items = torch.view_as_real(items) if items.is_complex() else items
    items = items.view(_INTEGERS[items.element_size()])
    count = items.numel()
    step = chunk_size // items.element_size()
    while 2 * step <= PIECE_ITEMS:
        step *= 2
    roots = []
    for start in range(0, count, step):
        piece = items.take(torch.arange(start, min(start + step, count), device=items.device))
        if stream is not None:
            stream.synchronize()
        roots += place.roots([piece], chunk_size)
    return root_of(roots, place.kernel.algorithm.name)
