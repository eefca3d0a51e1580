"""The contract of a kernel: SHA-256 and SHA-384 over device memory, batched and as a Merkle tree.

A kernel is one implementation in one framework. The harness knows it through this page alone: which
devices it has, how bytes get onto one, and how work is prepared and run there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Strategy = Literal["batched", "leaves", "tree"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

CHUNK_SIZE_MULTIPLE = 64
"""Chunk sizes are positive multiples of this many bytes."""

SPLITMIX64_INCREMENT = 0x9E3779B97F4A7C15
"""By which SplitMix64's state goes up with each of its words, modulo 2^64; see `Kernel.random`."""


class Unavailable(Exception):
    """A framework is missing or has no such device; the message says which and what would help."""


class OutOfDeviceMemory(MemoryError):
    """A device could not give the memory asked for.

    Attributes:
        nbytes: the bytes asked for.
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
        """The standard's name of it: "SHA-256" of "sha256"."""
        return self.name.upper().replace("SHA", "SHA-")


ALGORITHMS = {a.name: a for a in (Algorithm("sha256", 32, 64), Algorithm("sha384", 48, 128))}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises:
        ValueError: there is no such algorithm here.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise ValueError(f"unknown algorithm {name!r}: accepted are {', '.join(ALGORITHMS)}") from None


def check_chunk_size(chunk_size: int) -> int:
    """`chunk_size` itself, where it is one.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is not a positive multiple of 64 below 2^64.
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
        id: what names the device among those of its kernel.
        name: the device's own name.
        vendor: its maker.
        kind: "gpu" or "cpu".
        framework: the framework and its version.
        driver: the driver or runtime and its version.
        unavailable: why the device cannot be used, on one line; None where it can.
    """

    kernel: str
    id: str = ""
    name: str = ""
    vendor: str = ""
    kind: Literal["gpu", "cpu", ""] = ""
    framework: str = ""
    driver: str = ""
    unavailable: str | None = None


@dataclass(frozen=True)
class Buffer:
    """A contiguous range of one device's memory.

    Attributes:
        owner: the framework's object that keeps the memory alive.
        address: the first byte's address on the device, or its offset in `owner` where the framework has
            no addresses (OpenCL).
        nbytes: the number of bytes, which may be zero.
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
            ValueError: its step is not 1.
        """
        if not isinstance(part, slice):
            raise TypeError(f"a buffer is cut by a slice, not by {type(part).__name__}")
        start, stop, step = part.indices(self.nbytes)
        if step != 1:
            raise ValueError("a buffer is contiguous: the step of a slice must be 1")
        return replace(self, address=self.address + start, nbytes=max(0, stop - start))


class Stage(ABC):
    """Host memory to fill and the device memory it goes to, for data that streams through a device.

    Attributes:
        host: uint8 array to write to, page-locked where the framework can.
    """

    host: Bytes

    @abstractmethod
    def upload(self, nbytes: int) -> Buffer:
        """The first `nbytes` of `host`, on the device; valid until the next upload. It may be called from another
        thread than the one that hashes."""


class Work(ABC):
    """One prepared call: checked, its tables and memory on the device. It may run any number of times."""

    @abstractmethod
    def run(self) -> float:
        """Hash once, wait for the end, and return the seconds it took by the device's own clock."""

    @abstractmethod
    def digests(self) -> Bytes:
        """What the last run computed: uint8, shape (digests, digest size in bytes). Batched and leaves: one row a
        chunk, segment after segment. Tree: one root a segment."""


