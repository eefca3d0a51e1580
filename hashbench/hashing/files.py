"""Files and streams of any size, hashed in bounded memory: read, copied to the device and hashed piece by piece.

A piece is a complete subtree: its root is found on the device, and the roots of all pieces fold to the file's root.
"""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import repeat
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from hashbench.hashing.progress import Progress
from hashbench.hashing.staging import PIECE_SIZE, Staging
from hashbench.kernels import Buffer, Bytes, Kernel
from hashbench.merkle.rfc9162 import root_of

_POLL_MILLISECONDS = 100  # how long a reader waits for a pipe before it looks whether it is still wanted

Source = str | os.PathLike[str] | BinaryIO | io.RawIOBase


class ChangedWhileReadError(ValueError):
    """A file shrank, grew or was written to between its opening and its end, so that no digest describes it."""


def open_source(source: Source) -> AbstractContextManager[Any]:
    """The binary stream of a path, of standard input where the path is "-", or of a stream as it is.

    A stream that was passed in is left open. What is opened here has no buffer: pieces are read straight to where they
    belong.

    Raises:
        OSError: the path cannot be opened; it is a directory, or there is nothing.
    """
    if source == "-":
        return nullcontext(io.FileIO(0, closefd=False))
    if isinstance(source, (str, os.PathLike)):
        return Path(source).open("rb", buffering=0)
    return nullcontext(source)


def size_of(stream: Any) -> int | None:
    """The bytes left in a stream over a regular file; None for any other."""
    status = _regular_file(stream)
    return max(0, status.st_size - stream.tell()) if status else None


def change(before: os.stat_result, after: os.stat_result) -> str | None:
    """What happened to a file between two looks at it, as in "it grew"; None where nothing did."""
    if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
        return "was replaced"
    if after.st_size != before.st_size:
        return "grew" if after.st_size > before.st_size else "shrank"
    return None if after.st_mtime_ns == before.st_mtime_ns else "was written to"


class FileHasher:
    """Hashes files and streams with one kernel. Its memory is kept from one to the next.

    Host memory stays below 1 GiB whatever the file's size, and stages take at most half of what is free on the device.

    Args:
        kernel: what hashes.
        chunk_size: bytes of a leaf or message, a multiple of 64 up to 256 MiB; the last may be short.
        piece_size: bytes read, copied and hashed in one go, at most, except that a piece is at least one chunk.
        staging: memory of the same kernel and chunk size that is there already, to be used in place of its own.

    Raises:
        TypeError, ValueError: `chunk_size` is not accepted.
    """

    def __init__(
        self, kernel: Kernel, chunk_size: int, piece_size: int = PIECE_SIZE, staging: Staging | None = None
    ) -> None:
        self.kernel = kernel
        self.chunk_size = chunk_size
        self._staging = staging or Staging(kernel, chunk_size, piece_size)

    @property
    def piece_size(self) -> int:
        """Bytes of every piece but a file's last: chunk_size * 2^k."""
        return self._staging.piece_size

    def root(self, source: Source, progress: Progress = lambda nbytes: None) -> bytes:
        """The Merkle Tree Hash (RFC 9162 section 2.1.1) of a file, H("") where it is empty.

        Args:
            source: a path, "-" for standard input, or a binary stream with `readinto`, read from where it stands.
            progress: is told the bytes of each piece when it has been hashed.

        Raises:
            OSError: it cannot be read.
            ChangedWhileReadError: it changed meanwhile.
            OutOfDeviceMemory: the device has no room for one piece.
        """
        roots = []
        with open_source(source) as stream, closing(self._pieces(stream)) as pieces:
            for piece in pieces:
                roots.append(self.kernel.tree([piece], self.chunk_size).tobytes())
                progress(len(piece))
        return root_of(roots, self.kernel.algorithm.name)

    def digests(self, source: Source, progress: Progress = lambda nbytes: None) -> Iterator[tuple[int, Bytes]]:
        """H(chunk) of every chunk of a file, a piece at a time.

        Yields the piece's bytes, and its digests: uint8, shape (chunks of the piece, digest size).

        Whether the file changed shows at its end: until then the digests are not to be relied on. Arguments and errors
        are those of `root`.
        """
        with open_source(source) as stream, closing(self._pieces(stream)) as pieces:
            for piece in pieces:
                yield len(piece), self.kernel.batched([piece], self.chunk_size)
                progress(len(piece))

    def _pieces(self, stream: Any) -> Generator[Buffer, None, None]:
        """The stream's pieces on the device, each valid until the next is asked for."""
        reading = _Reading(stream)
        at_most = None if reading.size is None else -(-reading.size // self.piece_size)
        with closing(self._staging.stream(repeat(reading.fill), reading.stop, at_most)) as pieces:
            yield from pieces
        reading.check_unchanged()


class _Reading:
    """One stream from where it stands to its end, and what would show that it changed meanwhile."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._before = _regular_file(stream)
        self.size = size_of(stream)  # 0 also where the system makes a file up as it is read, as in /proc
        self._count = 0
        self._ended = False
        self._unwanted = Event()
        # A read from a pipe or a terminal may wait for ever; one that is waited for beforehand can be given up.
        self._waiter = None
        if isinstance(stream, io.FileIO) and self._before is None:
            self._waiter = select.poll()
            self._waiter.register(stream.fileno(), select.POLLIN)

    def fill(self, host: memoryview) -> int:
        """Reads until `host` is full or the stream ends, and returns the bytes read.

        Raises:
            OSError: the stream cannot be read.
            ChangedWhileReadError: there are more bytes than there were.
        """
        filled = 0
        while filled < len(host) and not self._ended and not self._unwanted.is_set():
            if self._waiter and not self._waiter.poll(_POLL_MILLISECONDS):
                continue
            count = self._stream.readinto(host[filled:])
            if count is None:  # the stream does not block, and has nothing yet
                continue
            filled += count
            self._ended = count == 0
        self._count += filled
        if self.size and self._count > self.size:
            raise self._changed("grew")
        return filled

    def stop(self) -> None:
        """Ends a `fill` that is under way in another thread."""
        self._unwanted.set()

    def check_unchanged(self) -> None:
        """Checks, at the end, that what was read is what the file was and still is.

        Raises:
            ChangedWhileReadError: it is not.
        """
        if self._before is None:
            return
        how = "shrank" if self._count < (self.size or 0) else change(self._before, os.fstat(self._stream.fileno()))
        if how:
            raise self._changed(how)

    def _changed(self, how: str) -> ChangedWhileReadError:
        name = self._stream.name
        return ChangedWhileReadError(
            f"{'-' if isinstance(name, int) else os.fspath(name)}: the file {how} while it was read: "
            f"{self.size} bytes at the start, {self._count} were read"
        )


def _regular_file(stream: Any) -> os.stat_result | None:
    """The status of the regular file whose bytes the stream gives; None for pipes, devices and unpacked streams."""
    if not isinstance(getattr(stream, "raw", stream), io.FileIO):
        return None
    status = os.fstat(stream.fileno())
    return status if stat.S_ISREG(status.st_mode) else None
