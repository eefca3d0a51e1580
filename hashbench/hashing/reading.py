"""Sources of known size, cut into the stages that a kernel hashes through and read into them by several threads.

A large source is cut at multiples of chunk_size * 2^k bytes into pieces that are complete subtrees. Small sources, and
the remainders of large ones, share a stage. Reads follow the order of the bytes in their files. A stage may take from
several files at once, for those who must go through each of them from its beginning to its end.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, groupby, islice
from operator import itemgetter
from threading import Event, get_ident
from types import TracebackType
from typing import NamedTuple, TypeAlias
from weakref import WeakSet

import numpy as np

from hashbench.hashing.direct import DirectFile, is_cached
from hashbench.hashing.in_turn import PART_SIZE, FilesInTurn
from hashbench.hashing.lanes import Lanes, reading_threads
from hashbench.hashing.opening import open_without_waiting
from hashbench.hashing.packing import packed
from hashbench.hashing.sources import ChangedWhileReadError, FileParts, FileRange, Source, Stream, change
from hashbench.hashing.staging import MAX_PIECE_CHUNKS, PIECE_SIZE
from hashbench.kernels import Buffer, Bytes, Lane, Part, PartsInTurn

_READ_SIZE = 16 << 20  # bytes of one read: enough for any storage, and a stage has work for all threads
_ALIGNMENT = 16  # bytes: kernels read fastest at multiples of it
_SMALLEST = PIECE_SIZE // MAX_PIECE_CHUNKS  # bytes that a piece counts as at least, to bound the pieces of a stage


Targets: TypeAlias = Sequence[tuple[int, Buffer]]
"""For each part of a stage, in their order, its first byte and where it goes on the device."""


class Piece(NamedTuple):
    """A part of one source in a stage.

    Attributes:
        source: the source's index.
        start: the part's first byte in the source.
        place: its first byte in the stage.
        nbytes: its length.
    """

    source: int
    start: int
    place: int
    nbytes: int


@dataclass(slots=True)
class Read:
    """Bytes to bring into a stage.

    Attributes:
        origin: the path of a file, or bytes in host memory.
        offset: the first byte there.
        place: the first byte in the stage.
        nbytes: how many.
        lane: the plan's lane that takes the file.
    """

    origin: str | Bytes
    offset: int
    place: int
    nbytes: int
    lane: int = 0


@dataclass
class StagePlan:
    """What one stage takes, and how it gets there.

    Attributes:
        pieces: in the order of their places.
        reads: of at most 16 MiB each. What is adjacent in a file is adjacent in the stage, so that small pieces share a
            read; everything else begins where kernels read fastest.
        nbytes: from the stage's first byte to the end of its last piece.
    """

    pieces: list[Piece] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    nbytes: int = 0

    def add(self, cut: _Cut, lane: int) -> None:
        """Appends a piece, which a lane of the plan takes."""
        source, start, origin, _, extents = cut
        if not self._continues(origin, extents[0][0]):
            self.nbytes = _aligned(self.nbytes)
        place = self.nbytes
        for offset, nbytes in extents:
            done = 0
            if self._continues(origin, offset):
                last = self.reads[-1]
                done = min(nbytes, _READ_SIZE - last.nbytes)
                last.nbytes += done
            for begin in range(done, nbytes, _READ_SIZE):
                size = min(_READ_SIZE, nbytes - begin)
                self.reads.append(Read(origin, offset + begin, self.nbytes + begin, size, lane))
            self.nbytes += nbytes
        self.pieces.append(Piece(source, start, place, self.nbytes - place))

    def _continues(self, origin: str | Bytes, offset: int) -> bool:
        """Whether the bytes of `origin` from `offset` on follow what the last read brings."""
        if not self.reads:
            return False
        last = self.reads[-1]
        follows = offset == last.offset + last.nbytes and self.nbytes == last.place + last.nbytes
        return follows and _in_one_file(last.origin, origin)


def plan(sources: Sequence[Source], piece_size: int, lanes: int = 1) -> list[StagePlan]:
    """The stages that together take every source but streams.

    The pieces of one source come in order. An empty source has none.

    Args:
        sources: what to take.
        piece_size: bytes of a piece at most.
        lanes: files that a stage takes from at once, up to `piece_size` bytes each, and of one file after the other. A
            file is one lane's.
    """
    of_files = [list(of_file) for _, of_file in groupby(sorted(_in_files(sources)), itemgetter(0))]
    if lanes > 1:  # the largest first, so that all lanes end at about the same time
        of_files.sort(key=lambda of_file: -sum(sources[number].nbytes or 0 for _, _, number in of_file))
    files = iter([_pieces(of_file, sources, piece_size) for of_file in of_files])
    coming = [chain.from_iterable(files) for _ in range(lanes)]  # each takes the next file when it has ended one
    waiting = [next(lane, None) for lane in coming]
    stages: list[StagePlan] = []
    while any(waiting):
        stages.append(StagePlan())
        for lane, pieces in enumerate(coming):
            room = piece_size
            while cut := waiting[lane]:
                size = max(_aligned(cut.nbytes), _SMALLEST)
                if size > room < piece_size:
                    break
                room -= size
                stages[-1].add(cut, lane)
                waiting[lane] = next(pieces, None)
    return stages


class _Cut(NamedTuple):
    """A piece that no stage has taken yet.

    Attributes:
        source: the source's index.
        start: the piece's first byte in the source.
        origin: what to read.
        nbytes: the piece's length.
        extents: offset and size there of what the piece joins; at least one.
    """

    source: int
    start: int
    origin: str | Bytes
    nbytes: int
    extents: Sequence[tuple[int, int]]


def _pieces(of_file: Sequence[tuple[str, int, int]], sources: Sequence[Source], piece_size: int) -> Iterator[_Cut]:
    """The pieces of the sources in one file."""
    for path, offset, number in of_file:
        source = sources[number]
        assert not isinstance(source, Stream)
        origin = path if isinstance(source, (FileRange, FileParts)) else source
        whole = source.parts if isinstance(source, FileParts) else ((offset, source.nbytes),)
        start = 0
        for nbytes, extents in _cut(whole, source.nbytes, piece_size):
            yield _Cut(number, start, origin, nbytes, extents)
            start += nbytes


def _cut(
    extents: Sequence[tuple[int, int]], total: int, piece_size: int
) -> Iterator[tuple[int, Sequence[tuple[int, int]]]]:
    """Extents of `total` bytes in pieces of `piece_size`, of which the last may be short; none for no bytes.

    Yields:
        The size of a piece, and its extents.
    """
    if 0 < total <= piece_size:
        yield total, extents
        return
    piece: list[tuple[int, int]] = []
    room = piece_size
    for offset, nbytes in extents:
        while nbytes:
            taken = min(nbytes, room)
            piece.append((offset, taken))
            offset, nbytes, room = offset + taken, nbytes - taken, room - taken
            if not room:
                yield piece_size, piece
                piece, room = [], piece_size
    if piece:
        yield piece_size - room, piece


def _in_files(sources: Sequence[Source]) -> Iterator[tuple[str, int, int]]:
    """Path, offset and index of every source but streams; bytes of the host have neither path nor offset."""
    for number, source in enumerate(sources):
        if isinstance(source, FileRange):
            yield os.fspath(source.path), source.offset, number
        elif isinstance(source, FileParts):
            yield os.fspath(source.path), min((offset for offset, _ in source.parts), default=0), number
        elif not isinstance(source, Stream):
            yield "", 0, number


def _runs(stage: StagePlan) -> Iterator[Sequence[Read]]:
    """A stage's reads, as many together as one thread takes at a time."""
    return (stage.reads[run] for run in packed([read.nbytes for read in stage.reads], _READ_SIZE))


