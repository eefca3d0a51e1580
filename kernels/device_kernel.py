"""What the kernels of every device framework share: the launches of a call, from the framework's primitives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hashbench.kernels.arrays import host_bytes
from hashbench.kernels.contract import Buffer, Bytes, Kernel, Strategy, Work, check_call, check_random
from hashbench.kernels.fips180 import last_schedules
from hashbench.kernels.layout import GROUP_SIZE, TILE_LEVELS, WARP_SIZE, Layout, lay_out
from hashbench.kernels.source import VARIANTS, blocks, functions

Argument = Buffer | np.uint32 | np.uint64


@dataclass(frozen=True)
class Launch:
    """One launch of a device function over `groups` groups of GROUP_SIZE threads."""

    function: str
    groups: int
    arguments: tuple[Argument, ...]


SLICE_SIZE = 2048
"""Bytes of a slice of a chunk."""

FEWEST_SLICES = 8
"""Slices of a chunk that pay for handing its state from one to the next."""

_MOST_SCHEDULES = 8
"""The most tables of message schedules that a kernel keeps, of 64 or 160 KiB each."""


def _groups(threads: int) -> int:
    return -(-threads // GROUP_SIZE)


class DeviceKernel(Kernel):
    """A kernel whose framework launches the device functions of `kernels/device`, or their equivalents.

    Attributes:
        paired_up_to: calls of up to that many chunks use two threads per chunk.
        early_up_to: other calls of up to that many chunks load each block while they compress the one before it.
        sliced: other calls of so many chunks, most of them full, divide them into slices of `SLICE_SIZE`.
    """

    paired_up_to = 0
    early_up_to = 0
    sliced = range(0)

    def adapt_to_nvidia(self, multiprocessors: int, present: Collection[str] | None = None) -> None:
        """Chooses these numbers for an NVIDIA GPU. The multiprocessors have four schedulers of warps each.

        Args:
            multiprocessors: how many there are.
            present: the device functions that the kernel has; None for those of `kernels/device` in its variant.
        """
        if present is None:
            present = functions(self.algorithm, self.variant)
        warp_on_each = 4 * WARP_SIZE * multiprocessors
        if "hash_chunks_paired" in present:
            self.paired_up_to = warp_on_each // 2
        if "hash_chunks_early" in present:
            self.early_up_to = 4 * warp_on_each
        if "hash_chunks_sliced" in present:
            self.sliced = range(warp_on_each * blocks(self.algorithm, self.variant)["CHUNK_BLOCKS"], 64 * warp_on_each)

    @property
    def tabled(self) -> bool:
        """Whether blocks with at most one unknown byte are compressed with message schedules from tables."""
        return bool(VARIANTS.get(self.variant, {}).get("TABLED", 0))  # kernels may have variants of their own

    @cached_property
    def _schedules(self) -> dict[int, Buffer]:
        return {}

    def schedules(self, length: int) -> Buffer:
        """The table of message schedules of the last block of messages of `length` bytes, with at most one byte of
        them in it; something else in variants without tables, and for other lengths."""
        if not self.tabled or length % self.algorithm.block_size > 1:
            length = -1
        found = self._schedules.get(length)
        if found is None:
            if len(self._schedules) >= _MOST_SCHEDULES:
                self._schedules.clear()
            table = last_schedules(self.algorithm.name, length) if length >= 0 else np.zeros(1, np.uint8)
            found = self._schedules[length] = self.put(table.reshape(-1).view(np.uint8))
        return found

    @abstractmethod
    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised device memory of `nbytes`, at least one.

        Raises:
            OutOfDeviceMemory: the device is out of memory.
        """

    @abstractmethod
    def upload(self, data: Bytes, buffer: Buffer) -> None:
        """Copies `data` from the host to `buffer`, of the same size, and waits."""

    @abstractmethod
    def queue_for(self, stream: Any) -> Any:
        """The framework's queue for `stream`, an argument of `Work.start`; the kernel's own if it is None.

        Raises:
            TypeError: see `Work.start`.
            ValueError: see `Work.start`.
        """

    @abstractmethod
    def launch(self, launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        """Enqueues `launches`, at least one, in order.

        Returns:
            A function that waits for the end, and returns the seconds from the start of the first launch to the end of
            the last by the device's own clock.
        """

    def series(self, launches: Sequence[Launch]) -> Callable[[Any], Callable[[], float]]:
        """A function that enqueues `launches` on a queue like `launch`, any number of times."""
        return lambda queue: self.launch(launches, queue)

    def origin(self, buffer: Buffer) -> Buffer:
        """The base that a launch reaches `buffer` from.

        It is the start of the owner in frameworks whose launches take owners instead of addresses.
        """
        return buffer

    def put(self, data: bytes | bytearray | memoryview | Bytes) -> Buffer:
        host = host_bytes(data)
        buffer = self.allocate(max(1, host.size))[: host.size]
        if host.size:
            self.upload(host, buffer)
        return buffer

    def random(self, nbytes: int, seed: int) -> Buffer:
        check_random(nbytes, seed)
        words = max(1, -(-nbytes // 8))
        buffer = self.allocate(8 * words)
        fill = Launch("fill_random", _groups(words), (buffer, np.uint64(words), np.uint64(seed)))
        self.launch([fill], self.queue_for(None))()
        return buffer[:nbytes]

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        return DeviceWork(self, strategy, segments, chunk_size)

    def folding(self, segments: Sequence[Buffer]) -> Work:
        return DeviceWork(self, "tree", segments, self.algorithm.digest_size, of_leaves=True)


class DeviceWork(Work):
    """A call whose segments can all be reached from one base address.

    Args:
        kernel: the kernel that prepares it.
        strategy: as for `Kernel.prepare`.
        segments: as for `Kernel.prepare`.
        chunk_size: as for `Kernel.prepare`.
        of_leaves: whether the chunks are leaf hashes, so that they are not hashed.
    """

    def __init__(
        self,
        kernel: DeviceKernel,
        strategy: Strategy,
        segments: Sequence[Buffer],
        chunk_size: int | None,
        *,
        of_leaves: bool = False,
    ) -> None:
        super().__init__(kernel)
        self._kernel = kernel
        self._segments = segments  # keeps the memory alive
        base = kernel.origin(segments[0]) if segments else Buffer(None, 0, 0)
        offsets = [s.address - base.address for s in segments]
        layout = lay_out(strategy, offsets, [s.nbytes for s in segments], chunk_size)
        self._enqueue: Callable[[Any], Callable[[], float]] = lambda queue: lambda: 0.0
        self._results = kernel.allocate(1)[:0]
        if layout.slots == 0:
            return

        size = kernel.algorithm.digest_size
        one = np.uint32(1)
        table = kernel.put(layout.table.view(np.uint8))
        digests = kernel.allocate(layout.slots * size)
        count, slots = np.uint64(layout.segments), np.uint64(layout.slots)
        of_padding = kernel.schedules(layout.chunk_size + min(layout.tagged, layout.chunk_size))
        of_nodes = kernel.schedules(1 + 2 * size)
        function, groups = "hash_chunks", _groups(layout.slots)
        parts: tuple[Argument, ...] = ()
        if layout.slots <= kernel.paired_up_to:
            function, groups = "hash_chunks_paired", _groups(2 * layout.slots)
        elif layout.slots <= kernel.early_up_to:
            function = "hash_chunks_early"
        elif (
            layout.slots in kernel.sliced
            and layout.chunk_size >= FEWEST_SLICES * SLICE_SIZE
            and 2 * layout.partial_chunks <= layout.slots
        ):
            slices, parts = self._slices(layout)
            function, groups = "hash_chunks_sliced", slices * groups
        launches = [
            Launch(
                function,
                groups,
                (
                    *(base, table, count, np.uint64(layout.chunk_size), np.uint32(layout.tagged)),
                    *(np.uint64(layout.partial_chunks), slots, of_padding, digests, *parts, one),
                ),
            )
        ]
        if of_leaves:
            launches = [
                Launch("gather_leaves", _groups(layout.slots * size // 4), (base, table, count, slots, digests))
            ]
        launches += [
            Launch(
                "reduce_tiles" if reduction.levels == TILE_LEVELS else "hash_level",
                reduction.tiles if reduction.levels == TILE_LEVELS else _groups(reduction.tiles),
                (table, count, slots, np.uint32(reduction.level), of_nodes, digests, one),
            )
            for reduction in layout.reductions
        ]
        if layout.tree and layout.segments == 1:
            self._results = digests[:size]
        elif layout.tree:
            self._results = kernel.allocate(layout.results * size)
            threads = layout.results * size // 4
            launches.append(Launch("gather_roots", _groups(threads), (table, count, digests, self._results)))
        else:
            self._results = digests
        self._enqueue = kernel.series(launches)

    def _slices(self, layout: Layout) -> tuple[int, tuple[Argument, ...]]:
        """The number of slices of each chunk, and the arguments that only `hash_chunks_sliced` has."""
        kernel = self._kernel
        state_size = kernel.algorithm.block_size // 2
        slices = layout.chunk_size // SLICE_SIZE
        states = kernel.allocate(layout.slots * state_size)
        done = kernel.put(np.zeros(4 * layout.slots, dtype=np.uint8))
        return slices, (np.uint32(slices), np.uint32(SLICE_SIZE // kernel.algorithm.block_size), states, done)

    def enqueue(self, stream: Any) -> Callable[[], float]:
        return self._enqueue(self._kernel.queue_for(stream))

    def output(self) -> Buffer:
        return self._results
