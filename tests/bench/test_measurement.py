"""The protocol: what is timed, how often, on which inputs, and that wrong output is never timed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.bench import measurement, output_check
from hashbench.bench.measurement import Seconds, make_inputs, measure
from hashbench.bench.output_check import check_output
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import STRATEGIES, Buffer, Bytes, Kernel, Strategy, Work
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, root_of

OVERHEAD = 0.25
"""What a call takes by the wall's clock beyond the device's seconds, in the timings made up here."""


class Clock:
    """A wall clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TimedWork(Work):
    """Work that takes the seconds it is told to."""

    def __init__(self, clock: Clock, seconds: Iterator[float]) -> None:
        self.clock = clock
        self.seconds = seconds
        self.runs = 0

    def enqueue(self, stream: object) -> Callable[[], float]:
        self.runs += 1
        seconds = next(self.seconds)
        self.clock.now += seconds + OVERHEAD
        return lambda: seconds

    def output(self) -> Buffer:
        raise NotImplementedError


def seconds(warmup: Sequence[float], then: Callable[[int], float]) -> Iterator[float]:
    yield from warmup
    i = 0
    while True:
        yield then(i)
        i += 1


def warmups() -> int:
    """Runs of 10 ms and the overhead that the warm-up takes."""
    return max(measurement.WARMUP_RUNS, -(-int(1000 * measurement.WARMUP_SECONDS) // int(1000 * (OVERHEAD + 0.01))))


def test_steady_timings_end_at_the_least_number_of_repeats() -> None:
    clock = Clock()
    measured = measure([TimedWork(clock, seconds([], lambda i: 0.01))], clock)
    assert measured.device == Seconds(0.01, 0.01, 0.01, 0.01, (0.01,) * measurement.MIN_REPEATS)
    assert measured.wall.count == measurement.MIN_REPEATS
    assert measured.wall.median == pytest.approx(0.01 + OVERHEAD)


def test_warm_up_is_not_measured() -> None:
    clock = Clock()
    work = TimedWork(clock, seconds([9.0] * measurement.WARMUP_RUNS, lambda i: 0.01))
    assert measure([work], clock).device.q3 == 0.01
    assert work.runs == measurement.WARMUP_RUNS + measurement.MIN_REPEATS


def test_fast_runs_warm_up_for_a_while() -> None:
    clock = Clock()
    work = TimedWork(clock, seconds([], lambda i: -OVERHEAD + 0.001))
    measured = measure([work], clock)
    assert work.runs - measured.device.count >= measurement.WARMUP_SECONDS / 0.001


def test_unsteady_timings_end_with_the_budget_or_the_most_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(budget: float) -> int:
        monkeypatch.setattr(measurement, "BUDGET_SECONDS", budget)
        clock = Clock()
        return measure([TimedWork(clock, seconds([], lambda i: 0.01 * (1 + i % 2)))], clock).device.count

    assert count(0.0) == measurement.MIN_REPEATS_IN_BUDGET
    assert count(1.2) == 5
    assert measurement.MIN_REPEATS < count(20.0) < measurement.MAX_REPEATS
    assert count(1e9) == measurement.MAX_REPEATS


def test_works_take_turns() -> None:
    clock = Clock()
    works = [TimedWork(clock, seconds([], lambda i: 0.01)) for _ in range(3)]
    measure(works, clock)
    runs = [work.runs for work in works]
    assert sum(runs) == warmups() + measurement.MIN_REPEATS
    assert max(runs) - min(runs) <= 1


@given(st.lists(st.floats(1e-6, 1e3), min_size=1))
def test_a_summary_is_ordered(samples: list[float]) -> None:
    summary = Seconds.of(samples)
    assert summary.minimum <= summary.q1 <= summary.median <= summary.q3 <= max(samples)
    assert summary.count == len(samples)


def test_quartiles_interpolate() -> None:
    summary = Seconds.of([5.0, 1.0, 4.0, 2.0, 3.0])
    assert summary == Seconds(3.0, 2.0, 4.0, 1.0, (5.0, 1.0, 4.0, 2.0, 3.0))
    assert summary.spread == pytest.approx(2 / 3)


# Inputs --------------------------------------------------------------------------------------------------------------


def reference(algorithm: str = "sha256") -> Kernel:
    return HashlibCpu(HashlibCpu.devices()[0], algorithm)


def test_inputs_fill_the_working_set_and_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "WORKING_SET", 100_000)
    kernel = reference()
    lengths = (1000, 0, 5000, 1)
    inputs = make_inputs(kernel, lengths, 3)
    assert len(inputs) == 17  # of 6001 bytes each
    assert all(tuple(segment.nbytes for segment in segments) == lengths for segments in inputs)
    ranges = sorted((s.address, s.address + s.nbytes) for segments in inputs for s in segments if s.nbytes)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ranges))
    assert all(begin % measurement.ALIGNMENT == 0 for begin, _ in ranges)
    contents = {kernel.get(segments[2]).tobytes() for segments in inputs}
    assert len(contents) == len(inputs)
    assert all(len(set(content)) > 200 for content in contents)  # of 256 byte values


@pytest.mark.parametrize("most", [1, 5120, 5632, 20_000, 1 << 30])
def test_several_allocations_hold_the_bytes_of_one(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(measurement, "WORKING_SET", 10_000)
    lengths = (1000, 0, 5000, 1, 256)
    kernel = reference()
    whole = make_inputs(kernel, lengths, 3)
    assert len({id(segment.owner) for segments in whole for segment in segments}) == 1
    asked: list[int] = []

    class Small(HashlibCpu):
        def largest_buffer(self) -> int:
            return most

        def random(self, nbytes: int, seed: int) -> Buffer:
            asked.append(nbytes)
            return super().random(nbytes, seed)

    small = Small(kernel.device)
    parts = make_inputs(small, lengths, 3)
    assert [[kernel.get(s).tobytes() for s in segments] for segments in parts] == [
        [kernel.get(s).tobytes() for s in segments] for segments in whole
    ]
    assert all(nbytes <= max(most, 5120) for nbytes in asked)  # the longest segment's
    assert len(asked) == {1: 10, 5120: 5, 5632: 4, 20_000: 1, 1 << 30: 1}[most]


def test_large_inputs_come_alone_and_small_ones_not_without_end() -> None:
    assert measurement.input_count(measurement.WORKING_SET) == 1
    assert measurement.input_count(measurement.WORKING_SET + 1) == 1
    assert measurement.input_count(measurement.WORKING_SET - 1) == 2
    assert measurement.input_count(1) == measurement.MAX_BUFFERS


# Verification --------------------------------------------------------------------------------------------------------

CHUNK = 128
LENGTHS = (5 * CHUNK, 0, 300 * CHUNK + 1, 17, 128 * CHUNK)


@pytest.fixture(params=["all", "sample"])
def coverage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sample":
        monkeypatch.setattr(output_check, "WHOLE", sum(LENGTHS) - 1)
    return str(request.param)


def hashed(kernel: Kernel, strategy: Strategy, chunk_size: int | None = CHUNK) -> tuple[list[Buffer], Bytes]:
    (segments, *_) = make_inputs(kernel, LENGTHS, 5)
    work = kernel.prepare(strategy, segments, chunk_size)
    work.run()
    return segments, work.digests().copy()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
@pytest.mark.parametrize(
    ("strategy", "chunk_size"), [("batched", CHUNK), ("batched", None), ("leaves", CHUNK), ("tree", CHUNK)]
)
def test_right_digests_pass(coverage: str, strategy: Strategy, chunk_size: int | None, algorithm: str) -> None:
    kernel = reference(algorithm)
    segments, digests = hashed(kernel, strategy, chunk_size)
    assert check_output(kernel, strategy, segments, chunk_size, digests, 1) == coverage


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_missing_digest_fails(coverage: str, strategy: Strategy) -> None:
    kernel = reference()
    segments, digests = hashed(kernel, strategy)
    with pytest.raises(VerificationError, match=r"digests were returned, [0-9,]+ expected"):
        check_output(kernel, strategy, segments, CHUNK, digests[:-1], 1)


def test_any_wrong_root_fails(coverage: str) -> None:
    kernel = reference()
    segments, digests = hashed(kernel, "tree")
    for index in range(len(digests)):
        wrong = digests.copy()
        wrong[index, -1] ^= 1
        with pytest.raises(VerificationError, match=rf"root {index} of 5 differs"):
            check_output(kernel, "tree", segments, CHUNK, wrong, 1)


@pytest.mark.parametrize("strategy", ["batched", "leaves"])
def test_any_wrong_digest_fails_where_all_are_checked(strategy: Strategy) -> None:
    kernel = reference()
    segments, digests = hashed(kernel, strategy)
    for index in range(len(digests)):
        wrong = digests.copy()
        wrong[index, 0] ^= 128
        with pytest.raises(VerificationError, match=rf"{strategy}: digest {index} of {len(digests)} differs"):
            check_output(kernel, strategy, segments, CHUNK, wrong, 1)


def test_a_sample_finds_the_edges_of_segments_and_a_common_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_check, "WHOLE", sum(LENGTHS) - 1)
    monkeypatch.setattr(output_check, "SAMPLED_CHUNKS", 40)
    kernel = reference()
    segments, digests = hashed(kernel, "batched")
    for index in (0, 4, 5, 305, 306, 307, 434):  # the first and last chunks
        wrong = digests.copy()
        wrong[index, 0] ^= 1
        with pytest.raises(VerificationError, match=rf"digest {index} of"):
            check_output(kernel, "batched", segments, CHUNK, wrong, 1)
    wrong = digests.copy()
    wrong[6:305:2, 0] ^= 1
    with pytest.raises(VerificationError):
        check_output(kernel, "batched", segments, CHUNK, wrong, 1)


