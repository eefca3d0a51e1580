"""Memory that others own: where a tensor is, without keeping it alive, and the roots of ranges of it.

A storage is referenced weakly, and held while it is read, after a look whether it still has the address and the size
that it had. So a storage that was freed, resized or put elsewhere is never read. One in host memory that is resized
while it is read is no longer there for the operating system, which copies it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from time import sleep
from typing import TYPE_CHECKING

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from hashbench.hashing.packing import packed
from hashbench.hashing.selection import devices_of
from hashbench.kernels import Buffer, Bytes, Kernel, Unavailable, Work, kernel_class
from hashbench.merkle.rfc9162 import merkle_tree_hash
from hashbench.torch.host_copy import HostCopy, can_copy
from hashbench.torch.modules import manifest
from hashbench.torch.places import host_bytes, kernel_for
from hashbench.torch.tensors import InMemory, Memory, TensorError, last_byte

if TYPE_CHECKING:
    from hashbench.kernels.confined import Confined
    from hashbench.kernels.cupy_cuda import CupyCuda
    from hashbench.kernels.portions import Portions
    from hashbench.kernels.short_trees import ShortTrees

_HOST_KERNELS = ("numba-cpu", "hashlib")
"""Those that can hash in one thread of low priority, the faster first."""


_SHORT = 16 << 20
"""Bytes of a launch so short that what the workload launches next hardly waits."""

LARGEST_CONFINED_CHUNK = 16 << 10
"""Larger chunks are too few in a slice to occupy a group of threads."""


@dataclass(frozen=True)
class Portion:
    """How much of what is read the workload carries at a time, for `hashbench.torch.Monitor`.

    Attributes:
        groups: of 128 threads. Each hashes a slice of as many chunks, and mostly has a multiprocessor of its own.
        blocks: of each chunk, 64 bytes with SHA-256 and 128 with SHA-384; None for all, 65 or 33 of 4 KiB.
        patience: seconds without a portion after which the workload is taken to be idle, and short launches read as
            usual, until it carries portions again.
    """

    groups: int = 44
    blocks: int | None = 33
    patience: float = 0.1


class Elsewhere(Exception):
    """A tensor's memory is no longer where it was."""


@dataclass(frozen=True, eq=False)
class Location:
    """Where a tensor was when it was looked for.

    Attributes:
        memory: identifies its memory, and the order of its bytes there.
        dtype: its dtype, by its name in safetensors.
        shape: its shape there.
        nbytes: its size in bytes.
        device: the device.
        contiguous: whether its bytes are one range.
    """

    memory: Memory
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    device: torch.device
    contiguous: bool
    _view: tuple[torch.dtype, int, torch.Size, tuple[int, ...]]
    _storage: StorageWeakRef
    _address: int
    _nbytes: int

    @classmethod
    def of(cls, found: InMemory) -> Location:
        """Where a tensor is now."""
        tensor, storage = found.tensor, found.tensor.untyped_storage()
        return cls(
            found.memory,
            found.dtype,
            tuple(found.shape),
            found.nbytes,
            found.device,
            found.contiguous,
            (tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()),
            StorageWeakRef(storage),
            storage.data_ptr(),
            storage.nbytes(),
        )

    @property
    def content(self) -> tuple[Memory, str, tuple[int, ...]]:
        """What tied tensors have in common, as of `InMemory`."""
        return self.memory, self.dtype, self.shape

    def is_where(self, other: Location) -> bool:
        """Whether both are of the same tensor, in the same memory."""
        mine = self.memory, self.dtype, self.shape, self._storage, self._address, self._nbytes
        return mine == (other.memory, other.dtype, other.shape, other._storage, other._address, other._nbytes)

    def hold(self) -> torch.Tensor:
        """The tensor. Its memory lives as long as what is returned.

        Raises:
            Elsewhere: the memory is not what it was.
        """
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None or storage.data_ptr() != self._address or storage.nbytes() != self._nbytes:
            raise Elsewhere
        dtype, offset, size, stride = self._view
        whole = torch.empty(0, dtype=dtype, device=self.device).set_(storage)
        try:  # not by set_ alone, which makes a storage larger that is too small, as one that was resized just now
            return whole.as_strided(size, stride, offset)
        except RuntimeError:
            raise Elsewhere from None


