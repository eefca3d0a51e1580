"""Files that are exchanged, or cut off, while they are read: an error, never a verdict, and never the process's end."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from model_folders import write

import hashbench
from hashbench.hashing.sources import ChangedWhileReadError

SIZE = 40 << 20  # more than is read at once
FILES = {"a.bin": bytes(SIZE), "b.bin": b"b"}


def and_back(path: Path) -> None:
    """Puts another file in a file's place and then the file itself again, with its times."""
    before = path.stat()
    path.rename(path.with_name("kept"))
    path.write_bytes(b"evil")
    path.with_name("kept").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def in_place_and_back(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"evil")
        file.seek(0)
        file.write(bytes(4))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_off(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("change", [and_back, in_place_and_back, cut_off])
def test_a_file_that_is_exchanged_meanwhile_is_no_verdict(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = hashbench.manifest(folder, kernel="hashlib")
    changed: list[int] = []

    def meanwhile(done: int, total: int | None) -> None:
        if not changed:
            changed.append(done)
            change(folder / "a.bin")

    with pytest.raises(ChangedWhileReadError, match=r"a\.bin: the file (was changed|shrank) while it was read"):
        hashbench.verify(folder, manifest, kernel="hashlib", progress=meanwhile)


def test_leaf_hashes_that_are_cut_off_meanwhile_leave_the_verdict(tmp_path: Path) -> None:
    size = 4 << 20
    folder, leaves = write(tmp_path / "model", {"a.bin": bytes(size)}), tmp_path / "leaves"
    manifest = hashbench.manifest(folder, kernel="hashlib", chunk_size=64, leaves=leaves)
    write(folder, {"a.bin": b"\1" + bytes(size - 1)})
    calls: list[int] = []

    def meanwhile(done: int, total: int | None) -> None:
        calls.append(done)
        if calls.count(0) == 2:  # what differs is read again
            os.truncate(leaves, 1000)

    report = hashbench.verify(folder, manifest, kernel="hashlib", leaves=leaves, progress=meanwhile)
    assert (report.ok, report.differs, dict(report.damage)) == (False, ("a.bin",), {})
    assert report.problems == (f"cannot tell which chunks differ: {leaves} shrank while it was read",)
