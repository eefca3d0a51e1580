"""The roofline: operations as FIPS 180-4 has them, limits by hand and by the linear programme, and the figure."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from drawings import check_legible
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rows import READING, row

from hashbench.bench.experiment import Skip
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS, Reading
from hashbench.experiments import roofline as experiment
from hashbench.kernels import ALGORITHMS, Buffer, Device
from hashbench.limits.microbenchmarks import PIPES, Pipe, Run
from hashbench.limits.roofline import (
    MIXTURES,
    NEEDED,
    PIPE,
    SAME,
    SHIFTS_AND_WIDE,
    WAYS,
    Limit,
    Rates,
    as_written,
    balanced,
    operations,
)

SHA256, SHA384 = ALGORITHMS["sha256"], ALGORITHMS["sha384"]

BOTH, ALL_THREE = MIXTURES
PER_CLOCK = {
    **dict.fromkeys(("LOP3", "SHF", "PRMT", "IADD3"), 63.0),
    "IMAD": 63.6,
    "IMAD.WIDE": 31.8,
    "DFMA": 63.8,
    BOTH: 124.0,
    ALL_THREE: 115.0,
    SHIFTS_AND_WIDE: 63.2,
}
H200 = Rates(PER_CLOCK, multiprocessors=132, hertz=1.98e9, bytes_per_second=4.3e12)


# Operations, counted while a digest is computed -----------------------------------------------------------------------


def primes() -> Iterator[int]:
    found: list[int] = []
    number = 2
    while True:
        if all(number % prime for prime in found):
            found.append(number)
            yield number
        number += 1


def root_bits(number: int, degree: int, bits: int) -> int:
    """The first `bits` bits of the fraction of the `degree`-th root of a number."""
    low, high = 0, number << bits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle**degree <= number << (degree * bits) else (low, middle)
    return low % (1 << bits)


class Counting:
    """FIPS 180-4 on one block, counting its operations on 32 bits; additions of 64 bits are counted as one."""

    def __init__(self, bits: int) -> None:
        self.bits, self.halves, self.mask = bits, bits // 32, (1 << bits) - 1
        self.counts: Counter[str] = Counter()

    def add(self, *terms: int) -> int:
        self.counts["add" if self.bits == 32 else "add64"] += len(terms) - 1
        return sum(terms) & self.mask

    def logic(self, function: Callable[[int, int, int], int], x: int, y: int, z: int) -> int:
        self.counts["logic"] += self.halves
        return function(x, y, z) & self.mask

    def rotation(self, n: int) -> str:
        """The class of a rotation to the right by n: how far its 32-bit words shift to the left."""
        left = (self.bits - n) % 32
        return "rotate left by up to 7" if left <= 7 else "rotate left by up to 23" if left <= 23 else "rotate"

    def rotate(self, x: int, n: int) -> int:
        self.counts[self.rotation(n)] += self.halves
        return (x >> n | x << (self.bits - n)) & self.mask

    def shift(self, x: int, n: int) -> int:
        self.counts["shift"] += 1
        self.counts[self.rotation(n)] += self.halves - 1
        return x >> n

    def sigma(self, x: int, *amounts: int, last: Callable[[int, int], int] | None = None) -> int:
        first, second, third = amounts
        last = last or self.rotate
        return self.logic(lambda a, b, c: a ^ b ^ c, self.rotate(x, first), self.rotate(x, second), last(x, third))

    def compress(self, state: list[int], block: bytes) -> list[int]:
        wide = self.bits == 64
        rounds = 80 if wide else 64
        size = self.bits // 8
        amounts = (
            ((28, 34, 39), (14, 18, 41), (1, 8, 7), (19, 61, 6))
            if wide
            else ((2, 13, 22), (6, 11, 25), (7, 18, 3), (17, 19, 10))
        )
        k = [root_bits(prime, 3, self.bits) for prime in islice(primes(), rounds)]
        w = [int.from_bytes(block[i : i + size]) for i in range(0, 16 * size, size)]
        self.counts["permute"] += 16 * self.halves  # bytes turned to big-endian
        for t in range(16, rounds):
            small_0 = self.sigma(w[t - 15], *amounts[2], last=self.shift)
            small_1 = self.sigma(w[t - 2], *amounts[3], last=self.shift)
            w.append(self.add(small_1, w[t - 7], small_0, w[t - 16]))
        a, b, c, d, e, f, g, h = state
        for t in range(rounds):
            choose = self.logic(lambda x, y, z: (x & y) ^ (~x & z), e, f, g)
            majority = self.logic(lambda x, y, z: (x & y) ^ (x & z) ^ (y & z), a, b, c)
            t1 = self.add(h, self.sigma(e, *amounts[1]), choose, k[t], w[t])
            t2 = self.add(self.sigma(a, *amounts[0]), majority)
            a, b, c, d, e, f, g, h = self.add(t1, t2), a, b, c, self.add(d, t1), e, f, g
        return [self.add(x, y) for x, y in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


@pytest.mark.parametrize("algorithm", list(ALGORITHMS.values()), ids=lambda a: a.name)
def test_a_block_needs_what_a_right_digest_takes(algorithm: Any) -> None:
    bits = 64 if algorithm.block_size == 128 else 32
    first = list(islice(primes(), 16))
    state = [root_bits(prime, 2, bits) for prime in (first[8:] if bits == 64 else first[:8])]
    message = b"abc"
    end = (8 * len(message)).to_bytes(bits // 4)
    block = (message + b"\x80").ljust(algorithm.block_size - len(end), b"\0") + end
    counting = Counting(bits)
    words = counting.compress(state, block)
    digest = b"".join(word.to_bytes(bits // 8) for word in words)[: algorithm.digest_size]
    assert digest == hashlib.new(algorithm.name, message).digest()
    assert operations(algorithm) == +counting.counts


# Limits ---------------------------------------------------------------------------------------------------------------


def test_as_written_the_alu_binds() -> None:
    limit = as_written(SHA256, H200)
    assert limit.clocks == pytest.approx((576 + 96 + 352 + 16) / 63)
    assert limit.binding == ("ALU",)
    assert limit.gb_per_s == pytest.approx(132 * 1.98 * 64 / (1040 / 63))
    assert as_written(SHA384, H200).clocks == pytest.approx((1600 + 128 + 896 + 32 + 760) / 63)


def test_balanced_shifts_go_to_the_third_pipe_and_rotations_until_no_more_can_be_issued() -> None:
    limit = balanced(SHA256, H200)
    assert limit.binding == ("ALU", "issue")
    assert limit.ways["shift"] == pytest.approx((0, 96, 0, 0, 0))
    # Each rotation that leaves the ALU is one more instruction to issue: (944 - n) / 63 = (1640 + n) / 124.
    assert limit.clocks == pytest.approx((944 + 1640) / (63 + 124))
    # SHA-384's additions of 64 bits are one instruction each, in sums of three.
    assert balanced(SHA384, H200).clocks == pytest.approx((3288 + 3416) / (63 + 124))


def test_balanced_without_double_precision_nothing_leaves_the_alu() -> None:
    without = replace(H200, per_clock={name: n for name, n in PER_CLOCK.items() if "DFMA" not in name})
    assert balanced(SHA256, without).gb_per_s == pytest.approx(as_written(SHA256, without).gb_per_s)
    slow = replace(H200, per_clock=PER_CLOCK | {"DFMA": 2.0, ALL_THREE: 6.0})
    limit = balanced(SHA256, slow)
    assert limit.binding == ("ALU", "FP64")
    _, doubles, *_ = limit.ways["shift"]
    assert limit.clocks == pytest.approx((1040 - doubles) / 63) == pytest.approx(doubles / 2)


def test_what_a_product_takes_of_the_alu_is_what_the_mixture_shows() -> None:
    assert H200.alu_slots_of_wide == 1
    assert H200.clocks({"IMAD.WIDE": 2})["ALU"] == pytest.approx(2 / 63)
    for rates in (
        {SHIFTS_AND_WIDE: 94.0},  # shifts and products at their own rates, side by side
        {"IMAD.WIDE": 15.0, SHIFTS_AND_WIDE: 44.0},  # the product's own pipe is what takes the time
    ):
        free = replace(H200, per_clock=PER_CLOCK | rates)
        assert free.alu_slots_of_wide == 0
        assert free.clocks({"IMAD.WIDE": 1})["ALU"] == 0


def test_products_help_where_they_leave_the_alu_alone() -> None:
    rates = {name: n for name, n in PER_CLOCK.items() if "DFMA" not in name} | {SHIFTS_AND_WIDE: 94.0}
    limit = balanced(SHA256, replace(H200, per_clock=rates))
    assert limit.ways["shift"] == pytest.approx((0, 0, 96, 0, 0))
    rotations = [ways for name, ways in limit.ways.items() if name.startswith("rotate")]
    stay, go = (sum(ways[way] for ways in rotations) for way in (0, 2))
    assert stay + go == pytest.approx(576)
    # Both pipes are busy for T: (944 - go) / 63 = (600 + go) / 63.6 + (96 + go) / 31.8.
    assert go == pytest.approx((944 / 63 - 600 / 63.6 - 96 / 31.8) / (1 / 63 + 1 / 63.6 + 1 / 31.8))
    assert limit.clocks == pytest.approx((944 - go) / 63)


def test_dot_products_take_rotations_from_the_alu_where_nothing_else_does() -> None:
    rates = {name: n for name, n in PER_CLOCK.items() if "DFMA" not in name}
    limit = balanced(SHA384, replace(H200, per_clock=rates | {"IDP": 64.0}))
    *_, near = limit.ways["rotate left by up to 7"]
    assert near == pytest.approx(2 * (80 + 64))  # by 28 and 61 to the right
    assert limit.gb_per_s > 1.1 * as_written(SHA384, H200).gb_per_s


def test_bits_are_reversed_on_a_pipe_of_their_own() -> None:
    rates = {name: n for name, n in PER_CLOCK.items() if "DFMA" not in name}
    limit = balanced(SHA256, replace(H200, per_clock=rates | {"BREV": 16.0, BOTH: 200.0}))
    assert limit.binding == ("ALU", "XU")
    reversed_ = sum(ways[4] for name, ways in limit.ways.items() if name.startswith(("shift", "rotate")))
    assert limit.clocks == pytest.approx((1040 - reversed_) / 63) == pytest.approx(2 * reversed_ / 16)


def test_balanced_the_issue_rate_may_bind() -> None:
    rates = replace(H200, per_clock=PER_CLOCK | {BOTH: 100.0, ALL_THREE: 99.0})
    assert rates.issued == 100
    limit = balanced(SHA256, rates)
    assert "issue" in limit.binding
    assert limit.gb_per_s < balanced(SHA256, H200).gb_per_s


def test_the_issue_rate_is_of_instructions_and_not_of_sums() -> None:
    sums = {"ADD": 190.0, "ADD64": 130.0, "LOP3+ADD": 150.0, "LOP3+IMAD of registers": 80.0}
    rates = replace(H200, per_clock=PER_CLOCK | sums)
    assert rates.issued == 124
    assert balanced(SHA256, rates) == balanced(SHA256, H200)


def clocks_of(limit: Limit, rates: Rates) -> float:
    """What the ways of a limit take, counted once more."""
    total: Counter[str] = Counter()
    for name, counts in limit.ways.items():
        for way, count in zip(WAYS[name], counts, strict=True):
            for instruction, n in way.items() if count else ():
                total[instruction] += count * n  # type: ignore[assignment]
    rate = rates.per_clock
    taken = {pipe: sum(n / rate[i] for i, n in total.items() if PIPE[i] == pipe) for pipe in PIPE.values()}
    taken["ALU"] += total["IMAD.WIDE"] * rates.alu_slots_of_wide / rate["SHF"]
    return max(*taken.values(), total.total() / max(rate.values()))


rate = st.floats(4, 128)
any_rates = st.builds(
    Rates, st.fixed_dictionaries(dict.fromkeys((*PER_CLOCK, *PIPE), rate)), st.integers(1, 200), st.floats(1e9, 3e9)
)


@given(
    rates=any_rates, algorithm=st.sampled_from(list(ALGORITHMS.values())), share=st.lists(st.floats(0, 1), min_size=8)
)
@settings(max_examples=60)
def test_no_mixture_is_better_than_the_balanced_one(rates: Rates, algorithm: Any, share: list[float]) -> None:
    best, natural = balanced(algorithm, rates), as_written(algorithm, rates)
    needed = operations(algorithm)
    for limit in (best, natural):
        assert {name: sum(ways) for name, ways in limit.ways.items()} == pytest.approx(dict(needed))
        assert limit.clocks == pytest.approx(clocks_of(limit, rates))
        assert limit.binding
    parts = iter(share)
    mixture = {}
    for name, n in needed.items():
        ways = [0.0] * len(WAYS[name])
        ways[-1] = n * (next(parts) if len(ways) > 1 else 0)
        ways[0] += n - sum(ways)
        mixture[name] = tuple(ways)
    assert best.clocks <= natural.clocks * (1 + 1e-6)
    assert best.clocks <= clocks_of(Limit(1.0, 1.0, (), mixture), rates) * SAME


def readings() -> list[Reading]:
    """What an H200 gives, made up."""
    rates = [replace(READING, subject=name, conditions="", median=n) for name, n in PER_CLOCK.items()]
    of_all = (
        ("multiprocessor", "count", 132.0),
        ("multiprocessor", "clock", 1980.0),
        ("memory read", "bandwidth", 4300.0),
    )
    return rates + [replace(READING, subject=s, quantity=q, conditions="", median=n) for s, q, n in of_all]


def test_rates_are_read_from_readings() -> None:
    assert Rates.of(Results.of(readings=readings()).readings) == H200
    for missing in (*NEEDED, "multiprocessor"):
        rest = [reading for reading in readings() if reading.subject != missing]
        assert Rates.of(Results.of(readings=rest).readings) is None
    rest = [reading for reading in readings() if reading.quantity != "bandwidth"]
    assert Rates.of(Results.of(readings=rest).readings) == replace(H200, bytes_per_second=None)


# The experiment -------------------------------------------------------------------------------------------------------


GPU = Device("cupy", "0", "NVIDIA H200", "NVIDIA", "gpu", "cupy 14", "CUDA 13.0")


def test_the_points_are_of_default_variants_on_gpus() -> None:
    for quick in (True, False):
        points = list(experiment.EXPERIMENT.points(GPU, quick=quick))
        assert [(p.algorithm, p.variant, p.nbytes, p.chunk_size) for p in points] == [
            ("sha256", None, 8 << 30, 4096),
            ("sha384", None, 8 << 30, 4096),
        ]
        assert list(experiment.EXPERIMENT.points(replace(GPU, kind="cpu"), quick=quick)) == []


@dataclass
class FakeGPU:
    """Microbenchmarks that answer at once: one unit of operations a nanosecond for each pipe's rate."""

    device: Device
    multiprocessors: int = 132
    room: int = 100 << 30

    def free_memory(self) -> int:
        return self.room

    def memory(self, nbytes: int) -> Buffer:
        return Buffer(None, 0, nbytes)

    def run(self, pipe: Pipe, turns: int) -> Run:
        return Run(rate=60.0, megahertz=1980.0, seconds=turns * 4e-6)

    def copy(self, memory: Buffer) -> float:
        return memory.nbytes / 4e12

    def read(self, memory: Buffer) -> float:
        return memory.nbytes / 4.4e12


