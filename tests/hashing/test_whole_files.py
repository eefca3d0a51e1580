"""Digests of whole files: those of hashlib, of the bytes that a hasher reads, and of no file that changes meanwhile."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_folders import write

from hashbench.hashing import hasher, whole_files
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.reading import plan
from hashbench.hashing.shared import SharedHasher
from hashbench.hashing.sources import ChangedWhileReadError, FileParts, FileRange, Source
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import kernel_class

CHUNK = 64
KERNEL = kernel_class("hashlib")(kernel_class("hashlib").devices()[0])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages take from several files at once, however small they are."""
    monkeypatch.setattr(hasher, "_SMALLEST_PIECE", CHUNK)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)


def whole(*paths: Path) -> WholeFiles:
    return WholeFiles({str(path): path.stat() for path in paths})


def expected(*paths: Path) -> dict[str, bytes]:
    return {str(path): hashlib.sha256(path.read_bytes()).digest() for path in paths}


def written(folder: Path, *sizes: int) -> list[Path]:
    write(folder, {f"{number}": os.urandom(size) for number, size in enumerate(sizes)})
    return [folder / f"{number}" for number in range(len(sizes))]


def read_alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what whole files read themselves."""
    sizes: list[int] = []
    original = whole_files._WholeFile._read_to

    def read_to(file: whole_files._WholeFile, end: int, *arguments: object) -> None:
        sizes.append(end - file._end)
        original(file, end, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(whole_files._WholeFile, "_read_to", read_to)
    return sizes


def ranges(path: Path, ends: Sequence[int]) -> list[Source]:
    return [FileRange(path, begin, end - begin, path.stat()) for begin, end in pairwise((0, *ends))]


def test_the_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    files = written(tmp_path, 0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20)
    assert whole(*files).digests() == expected(*files)
    assert whole().digests() == {}


def test_what_a_hasher_reads_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(tmp_path, 300_000, 70_001, 5, 200_000, 0)
    sources = [source for path in files for source in ranges(path, (path.stat().st_size // 3, path.stat().st_size))]
    sizes = read_alone(monkeypatch)
    alone = Hasher(KERNEL, CHUNK).roots(sources)
    for cores in (1, 3):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        both = whole(*files)
        assert Hasher(KERNEL, CHUNK, 8 * CHUNK).roots(sources, whole=both) == alone
        assert both.digests() == expected(*files)
    assert sizes == []


def test_a_stage_takes_from_as_many_files_as_there_are_lanes(tmp_path: Path) -> None:
    files = written(tmp_path, 4096, 4096, 1024, 1024, 1024)
    stages = plan([FileRange(path, 0, path.stat().st_size) for path in files], 512, 3)
    of_stages = [[(Path(str(read.origin)).name, read.offset, read.lane) for read in stage.reads] for stage in stages]
    assert of_stages[0] == [("0", 0, 0), ("1", 0, 1), ("2", 0, 2)]
    assert of_stages[2] == [("0", 1024, 0), ("1", 1024, 1), ("3", 0, 2)]
    assert of_stages[6] == [("0", 3072, 0), ("1", 3072, 1)]
    assert len(stages) == 8
    assert max(stage.nbytes for stage in stages) == 3 * 512


@given(data=st.data())
def test_ranges_may_overlap_and_leave_gaps_in_any_order(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("files")
    files = written(folder, *data.draw(st.lists(st.integers(0, 3000), min_size=1, max_size=4)))
    sources: list[Source] = []
    for path in files:
        size = path.stat().st_size
        place = st.tuples(st.integers(0, size), st.integers(0, size)).map(sorted)
        for begin, end in data.draw(st.lists(place, max_size=4)):
            sources.append(FileRange(path, begin, end - begin, path.stat()))
        parts = [(begin, end - begin) for begin, end in data.draw(st.lists(place, max_size=3)) if begin < end]
        sources.append(FileParts(path, tuple(parts), path.stat()))
    both = whole(*files)
    roots = Hasher(KERNEL, CHUNK, data.draw(st.sampled_from([CHUNK, 4 * CHUNK, 64 * CHUNK]))).roots(sources, whole=both)
    assert roots == Hasher(KERNEL, CHUNK).roots(sources)
    assert both.digests() == expected(*files)


def test_a_frame_between_tensors_is_read_again_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = written(tmp_path, 100_000)
    frame = FileParts(path, ((0, 100), (40_100, 30), (90_130, 9_870)), path.stat())
    tensors = [FileRange(path, 100, 40_000, path.stat()), FileRange(path, 40_130, 50_000, path.stat())]
    sizes = read_alone(monkeypatch)
    both = whole(path)
    Hasher(KERNEL, CHUNK, 128 * CHUNK).roots([*tensors, frame], whole=both)
    assert both.digests() == expected(path)
    assert sizes == [30, 9_870]


def test_several_kernels_leave_whole_files_to_be_read_besides(tmp_path: Path) -> None:
    files = written(tmp_path, 300_000, 70_001)
    sources = [FileRange(path, 0, path.stat().st_size, path.stat()) for path in files]
    both = whole(*files)
    roots = SharedHasher([Hasher(KERNEL, CHUNK), Hasher(KERNEL, CHUNK)]).roots(sources, whole=both)
    assert roots == Hasher(KERNEL, CHUNK).roots(sources)
    assert both.digests() == expected(*files)


@pytest.mark.parametrize("content", [b"", b"shorter", b"something longer", b"as long as"])
def test_a_file_that_is_not_what_was_listed_is_an_error(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {"a": b"as long as", "b": bytes(1 << 20)})
    files = whole(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "a", ns=(0, 0))
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ChangedWhileReadError, match="a: the file"):
        files.digests()


def test_a_file_that_changes_while_it_is_read_has_neither_root_nor_digest(tmp_path: Path) -> None:
    (path,) = written(tmp_path, 64 * CHUNK)
    both = whole(path)
    sources = [FileRange(path, 0, 64 * CHUNK)]

    def change(done: int, _: int | None) -> None:
        if done == 32 * CHUNK:
            with path.open("r+b") as file:
                file.seek(60 * CHUNK)
                file.write(b"changed")
            os.utime(path, ns=(0, 0))

    with pytest.raises(ChangedWhileReadError, match="0: the file was changed while it was read"):
        Hasher(KERNEL, CHUNK, 4 * CHUNK).roots(sources, change, whole=both)
    with pytest.raises(ChangedWhileReadError, match="0: the file was changed while it was read"):
        both.digests()


def test_a_file_that_could_not_be_read_has_no_digest(tmp_path: Path) -> None:
    files = written(tmp_path, 1000, 1000)
    both = whole(*files)
    both.fail({str(files[0]): OSError(5, "Input/output error", str(files[0]))})
    with pytest.raises(OSError, match="Input/output error"):
        both.digests()


def test_what_fails_in_a_follower_fails_the_hashing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = written(tmp_path, 64 * CHUNK)

    def take(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(whole_files._WholeFile, "take", take)
    with pytest.raises(OSError, match="Input/output error"):
        Hasher(KERNEL, CHUNK, 4 * CHUNK).roots([FileRange(path, 0, 64 * CHUNK)], whole=whole(path))


def test_a_file_that_was_replaced_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"same", "b": b"same"})
    a, b = tmp_path / "a", tmp_path / "b"
    files = whole(a, b)
    b.rename(a)
    with pytest.raises((ChangedWhileReadError, FileNotFoundError)):
        files.digests()
    alone = whole(a)
    a.unlink()
    os.mkfifo(a)
    with pytest.raises(OSError, match="Not a regular file"):
        alone.digests()
