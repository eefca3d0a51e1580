"""The digests of other tools (`hashbench.merkle.digest_format`), through a kernel and in bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from io import BytesIO
from math import gcd

import numpy as np

from hashbench.hashing.hasher import Hasher, Progress
from hashbench.hashing.opening import open_regular
from hashbench.hashing.salted import Salted
from hashbench.hashing.sources import ChangedWhileReadError, FileRange, Source, Stream, change
from hashbench.hashing.staging import PIECE_SIZE
from hashbench.kernels import CHUNK_SIZE_MULTIPLE, Buffer, Bytes, Kernel
from hashbench.merkle.digest_format import DigestFormat

_FEW = 256
"""Nodes of a piece that the host hashes in less time than a device takes to launch."""


class BlockDigester:
    """Makes the digests of one format. It keeps its memory from one call to the next.

    Where the format allows, nodes are hashed on the device too, and a small part of them comes back.

    Args:
        kernel: hashes, with the format's algorithm.
        digest_format: the format.
        piece_size: bytes read, copied and hashed at a time, at most, except that a piece has at least one block.

    Raises:
        ValueError: the kernel has another algorithm, or blocks of that size are not accepted for data in files.
    """

    def __init__(self, kernel: Kernel, digest_format: DigestFormat, piece_size: int = PIECE_SIZE) -> None:
        self._format = digest_format
        self._blocks = digest_format.blocks
        if kernel.algorithm.name != self._blocks.algorithm:
            raise ValueError(f"{digest_format.name} needs {self._blocks.algorithm}, not {kernel.algorithm.name}")
        self._kernel = kernel
        self._message = len(self._blocks.salt) + self._blocks.size
        # Messages with a salt may have any length, and pieces are whole messages.
        messages = CHUNK_SIZE_MULTIPLE // gcd(self._message, CHUNK_SIZE_MULTIPLE)
        self._hasher = Hasher(kernel, messages * self._message, piece_size)

    def digests(self, sources: Sequence[Source], progress: Progress | None = None) -> list[str]:
        """The digest of each source, as the format's own tool prints it.

        Args:
            sources: what to hash; with a salt, whole files, streams and bytes of the host alone.
            progress: is called with the bytes hashed so far and in total.

        Raises:
            DigestError: the format has no digest of a source of that size.
            OSError: a file or stream cannot be read; it names the file.
            ChangedWhileReadError: a file changed while it was read.
            OutOfDeviceMemory: the device has no room for one piece.
        """
        for source in sources:
            if source.nbytes is not None:
                self._format.check_size(source.nbytes)
        folds = [self._format.fold() for _ in sources]
        sizes = [0] * len(sources)
        with ExitStack() as stack:
            read = [self._salted(source, stack) for source in sources] if self._blocks.salt else sources
            for pieces, buffers in self._hasher.pieces(read, progress):
                level, nodes = self._nodes(buffers)
                done = 0
                for piece, buffer in zip(pieces, buffers, strict=True):
                    count = -(-piece.nbytes // self._message) if level == 0 else len(nodes)
                    of_piece = nodes[done : done + count].tobytes()
                    done += count
                    if rest := piece.nbytes % self._message if self._blocks.padded else 0:
                        of_piece = of_piece[: -self._kernel.algorithm.digest_size] + self._padded(buffer, rest)
                    folds[piece.source].add(of_piece, level)
                    sizes[piece.source] += piece.nbytes
            for number, source in enumerate(read):
                if isinstance(source, Salted):
                    sizes[number] = source.unsalted
        return [fold.digest(size) for fold, size in zip(folds, sizes, strict=True)]

    def _nodes(self, buffers: Sequence[Buffer]) -> tuple[int, Bytes]:
        """The nodes of the pieces, and their level: that of blocks for any but a single whole piece."""
        if self._message % CHUNK_SIZE_MULTIPLE:
            messages = [
                buffer[start : start + self._message]
                for buffer in buffers
                for start in range(0, buffer.nbytes, self._message)
            ]
            return 0, self._kernel.batched(messages)
        level, work = 0, self._kernel.prepare("batched", buffers, self._message)
        work.run()
        if self._blocks.arity and [buffer.nbytes for buffer in buffers] == [self._hasher.piece_size]:
            size = self._kernel.algorithm.digest_size
            group = self._blocks.arity * size
            while work.result().nbytes > _FEW * size and work.result().nbytes % group == 0:
                level, work = level + 1, self._kernel.prepare("batched", [work.result()], group)
                work.run()
        return level, work.digests()

    def _padded(self, buffer: Buffer, rest: int) -> bytes:
        """The digest of the last block of a buffer, `rest` bytes filled up with zeros."""
        block = self._kernel.get(buffer[buffer.nbytes - rest :]).tobytes().ljust(self._blocks.size, b"\0")
        return hashlib.new(self._blocks.algorithm, block).digest()

    def _salted(self, source: Source, stack: ExitStack) -> Salted:
        """The blocks of a source with their salts.

        Raises:
            TypeError: the source is not a whole file, a stream or bytes of the host.
        """
        if isinstance(source, FileRange):
            raw = stack.enter_context(open_regular(source.path))
            now = os.fstat(raw.fileno())
            if source.status and (how := change(source.status, now)):
                raise ChangedWhileReadError(f"{source.path}: the file {how} while it was read")
            whole = (source.offset, source.nbytes) == (0, now.st_size)
            stream = Stream(raw) if whole else None
        elif isinstance(source, np.ndarray):
            stream = Stream(BytesIO(source.data))
        else:
            stream = source if isinstance(source, Stream) else None
        if stream is None:
            raise TypeError("parts of a file are not accepted with a salt: whole files are")
        return Salted(stream, self._blocks.salt, self._blocks.size)
