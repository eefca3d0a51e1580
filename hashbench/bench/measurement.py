"""How a kernel is timed: one protocol for every framework, over the contract alone.

The device's seconds are those that `Work.run` returns, from the framework's own events. Wall-clock seconds are taken
around the same call and so include the launch and the wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter

import numpy as np

from hashbench.hashing.packing import packed
from hashbench.kernels import SPLITMIX64_INCREMENT, Buffer, Kernel, Work

PROTOCOL = "1"
"""The version of what this module does. Rows of different protocols are not compared."""

WORKING_SET = 256 << 20
"""Bytes that the inputs of a measurement come to at least: several times the last-level cache of most processors, so
that no run finds its input there. A smaller input is made many times over, and the runs take turns."""

MAX_BUFFERS = 64
"""Buffers in rotation at most; inputs under 4 MiB therefore rotate through less than `WORKING_SET`."""

WARMUP_RUNS = 1
WARMUP_SECONDS = 0.25
"""Warm-up ends when both are reached: clocks have risen by then. Caches and tables are filled by the verification."""

MIN_REPEATS = 7
MAX_SPREAD = 0.01
"""Repeats end when there are enough of them and the spread of the device's seconds is small."""

BUDGET_SECONDS = 3.0
MIN_REPEATS_IN_BUDGET = 3
MAX_REPEATS = 200
"""They also end when this time is over, after the fewest that have quartiles, or at this number."""

ALIGNMENT = 256
"""Where segments begin: at multiples of this many bytes, as frameworks lay tensors out."""

MAX_ALLOCATION = 16 << 30
"""Bytes that inputs of several segments take of a device in one piece at most: many drivers refuse more than a share
of their memory in one."""


@dataclass(frozen=True)
class Seconds:
    """Repeated timings of one thing, in seconds."""

    median: float
    q1: float
    q3: float
    minimum: float
    count: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Seconds:
        """The summary of `samples`, of which there is at least one; quartiles interpolate linearly."""
        q1, median, q3 = np.percentile(samples, (25, 50, 75))
        return cls(float(median), float(q1), float(q3), min(samples), len(samples))

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median."""
        return (self.q3 - self.q1) / self.median


@dataclass(frozen=True)
class Measurement:
    """One prepared call's time by the device's clock and by the wall's, over the same repeats."""

    device: Seconds
    wall: Seconds


def make_inputs(kernel: Kernel, lengths: Sequence[int], seed: int) -> list[list[Buffer]]:
    """Random inputs of the same shape, one after another, to run on in turn.

    They lie in one allocation, or in several of whole segments where one would be larger than the device or
    `MAX_ALLOCATION` allows. Their bytes are those of one SplitMix64 sequence either way: each allocation has a seed of
    its own, with which it takes the sequence up where the one before ends.

    Args:
        kernel: makes the bytes, on its device.
        lengths: bytes of each segment of one input; their sum is positive.
        seed: of the random bytes.

    Returns:
        The inputs, each a list of segments.

    Raises:
        OutOfDeviceMemory: the device has no room for them.
    """
    count = input_count(sum(lengths))
    all_lengths = count * list(lengths)
    spans = [-(-length // ALIGNMENT) * ALIGNMENT for length in all_lengths]
    segments: list[Buffer] = []
    begin = 0
    for part in packed(spans, min(MAX_ALLOCATION, kernel.largest_buffer())):
        size = sum(spans[part])
        memory = kernel.random(size, _seed_from_word(seed, begin // 8))
        begin += size
        start = 0
        for length, span in zip(all_lengths[part], spans[part], strict=True):
            segments.append(memory[start : start + length])
            start += span
    return [segments[i * len(lengths) : (i + 1) * len(lengths)] for i in range(count)]


def _seed_from_word(seed: int, word: int) -> int:
    """The seed whose SplitMix64 sequence is that of `seed` from `word` on: the state goes up by the same with each."""
    return (seed + word * SPLITMIX64_INCREMENT) % (1 << 64)


def input_count(nbytes: int) -> int:
    """How many inputs of `nbytes` bytes each take turns."""
    return min(MAX_BUFFERS, -(-WORKING_SET // nbytes))


def measure(works: Sequence[Work], clock: Callable[[], float] = perf_counter) -> Measurement:
    """The time of one run of `works`, which are the same call on inputs of the same shape, run in turn.

    Args:
        works: at least one.
        clock: the wall's, in seconds.
    """
    turn = cycle(works)
    begin = clock()
    runs = 0
    while runs < WARMUP_RUNS or clock() - begin < WARMUP_SECONDS:
        next(turn).run()
        runs += 1

    device: list[float] = []
    wall: list[float] = []
    begin = clock()
    while not _enough(device, clock() - begin):
        work = next(turn)
        start = clock()
        seconds = work.run()
        wall.append(clock() - start)
        device.append(seconds)
    return Measurement(Seconds.of(device), Seconds.of(wall))


def _enough(samples: Sequence[float], elapsed: float) -> bool:
    if elapsed >= BUDGET_SECONDS:
        return len(samples) >= MIN_REPEATS_IN_BUDGET
    steady = len(samples) >= MIN_REPEATS and Seconds.of(samples).spread <= MAX_SPREAD
    return steady or len(samples) >= MAX_REPEATS
