"""A cache of what compilers and sanitizers produce, kept between test runs: the slowest tests wait for little else.

The key of an entry is everything that went into it: sources, options, the architecture, and the versions of the tools.
So an entry is never stale. The folder is `.cache/tests` of the repository, or HASHBENCH_TEST_CACHE.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(os.environ.get("HASHBENCH_TEST_CACHE") or Path(__file__).parents[2] / ".cache" / "tests")

_CHECKSUM_BYTES = hashlib.sha256().digest_size


def cached(kind: str, *key: str | bytes, make: Callable[[], bytes]) -> bytes:
    """The entry of that kind and key.

    Args:
        kind: what the entry is, as part of its file's name.
        key: everything that the entry depends on.
        make: makes the entry if it is missing or damaged. Only one process at a time makes it. If it raises, there is
            no entry.
    """
    path = entry_path(kind, *key)
    with _locked(path):
        content = _read(path)
        if content is None:
            content = make()
            _write(path, _checksum(path, content) + content)
    return content


def cached_text(kind: str, *key: str | bytes, make: Callable[[], str]) -> str:
    """Like `cached`, for text."""
    return cached(kind, *key, make=lambda: make().encode()).decode()


def cached_file(kind: str, *key: str | bytes, make: Callable[[], bytes]) -> Path:
    """Like `cached`, for a library to load: the path of a file with the content alone."""
    content = cached(kind, *key, make=make)
    path = entry_path(kind, *key).with_suffix(".content")
    with _locked(path):
        if not path.exists() or path.read_bytes() != content:
            _write(path, content)
    return path


def entry_path(kind: str, *key: str | bytes) -> Path:
    """The file of an entry."""
    parts = [part.encode() if isinstance(part, str) else part for part in key]
    return FOLDER / f"{kind}-{_digest(*parts).hex()}"


def _read(path: Path) -> bytes | None:
    """The content of an entry, None if it is missing or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    content = stored[_CHECKSUM_BYTES:]
    return content if stored[:_CHECKSUM_BYTES] == _checksum(path, content) else None


def _write(path: Path, content: bytes) -> None:
    """Writes a file in one step, so that nobody reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Makes other processes wait that want the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _checksum(path: Path, content: bytes) -> bytes:
    return _digest(path.name.encode(), content)


def _digest(*parts: bytes) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.digest()
