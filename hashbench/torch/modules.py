"""PyTorch models, hashed in place: the manifest of what is in memory, and verification against a manifest.

Tensors in GPU memory are hashed there, through their pointers, all of one device in one call; only roots are copied. A
call needs extra GPU memory for one digest per chunk (0.8 % of the model with SHA-256 and chunks of 4 KiB). If less is
free, the tensors are hashed in several calls. CuPy keeps that memory for the next call. Tensors in host memory go
through the fastest CPU kernel, in bounded memory.

A tensor's root is that of its bytes as safetensors stores them: little-endian and row-major. So it is the root of the
same tensor in its file, whatever its strides in memory. A tensor that is not contiguous is gathered piece by piece, in
at most 128 MiB of extra memory, or as much as one chunk needs if that is more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import torch

from hashbench.hashing.hasher import Hasher
from hashbench.hashing.packing import packed
from hashbench.hashing.selection import choose, devices_of, fastest_first
from hashbench.kernels import Buffer, Bytes, Kernel, Unavailable, algorithm_named, check_chunk_size
from hashbench.merkle.rfc9162 import root_of
from hashbench.model.dtypes import TORCH_NAMES, torch_description
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.report import Report, compare

CUDA_KERNELS = ("cupy", "numba-cuda")
"""The kernels that hash tensors in GPU memory, the fastest first."""

PIECE_ITEMS = 1 << 22
"""Items of a non-contiguous tensor that are gathered at a time, except that a piece has at least one chunk."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By item size in bytes: the dtypes that every device can gather."""

_PLAIN_TYPES = frozenset({torch.Tensor, torch.nn.Parameter})
"""The types of nearly all tensors: neither lazy nor wrappers."""

_PLAIN_DTYPES = {
    getattr(torch, name): ours
    for name, ours in TORCH_NAMES.items()
    if hasattr(torch, name) and not name.endswith("_x2")
}
"""The name in safetensors of each dtype whose tensors have the same shape there."""

Model: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]
_Memory = tuple[Any, ...]
_Roots: TypeAlias = Callable[[Sequence[torch.Tensor]], list[bytes]]
"""Computes the roots of contiguous tensors, which nothing may write to meanwhile."""


class TensorError(ValueError):
    """A tensor does not have bytes as they would be stored; the message names it."""


class _Tensor(NamedTuple):
    """A tensor, its device, what identifies its memory, and its description in safetensors."""

    tensor: torch.Tensor
    device: torch.device
    contiguous: bool
    memory: _Memory
    nbytes: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def content(self) -> tuple[_Memory, str, tuple[int, ...]]:
        """What tied tensors have in common: their memory, and how its bytes are interpreted."""
        return self.memory, self.dtype, self.shape


def manifest(
    module_or_state_dict: Model,
    *,
    algorithm: str = "sha256",
    chunk_size: int = 4096,
    stream: torch.cuda.Stream | None = None,
) -> Manifest:
    """The manifest of the tensors of a module, hashed in place.

    Every tensor of `state_dict()` has an entry: parameters and persistent buffers. Tied weights have one under each
    name, and are hashed once. A module's extra state has none, unless it is a tensor.

    Args:
        module_or_state_dict: the module, or tensors by name. Nothing may write to them until the call returns.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a positive multiple of 64.
        stream: the call waits for the work that was queued on this stream before it. None, and other devices than the
            stream's, mean the device's current stream.

    Returns:
        The manifest, with the names that dtypes have in safetensors.

    Raises:
        TypeError: `module_or_state_dict` is neither, or `stream` is not a stream.
        ValueError: `algorithm` or `chunk_size` is not accepted, where chunks of tensors in host memory have 256 MiB at
            most; or the model has no tensors, or none with bytes.
        TensorError: a tensor has no bytes (it is on the meta device, or lazy), is on a device other than the CPU or a
            CUDA or ROCm GPU, is sparse, is a wrapper around others, or has a dtype that safetensors does not have.
        Unavailable: tensors are on a GPU, and neither CuPy nor numba-cuda can be used.
        OutOfDeviceMemory: a GPU has no room for the digests of one tensor's chunks.
    """
    algorithm, chunk_size = algorithm_named(algorithm).name, check_chunk_size(chunk_size)
    tensors = _tensors(module_or_state_dict)
    if not any(found.nbytes for found in tensors.values()):
        raise ValueError(f"the model has no tensors{' with bytes' if tensors else ''}: there is nothing to hash")
    entries = _entries(tensors, algorithm, chunk_size, stream)
    return Manifest(algorithm, chunk_size, tuple(entries.values()))


