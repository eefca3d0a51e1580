"""Files that Linux protects with fs-verity, and the digest that it checks every read of one against."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import struct

_MEASURE_VERITY = 0xC0046686  # FS_IOC_MEASURE_VERITY of linux/fsverity.h: _IOWR('f', 134, struct fsverity_digest)
_HEADER = struct.Struct("=HH")  # struct fsverity_digest: digest_algorithm, digest_size; the digest follows
_MAX_DIGEST = 64
_ALGORITHMS = {1: "sha256", 2: "sha512"}

_MAGIC = {0xEF53: "ext4", 0xF2F52010: "f2fs", 0x9123683E: "btrfs"}
"""The file systems in which the kernel itself answers. Others, such as FUSE, may answer what they like."""

_STATFS_SIZE = 256  # bytes, more than any struct statfs has; its first field is a long, f_type


class NotProtected(Exception):
    """The kernel does not check reads of a file with fs-verity; the message says why."""


class NotSupported(NotProtected):
    """No file of that file system can be protected."""


def measured(descriptor: int) -> str:
    """The digest that the kernel checks every read of an open file against, as `fsverity measure` prints it.

    No byte of the file is read.

    Raises:
        NotProtected: it checks against none.
        OSError: the kernel refuses to tell.
    """
    if _file_system(descriptor) not in _MAGIC:
        raise NotSupported(f"its file system has no fs-verity: {', '.join(_MAGIC.values())} have")
    answer = bytearray(_HEADER.pack(0, _MAX_DIGEST) + bytes(_MAX_DIGEST))
    try:
        fcntl.ioctl(descriptor, _MEASURE_VERITY, answer)
    except OSError as error:
        if error.errno == errno.ENODATA:
            raise NotProtected("fs-verity is not enabled for it") from None
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise NotSupported("its file system, or this kernel, has fs-verity turned off") from None
        raise
    algorithm, size = _HEADER.unpack_from(answer)
    digest = answer[_HEADER.size : _HEADER.size + size]
    return f"{_ALGORITHMS.get(algorithm, f'algorithm-{algorithm}')}:{digest.hex()}"


def _file_system(descriptor: int) -> int:
    """The magic number of an open file's file system."""
    status = ctypes.create_string_buffer(_STATFS_SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs(descriptor, status):
        raise OSError(ctypes.get_errno(), "its file system cannot be determined")
    return ctypes.c_ulong.from_buffer(status).value & 0xFFFFFFFF
