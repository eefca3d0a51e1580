"""The contract of a kernel: SHA-256 and SHA-384 over device memory, batched and as a Merkle tree.

A kernel is one implementation in one framework. All other code knows kernels through this module alone: their devices,
how data gets onto a device, and how work is prepared and run there.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Strategy = Literal["batched", "leaves", "tree"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Priority = Literal["low", "normal", "high"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)

CHUNK_SIZE_MULTIPLE = 64
"""Chunk sizes are positive multiples of this many bytes."""

SPLITMIX64_INCREMENT = 0x9E3779B97F4A7C15
"""What SplitMix64 adds to its state for each word, modulo 2^64; see `Kernel.random`."""


class Unavailable(Exception):
    """A framework is missing or has no such device. The message says which one, and how to get it."""


class OutOfDeviceMemory(MemoryError):
    """A device is out of memory.

    Attributes:
        nbytes: the size of the failed allocation, in bytes.
    """

    def __init__(self, device: Device, nbytes: int) -> None:
        super().__init__(f"out of memory on {device.name} ({device.kernel}): {nbytes:,} bytes were asked for")
        self.nbytes = nbytes


@dataclass(frozen=True)
class Algorithm:
    """A hash algorithm of FIPS 180-4; sizes in bytes."""

    name: str
    digest_size: int
    block_size: int

    @property
    def title(self) -> str:
        """The name in the standard: "SHA-256" for "sha256"."""
        return self.name.upper().replace("SHA", "SHA-")


ALGORITHMS = {a.name: a for a in (Algorithm("sha256", 32, 64), Algorithm("sha384", 48, 128))}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises:
        ValueError: the algorithm is not supported.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise ValueError(f"unknown algorithm {name!r}: accepted are {', '.join(ALGORITHMS)}") from None


def check_chunk_size(chunk_size: int) -> int:
    """Checks a chunk size and returns it.

    Raises:
        TypeError: `chunk_size` is not an integer.
        ValueError: `chunk_size` is not a positive multiple of 64 below 2^64.
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, (int, np.integer)):
        raise TypeError(f"chunk size must be an integer number of bytes, not {type(chunk_size).__name__}")
    if not 0 < chunk_size < 1 << 64 or chunk_size % CHUNK_SIZE_MULTIPLE:
        raise ValueError(
            f"chunk size {chunk_size} is not accepted: it must be a positive multiple of {CHUNK_SIZE_MULTIPLE} bytes "
            "below 2^64"
        )
    return int(chunk_size)


@dataclass(frozen=True)
class Device:
    """One device as one kernel's framework sees it, or the reason why it cannot be used.

    Attributes:
        kernel: the kernel's name in the registry.
        id: identifies the device among those of its kernel.
        name: the device's product name.
        vendor: its manufacturer.
        kind: "gpu" or "cpu".
        framework: the framework and its version.
        driver: the driver or runtime and its version.
        unavailable: why the device cannot be used, on one line; None if it can.
        remark: what to know before it is used, on one line; usually empty.
    """

    kernel: str
    id: str = ""
    name: str = ""
    vendor: str = ""
    kind: Literal["gpu", "cpu", ""] = ""
    framework: str = ""
    driver: str = ""
    unavailable: str | None = None
    remark: str = ""


@dataclass(frozen=True)
class Buffer:
    """A contiguous range of one device's memory.

    Attributes:
        owner: the framework's object that keeps the memory alive.
        address: the address of the first byte on the device, or its offset in `owner` if the framework has no
            addresses (OpenCL).
        nbytes: the number of bytes; zero is allowed.
    """

    owner: Any
    address: int
    nbytes: int

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, part: slice) -> Buffer:
        """The bytes of `part`, a slice of step 1, without a copy.

        Raises:
            TypeError: `part` is not a slice.
            ValueError: the slice's step is not 1.
        """
        if not isinstance(part, slice):
            raise TypeError(f"a buffer is indexed by a slice, not by {type(part).__name__}")
        start, stop, step = part.indices(self.nbytes)
        if step != 1:
            raise ValueError("a buffer is contiguous: the step of a slice must be 1")
        return Buffer(self.owner, self.address + start, max(0, stop - start))


class Stage(ABC):
    """Device memory for data that streams through it, and host memory to fill.

    Attributes:
        buffer: the device memory, which lanes may write to instead.
    """

    buffer: Buffer

    @property
    @abstractmethod
    def host(self) -> Bytes:
        """The uint8 array to write to, page-locked if the framework supports it. It may be allocated only now."""

    @abstractmethod
    def upload(self, nbytes: int) -> Buffer:
        """Copies the first `nbytes` of `host` to the device.

        It may be called from another thread than the one that hashes.

        Returns:
            The copy, valid until the next upload.
        """


