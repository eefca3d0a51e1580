"""The lanes to one device, which threads that read take in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from hashbench.kernels import Kernel, Lane

BLOCK_SIZE = 4 << 20
"""Bytes of a lane's block: short enough that those of all threads of two GPUs stay in the processor's cache, and long
enough for the driver. A program in C with fourteen threads a GPU read and copied 67 to 72 GB/s with blocks of 4 MiB to
two H100s of a host of 32 cores, and 47 with 8. To one it made 45 with 4 MiB and 41 with 8 there, 45 and 47 on a host of
16 cores, and 38 with 2."""


def reading_threads() -> int:
    """How many threads read for one device. One neither copies from the page cache as fast as a GPU takes it, nor keeps
    storage busy; more than these wait for each other's Python on a host of 16 cores."""
    return min(14, os.cpu_count() or 1)


class Lanes:
    """A lane for each thread that reads, made when the first is needed, and kept; and as many again if there are more
    threads at the same time.

    Args:
        kernel: makes them.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._making = Lock()
        self._idle: list[Lane] = []  # the last that was used is the next: its block is in the cache

    @property
    def block_size(self) -> int:
        """Bytes of each lane's block."""
        return BLOCK_SIZE

    def exist(self) -> bool:
        """Whether the device has lanes."""
        with self._taken() as lane:
            return lane is not None

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """A lane for the calling thread.

        Raises:
            OutOfDeviceMemory: there is no page-locked memory left.
        """
        with self._taken() as lane:
            assert lane is not None, "the device has no lanes"
            yield lane

    @contextmanager
    def _taken(self) -> Iterator[Lane | None]:
        lane = self._take()
        try:
            yield lane
        finally:
            if lane is not None:
                self._idle.append(lane)

    def _take(self) -> Lane | None:
        with suppress(IndexError):
            return self._idle.pop()
        with self._making:
            with suppress(IndexError):  # another thread has made some meanwhile
                return self._idle.pop()
            made = list(self._kernel.lanes(reading_threads(), BLOCK_SIZE))
            lane = made.pop() if made else None
            self._idle += made
            return lane
