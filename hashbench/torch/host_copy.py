"""Copies of host memory that others may give back meanwhile, as by resizing a storage.

Reading memory that is no longer mapped ends the process. So the operating system copies it, into a file in memory: of
such memory that fails. The same holds for memory that is mapped from a file which has become shorter.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import weakref
from collections.abc import Sequence
from functools import cache

import numpy as np

from hashbench.kernels import Bytes

log = logging.getLogger("hashbench.torch.monitor")


@cache
def can_copy() -> bool:
    """Whether the system has files in memory."""
    try:
        os.close(os.memfd_create("hashbench"))
    except (OSError, AttributeError) as error:  # forbidden, or not Linux
        log.warning(
            "tensors in host memory are read in place, since the system makes no file in memory (%s): if memory is "
            "freed while it is read, the process ends",
            error,
        )
        return False
    return True


class HostCopy:
    """Memory that other memory is copied into.

    Args:
        nbytes: its size.

    Attributes:
        data: uint8, shape (nbytes,).

    Raises:
        OSError: the system makes no such file.
    """

    def __init__(self, nbytes: int) -> None:
        self._file = os.memfd_create("hashbench")
        weakref.finalize(self, os.close, self._file).atexit = False
        os.ftruncate(self._file, nbytes)
        self.data: Bytes = np.frombuffer(mmap.mmap(self._file, nbytes), np.uint8)

    def take(self, parts: Sequence[Bytes]) -> bool:
        """Copies memory, one part behind another.

        Args:
            parts: uint8, shape (n,) each, over memory that may no longer be there.

        Returns:
            Whether all of it could be read.

        Raises:
            OSError: there is no memory for the copy.
        """
        end = 0
        for part in parts:
            begin, end = end, end + part.size
            at = begin
            try:
                while at < end:
                    at += os.pwrite(self._file, part[at - begin :].data, at)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                return False
        return True
