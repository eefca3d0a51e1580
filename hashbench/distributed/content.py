"""Descriptions of what lies in a rank's memory: subtree roots computed on the device, and bytes that fill no leaf.

All subtrees of many tensors are hashed in one call of the kernel, which is started and waited for apart: so that ranks
can prepare the next and talk to each other meanwhile. Where a tree's leaves are on several ranks, leaf hashes stay on
the device until they are folded there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate, chain, cycle
from typing import NamedTuple

import numpy as np
import torch

from hashbench.distributed.subtrees import Run, cut
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.packing import packed
from hashbench.kernels import Buffer, Bytes, Kernel, Work
from hashbench.merkle.rfc9162 import root_of
from hashbench.torch.places import host_bytes, kernel_for

GATHERED = 32 << 20
"""Bytes of a tensor with gaps in memory that are gathered at a time, except that a piece has at least one chunk."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By item size in bytes: the dtypes that every device can gather."""


class Extent(NamedTuple):
    """A run of a tensor's bytes in a rank's memory.

    Attributes:
        run: where it lies in the tensor.
        nbytes: the tensor's size.
        memory: what holds the run.
        offset: where the run begins among the bytes of `memory`, as if it were contiguous.
    """

    run: Run
    nbytes: int
    memory: torch.Tensor
    offset: int


class Range(NamedTuple):
    """Bytes of a tensor, as if it were contiguous."""

    memory: torch.Tensor
    start: int
    stop: int


Contents = Callable[[], list[bytes]]
"""Waits for the descriptions of items, one for each."""

Roots = Callable[[], list[bytes]]
"""Waits for roots."""


def describe(
    items: Sequence[Sequence[Extent]], chunk_size: int, algorithm: str, stream: torch.cuda.Stream | None = None
) -> Contents:
    """Starts describing what extents hold, all on one device.

    Args:
        items: extents that are described together, one after another. Nothing may write to their memory before the
            descriptions are there.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".
        stream: on a GPU, where hashing is enqueued. None takes streams of its own, and then the work of the current
            stream must be done.

    Returns:
        What waits for the descriptions.

    Raises:
        Unavailable, OutOfDeviceMemory: the device cannot hash.
    """
    extents = list(chain.from_iterable(items))
    if not extents:
        return lambda: [b""] * len(items)
    subtrees: list[Range] = []
    loose: list[Range] = []
    for (start, stop), nbytes, memory, offset in extents:
        head, blocks, tail = cut(start, stop, nbytes, chunk_size)
        origin = offset - start
        if head:
            loose.append(Range(memory, offset, offset + head))
        for first, count in blocks:
            end = min(nbytes, (first + count) * chunk_size)
            subtrees.append(Range(memory, origin + first * chunk_size, origin + end))
        if tail:
            loose.append(Range(memory, origin + stop - tail, origin + stop))
    roots = _roots(subtrees, chunk_size, algorithm, stream)
    return lambda: _assembled(items, chunk_size, iter(roots()), _bytes_of(loose, stream))


def _assembled(
    items: Sequence[Sequence[Extent]], chunk_size: int, roots: Iterator[bytes], loose: memoryview
) -> list[bytes]:
    """Puts roots and loose bytes in the order of the extents' descriptions."""
    found, at = [], 0
    for item in items:
        said: list[bytes | memoryview] = []
        for (start, stop), nbytes, _, _ in item:
            head, blocks, tail = cut(start, stop, nbytes, chunk_size)
            said.append(loose[at : at + head])
            said.extend(next(roots) for _ in blocks)
            said.append(loose[at + head : at + head + tail])
            at += head + tail
        found.append(b"".join(said))
    return found


