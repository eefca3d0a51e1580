"""Hashing of ranges and host bytes: every cut, any order, files that change or fail, few calls and bounded memory."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

from hashbench.hashing import reading, selection
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.sources import ChangedWhileReadError, FileRange, Source, Stream, opened
from hashbench.hashing.staging import MAX_CHUNK_SIZE
from hashbench.kernels import Buffer, Bytes, Kernel, OutOfDeviceMemory, Stage
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, leaf_hash, merkle_tree_hash

DATA = hashlib.shake_128(b"files").digest(60_000)
GIB = 1 << 30


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """The threads of a call end with it, whatever happens."""
    before = set(threading.enumerate())
    yield
    assert [t.name for t in set(threading.enumerate()) - before if t.name.startswith(("read", "copy"))] == []


class Counting(HashlibCpu):
    """hashlib that counts its calls, on a device with a given amount of memory."""

    def __init__(self, room: int = GIB) -> None:
        super().__init__(HashlibCpu.devices()[0])
        self.room = room
        self.staged: list[int] = []
        self.segments: list[int] = []
        self.places: list[list[int]] = []

    def free_memory(self) -> int:
        return self.room

    def stage(self, nbytes: int) -> Stage:
        if sum(self.staged) + nbytes > self.room:
            raise OutOfDeviceMemory(self.device, nbytes)
        self.staged.append(nbytes)
        return super().stage(nbytes)

    def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        self.segments.append(len(segments))
        self.places.append([segment.address % 16 for segment in segments])
        return super().tree(segments, chunk_size)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of the same size and of other bytes."""
    paths = [tmp_path / name for name in ("b", "a", "c")]
    for number, path in enumerate(paths):
        path.write_bytes(DATA[20_000 * number :][:20_000])
    return paths


def bytes_of(source: Source) -> bytes:
    assert not isinstance(source, Stream)
    if isinstance(source, FileRange):
        return source.path.read_bytes()[source.offset :][: source.nbytes]
    assert isinstance(source, np.ndarray)
    return source.tobytes()


def root_of(source: Source, chunk_size: int, algorithm: str = "sha256") -> bytes:
    return merkle_tree_hash(chunks_of(bytes_of(source), chunk_size), algorithm)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(20))
@given(
    spans=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 20_000), st.one_of(st.integers(0, 200), st.integers(0, 20_000))),
        max_size=20,
    ),
    chunk_size=st.sampled_from([64, 192, 1024, 4096, 32_768]),
    piece_size=st.sampled_from([64, 1000, 4096, 10_000, 1 << 20]),
)
def test_sources_hash_as_their_bytes_do(
    usual_kernel: Kernel, files: list[Path], spans: list[tuple[int, int, int]], chunk_size: int, piece_size: int
) -> None:
    sources: list[Source] = []
    for place, offset, nbytes in spans:
        nbytes = min(nbytes, 20_000 - offset)
        if place < len(files):
            sources.append(FileRange(files[place], offset, nbytes))
        else:
            sources.append(np.frombuffer(DATA, np.uint8)[offset : offset + nbytes])
    algorithm = usual_kernel.algorithm.name
    hasher = Hasher(usual_kernel, chunk_size, piece_size)
    nbytes = sum(len(bytes_of(source)) for source in sources)
    seen: list[tuple[int, int | None]] = []

    leaves: dict[int, list[bytes]] = defaultdict(list)
    roots = hasher.roots(
        sources, lambda *done: seen.append(done), lambda piece: leaves[piece.source].extend(map(bytes, piece.hashes))
    )
    assert roots == [root_of(source, chunk_size, algorithm) for source in sources]
    assert seen[0] == (0, nbytes)
    assert seen[-1] == (nbytes, nbytes)
    assert seen == sorted(seen)
    expected = [[leaf_hash(chunk, algorithm) for chunk in chunks_of(bytes_of(s), chunk_size)] for s in sources]
    assert [leaves[number] for number in range(len(sources))] == expected

    again = [np.empty((len(hashes), usual_kernel.algorithm.digest_size), np.uint8) for hashes in expected]
    for piece in hasher.leaves(sources):
        again[piece.source][piece.first : piece.first + len(piece.hashes)] = piece.hashes
    assert [list(map(bytes, hashes)) for hashes in again] == expected