def verify(
    module_or_state_dict: Model,
    manifest: Manifest,
    *,
    component: str = "",
    stream: torch.cuda.Stream | None = None,
) -> Report:
    """Verifies the tensors of a module against a manifest, in place.

    Files that the manifest lists are not in memory: they are not verified, and neither are tensors of other components.

    A tensor that the manifest does not list is extra, unless it is tied to one that the manifest lists: it has the same
    memory, dtype and shape, so it is verified too. Model files store tied weights under one name, while modules have
    them under several.

    Args:
        module_or_state_dict: as for `manifest`.
        manifest: made from the model's files, or by `manifest`. It determines algorithm and chunk size.
        component: which tensors of the manifest the module has: those with plain names, or those whose names begin with
            this path, such as "unet" in a pipeline of diffusers (`hashbench.model.components`).
        stream: as for `manifest`.

    Returns:
        The report: verify only `report.ok`.

    Raises:
        TypeError: `manifest` is not a manifest, or as for `manifest`.
        ValueError: the manifest has no tensors of the component; or a tensor is in host memory, and the manifest's
            chunks are larger than 256 MiB.
        TensorError, Unavailable, OutOfDeviceMemory: as for `manifest`.
    """
    if not isinstance(manifest, Manifest):
        raise TypeError(
            f"{type(manifest).__name__} is not accepted: pass what hashbench.model.manifest.read_manifest() returns"
        )
    expected = manifest.of_component(component)
    if not expected.entries:
        named = f"the component {component!r}" if component else "a model at its top"
        raise ValueError(f"the manifest has no tensors of {named}: name the component that the module is")
    tensors = _tensors(module_or_state_dict)
    if unlisted := tensors.keys() - expected.by_name.keys():
        verified = {found.content for name, found in tensors.items() if name not in unlisted}
        tied = {name for name in unlisted if tensors[name].content in verified}
        tensors = {name: found for name, found in tensors.items() if name not in tied}
    report = compare(expected, _entries(tensors, manifest.algorithm, manifest.chunk_size, stream))
    return replace(report, root=manifest.root)


def kernel_for(device: torch.device, algorithm: str = "sha256") -> Kernel:
    """The kernel that hashes the tensors of a device. It is built in the first call, and kept.

    Args:
        device: the CPU or a GPU, by default the current one.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: the algorithm is unknown.
        Unavailable: no kernel can be used on the device, or its tensors cannot be hashed in place.
    """
    if device.type not in ("cpu", "cuda"):
        raise Unavailable(f"tensors on {device} cannot be hashed in place: only those on cpu and cuda devices can")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    return _place(device, algorithm).kernel


@dataclass(frozen=True)
class _Place(ABC):
    """The memory that tensors are in, and the kernel that hashes there, for one thread at a time."""

    kernel: Kernel
    busy: Lock = field(default_factory=Lock)

    @contextmanager
    def hashing(self, chunk_size: int) -> Iterator[_Roots]:
        """Computes roots over chunks of that size until the context ends."""
        with self.busy:
            yield self._roots(chunk_size)

    @abstractmethod
    def _roots(self, chunk_size: int) -> _Roots:
        """What `hashing` gives, for one thread."""