class Kernel(ABC):
    """One implementation on one device, for one algorithm.

    Args:
        device: one of `devices()`, available.
        algorithm: "sha256" or "sha384".
        variant: a name in `variants`; None is the fastest known on the device.

    Raises:
        ValueError: an unknown algorithm or variant, or a device of another kernel.
        Unavailable: the device cannot be used.
    """

    name: ClassVar[str]
    variants: ClassVar[tuple[str, ...]] = ("plain",)

    def __init__(self, device: Device, algorithm: str = "sha256", variant: str | None = None) -> None:
        if device.kernel != self.name:
            raise ValueError(f"device {device.id!r} belongs to kernel {device.kernel!r}, not to {self.name!r}")
        if device.unavailable is not None:
            raise Unavailable(device.unavailable)
        if variant is not None and variant not in self.variants:
            raise ValueError(f"unknown variant {variant!r} of {self.name}: accepted are {', '.join(self.variants)}")
        self.device = device
        self.algorithm = algorithm_named(algorithm)
        self.variant = variant or self.default_variant(device)

    @classmethod
    def default_variant(cls, device: Device) -> str:
        """The fastest variant known on `device`, one of `devices()`: the first, unless overridden."""
        return cls.variants[0]

    @classmethod
    @abstractmethod
    def devices(cls) -> list[Device]:
        """Every device of this framework on this machine; one unavailable entry where there is none. Never raises for a
        framework that is missing."""

    @abstractmethod
    def free_memory(self) -> int:
        """Bytes that buffers on the device can still take."""

    def largest_buffer(self) -> int:
        """Bytes that one of them can take: all that are free, unless overridden."""
        return self.free_memory()

    def trim(self) -> None:  # noqa: B027  # most frameworks keep nothing
        """Gives the device back what the framework keeps of memory that no buffer holds, so that other frameworks can
        have it; nothing, unless overridden."""

    @abstractmethod
    def put(self, data: bytes | bytearray | memoryview | Bytes) -> Buffer:
        """A copy of `data` on the device.

        Raises:
            TypeError: `data` is not a contiguous bytes-like object.
            OutOfDeviceMemory: the device has no room for it.
        """

    @abstractmethod
    def view(self, array: Any) -> Buffer:
        """The bytes of an array that is on the device already, without a copy.

        Raises:
            TypeError: the array's framework is not one that this kernel can view, or its dtype has no fixed bytes.
            ValueError: it is not contiguous, or lies on another device.
        """

    @abstractmethod
    def random(self, nbytes: int, seed: int) -> Buffer:
        """`nbytes` random bytes, made on the device: SplitMix64 from `seed`, so the same on every kernel.

        Raises:
            ValueError: `nbytes` is negative, or `seed` is not an unsigned 64-bit number.
            OutOfDeviceMemory: the device has no room for them.
        """

    @abstractmethod
    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        """Copies `buffer`, at least one byte, to `host`, of the same size, and waits. The `host` of a stage is the
        fastest to copy to where the framework has page-locked it."""

    def get(self, buffer: Buffer) -> Bytes:
        """A copy of `buffer` on the host, in memory of its own."""
        host = np.empty(buffer.nbytes, np.uint8)
        if host.size:
            self.get_into(buffer, host)
        return host

    @abstractmethod
    def stage(self, nbytes: int) -> Stage:
        """Memory for `nbytes` on the host and on the device.

        Raises:
            OutOfDeviceMemory: the device has no room for it.
        """

    @abstractmethod
    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        """The work of hashing `segments`, each cut into chunks of `chunk_size` bytes (the last may be short).

        `strategy` "batched" gives the digests of the chunks; a `chunk_size` of None then makes each segment one
        message. "tree" gives each segment's Merkle Tree Hash (RFC 9162 section 2.1.1) over its chunks, and "leaves" the
        hashes that this tree starts from, one a chunk.

        Raises:
            TypeError, ValueError: a misuse, named in the message.
            OutOfDeviceMemory: the device has no room for one digest a chunk.
        """

    def batched(self, segments: Sequence[Buffer], chunk_size: int | None = None) -> Bytes:
        """H(chunk) for every chunk of every segment, as `prepare` says: uint8, shape (chunks, digest size)."""
        return self._hashed("batched", segments, chunk_size)

    def leaves(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        """H(0x00 || chunk) for every chunk of every segment: uint8, shape (chunks, digest size). An empty segment has
        none."""
        return self._hashed("leaves", segments, chunk_size)

    def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        """Every segment's Merkle Tree Hash, as `prepare` says: uint8, shape (segments, digest size)."""
        return self._hashed("tree", segments, chunk_size)

    def _hashed(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Bytes:
        work = self.prepare(strategy, segments, chunk_size)
        work.run()
        return work.digests()


def check_random(nbytes: int, seed: int) -> None:
    """Checks the arguments of `Kernel.random`.

    Raises:
        ValueError: as `Kernel.random`.
    """
    if nbytes < 0:
        raise ValueError(f"{nbytes} random bytes cannot be made: the number must be zero or more")
    if not 0 <= seed < 1 << 64:
        raise ValueError(f"seed {seed} is not accepted: it must be from 0 to 2^64 - 1")


def check_call(strategy: str, segments: Sequence[Buffer], chunk_size: int | None) -> None:
    """Checks the arguments of `Kernel.prepare` that are the same for every framework.

    Raises:
        TypeError, ValueError: as `Kernel.prepare`.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: accepted are {', '.join(STRATEGIES)}")
    if isinstance(segments, Buffer) or not all(isinstance(s, Buffer) for s in segments):
        raise TypeError("segments must be a sequence of buffers, as put() and view() return them")
    if chunk_size is None:
        if strategy != "batched":
            raise ValueError("a tree needs a chunk size: a positive multiple of 64 bytes")
    else:
        check_chunk_size(chunk_size)
