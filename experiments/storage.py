"""Folders for files that are to be read, in memory or on a disk, and files of random bytes in them."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import psutil

from hashbench.hashing.sizes import format_size

SHARED_MEMORY = Path("/dev/shm")
"""Where Linux offers files in memory."""

IN_MEMORY = ("tmpfs", "ramfs")
"""Types of file systems that have no disk."""

_PIECE = 64 << 20  # bytes made and written at a time


class StorageUnavailable(Exception):
    """There is no such storage, or no room in it; the message says which, on one line."""


@dataclass(frozen=True)
class Storage:
    """A folder for files that are to be hashed.

    Attributes:
        folder: an empty one.
        place: where the files lie, as conditions say it.
        note: what a reader must know where that is not memory.
    """

    folder: Path
    place: str
    note: str = ""


@contextmanager
def in_memory(nbytes: int) -> Iterator[Storage]:
    """A folder in memory with room for `nbytes`; it is gone at the end.

    Raises:
        StorageUnavailable: the machine has no such storage, or no such room there.
    """
    if not _has_room(SHARED_MEMORY, nbytes):
        raise StorageUnavailable(f"memory-backed storage has no room for {format_size(nbytes)}")
    with _temporary_folder(SHARED_MEMORY) as folder:
        yield Storage(folder, "memory")


@contextmanager
def on_disk(nbytes: int) -> Iterator[Storage]:
    """A folder where temporary files go, with room for `nbytes`; it is gone at the end.

    Raises:
        StorageUnavailable: temporary files go to memory, or there is no such room.
    """
    root = Path(tempfile.gettempdir())
    kind = file_system(root)
    if kind in IN_MEMORY:
        raise StorageUnavailable("temporary files go to memory here, not to a disk")
    if not os.access(root, os.W_OK) or shutil.disk_usage(root).free < nbytes:
        raise StorageUnavailable(f"the temporary folder has no room for {format_size(nbytes)}")
    with _temporary_folder(root) as folder:
        yield Storage(folder, f"a disk ({kind})")


@contextmanager
def in_memory_or_elsewhere(nbytes: int) -> Iterator[Storage]:
    """A folder with room for `nbytes`, in memory where the machine has such storage, else where temporary files go; it
    is gone at the end.

    Raises:
        StorageUnavailable: there is no such room.
    """
    found = next((root for root in (SHARED_MEMORY, Path(tempfile.gettempdir())) if _has_room(root, nbytes)), None)
    if found is None:
        raise StorageUnavailable(
            f"neither memory-backed storage nor the temporary folder has room for {format_size(nbytes)}"
        )
    kind = file_system(found)
    with _temporary_folder(found) as folder:
        if kind in IN_MEMORY:
            yield Storage(folder, "memory")
        else:
            note = f"The file lies on {kind}, not in memory; it was read before timing."
            yield Storage(folder, f"a file system of type {kind}", note)


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` is on."""
    types = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    return next((types[parent] for parent in (place, *place.parents) if parent in types), "unknown type")


def write_random(path: Path, nbytes: int, seed: int) -> None:
    """Writes a file of `nbytes` random bytes.

    Raises:
        StorageUnavailable: they cannot be written.
    """
    random = np.random.default_rng(seed)
    try:
        with path.open("wb") as file:
            for start in range(0, nbytes, _PIECE):
                file.write(random.bytes(min(_PIECE, nbytes - start)))
    except OSError as error:
        raise StorageUnavailable(f"a file of {format_size(nbytes)} cannot be written: {error.strerror}") from None


def leave_page_cache(path: Path) -> bool:
    """Has the system forget what it holds of a file in memory, so that the next read is one of the disk.

    Returns:
        Whether it holds no page of the file any more, as mincore(2) says; False where that cannot be asked.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # only what was written to the disk can be forgotten
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return _resident_pages(path) == 0


def _resident_pages(path: Path) -> int | None:
    """Pages of a file that are in memory; None where the system does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    pages = np.empty(-(-mapped.size // PAGESIZE), dtype=np.uint8)
    status = libc.mincore(ctypes.c_void_p(mapped.ctypes.data), ctypes.c_size_t(mapped.size), pages.ctypes)
    return None if status else int((pages & 1).sum())


def _has_room(root: Path, nbytes: int) -> bool:
    if root == SHARED_MEMORY and file_system(root) != "tmpfs":
        return False
    room = min(shutil.disk_usage(root).free, psutil.virtual_memory().available // 2)
    return os.access(root, os.W_OK) and room >= nbytes


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hashbench-", dir=root) as folder:
        yield Path(folder)
