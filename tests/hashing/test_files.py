"""Hashing of files and streams: any length in any pieces, streams that change or fail, and bounded memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashbench.hashing import selection
from hashbench.hashing.files import ChangedWhileReadError, FileHasher
from hashbench.hashing.staging import MAX_CHUNK_SIZE
from hashbench.kernels import Device, Kernel, OutOfDeviceMemory, Stage
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever happened to a stream, its threads have ended when the call has."""
    before = set(threading.enumerate())
    yield
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith(("read", "copy"))] == []


@pytest.fixture
def hashlib_kernel() -> Kernel:
    return HashlibCpu(HashlibCpu.devices()[0])


def pattern(nbytes: int) -> bytes:
    return hashlib.shake_128(b"a file").digest(nbytes)


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
    """A stream that cannot be read to its end."""

    def readinto(self, host: Any) -> int:
        if not self._rest:
            raise OSError(5, "Input/output error")
        return super().readinto(host)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    nbytes=st.integers(0, 20_000),
    chunk_size=st.sampled_from([64, 128, 320, 1024, 4096, 32_768]),
    piece_size=st.sampled_from([64, 1000, 4096, 10_000, 1 << 20]),
    counts=st.lists(st.integers(1, 5000), min_size=1, max_size=5),
)
def test_a_stream_hashes_as_its_bytes_do(
    kernel: Kernel, nbytes: int, chunk_size: int, piece_size: int, counts: list[int]
) -> None:
    data = pattern(nbytes)
    algorithm = kernel.algorithm.name
    chunks = chunks_of(data, chunk_size)
    hasher = FileHasher(kernel, chunk_size, piece_size)
    done: list[int] = []

    assert hasher.root(io.BytesIO(data), done.append) == merkle_tree_hash(chunks, algorithm)
    assert sum(done) == nbytes
    assert all(count == hasher.piece_size for count in done[:-1])

    pieces = list(hasher.digests(Trickle(data, counts)))
    assert sum(count for count, _ in pieces) == nbytes
    rows = [row.tobytes() for _, digests in pieces for row in digests]
    assert rows == [hashlib.new(algorithm, chunk).digest() for chunk in chunks]


@given(st.integers(64, 1 << 28), st.integers(0, 1 << 40), st.integers(1, 1 << 28))
def test_pieces_are_complete_subtrees_within_every_bound(chunk_size: int, free: int, piece_size: int) -> None:
    chunk_size -= chunk_size % 64
    hasher = FileHasher(Cramped(free), chunk_size, piece_size)
    chunks = hasher.piece_size // chunk_size
    assert hasher.piece_size == chunks * chunk_size
    assert chunks & (chunks - 1) == 0
    if chunks > 1:
        assert hasher.piece_size <= piece_size
        assert 3 * hasher.piece_size <= free / 2


class Cramped(HashlibCpu):
    """hashlib on a device with less room than the host has."""

    def __init__(self, free: int) -> None:
        super().__init__(HashlibCpu.devices()[0])
        self.room = free
        self.staged = 0

    def free_memory(self) -> int:
        return self.room

    def stage(self, nbytes: int) -> Stage:
        if self.staged + nbytes > self.room:
            raise OutOfDeviceMemory(self.device, nbytes)
        self.staged += nbytes
        return super().stage(nbytes)


@pytest.mark.parametrize("free", [64 * 1024, 200_000, 3 << 20])
def test_stages_fit_in_what_is_free(free: int) -> None:
    kernel = Cramped(free)
    data = pattern(300_000)
    assert FileHasher(kernel, 4096).root(io.BytesIO(data)) == merkle_tree_hash(chunks_of(data, 4096), "sha256")
    assert 0 < kernel.staged <= free // 2


def test_a_device_without_room_for_a_chunk_is_out_of_memory() -> None:
    with pytest.raises(OutOfDeviceMemory, match="8,192 bytes were asked for"):
        FileHasher(Cramped(8000), 8192).root(io.BytesIO(b"data"))


@pytest.mark.parametrize("chunk_size", [0, -64, 100, MAX_CHUNK_SIZE + 64])
def test_other_chunk_sizes_are_refused(hashlib_kernel: Kernel, chunk_size: int) -> None:
    with pytest.raises(ValueError, match=f"chunk size {chunk_size} is not accepted"):
        FileHasher(hashlib_kernel, chunk_size)


def test_stages_are_kept_from_file_to_file(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    hasher = FileHasher(hashlib_kernel, 64, 256)
    for nbytes in (0, 1, 5000, 63, 0, 256, 257):
        data = pattern(nbytes)
        path = tmp_path / "file"
        path.write_bytes(data)
        expected = merkle_tree_hash(chunks_of(data, 64), "sha256")
        assert hasher.root(path) == expected
        assert hasher.root(str(path)) == expected


def test_a_stream_is_read_from_where_it_stands_and_left_open(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(1000))
    expected = merkle_tree_hash(chunks_of(pattern(1000)[300:], 64), "sha256")
    for buffering in (0, -1):
        with path.open("rb", buffering=buffering) as stream:
            stream.seek(300)
            assert FileHasher(hashlib_kernel, 64, 128).root(stream) == expected
            assert not stream.closed


def test_an_unpacked_stream_is_not_held_to_the_size_of_its_file(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "file.gz", "wb") as packed:
        packed.write(bytes(10_000))
    with gzip.open(tmp_path / "file.gz") as stream:
        root = FileHasher(hashlib_kernel, 1024, 2048).root(stream)  # type: ignore[arg-type]
    assert root == merkle_tree_hash(chunks_of(bytes(10_000), 1024), "sha256")


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
        root = FileHasher(hashlib_kernel, 1024, 4096).root(pipe)
    writer.join()
    assert root == merkle_tree_hash(chunks_of(data, 1024), "sha256")


def test_a_pipe_that_does_not_block_is_waited_for(hashlib_kernel: Kernel) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)

    def write() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(b"late")

    timer = threading.Timer(0.05, write)
    timer.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        root = FileHasher(hashlib_kernel, 64).root(pipe)
    timer.join()
    assert root == merkle_tree_hash([b"late"], "sha256")