Range = tuple[Location, int, int]
"""The bytes of a tensor from the first number to the second."""


class Reader(ABC):
    """Computes the roots of ranges that are prepared once and read many times.

    Args:
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.

    Attributes:
        piece_size: how many bytes should be read at a time.
        piece_slices: how many ranges can be read at a time; None for any number.
        batch: of how many readings the roots should be asked for at a time.
        portions: what the workload carries, if it does.
    """

    piece_size: int
    piece_slices: int | None = None
    batch = 1
    portions: Portions | None = None

    @abstractmethod
    def prepare(self, ranges: Sequence[Range]) -> Reading:
        """Prepares reading those ranges again and again."""

    def once(self, ranges: Sequence[Range]) -> Reading:
        """Prepares reading those ranges once, without regard to what runs beside it."""
        return self.prepare(ranges)

    def now(self, ranges: Sequence[Range]) -> list[bytes]:
        """The roots of ranges as they are now.

        Raises:
            Elsewhere: a tensor is no longer where it was.
        """
        reading = self.once(ranges)
        reading.read()
        (roots,) = self.roots([reading])
        return roots

    def roots(self, readings: Sequence[Reading]) -> list[list[bytes]]:
        """The roots of readings of this reader, as their memory was when each was last read."""
        return [reading.roots for reading in readings]


class Reading(ABC):
    """Ranges of memory.

    Attributes:
        roots: of each range, where reading computes them at once.
    """

    roots: list[bytes]

    @abstractmethod
    def read(self) -> None:
        """Reads the ranges as they are now.

        Raises:
            Elsewhere: a tensor is not where it was; nothing was read.
        """


def reader_for(
    location: Location, algorithm: str, chunk_size: int, multiprocessors: int | None, portion: Portion | None
) -> Reader:
    """What reads a tensor there.

    Args:
        location: where it is.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.
        multiprocessors: of a GPU, how many read where that can be chosen; None for all.
        portion: what the workload carries at a time where it can; None if it carries nothing.

    Raises:
        ValueError: the number of multiprocessors or the portion is not accepted.
        Unavailable: nothing can.
    """
    if not location.contiguous:
        return _Gathering(algorithm, chunk_size)
    if location.device.type == "cpu":
        return _OnHost(_host_kernel(algorithm), chunk_size)
    usual = kernel_for(location.device, algorithm)
    return _OnGpu(type(usual)(usual.device, algorithm, priority="low"), chunk_size, multiprocessors, portion)


def _host_kernel(algorithm: str) -> Kernel:
    for name in _HOST_KERNELS:
        for device in devices_of(name):  # the one with one thread is first
            if device.unavailable is None:
                return kernel_class(name)(device, algorithm, priority="low")
    raise Unavailable("no kernel can hash host memory here")


class _OnHost(Reader):
    """Reads copies, which takes a quarter longer than reading in place."""

    piece_size = 4 << 20  # a few milliseconds of one thread

    def __init__(self, kernel: Kernel, chunk_size: int) -> None:
        self._kernel, self._chunk_size = kernel, chunk_size
        self._copy = HostCopy(max(self.piece_size, chunk_size)) if can_copy() else None
        if self._copy is not None:
            self._trees = lru_cache(maxsize=8)(partial(_trees, kernel, self._copy.data, chunk_size))

    def prepare(self, ranges: Sequence[Range]) -> Reading:
        return _HostReading(self, ranges)

    def work(self, parts: Sequence[Bytes]) -> Work:
        """Prepares the roots of parts of memory, of their copies where that is possible.

        Raises:
            Elsewhere: they are no longer there.
        """
        if self._copy is None:
            return self._kernel.prepare("tree", [Buffer(part, 0, part.size) for part in parts], self._chunk_size)
        if not self._copy.take(parts):
            raise Elsewhere
        return self._trees(*(part.size for part in parts))


