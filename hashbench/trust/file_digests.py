"""The SHA-256 of whole files, on all cores: what other tools sign and compare.

A whole file's digest is sequential: one core makes one to two GB/s with the processor's SHA instructions, and a GPU far
less. So this runs on the processor, a file a core, while a kernel may make the roots of the same files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from hashbench.hashing.opening import open_regular
from hashbench.hashing.sources import ChangedWhileReadError, change
from hashbench.model.folder import ListedFile

_READ_SIZE = 1 << 20


def file_digests(files: Sequence[ListedFile]) -> list[bytes]:
    """The SHA-256 of each file, in their order.

    Raises:
        OSError: a file cannot be read; it names the file.
        ChangedWhileReadError: a file is not what it was when it was listed.
    """
    unwanted = Event()
    largest_first = sorted(range(len(files)), key=lambda index: -files[index].status.st_size)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(files) or 1), "sha256") as pool:
        running = {index: pool.submit(_digest, files[index], unwanted) for index in largest_first}
        try:
            return [running[index].result() for index in range(len(files))]
        except BaseException:
            unwanted.set()
            pool.shutdown(cancel_futures=True)
            raise


def _digest(file: ListedFile, unwanted: Event) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_SIZE))
    with open_regular(file.path) as raw:
        _check(file, os.fstat(raw.fileno()))
        left = file.status.st_size
        while count := raw.readinto(buffer[: left or 1]):
            left -= count
            if left < 0:
                raise ChangedWhileReadError(f"{file.path}: the file grew while it was read")
            digest.update(buffer[:count])
            if unwanted.is_set():
                break
        _check(file, os.fstat(raw.fileno()))
    return digest.digest()


def _check(file: ListedFile, now: os.stat_result) -> None:
    if how := change(file.status, now):
        raise ChangedWhileReadError(f"{file.path}: the file {how} while it was read")