def test_an_interrupt_ends_the_wait_for_a_pipe(hashlib_kernel: Kernel) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, bytes(64 + 10))

    def interrupt(nbytes: int) -> None:
        while select.select([read_end], [], [], 0)[0]:  # until the reader has begun the next piece, and waits
            pass
        raise KeyboardInterrupt

    with os.fdopen(read_end, "rb", buffering=0) as pipe, pytest.raises(KeyboardInterrupt):
        FileHasher(hashlib_kernel, 64, 64).root(pipe, interrupt)
    os.close(write_end)


def test_a_read_error_reaches_the_caller(hashlib_kernel: Kernel) -> None:
    hasher = FileHasher(hashlib_kernel, 64, 256)
    for nbytes in (0, 100, 256, 5000):
        with pytest.raises(OSError, match="Input/output error"):
            hasher.root(Failing(pattern(nbytes), [100]))
        with pytest.raises(OSError, match="Input/output error"):
            list(hasher.digests(Failing(pattern(nbytes), [100])))
    assert hasher.root(io.BytesIO(b"still good")) == merkle_tree_hash([b"still good"], "sha256")


def test_digests_that_nobody_wants_any_more_end_the_reading(hashlib_kernel: Kernel) -> None:
    digests = FileHasher(hashlib_kernel, 64, 64).digests(io.BytesIO(bytes(10_000)))
    next(digests)
    digests.close()  # type: ignore[attr-defined]


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
    ("change", "how"), [(_truncate, "shrank"), (_empty, "shrank"), (_append, "grew"), (_touch_up, "was written to")]
)
@pytest.mark.parametrize("strategy", ["root", "digests"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    hashlib_kernel: Kernel, tmp_path: Path, change: Callable[[Path], None], how: str, when: str, strategy: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10_000))
    os.utime(path, (0, 0))
    seen = 0

    def progress(nbytes: int) -> None:
        nonlocal seen
        seen += nbytes
        if seen == (64 if when == "at the first piece" else 10_000):
            change(path)

    hasher = FileHasher(hashlib_kernel, 64, 64)
    with pytest.raises(ChangedWhileReadError, match=f"the file {how} while it was read: 10000 bytes at the start, "):
        list(getattr(hasher, strategy)(path, progress))


def test_a_file_that_never_stops_growing_is_refused(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(bytes(1000))
    seen: list[int] = []

    def progress(nbytes: int) -> None:
        seen.append(nbytes)
        assert sum(seen) < 5000, "it is read on and on"
        with path.open("ab") as file:
            file.write(bytes(128))

    with pytest.raises(ChangedWhileReadError, match="the file grew while it was read: 1000 bytes at the start, "):
        FileHasher(hashlib_kernel, 64, 64).root(path, progress)


def test_a_file_that_ends_before_its_size_is_refused(hashlib_kernel: Kernel, tmp_path: Path) -> None:
    class EndsEarly(io.FileIO):
        def readinto(self, host: Any) -> int:
            return super().readinto(host) if self.tell() < 128 else 0

    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    error = "the file shrank while it was read: 1000 bytes at the start, 128 were read"
    with EndsEarly(path) as stream, pytest.raises(ChangedWhileReadError, match=error):
        FileHasher(hashlib_kernel, 64, 64).root(stream)


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
        FileHasher(Meddling(HashlibCpu.devices()[0]), 64).root(path)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="this system has no /proc")
def test_a_file_that_the_system_makes_up_has_no_size_to_be_held_to(hashlib_kernel: Kernel) -> None:
    path = Path("/proc/version")
    assert path.stat().st_size == 0
    assert FileHasher(hashlib_kernel, 64).root(path) == merkle_tree_hash(chunks_of(path.read_bytes(), 64), "sha256")


FASTEST = list({device.kernel: device for device in reversed(selection.available())}.values())

PEAK = """
import sys
from hashbench.hashing import selection
from hashbench.hashing.files import FileHasher
kernel, device, path, chunk_size = sys.argv[1:]
FileHasher(selection.choose(kernel, device), int(chunk_size)).root(path)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak memory")
@pytest.mark.parametrize("chunk_size", [4096, MAX_CHUNK_SIZE])
@pytest.mark.parametrize("device", FASTEST, ids=lambda d: f"{d.kernel}-{d.id}")
def test_host_memory_stays_below_a_gibibyte(tmp_path: Path, device: Device, chunk_size: int) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, GIB + MAX_CHUNK_SIZE // 2)
    command = [sys.executable, "-c", PEAK, device.kernel, device.id, str(path), str(chunk_size)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < GIB
