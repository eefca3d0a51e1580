"""Reads past the page cache, of what it does not have.

The system would find pages for the bytes and copy them. A direct read brings them into memory of the process at once;
only its bounds in the file must be multiples of a block.
"""

from __future__ import annotations

import os
from mmap import mmap

import numpy as np

_BLOCK = 4096
"""Bytes: what a file system asks of the bounds of direct reads, or a multiple of it."""

_READ_SIZE = 4 << 20
"""Bytes of a read, of which each thread has one under way."""


def is_cached(descriptor: int, offset: int) -> bool:
    """Whether the page cache has the byte there. If the system does not say, it counts as cached."""
    if not hasattr(os, "RWF_NOWAIT"):
        return True
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # a file system in memory, for one, has no such reads
        return True
    return True


class DirectFile:
    """A file that is opened for direct reads, for one thread.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened, or not so.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_DIRECT)
        self._memory = memoryview(mmap(-1, _READ_SIZE))  # a mapping begins on a page

    def close(self) -> None:
        """Closes the file."""
        os.close(self.descriptor)

    def read(self, offset: int, target: memoryview) -> int:
        """Reads from there into `target`.

        Returns:
            How many bytes: fewer than asked for if the file ends before.

        Raises:
            OSError: it cannot be read, or not so.
        """
        into, pages = np.frombuffer(target, np.uint8), np.frombuffer(self._memory, np.uint8)  # copied without a lock
        end = offset + len(target)
        at = offset - offset % _BLOCK
        while at < end:
            count = os.preadv(self.descriptor, [self._memory[: min(_READ_SIZE, -(-(end - at) // _BLOCK) * _BLOCK)]], at)
            begin, stop = max(at, offset), min(at + count, end)
            if begin < stop:
                into[begin - offset : stop - offset] = pages[begin - at : stop - at]
            at += count
            if count % _BLOCK or not count:  # the end of the file
                return max(0, stop - offset)
        return len(target)