_Reading: TypeAlias = tuple[str | Bytes, int, int, int]
"""Origin, offset, place and size of what is read at once."""


def _blocks(reads: Sequence[Read], size: int) -> Iterator[tuple[int, int, list[_Reading]]]:
    """Reads cut, and put together, to take no more than `size` bytes of the stage from first to last.

    Yields:
        The first byte in the stage, the byte after the last, and what to read.
    """
    start = stop = 0
    block: list[_Reading] = []
    for read in reads:
        origin, offset, place, left = read.origin, read.offset, read.place, read.nbytes
        while left:
            if block and place - start >= size:
                yield start, stop, block
                block = []
            if not block:
                start = place
            nbytes = min(left, start + size - place)
            block.append((origin, offset, place, nbytes))
            offset, place, left = offset + nbytes, place + nbytes, left - nbytes
            stop = place
    if block:
        yield start, stop, block


def _parts(targets: Targets, first: int, start: int, stop: int) -> Iterator[Part]:
    """Where the bytes of a block go.

    Args:
        targets: of the stage.
        first: the index of the one that has the block's first byte.
        start: the block's first byte in the stage.
        stop: the byte after its last.
    """
    for place, buffer in islice(targets, first, None):
        if place >= stop:
            break
        begin, end = max(start, place), min(stop, place + buffer.nbytes)
        if begin < end:
            yield begin - start, end - begin, buffer, begin - place


