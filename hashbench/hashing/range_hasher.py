"""Ranges of files, and bytes of the host, hashed in bounded memory: many small ones in one call, large ones in pieces.

A large range is cut at multiples of chunk_size * 2^k bytes into complete subtrees, whose roots fold to its root. Small
ranges, and what is left of large ones, share a stage and are the segments of one call. Ranges are read in the order in
which they lie in their files, by several threads, while what was read before is copied and hashed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from types import TracebackType

import numpy as np

from hashbench.hashing.file_range import FileRange
from hashbench.hashing.files import ChangedWhileReadError, change
from hashbench.hashing.packing import packed
from hashbench.hashing.progress import Progress
from hashbench.hashing.staging import MAX_PIECE_CHUNKS, PIECE_SIZE, Staging
from hashbench.kernels import Buffer, Bytes, Kernel
from hashbench.merkle.rfc9162 import root_of

Source = FileRange | Bytes
"""A range of a file, or contiguous uint8 on the host."""

_READ_SIZE = 16 << 20  # bytes that one thread reads at a time: enough for any storage, and a stage has work for all
_READERS = 12  # one thread does not copy from the system's cache as fast as a device takes it, nor keep storage busy
_STAGES_FILLED = 2  # at once: when a stage's last reads are under way, the other readers go on with the next
_ALIGNMENT = 16  # bytes: kernels read what lies at a multiple of it fastest
_SMALLEST = PIECE_SIZE // MAX_PIECE_CHUNKS  # bytes that a range counts for at least, so that a stage has not many more


@dataclass(frozen=True)
class Leaves:
    """The hashes of the chunks of a piece of one source.

    Attributes:
        source: the source's place among the sources.
        first: the piece's first chunk, counted from 0 in the source.
        nbytes: the piece's bytes.
        hashes: leaf hashes or plain digests: uint8, shape (chunks of the piece, digest size).
    """

    source: int
    first: int
    nbytes: int
    hashes: Bytes


@dataclass(frozen=True)
class _Piece:
    """A part of one source: `nbytes` from its byte `start` on."""

    source: int
    start: int
    nbytes: int


class RangeHasher:
    """Hashes ranges of files, and bytes of the host, with one kernel. Its memory is kept from one call to the next.

    Whatever the sources' size, host memory stays below 1 GiB, but for a root for each piece, and stages take at most
    half of what is free on the device.

    Args:
        kernel: what hashes.
        chunk_size: bytes of a leaf, a multiple of 64 up to 256 MiB; the last of a source may be short.
        piece_size: bytes read, copied and hashed in one go, at most, except that a piece is at least one chunk.

    Attributes:
        staging: the memory that it hashes through.

    Raises:
        TypeError, ValueError: `chunk_size` is not accepted.
    """

    def __init__(self, kernel: Kernel, chunk_size: int, piece_size: int = PIECE_SIZE) -> None:
        self.kernel = kernel
        self.chunk_size = chunk_size
        self.staging = Staging(kernel, chunk_size, piece_size)

    def roots(
        self,
        sources: Sequence[Source],
        progress: Progress = lambda nbytes: None,
        on_leaves: Callable[[Leaves], object] | None = None,
    ) -> list[bytes]:
        """The Merkle Tree Hash (RFC 9162 section 2.1.1) of each source, in their order; H("") for empty ones.

        Args:
            sources: what to hash.
            progress: is told the bytes of each stage when it has been hashed.
            on_leaves: is given what `leaves` yields, from the same reading.

        Raises:
            OSError: a file cannot be read; it names the file.
            ChangedWhileReadError: a file is not what a range says that it was, changed meanwhile, or is shorter than a
                range of it.
            OutOfDeviceMemory: the device has no room for one piece.
        """
        of_pieces: list[list[bytes]] = [[] for _ in sources]
        for pieces, buffers in self._stages(sources, progress):
            for piece, root in zip(pieces, self.kernel.tree(buffers, self.chunk_size), strict=True):
                of_pieces[piece.source].append(root.tobytes())
            if on_leaves:
                # The chunks are hashed a second time: to fold millions of leaves in Python would take far longer.
                for leaves in self._split(pieces, self.kernel.leaves(buffers, self.chunk_size)):
                    on_leaves(leaves)
        return [root_of(roots, self.kernel.algorithm.name) for roots in of_pieces]

    def leaves(self, sources: Sequence[Source], progress: Progress = lambda nbytes: None) -> Iterator[Leaves]:
        """The leaf hashes H(0x00 || chunk) of each source, a piece at a time; an empty source has none.

        Pieces of one source come in order, sources in no order that is promised. Arguments and errors are those of
        `roots`; whether a file changed shows at its end, and until then the hashes are not to be relied on.
        """
        for pieces, buffers in self._stages(sources, progress):
            yield from self._split(pieces, self.kernel.leaves(buffers, self.chunk_size))

    def digests(self, sources: Sequence[Source], progress: Progress = lambda nbytes: None) -> Iterator[Leaves]:
        """The plain digests H(chunk) in place of the leaf hashes, and all else as `leaves`."""
        for pieces, buffers in self._stages(sources, progress):
            yield from self._split(pieces, self.kernel.batched(buffers, self.chunk_size))

    def _split(self, pieces: Sequence[_Piece], hashes: Bytes) -> Iterator[Leaves]:
        """The hashes of each piece's chunks, out of those of all of them."""
        begin = 0
        for piece in pieces:
            end = begin + -(-piece.nbytes // self.chunk_size)
            yield Leaves(piece.source, piece.start // self.chunk_size, piece.nbytes, hashes[begin:end])
            begin = end

    def _stages(
        self, sources: Sequence[Source], progress: Progress
    ) -> Generator[tuple[Sequence[_Piece], list[Buffer]], None, None]:
        """The pieces that share a stage, and each of them on the device, valid until the next stage is asked for."""
        pieces = list(_pieces(sources, self.staging.piece_size))
        sizes = [max(_aligned(piece.nbytes), _SMALLEST) for piece in pieces]
        stages = [_Placed(sources, pieces[part]) for part in packed(sizes, self.staging.piece_size)]
        with _Reading(sources) as reading:
            fills = (partial(reading.fill, stage) for stage in stages)
            with closing(self.staging.stream(fills, reading.stop, len(stages), at_once=_STAGES_FILLED)) as filled:
                for stage, buffer in zip(stages, filled, strict=True):
                    yield stage.pieces, [buffer[run.start : run.stop] for run in stage.runs]
                    progress(sum(map(len, stage.runs)))
            reading.check_unchanged()


def _pieces(sources: Sequence[Source], piece_size: int) -> Iterator[_Piece]:
    """Every source cut into pieces, files in turn and each from its beginning to its end; an empty source has none."""

    def place(number: int) -> tuple[str, int]:
        source = sources[number]
        return (os.fspath(source.path), source.offset) if isinstance(source, FileRange) else ("", 0)

    for number in sorted(range(len(sources)), key=place):
        nbytes = sources[number].nbytes
        for start in range(0, nbytes, piece_size):
            yield _Piece(number, start, min(piece_size, nbytes - start))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


class _Placed:
    """Pieces that share a stage. What follows another piece in its file follows it there, so that both are one read;
    everything else begins where kernels read fastest.

    Attributes:
        pieces: one after the other.
        runs: of each piece its bytes' places in the stage.
        reads: what fills the stage: parts of sources, and where each of them begins.
    """

    def __init__(self, sources: Sequence[Source], pieces: Sequence[_Piece]) -> None:
        self.pieces = pieces
        self.runs: list[range] = []
        self.reads: list[tuple[Source, int]] = []
        end = 0
        for piece in pieces:
            part = _part(sources[piece.source], piece.start, piece.nbytes)
            last, begin = self.reads[-1] if self.reads else (None, 0)
            if isinstance(part, FileRange) and isinstance(last, FileRange) and _end(last) == (part.path, part.offset):
                self.reads[-1] = FileRange(last.path, last.offset, last.nbytes + part.nbytes), begin
            else:
                end = _aligned(end)
                self.reads.append((part, end))
            self.runs.append(range(end, end + piece.nbytes))
            end += piece.nbytes


def _part(source: Source, start: int, nbytes: int) -> Source:
    """`nbytes` of a source from its byte `start` on."""
    if isinstance(source, FileRange):
        return FileRange(source.path, source.offset + start, nbytes)
    return source[start : start + nbytes]


class _Reading:
    """Reads pieces of sources, by several threads, and sees whether files change meanwhile."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._seen: dict[Path, os.stat_result] = {}
        for source in sources:
            if isinstance(source, FileRange) and source.status:
                self._check(source.path, source.status)
        self._pool = ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1), "read")
        self._unwanted = Event()

    def __enter__(self) -> _Reading:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fill(self, stage: _Placed, host: memoryview) -> int:
        """Reads the pieces of a stage to `host`, and returns where the last one ends.

        Raises:
            OSError: a file cannot be read; it names the file.
            ChangedWhileReadError: a file changed, or is shorter than a piece says.
        """
        parts = list(_cut(stage.reads, host))
        jobs = [parts[run] for run in packed([len(part) for _, part in parts], _READ_SIZE)]
        # All are waited for, also where one fails: none may write to the stage when it is another's.
        errors = [done.exception() for done in [self._pool.submit(self._read, job) for job in jobs]]
        for error in filter(None, errors):
            raise error
        return stage.runs[-1].stop

    def stop(self) -> None:
        """Ends a `fill` that is under way in another thread."""
        self._unwanted.set()

    def check_unchanged(self) -> None:
        """Checks, at the end, that files are still what they were, those too of which there was nothing to read.

        Raises:
            OSError: a file is not there any more; it names the file.
            ChangedWhileReadError: one is not.
        """
        for path in self._seen:
            self._check(path, path.stat())

    def _check(self, path: Path, now: os.stat_result) -> None:
        before = self._seen.setdefault(path, now)
        if now is not before and (how := change(before, now)):
            raise ChangedWhileReadError(f"{path}: the file {how} while it was read")

    def _read(self, parts: Sequence[tuple[Source, memoryview]]) -> None:
        for source, host in parts:
            if self._unwanted.is_set():
                return
            if isinstance(source, FileRange):
                self._read_file(source, host)
            else:
                np.frombuffer(host, np.uint8)[:] = source

    def _read_file(self, source: FileRange, host: memoryview) -> None:
        path = source.path
        with path.open("rb", buffering=0) as file:
            self._check(path, os.fstat(file.fileno()))
            filled = 0
            while filled < source.nbytes:
                try:
                    count = os.preadv(file.fileno(), [host[filled:]], source.offset + filled)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, os.fspath(path)) from None
                if count == 0:
                    raise ChangedWhileReadError(f"{path}: the file shrank while it was read")
                filled += count
            self._check(path, os.fstat(file.fileno()))


def _cut(reads: Sequence[tuple[Source, int]], host: memoryview) -> Iterator[tuple[Source, memoryview]]:
    """What each thread reads at a time, and where it goes."""
    for source, begin in reads:
        for start in range(0, source.nbytes, _READ_SIZE):
            nbytes = min(_READ_SIZE, source.nbytes - start)
            yield _part(source, start, nbytes), host[begin + start : begin + start + nbytes]


def _end(part: FileRange) -> tuple[Path, int]:
    return part.path, part.offset + part.nbytes