def _roots(ranges: Sequence[Range], chunk_size: int, algorithm: str, stream: torch.cuda.Stream | None) -> Roots:
    """Starts hashing complete subtrees; what it returns waits for their roots."""
    if not ranges:
        return list
    device = ranges[0].memory.device
    start = _on_host if device.type == "cpu" else _on_gpu
    gaps = [index for index, found in enumerate(ranges) if not found.memory.is_contiguous()]
    dense = ranges if not gaps else [found for found in ranges if found.memory.is_contiguous()]
    wait = start(dense, chunk_size, algorithm, stream)
    if not gaps:
        return wait
    gathered = [_gathered_root(ranges[index], chunk_size, algorithm, stream) for index in gaps]

    def merged() -> list[bytes]:
        roots = iter(wait())
        of_gaps = dict(zip(gaps, gathered, strict=True))
        return [of_gaps[index] if index in of_gaps else next(roots) for index in range(len(ranges))]

    return merged


def _gathered_root(found: Range, chunk_size: int, algorithm: str, stream: torch.cuda.Stream | None) -> bytes:
    """The root of a subtree whose bytes have gaps in memory, gathered piece by piece."""
    step = chunk_size
    while 2 * step <= GATHERED:
        step *= 2
    start = _on_host if found.memory.device.type == "cpu" else _on_gpu
    roots = []
    for begin in range(found.start, found.stop, step):
        piece = bytes_of(found.memory, begin, min(begin + step, found.stop))
        _finish(piece.device)
        roots += start([Range(piece, 0, piece.nbytes)], chunk_size, algorithm, stream)()
    return root_of(roots, algorithm)


@cache
def _background() -> ThreadPoolExecutor:
    """A thread that hashes host memory while the ranks talk."""
    return ThreadPoolExecutor(1, "hashbench")


def _on_host(ranges: Sequence[Range], chunk_size: int, algorithm: str, _: torch.cuda.Stream | None) -> Roots:
    sources = [host_bytes(found.memory)[found.start : found.stop] for found in ranges]
    kernel = kernel_for(torch.device("cpu"), algorithm)
    return _background().submit(_roots_on_host, sources, kernel, chunk_size).result


