"""Reads past the page cache, of what it does not have.

The system would find pages for the bytes and copy them. A direct read brings them into memory of the process at once;
only its bounds in the file must be multiples of a block.
"""

from __future__ import annotations

import os
from functools import cached_property
from mmap import mmap

import numpy as np

PAGE = 4096
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

    @cached_property
    def _pages(self) -> memoryview:
        return memoryview(mmap(-1, _READ_SIZE))  # a mapping begins on a page

    def close(self) -> None:
        """Closes the file."""
        os.close(self.descriptor)

    def read_pages(self, offset: int, nbytes: int, pages: memoryview) -> int:
        """Reads the pages of the file that have a range into memory that begins on a page and has room for them.

        Returns:
            How many bytes of the range were read: fewer than asked for if the file ends before. They begin at
            `offset % PAGE` of the memory.

        Raises:
            OSError: it cannot be read, or not so.
        """
        skipped = offset % PAGE
        whole = -(-(skipped + nbytes) // PAGE) * PAGE
        filled = 0
        while filled < whole:
            count = os.preadv(self.descriptor, [pages[filled:whole]], offset - skipped + filled)
            filled += count
            if count % PAGE or not count:  # the end of the file
                break
        return max(0, min(nbytes, filled - skipped))

    def read(self, offset: int, target: memoryview) -> int:
        """Reads from there into `target`, wherever that is in memory.

        Returns:
            How many bytes: fewer than asked for if the file ends before.

        Raises:
            OSError: it cannot be read, or not so.
        """
        into, pages = np.frombuffer(target, np.uint8), np.frombuffer(self._pages, np.uint8)  # copied without a lock
        filled = 0
        while filled < len(target):
            skipped = (offset + filled) % PAGE
            nbytes = min(_READ_SIZE - skipped, len(target) - filled)
            count = self.read_pages(offset + filled, nbytes, self._pages)
            into[filled : filled + count] = pages[skipped : skipped + count]
            filled += count
            if count < nbytes:
                break
        return filled