def test_what_is_measured_becomes_readings_that_give_the_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "Microbenchmarks", FakeGPU)
    monkeypatch.setattr(experiment, "WARMUP_SECONDS", 0.0)
    found = list(experiment.EXPERIMENT.readings([Device("hashlib", "1-thread"), GPU], quick=True))
    assert all(isinstance(reading, Reading) for reading in found)
    taken = [reading for reading in found if isinstance(reading, Reading)]
    for reading in taken:
        READINGS.check(reading)
    assert {r.subject for r in taken if r.quantity == "instruction rate"} == set(PIPES)
    rates = Rates.of(Results.of(readings=taken).readings)
    assert rates is not None
    assert rates.multiprocessors == 132
    assert rates.hertz == pytest.approx(1.98e9)
    assert rates.bytes_per_second == pytest.approx(4.4e12)
    (copy,) = [reading for reading in taken if reading.subject == "memory copy"]
    assert copy.median == pytest.approx(4000)
    assert copy.note.startswith("8GiB, one half copied to the other")


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        ([Device("hashlib", "1-thread")], "measured through cupy, which was not asked for"),
        ([Device("cupy", unavailable="the driver finds no GPU")], "cupy: the driver finds no GPU"),
    ],
)
def test_without_a_gpu_it_says_why(devices: list[Device], reason: str) -> None:
    (skip,) = experiment.EXPERIMENT.readings(devices, quick=True)
    assert isinstance(skip, Skip)
    assert reason in skip.reason