def _trees(kernel: Kernel, data: Bytes, chunk_size: int, *lengths: int) -> Work:
    """Prepares trees over ranges of those lengths, one behind another."""
    parts = [Buffer(data, stop - nbytes, nbytes) for nbytes, stop in zip(lengths, accumulate(lengths), strict=True)]
    return kernel.prepare("tree", parts, chunk_size)


class _HostReading(Reading):
    def __init__(self, reader: _OnHost, ranges: Sequence[Range]) -> None:
        self._reader, self._ranges = reader, ranges

    def read(self) -> None:
        held = _hold(self._ranges)
        whole = {place: _host_bytes(tensor, tensor.numel()) for place, tensor in held.items()}
        work = self._reader.work([whole[place][start:stop] for place, start, stop in self._ranges])
        work.run()
        self.roots = _rows(work)


def _host_bytes(tensor: torch.Tensor, items: int) -> Bytes:
    """The memory from a tensor's first item on.

    Raises:
        Elsewhere: its storage was emptied just now.
    """
    try:
        return host_bytes(tensor.as_strided((items,), (1,)))
    except (RuntimeError, ValueError):  # too small, or at address 0
        raise Elsewhere from None


class _OnGpu(Reader):
    """Reads in short launches of the lowest priority, on a few multiprocessors, or in portions that the workload
    carries; the thread sleeps meanwhile.

    Each launch delays what the workload launches next. So where they can, readings hash leaves alone, and one launch
    computes the trees of many.
    """

    def __init__(
        self, kernel: Kernel, chunk_size: int, multiprocessors: int | None = None, portion: Portion | None = None
    ) -> None:
        self.kernel, self.chunk_size = kernel, chunk_size
        self.piece_size = _SHORT
        self.confined: Confined | None = None
        self.trees: ShortTrees | None = None
        self._seconds_per_byte = 0.0
        from hashbench.kernels.cupy_cuda import CupyCuda

        if isinstance(kernel, CupyCuda):
            with suppress(Unavailable):
                self._read_beyond(kernel, multiprocessors, portion)

    def _read_beyond(self, kernel: CupyCuda, multiprocessors: int | None, portion: Portion | None) -> None:
        """Reads by what goes beyond the contract."""
        from hashbench.kernels.confined import Confined
        from hashbench.kernels.portions import MOST_CHUNKS, Portions
        from hashbench.kernels.short_trees import ShortTrees

        short = self.chunk_size <= LARGEST_CONFINED_CHUNK
        if short and multiprocessors is not None:
            self.confined = Confined(kernel, multiprocessors)
            self.piece_size = 56 << 20  # four rounds of two multiprocessors' groups
            return
        if short and portion is not None:
            self.portions = Portions(kernel, self.chunk_size, portion.groups, portion.blocks, portion.patience)
            self.piece_slices = self.portions.capacity
            self.piece_size = self.piece_slices * MOST_CHUNKS * self.chunk_size
            return
        self.trees = ShortTrees(kernel)
        self.batch = 32

    def prepare(self, ranges: Sequence[Range]) -> Reading:
        return self.once(ranges) if self.portions is None else _CarriedReading(self, ranges, self.portions)

    def once(self, ranges: Sequence[Range]) -> Reading:
        return _GpuReading(self, ranges) if self.trees is None else _LeavesReading(self, ranges)

    def roots(self, readings: Sequence[Reading]) -> list[list[bytes]]:
        if self.trees is None:
            return super().roots(readings)
        leaves = [each for reading in readings if isinstance(reading, _LeavesReading) for each in reading.leaves()]
        trees = self.trees.prepare([each for each in leaves if len(each)])
        trees.run()
        rows = iter(trees.digests())
        empty = merkle_tree_hash([], self.kernel.algorithm.name)
        roots = iter([next(rows).tobytes() if len(each) else empty for each in leaves])
        return [[next(roots) for _ in reading.ranges] for reading in readings if isinstance(reading, _LeavesReading)]

    def work(self, segments: Sequence[Buffer]) -> Work:
        """Prepares reading segments in launches of its own."""
        if self.confined is not None:
            return self.confined.prepare(segments, self.chunk_size)
        return self.kernel.prepare("tree" if self.trees is None else "leaves", segments, self.chunk_size)

    def run(self, work: Work, nbytes: int) -> None:
        """Runs what `work` prepared."""
        work.start()
        if self.confined is None:  # whose wait() would be a loop of the driver's
            sleep(0.8 * self._seconds_per_byte * nbytes)
        seconds = work.wait()
        if nbytes:
            self._seconds_per_byte = seconds / nbytes


