"""Opens a file whose header is about to be read."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from hashbench.hashing.opening import open_regular

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
    with io.BufferedReader(open_regular(file), _BUFFER) as stream:
        yield stream, os.fstat(stream.fileno())


def name_of(file: str | os.PathLike[str] | BinaryIO) -> str:
    """The name of a file for error messages."""
    return os.fspath(file) if isinstance(file, (str, os.PathLike)) else str(getattr(file, "name", "the stream"))
