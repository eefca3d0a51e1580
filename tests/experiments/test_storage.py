"""Storage for files: in memory or on a disk, gone afterwards, refused with the reason, and a cache left for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hashbench.experiments import storage
from hashbench.experiments.storage import StorageUnavailable
from hashbench.hashing.direct import cached_pages
from hashbench.kernels.hashlib_cpu import HashlibCpu

MiB = 1 << 20


def test_storage_in_memory_is_preferred_and_cleared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    types = {tmp_path: "tmpfs", tmp_path / "other": "ext4"}
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(storage, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(storage, "file_system", types.__getitem__)
    with storage.in_memory_or_elsewhere(MiB) as where:
        (where.folder / "file").write_bytes(b"data")
        assert where.folder.parent == tmp_path
        assert (where.place, where.note) == ("memory", "")
    assert not where.folder.exists()

    types[tmp_path] = "ext4"  # a folder of that name that is no memory
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "other"))
    with storage.in_memory_or_elsewhere(MiB) as where:
        assert where.folder.parent == tmp_path / "other"
        assert where.place == "a file system of type ext4"
        assert where.note == "The file is on ext4, not in memory; it was read before timing."


def test_a_file_is_as_long_as_asked_and_random(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        storage.write_random(tmp_path / name, 100_001, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert len(a) == 100_001
    assert a == b != c
    assert len(set(a)) == 256


def test_pieces_are_written_where_they_belong(tmp_path: Path) -> None:
    data = memoryview(os.urandom(100_001))
    places = range(0, len(data), 1000)
    with (tmp_path / "file").open("wb") as file:
        storage.write_pieces(file.fileno(), [(place, data[place : place + 1000]) for place in reversed(places)])
    assert (tmp_path / "file").read_bytes() == data
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        storage.write_pieces(file.fileno(), [(0, data)])


def test_random_pieces_are_what_the_kernel_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_DEVICE_PIECE", 1000)
    kernel = HashlibCpu(HashlibCpu.devices()[0])
    places, pieces = zip(*storage.random_pieces(kernel, 2500, 7, 16), strict=True)
    assert places == (16, 1016, 2016)
    assert [len(piece) for piece in pieces] == [1000, 1000, 500]
    assert len({bytes(piece[:500]) for piece in pieces}) == 3
    assert pieces[1] == kernel.get(kernel.random(1000, 1007)).data


def test_storage_in_memory_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(storage, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(storage, "file_system", {tmp_path: "tmpfs"}.__getitem__)
    with storage.in_memory(MiB) as where:
        assert where.folder.parent == tmp_path
        assert where.place == "memory"
    assert not where.folder.exists()
    with (
        pytest.raises(StorageUnavailable, match="memory-backed storage has no room for 1048576TiB"),
        storage.in_memory(1 << 60),
    ):
        pass


def test_storage_on_a_disk_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    types = {tmp_path: "ext4"}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(storage, "file_system", types.__getitem__)
    with storage.on_disk(MiB) as where:
        assert where.folder.parent == tmp_path
        assert where.place == "a disk (ext4)"
    assert not where.folder.exists()
    with pytest.raises(StorageUnavailable, match="the temporary folder has no room"), storage.on_disk(1 << 60):
        pass
    types[tmp_path] = "tmpfs"
    with pytest.raises(StorageUnavailable, match="are in memory here"), storage.on_disk(MiB):
        pass


def test_a_file_that_left_the_page_cache_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(MiB)
    path.write_bytes(data)
    left = storage.leave_page_cache(path)
    if left:
        with path.open("rb") as file:
            pages = cached_pages(file.fileno(), 0, MiB)
        assert pages is not None
        assert not pages.any()
    assert path.read_bytes() == data
    if not left:
        pytest.skip(f"page cache: the system keeps files of {storage.file_system(tmp_path)} in memory")


def test_a_cache_that_cannot_be_left_is_not_taken_for_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MiB))
    monkeypatch.setattr(storage, "cached_pages", lambda descriptor, offset, nbytes: None)
    assert not storage.leave_page_cache(path)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert not storage.leave_page_cache(path)
