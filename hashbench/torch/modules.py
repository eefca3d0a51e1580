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
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import torch

from hashbench.hashing.packing import packed
from hashbench.hashing.range_hasher import RangeHasher
from hashbench.hashing.selection import FASTEST_FIRST, choose
from hashbench.kernels import Buffer, Bytes, Kernel, Unavailable, algorithm_named, check_chunk_size, kernel_class
from hashbench.merkle.rfc9162 import root_of
from hashbench.model.dtypes import TORCH_NAMES, torch_description
from hashbench.model.manifest import Entry, Manifest, TensorEntry
from hashbench.model.report import Report, compare

CUDA_KERNELS = ("cupy", "numba-cuda")
"""The kernels that hash tensors in the memory of a GPU, the fastest first."""

PIECE_ITEMS = 1 << 22
"""Items of a tensor that is not contiguous that are gathered at a time, except that a piece is at least one chunk."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes an item: the dtypes that every device can gather."""

_PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
"""What nearly all tensors are: neither lazy nor wrappers."""

_PLAIN_DTYPES = {
    getattr(torch, name): ours
    for name, ours in TORCH_NAMES.items()
    if hasattr(torch, name) and not name.endswith("_x2")
}
"""Safetensors' name of each dtype whose tensors have the same shape there."""

Model: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]
_Memory = tuple[Any, ...]
_Hasher: TypeAlias = Callable[[Sequence[torch.Tensor]], list[bytes]]
"""Gives the roots of contiguous tensors, which nothing writes to meanwhile."""


class TensorError(ValueError):
    """A tensor whose bytes cannot be had as they would be stored; the message names it."""


