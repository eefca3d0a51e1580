"""Data that streams through a device in bounded memory: read, copied and hashed at the same time.

A stage takes at most one piece: chunk_size * 2^k bytes, hence a complete subtree of a tree over chunks. While one stage
is hashed, the next is copied and those after it are filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from hashbench.hashing.lanes import Lanes
from hashbench.kernels import Buffer, Kernel, Stage, check_chunk_size

PIECE_SIZE = 128 << 20
"""Bytes of a piece, if chunk size and device allow: large enough to make the cost of launches and copies negligible."""

MAX_CHUNK_SIZE = 256 << 20
"""The largest chunk size that is accepted: a piece has at least one chunk."""

MAX_PIECE_CHUNKS = 1 << 18
"""The most chunks of a piece: what the host keeps for each of them stays small compared with the piece."""

_STAGES = 4  # two are filled, one is copied, one is hashed
_HOST_BUDGET = 640 << 20  # for all stages; the rest of a GiB is for the interpreter and the framework

Fill = Callable[[memoryview], int]
"""Writes to host memory, one piece long, from its start, and returns how many bytes."""

Carry = Callable[[Buffer], int]
"""Brings bytes to device memory, one piece long, from its start, and returns how many there are."""

Follow = Callable[[memoryview, Future[int]], Sequence[Future[None]]]
"""Takes the host memory of a stage and what will say that it is filled; gives what will say that it is not used any
more."""


class Staging:
    """The stages that one kernel hashes through, and the lanes to its device. They are allocated when they are needed,
    and kept.

    They stay below 640 MiB of host memory, and take at most half of what is free on the device.

    Args:
        kernel: allocates the stages on its device.
        chunk_size: bytes of a chunk, a multiple of 64 up to 256 MiB.
        piece_size: bytes of a stage at most, except that it has room for at least one chunk.

    Attributes:
        piece_size: bytes of a stage: chunk_size * 2^k.
        lanes: to the device.

    Raises:
        TypeError, ValueError: `chunk_size` is not accepted.
    """

    def __init__(self, kernel: Kernel, chunk_size: int, piece_size: int = PIECE_SIZE) -> None:
        self._kernel = kernel
        self.piece_size = check_chunk_size(chunk_size)
        if chunk_size > MAX_CHUNK_SIZE:
            raise ValueError(
                f"chunk size {chunk_size} is not accepted for data in files or host memory: the largest is "
                f"{MAX_CHUNK_SIZE} bytes (256 MiB)"
            )
        # The stages of a CPU device may take host memory twice: for what is read, and for the device's buffer.
        room = min(kernel.largest_buffer() // 2, _HOST_BUDGET // (2 if kernel.device.kind == "cpu" else 1))
        while 2 * self.piece_size <= min(piece_size, MAX_PIECE_CHUNKS * chunk_size, room // _STAGES):
            self.piece_size *= 2
        self._count = max(1, min(_STAGES, room // self.piece_size))
        self._stages: list[Stage] = []
        self.lanes = Lanes(kernel)

    def stream(
        self,
        fills: Iterable[Fill],
        stop: Callable[[], object],
        at_most: int | None = None,
        *,
        at_once: int = 1,
        follows: Iterable[Follow] = (),
    ) -> Generator[Buffer, None, None]:
        """What each of `fills` writes, in their order, on the device. Each is valid until the next is asked for.

        It ends with `fills`, or before the first that writes nothing. Fills start one after the other, in threads of
        their own, ahead of what is asked for.

        Args:
            fills: each writes one piece.
            stop: is called when no more is wanted; it makes a running fill return soon.
            at_most: the number of fills that write something, if it is known: no more stages are allocated.
            at_once: how many fills may run at the same time.
            follows: for each fill who else uses what it writes, called in the order of the fills, before they end; for
                none if there are no more.

        Raises:
            OutOfDeviceMemory: the device has no room for one stage.
            Exception: whatever a fill raises, or who else uses what it writes.
        """
        coming, following, copier = iter(fills), iter(follows), ThreadPoolExecutor(1, "copy")

        def begin(stage: Stage, filler: ThreadPoolExecutor) -> Future[Buffer | None] | None:
            fill = next(coming, None)
            if fill is None:
                return None
            host = stage.host.data[: self.piece_size]
            filled = filler.submit(fill, host)
            follow = next(following, None)
            used = follow(host, filled) if follow else ()
            return copier.submit(_copy, stage, filled, used)

        try:
            yield from self._in_turn(begin, stop, at_most, at_once)
        finally:
            copier.shutdown(cancel_futures=True)

    def carried(
        self, carries: Iterable[Carry], stop: Callable[[], object], at_most: int, *, at_once: int
    ) -> Generator[Buffer, None, None]:
        """As `stream`, of what needs no host memory of its own."""
        coming = iter(carries)

        def begin(stage: Stage, carrier: ThreadPoolExecutor) -> Future[Buffer | None] | None:
            carry = next(coming, None)
            return carry and carrier.submit(_carry, stage, carry)

        return self._in_turn(begin, stop, at_most, at_once)

    def _in_turn(
        self,
        begin: Callable[[Stage, ThreadPoolExecutor], Future[Buffer | None] | None],
        stop: Callable[[], object],
        at_most: int | None,
        at_once: int,
    ) -> Generator[Buffer, None, None]:
        """What is begun for each stage, in turn, until there is no more."""
        pending: deque[tuple[Stage, Future[Buffer | None]]] = deque()
        threads = ThreadPoolExecutor(at_once, "read")

        def begin_next(stage: Stage) -> None:
            if begun := begin(stage, threads):
                pending.append((stage, begun))

        try:
            for stage in self._enough(at_most):
                begin_next(stage)
            while pending:
                stage, begun = pending.popleft()
                piece = begun.result()
                if piece is None:
                    break
                yield piece
                begin_next(stage)
        finally:
            stop()
            threads.shutdown(cancel_futures=True)

    def _enough(self, at_most: int | None) -> list[Stage]:
        count = self._count if at_most is None else min(self._count, at_most)
        while len(self._stages) < count:
            self._stages.append(self._kernel.stage(self.piece_size))
        return self._stages[:count]


def _copy(stage: Stage, filled: Future[int], used: Sequence[Future[None]]) -> Buffer | None:
    nbytes = filled.result()
    copied = stage.upload(nbytes) if nbytes else None
    for end in used:  # the stage is filled again as soon as it is hashed
        end.result()
    return copied


def _carry(stage: Stage, carry: Carry) -> Buffer | None:
    nbytes = carry(stage.buffer)
    return stage.buffer[:nbytes] if nbytes else None