def test_a_leaf_that_is_always_wrong_fails_a_tree(coverage: str) -> None:
    class Wrong(HashlibCpu):
        """Hashes each full chunk as if its last byte were zero."""

        def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
            changed = []
            for segment in segments:
                data = self.get(segment)
                data[CHUNK - 1 :: CHUNK] = 0
                changed.append(self.put(data))
            return super().prepare(strategy, changed, chunk_size)

    kernel = Wrong(reference().device)
    segments, digests = hashed(kernel, "tree")
    with pytest.raises(VerificationError, match="differs from"):
        check_output(kernel, "tree", segments, CHUNK, digests, 1)


def test_a_wrong_node_over_right_leaves_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_check, "WHOLE", 1)
    monkeypatch.setattr(output_check, "SAMPLED_CHUNKS", 1)
    kernel = reference()
    segments, digests = hashed(kernel, "tree")
    leaves = kernel.leaves(segments[2:3], CHUNK)
    digests[2] = np.frombuffer(root_of([bytes(leaf) for leaf in leaves[::-1]], "sha256"), np.uint8)
    with pytest.raises(VerificationError, match="root 2 of 5 differs from the reference's"):
        check_output(kernel, "tree", segments, CHUNK, digests, 1)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
@pytest.mark.parametrize(("at_a_time", "of_a_task"), [(64, 16), (128, 1), (512, 512)])
def test_trees_are_folded_in_parts_and_by_several_processes(
    monkeypatch: pytest.MonkeyPatch, at_a_time: int, of_a_task: int, algorithm: str
) -> None:
    monkeypatch.setattr(output_check, "WHOLE", 1)
    monkeypatch.setattr(output_check, "LEAVES_AT_A_TIME", at_a_time)
    monkeypatch.setattr(output_check, "LEAVES_OF_A_TASK", of_a_task)
    monkeypatch.setattr(output_check, "LEAVES_OF_ONE_PROCESS", 0 if of_a_task == 16 else 1 << 20)
    taken: list[int] = []

    class Counted(HashlibCpu):
        def leaves(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
            leaves = super().leaves(segments, chunk_size)
            taken.append(len(leaves))
            return leaves

    kernel = Counted(reference().device, algorithm)
    segments, digests = hashed(kernel, "tree")
    assert check_output(kernel, "tree", segments, CHUNK, digests, 1) == "sample"
    assert sum(taken) == sum(-(-length // CHUNK) for length in LENGTHS)
    assert max(taken) <= at_a_time
    for index in range(len(digests)):
        wrong = digests.copy()
        wrong[index, 0] ^= 1
        with pytest.raises(VerificationError, match=rf"root {index} of 5 differs"):
            check_output(kernel, "tree", segments, CHUNK, wrong, 1)


def test_the_sample_of_leaves_has_the_edges_of_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_check, "WHOLE", 1)
    monkeypatch.setattr(output_check, "SAMPLED_CHUNKS", 1)
    monkeypatch.setattr(output_check, "LEAVES_AT_A_TIME", 16)
    monkeypatch.setattr(output_check, "LEAVES_OF_A_TASK", 16)

    class WrongLeaf(HashlibCpu):
        """Gives a wrong hash of the one chunk that is `wrong`, and the tree over it."""

        wrong = b""

        def leaves(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
            leaves = super().leaves(segments, chunk_size).copy()
            chunks = [c for s in segments for c in chunks_of(self.get(s).data, chunk_size)]
            for leaf, chunk in zip(leaves, chunks, strict=True):
                if chunk == self.wrong:
                    leaf[0] ^= 1
            return leaves

        def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
            roots = [root_of([bytes(leaf) for leaf in self.leaves([s], chunk_size)], "sha256") for s in segments]
            return np.array([np.frombuffer(root, np.uint8) for root in roots])

    kernel = WrongLeaf(reference().device)
    (segments, *_) = make_inputs(kernel, LENGTHS, 5)
    for segment in segments:
        for chunk in chunks_of(kernel.get(segment).data, CHUNK)[:: max(1, -(-segment.nbytes // CHUNK) - 1)]:
            kernel.wrong = bytes(chunk)
            with pytest.raises(VerificationError, match=r"leaves: digest [\d,]+ of 435 differs from hashlib's"):
                check_output(kernel, "tree", segments, CHUNK, kernel.tree(segments, CHUNK), 1)


def test_whole_messages_of_a_sample_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_check, "WHOLE", 1)
    kernel = reference("sha384")
    segments, digests = hashed(kernel, "batched", None)
    assert digests[1].tobytes() == hashlib.sha384().digest()
    assert check_output(kernel, "batched", segments, None, digests, 1) == "sample"
    with pytest.raises(VerificationError):
        check_output(kernel, "batched", segments, None, np.roll(digests, 1, axis=0), 1)
