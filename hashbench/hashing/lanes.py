"""The lanes to one device, which threads that read take in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hashbench.kernels import Kernel, Lane

BLOCK_SIZE = 4 << 20
"""Bytes of a lane's block. On a host of 16 cores with an H100, twelve threads with two blocks each brought 52 GB/s from
the page cache to the GPU, of the 55 that its bus moves. With 16 MiB they made 33, because blocks no longer stay in the
processor's cache, and with 1 MiB 26 to 39, because each copy takes its time in the driver."""


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

    def finish(self) -> None:
        """Waits until all that was sent before is on the device."""
        for lane in list(self._made):
            lane.finish()

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
