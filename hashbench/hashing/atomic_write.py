"""Atomic writing of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType


class AtomicFile:
    """A file that replaces `path` when it is complete, and otherwise leaves no trace.

    The data goes to a temporary file of a random name in the same folder, with the permissions of a new file. `commit`
    syncs it to storage and renames it. Use it as a context manager.

    Args:
        path: the file; an older one is left unchanged until `commit`.

    Raises:
        OSError: the file cannot be written; its filename is `path`. So do all methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._naming():
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL and O_NOFOLLOW
        self._temporary = Path(temporary)
        self._file = os.fdopen(descriptor, "wb")
        os.fchmod(descriptor, 0o666 & ~_umask())

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # of data that could not be written, which was reported
            self._file.close()

    def write(self, data: bytes, offset: int | None = None) -> None:
        """Writes at `offset`, or after what was written last."""
        with self._naming():
            if offset is not None:
                self._file.seek(offset)
            self._file.write(data)

    def commit(self) -> None:
        """Gives the file its name. Nothing can be written afterwards."""
        with self._naming():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"cannot be written: {error.strerror}"
            raise OSError(error.errno, reason, os.fspath(self._path)) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file completely or not at all, with the permissions of a new file.

    Raises:
        OSError: it cannot be written; its filename is `path`. An older file is left unchanged.
    """
    with AtomicFile(path) as file:
        file.write(data)
        file.commit()


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
