"""The Merkle Tree Hash of files by hashlib on every core of the host: the fair comparison for a GPU's tree.

Threads over chunks of 4 KiB wait for the interpreter's lock; processes do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import numpy as np

from hashbench.kernels import Bytes, Device, check_chunk_size, kernel_class
from hashbench.merkle.rfc9162 import root_of

PIECE_CHUNKS = 256
"""Chunks per piece, a power of two: a complete subtree, whose root one process computes."""

_TASKS_PER_PROCESS = 4  # so that a slow process does not hold up the others

Nodes = list[list[bytes]]
"""The roots of each file's pieces, in order."""

_Range = tuple[Path, int, int]
"""A file, and the offsets of the first byte and of the byte after the last."""


def processes_of(device: Device) -> int:
    """The number of processes for one of hashlib's devices: one per thread."""
    return int(device.id.partition("-")[0])


class HostTree:
    """Processes that hash files. They start with the object, and end with its context.

    Args:
        processes: the number of processes.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a positive multiple of 64.

    Raises:
        TypeError, ValueError: `chunk_size` is not accepted.
    """

    def __init__(self, processes: int, algorithm: str, chunk_size: int) -> None:
        self.processes = processes
        self.algorithm = algorithm
        self.chunk_size = check_chunk_size(chunk_size)
        # Not forked: the child of a process that uses a GPU would inherit its driver's locks, but not its threads.
        self._pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
        for ready in [self._pool.submit(_nodes, [], algorithm, chunk_size) for _ in range(processes)]:
            ready.result()

    def __enter__(self) -> HostTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def nodes(self, paths: Sequence[Path]) -> Nodes:
        """The roots of the pieces of each file: all hashing of its bytes.

        Raises:
            OSError: a file cannot be read.
        """
        pieces = [list(self._pieces(path)) for path in paths]
        ranges = [one for of_file in pieces for one in of_file]
        share = max(1, -(-len(ranges) // (self.processes * _TASKS_PER_PROCESS)))
        tasks = [
            self._pool.submit(_nodes, ranges[i : i + share], self.algorithm, self.chunk_size)
            for i in range(0, len(ranges), share)
        ]
        found = iter([node for task in tasks for node in task.result()])
        return [[next(found) for _ in of_file] for of_file in pieces]

    def fold(self, nodes: Nodes) -> list[bytes]:
        """Each file's root (RFC 9162 section 2.1.1), from the result of `nodes`."""
        return [root_of(of_file, self.algorithm) for of_file in nodes]

    def roots(self, paths: Sequence[Path]) -> list[bytes]:
        """The Merkle Tree Hash of each file.

        Raises:
            OSError: a file cannot be read.
        """
        return self.fold(self.nodes(paths))

    def _pieces(self, path: Path) -> Iterator[_Range]:
        size, step = path.stat().st_size, PIECE_CHUNKS * self.chunk_size
        return ((path, start, min(start + step, size)) for start in range(0, size, step))


def _nodes(ranges: Sequence[_Range], algorithm: str, chunk_size: int) -> list[bytes]:
    """The roots of parts of files, each at most a piece. It runs in a process of its own."""
    hashlib_cpu = kernel_class("hashlib")
    kernel = hashlib_cpu(hashlib_cpu.devices()[0], algorithm)
    files: dict[Path, Bytes] = {path: np.memmap(path, np.uint8, "r") for path in {path for path, _, _ in ranges}}
    segments = [kernel.view(files[path])[start:end] for path, start, end in ranges]
    return [root.tobytes() for root in kernel.tree(segments, chunk_size)] if segments else []
