"""Opens a file whose header is about to be read."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

_BUFFER = 1 << 16


@contextmanager
def opened(file: str | os.PathLike[str] | BinaryIO) -> Iterator[tuple[BinaryIO, os.stat_result | None]]:
    """Opens a path; passes a stream through.

    Args:
        file: A path, or a seekable, buffered stream over the whole file, which the caller closes.

    Yields:
        The stream, and the file's status before anything was read. A stream that was passed in has no status.

    Raises:
        OSError: The path cannot be opened, or is not a regular file. Opening a FIFO never waits for its writer.
    """
    if not isinstance(file, (str, os.PathLike)):
        yield file, None
        return
    with open(file, "rb", buffering=_BUFFER, opener=_open_without_waiting) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "Not a regular file", os.fspath(file))
        yield stream, status


def name_of(file: str | os.PathLike[str] | BinaryIO) -> str:
    """The name of a file for error messages."""
    return os.fspath(file) if isinstance(file, (str, os.PathLike)) else str(getattr(file, "name", "the stream"))


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
