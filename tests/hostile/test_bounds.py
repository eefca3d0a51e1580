"""Attacks by size: what can be told from names and sizes is told before a byte is hashed, and output is bounded."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest
from command_line import in_process
from model_folders import safetensors_file, trust, write

import hashbench
from hashbench.hashing.hasher import Hasher, hash_file
from hashbench.model import folder as listing
from hashbench.model.components import name_tensors
from hashbench.model.manifest import FileEntry, Manifest, TensorEntry, parse_manifest

FILES = {"model.safetensors": safetensors_file({"w": b"good"}), "config.json": b"{}"}
ROOT = bytes(32)


def sparse(path: Path) -> int:
    """Makes the largest file that the file system takes, of 7 EiB at most, without a byte in it; returns its size."""
    for bits in (62, 53, 44, 40):
        try:
            with path.open("wb") as file:
                os.truncate(file.fileno(), 7 << bits - 2)
        except OSError:
            continue
        return 7 << bits - 2
    pytest.skip("this file system has no sparse files")


@pytest.mark.parametrize("name", ["stray.bin", "config.json"])
def test_a_sparse_file_is_told_and_not_hashed(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder)
    sparse(folder / name)
    read: list[int | None] = []
    report = hashbench.verify(folder, manifest.path, kernel="hashlib", progress=lambda done, total: read.append(total))
    assert not report.ok
    assert name in (*report.extra, *report.differs, *(problem.split("'")[1] for problem in report.problems))
    assert max(filter(None, read)) < 1000
    assert manifest.verdict_on(folder).code == 1


def test_a_file_larger_than_a_manifest_can_say_is_refused_before_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "model", FILES | {"stray": bytes(1001)})
    monkeypatch.setattr(listing, "MAX_SIZE", 1000)  # not every file system has files of 2^53 bytes
    with pytest.raises(ValueError, match="'stray' is refused: it has more than 1000 bytes"):
        hashbench.manifest(folder, kernel="hashlib", progress=lambda *_: pytest.fail("something was hashed"))


def test_many_small_files_are_told_in_few_lines(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder)
    (folder / "sub").mkdir()
    for place in range(3000):
        (folder / "sub" / f"{place:05}").touch()
        (folder / "sub" / f"link-{place}").symlink_to("nothing")
    verdict = manifest.verdict_on(folder)
    assert verdict.code == 1
    assert verdict.output[-1] == "extra: 3,000 names that begin with sub/, such as sub/00000"
    assert verdict.errors[-1] == "hashbench: and 2,900 more such lines"
    assert len(verdict.output) == 1
    assert len(verdict.errors) == 101


@pytest.mark.thorough
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {f"{place % 100}/{place}": b"%d" % place for place in range(100_000)})
    started = time.process_time()
    manifest = trust(folder)
    (folder / "7" / "7").write_bytes(b"8")
    assert manifest.verdict_on(folder).names("differs") == ["7/7"]
    assert time.process_time() - started < 120


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder within a folder, deeper than Python recurses, and than a path leads."""
    folder = write(tmp_path / "model", FILES)
    before = Path.cwd()
    try:
        os.chdir(folder)
        for _ in range(1500):
            Path("dd").mkdir()
            os.chdir("dd")
        Path("evil").write_bytes(b"x")
        yield folder
        Path("evil").unlink()
        for _ in range(1500):  # what removes temporary folders would go too deep
            os.chdir("..")
            Path("dd").rmdir()
    finally:
        os.chdir(before)


def test_a_list_of_many_chunk_sizes_takes_the_memory_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hasher keeps what it reads into: 300 lines about 30 MB took 10 GB."""
    alive: WeakSet[Hasher] = WeakSet()
    most = 0

    class Counted(Hasher):
        def __init__(self, *arguments: Any) -> None:
            nonlocal most
            super().__init__(*arguments)
            alive.add(self)
            most = max(most, len(alive))

    monkeypatch.setattr("hashbench.cli.hash.Hasher", Counted)
    file, roots = tmp_path / "file", tmp_path / "roots"
    file.write_bytes(b"content")
    root = hash_file(file, kernel="hashlib").hex()
    roots.write_text("".join(f"SHA256-RFC9162-{64 * size} ({file}) = {root}\n" for size in range(1, 50)))
    assert in_process("hash", "--kernel", "hashlib", "--check", "--quiet", roots).returncode == 0
    assert most <= 2


def test_deep_folders_are_told_and_all_else_is_verified(deep: Path) -> None:
    write(deep.parent / "same", FILES)
    manifest = trust(deep.parent / "same", path=deep.parent / "manifest")
    (deep / "config.json").write_bytes(b"[]")
    verdict = manifest.verdict_on(deep)
    assert (verdict.code, verdict.names("differs")) == (1, ["config.json"])
    (error,) = verdict.errors
    assert error.endswith("is refused: it cannot be read: File name too long")
    assert len(error) < 600


def test_long_and_odd_names_are_told_in_short(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", FILES)
    manifest = trust(folder)
    names = ["x" * 255, "\x1b[2J", "a\u202eb", "verified: 9 files", "\N{LINE SEPARATOR}", "\x7f"]
    write(folder, dict.fromkeys(names, b"x"))
    verdict = manifest.verdict_on(folder)
    assert verdict.code == 1
    assert len(verdict.output) == len(names)
    assert all(line.isprintable() and line.startswith("extra: ") for line in verdict.output)


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.thorough)])
def test_a_manifest_of_many_tensors_reads_as_it_was_written(count: int) -> None:
    entries = [TensorEntry(f"t{place:07}", "U8", (2, 3), 6, ROOT, "m", 6 * place) for place in range(count)]
    manifest = Manifest("sha256", 4096, (*entries, FileEntry("m", 6 * count, ROOT, 0)))
    started = time.process_time()
    assert parse_manifest(manifest.text()).root == manifest.root
    assert time.process_time() - started < 2 + count / 10_000


def test_names_that_give_way_to_each_other_take_little_time() -> None:
    """Each would be renamed to the next one, if names were not made unique all at once."""
    chain = ["x"] + ["x.bin/" * depth + "x" for depth in range(1, 1500)]
    rest = [f"t{place}" for place in range(50_000)]
    started = time.process_time()
    named = name_tensors({"x.bin": [*chain, *rest]}, {}, ["x", "x.bin"])
    assert time.process_time() - started < 5
    assert len(set(named["x.bin"].values())) == len(chain) + len(rest)
