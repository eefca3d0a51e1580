"""Files, ranges of files, streams and bytes in host memory, hashed in bounded memory.

They are read, copied to the device and hashed piece by piece. A piece is a complete subtree: its root is computed on
the device, and the roots of a source's pieces fold to its root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import BinaryIO

from hashbench.hashing.reading import Piece, Reader, StagePlan, plan
from hashbench.hashing.selection import kernel_for
from hashbench.hashing.sources import FileParts, FileRange, Source, Stream, opened
from hashbench.hashing.staging import PIECE_SIZE, Staging
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import Buffer, Bytes, Kernel, Work
from hashbench.merkle.rfc9162 import root_of

Progress = Callable[[int, int | None], object]
"""Is called with the bytes hashed so far and the bytes in total, which are None where a stream's length is unknown."""

_SMALLEST_PIECE = 1 << 20  # bytes to which pieces are made smaller, for a stage to take from more files at once
_STAGES_FILLED = 2  # at once: while a stage's last reads are under way, the other threads go on with the next
_STAGES_CARRIED = 3  # likewise; none is filled in host memory and waits to be copied


@dataclass(frozen=True)
class ChunkHashes:
    """The hashes of the chunks of a piece of one source.

    Attributes:
        source: the source's index.
        first: the piece's first chunk, counted from 0 in the source.
        nbytes: the piece's length.
        hashes: leaf hashes or plain digests: uint8, shape (chunks of the piece, digest size).
    """

    source: int
    first: int
    nbytes: int
    hashes: Bytes