def test_small_ranges_share_a_call_and_neighbours_a_read(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        reads.append(offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    kernel = Counting()
    ranges = [FileRange(path, start, 20) for start in range(0, 20_000, 20) for path in files]
    hasher = Hasher(kernel, 64)
    assert hasher.roots(ranges) == [root_of(part, 64) for part in ranges]
    assert kernel.segments == [len(ranges)]
    assert len(reads) == len(files)


def test_what_does_not_follow_in_a_file_begins_where_kernels_read_fastest(files: list[Path]) -> None:
    kernel = Counting()
    sources: list[Source] = [np.frombuffer(DATA, np.uint8)[:n] for n in (1, 15, 16, 17)]
    sources += [FileRange(files[0], 0, 21), FileRange(files[0], 21, 30), FileRange(files[0], 60, 5)]
    assert Hasher(kernel, 64).roots(sources) == [root_of(source, 64) for source in sources]
    assert [place - kernel.places[0][0] for place in kernel.places[0]] == [0, 0, 0, 0, 0, 5, 0]


def test_a_stage_has_no_more_segments_than_its_tables_have_room_for() -> None:
    kernel = Counting()
    sources: list[Source] = [np.zeros(1, np.uint8)] * 1000
    Hasher(kernel, 64, 64 << 10).roots(sources)
    assert kernel.segments == [*[128] * 7, 104]


def test_what_is_larger_than_the_device_streams_through(files: list[Path]) -> None:
    kernel = Counting(room=12_000)
    ranges = [FileRange(path, 1, 19_999) for path in files]
    assert Hasher(kernel, 64).roots(ranges) == [root_of(part, 64) for part in ranges]
    assert 0 < sum(kernel.staged) <= 6_000


def test_stages_are_kept_from_call_to_call(files: list[Path]) -> None:
    kernel = Counting()
    hasher = Hasher(kernel, 64, 4096)
    for _ in range(3):
        hasher.roots([FileRange(files[0], 0, 20_000)])
    assert kernel.staged == [4096] * 4


def test_nothing_and_what_is_empty_need_no_stage(tmp_path: Path) -> None:
    kernel = Counting()
    hasher = Hasher(kernel, 64)
    assert hasher.roots([]) == []
    assert list(hasher.leaves([])) == []
    empty: list[Source] = [FileRange(tmp_path / "not there", 0, 0), np.empty(0, np.uint8)]
    assert hasher.roots(empty) == [hashlib.sha256().digest()] * 2
    assert list(hasher.leaves(empty)) == []
    assert kernel.segments == []


def test_there_may_be_more_files_than_can_be_open(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}" for number in range(300)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    ranges = [FileRange(path, 0, path.stat().st_size) for path in paths]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    hasher = Hasher(Counting(), 64)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 20, limits[1]))
    try:
        roots = hasher.roots(ranges)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert roots == [root_of(part, 64) for part in ranges]


@given(st.integers(64, 1 << 28), st.integers(0, 1 << 40), st.integers(1, 1 << 28))
def test_pieces_are_complete_subtrees_within_every_bound(chunk_size: int, free: int, piece_size: int) -> None:
    chunk_size -= chunk_size % 64
    hasher = Hasher(Counting(free), chunk_size, piece_size)
    chunks = hasher.piece_size // chunk_size
    assert hasher.piece_size == chunks * chunk_size
    assert chunks & (chunks - 1) == 0
    if chunks > 1:
        assert hasher.piece_size <= piece_size
        assert 3 * hasher.piece_size <= free / 2


@pytest.mark.parametrize("room", [64 * 1024, 200_000, 3 << 20])
def test_stages_of_a_stream_fit_in_what_is_free(room: int) -> None:
    kernel = Counting(room)
    data = DATA * 5
    root = Hasher(kernel, 4096).roots([Stream(io.BytesIO(data))])[0]
    assert root == merkle_tree_hash(chunks_of(data, 4096), "sha256")
    assert 0 < sum(kernel.staged) <= room // 2


def test_a_range_is_read_in_parts_that_cover_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_READ_SIZE", 1000)
    path = tmp_path / "file"
    path.write_bytes(DATA)
    ranges = [FileRange(path, start, nbytes) for start, nbytes in ((5, 2500), (2505, 400), (2905, 3000), (9000, 1000))]
    assert Hasher(Counting(), 64, 1 << 16).roots(ranges) == [root_of(part, 64) for part in ranges]
    (stage,) = reading.plan(ranges, 1 << 16)
    assert all(read.nbytes <= 1000 for read in stage.reads)
    assert sum(read.nbytes for read in stage.reads) == sum(part.nbytes for part in ranges)
    assert len(stage.reads) == 6 + 1  # what is adjacent shares reads


def test_a_file_that_was_replaced_by_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    with opened(path) as source:
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(ChangedWhileReadError, match="the file was replaced while it was read"):
            Hasher(Counting(), 64).roots([source])


# What is refused


@pytest.mark.parametrize("chunk_size", [0, -64, 100, MAX_CHUNK_SIZE + 64])
def test_other_chunk_sizes_are_refused(chunk_size: int) -> None:
    with pytest.raises(ValueError, match=f"chunk size {chunk_size} is not accepted"):
        Hasher(Counting(), chunk_size)


def test_a_device_without_room_for_a_chunk_is_out_of_memory(files: list[Path]) -> None:
    with pytest.raises(OutOfDeviceMemory, match="8,192 bytes were asked for"):
        Hasher(Counting(room=8000), 8192).roots([FileRange(files[0], 0, 100)])


def test_a_file_that_cannot_be_read_is_named(files: list[Path]) -> None:
    hasher = Hasher(Counting(), 64, 256)
    missing = files[0].with_name("missing")
    with pytest.raises(FileNotFoundError) as error:
        hasher.roots([FileRange(files[0], 0, 20_000), FileRange(missing, 0, 10)])
    assert error.value.filename == str(missing)
    with pytest.raises(IsADirectoryError) as directory:
        list(hasher.leaves([FileRange(files[0].parent, 0, 10)]))
    assert directory.value.filename == str(files[0].parent)
    assert hasher.roots([FileRange(files[0], 0, 99)]) == [root_of(FileRange(files[0], 0, 99), 64)]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="this system has no file that opens and cannot be read")
def test_an_error_while_reading_names_the_file() -> None:
    with pytest.raises(OSError, match="Input/output error") as error:
        Hasher(Counting(), 64).roots([FileRange(Path("/proc/self/mem"), 0, 64)])
    assert error.value.filename == "/proc/self/mem"


def _truncate(path: Path) -> None:
    os.truncate(path, 5000)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _touch_up(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


CHANGES = [
    (_truncate, "shrank"),
    (_append, "(grew|was changed)"),  # a system may set a file's time before its size
    (_touch_up, "was changed"),
    (_replace, "was replaced"),
]


@pytest.mark.parametrize(("change", "how"), CHANGES)
def test_a_file_that_changes_while_it_is_read_is_refused(
    files: list[Path], change: Callable[[Path], None], how: str
) -> None:
    path = files[0]
    os.utime(path, (0, 0))
    reached = 0

    def progress(done: int, total: int | None) -> None:
        nonlocal reached
        if done and not reached:
            change(path)
        reached = done

    hasher = Hasher(Counting(), 64, 64)
    with pytest.raises(ChangedWhileReadError, match=f"b: the file {how} while it was read"):
        hasher.roots([FileRange(path, 1, 19_999)], progress)
    assert 0 < reached < 20_000


@pytest.mark.parametrize(("change", "how"), CHANGES)
@pytest.mark.parametrize("nbytes", [1000, 0], ids=["with-bytes", "without"])
def test_a_file_that_changed_before_it_was_read_is_refused(
    files: list[Path], change: Callable[[Path], None], how: str, nbytes: int
) -> None:
    path = files[0]
    os.utime(path, (0, 0))
    hasher = Hasher(Counting(), 64)
    sources = [FileRange(path, 0, nbytes, path.stat()), FileRange(files[1], 0, 10)]
    hasher.roots(sources)
    change(path)
    with pytest.raises(ChangedWhileReadError, match=f"b: the file {how} while it was read"):
        hasher.roots(sources)
    with pytest.raises(ChangedWhileReadError, match=f"b: the file {how} while it was read"):
        list(hasher.leaves(sources))


def test_a_file_that_changed_between_two_looks_at_it_is_refused(files: list[Path]) -> None:
    os.utime(files[0], (0, 0))
    first = FileRange(files[0], 0, 10, files[0].stat())
    _append(files[0])
    with pytest.raises(ChangedWhileReadError, match="b: the file grew while it was read"):
        Hasher(Counting(), 64).roots([first, FileRange(files[0], 0, 20, files[0].stat())])


def test_a_file_that_changes_after_it_was_read_is_refused(files: list[Path]) -> None:
    ranges = [FileRange(path, 0, 20_000) for path in files[:2]]

    def progress(done: int, total: int | None) -> None:
        if done == total:
            _append(files[1])

    with pytest.raises(ChangedWhileReadError, match="a: the file grew while it was read"):
        Hasher(Counting(), 64, 4096).roots(ranges, progress)


def test_a_range_beyond_its_file_is_refused(files: list[Path]) -> None:
    with pytest.raises(ChangedWhileReadError, match="a: the file shrank while it was read"):
        Hasher(Counting(), 64).roots([FileRange(files[1], 19_000, 1001)])


def test_leaves_that_nobody_wants_any_more_end_the_reading(files: list[Path]) -> None:
    leaves = Hasher(Counting(), 64, 64).leaves([FileRange(files[0], 0, 20_000)])
    next(leaves)
    leaves.close()  # type: ignore[attr-defined]


PEAK = """
import sys
from pathlib import Path
from hashbench.hashing import reading, selection
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.sources import FileRange, Stream
kernel, path, chunk_size, how = sys.argv[1:]
path, nbytes = Path(path), Path(path).stat().st_size
small = [FileRange(path, start << 10, 1 << 10) for start in range(50_000)]
sources = [*small, FileRange(path, 50_000 << 10, nbytes - (50_000 << 10))]
if how == "stream":
    sources = [Stream(path.open("rb", buffering=0))]
Hasher(selection.choose(kernel), int(chunk_size)).roots(sources)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
THOROUGH = pytest.mark.thorough
KERNELS_HERE = sorted({device.kernel for device in selection.available()})
IN_SHORT = {("hashlib", MAX_CHUNK_SIZE, "stream"), ("opencl", 4096, "ranges")}


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="this system does not report a process's peak memory"
)
@pytest.mark.parametrize(
    ("name", "chunk_size", "how"),
    [
        pytest.param(*case, marks=[] if case in IN_SHORT else [THOROUGH])
        for case in product(KERNELS_HERE, [4096, 64 << 10, MAX_CHUNK_SIZE], ["ranges", "stream"])
    ],
)
def test_host_memory_stays_below_a_gibibyte(tmp_path: Path, name: str, chunk_size: int, how: str) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, GIB + MAX_CHUNK_SIZE // 2)
    command = [sys.executable, "-c", PEAK, name, str(path), str(chunk_size), how]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < GIB
