"""hashlib over a pool of threads: the reference that every other kernel is checked against, and the CPU baseline.

hashlib releases the interpreter's lock while it hashes more than 2 KiB, and threads hand it to each other between
chunks. So long chunks use every core, while short ones take longer on many threads than on one.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from hashbench.kernels.contract import Buffer, Device, Priority, Strategy, Work, check_call
from hashbench.kernels.host_kernel import HostKernel, bytes_of

_TASKS_PER_THREAD = 4

_BYTES_PER_THREAD = {"sha256": 4096, "sha384": 2048}
"""A thread for so many bytes of a chunk: about 3 us of hashing, which is what the lock costs each chunk.

On 16 cores no chunk size was hashed more slowly with that many threads than with one, and none more than 26% more
slowly than with the best of 1, 2, 4, 8 and 16. All 16 made half of what one makes at 4 KiB."""


def _useful_threads(algorithm: str, chunks: int, nbytes: int) -> int:
    """The number of threads that hash `chunks` chunks of `nbytes` in all the fastest, if there are enough cores."""
    return max(1, min(chunks, nbytes // max(1, chunks) // _BYTES_PER_THREAD[algorithm]))


class HashlibCpu(HostKernel):
    """SHA-2 by hashlib, on one thread, or on as many as are fastest for the call, at most one per core."""

    name = "hashlib"

    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        self.new: Callable[..., Any] = getattr(hashlib, self.algorithm.name)

    @classmethod
    def devices(cls) -> list[Device]:
        return cls.devices_of("hashlib", ssl.OPENSSL_VERSION)

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        return _HashlibWork(self, strategy, segments, chunk_size)

    def folding(self, segments: Sequence[Buffer]) -> Work:
        return _HashlibWork(self, "tree", segments, self.algorithm.digest_size, of_leaves=True)


class _HashlibWork(Work):
    def __init__(
        self,
        kernel: HashlibCpu,
        strategy: Strategy,
        segments: Sequence[Buffer],
        chunk_size: int | None,
        *,
        of_leaves: bool = False,
    ) -> None:
        super().__init__(kernel)
        self._kernel = kernel
        self._of_leaves = of_leaves
        self._strategy = strategy
        chunks = [list(_cut(bytes_of(segment).data, chunk_size)) for segment in segments]
        self._counts = [len(of_segment) for of_segment in chunks]
        self._chunks = [chunk for of_segment in chunks for chunk in of_segment]
        nbytes = sum(segment.nbytes for segment in segments)
        self._threads = min(kernel.threads, _useful_threads(kernel.algorithm.name, len(self._chunks), nbytes))
        digests = len(segments) if strategy == "tree" else len(self._chunks)
        self._results = kernel.allocate(digests * kernel.algorithm.digest_size)

    def enqueue(self, stream: Any) -> Callable[[], float]:
        self._kernel.refuse_stream(stream)
        return self._kernel.background.submit(self._hash).result

    def output(self) -> Buffer:
        return self._results

    def _hash(self) -> float:
        begin = perf_counter()
        hash_run = self._hash_messages if self._strategy == "batched" else self._hash_leaves
        if self._of_leaves:
            digests = list(map(bytes, self._chunks))
        elif self._kernel.workers is None or self._threads == 1:
            digests = hash_run(self._chunks)
        else:
            count = len(self._chunks)
            tasks = self._threads if self._threads < self._kernel.threads else self._threads * _TASKS_PER_THREAD
            share = -(-count // tasks)
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