class _Tensor(NamedTuple):
    """A tensor, where it lies, what tells its memory from others', and how safetensors describes it."""

    tensor: torch.Tensor
    device: torch.device
    contiguous: bool
    memory: _Memory
    dtype: str
    shape: tuple[int, ...]

    @property
    def content(self) -> tuple[_Memory, str, tuple[int, ...]]:
        """What tied tensors have in common: the memory, and what its bytes are taken for."""
        return self.memory, self.dtype, self.shape


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
        ValueError: `algorithm` or `chunk_size` is not accepted; chunks of tensors in host memory have 256 MiB at most.
        TensorError: a tensor has no bytes here (it is on the meta device, or lazy), lies on a device that is neither a
            GPU of CUDA or ROCm nor the CPU, is sparse, is a wrapper around others, or is of a dtype that safetensors
            does not know.
        Unavailable: a GPU's tensors are asked for and neither CuPy nor numba-cuda can be used.
        OutOfDeviceMemory: a GPU has no room for the digests of one tensor's chunks.
    """
    algorithm, chunk_size = algorithm_named(algorithm).name, check_chunk_size(chunk_size)
    tensors = _tensors(module_or_state_dict)
    return _manifest(tensors, _roots(tensors.values(), algorithm, chunk_size, stream), algorithm, chunk_size)


def verify(module_or_state_dict: Model, manifest: Manifest, *, stream: torch.cuda.Stream | None = None) -> Report:
    """Holds the tensors of a module against a manifest, where they lie.

    A tensor that the manifest does not name is extra, unless it is tied to one that the manifest names: of the same
    memory, dtype and shape, so that it is what was verified. Files of models store tied weights under one name, while
    modules have them under several.

    Args:
        module_or_state_dict: as for `manifest`.
        manifest: made from the model's files, or by `manifest`; it says with which algorithm and chunk size.
        stream: as for `manifest`.

    Raises:
        TypeError: `manifest` is none; and as `manifest`.
        ValueError: a tensor is in host memory, and the manifest's chunks are larger than 256 MiB.
        TensorError, Unavailable, OutOfDeviceMemory: as `manifest`.
    """
    if not isinstance(manifest, Manifest):
        raise TypeError(
            f"{type(manifest).__name__} is not accepted: hashbench.model.manifest.read_manifest() gives a manifest"
        )
    tensors = _tensors(module_or_state_dict)
    named, algorithm, chunk_size = manifest.by_name, manifest.algorithm, manifest.chunk_size
    if unnamed := tensors.keys() - named.keys():
        verified = {found.content for name, found in tensors.items() if name not in unnamed}
        tied = {name for name in unnamed if tensors[name].content in verified}
        tensors = {name: found for name, found in tensors.items() if name not in tied}
    roots = _roots(tensors.values(), algorithm, chunk_size, stream)
    if len(tensors) == len(named) and all(
        _is(found, roots[found.memory], named.get(name)) for name, found in tensors.items()
    ):
        # What was found is this very manifest: to make it again would take longer than to hash small tensors.
        return Report(manifest, manifest, differs=(), missing=(), extra=())
    return compare(manifest, _manifest(tensors, roots, algorithm, chunk_size))


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

    @contextmanager
    def hashing(self, chunk_size: int) -> Iterator[_Hasher]:
        """What hashes here over chunks of that size, until the context ends."""
        with self.busy:
            yield self._hasher(chunk_size)

    @abstractmethod
    def _hasher(self, chunk_size: int) -> _Hasher:
        """For one thread, as `hashing` gives it."""


class _DeviceMemory(_Place):
    def _hasher(self, chunk_size: int) -> _Hasher:
        return partial(self._roots, chunk_size)

    def _roots(self, chunk_size: int, tensors: Sequence[torch.Tensor]) -> list[bytes]:
        segments = [Buffer(tensor, tensor.data_ptr(), tensor.nbytes) for tensor in tensors]
        chunks = [-(-segment.nbytes // chunk_size) or 1 for segment in segments]
        size = self.kernel.algorithm.digest_size
        calls = packed(chunks, self.kernel.free_memory() // 2 // size)
        roots = b"".join(self.kernel.tree(segments[run], chunk_size).tobytes() for run in calls)
        return [roots[start : start + size] for start in range(0, len(roots), size)]


class _HostMemory(_Place):
    def _hasher(self, chunk_size: int) -> _Hasher:
        # It keeps the memory that it copies through: so one serves all tensors of a call, and goes with it.
        hasher = RangeHasher(self.kernel, chunk_size)
        return lambda tensors: hasher.roots([_host_bytes(tensor) for tensor in tensors])


def _host_bytes(tensor: torch.Tensor) -> Bytes:
    # Where there are less than two items, reshape() may keep a stride that view() does not take.
    flat = tensor.detach().as_strided((tensor.numel(),), (1,))
    data: Bytes = flat.view(torch.uint8).numpy()
    return data


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
    return {
        name: _checked(name, value)
        for name, value in state.items()
        if type(value) in _PLAIN_TYPES or not _is_extra_state(name, value)
    }


def _is_extra_state(name: Any, value: Any) -> bool:
    """Whether it is what a module's `get_extra_state` gave, and no tensor."""
    return not isinstance(value, torch.Tensor) and str(name).rpartition(".")[2] == "_extra_state"


