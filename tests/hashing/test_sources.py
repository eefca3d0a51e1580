"""Hashing of paths and streams: any length, in pieces of any size, and sources that change, fail or never end."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

from hashbench.hashing.hasher import ChunkHashes, Hasher, Progress, hash_file
from hashbench.hashing.sources import ChangedWhileReadError, Source, Stream, opened
from hashbench.kernels import Kernel, Stage
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The threads of a call end with it, whatever happens."""
    before = set(threading.enumerate())
    yield
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith(("read", "copy"))] == []


@pytest.fixture
def hashlib_kernel() -> Kernel:
    return HashlibCpu(HashlibCpu.devices()[0])


def pattern(nbytes: int) -> bytes:
    return hashlib.shake_128(b"a file").digest(nbytes)


def root(hasher: Hasher, source: Any, progress: Progress | None = None) -> bytes:
    with opened(source) as found:
        return hasher.roots([found], progress)[0]


def digests(hasher: Hasher, source: Any, progress: Progress | None = None) -> list[ChunkHashes]:
    with opened(source) as found:
        return list(hasher.digests([found], progress))


class Trickle(io.RawIOBase):
    """A stream of unknown length whose reads come back short."""

    def __init__(self, data: bytes, counts: list[int]) -> None:
        self._rest = memoryview(data)
        self._counts = itertools.cycle(counts)

    def readable(self) -> bool:
        return True

    def readinto(self, host: Any) -> int:
        count = min(next(self._counts), len(host), len(self._rest))
        host[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class Failing(Trickle):
    """A stream whose last read fails."""

    def readinto(self, host: Any) -> int:
        if not self._rest:
            raise OSError(5, "Input/output error")
        return super().readinto(host)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(20))
@given(
    nbytes=st.integers(0, 20_000),
    chunk_size=st.sampled_from([64, 128, 320, 1024, 4096, 32_768]),
    piece_size=st.sampled_from([64, 1000, 4096, 10_000, 1 << 20]),
    counts=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
)
def test_a_stream_hashes_as_its_bytes_do(
    usual_kernel: Kernel, nbytes: int, chunk_size: int, piece_size: int, counts: list[int]
) -> None:
    data = pattern(nbytes)
    algorithm = usual_kernel.algorithm.name
    chunks = chunks_of(data, chunk_size)
    hasher = Hasher(usual_kernel, chunk_size, piece_size)
    seen: list[int] = []

    def progress(done: int, total: int | None) -> None:
        assert total is None
        seen.append(done)

    assert root(hasher, io.BytesIO(data), progress) == merkle_tree_hash(chunks, algorithm)
    assert seen == [*range(0, nbytes, hasher.piece_size), nbytes]

    pieces = digests(hasher, Trickle(data, counts))
    assert sum(piece.nbytes for piece in pieces) == nbytes
    rows = [row.tobytes() for piece in pieces for row in piece.hashes]
    assert rows == [hashlib.new(algorithm, chunk).digest() for chunk in chunks]


def test_streams_and_other_sources_may_share_a_call(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(300))
    sources: list[Source] = [Stream(io.BytesIO(b"one")), np.frombuffer(b"two", np.uint8), Stream(io.BytesIO(b""))]
    with opened(path) as file:
        found = Hasher(hashlib_kernel, 64, 128).roots([*sources, file])
    datas = [b"one", b"two", b"", pattern(300)]
    assert found == [merkle_tree_hash(chunks_of(data, 64), "sha256") for data in datas]


def test_hash_file_hashes_paths_and_streams(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(10_000))
    kernel = HashlibCpu(HashlibCpu.devices()[0], "sha384")
    expected = merkle_tree_hash(chunks_of(pattern(10_000), 1024), "sha384")
    for choice in ("hashlib", kernel):
        assert hash_file(path, algorithm="sha384", chunk_size=1024, kernel=choice) == expected
        assert hash_file(io.BytesIO(pattern(10_000)), algorithm="sha384", chunk_size=1024, kernel=choice) == expected
    assert hash_file(path) == merkle_tree_hash(chunks_of(pattern(10_000), 4096), "sha256")
    with pytest.raises(ValueError, match="the kernel is hashlib for sha384 on 1-thread, not for sha256"):
        hash_file(path, kernel=kernel)
    with pytest.raises(ValueError, match="not for sha384 on 2-threads"):
        hash_file(path, algorithm="sha384", kernel=kernel, device="2-threads")


