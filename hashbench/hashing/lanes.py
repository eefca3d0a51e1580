"""The lanes to one device, which threads that read take in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hashbench.kernels import Kernel, Lane

BLOCK_SIZE = 4 << 20
"""Bytes of a lane's block: short enough that those of all threads of two GPUs stay in the processor's cache, and long
enough for the driver. A program in C with fourteen threads a GPU read and copied 67 to 72 GB/s with blocks of 4 MiB to
two H100s of a host of 32 cores, and 47 with 8. To one it made 45 with 4 MiB and 41 with 8 there, 45 and 47 on a host of
16 cores, and 38 with 2."""


class Lanes:
    """As many lanes as threads have wanted at the same time. They are made when they are needed, and kept.

    Args:
        kernel: makes them.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._made: list[Lane] = []
        self._idle: list[Lane] = []  # the last that was used is the next: its blocks are in the cache

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
        lane: Lane | None
        try:
            lane = self._idle.pop()
        except IndexError:
            lane = self._kernel.lane(BLOCK_SIZE)
            if lane is not None:
                self._made.append(lane)
        try:
            yield lane
        finally:
            if lane is not None:
                self._idle.append(lane)