class _DeviceMemory(_Place):
    def _roots(self, chunk_size: int) -> _Roots:
        return partial(self._in_place, chunk_size)

    def _in_place(self, chunk_size: int, tensors: Sequence[torch.Tensor]) -> list[bytes]:
        segments = [Buffer(tensor, tensor.data_ptr(), tensor.nbytes) for tensor in tensors]
        chunks = [-(-segment.nbytes // chunk_size) or 1 for segment in segments]
        size = self.kernel.algorithm.digest_size
        calls = packed(chunks, self.kernel.free_memory() // 2 // size)
        roots = b"".join(self.kernel.tree(segments[run], chunk_size).tobytes() for run in calls)
        return [roots[start : start + size] for start in range(0, len(roots), size)]


class _HostMemory(_Place):
    def _roots(self, chunk_size: int) -> _Roots:
        # It keeps the memory that it copies through, so one hasher serves all tensors of a call, but no longer.
        hasher = Hasher(self.kernel, chunk_size)
        return lambda tensors: hasher.roots([_host_bytes(tensor) for tensor in tensors])


def _host_bytes(tensor: torch.Tensor) -> Bytes:
    # With fewer than two items, reshape() may keep a stride that view() does not accept.
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
    """The fastest CPU kernel; GPU frameworks are not imported for it."""
    listed = (device for name in fastest_first("cpu") for device in reversed(devices_of(name)))
    device = next(device for device in listed if device.kind == "cpu" and device.unavailable is None)
    return choose(device.kernel, device.id, algorithm)


def _tensors(model: Model) -> dict[str, _Tensor]:
    """The tensors of a model by name, after a check that they can be hashed."""
    state = model.state_dict(keep_vars=True) if isinstance(model, torch.nn.Module) else model
    if not isinstance(state, Mapping):
        raise TypeError(f"{type(model).__name__} is not accepted: pass a module or a mapping of names to tensors")
    return {
        name: _checked(name, value)
        for name, value in state.items()
        if type(value) in _PLAIN_TYPES or not _is_extra_state(name, value)
    }


def _is_extra_state(name: Any, value: Any) -> bool:
    """Whether it comes from a module's `get_extra_state` and is not a tensor."""
    return not isinstance(value, torch.Tensor) and str(name).rpartition(".")[2] == "_extra_state"


def _checked(name: Any, tensor: Any) -> _Tensor:
    """Describes a tensor, if it has bytes as they would be stored.

    This runs for every tensor of every call, so it gets each property once.

    Raises:
        TypeError: the name is not a string.
        TensorError: the tensor has no such bytes.
    """
    if not isinstance(name, str):
        raise TypeError(f"the tensor name {name!r} is not accepted: it must be a string")
    if type(tensor) not in _PLAIN_TYPES and (refusal := _refusal_of_type(tensor)):
        raise _refused(name, refusal)
    if type(tensor) not in _PLAIN_TYPES or tensor.__dict__:
        # What a class or an attribute of the instance overrides must not choose which memory is hashed.
        with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
            tensor = torch.Tensor.as_subclass(tensor, torch.Tensor)
    device, layout = tensor.device, tensor.layout
    if refusal := _refusal_of_device(device):
        raise _refused(name, refusal)
    if layout is not torch.strided or tensor.is_nested:
        raise _refused(
            name, f"it is nested or has the layout {layout}: only strided tensors have bytes in row-major order"
        )
    nbytes, storage, contiguous = tensor.nbytes, tensor.untyped_storage(), tensor.is_contiguous()
    if nbytes and storage.nbytes() < (_last_byte(tensor) if tensor.storage_offset() or not contiguous else nbytes):
        raise _refused(name, "its memory was freed, as sharding frameworks do between uses: gather the tensor first")
    if tensor.is_conj() or tensor.is_neg():
        raise _refused(name, "it is a lazy conjugate or negative: call resolve_conj() or resolve_neg() first")
    dtype, shape = tensor.dtype, tensor.shape
    if not nbytes:
        memory: _Memory = device, storage._cdata, 0  # its address identifies nothing
    elif contiguous:
        memory = device, tensor.data_ptr(), nbytes
    else:
        memory = device, tensor.data_ptr(), dtype, shape, tensor.stride()
    if dtype in _PLAIN_DTYPES:
        return _Tensor(tensor, device, contiguous, memory, nbytes, _PLAIN_DTYPES[dtype], shape)
    try:
        return _Tensor(tensor, device, contiguous, memory, nbytes, *torch_description(str(dtype), shape))
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
        return "it has no bytes until its lazy module has run"
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"it is a {type(tensor).__name__}, a wrapper around other tensors: pass those in a state dict"
    return None


@cache
def _refusal_of_device(device: torch.device) -> str | None:
    if device.type == "meta":
        return "it is on the meta device, where tensors have no bytes: load the weights first"
    if device.type not in ("cpu", "cuda"):
        return f"it is on {device}: only tensors on cpu and cuda devices can be hashed in place"
    return None


def _last_byte(tensor: torch.Tensor) -> int:
    """The end of a non-empty tensor in its storage, in bytes."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int((tensor.storage_offset() + steps + 1) * tensor.itemsize)


def _entries(
    tensors: Mapping[str, _Tensor], algorithm: str, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[str, TensorEntry]:
    """The entries of tensors by name."""
    roots = _roots(tensors.values(), algorithm, chunk_size, stream)
    return {
        name: TensorEntry(name, found.dtype, tuple(found.shape), found.nbytes, roots[found.memory])
        for name, found in tensors.items()
    }


def _roots(
    tensors: Collection[_Tensor], algorithm: str, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[_Memory, bytes]:
    """The roots of tensors by memory: memory that several share is hashed once."""
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
    """The stream on which a device's tensors are written; None for the CPU."""
    if given is not None and not isinstance(given, torch.cuda.Stream):
        raise TypeError(f"{type(given).__name__} is not accepted: the stream must be a torch.cuda.Stream")
    if device.type == "cpu":
        return None
    return given if given is not None and given.device == device else torch.cuda.current_stream(device)


def _hashed(
    tensors: Mapping[_Memory, _Tensor], place: _Place, chunk_size: int, stream: torch.cuda.Stream | None
) -> dict[_Memory, bytes]:
    """The roots of one device's tensors by memory."""
    dense = {memory: found.tensor for memory, found in tensors.items() if found.contiguous}
    with place.hashing(chunk_size) as roots_of:
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