def _roots_on_host(sources: Sequence[Bytes], kernel: Kernel, chunk_size: int) -> list[bytes]:
    segments = _viewed(sources, kernel)
    if segments is None:
        return Hasher(kernel, chunk_size).roots(sources)
    size = kernel.algorithm.digest_size
    calls = packed([size * -(-len(segment) // chunk_size) for segment in segments], kernel.free_memory() // 2)
    return [root for call in calls for root in _split(kernel.tree(segments[call], chunk_size).tobytes(), size)]


def _viewed(sources: Sequence[Bytes], kernel: Kernel) -> list[Buffer] | None:
    """Host memory as a kernel of the CPU hashes it; None if its framework has memory of its own, as OpenCL's."""
    try:
        return [kernel.view(source) for source in sources]
    except TypeError:
        return None


@cache
def _streams(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Two streams in turn, so that the next call begins where the upper levels of the last leave room."""
    return cycle([torch.cuda.Stream(device), torch.cuda.Stream(device)])


def _on_gpu(ranges: Sequence[Range], chunk_size: int, algorithm: str, stream: torch.cuda.Stream | None) -> Roots:
    device = ranges[0].memory.device
    kernel = kernel_for(device, algorithm)
    size = kernel.algorithm.digest_size
    buffers = _buffers(ranges)
    calls = list(packed([size * -(-len(buffer) // chunk_size) for buffer in buffers], kernel.free_memory() // 2))
    done = []
    for call in calls:
        work = kernel.prepare("tree", buffers[call], chunk_size)
        work.start(stream or next(_streams(device)))
        if call is not calls[-1]:  # there is no memory for the digests of two
            done.append(_digests(work))

    return lambda: _split(b"".join([*done, _digests(work)]), size)


def leaves(ranges: Sequence[Range], chunk_size: int, algorithm: str, stream: torch.cuda.Stream | None) -> torch.Tensor:
    """The leaf hashes of bytes on one device, range after range: uint8, on that device.

    On a GPU they are there for what is enqueued on the stream afterwards. The caller keeps them until that is done.

    Args:
        ranges: of contiguous tensors, at least one.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".
        stream: on a GPU, where hashing is enqueued.

    Raises:
        Unavailable, OutOfDeviceMemory: the device cannot hash.
    """
    device = ranges[0].memory.device
    kernel = kernel_for(device, algorithm)
    if device.type == "cpu":
        sources = [host_bytes(found.memory)[found.start : found.stop] for found in ranges]
        return _background().submit(_leaves_on_host, sources, kernel, chunk_size).result()
    work = kernel.prepare("leaves", _buffers(ranges), chunk_size)
    work.start(stream)
    return torch.as_tensor(_Result(work), device=device)


class _Result:
    """What a work computes, in the form in which CUDA frameworks pass arrays to each other."""

    def __init__(self, work: Work) -> None:
        self._work = work
        buffer = work.result()
        self.__cuda_array_interface__ = {
            "data": (buffer.address, False),
            "shape": (buffer.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def _leaves_on_host(sources: Sequence[Bytes], kernel: Kernel, chunk_size: int) -> torch.Tensor:
    segments = _viewed(sources, kernel)
    if segments is not None:
        return torch.from_numpy(kernel.leaves(segments, chunk_size).reshape(-1))
    firsts = [0, *accumulate(-(-len(source) // chunk_size) for source in sources)]
    digests = np.empty((firsts[-1], kernel.algorithm.digest_size), np.uint8)
    for found in Hasher(kernel, chunk_size).leaves(sources):
        first = firsts[found.source] + found.first
        digests[first : first + len(found.hashes)] = found.hashes
    return torch.from_numpy(digests.reshape(-1))


def folded(hashes: torch.Tensor, ranges: Sequence[Run], algorithm: str, stream: torch.cuda.Stream | None) -> Roots:
    """Starts folding leaf hashes to the roots of complete subtrees.

    Args:
        hashes: what has them: uint8, contiguous.
        ranges: the bytes in which the leaves of each subtree are.
        algorithm: "sha256" or "sha384".
        stream: on a GPU, where folding is enqueued.

    Returns:
        What waits for the roots.

    Raises:
        Unavailable, OutOfDeviceMemory: the device cannot hash.
    """
    kernel = kernel_for(hashes.device, algorithm)
    size = kernel.algorithm.digest_size
    if hashes.device.type == "cpu":
        return _background().submit(lambda: _split(_folded_on_host(hashes, ranges, kernel), size)).result
    work = kernel.prepare_fold(_buffers([Range(hashes, start, stop) for start, stop in ranges]))
    work.start(stream)
    return lambda: _split(_digests(work), size)


def _folded_on_host(hashes: torch.Tensor, ranges: Sequence[Run], kernel: Kernel) -> bytes:
    there = kernel.put(host_bytes(hashes))
    return kernel.fold([there[start:stop] for start, stop in ranges]).tobytes()


def _buffers(ranges: Sequence[Range]) -> list[Buffer]:
    """Ranges of tensors in a GPU's memory."""
    addresses: dict[int, int] = {}
    for memory, _, _ in ranges:
        if id(memory) not in addresses:
            addresses[id(memory)] = memory.data_ptr()
    return [Buffer(memory, addresses[id(memory)] + start, stop - start) for memory, start, stop in ranges]


def _split(digests: bytes, size: int) -> list[bytes]:
    return [digests[at : at + size] for at in range(0, len(digests), size)]


def _digests(work: Work) -> bytes:
    work.wait()
    return work.digests().tobytes()


def bytes_of(tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Bytes of a tensor in row-major order, as a contiguous uint8 tensor: a view where it is contiguous."""
    items = tensor.detach()
    if items.is_contiguous():
        return items.as_strided((items.numel(),), (1,)).view(torch.uint8)[start:stop]
    items = torch.view_as_real(items) if items.is_complex() else items
    items = items.view(_INTEGERS[items.element_size()])
    size = items.element_size()
    first = start // size
    gathered = items.take(torch.arange(first, -(-stop // size), device=items.device))
    return gathered.view(torch.uint8)[start - first * size : stop - first * size]


def _bytes_of(ranges: Sequence[Range], stream: torch.cuda.Stream | None) -> memoryview:
    """Bytes of all ranges, on the host."""
    if not ranges:
        return memoryview(b"")
    with torch.cuda.stream(stream):
        joined = torch.cat([bytes_of(found.memory, found.start, found.stop) for found in ranges])
        return memoryview(joined.cpu().numpy()).cast("B")


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