def taken_from(devices: list[Device]) -> tuple[list[Reading], list[str]]:
    """The readings, and what was raised between them."""
    found = experiment.EXPERIMENT.readings(devices, quick=True)
    readings: list[Reading] = []
    raised: list[str] = []
    while True:
        try:
            taken = next(found)
        except StopIteration:
            return readings, raised
        except RuntimeError as error:
            raised.append(str(error))
        else:
            assert isinstance(taken, Reading)
            readings.append(taken)


def test_what_fails_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Broken(FakeGPU):
        def __post_init__(self) -> None:
            if self.device.id == "1":
                raise RuntimeError("the device is gone")

        def run(self, pipe: Pipe, turns: int) -> Run:
            if pipe.name == "SHF":
                raise RuntimeError("an illegal instruction was encountered")
            return super().run(pipe, turns)

        def copy(self, memory: Buffer) -> float:
            raise RuntimeError("the copy failed")

    monkeypatch.setattr(experiment, "Microbenchmarks", Broken)
    monkeypatch.setattr(experiment, "WARMUP_SECONDS", 0.0)
    readings, raised = taken_from([GPU, replace(GPU, id="1"), replace(GPU, id="2")])
    of_one = ["an illegal instruction was encountered", "the copy failed"]
    assert raised == [*of_one, "the device is gone", *of_one]
    for device in ("0", "2"):
        subjects = {reading.subject for reading in readings if reading.device == device}
        assert subjects == {*PIPES, "multiprocessor", "memory read"} - {"SHF"}
    assert {reading.device for reading in readings} == {"0", "2"}


