"""What a command computes for each of many files, of which some cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from stat import S_ISREG
from typing import TypeVar

from hashbench.cli.progress import shown
from hashbench.hashing.hasher import Progress
from hashbench.hashing.sources import ChangedWhileReadError, FileRange, Source, opened
from hashbench.merkle.digest_format import DigestError

T = TypeVar("T")

Compute = Callable[[Sequence[Source], Progress | None], Sequence[T]]
"""Has a result for each source, and raises an error if one has none."""

FileError = OSError | ChangedWhileReadError | DigestError
"""Why one file has no result, while others have."""

_ERRORS = (OSError, ChangedWhileReadError, DigestError)
_SMALL = 1 << 20  # bytes of a file that is hashed together with others
_TOGETHER = 256  # files at most


def total_size(names: Sequence[str]) -> int | None:
    """The bytes of all files; None if one is a stream."""
    if not all(map(os.path.isfile, names)):
        return None
    return sum(map(os.path.getsize, names))


def of_each(compute: Compute[T], names: Iterable[str]) -> Iterator[tuple[str, T | FileError]]:
    """Each file's result, or why it has none, in their order. Small files are computed together."""
    for small, run in groupby(((name, _small_file(name)) for name in names), lambda file: file[1] is not None):
        while several := list(islice(run, _TOGETHER if small else 1)):
            if small:
                with suppress(*_ERRORS):  # of one, which its own turn tells
                    results = compute([source for _, source in several if source], None)
                    yield from zip((name for name, _ in several), results, strict=True)
                    continue
            for name, _ in several:
                try:
                    result = of_file(compute, name)
                except _ERRORS as error:
                    yield name, error
                else:
                    yield name, result


def of_file(compute: Compute[T], name: str) -> T:
    """One file's result; "-" is standard input.

    Raises:
        FileError: it has none.
    """
    with opened(name) as source, shown(name) as progress:
        return compute([source], progress)[0]


def _small_file(name: str) -> FileRange | None:
    """A small file that is not empty; an empty one may be of /proc, and have bytes."""
    with suppress(OSError):
        status = os.stat(name)  # noqa: PTH116  # of many thousand files
        if name != "-" and S_ISREG(status.st_mode) and 0 < status.st_size <= _SMALL:
            return FileRange(Path(name), 0, status.st_size, status)
    return None
