"""What can be hashed: ranges of files, bytes in host memory, and streams."""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, TypeAlias

from hashbench.hashing.opening import open_regular
from hashbench.kernels import Bytes

_POLL_MILLISECONDS = 100  # how long a reader waits for a pipe before it checks whether it is still wanted


class ChangedWhileReadError(ValueError):
    """A file changed between its opening and its end, so that no digest describes it."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """A range of a file.

    Attributes:
        path: the file.
        offset: its first byte.
        nbytes: its length.
        status: the file's status when its size or header was read. The file must still have it when it is hashed; None
            accepts any.
    """

    path: Path
    offset: int
    nbytes: int
    status: os.stat_result | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class FileParts:
    """Parts of a file, joined: hashed as if they were one range.

    Attributes:
        path: the file.
        parts: offset and size of each part, in the order in which they are joined.
        status: as of a `FileRange`.
    """

    path: Path
    parts: tuple[tuple[int, int], ...]
    status: os.stat_result | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> int:
        """The size of all parts."""
        return sum(nbytes for _, nbytes in self.parts)


class Stream:
    """A binary stream from its current position to its end. It can be hashed once.

    Args:
        raw: has `readinto`. It stays open.

    Attributes:
        nbytes: the bytes left in a regular file; None where the length is unknown.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._before = _regular_file(raw)
        self.nbytes = max(0, self._before.st_size - raw.tell()) if self._before else None
        self._count = 0
        self._ended = False
        self._unwanted = Event()
        # A read from a pipe or terminal may block forever. Polling first makes it possible to give up.
        self._poll = None
        if isinstance(raw, io.FileIO) and self._before is None:
            self._poll = select.poll()
            self._poll.register(raw.fileno(), select.POLLIN)

    @property
    def statuses(self) -> Sequence[os.stat_result]:
        """Of the files that its bytes come from, as they were at first; none of a pipe."""
        return [self._before] if self._before else []

    def fill(self, host: memoryview) -> int:
        """Reads until `host` is full or the stream ends.

        Returns:
            The number of bytes read.

        Raises:
            OSError: the stream cannot be read.
            ChangedWhileReadError: it is a file, and has more bytes than it had.
        """
        filled = 0
        while filled < len(host) and not self._ended and not self._unwanted.is_set():
            if self._poll and not self._poll.poll(_POLL_MILLISECONDS):
                continue
            count = self._raw.readinto(host[filled:])
            if count is None:  # a non-blocking stream that has nothing yet
                continue
            filled += count
            self._ended = count == 0
        self._count += filled
        if self.nbytes and self._count > self.nbytes:  # a file of size 0 may be one of /proc, which has no size
            raise self._changed("grew")
        return filled

    def stop(self) -> None:
        """Ends a `fill` that runs in another thread."""
        self._unwanted.set()

    def check_unchanged(self) -> None:
        """Checks, after the end, that a file is still what it was.

        Raises:
            ChangedWhileReadError: it is not.
        """
        if self._before is None:
            return
        how = "shrank" if self._count < (self.nbytes or 0) else change(self._before, os.fstat(self._raw.fileno()))
        if how:
            raise self._changed(how)

    def _changed(self, how: str) -> ChangedWhileReadError:
        name = "-" if isinstance(self._raw.name, int) else os.fspath(self._raw.name)
        return ChangedWhileReadError(
            f"{name}: the file {how} while it was read: {self.nbytes} bytes at the start, {self._count} were read"
        )


Source: TypeAlias = FileRange | FileParts | Bytes | Stream
"""What is hashed as one message or tree; bytes in host memory are contiguous uint8."""


@contextmanager
def opened(source: str | os.PathLike[str] | BinaryIO | io.RawIOBase) -> Iterator[FileRange | Stream]:
    """A file or stream as a source.

    Args:
        source: a path, "-" for standard input, or a binary stream, which is hashed from its current position and stays
            open.

    Raises:
        OSError: the path cannot be opened, or is not a regular file.
    """
    if source == "-":
        yield Stream(io.FileIO(0, closefd=False))
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        with open_regular(path) as raw:
            status = _regular_file(raw)
            # Several threads read a range. A file without a size, as in /proc, must be read to find its end.
            yield FileRange(path, 0, status.st_size, status) if status and status.st_size else Stream(raw)
    else:
        yield Stream(source)


def change(before: os.stat_result, after: os.stat_result) -> str | None:
    """What happened to a file between two looks at it, as in "it grew"; None if nothing did."""
    if (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino):
        return "was replaced"
    if after.st_size != before.st_size:
        return "grew" if after.st_size > before.st_size else "shrank"
    # Whoever can write to a file can set its modification time, but not the time of its last change.
    same = (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    return None if same else "was changed"


def _regular_file(raw: Any) -> os.stat_result | None:
    """The status of the regular file whose bytes a stream gives; None for pipes, devices and decompressing streams."""
    if not isinstance(getattr(raw, "raw", raw), io.FileIO):
        return None
    status = os.fstat(raw.fileno())
    return status if stat.S_ISREG(status.st_mode) else None