def _checked(name: Any, tensor: Any) -> _Tensor:
    """Refuses what has no bytes to hash, or none as they would be stored.

    This runs for every tensor of every call, so each of its properties is asked for once.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r} is not accepted as a tensor's name: it must be a string")
    if type(tensor) not in _PLAIN_TYPES and (refusal := _refusal_of_type(tensor)):
        raise _refused(name, refusal)
    device, layout = tensor.device, tensor.layout
    if refusal := _refusal_of_device(device):
        raise _refused(name, refusal)
    if layout is not torch.strided or tensor.is_nested:
        raise _refused(
            name, f"it is nested or has the layout {layout}: only strided tensors are bytes in row-major order"
        )
    nbytes, storage, contiguous = tensor.nbytes, tensor.untyped_storage(), tensor.is_contiguous()
    if nbytes and storage.nbytes() < (_last_byte(tensor) if tensor.storage_offset() or not contiguous else nbytes):
        raise _refused(
            name, "its memory was given back, as sharding frameworks do between uses: gather the tensor first"
        )
    if tensor.is_conj() or tensor.is_neg():
        raise _refused(
            name, "it is a conjugate or negative that is not computed yet: call resolve_conj() or resolve_neg() first"
        )
    dtype, shape = tensor.dtype, tensor.shape
    if not nbytes:
        memory: _Memory = device, storage._cdata, 0  # without bytes there is no address that would tell it from others
    elif contiguous:
        memory = device, tensor.data_ptr(), nbytes
    else:
        memory = device, tensor.data_ptr(), dtype, shape, tensor.stride()
    if dtype in _PLAIN_DTYPES:
        return _Tensor(tensor, device, contiguous, memory, _PLAIN_DTYPES[dtype], shape)
    try:
        return _Tensor(tensor, device, contiguous, memory, *torch_description(str(dtype), shape))
    except ValueError as error:
        raise _refused(name, str(error)) from None


def _refused(name: str, refusal: str) -> TensorError:
    return TensorError(f"tensor {name!r}: {refusal}")


def _refusal_of_type(tensor: Any) -> str | None:
    if not isinstance(tensor, torch.Tensor):
        return f"it is a {type(tensor).__name__}, not a tensor: pass a state dict without it"
    if tensor.is_meta:
        return _refusal_of_device(tensor.device)
    if torch.nn.parameter.is_lazy(tensor):
        return "it has no bytes before its lazy module has run"
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"it is a {type(tensor).__name__}, a wrapper around other tensors: pass those in a state dict"
    return None


@cache
def _refusal_of_device(device: torch.device) -> str | None:
    if device.type == "meta":
        return "it is on the meta device, where tensors have no bytes: load its weights first"
    if device.type not in ("cpu", "cuda"):
        return f"it lies on {device}: only tensors on cpu and cuda devices can be hashed where they are"
    return None


def _last_byte(tensor: torch.Tensor) -> int:
    """How far into its storage a tensor that is not empty reaches."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((tensor.storage_offset() + steps + 1) * tensor.itemsize)


def _is(found: _Tensor, root: bytes, expected: Entry | None) -> bool:
    """Whether a tensor is the one of an entry."""
    return (
        isinstance(expected, TensorEntry)
        and expected.root == root
        and expected.dtype == found.dtype
        and expected.shape == found.shape
    )


def _manifest(
    tensors: Mapping[str, _Tensor], roots: Mapping[_Memory, bytes], algorithm: str, chunk_size: int
) -> Manifest:
    entries = (
        TensorEntry(name, found.dtype, tuple(found.shape), found.tensor.nbytes, roots[found.memory])
        for name, found in tensors.items()
    )
    return Manifest(algorithm, chunk_size, tuple(entries))


def _roots(
    tensors: Collection[_Tensor], algorithm: str, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[_Memory, bytes]:
    """The roots of tensors, by memory: what several share is hashed once."""
    by_device: defaultdict[torch.device, dict[_Memory, _Tensor]] = defaultdict(dict)
    for found in tensors:
        by_device[found.device][found.memory] = found
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
    return roots


def _stream(device: torch.device, given: torch.cuda.Stream | None) -> torch.cuda.Stream | None:
    """The stream that a device's tensors are written on; None for the CPU."""
    if given is not None and not isinstance(given, torch.cuda.Stream):
        raise TypeError(f"{type(given).__name__} is not accepted: the stream must be a torch.cuda.Stream")
    if device.type == "cpu":
        return None
    return given if given is not None and given.device == device else torch.cuda.current_stream(device)


def _hashed(
    tensors: Mapping[_Memory, _Tensor], place: _Place, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[_Memory, bytes]:
    """The roots of one device's tensors, by memory."""
    dense = {memory: found.tensor for memory, found in tensors.items() if found.contiguous}
    with place.hashing(chunk_size) as hasher:
        roots = dict(zip(dense, hasher(list(dense.values())), strict=True))
        with torch.cuda.stream(stream):
            for memory in tensors.keys() - dense.keys():
                pieces = _pieces(tensors[memory].tensor, chunk_size, stream)
                of_pieces = [root for piece in pieces for root in hasher([piece])]
                roots[memory] = root_of(of_pieces, place.kernel.algorithm.name)
    return roots


def _pieces(tensor: torch.Tensor, chunk_size: int, stream: torch.cuda.Stream | None) -> Iterator[torch.Tensor]:
    """A tensor that is not contiguous in contiguous pieces, each a complete subtree but for the last."""
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
