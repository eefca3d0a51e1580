"""hashlib over a pool of threads: the reference that every other kernel is checked against, and the CPU baseline.

hashlib releases the interpreter's lock while it hashes more than 2 KiB, so a thread per core uses every core.
"""

from __future__ import annotations

import hashlib
import os
import platform
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil

from hashbench.kernels.arrays import contiguous_nbytes, host_bytes
from hashbench.kernels.contract import (
    SPLITMIX64_INCREMENT,
    Buffer,
    Bytes,
    Device,
    Kernel,
    OutOfDeviceMemory,
    Priority,
    Stage,
    Strategy,
    Work,
    check_call,
    check_random,
)

_TASKS_PER_THREAD = 4
_NICENESS = 10
"""How much threads of low priority yield to others; Linux knows it for each thread."""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        try:
            import cpuinfo  # takes about a second: for operating systems without that file
        except ImportError:
            return platform.processor() or "CPU"
        return str(cpuinfo.get_cpu_info().get("brand_raw", "CPU"))


def splitmix64(seed: int, first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Words `first` to `first + count - 1` of the SplitMix64 sequence of `seed` (Steele, Lea, Flood: Fast
    Splittable Pseudorandom Number Generators, OOPSLA 2014): uint64, shape (count,)."""
    z = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z *= np.uint64(SPLITMIX64_INCREMENT)
    z += np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _yield_to_others() -> None:
    """Makes this thread one of low priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class _HostStage(Stage):
    def __init__(self, kernel: HashlibCpu, nbytes: int) -> None:
        self._buffer = kernel.allocate(nbytes)
        self.host = self._buffer.owner

    def upload(self, nbytes: int) -> Buffer:
        return self._buffer[:nbytes]


class HashlibCpu(Kernel):
    """SHA-2 by hashlib, on one thread or on one per core. Device memory is host memory.

    Work that is started runs in the background, in the order in which it was started. Of the priorities "low" has an
    effect, on Linux.
    """

    name = "hashlib"

    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        self.threads = int(device.id.partition("-")[0])
        self.new: Callable[..., Any] = getattr(hashlib, self.algorithm.name)
        set_priority = _yield_to_others if priority == "low" else None
        self.background = ThreadPoolExecutor(1, initializer=set_priority)
        self.workers = ThreadPoolExecutor(self.threads, initializer=set_priority) if self.threads > 1 else None

    @classmethod
    def devices(cls) -> list[Device]:
        return [
            Device(
                kernel=cls.name,
                id=f"{threads}-thread" if threads == 1 else f"{threads}-threads",
                name=_processor(),
                vendor="host",
                kind="cpu",
                framework="hashlib",
                driver=ssl.OPENSSL_VERSION,
            )
            for threads in sorted({1, _cores()})
        ]

    def free_memory(self) -> int:
        return psutil.virtual_memory().available

    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised host memory of `nbytes`.

        Raises:
            OutOfDeviceMemory: the host is out of memory.
        """
        try:
            return Buffer(np.empty(nbytes, dtype=np.uint8), 0, nbytes)
        except (MemoryError, ValueError):
            raise OutOfDeviceMemory(self.device, nbytes) from None

    def put(self, data: bytes | bytearray | memoryview | Bytes) -> Buffer:
        host = host_bytes(data)
        buffer = self.allocate(host.size)
        buffer.owner[:] = host
        return buffer

    def view(self, array: Any) -> Buffer:
        """The bytes of a NumPy array, or of any other array on the host with `__array_interface__`."""
        interface = getattr(array, "__array_interface__", None)
        if interface is None:
            raise TypeError(
                f"{type(array).__name__} is not accepted: {self.name} views arrays in host memory, such as NumPy's"
            )
        nbytes = contiguous_nbytes(interface["shape"], interface["strides"], interface["typestr"])
        return Buffer(np.asarray(array).reshape(-1).view(np.uint8), 0, nbytes)

    def random(self, nbytes: int, seed: int) -> Buffer:
        check_random(nbytes, seed)
        buffer = self.allocate(-(-nbytes // 8) * 8)
        words = buffer.owner.view(np.uint64)
        for first in range(0, words.size, 1 << 20):
            part = words[first : first + (1 << 20)]
            part[:] = splitmix64(seed, first, part.size)
        return buffer[:nbytes]

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        host[:] = _bytes_of(buffer)

    def stage(self, nbytes: int) -> Stage:
        return _HostStage(self, nbytes)

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        return _HashlibWork(self, strategy, segments, chunk_size)


def _bytes_of(buffer: Buffer) -> Bytes:
    part: Bytes = buffer.owner[buffer.address : buffer.address + buffer.nbytes]
    return part


class _HashlibWork(Work):
    def __init__(
        self, kernel: HashlibCpu, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None
    ) -> None:
        super().__init__(kernel)
        self._kernel = kernel
        self._strategy = strategy
        chunks = [list(_cut(_bytes_of(segment).data, chunk_size)) for segment in segments]
        self._counts = [len(of_segment) for of_segment in chunks]
        self._chunks = [chunk for of_segment in chunks for chunk in of_segment]
        digests = len(segments) if strategy == "tree" else len(self._chunks)
        self._results = kernel.allocate(digests * kernel.algorithm.digest_size)

    def enqueue(self, stream: Any) -> Callable[[], float]:
        if stream is not None:
            raise TypeError(f"{type(stream).__name__} is not accepted as a stream: hashlib has none, only None is")
        return self._kernel.background.submit(self._hash).result

    def output(self) -> Buffer:
        return self._results

    def _hash(self) -> float:
        begin = perf_counter()
        hash_run = self._hash_messages if self._strategy == "batched" else self._hash_leaves
        if self._kernel.workers is None:
            digests = hash_run(self._chunks)
        else:
            count = len(self._chunks)
            share = max(1, -(-count // (self._kernel.threads * _TASKS_PER_THREAD)))
            runs = self._kernel.workers.map(hash_run, (self._chunks[i : i + share] for i in range(0, count, share)))
            digests = [digest for run in runs for digest in run]
        if self._strategy == "tree":
            digests = self._roots(digests)
        self._results.owner[:] = np.frombuffer(b"".join(digests), np.uint8)
        return perf_counter() - begin

    def _hash_messages(self, chunks: Sequence[memoryview]) -> list[bytes]:
        new = self._kernel.new
        return [new(chunk).digest() for chunk in chunks]

    def _hash_leaves(self, chunks: Sequence[memoryview]) -> list[bytes]:
        leaves = []
        for chunk in chunks:
            leaf = self._kernel.new(b"\x00")
            leaf.update(chunk)
            leaves.append(leaf.digest())
        return leaves

    def _roots(self, leaves: list[bytes]) -> list[bytes]:
        roots = []
        begin = 0
        for count in self._counts:
            roots.append(self._root(leaves[begin : begin + count]))
            begin += count
        return roots

    def _root(self, nodes: list[bytes]) -> bytes:
        """RFC 9162 section 2.1.1, level by level: pairs of neighbours are hashed, an odd last node is promoted."""
        new = self._kernel.new
        if not nodes:
            return bytes(new().digest())
        while len(nodes) > 1:
            odd = nodes[-1:] if len(nodes) % 2 else []
            pairs = zip(nodes[0::2], nodes[1::2], strict=False)
            nodes = [new(b"\x01" + left + right).digest() for left, right in pairs] + odd
        return nodes[0]


def _cut(data: memoryview, chunk_size: int | None) -> Iterator[memoryview]:
    if chunk_size is None:
        yield data
        return
    for start in range(0, len(data), chunk_size):
        yield data[start : start + chunk_size]