Part: TypeAlias = tuple[int, int, Buffer, int]
"""Of a block, its first byte there and how many bytes; of a buffer on the device, that and the first byte there."""


PAGE = 4096
"""Bytes: what a file system asks of the bounds of reads past the page cache, or a multiple of it."""


@dataclass(frozen=True, eq=False)
class PartsInTurn:
    """Parts of files that lanes bring to a device, each lane always the next part that none has taken.

    So a disk reads the files from their beginnings to their ends, whichever thread is fast.

    Attributes:
        table: int64, shape (parts, 5). Of each part its file's descriptor, a first byte in the file, which is a
            multiple of `PAGE`, how many bytes there are before the part, how many it has, and its address on the
            device. With what is before it, and up to a multiple of `PAGE`, it fits in a lane's block.
        targets: of each part, where it goes.
        taken: int64, shape (1,): how many were taken.
    """

    table: npt.NDArray[np.int64]
    targets: Sequence[Buffer]
    taken: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))

    def end(self) -> None:
        """Makes lanes take no more parts."""
        self.taken[0] = _ALL

    def take(self) -> int | None:
        """The next part, for a lane in Python; None if there is none left."""
        with _TAKING:
            index = int(self.taken[0])
            self.taken[0] = index + 1
        return index if index < len(self.table) else None


_ALL = 1 << 62  # more than all parts, and lanes that ask for one more can still count on
_TAKING = Lock()


