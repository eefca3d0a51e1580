"""The cache of builds between test runs: it must never return anything but what it would build."""

from __future__ import annotations

from pathlib import Path

import build_cache
import pytest
from build_cache import cached, cached_file, cached_text, entry_path


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build_cache, "FOLDER", tmp_path / "cache")


def test_an_entry_is_made_once() -> None:
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"built")
        return made[-1]

    assert [cached("kind", "source", b"\0", make=make) for _ in range(3)] == [b"built"] * 3
    assert made == [b"built"]


def test_entries_are_kept_apart() -> None:
    keys = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", "")]
    for kind in ("one", "other"):
        for key in keys:
            assert cached_text(kind, *key, make=lambda made=f"{kind} {key}": made) == f"{kind} {key}"  # type: ignore[misc]


@pytest.mark.parametrize("content", [b"", b"short", bytes(100)], ids=["empty", "short", "zeros"])
def test_a_damaged_entry_is_made_again(content: bytes) -> None:
    cached("kind", "key", make=lambda: b"built")
    entry_path("kind", "key").write_bytes(content)
    assert cached("kind", "key", make=lambda: b"again") == b"again"
    assert cached("kind", "key", make=lambda: b"never") == b"again"


def test_an_entry_under_another_name_is_made_again() -> None:
    cached("kind", "key", make=lambda: b"built")
    entry_path("kind", "key").rename(entry_path("kind", "other"))
    assert cached("kind", "other", make=lambda: b"its own") == b"its own"


def test_a_failure_is_not_kept() -> None:
    def fail() -> bytes:
        raise RuntimeError("does not compile")

    with pytest.raises(RuntimeError, match="does not compile"):
        cached("kind", "key", make=fail)
    assert cached("kind", "key", make=lambda: b"built") == b"built"
    left = {path.name for path in build_cache.FOLDER.iterdir() if path.suffix != ".lock"}
    assert left == {entry_path("kind", "key").name}


def test_a_damaged_file_is_written_again() -> None:
    path = cached_file("kind", "key", make=lambda: b"library")
    path.write_bytes(b"libr")
    assert cached_file("kind", "key", make=lambda: b"never").read_bytes() == b"library"
