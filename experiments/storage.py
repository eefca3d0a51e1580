"""Temporary folders in memory or on a disk, and files of random bytes in them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from hashbench.hashing.direct import cached_pages
from hashbench.hashing.sizes import format_size
from hashbench.kernels import Kernel

SHARED_MEMORY = Path("/dev/shm")
"""Linux's folder for files in memory."""

IN_MEMORY = ("tmpfs", "ramfs")
"""Types of file systems without a disk."""

_PIECE = 64 << 20  # bytes written at a time
_DEVICE_PIECE = 128 << 20  # random bytes that a device makes at a time
_WRITERS = 8  # threads: one writes to memory at 1.5 GB/s


class StorageUnavailable(Exception):
    """There is no such storage, or no room in it. The message says which, on one line."""


@dataclass(frozen=True)
class Storage:
    """A temporary folder for files to hash.

    Attributes:
        folder: the folder, empty at first.
        place: where the files are, in the words of a reading's `storage`.
        note: what a reader needs to know if that is not memory.
    """

    folder: Path
    place: str
    note: str = ""


@contextmanager
def in_memory(nbytes: int) -> Iterator[Storage]:
    """A folder in memory with room for `nbytes`; it is deleted at the end.

    Raises:
        StorageUnavailable: the machine has no such storage, or no room in it.
    """
    if not _has_room(SHARED_MEMORY, nbytes):
        raise StorageUnavailable(f"memory-backed storage has no room for {format_size(nbytes)}")
    with _temporary_folder(SHARED_MEMORY) as folder:
        yield Storage(folder, "memory")


@contextmanager
def on_disk(nbytes: int) -> Iterator[Storage]:
    """A folder on the disk of temporary files, with room for `nbytes`; it is deleted at the end.

    Raises:
        StorageUnavailable: temporary files are in memory, or there is no room.
    """
    root = Path(tempfile.gettempdir())
    kind = file_system(root)
    if kind in IN_MEMORY:
        raise StorageUnavailable("temporary files are in memory here, not on a disk")
    if not os.access(root, os.W_OK) or shutil.disk_usage(root).free < nbytes:
        raise StorageUnavailable(f"the temporary folder has no room for {format_size(nbytes)}")
    with _temporary_folder(root) as folder:
        yield Storage(folder, f"a disk ({kind})")


@contextmanager
def in_memory_or_elsewhere(nbytes: int) -> Iterator[Storage]:
    """A folder with room for `nbytes`, in memory if the machine has such storage, else with temporary files; it
    is deleted at the end.

    Raises:
        StorageUnavailable: there is no room.
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
            note = f"The file is on {kind}, not in memory; it was read before timing."
            yield Storage(folder, f"a file system of type {kind}", note)


def file_system(folder: Path) -> str:
    """The type of the file system of `folder`."""
    types = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    place = folder.resolve()
    return next((types[parent] for parent in (place, *place.parents) if parent in types), "unknown type")


def write_random(path: Path, nbytes: int, seed: int) -> None:
    """Writes a file of `nbytes` random bytes.

    Raises:
        StorageUnavailable: the file cannot be written.
    """
    random = np.random.default_rng(seed)
    try:
        with path.open("wb") as file:
            for start in range(0, nbytes, _PIECE):
                file.write(random.bytes(min(_PIECE, nbytes - start)))
    except OSError as error:
        raise StorageUnavailable(f"a file of {format_size(nbytes)} cannot be written: {error.strerror}") from None


def random_pieces(kernel: Kernel, nbytes: int, seed: int, offset: int = 0) -> Iterator[tuple[int, memoryview]]:
    """Random bytes that a kernel makes, for `write_pieces`.

    Args:
        kernel: makes them on its device.
        nbytes: how many.
        seed: of the first piece.
        offset: of the first byte in the file.
    """
    for start in range(0, nbytes, _DEVICE_PIECE):
        made = kernel.random(min(_DEVICE_PIECE, nbytes - start), seed + start)
        yield offset + start, kernel.get(made).data


def write_pieces(descriptor: int, pieces: Iterable[tuple[int, memoryview]]) -> None:
    """Writes pieces of a file by several threads, of which few are in memory at the same time.

    Args:
        descriptor: of the file, open for writing.
        pieces: of each the offset of its first byte, and its bytes.

    Raises:
        OSError: the file cannot be written.
    """
    with ThreadPoolExecutor(_WRITERS) as writers:
        written: deque[Future[None]] = deque()
        for offset, data in pieces:
            written.append(writers.submit(_write_at, descriptor, offset, data))
            if len(written) > _WRITERS:
                written.popleft().result()
        for done in written:
            done.result()


def _write_at(descriptor: int, offset: int, data: memoryview) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        offset, data = offset + count, data[count:]


def leave_page_cache(path: Path) -> bool:
    """Drops a file from the page cache, so that the next read comes from the disk.

    Returns:
        Whether no page of the file is in memory any more, according to mincore(2); False if the system does not say.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # only pages that were written to the disk can be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        pages = cached_pages(file.fileno(), 0, path.stat().st_size)
        return pages is not None and not pages.any()


def _has_room(root: Path, nbytes: int) -> bool:
    if root == SHARED_MEMORY and file_system(root) != "tmpfs":
        return False
    room = min(shutil.disk_usage(root).free, psutil.virtual_memory().available // 2)
    return os.access(root, os.W_OK) and room >= nbytes


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hashbench-", dir=root) as folder:
        yield Path(folder)
