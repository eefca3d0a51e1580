"""The limit that a GPU's measured pipes set to SHA-2: what a block needs, and the fewest clocks that it takes.

SHA-2 is bound by the issue of integer instructions. A multiprocessor of NVIDIA's has two pipes that execute them: the
ALU (logic, shifts, byte permutations, three-input sums) and the FMA pipe (multiply-adds). An operation may have several
ways to be executed, on either; the limit depends on which are taken:

- *as written*: each operation in its natural way. Sums go to the FMA pipe, as multiplications by 1.
- *balanced*: the best mixture of all ways in `WAYS`. With x(o, w) the number of operations o that take the way w, and
  n(w, i) the instructions i of that way at a measured rate of r(i) a clock, the least T such that

      sum over w of x(o, w) = what a block needs of o, for each operation o,
      sum over o, w and the instructions i of a pipe of x(o, w) n(w, i) / r(i) <= T, for each of the two pipes,
      sum over o, w and all i of x(o, w) n(w, i) / r(issue) <= T, where r(issue) is the rate of both pipes together,

  which is a linear programme.

Either way a device of m multiprocessors at f Hz hashes at most m f B / T bytes a second in blocks of B bytes. Loads,
stores, loops and the padding block of each chunk are not counted, nor is it asked whether a compiler can be brought to
take a way: it is a limit and no prediction.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from hashbench.kernels import Algorithm
from hashbench.readings import Reading

RATE = "instruction rate"
RATE_UNIT = "1/clk/SM"
CLOCK = "clock"
CLOCK_UNIT = "MHz"
COUNT = "count"
COUNT_UNIT = "1"
BANDWIDTH = "bandwidth"
BANDWIDTH_UNIT = "GB/s"
"""Quantities of readings, and their units."""

MULTIPROCESSOR = "multiprocessor"
"""The subject of the readings of a clock and of a count."""

READ = "memory read"
COPY = "memory copy"
"""The subjects of the readings of a bandwidth."""

ISSUE = "LOP3+IMAD"
"""The pair of instructions whose rate is taken for that of all instructions together: it keeps both pipes busy."""

ALU = ("LOP3", "SHF", "PRMT", "IADD3")
FMA = ("IMAD", "IMAD.WIDE")
"""The instructions of each pipe."""

Way = Mapping[str, float]
"""The instructions that one operation takes."""

WAYS: Mapping[str, Sequence[Way]] = {
    "logic": ({"LOP3": 1},),
    "permute": ({"PRMT": 1},),
    # x >> n is the high word of x * 2^(32 - n), and a rotation its high word and its low one together.
    "shift": ({"SHF": 1}, {"IMAD.WIDE": 1}),
    "rotate": ({"SHF": 1}, {"IMAD.WIDE": 1, "IMAD": 1}),
    # A sum of three is two additions.
    "add": ({"IMAD": 1}, {"IADD3": 0.5}),
    # The low word's sum gives a carry, which only IADD3 does; the high word's takes it, as IADD3.X or IMAD.X. A sum of
    # three takes two instructions for two additions; IMAD.WIDE adds a word and its carry to two words.
    "add64": ({"IADD3": 1, "IMAD": 1}, {"IADD3": 1}, {"IMAD.WIDE": 1, "IMAD": 1}),
}
"""How each operation can be executed, the natural way first. Operations are on 32 bits, but for "add64"."""

INSTRUCTIONS = tuple(dict.fromkeys((*ALU, *FMA, ISSUE)))
"""The rates that a limit needs."""


@dataclass(frozen=True)
class Rates:
    """What was measured of one device.

    Attributes:
        per_clock: operations a clock and multiprocessor, by instruction: at least INSTRUCTIONS.
        multiprocessors: how many there are.
        hertz: their clock.
        bytes_per_second: at which the memory is read; None where that was not measured.
    """

    per_clock: Mapping[str, float]
    multiprocessors: int
    hertz: float
    bytes_per_second: float | None = None

    @classmethod
    def of(cls, readings: Iterable[Reading]) -> Rates | None:
        """The rates among one device's readings; None where some that a limit needs are not there."""
        found = {(reading.subject, reading.quantity): reading.median for reading in readings}
        per_clock = {subject: value for (subject, quantity), value in found.items() if quantity == RATE}
        count, clock = found.get((MULTIPROCESSOR, COUNT)), found.get((MULTIPROCESSOR, CLOCK))
        if count is None or clock is None or not per_clock.keys() >= set(INSTRUCTIONS):
            return None
        bandwidth = found.get((READ, BANDWIDTH))
        return cls(per_clock, round(count), 1e6 * clock, None if bandwidth is None else 1e9 * bandwidth)


