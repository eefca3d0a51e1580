"""Reads past the page cache: the same bytes, wherever they begin and whatever becomes of the file."""

from __future__ import annotations

import fcntl
import os
import random
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest

from hashbench.hashing import direct, reading
from hashbench.hashing.direct import DirectFile, cached_pages, is_cached
from hashbench.hashing.reading import Reader, plan
from hashbench.hashing.sources import ChangedWhileReadError, FileRange

SIZE = 3 * 8192 + 77
DATA = random.Random(0).randbytes(SIZE)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that can be read directly, in reads of 8 KiB; no byte of it counts as cached."""
    monkeypatch.setattr(direct, "_READ_SIZE", 8192)
    monkeypatch.setattr(reading, "is_cached", lambda descriptor, offset: False)
    path = tmp_path / "file"
    path.write_bytes(DATA)
    try:
        DirectFile(str(path)).close()
    except OSError as error:
        pytest.skip(f"the file system of temporary files has no direct reads: {error.strerror}")
    return path


def read(path: Path, offset: int, nbytes: int) -> bytes:
    """That range, by a reader of direct reads."""
    source = FileRange(path, offset, nbytes)
    stages = plan([source], 1 << 20)
    got = bytearray(stages[0].nbytes)
    with Reader([source], direct=True) as reader:
        reader.fill(stages[0], memoryview(got))
    return bytes(got)


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 8191, 8200, SIZE - 5])
@pytest.mark.parametrize("nbytes", [1, 5, 4096, 8192, 8193, 20_000, SIZE])
def test_any_range_is_what_the_file_has(file: Path, offset: int, nbytes: int) -> None:
    nbytes = min(nbytes, SIZE - offset)
    assert read(file, offset, nbytes) == DATA[offset : offset + nbytes]


def test_what_is_read_goes_past_the_page_cache(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffered = []
    original = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int, *flags: int) -> int:
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            buffered.append(offset)
        return original(descriptor, buffers, offset, *flags)

    monkeypatch.setattr(os, "preadv", counted)
    assert read(file, 100, 9000) == DATA[100:9100]
    assert not buffered


def test_a_file_that_is_too_short_is_told(file: Path) -> None:
    for offset, nbytes in ((0, SIZE + 1), (SIZE - 10, 5000), (SIZE + 9000, 1)):
        with pytest.raises(ChangedWhileReadError, match="the file shrank while it was read"):
            read(file, offset, nbytes)


@pytest.mark.parametrize("fails", ["__init__", "read"])
def test_where_it_cannot_be_done_the_cache_is_read_through(
    file: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(DirectFile, fails, refuse)
    assert read(file, 7, 9000) == DATA[7:9007]


def test_a_file_that_is_replaced_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replaced(self: DirectFile, path: str) -> None:
        other = file.with_name("other")
        other.write_bytes(DATA)
        other.replace(file)
        original(self, path)

    original = DirectFile.__init__
    monkeypatch.setattr(DirectFile, "__init__", replaced)
    with pytest.raises(ChangedWhileReadError, match="while it was read"):
        read(file, 0, 100)


def test_what_was_just_read_is_cached(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        file.read()
        assert is_cached(file.fileno(), SIZE - 1)
        if (pages := cached_pages(file.fileno(), 0, SIZE)) is None:
            pytest.skip("mincore: the system does not offer it")
        assert pages.tolist() == -(-SIZE // PAGESIZE) * [True]
        two = cached_pages(file.fileno(), 2 * PAGESIZE - 1, 2)
        assert two is not None
        assert two.tolist() == [True, True]
        assert cached_pages(file.fileno(), SIZE, 1) is None


def test_to_ask_whether_a_page_is_cached_does_not_bring_it_in(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if (pages := cached_pages(file.fileno(), 0, SIZE)) is None or pages.any():
            pytest.skip("the system keeps files in the page cache")
        assert not is_cached(file.fileno(), 5000)
        again = cached_pages(file.fileno(), 0, SIZE)
        assert again is not None
        assert not again.any()
