"""A cache of what compilers and sanitizers produce, kept between test runs: the slowest tests wait for little else.

An entry is found by everything that went into it, so it is never stale: sources, options, the architecture, and the
versions of the tools. Whoever asks must name all of that in the key. The folder is `.cache/tests` of the repository, or
the one that HASHBENCH_TEST_CACHE names.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(os.environ.get("HASHBENCH_TEST_CACHE") or Path(__file__).parents[2] / ".cache" / "tests")

_CHECKSUM = hashlib.sha256().digest_size


def cached(kind: str, *key: str | bytes, make: Callable[[], bytes]) -> bytes:
    """The entry of that kind and key.

    Args:
        kind: what the entry is, which is part of its file's name.
        key: everything that the entry depends on.
        make: produces the entry if it is not there or damaged. What it raises is not kept.
    """
    path = entry_path(kind, *key)
    try:
        stored = path.read_bytes()
    except OSError:
        stored = b""
    checksum, content = stored[:_CHECKSUM], stored[_CHECKSUM:]
    if checksum != _digest(path.name.encode(), content):
        content = make()
        _write(path, _digest(path.name.encode(), content) + content)
    return content


def cached_text(kind: str, *key: str | bytes, make: Callable[[], str]) -> str:
    """Like `cached`, for text."""
    return cached(kind, *key, make=lambda: make().encode()).decode()


def cached_file(kind: str, *key: str | bytes, make: Callable[[], bytes]) -> Path:
    """Like `cached`, for a library to load: a file that holds the content alone."""
    content = cached(kind, *key, make=make)
    path = entry_path(kind, *key).with_suffix(".content")
    if not path.exists() or path.read_bytes() != content:
        _write(path, content)
    return path


def entry_path(kind: str, *key: str | bytes) -> Path:
    """The file of an entry."""
    parts = [part.encode() if isinstance(part, str) else part for part in key]
    return FOLDER / f"{kind}-{_digest(*parts).hex()}"


def _digest(*parts: bytes) -> bytes:
    state = hashlib.sha256()
    for part in parts:
        state.update(len(part).to_bytes(8, "little") + part)
    return state.digest()


def _write(path: Path, content: bytes) -> None:
    """Writes a file at once: several processes of a test run may make the same entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