@dataclass(frozen=True)
class Limit:
    """The most that a device's pipes allow, computed and not measured.

    Attributes:
        gb_per_s: in 1e9 bytes a second.
        clocks: of a multiprocessor for one block of one thread.
        binding: what takes all of them: "ALU", "FMA" or "issue", several where they are balanced.
        ways: how many of a block's operations take each way, in the order of WAYS.
    """

    gb_per_s: float
    clocks: float
    binding: tuple[str, ...]
    ways: Mapping[str, tuple[float, ...]]


def operations(algorithm: Algorithm) -> Counter[str]:
    """What one block needs, in operations on 32 bits and, for SHA-384, additions on 64 bits (FIPS 180-4).

    A function of three inputs is one logic operation, an exclusive or of three terms too. Every word of the block is
    turned to big-endian by a byte permutation.
    """
    wide = algorithm.block_size == 128
    halves = 2 if wide else 1
    rounds = 80 if wide else 64
    add = "add64" if wide else "add"
    rotate = Counter(rotate=halves)
    # Of a 64-bit shift the word that bits leave is filled from the other, as in a rotation.
    shift = Counter(shift=1, rotate=halves - 1)
    logic = Counter(logic=halves)

    big_sigma = _times(3, rotate) + logic  # section 4.1.2 (4.4) and (4.5), 4.1.3 (4.10) and (4.11)
    small_sigma = _times(2, rotate) + shift + logic  # (4.6) and (4.7), (4.12) and (4.13)
    choose = majority = logic  # (4.2) and (4.3), (4.8) and (4.9)
    # Sections 6.2.2 and 6.4.2: W_t has three additions; T1 four, T2, e and a one each; the end one a variable.
    schedule = _times(2, small_sigma) + Counter({add: 3})
    one_round = _times(2, big_sigma) + choose + majority + Counter({add: 4 + 1 + 1 + 1})
    swap = Counter(permute=16 * halves)
    return swap + _times(rounds - 16, schedule) + _times(rounds, one_round) + Counter({add: 8})


def as_written(algorithm: Algorithm, rates: Rates) -> Limit:
    """The limit with each operation in its natural way."""
    needed = operations(algorithm)
    return _limit(algorithm, rates, {name: (n, *(0.0,) * (len(WAYS[name]) - 1)) for name, n in needed.items()})


def balanced(algorithm: Algorithm, rates: Rates) -> Limit:
    """The limit with the best mixture of ways, by the linear programme above."""
    from scipy.optimize import linprog

    needed = operations(algorithm)
    columns = [(name, index) for name in needed for index in range(len(WAYS[name]))]
    costs = [_clocks(WAYS[name][index], rates) for name, index in columns]
    least = linprog(
        [*(0.0 for _ in columns), 1.0],  # T
        A_ub=[[*(cost[part] for cost in costs), -1.0] for part in _PARTS],
        b_ub=[0.0 for _ in _PARTS],
        A_eq=[[*(float(of == name) for of, _ in columns), 0.0] for name in needed],
        b_eq=list(needed.values()),
    )
    taken = dict(zip(columns, least.x, strict=False))
    ways = {name: tuple(float(taken[name, index]) for index in range(len(WAYS[name]))) for name in needed}
    return _limit(algorithm, rates, ways)


_PARTS = ("ALU", "FMA", "issue")


def _times(n: int, counts: Counter[str]) -> Counter[str]:
    return Counter({name: n * count for name, count in counts.items()})


def _clocks(way: Way, rates: Rates) -> Mapping[str, float]:
    """The clocks of each pipe, and of issue, that one operation takes."""
    of_pipes = {
        part: sum(n / rates.per_clock[name] for name, n in way.items() if name in pipe)
        for part, pipe in (("ALU", ALU), ("FMA", FMA))
    }
    return {**of_pipes, "issue": sum(way.values()) / rates.per_clock[ISSUE]}


def _limit(algorithm: Algorithm, rates: Rates, ways: Mapping[str, tuple[float, ...]]) -> Limit:
    total = dict.fromkeys(_PARTS, 0.0)
    for name, counts in ways.items():
        for way, count in zip(WAYS[name], counts, strict=True):
            for part, clocks in _clocks(way, rates).items():
                total[part] += count * clocks
    clocks = max(total.values())
    return Limit(
        gb_per_s=1e-9 * rates.multiprocessors * rates.hertz * algorithm.block_size / clocks,
        clocks=clocks,
        binding=tuple(part for part in _PARTS if math.isclose(total[part], clocks, rel_tol=1e-6)),
        ways=ways,
    )