def test_stages_are_kept_from_file_to_file(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    hasher = Hasher(hashlib_kernel, 64, 256)
    for nbytes in (0, 1, 5000, 63, 0, 256, 257):
        data = pattern(nbytes)
        path = tmp_path / "file"
        path.write_bytes(data)
        expected = merkle_tree_hash(chunks_of(data, 64), "sha256")
        assert root(hasher, path) == expected
        assert root(hasher, str(path)) == expected


def test_a_stream_is_read_from_where_it_stands_and_left_open(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(1000))
    expected = merkle_tree_hash(chunks_of(pattern(1000)[300:], 64), "sha256")
    for buffering in (0, -1):
        with path.open("rb", buffering=buffering) as stream:
            stream.seek(300)
            assert root(Hasher(hashlib_kernel, 64, 128), stream) == expected
            assert not stream.closed


def test_an_unpacked_stream_is_not_checked_against_the_size_of_its_file(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "file.gz", "wb") as packed:
        packed.write(bytes(10_000))
    with gzip.open(tmp_path / "file.gz") as stream:
        found = root(Hasher(hashlib_kernel, 1024, 2048), stream)
    assert found == merkle_tree_hash(chunks_of(bytes(10_000), 1024), "sha256")


def test_a_pipe_is_read_until_it_is_closed(hashlib_kernel: Kernel) -> None:
    data = pattern(50_000)
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb", buffering=0) as pipe:
            for start in range(0, len(data), 7000):
                pipe.write(data[start : start + 7000])
                threading.Event().wait(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        found = root(Hasher(hashlib_kernel, 1024, 4096), pipe)
    writer.join()
    assert found == merkle_tree_hash(chunks_of(data, 1024), "sha256")


def test_a_pipe_that_does_not_block_is_waited_for(hashlib_kernel: Kernel) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)

    def write() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(b"late")

    timer = threading.Timer(0.05, write)
    timer.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        found = root(Hasher(hashlib_kernel, 64), pipe)
    timer.join()
    assert found == merkle_tree_hash([b"late"], "sha256")


def test_an_interrupt_ends_the_wait_for_a_pipe(hashlib_kernel: Kernel) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, bytes(64 + 10))

    def interrupt(done: int, total: int | None) -> None:
        if not done:
            return
        while select.select([read_end], [], [], 0)[0]:  # until the reader has begun the next piece, and waits
            pass
        raise KeyboardInterrupt

    with os.fdopen(read_end, "rb", buffering=0) as pipe, pytest.raises(KeyboardInterrupt):
        root(Hasher(hashlib_kernel, 64, 64), pipe, interrupt)
    os.close(write_end)


def test_a_read_error_reaches_the_caller(hashlib_kernel: Kernel) -> None:
    hasher = Hasher(hashlib_kernel, 64, 256)
    for nbytes in (0, 100, 256, 5000):
        with pytest.raises(OSError, match="Input/output error"):
            root(hasher, Failing(pattern(nbytes), [100]))
        with pytest.raises(OSError, match="Input/output error"):
            digests(hasher, Failing(pattern(nbytes), [100]))
    assert root(hasher, io.BytesIO(b"still good")) == merkle_tree_hash([b"still good"], "sha256")


def test_digests_that_nobody_wants_any_more_end_the_reading(hashlib_kernel: Kernel) -> None:
    found = Hasher(hashlib_kernel, 64, 64).digests([Stream(io.BytesIO(bytes(10_000)))])
    next(found)
    found.close()  # type: ignore[attr-defined]


def _truncate(path: Path) -> None:
    os.truncate(path, 5000)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _touch_up(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


@pytest.mark.parametrize("when", ["at the first piece", "at the last piece"])
@pytest.mark.parametrize(
    ("change", "how"), [(_truncate, "shrank"), (_empty, "shrank"), (_append, "grew"), (_touch_up, "was changed")]
)
@pytest.mark.parametrize("hashed", [root, digests])
def test_a_file_that_changes_while_it_is_read_as_a_stream_is_refused(
    hashlib_kernel: Kernel,
    tmp_path: Path,
    change: Callable[[Path], None],
    how: str,
    when: str,
    hashed: Callable[..., Any],
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    os.utime(path, (0, 0))

    def progress(done: int, total: int | None) -> None:
        if done == (64 if when == "at the first piece" else 10_000):
            change(path)

    hasher = Hasher(hashlib_kernel, 64, 64)
    error = f"the file {how} while it was read: 10000 bytes at the start, "
    with path.open("rb") as stream, pytest.raises(ChangedWhileReadError, match=error):
        hashed(hasher, stream, progress)


def test_a_file_that_never_stops_growing_is_refused(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(1000))

    def progress(done: int, total: int | None) -> None:
        assert done < 5000, "it is read on and on"
        with path.open("ab") as file:
            file.write(bytes(128))

    error = "the file grew while it was read: 1000 bytes at the start, "
    with path.open("rb") as stream, pytest.raises(ChangedWhileReadError, match=error):
        root(Hasher(hashlib_kernel, 64, 64), stream, progress)


def test_a_file_that_ends_before_its_size_is_refused(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    class EndsEarly(io.FileIO):
        def readinto(self, host: Any) -> int:
            return super().readinto(host) if self.tell() < 128 else 0

    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    error = "the file shrank while it was read: 1000 bytes at the start, 128 were read"
    with EndsEarly(path) as stream, pytest.raises(ChangedWhileReadError, match=error):
        root(Hasher(hashlib_kernel, 64, 64), stream)


def test_an_empty_file_that_grows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()

    class Meddling(HashlibCpu):
        def stage(self, nbytes: int) -> Stage:
            _append(path)
            return super().stage(nbytes)

    with pytest.raises(
        ChangedWhileReadError, match="the file grew while it was read: 0 bytes at the start, 4 were read"
    ):
        root(Hasher(Meddling(HashlibCpu.devices()[0]), 64), path)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="this system has no /proc")
def test_a_file_that_the_system_makes_up_has_no_size_to_check(hashlib_kernel: Kernel) -> None:
    path = Path("/proc/version")
    assert path.stat().st_size == 0
    assert root(Hasher(hashlib_kernel, 64), path) == merkle_tree_hash(chunks_of(path.read_bytes(), 64), "sha256")
