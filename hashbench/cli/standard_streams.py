"""Standard input, output and error of a command, made safe before anything is read or written."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

_CLOSED = {0: os.O_WRONLY, 1: os.O_RDONLY, 2: os.O_WRONLY}
"""How a standard stream that is closed is opened: reading input and writing output fail, and messages vanish."""


def make_safe() -> None:
    """Makes every write to standard output whole or an error, and every name printable.

    A stream that its caller closed is opened: its number would otherwise become that of the next file, and what some
    library prints would go into it. An unbuffered one, as with PYTHONUNBUFFERED, gets a buffer: without it, Python
    drops what a full disk or pipe does not take.
    """
    for descriptor, flags in _CLOSED.items():
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _buffered(sys.stdout, 1)
    sys.stderr = _buffered(sys.stderr, 2)


def drop_unwritable() -> None:
    """Discards what standard output and error no longer take, so that the interpreter does not report it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _buffered(stream: TextIO | None, descriptor: int) -> TextIO:
    if isinstance(stream, io.TextIOWrapper) and isinstance(stream.buffer, io.BufferedWriter):
        stream.reconfigure(errors="backslashreplace")
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)),
        encoding=stream.encoding if stream else "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )
