"""The measurement protocol: how every kernel is timed, whatever its framework.

Device seconds are what `Work.run` returns, measured by the framework's own events. Wall-clock seconds are measured
around the same call, so they include the launch and the wait.
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
"""The version of this protocol. Rows of different protocols are not compared."""

WORKING_SET = 256 << 20
"""Least total bytes of a measurement's inputs: several times the last-level cache of most processors, so that no run
finds its input in a cache. For a smaller input, several are made, and the runs take turns."""

MAX_BUFFERS = 64
"""Most inputs in rotation. Inputs under 4 MiB therefore rotate through less than `WORKING_SET`."""

WARMUP_RUNS = 1
WARMUP_SECONDS = 0.25
"""Warm-up ends when both are reached: clock frequencies have risen by then. The output check has already filled caches
and tables."""

MIN_REPEATS = 7
MAX_SPREAD = 0.01
"""Repeats end when there are enough of them and the spread of the device seconds is small."""

BUDGET_SECONDS = 3.0
MIN_REPEATS_IN_BUDGET = 3
MAX_REPEATS = 200
"""They also end when the budget is spent and there are enough for quartiles, or at this number."""

ALIGNMENT = 256
"""Segments begin at multiples of this many bytes, as frameworks place tensors."""

MAX_ALLOCATION = 16 << 30
"""Most bytes of one allocation for inputs of several segments: many drivers limit an allocation to a share of the
device's memory."""


@dataclass(frozen=True)
class Seconds:
    """Repeated timings of the same call, in seconds.

    Attributes:
        median, q1, q3, minimum: of the samples.
        samples: the timings, in order.
    """

    median: float
    q1: float
    q3: float
    minimum: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Seconds:
        """Summarizes `samples`, at least one. Quartiles are interpolated linearly."""
        q1, median, q3 = np.percentile(samples, (25, 50, 75))
        return cls(float(median), float(q1), float(q3), min(samples), tuple(map(float, samples)))

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self.samples)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median."""
        return (self.q3 - self.q1) / self.median


@dataclass(frozen=True)
class Measurement:
    """The device seconds and wall-clock seconds of the same runs."""

    device: Seconds
    wall: Seconds


def make_inputs(kernel: Kernel, lengths: Sequence[int], seed: int) -> list[list[Buffer]]:
    """Makes random inputs of the same shape, to run on in turn.

    They share one allocation, or several of whole segments if one would exceed what the device or `MAX_ALLOCATION`
    allows. Either way their bytes are one SplitMix64 sequence: each allocation has its own seed, with which it
    continues the sequence of the one before.

    Args:
        kernel: makes the bytes on its device.
        lengths: bytes of each segment of one input; their sum is positive.
        seed: the seed of the random bytes.

    Returns:
        The inputs, each a list of segments.

    Raises:
        OutOfDeviceMemory: the inputs do not fit in the device's memory.
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
    """The seed whose SplitMix64 sequence is that of `seed` from `word` on: each word adds the same to the state."""
    return (seed + word * SPLITMIX64_INCREMENT) % (1 << 64)


def input_count(nbytes: int) -> int:
    """The number of inputs of `nbytes` bytes each that take turns."""
    return min(MAX_BUFFERS, -(-WORKING_SET // nbytes))


def measure(works: Sequence[Work], clock: Callable[[], float] = perf_counter) -> Measurement:
    """Times one run of `works`: the same call on different inputs of the same shape, which take turns.

    Args:
        works: at least one.
        clock: the wall clock, in seconds.
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
