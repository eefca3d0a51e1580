"""What the kernels of every device framework share: the launches of a call, from primitives of the framework."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hashbench.kernels.arrays import host_bytes
from hashbench.kernels.contract import Buffer, Bytes, Kernel, Strategy, Work, check_call, check_random
from hashbench.kernels.layout import GROUP_SIZE, TILE_LEVELS, lay_out

Argument = Buffer | np.uint32 | np.uint64


@dataclass(frozen=True)
class Launch:
    """One launch of a device function over `groups` groups of GROUP_SIZE threads."""

    function: str
    groups: int
    arguments: tuple[Argument, ...]


def half_of_the_schedulers(multiprocessors: int) -> int:
    """The threads that give every second scheduler of an NVIDIA GPU a warp: four schedulers a multiprocessor, 32
    threads a warp. With so many chunks or fewer, two threads for each of them are faster than one."""
    return 2 * 32 * multiprocessors


def _groups(threads: int) -> int:
    return -(-threads // GROUP_SIZE)


class DeviceKernel(Kernel):
    """A kernel whose framework launches the device functions of `kernels/device`, or their equals.

    Attributes:
        paired_up_to: the number of chunks in a call up to which two threads share each of them.
    """

    paired_up_to = 0

    @abstractmethod
    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised device memory of `nbytes`, at least one.

        Raises:
            OutOfDeviceMemory: the device has no room for it.
        """

    @abstractmethod
    def upload(self, data: Bytes, buffer: Buffer) -> None:
        """Copies the host's `data` to `buffer`, of the same size, and waits."""

    @abstractmethod
    def execute(self, launches: Sequence[Launch]) -> float:
        """Runs `launches` in order, waits for the end, and returns the seconds from the first one's start to the last
        one's end by the device's own clock."""

    def origin(self, buffer: Buffer) -> Buffer:
        """What a launch takes as the base that `buffer` is reached from: the start of its owner, where a launch takes
        owners and not addresses."""
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
        self.execute([Launch("fill_random", _groups(words), (buffer, np.uint64(words), np.uint64(seed)))])
        return buffer[:nbytes]

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        return DeviceWork(self, strategy, segments, chunk_size)


class DeviceWork(Work):
    """A call whose segments can all be reached from one base address."""

    def __init__(
        self, kernel: DeviceKernel, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None
    ) -> None:
        self._kernel = kernel
        self._segments = segments  # keeps the memory alive
        base = kernel.origin(segments[0]) if segments else Buffer(None, 0, 0)
        offsets = [s.address - base.address for s in segments]
        layout = lay_out(strategy, offsets, [s.nbytes for s in segments], chunk_size)
        self._launches: list[Launch] = []
        self._results = kernel.allocate(1)[:0]
        if layout.slots == 0:
            return

        size = kernel.algorithm.digest_size
        one = np.uint32(1)
        table = kernel.put(layout.table.view(np.uint8))
        digests = kernel.allocate(layout.slots * size)
        count, slots = np.uint64(layout.segments), np.uint64(layout.slots)
        paired = layout.slots <= kernel.paired_up_to
        self._launches.append(
            Launch(
                "hash_chunks_paired" if paired else "hash_chunks",
                _groups(2 * layout.slots if paired else layout.slots),
                (
                    *(base, table, count, np.uint64(layout.chunk_size), np.uint32(layout.tagged)),
                    *(np.uint64(layout.shorts), slots, digests, one),
                ),
            )
        )
        self._launches += [
            Launch(
                "reduce_tiles" if reduction.levels == TILE_LEVELS else "hash_level",
                reduction.tiles if reduction.levels == TILE_LEVELS else _groups(reduction.tiles),
                (table, count, slots, np.uint32(reduction.level), digests, one),
            )
            for reduction in layout.reductions
        ]
        if layout.tree:
            self._results = kernel.allocate(layout.results * size)
            threads = layout.results * size // 4
            self._launches.append(Launch("gather_roots", _groups(threads), (table, count, digests, self._results)))
        else:
            self._results = digests

    def run(self) -> float:
        return self._kernel.execute(self._launches) if self._launches else 0.0

    def digests(self) -> Bytes:
        return self._kernel.get(self._results).reshape(-1, self._kernel.algorithm.digest_size)