def _by_targets(
    reads: Sequence[Read], targets: Targets, places: Sequence[int], least: int
) -> Iterator[tuple[Read, Buffer | None]]:
    """Reads cut where a target has at least so many bytes of a file, which go there at once.

    Args:
        reads: what is read.
        targets: of the stage.
        places: of the targets.
        least: bytes.

    Yields:
        A read and where it goes; None if it is shorter or host memory, or goes to several targets.
    """
    for read in reads:
        start = place = read.place
        end = start + read.nbytes
        index = bisect_right(places, place) - 1
        while isinstance(read.origin, str) and end - place >= least:
            at, buffer = targets[index]
            stop = min(end, at + buffer.nbytes)
            if stop - place >= least:
                if start < place:
                    yield _part_of(read, start, place), None
                yield _part_of(read, place, stop), buffer[place - at : stop - at]
                start = stop
            place, index = stop, index + 1
        if start < end:
            yield _part_of(read, start, end), None


def _part_of(read: Read, start: int, stop: int) -> Read:
    """What a read brings to the stage from `start` to `stop`."""
    return Read(read.origin, read.offset + start - read.place, start, stop - start, read.lane)


def _next(reads: deque[Read]) -> Read | None:
    """The next read that no other thread has taken."""
    try:
        return reads.popleft()
    except IndexError:
        return None


def _shrank(path: str) -> ChangedWhileReadError:
    return ChangedWhileReadError(f"{path}: the file shrank while it was read")


def _in_one_file(first: str | Bytes, second: str | Bytes) -> bool:
    return isinstance(first, str) and isinstance(second, str) and first == second


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