class _GpuReading(Reading):
    """Reads roots."""

    def __init__(self, reader: _OnGpu, ranges: Sequence[Range]) -> None:
        self.ranges, self.reader = ranges, reader
        self.nbytes = sum(stop - start for _, start, stop in ranges)
        self._work: Work | None = None

    def read(self) -> None:
        self.roots = _rows(self.run())

    def run(self) -> Work:
        """Hashes the ranges as they are now."""
        held = _hold(self.ranges)
        if self._work is None:
            self._work = self.reader.work(self.segments(held))
        self.reader.run(self._work, self.nbytes)
        return self._work

    def segments(self, held: Mapping[Location, torch.Tensor]) -> list[Buffer]:
        """The ranges of tensors, which the caller holds."""
        return [Buffer(None, held[place].data_ptr() + a, b - a) for place, a, b in self.ranges]


def _rows(work: Work) -> list[bytes]:
    return [root.tobytes() for root in work.digests()]


class _LeavesReading(_GpuReading):
    """Reads digests of leaves, which stay on the device."""

    _digests: Buffer

    def read(self) -> None:
        self._digests = self.run().result()

    def leaves(self) -> Iterator[Buffer]:
        """The digests of each range, as it was when it was last read."""
        from hashbench.kernels.short_trees import leaves_of

        lengths = (stop - start for _, start, stop in self.ranges)
        return leaves_of(self._digests, lengths, self.reader.chunk_size, self.reader.kernel.algorithm)


class _CarriedReading(_GpuReading):
    """Reads roots in portions that the workload carries; while that is idle, in short launches."""

    def __init__(self, reader: _OnGpu, ranges: Sequence[Range], place: Portions) -> None:
        super().__init__(reader, ranges)
        self._place = place

    def read(self) -> None:
        if self._place.idle:
            parts = [self.ranges[run] for run in packed([stop - start for _, start, stop in self.ranges], _SHORT)]
            self.roots = [root for part in parts for root in self.reader.now(part)]
            return
        held = _hold(self.ranges)
        if self._work is None:
            self._work = self._place.prepare(self.segments(held), self.reader.chunk_size)
        self._work.run()
        self.roots = _rows(self._work)


class _Gathering(Reader):
    """Tensors that are not contiguous, each as a whole."""

    piece_size = 0

    def __init__(self, algorithm: str, chunk_size: int) -> None:
        self._algorithm, self._chunk_size = algorithm, chunk_size

    def prepare(self, ranges: Sequence[Range]) -> Reading:
        return _GatheringReading(self, ranges)

    def root(self, tensor: torch.Tensor) -> bytes:
        if tensor.device.type == "cpu" and can_copy():
            tensor = _copied(tensor)
        try:
            (entry,) = manifest({"": tensor}, algorithm=self._algorithm, chunk_size=self._chunk_size).entries
        except TensorError:  # since its storage was resized just now
            raise Elsewhere from None
        return entry.root


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor in host memory, with its strides, and with what lies between its bytes.

    Raises:
        Elsewhere: its memory is no longer there.
    """
    items = last_byte(tensor) // tensor.itemsize - tensor.storage_offset()
    data = _host_bytes(tensor, items)
    copy = HostCopy(data.size)
    if not copy.take([data]):
        raise Elsewhere
    storage = torch.from_numpy(copy.data).untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, tensor.stride())


class _GatheringReading(Reading):
    def __init__(self, reader: _Gathering, ranges: Sequence[Range]) -> None:
        self._reader, self._ranges = reader, ranges

    def read(self) -> None:
        held = _hold(self._ranges)
        self.roots = [self._reader.root(held[place]) for place, _, _ in self._ranges]


def _hold(ranges: Sequence[Range]) -> dict[Location, torch.Tensor]:
    """The tensors of several ranges."""
    return {place: place.hold() for place in {place for place, _, _ in ranges}}
