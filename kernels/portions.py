"""Roots of short segments in portions that a workload's own launches carry along, on an NVIDIA GPU.

The workload, mostly a captured CUDA graph, has a launch of a portion at each place where it leaves much of the GPU
idle: `Portions.carry`. A work posts what is to be hashed, and waits until the workload has carried it to its end. If
the workload does nothing, the kernel hashes it as usual.

It stands beside the contract: what it prepares is a `Work`, but it accepts only segments of up to `MOST_CHUNKS` chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic, sleep
from typing import Any

import numpy as np

from hashbench.kernels.beyond import build
from hashbench.kernels.contract import Buffer, Bytes, Work, check_call
from hashbench.kernels.cupy_cuda import CupyCuda
from hashbench.kernels.layout import GROUP_SIZE, WARP_SIZE

MOST_CHUNKS = GROUP_SIZE
"""Chunks of a segment, each of which has a thread."""

_ROUNDS = 4
"""Segments of a piece that a group has, one after another: so many that the host has time to post the next piece."""

_POSTED, _DONE, _ACTIVE, _PORTION, _ARRIVED, _INSIDE, _STOPPED, _LAUNCHES, _WORDS = range(9)

_QUEUE = 2
"""Pieces that are posted at a time."""

_LOOK = 2e-4
"""Seconds between two looks whether something is done."""

_KEPT: list[Portions] = []
"""All of them: graphs that captured launches refer to their memory."""


class Portions:
    """Hashes in portions on a GPU.

    Args:
        kernel: hashes there.
        chunk_size: bytes of a chunk.
        groups: of threads in a launch. Each hashes a segment at a time.
        blocks: how many blocks of each chunk a portion compresses; None for all.
        patience: seconds from one portion to the next after which the workload is taken to be idle.

    Attributes:
        capacity: how many segments are hashed at a time.
        withdrawn: how many pieces the workload did not carry to their end.
        root_of_nothing: of an empty segment.

    Raises:
        ValueError: an argument is not accepted.
        Unavailable: the GPU is not one of NVIDIA's.
    """

    def __init__(
        self, kernel: CupyCuda, chunk_size: int, groups: int, blocks: int | None = None, patience: float = 0.1
    ) -> None:
        self._hash, self._let_pass = build(kernel, "portions.h", "hash_portion", "let_pass")
        check_call("tree", [], chunk_size)
        if groups < 1 or (blocks is not None and blocks < 1):
            raise ValueError(
                f"portions of {blocks!r} blocks in {groups!r} groups are not accepted: pass at least one of each"
            )
        self.kernel, self.chunk_size, self.patience = kernel, chunk_size, patience
        self._groups, self.capacity = groups, groups * _ROUNDS
        with kernel.cuda_device:
            self._branch = kernel.cupy.cuda.Stream(non_blocking=True)
            pinned = kernel.cupy.cuda.alloc_pinned_memory(8)
        self._told = np.frombuffer(pinned, np.uint32, 2)  # the last piece that was hashed, and the launches
        self._told[:] = self._posted = 0
        self.root_of_nothing = kernel.tree([Buffer(None, 0, 0)], chunk_size)[0]
        self._lost: set[int] = set()
        self._idle_at: int | None = None
        self._to_join = False
        self.withdrawn = 0
        self._progress = kernel.put(np.zeros(_WORDS, np.uint32).view(np.uint8))
        self._tables = kernel.put(np.zeros((_QUEUE, 2 * self.capacity + 1), np.uint64).view(np.uint8).reshape(-1))
        self._states = kernel.allocate(groups * GROUP_SIZE * kernel.algorithm.block_size // 2)
        of_padding, of_nodes = self._schedules = (
            kernel.schedules(chunk_size + 1),
            kernel.schedules(1 + 2 * kernel.algorithm.digest_size),
        )
        self._arguments = (
            np.uint64(self._progress.address),
            np.uint64(self._tables.address),
            np.uint64(chunk_size),
            np.uint32(_ROUNDS),
            np.uint32(blocks or chunk_size // kernel.algorithm.block_size + 1),
            np.uint64(of_padding.address),
            np.uint64(of_nodes.address),
            np.uint64(self._states.address),
            np.uint64(pinned.ptr),
            np.uint32(1),
        )
        _KEPT.append(self)
        self.carry(None, 1e-9)  # loads both functions, which may be forbidden while a stream is captured
        self.join(None)
        self._branch.synchronize()

    def carry(self, stream: Any, after: float = 0.0) -> None:
        """Enqueues a portion that runs beside what is enqueued on the stream next, or captures it into its graph.

        Portions run one after another: streams and graphs that carry them may not run at the same time.

        Args:
            stream: the workload's; None for the kernel's own.
            after: seconds that pass before.
        """
        cupy, stream = self.kernel.cupy, self.kernel.queue_for(stream)
        with self.kernel.cuda_device:
            here = cupy.cuda.Event(disable_timing=True)
            here.record(stream)
            self._branch.wait_event(here)
            self._to_join = True
            with self._branch:
                if after:
                    self._let_pass((1,), (WARP_SIZE,), (np.uint32(1e9 * after),))
                self._hash((self._groups,), (GROUP_SIZE,), self._arguments)

    def join(self, stream: Any) -> None:
        """Makes the stream wait for the portions since the last call. A capture must end so."""
        if not self._to_join:
            return
        self._to_join = False
        cupy, stream = self.kernel.cupy, self.kernel.queue_for(stream)
        with self.kernel.cuda_device:
            here = cupy.cuda.Event(disable_timing=True)
            here.record(self._branch)
            stream.wait_event(here)

    @property
    def idle(self) -> bool:
        """Whether the workload has carried nothing since something had to be taken back."""
        return self._idle_at == int(self._told[1])

    def prepare(self, segments: Sequence[Buffer], chunk_size: int) -> Work:
        """Prepares the roots of segments, which the caller keeps alive.

        Raises:
            TypeError, ValueError: as for `Kernel.prepare`; or there are more segments than `capacity`, or more chunks
                in one than `MOST_CHUNKS`.
            OutOfDeviceMemory: as for `Kernel.prepare`.
        """
        check_call("tree", segments, chunk_size)
        if chunk_size != self.chunk_size or len(segments) > self.capacity:
            raise ValueError(f"accepted are up to {self.capacity} segments in chunks of {self.chunk_size} bytes")
        if any(segment.nbytes > MOST_CHUNKS * chunk_size for segment in segments):
            raise ValueError(f"a segment has more than {MOST_CHUNKS} chunks, which is not accepted")
        return _Carried(self, segments)

    def post(self, table: Bytes) -> int:
        """Gives the workload a piece to carry. Returns its number."""
        piece = (self._posted + 1) % 2**32
        self._wait((piece - _QUEUE) % 2**32)  # which had the same table
        place = piece % _QUEUE * len(table)
        self.kernel.upload(table, self._tables[place : place + len(table)])
        self._posted = piece
        self._write(_POSTED, piece)
        return piece

    def ended(self, piece: int) -> bool:
        """Waits for the end of a piece. False if the workload did not carry it to its end."""
        self._wait(piece)
        lost = piece in self._lost
        self._lost.discard(piece)
        self.withdrawn += lost
        return not lost

    def _wait(self, piece: int) -> None:
        launches, since = int(self._told[1]), monotonic()
        while self._left(piece):
            now = monotonic()
            if launches != (launches := int(self._told[1])):
                since = now
            elif now - since > self.patience:
                self._withdraw()
                return
            sleep(_LOOK)

    def _left(self, piece: int) -> bool:
        """Whether a piece was not told yet."""
        return 0 < (piece - int(self._told[0])) % 2**32 < 2**31

    def _withdraw(self) -> None:
        """Takes back what was posted, after which nothing of it is read."""
        self._write(_STOPPED, 1)
        while self.kernel.get(self._progress).view(np.uint32)[_INSIDE]:
            sleep(_LOOK)
        pieces = ((self._posted - back) % 2**32 for back in range(_QUEUE))
        self._lost |= {piece for piece in pieces if self._left(piece)}
        for word, value in ((_ACTIVE, 0), (_PORTION, 0), (_DONE, self._posted)):
            self._write(word, value)
        self._told[0], self._idle_at = self._posted, int(self._told[1])
        self._write(_STOPPED, 0)

    def _write(self, word: int, value: int) -> None:
        self.kernel.upload(np.array([value], np.uint32).view(np.uint8), self._progress[4 * word : 4 * word + 4])


class _Carried(Work):
    def __init__(self, place: Portions, segments: Sequence[Buffer]) -> None:
        kernel = place.kernel
        super().__init__(kernel)
        self._place, self._segments = place, segments
        roots = np.tile(place.root_of_nothing, max(1, len(segments)))  # which no thread computes
        self._roots = kernel.put(roots)[: len(segments) * kernel.algorithm.digest_size]
        table = np.zeros(2 * place.capacity + 1, np.uint64)
        table[: 2 * len(segments)] = [number for each in segments for number in (each.address, each.nbytes)]
        table[-1] = self._roots.address
        self._table = table.view(np.uint8)

    def enqueue(self, stream: Any) -> Callable[[], float]:
        place, begin = self._place, monotonic()
        piece = place.post(self._table)

        def finish() -> float:
            if not place.ended(piece):
                usual = place.kernel.prepare("tree", self._segments, place.chunk_size)
                usual.run()
                place.kernel.upload(usual.digests().reshape(-1), self._roots)
            return monotonic() - begin

        return finish

    def output(self) -> Buffer:
        return self._roots
