"""Memory in large pages: a system that brings it page by page brings 2 MiB at a time, contiguous in the machine."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import suppress

import numpy as np

from hashbench.kernels import Bytes

_SIZE = 2 << 20  # bytes, on x86-64, and on Arm with usual pages of 4 KiB

_WIPE_ON_FORK = 18  # MADV_WIPEONFORK of Linux, which Python's mmap does not name


def large_pages(nbytes: int) -> memoryview:
    """Memory for direct reads, which begins on a large page, and is made of them if the system has some.

    A disk brings what is read by ranges that are contiguous in the machine, and pages of 4 KiB may be scattered. On a
    virtual machine the same disk made 1.4 to 1.8 GB/s into such pages and 3.6 into large ones, with any number of
    threads.
    """
    # What is private may have large pages where what could be shared has none. But a fork during a direct read would
    # leave its bytes to parent or child (open(2), notes), so the child gets none of these pages.
    mapped = mmap.mmap(-1, nbytes + _SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        for advice in (mmap.MADV_HUGEPAGE, _WIPE_ON_FORK):
            with suppress(OSError):  # the system has no large pages, or is older than Linux 4.14
                mapped.madvise(advice)
    begin = -np.frombuffer(mapped, np.uint8).ctypes.data % _SIZE
    return memoryview(mapped)[begin : begin + nbytes]


def ask_for_large_pages(memory: Bytes) -> None:
    """Asks the system to make large pages of memory that nothing was written to yet, as far as it has whole ones."""
    begin = -(-memory.ctypes.data // _SIZE) * _SIZE
    end = (memory.ctypes.data + memory.nbytes) // _SIZE * _SIZE
    if hasattr(mmap, "MADV_HUGEPAGE") and begin < end:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_HUGEPAGE)
