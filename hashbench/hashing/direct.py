"""Reads past the page cache, of what it does not have.

The system would find pages for the bytes and copy them. A direct read brings them into memory of the process at once;
only its bounds in the file must be multiples of a block.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hashbench.hashing.large_pages import large_pages
from hashbench.hashing.opening import open_without_waiting
from hashbench.kernels import PAGE

_READ_SIZE = 4 << 20
"""Bytes of a read, of which each thread has one under way."""


def is_cached(descriptor: int, offset: int) -> bool:
    """Whether the page cache has the byte there. If the system does not say, it counts as cached.

    To ask by a read that must not wait (RWF_NOWAIT) would bring the page in.
    """
    pages = cached_pages(descriptor, offset, 1)
    return pages is None or bool(pages[0])


def cached_pages(descriptor: int, offset: int, nbytes: int) -> npt.NDArray[np.bool_] | None:
    """Whether each of the pages that have a range of a file is in the page cache, by mincore(2); None if the system
    does not say. Linux calls all pages cached to whoever may neither write to the file nor owns it."""
    before = offset % mmap.ALLOCATIONGRANULARITY
    try:
        view = mmap.mmap(descriptor, before + nbytes, offset=offset - before, access=mmap.ACCESS_READ)
        mapped = np.frombuffer(view, np.uint8)
        mincore = ctypes.CDLL(None).mincore
    except (OSError, ValueError, AttributeError):  # files that cannot be mapped, as empty ones, and other systems
        return None
    pages = np.empty(-(-mapped.size // mmap.PAGESIZE), np.uint8)
    status = mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.size), pages.ctypes)
    return None if status else (pages[before // mmap.PAGESIZE :] & 1).astype(bool)


def open_directly(path: str) -> int:
    """Opens a file for direct reads. Returns its descriptor.

    Raises:
        OSError: it cannot be opened, or not so.
    """
    if not hasattr(os, "O_DIRECT"):
        raise OSError(errno.ENOTSUP, "the system has no direct reads", path)
    return open_without_waiting(path, os.O_DIRECT)


class DirectFile:
    """A file that is opened for direct reads, for one thread.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be opened, or not so.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = open_directly(path)

    @cached_property
    def _pages(self) -> memoryview:
        return large_pages(_READ_SIZE)

    def close(self) -> None:
        """Closes the file."""
        os.close(self.descriptor)

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
            count = self._read_pages(offset + filled, nbytes)
            into[filled : filled + count] = pages[skipped : skipped + count]
            filled += count
            if count < nbytes:
                break
        return filled

    def _read_pages(self, offset: int, nbytes: int) -> int:
        """Reads the pages of the file that have a range, of which the bytes then begin at `offset % PAGE` of `_pages`.

        Returns:
            How many bytes of the range were read: fewer than asked for if the file ends before.
        """
        skipped = offset % PAGE
        whole = -(-(skipped + nbytes) // PAGE) * PAGE
        filled = 0
        while filled < whole:
            count = os.preadv(self.descriptor, [self._pages[filled:whole]], offset - skipped + filled)
            filled += count
            if count % PAGE or not count:  # the end of the file
                break
        return max(0, min(nbytes, filled - skipped))
