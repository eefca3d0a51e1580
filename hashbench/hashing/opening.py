"""Opening files that others may have made: nothing is waited for."""

from __future__ import annotations

import errno
import io
import os
import stat
from functools import partial


def open_regular(path: str | os.PathLike[str], *, links: bool = True) -> io.FileIO:
    """Opens a regular file for reading, without a buffer.

    Pipes would wait for a writer, and devices may do anything when they are opened.

    Args:
        path: the file.
        links: whether `path` may be a link to it.

    Raises:
        OSError: the path cannot be opened, or is not a regular file. It names the path.
    """
    return io.FileIO(path, opener=partial(_open, links=links))


def read_regular(path: str | os.PathLike[str], max_size: int = -1, *, links: bool = True) -> bytes:
    """The first `max_size` bytes of a regular file, or all of it; `links` as for `open_regular`.

    Raises:
        OSError: it cannot be read, or is not a regular file. It names the path.
    """
    with io.BufferedReader(open_regular(path, links=links)) as file:
        return file.read(max_size)


def open_without_waiting(path: str, flags: int = 0) -> int:
    """Opens whatever is there for reading: a file that was replaced by a pipe must not hold a reader forever.

    Args:
        path: the file.
        flags: more than reading needs.

    Returns:
        The descriptor. Nothing was checked of it yet.

    Raises:
        OSError: the path cannot be opened, or not so.
    """
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)


def _open(path: str | os.PathLike[str], flags: int, *, links: bool) -> int:
    _check_regular(os.stat(path, follow_symlinks=links), path)  # noqa: PTH116  # of many thousand files
    # Another file may have its name by now.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | (0 if links else os.O_NOFOLLOW))
    try:
        _check_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
