"""Lanes: what is read comes to the device through short blocks, however it is cut, and nothing outlives a call."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from host_memory import HostLane
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

from hashbench.hashing import lanes, reading
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.lanes import Lanes
from hashbench.hashing.reading import Reader, plan
from hashbench.hashing.sources import ChangedWhileReadError, FileRange, Source
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import Buffer, Bytes, Lane, Stage
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.kernels.host_kernel import bytes_of
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

DATA = hashlib.shake_128(b"lanes").digest(100_000)
BLOCK = 8192


class ByLanes(HashlibCpu):
    """hashlib with lanes, as on a device with memory of its own.

    Attributes:
        lanes: those that were made.
        stages: likewise.
    """

    def __init__(self) -> None:
        super().__init__(HashlibCpu.devices()[0])
        self.lanes: list[HostLane] = []
        self.stages: list[Stage] = []

    def lane(self, nbytes: int) -> Lane:
        self.lanes.append(HostLane(nbytes, bytes_of))
        return self.lanes[-1]

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
    direct=st.booleans(),
)
def test_each_target_has_what_is_its_own(
    file: Path, sizes: list[int], gaps: list[int], read_size: int, direct: bool
) -> None:
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

    with pytest.MonkeyPatch.context() as patched, Reader(ranges, direct=direct) as reader:
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
    assert direct or read_size < BLOCK or sum(brought) >= len(at_once) * BLOCK


@pytest.mark.parametrize("offset", [0, 1, 4095, 4096, 10_000])
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_read_past_the_cache_comes_as_it_is(
    file: Path, offset: int, cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "is_cached", lambda descriptor, offset: cached)
    kernel = ByLanes()
    ranges = [FileRange(file, offset, 80_000), FileRange(file, 90_001, 5), FileRange(file, 90_010, 9_990)]
    (stage,) = plan(ranges, 1 << 20)
    buffer = kernel.put(bytes(stage.nbytes))
    with Reader(ranges, direct=True) as reader:
        assert reader.carry(stage, Lanes(kernel), buffer) == stage.nbytes
    for piece, part in zip(stage.pieces, ranges, strict=True):
        got = kernel.get(buffer[piece.place : piece.place + piece.nbytes]).tobytes()
        assert got == DATA[part.offset : part.offset + part.nbytes]


def test_lanes_are_kept_and_no_more_than_threads_that_read(file: Path) -> None:
    kernel = ByLanes()
    hasher = Hasher(kernel, 64, 16_384)
    for _ in range(3):
        hasher.roots([FileRange(file, 0, len(DATA))])
    assert 1 <= len(kernel.lanes) <= 2 * reading.reading_threads()
    made = len(kernel.lanes)
    taken = Lanes(kernel)
    for _ in range(5):
        with taken.one(), taken.one():
            pass
    assert len(kernel.lanes) == made + 2


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
    assert not kernel.lanes


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