class Reader:
    """Fills stages by several threads, and detects files that change meanwhile.

    Args:
        sources: those of the stages. Files that have a status must still have it.
        failed: takes the error of each file that cannot be read, by its path, instead of ending with it. What a stage
            has where its bytes belong means nothing.
        direct: what the page cache does not have is read past it, where the file system can. It is not in the cache
            afterwards.

    Raises:
        ChangedWhileReadError: two sources have different statuses of one file.
    """

    def __init__(
        self, sources: Sequence[Source], failed: dict[str, OSError] | None = None, *, direct: bool = False
    ) -> None:
        self._failed, self._direct = failed, direct
        self._seen: dict[str, os.stat_result] = {}
        for source in sources:
            if isinstance(source, (FileRange, FileParts)) and source.status:
                self._check(os.fspath(source.path), source.status)
        self._pool = ThreadPoolExecutor(reading_threads(), "read")
        self._open: dict[int, tuple[str, int]] = {}
        self._open_directly: dict[int, tuple[str, DirectFile | None]] = {}  # None where the file system cannot
        self._turns: WeakSet[PartsInTurn] = WeakSet()
        self._unwanted = Event()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Nothing is cancelled: a thread that waits for all parts of a stage would wait for those forever.
        self.stop()
        self._pool.shutdown()
        for _, descriptor in self._open.values():
            os.close(descriptor)
        for _, file in self._open_directly.values():
            if file is not None:
                file.close()

    def fill(self, stage: StagePlan, host: memoryview) -> int:
        """Reads everything that a stage takes into host memory.

        Returns:
            The number of bytes of `host` that are used.

        Raises:
            OSError: a file cannot be read, and nothing takes its error; it names the file.
            ChangedWhileReadError: a file changed, or is shorter than a range of it.
        """
        return self._brought(stage, [self._pool.submit(self._read_all, run, host) for run in _runs(stage)])

    def carry(self, stage: StagePlan, lanes: Lanes, buffer: Buffer) -> int:
        """Reads everything that a stage takes, and brings it to device memory.

        Returns:
            The number of bytes of `buffer` that are used.

        Raises:
            OSError, ChangedWhileReadError: as for `fill`.
            OutOfDeviceMemory: as for `Lanes.one`.
        """
        targets = [(0, buffer)]
        return self._brought(stage, [self._pool.submit(self._send, run, lanes, targets) for run in _runs(stage)])

    def _brought(self, stage: StagePlan, parts: Sequence[Future[None]]) -> int:
        wait(parts)  # for all, even if one fails: none may write to the stage when another plan uses it
        for part in parts:
            part.result()
        self._check_files(stage.reads)  # once: each call of the system costs the thread Python's lock
        return stage.nbytes

    def read(self, reads: Sequence[Read], host: memoryview) -> None:
        """Reads into the places in `host`, in the calling thread.

        Raises:
            OSError, ChangedWhileReadError: as for `fill`.
        """
        self._read_all(reads, host)
        self._check_files(reads)

    def _read_all(self, reads: Sequence[Read], host: memoryview) -> None:
        for read in reads:
            if self._unwanted.is_set():
                return
            self._read(read.origin, read.offset, host[read.place : read.place + read.nbytes])

    def send(self, reads: Sequence[Read], lanes: Lanes, targets: Targets) -> None:
        """Reads, and copies what was read to a device, in the calling thread.

        Args:
            reads: their places are those in the stage.
            lanes: to the device.
            targets: where the stage's bytes go.

        Raises:
            OSError, ChangedWhileReadError, OutOfDeviceMemory: as for `carry`.
        """
        self._send(reads, lanes, targets)
        self._check_files(reads)

    def in_turn(self, stage: StagePlan, lanes: Lanes, targets: Targets) -> Callable[[], None]:
        """Prepares to bring a stage to a device, past the page cache where it does not have the bytes.

        Args:
            stage: what to bring.
            lanes: to the device.
            targets: where the stage's bytes go.

        Returns:
            What several threads call at the same time. Each brings the next part that none has taken, until none is
            left. It raises what `send` does.
        """
        places = [place for place, _ in targets]
        of_files: list[tuple[str, int, Buffer]] = []
        others: deque[Read] = deque()
        for read, target in _by_targets(stage.reads, targets, places, 1):
            if target is None:
                others.append(read)
            else:
                of_files.append((str(read.origin), read.offset, target))
        size = min(PART_SIZE, lanes.block_size)
        files = FilesInTurn(of_files, size, lambda path, descriptor: self._check(path, os.fstat(descriptor)))
        self._turns.add(files.parts)

        def bring() -> None:
            if self._unwanted.is_set():
                return
            with lanes.one() as lane:
                while (part := lane.bring_in_turn(files.parts)) is not None:
                    path, offset, target = files[part]
                    # Reading through the page cache says why, if it cannot be read at all.
                    self._bring(Read(path, offset, 0, target.nbytes), target, lane)
                while read := _next(others):
                    self._send_blocks([read], lane, targets, places)
            self._check_files(stage.reads)

        return bring

    def _send(self, reads: Sequence[Read], lanes: Lanes, targets: Targets) -> None:
        if self._unwanted.is_set():
            return
        places = [place for place, _ in targets]
        with lanes.one() as lane:
            in_blocks: list[Read] = []
            for read, target in _by_targets(reads, targets, places, lane.block.nbytes):
                if target is None:
                    in_blocks.append(read)
                else:
                    self._bring(read, target, lane)
            self._send_blocks(in_blocks, lane, targets, places)

    def _send_blocks(self, reads: Sequence[Read], lane: Lane, targets: Targets, places: Sequence[int]) -> None:
        """Reads to the lane's block as much as it takes, and copies it; and so on."""
        for start, stop, reads_of_block in _blocks(reads, lane.block.nbytes):
            for origin, offset, place, nbytes in reads_of_block:
                self._read(origin, offset, lane.block[place - start : place - start + nbytes])
            if self._unwanted.is_set():
                return
            lane.send(_parts(targets, bisect_right(places, start) - 1, start, stop))

    def _bring(self, read: Read, target: Buffer, lane: Lane) -> None:
        """Reads a file to the device, in one call where the lane can, which gives up Python's lock for all of it."""
        if self._unwanted.is_set():
            return
        path = str(read.origin)
        try:
            count = lane.bring(self._descriptor(path), read.offset, target)
        except OSError as error:
            self._fail(path, OSError(error.errno, error.strerror, path))
        else:
            if count < read.nbytes:
                raise _shrank(path)

    def _read(self, origin: str | Bytes, offset: int, target: memoryview) -> None:
        if isinstance(origin, str):
            try:
                self._read_file(origin, offset, target)
            except OSError as error:
                self._fail(origin, error)
        else:
            np.frombuffer(target, np.uint8)[:] = origin[offset : offset + len(target)]

    def _fail(self, path: str, error: OSError) -> None:
        if self._failed is None:
            raise error
        self._failed.setdefault(path, error)

    def stop(self) -> None:
        """Makes what runs in other threads end soon, and what comes later at once, without the bytes."""
        self._unwanted.set()
        for parts in list(self._turns):
            parts.end()

    def check_unchanged(self) -> None:
        """Checks, after the end, that files are still what they were, even those of which there was nothing to read.

        Raises:
            OSError: a file is gone; it names the file.
            ChangedWhileReadError: a file changed.
        """
        for path in self._seen:
            if not self._failed or path not in self._failed:
                self._check(path, os.stat(path))  # noqa: PTH116  # of many thousand files

    def _check_files(self, reads: Sequence[Read]) -> None:
        """Checks, after reads, that their files are still what they were."""
        for path in dict.fromkeys(read.origin for read in reads if isinstance(read.origin, str)):
            try:
                self._check(path, os.stat(path))  # noqa: PTH116  # for each piece
            except OSError as error:
                self._fail(path, error)

    def _check(self, path: str, now: os.stat_result) -> None:
        before = self._seen.setdefault(path, now)
        if now is not before and (how := change(before, now)):
            raise ChangedWhileReadError(f"{path}: the file {how} while it was read")

    def _read_file(self, path: str, offset: int, target: memoryview) -> None:
        descriptor = self._descriptor(path)
        filled = 0
        if self._direct:
            with suppress(OSError):  # as above
                file = self._past_cache(path, offset)
                filled = file.read(offset, target) if file else 0
        while filled < len(target):
            try:
                count = os.preadv(descriptor, [target[filled:]], offset + filled)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            if count == 0:
                raise _shrank(path)
            filled += count

    def _past_cache(self, path: str, offset: int) -> DirectFile | None:
        """The file, opened for direct reads; None if the page cache has the byte there, or the file system has no such
        reads. Each thread keeps one open."""
        if is_cached(self._descriptor(path), offset):
            return None
        thread = get_ident()
        held = self._open_directly.get(thread)
        if held is None or held[0] != path:
            if held is not None and held[1] is not None:
                held[1].close()
            self._open_directly[thread] = held = path, None
            with suppress(OSError):
                file = DirectFile(path)
                self._open_directly[thread] = held = path, file
                self._check(path, os.fstat(file.descriptor))
        return held[1]

    def _descriptor(self, path: str) -> int:
        """The file, opened. Each thread keeps one open: threads wait for each other at every call of the system."""
        thread = get_ident()
        if held := self._open.get(thread):
            if held[0] == path:
                return held[1]
            del self._open[thread]
            os.close(held[1])
        descriptor = open_without_waiting(path)
        self._open[thread] = path, descriptor
        self._check(path, os.fstat(descriptor))
        return descriptor