class Hasher:
    """Hashes sources with one kernel. It keeps its memory from one call to the next.

    Whatever the size of the sources, host memory stays below 1 GiB, apart from a root for each piece, and stages take
    at most half of what is free on the device.

    Args:
        kernel: hashes.
        chunk_size: bytes of a leaf or message, a multiple of 64 up to 256 MiB; the last of a source may be short.
        piece_size: bytes read, copied and hashed at a time, at most, except that a piece has at least one chunk.

    Attributes:
        piece_size: bytes of every piece but the last of a source: chunk_size * 2^k.

    Raises:
        TypeError, ValueError: `chunk_size` is not accepted.
    """

    def __init__(self, kernel: Kernel, chunk_size: int, piece_size: int = PIECE_SIZE) -> None:
        self.kernel = kernel
        self.chunk_size = chunk_size
        self._staging = Staging(kernel, chunk_size, piece_size)
        self.piece_size = self._staging.piece_size
        self._prepared: dict[tuple[int, int], tuple[Work, Buffer]] = {}  # a place is its buffer's while that is kept

    def roots(
        self,
        sources: Sequence[Source],
        progress: Progress | None = None,
        on_leaves: Callable[[ChunkHashes], object] | None = None,
        failed: dict[str, OSError] | None = None,
        whole: WholeFiles | None = None,
    ) -> list[bytes]:
        """The Merkle Tree Hash (RFC 9162 section 2.1.1) of each source.

        Args:
            sources: what to hash.
            progress: is called at the start, and whenever more is hashed.
            on_leaves: is called with what `leaves` yields, from the same reading.
            failed: takes the error of each file that cannot be read, by its path; all others are hashed even so.
            whole: files whose SHA-256 is made from the same reading.

        Returns:
            A root for each source, in their order; H("") for empty ones, and no bytes for those in `failed`.

        Raises:
            OSError: a stream cannot be read, or a file, and there is no `failed`; it names the file.
            ChangedWhileReadError: a file is not what its status says, changed meanwhile, or is shorter than a range.
            OutOfDeviceMemory: the device has no room for one piece.
        """
        of_pieces: list[list[bytes]] = [[] for _ in sources]
        for number, root in self._roots_of_pieces(sources, progress, on_leaves, failed, whole):
            of_pieces[number].append(root)
        roots = [root_of(nodes, self.kernel.algorithm.name) for nodes in of_pieces]
        if failed:
            for number, source in enumerate(sources):
                if isinstance(source, (FileRange, FileParts)) and os.fspath(source.path) in failed:
                    roots[number] = b""
        return roots

    def _roots_of_pieces(
        self,
        sources: Sequence[Source],
        progress: Progress | None,
        on_leaves: Callable[[ChunkHashes], object] | None,
        failed: dict[str, OSError] | None,
        whole: WholeFiles | None,
    ) -> Iterator[tuple[int, bytes]]:
        """The index of a source and the root of a piece, for each piece; those of one source come in order."""
        for pieces, buffers in self.pieces(sources, progress, failed, whole):
            for piece, root in zip(pieces, self._tree(buffers), strict=True):
                yield piece.source, root.tobytes()
            if on_leaves:
                # The chunks are hashed a second time: to fold millions of leaves in Python would take far longer.
                for leaves in self._split(pieces, self.kernel.leaves(buffers, self.chunk_size)):
                    on_leaves(leaves)

    def _tree(self, buffers: Sequence[Buffer]) -> Bytes:
        """The roots of a stage's pieces. A piece that fills its stage is hashed as the one before it there was."""
        if len(buffers) > 1 or buffers[0].nbytes < self.piece_size:
            return self.kernel.tree(buffers, self.chunk_size)
        buffer = buffers[0]
        place = id(buffer.owner), buffer.address
        if place not in self._prepared:
            self._prepared[place] = self.kernel.prepare("tree", buffers, self.chunk_size), buffer
        work, _ = self._prepared[place]
        work.run()
        return work.digests()

    def leaves(self, sources: Sequence[Source], progress: Progress | None = None) -> Iterator[ChunkHashes]:
        """The leaf hashes H(0x00 || chunk) of each source, a piece at a time; an empty source has none.

        The pieces of one source come in order, the sources in any order. Arguments and errors are those of `roots`.
        Whether a file changed is known only at the end: do not rely on the hashes before.
        """
        for pieces, buffers in self.pieces(sources, progress):
            yield from self._split(pieces, self.kernel.leaves(buffers, self.chunk_size))

    def digests(self, sources: Sequence[Source], progress: Progress | None = None) -> Iterator[ChunkHashes]:
        """The plain digests H(chunk) of each source, otherwise as `leaves`."""
        for pieces, buffers in self.pieces(sources, progress):
            yield from self._split(pieces, self.kernel.batched(buffers, self.chunk_size))

    def _split(self, pieces: Sequence[Piece], hashes: Bytes) -> Iterator[ChunkHashes]:
        """The hashes of each piece's chunks, out of those of all pieces."""
        begin = 0
        for piece in pieces:
            end = begin + -(-piece.nbytes // self.chunk_size)
            yield ChunkHashes(piece.source, piece.start // self.chunk_size, piece.nbytes, hashes[begin:end])
            begin = end

    def pieces(
        self,
        sources: Sequence[Source],
        progress: Progress | None = None,
        failed: dict[str, OSError] | None = None,
        whole: WholeFiles | None = None,
    ) -> Generator[tuple[Sequence[Piece], list[Buffer]], None, None]:
        """The pieces of each stage and their bytes on the device, valid until the next stage is asked for."""
        done, total = 0, _total(sources)
        if progress:
            progress(0, total)
        for pieces, buffers in self._staged(sources, failed, whole):
            yield pieces, buffers
            done += sum(map(len, buffers))
            if progress:
                progress(done, total)

    def _staged(
        self, sources: Sequence[Source], failed: dict[str, OSError] | None, whole: WholeFiles | None
    ) -> Iterator[tuple[Sequence[Piece], list[Buffer]]]:
        plans = self._plan(sources, whole.lanes if whole else 1)
        with Reader(sources, failed) as reader:
            with closing(self._filled(plans, reader, whole)) as filled:
                for stage, data in zip(plans, filled, strict=True):
                    yield stage.pieces, [data[piece.place : piece.place + piece.nbytes] for piece in stage.pieces]
            reader.check_unchanged()
            if whole:
                whole.fail(failed or {})

        for number, source in enumerate(sources):
            if not isinstance(source, Stream):
                continue
            at_most = None if source.nbytes is None else max(1, -(-source.nbytes // self.piece_size))
            with closing(self._staging.stream(repeat(source.fill), source.stop, at_most)) as filled:
                start = 0
                for data in filled:
                    yield [Piece(number, start, 0, len(data))], [data]
                    start += len(data)
            source.check_unchanged()

    def _filled(
        self, plans: Sequence[StagePlan], reader: Reader, whole: WholeFiles | None
    ) -> Generator[Buffer, None, None]:
        """The bytes of each stage on the device: by lanes, unless somebody else uses them in host memory."""
        staging, lanes = self._staging, self._staging.lanes
        if whole or not plans or not lanes.exist():
            fills = (partial(reader.fill, stage) for stage in plans)
            with (whole or WholeFiles({})).following(plans) as follows:
                yield from staging.stream(fills, reader.stop, len(plans), at_once=_STAGES_FILLED, follows=follows)
        else:
            carries = (partial(reader.carry, stage, lanes) for stage in plans)
            yield from staging.carried(carries, reader.stop, len(plans), at_once=_STAGES_CARRIED)

    def _plan(self, sources: Sequence[Source], lanes: int) -> list[StagePlan]:
        """Stages that take from as many files at once, if they have room for pieces of all of them."""
        piece_size = self.piece_size
        while piece_size * lanes > self.piece_size and piece_size // 2 >= max(self.chunk_size, _SMALLEST_PIECE):
            piece_size //= 2
        return plan(sources, piece_size, min(lanes, self.piece_size // piece_size))


def hash_file(
    source: str | os.PathLike[str] | BinaryIO,
    *,
    algorithm: str = "sha256",
    chunk_size: int = 4096,
    kernel: str | Kernel | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> bytes:
    """The root of a file's Merkle tree (RFC 9162 section 2.1.1).

    Args:
        source: a path, "-" for standard input, or a binary stream, which is hashed from its current position and stays
            open.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a multiple of 64 up to 256 MiB; the last may be short.
        kernel: a kernel of that algorithm, or the name of one; None takes the fastest available.
        device: a device id, as `hashbench devices` lists them; None takes the fastest available.
        progress: is called with the bytes hashed so far and in total, which are None where the length is unknown.

    Returns:
        The root, H("") if the file is empty.

    Raises:
        OSError: it cannot be read.
        ChangedWhileReadError: it changed while it was read.
        TypeError, ValueError: an argument is not accepted.
        Unavailable: the kernel or device cannot be used.
        OutOfDeviceMemory: the device has no room for one piece of the file.
    """
    with opened(source) as found:
        hasher = Hasher(kernel_for(kernel, device, algorithm, found.nbytes), chunk_size)
        return hasher.roots([found], progress)[0]


def _total(sources: Sequence[Source]) -> int | None:
    sizes = [source.nbytes for source in sources]
    return None if None in sizes else sum(filter(None, sizes))
