"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, with the permissions of a new file.

    The data goes to a temporary file of a random name in the same folder, is synced to storage, and takes the name of
    `path` at the end.

    Raises:
        OSError: it cannot be written; its filename is `path`. An older file is left as it was.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # O_EXCL and O_NOFOLLOW
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o666 & ~_umask())
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, f"cannot be written: {error.strerror}", os.fspath(path)) from None


def _umask() -> int:
    """The process's umask, which the system tells only when it is set."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
