"""Compiled programs on disk, in the user's own cache: one file a program, without locks and without pickles.

Whoever writes these files decides what runs, so they are used only in a folder where nobody else can write. Where there
is none, programs are compiled again in each process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hashbench.kernels.caches import is_private, private_folder

_FOLDER = ("hashbench", "programs")
_MAX_SIZE = 64 << 20  # bytes of the largest program that is read


def program_key(parts: Iterable[str]) -> str:
    """The name of a program that is compiled from these texts, in hexadecimal digits."""
    key = hashlib.sha256()
    for part in parts:
        data = part.encode()
        key.update(len(data).to_bytes(8, "little") + data)
    return key.hexdigest()


def load(key: str) -> bytes | None:
    """A program of this name; None if there is none, or no private folder."""
    folder = private_folder(*_FOLDER)
    if folder is None:
        return None
    with suppress(OSError), open(folder / key, "rb", opener=_open) as file:  # Path.open takes no opener
        data = file.read(_MAX_SIZE + 1)
        # A file that was cut off, as by a crash of the machine, is none.
        program, digest = data[:-32], data[-32:]
        if len(data) <= _MAX_SIZE and hashlib.sha256(program).digest() == digest:
            return program
    return None


def store(key: str, program: bytes) -> None:
    """Keeps a program, where a private folder can be written to."""
    folder = private_folder(*_FOLDER)
    if folder is None:
        return
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not is_private(folder):
            return
        descriptor, temporary = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(program + hashlib.sha256(program).digest())
            Path(temporary).replace(folder / key)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