def gpu_rows() -> list[Any]:
    speeds = (("cupy", "sha256", 930.0), ("numba-cuda", "sha256", 800.0), ("cupy", "sha384", 583.0))
    return [
        row(1e-9 * (8 << 30) / speed, kernel=kernel, algorithm=algorithm, bytes=8 << 30, strategy="batched")
        for kernel, algorithm, speed in speeds
    ]


def drawn(path: Path, rows: list[Any], of: list[Reading]) -> list[dict[str, str]]:
    written = experiment.EXPERIMENT.figure(Results.of(rows, of), path)
    assert [file.suffix for file in written] == [".png", ".pdf", ".svg", ".csv"]
    with written[-1].open() as text:
        return list(csv.DictReader(text))


def test_the_figure_sets_each_kernel_against_the_limits(tmp_path: Path, figures: list[Figure]) -> None:
    lines = drawn(tmp_path / "roofline", gpu_rows(), readings())
    check_legible(figures[0])
    assert [(line["algorithm"], line["kernel"]) for line in lines] == [
        ("sha256", "numba-cuda"),
        ("sha256", "cupy"),
        ("sha384", "cupy"),
    ]
    fastest = lines[1]
    limit = balanced(SHA256, H200).gb_per_s
    assert float(fastest["computed_limit_gb_per_s"]) == pytest.approx(limit, rel=1e-5)
    assert float(fastest["share_of_limit"]) == pytest.approx(930 / limit, abs=1e-3)
    assert float(fastest["gb_per_s"]) == pytest.approx(930)
    assert float(fastest["memory_read_gb_per_s"]) == 4300


def test_rows_alone_and_readings_alone_draw_too(tmp_path: Path) -> None:
    lines = drawn(tmp_path / "rows", gpu_rows(), [])
    assert [line["computed_limit_gb_per_s"] for line in lines] == [""] * 3
    lines = drawn(tmp_path / "readings", [], readings())
    assert [(line["algorithm"], line["gb_per_s"]) for line in lines] == [("sha256", ""), ("sha384", "")]
    cpu = row(kernel="hashlib", device_kind="cpu", device_name="A CPU")
    assert experiment.EXPERIMENT.figure(Results.of([cpu]), tmp_path / "cpu") == []