class Lane(ABC):
    """A block of host memory through which one thread at a time brings bytes to a device, page-locked if the framework
    supports it.

    While it is copied, other threads fill theirs. Blocks that are few and short stay in the processor's cache: the
    device reads there what was just written, and the host's memory is spared two of the three times that it would move
    each byte.

    Args:
        block: the uint8 array to write to.

    Attributes:
        block: the bytes of it.
    """

    def __init__(self, block: Bytes) -> None:
        self.block = block.data

    @abstractmethod
    def send(self, parts: Iterable[Part]) -> None:
        """Copies parts of the block to the device."""

    def bring(self, file: int, offset: int, target: Buffer) -> int:
        """Brings bytes of a file to the device, as many as it takes, one block after another.

        Args:
            file: its descriptor.
            offset: the first byte there.
            target: where they go.

        Returns:
            How many came: fewer where the file ends.

        Raises:
            OSError: the file cannot be read.
        """
        done = 0
        while done < target.nbytes:
            count = os.preadv(file, [self.block[: target.nbytes - done]], offset + done)
            if not count:
                break
            self.send([(0, count, target, done)])
            done += count
        return done

    def bring_in_turn(self, parts: PartsInTurn) -> int | None:
        """Brings parts, each the next that no lane has taken, until none is left or one cannot be read.

        Returns:
            The part that cannot be read, or whose file is shorter; None if there is none left.
        """
        while (index := parts.take()) is not None:
            file, offset, skipped, nbytes, _ = parts.table[index].tolist()
            pages = self.block[: -(-(skipped + nbytes) // PAGE) * PAGE]
            filled = 0
            while filled < skipped + nbytes:
                try:
                    count = os.preadv(file, [pages[filled:]], offset + filled)
                except OSError:
                    return index
                if not count:
                    return index
                filled += count
            self.send([(skipped, nbytes, parts.targets[index], 0)])
        return None


def blocks_of(memory: Bytes, count: int) -> list[Bytes]:
    """Memory in `count` blocks of the same size."""
    return list(memory.reshape(count, -1))


class Work(ABC):
    """A prepared call: its arguments are checked, and its tables and memory are on the device.

    It can run any number of times. Several works of one kernel may be under way at once; those started on one stream
    run one after another, so that a later one may read the result of an earlier one.

    Args:
        kernel: the kernel that prepared it.
    """

    _finish: Callable[[], float] | None = None
    _started = False

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __del__(self) -> None:
        if self._finish is not None:  # the device still uses memory that would be freed now
            self._finish()

    def start(self, stream: Any = None) -> None:
        """Starts hashing, without waiting for the end.

        Args:
            stream: where to enqueue the work: a CUDA stream of any framework or its handle (cupy, numba-cuda, triton),
                a `dpctl.SyclQueue` (dpnp) or a `pyopencl.CommandQueue` (opencl), in order and, where queues measure
                time only if asked to, with profiling enabled. None is the kernel's own, of its priority.

        Raises:
            RuntimeError: it was started before and not waited for.
            TypeError: `stream` is not a stream of this kernel's framework.
            ValueError: `stream` belongs to another context, is out of order, or does not measure time.
        """
        if self._finish is not None:
            raise RuntimeError("the work has already been started: call wait() first")
        self._finish = self.enqueue(stream)
        self._started = True

    def wait(self) -> float:
        """Waits for the end.

        Returns:
            The seconds from the start of the first launch to the end of the last, by the device's own clock.

        Raises:
            RuntimeError: it was not started.
        """
        if self._finish is None:
            raise RuntimeError("the work has not been started: call start() first")
        finish, self._finish = self._finish, None
        return finish()

    def run(self) -> float:
        """Hashes once: `start` and `wait`."""
        self.start()
        return self.wait()

    def result(self) -> Buffer:
        """What the latest run computes, on the device: the digests of `digests`, back to back.

        It is complete when `wait` returns, and for work that is started later on the same stream. The next run
        overwrites it. The buffer keeps its memory alive, even after the work is gone.

        Raises:
            RuntimeError: the work was never started.
        """
        if not self._started:
            raise RuntimeError("there is no result: call run() or start() first")
        return self.output()

    def digests(self) -> Bytes:
        """What the latest run computed, on the host: uint8, shape (digests, digest size).

        Batched and leaves: one row per chunk, segment after segment. Tree: one root per segment.

        Raises:
            RuntimeError: the work was never started, or was not waited for.
        """
        if self._finish is not None:
            raise RuntimeError("the work is still under way: call wait() first")
        return self.kernel.get(self.result()).reshape(-1, self.kernel.algorithm.digest_size)

    @abstractmethod
    def enqueue(self, stream: Any) -> Callable[[], float]:
        """What `start` does; returns what `wait` does."""

    @abstractmethod
    def output(self) -> Buffer:
        """What `result` returns, once the work was started."""


class Kernel(ABC):
    """One implementation on one device, for one algorithm.

    Args:
        device: one of `devices()`, available.
        algorithm: "sha256" or "sha384".
        variant: a name in `variants`; None is the fastest known on the device.
        priority: a hint to the device's scheduler, for work that is given no stream: "low" yields to other work on the
            device, "high" goes first. It has no effect where a framework has no priorities (dpnp, OpenCL drivers
            without cl_khr_priority_hints, CuPy before 14). In CUDA "normal" is already the lowest priority.

    Raises:
        ValueError: an unknown algorithm, variant or priority, or a device of another kernel.
        Unavailable: the device cannot be used.
    """

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]] = ("plain",)

    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        if device.kernel != self.name:
            raise ValueError(f"device {device.id!r} belongs to kernel {device.kernel!r}, not to {self.name!r}")
        if device.unavailable is not None:
            raise Unavailable(device.unavailable)
        if variant is not None and variant not in self.variants:
            raise ValueError(f"unknown variant {variant!r} of {self.name}: accepted are {', '.join(self.variants)}")
        if priority not in PRIORITIES:
            raise ValueError(f"unknown priority {priority!r}: accepted are {', '.join(PRIORITIES)}")
        self.device = device
        self.algorithm = algorithm_named(algorithm)
        self.variant = variant or self.default_variant(device)
        self.priority = priority

    @classmethod
    def default_variant(cls, device: Device) -> str:
        """The fastest variant known on `device`, one of `devices()`: the first, unless overridden."""
        return cls.variants[0]

    @classmethod
    @abstractmethod
    def devices(cls) -> list[Device]:
        """Every device of this framework on this machine, or one unavailable entry if there is none.

        A missing or broken framework never raises: it is the reason of that entry.
        """

    @abstractmethod
    def free_memory(self) -> int:
        """The number of bytes that can still be allocated on the device."""

    def largest_buffer(self) -> int:
        """The size of the largest possible buffer in bytes: all free memory, unless overridden."""
        return self.free_memory()

    def trim(self) -> None:  # noqa: B027  # most frameworks keep nothing
        """Returns unused memory that the framework caches to the device, so that other frameworks can allocate it.

        Does nothing, unless overridden.
        """

    @abstractmethod
    def put(self, data: bytes | bytearray | memoryview | Bytes) -> Buffer:
        """A copy of `data` on the device.

        Raises:
            TypeError: `data` is not a contiguous bytes-like object.
            OutOfDeviceMemory: the device is out of memory.
        """

    @abstractmethod
    def view(self, array: Any) -> Buffer:
        """The bytes of an array that is already on the device, without a copy.

        Raises:
            TypeError: this kernel cannot view arrays of that type, or the dtype has no fixed size in bytes.
            ValueError: the array is not contiguous, or is on another device.
        """

    @abstractmethod
    def random(self, nbytes: int, seed: int) -> Buffer:
        """`nbytes` random bytes, generated on the device: SplitMix64 from `seed`, the same for every kernel.

        Raises:
            ValueError: `nbytes` is negative, or `seed` is not an unsigned 64-bit number.
            OutOfDeviceMemory: the device is out of memory.
        """

    @abstractmethod
    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        """Copies `buffer`, at least one byte, to `host`, of the same size, and waits.

        The `host` of a stage is the fastest target if the framework has page-locked it.
        """

    def get(self, buffer: Buffer) -> Bytes:
        """A copy of `buffer` on the host."""
        host = np.empty(buffer.nbytes, np.uint8)
        if host.size:
            self.get_into(buffer, host)
        return host

    @abstractmethod
    def stage(self, nbytes: int) -> Stage:
        """Memory for `nbytes` on the host and on the device.

        Raises:
            OutOfDeviceMemory: the device is out of memory.
        """

    def lanes(self, count: int, nbytes: int) -> Sequence[Lane]:
        """Ways to the device, each with a block of `nbytes`. The blocks are one piece of memory where the framework
        page-locks it: short pieces are scattered, and a disk brings bytes to these slowly.

        There are none, unless overridden: what a stage's host memory has is uploaded then. A CPU reads it where it is.

        Raises:
            OutOfDeviceMemory: there is no page-locked memory left.
        """
        return []

    @abstractmethod
    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        """Prepares hashing `segments`, each cut into chunks of `chunk_size` bytes (the last may be short).

        Args:
            strategy: "batched" for the digest of each chunk; "tree" for the Merkle Tree Hash (RFC 9162 section 2.1.1)
                of each segment over its chunks; "leaves" for the leaf hashes of that tree, one per chunk.
            segments: ranges of device memory, of any length and alignment. They may overlap.
            chunk_size: a positive multiple of 64. None, which "batched" alone accepts, makes each segment one message.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: an argument has a value that is not accepted.
            OutOfDeviceMemory: the device has no memory for one digest per chunk.
        """

    def prepare_fold(self, segments: Sequence[Buffer]) -> Work:
        """Prepares folding leaf hashes that are there already: "tree" without its leaves.

        Args:
            segments: each has the hashes of a tree's leaves, at least one, back to back, at any alignment. The work
                computes the Merkle Tree Hash of each.

        Raises:
            TypeError, OutOfDeviceMemory: as for `prepare`.
            ValueError: the size of a segment is not a positive multiple of the digest size.
        """
        _check_segments(segments)
        size = self.algorithm.digest_size
        for segment in segments:
            if segment.nbytes == 0 or segment.nbytes % size:
                raise ValueError(
                    f"a segment of {segment.nbytes} bytes is not accepted: {self.algorithm.title} leaf hashes take a "
                    f"positive multiple of {size} bytes"
                )
        return self.folding(segments)

    @abstractmethod
    def folding(self, segments: Sequence[Buffer]) -> Work:
        """What `prepare_fold` returns, for segments that it has checked."""

    def batched(self, segments: Sequence[Buffer], chunk_size: int | None = None) -> Bytes:
        """H(chunk) for every chunk of every segment: uint8, shape (chunks, digest size). See `prepare`."""
        return self._hashed("batched", segments, chunk_size)

    def leaves(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        """H(0x00 || chunk) for every chunk of every segment: uint8, shape (chunks, digest size).

        An empty segment has none.
        """
        return self._hashed("leaves", segments, chunk_size)

    def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        """The Merkle Tree Hash of every segment: uint8, shape (segments, digest size). See `prepare`."""
        return self._hashed("tree", segments, chunk_size)

    def fold(self, segments: Sequence[Buffer]) -> Bytes:
        """The Merkle Tree Hash over the leaf hashes of every segment: uint8, shape (segments, digest size).

        See `prepare_fold`.
        """
        work = self.prepare_fold(segments)
        work.run()
        return work.digests()

    def _hashed(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Bytes:
        work = self.prepare(strategy, segments, chunk_size)
        work.run()
        return work.digests()


def check_random(nbytes: int, seed: int) -> None:
    """Checks the arguments of `Kernel.random`.

    Raises:
        ValueError: see `Kernel.random`.
    """
    if nbytes < 0:
        raise ValueError(f"{nbytes} random bytes are not accepted: the number must be zero or more")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} is not accepted: it must be from 0 to 2^64 - 1")


def check_call(strategy: str, segments: Sequence[Buffer], chunk_size: int | None) -> None:
    """Checks the arguments of `Kernel.prepare`.

    Raises:
        TypeError: see `Kernel.prepare`.
        ValueError: see `Kernel.prepare`.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: accepted are {', '.join(STRATEGIES)}")
    _check_segments(segments)
    if chunk_size is None:
        if strategy != "batched":
            raise ValueError("a tree needs a chunk size: a positive multiple of 64 bytes")
    else:
        check_chunk_size(chunk_size)


def _check_segments(segments: Sequence[Buffer]) -> None:
    if isinstance(segments, Buffer) or not all(isinstance(s, Buffer) for s in segments):
        raise TypeError("segments must be a sequence of buffers, as put() and view() return them")
