"""Lanes: what is read comes to the device through short blocks, however it is cut, and nothing outlives a call."""

from __future__ import annotations

import fcntl
import gc
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from host_memory import HostLane
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

from hashbench.hashing import in_turn, lanes, reading
from hashbench.hashing.direct import DirectFile
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.lanes import Lanes
from hashbench.hashing.reading import Reader, plan
from hashbench.hashing.sources import ChangedWhileReadError, FileRange, Source
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import PAGE, Buffer, Bytes, Lane, Stage
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.kernels.host_kernel import bytes_of
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

DATA = hashlib.shake_128(b"lanes").digest(100_000)
BLOCK = 8192


class ByLanes(HashlibCpu):
    """hashlib with lanes, as on a device with memory of its own.

    Attributes:
        made: the lanes that were made.
        stages: likewise.
    """

    def __init__(self) -> None:
        super().__init__(HashlibCpu.devices()[0])
        self.made: list[Lane] = []
        self.stages: list[Stage] = []

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        made: list[Lane] = [HostLane(nbytes, bytes_of) for _ in range(count)]
        self.made += made
        return made

    def stage(self, nbytes: int) -> Stage:
        self.stages.append(_Unread(super().stage(nbytes)))
        return self.stages[-1]


class _Unread(Stage):
    """A stage of which it is known whether its host memory was used.

    Attributes:
        used: that.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage, self.buffer, self.used = stage, stage.buffer, False

    @property
    def host(self) -> Bytes:
        self.used = True
        return self._stage.host

    def upload(self, nbytes: int) -> Buffer:
        return self._stage.upload(nbytes)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "BLOCK_SIZE", BLOCK)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    return path


def root(data: bytes) -> bytes:
    return merkle_tree_hash(chunks_of(data, 64), "sha256")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(30))
@given(
    spans=st.lists(
        st.tuples(st.booleans(), st.integers(0, 90_000), st.one_of(st.integers(0, 100), st.integers(0, 90_000))),
        max_size=12,
    ),
    read_size=st.sampled_from([1000, BLOCK, 3 * BLOCK, 1 << 20]),
    piece_size=st.sampled_from([64, 4096, 1 << 16, 1 << 20]),
)
def test_sources_come_as_they_are(
    file: Path, spans: list[tuple[bool, int, int]], read_size: int, piece_size: int
) -> None:
    ranges = [(in_file, start, min(nbytes, len(DATA) - start)) for in_file, start, nbytes in spans]
    sources: list[Source] = [
        FileRange(file, start, nbytes) if in_file else np.frombuffer(DATA, np.uint8)[start : start + nbytes]
        for in_file, start, nbytes in ranges
    ]
    kernel = ByLanes()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "_READ_SIZE", read_size)
        roots = Hasher(kernel, 64, piece_size).roots(sources)
    assert roots == [root(DATA[start : start + nbytes]) for _, start, nbytes in ranges]
    assert not any(stage.used for stage in kernel.stages if isinstance(stage, _Unread))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(30))
@given(
    sizes=st.lists(st.one_of(st.integers(0, 100), st.integers(0, 40_000)), min_size=1, max_size=12),
    gaps=st.lists(st.sampled_from([0, 0, 1, 5000]), min_size=12, max_size=12),
    read_size=st.sampled_from([1000, BLOCK, 3 * BLOCK, 1 << 20]),
)
def test_each_target_has_what_is_its_own(file: Path, sizes: list[int], gaps: list[int], read_size: int) -> None:
    ranges, start = [], 0
    for nbytes, gap in zip(sizes, gaps, strict=False):
        start = min(start + gap, len(DATA))
        ranges.append(FileRange(file, start, min(nbytes, len(DATA) - start)))
        start += ranges[-1].nbytes
    kernel = ByLanes()
    brought: list[int] = []
    bring = HostLane.bring

    def recorded(self: HostLane, descriptor: int, offset: int, target: Buffer) -> int:
        brought.append(target.nbytes)
        return bring(self, descriptor, offset, target)

    with pytest.MonkeyPatch.context() as patched, Reader(ranges) as reader:
        patched.setattr(reading, "_READ_SIZE", read_size)
        patched.setattr(HostLane, "bring", recorded)
        for stage in plan(ranges, 1 << 20):
            targets = [(piece.place, kernel.put(bytes(piece.nbytes))) for piece in stage.pieces]
            reader.send(stage.reads, Lanes(kernel), targets)
            for piece, (_, buffer) in zip(stage.pieces, targets, strict=True):
                one = ranges[piece.source]
                assert kernel.get(buffer).tobytes() == DATA[one.offset : one.offset + one.nbytes]
    assert all(nbytes >= BLOCK for nbytes in brought)
    at_once = [one.nbytes for one in ranges if one.nbytes >= BLOCK + read_size]  # one read is theirs alone
    assert read_size < BLOCK or sum(brought) >= len(at_once) * BLOCK


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(30))
@given(
    spans=st.lists(
        st.tuples(st.booleans(), st.integers(0, 100_000), st.one_of(st.integers(0, 100), st.integers(0, 60_000))),
        max_size=8,
    ),
    cached=st.integers(0, 1 << 25),
    threads=st.integers(1, 4),
)
def test_what_comes_in_turn_past_the_cache_is_as_it_is(
    file: Path, spans: list[tuple[bool, int, int]], cached: int, threads: int
) -> None:
    ranges = [(in_file, start, min(nbytes, len(DATA) - start)) for in_file, start, nbytes in spans]
    sources: list[Source] = [
        FileRange(file, start, nbytes) if in_file else np.frombuffer(DATA, np.uint8)[start : start + nbytes]
        for in_file, start, nbytes in ranges
    ]

    def pages(descriptor: int, offset: int, nbytes: int) -> npt.NDArray[np.bool_]:
        return np.array([cached >> n & 1 == 1 for n in range(offset // PAGESIZE, (offset + nbytes) // PAGESIZE + 1)])

    kernel = ByLanes()
    with pytest.MonkeyPatch.context() as patched, Reader(sources, direct=True) as reader:
        patched.setattr(in_turn, "cached_pages", pages)
        for stage in plan(sources, 1 << 20):
            targets = [(piece.place, kernel.put(bytes(piece.nbytes))) for piece in stage.pieces]
            _at_once(threads * [reader.in_turn(stage, Lanes(kernel), targets)])
            for piece, (_, buffer) in zip(stage.pieces, targets, strict=True):
                start = ranges[piece.source][1] + piece.start
                assert kernel.get(buffer).tobytes() == DATA[start : start + piece.nbytes]


def test_what_comes_in_turn_is_read_in_the_order_of_the_file_and_past_the_cache(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[tuple[int, bool]] = []
    original = os.preadv

    def recorded(descriptor: int, buffers: Any, offset: int) -> int:
        reads.append((offset, bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)))
        return original(descriptor, buffers, offset)

    try:
        DirectFile(str(file)).close()
    except OSError as error:
        pytest.skip(f"the file system of temporary files has no direct reads: {error.strerror}")
    monkeypatch.setattr(in_turn, "cached_pages", lambda descriptor, offset, nbytes: np.zeros(100, bool))
    monkeypatch.setattr(os, "preadv", recorded)
    kernel = ByLanes()
    ranges = [FileRange(file, 100, 40_000), FileRange(file, 40_100, 50_000)]
    with Reader(ranges, direct=True) as reader:
        (stage,) = plan(ranges, 1 << 20)
        reader.in_turn(stage, Lanes(kernel), [(0, kernel.put(bytes(stage.nbytes)))])()
    assert all(direct for _, direct in reads)
    assert [offset for offset, _ in reads] == sorted(offset for offset, _ in reads)
    assert {offset % PAGE for offset, _ in reads} == {0}


@pytest.mark.parametrize("nbytes", [50_000, 1 << 20])
def test_a_file_that_is_shorter_than_what_comes_in_turn_is_an_error(file: Path, nbytes: int) -> None:
    source = FileRange(file, 60_000, nbytes)
    kernel = ByLanes()
    with Reader([source], direct=True) as reader:
        (stage,) = plan([source], 1 << 21)
        bring = reader.in_turn(stage, Lanes(kernel), [(0, kernel.put(bytes(stage.nbytes)))])
        with pytest.raises(ChangedWhileReadError, match="file: the file shrank while it was read"):
            bring()


def test_a_file_that_is_missing_is_an_error_where_its_parts_are_read(file: Path) -> None:
    source = FileRange(file.with_name("missing"), 0, 10)
    kernel = ByLanes()
    with Reader([source], direct=True) as reader:
        (stage,) = plan([source], 1 << 20)
        bring = reader.in_turn(stage, Lanes(kernel), [(0, kernel.put(bytes(10)))])
        with pytest.raises(FileNotFoundError, match="missing"):
            bring()


def test_who_stops_gets_no_more_parts_and_leaves_no_file_open(file: Path) -> None:
    def is_open() -> bool:
        return any(os.path.realpath(link) == str(file.resolve()) for link in Path("/proc/self/fd").iterdir())

    if not Path("/proc/self/fd").exists():
        pytest.skip("the system does not say which files are open")
    kernel = ByLanes()
    source = FileRange(file, 0, len(DATA))
    reader = Reader([source], direct=True)
    with reader:
        (stage,) = plan([source], 1 << 20)
        target = kernel.put(bytes(stage.nbytes))
        bring = reader.in_turn(stage, Lanes(kernel), [(0, target)])
        assert is_open()
        reader.stop()
        bring()
    assert kernel.get(target).tobytes() == bytes(stage.nbytes)
    del bring
    gc.collect()
    assert not is_open()


def test_lanes_are_kept_and_no_more_than_threads_that_read(file: Path) -> None:
    kernel = ByLanes()
    hasher = Hasher(kernel, 64, 16_384)
    for _ in range(3):
        hasher.roots([FileRange(file, 0, len(DATA))])
    assert len(kernel.made) == lanes.reading_threads()


def test_threads_that_are_more_get_lanes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "reading_threads", lambda: 2)
    kernel = ByLanes()
    taken = Lanes(kernel)
    for _ in range(5):
        with taken.one() as first, taken.one() as second, taken.one() as third:
            assert len({id(lane) for lane in (first, second, third)}) == 3
    assert len(kernel.made) == 4


def test_a_file_that_cannot_be_read_leaves_the_others(file: Path) -> None:
    missing = file.with_name("missing")
    failed: dict[str, OSError] = {}
    sources = [FileRange(missing, 0, 10), FileRange(file, 0, len(DATA))]
    assert Hasher(ByLanes(), 64).roots(sources, failed=failed) == [b"", root(DATA)]
    assert list(failed) == [str(missing)]


@pytest.mark.parametrize("nbytes", [50_000, len(DATA)])
def test_a_file_that_is_shorter_than_it_was_is_an_error(file: Path, nbytes: int) -> None:
    source = FileRange(file, 60_000, nbytes)
    with pytest.raises(ChangedWhileReadError, match="file: the file shrank while it was read"):
        Hasher(ByLanes(), 64).roots([source])


def test_whoever_else_uses_the_bytes_has_them_in_host_memory(file: Path) -> None:
    kernel = ByLanes()
    whole = WholeFiles({str(file): file.stat()})
    assert Hasher(kernel, 64).roots([FileRange(file, 0, len(DATA))], whole=whole) == [root(DATA)]
    assert whole.digests() == {str(file): hashlib.sha256(DATA).digest()}
    assert not kernel.made


def test_threads_that_send_at_the_same_time_do_not_share_a_lane(file: Path) -> None:
    kernel = ByLanes()
    taken = Lanes(kernel)
    together = threading.Barrier(4)
    seen: list[Lane] = []

    def take() -> None:
        with taken.one() as lane:
            together.wait(10)
            seen.append(lane)

    _at_once([take] * 4)
    assert len({id(lane) for lane in seen}) == 4


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
