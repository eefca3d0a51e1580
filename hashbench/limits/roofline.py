"""The limit that a GPU's measured execution pipes set for SHA-2: what a block needs, and the fewest clocks it can take.

SHA-2 is bound by the issue of integer instructions. A multiprocessor of NVIDIA's has four pipes that can execute them:
the ALU (logic, shifts, byte permutations, three-input sums), the FMA pipe (multiply-adds and dot products), the FP64
pipe (whose product shifts a word: see SHIFT_RIGHT in `kernels/device/sha2.h`) and the XU pipe (bit reversal).
Schedulers feed them all, and issue fewer instructions per clock than busy pipes could execute. Some operations can be
executed in several ways. The limit is that of the best mixture of all known ways, `WAYS`. Let x(o, w) be the number of
operations o that are executed in way w, and c(w, p) the clocks that one of them takes on p, where p is a pipe or the
schedulers. The limit is the least T such that

    sum over w of x(o, w) = what a block needs of o, for each operation o,
    sum over o and w of x(o, w) c(w, p) <= T, for each p,

which is a linear program. `as_written` is the same with each operation in its default way. That was this project's
limit until kernels went beyond it, so it is a limit of one placement of the operations, not of the GPU.

All clocks come from rates r that were measured on the device. An instruction i takes 1 / r(i) of its own pipe and
1 / r(issue) of the schedulers. r(issue) is the highest rate that any benchmark of counted instructions reached: what
was issued can be issued. It is reached by a mixture for several pipes whose instructions read one register each beside
a constant, and so do not wait for the register file; a mixture whose instructions read three stays far below it, and so
may SHA-2. Sums that the compiler writes (ADD) do not count, because it may combine two of them in one instruction.
IMAD.WIDE may also take slots of the ALU: as many whole ones, of 1 / r(SHF) each, as fit in the clocks of
SHF, SHF, IMAD.WIDE beyond those that the slower of the two pipes alone explains:

    3 / r(SHF+SHF+IMAD.WIDE) - max(2 / r(SHF), 1 / r(IMAD.WIDE)).

Either way, a device of m multiprocessors at f Hz hashes at most m f B / T bytes per second in blocks of B bytes. Loads,
stores, loops and the padding block of each chunk are not counted. Nor is it considered whether a compiler can be made
to use a way, which moves it needs, how many register operands reach the pipes per clock, or how often a scheduler finds
no ready instruction: this is a limit, not a prediction. Attempts to come closer to it are in `kernels/NOTES.md`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hashbench.bench.frames import lines
from hashbench.kernels import Algorithm
from hashbench.limits.architectures import ALU, FMA, FP64, ISSUE, PIPES

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
"""The subject of readings of a clock and of a count."""

READ = "memory read"
COPY = "memory copy"
"""The subjects of readings of a bandwidth."""

XU = "XU"
PARTS = (*PIPES, XU)
"""What bounds the throughput."""

PIPE = {
    **dict.fromkeys(("LOP3", "SHF", "PRMT", "IADD3"), ALU),
    **dict.fromkeys(("IMAD", "IMAD.WIDE", "IDP"), FMA),
    **dict.fromkeys(("DFMA", "DMUL"), FP64),
    "BREV": XU,
}
"""The pipe of each instruction."""

MIXTURES = ("LOP3+IMAD", "LOP3+IMAD+DFMA")
"""Instructions of several pipes side by side. The clock of a multiprocessor is read during the first."""

SUMS = frozenset({"ADD", "ADD64"})
"""Sums for which the compiler chooses the instructions: their rates count sums."""

SHIFTS_AND_WIDE = "SHF+SHF+IMAD.WIDE"
"""The mixture that shows whether IMAD.WIDE takes slots of the ALU."""

Way = Mapping[str, float]
"""The instructions that execute one operation."""

# x >> n is also the high word of x * 2^(32 - n), a product of doubles, or the reversed bits of a left shift, which is a
# product. A rotation is that and one more multiply-add, by 2^(32 - n).
_ROTATE: tuple[Way, ...] = (
    {"SHF": 1},
    {"DFMA": 1, "IMAD": 1},
    {"IMAD.WIDE": 1, "IMAD": 1},
    {"DMUL": 1, "IMAD": 1},
    {"BREV": 2, "IMAD": 2},
)

WAYS: Mapping[str, Sequence[Way]] = {
    "logic": ({"LOP3": 1},),
    "permute": ({"PRMT": 1},),
    "shift": ({"SHF": 1}, {"DFMA": 1}, {"IMAD.WIDE": 1}, {"DMUL": 1}, {"BREV": 2, "IMAD": 1}),
    "rotate": _ROTATE,
    # Dot products of a word's halves and bytes shift left by up to 7 bits in two instructions, by up to 23 in three.
    "rotate left by up to 7": (*_ROTATE, {"IDP": 2, "IMAD": 1}),
    "rotate left by up to 23": (*_ROTATE, {"IDP": 2, "IMAD": 2}),
    # A sum of three is two additions.
    "add": ({"IMAD": 1}, {"IADD3": 0.5}),
    # The low word's sum gives a carry, which only IADD3 does; the high word's takes it, as IADD3.X or IMAD.X. A sum of
    # three takes two instructions for two additions; IMAD.WIDE adds a word and its carry to two words.
    "add64": ({"IADD3": 1, "IMAD": 1}, {"IADD3": 1}, {"IMAD.WIDE": 1, "IMAD": 1}),
}
"""How each operation can be executed, the default way first. Operations are on 32 bits, except "add64"."""

NEEDED = tuple(dict.fromkeys((*(name for ways in WAYS.values() for name in ways[0]), MIXTURES[0])))
"""The rates that a limit requires. A way whose rates were not measured is not used."""

SAME = 1.05
"""The ratio up to which measured rates count as equal."""


@dataclass(frozen=True)
class Rates:
    """The measured rates of one device.

    Attributes:
        per_clock: operations per clock and multiprocessor, by instruction or mixture: at least NEEDED.
        multiprocessors: how many there are.
        hertz: their clock.
        bytes_per_second: the read bandwidth of the memory; None if it was not measured.
    """

    per_clock: Mapping[str, float]
    multiprocessors: int
    hertz: float
    bytes_per_second: float | None = None

    @classmethod
    def of(cls, readings: pd.DataFrame, column: str = "median") -> Rates | None:
        """The rates among one device's readings; None if one that a limit requires is missing.

        Args:
            readings: as in `hashbench.bench.frames.Results`.
            column: which value to take: "median", "q1" or "q3".
        """
        found = {(one.subject, one.quantity): float(getattr(one, column)) for one in lines(readings)}
        per_clock = {subject: value for (subject, quantity), value in found.items() if quantity == RATE}
        count, clock = found.get((MULTIPROCESSOR, COUNT)), found.get((MULTIPROCESSOR, CLOCK))
        if count is None or clock is None or not per_clock.keys() >= set(NEEDED):
            return None
        bandwidth = found.get((READ, BANDWIDTH))
        return cls(per_clock, round(count), 1e6 * clock, None if bandwidth is None else 1e9 * bandwidth)

    @property
    def issued(self) -> float:
        """Instructions that the schedulers issue per clock and multiprocessor."""
        return max(rate for name, rate in self.per_clock.items() if SUMS.isdisjoint(name.split("+")))

    @property
    def alu_slots_of_wide(self) -> int:
        """Slots of the ALU that IMAD.WIDE takes beside those of its own pipe."""
        shifts, wide = 2 / self.per_clock["SHF"], 1 / self.per_clock["IMAD.WIDE"]
        return max(0, round((3 / self.per_clock[SHIFTS_AND_WIDE] - max(shifts, wide)) * self.per_clock["SHF"]))

    def measured(self, way: Way) -> bool:
        """Whether all rates that `clocks` needs were measured."""
        wide = (SHIFTS_AND_WIDE,) if "IMAD.WIDE" in way else ()
        return self.per_clock.keys() >= {*way, *wide}

    def clocks(self, way: Way) -> dict[str, float]:
        """The clocks that one operation takes on each of PARTS."""
        taken = dict.fromkeys(PARTS, 0.0)
        for name, n in way.items():
            taken[PIPE[name]] += n / self.per_clock[name]
            taken[ISSUE] += n / self.issued
        if "IMAD.WIDE" in way:
            taken[ALU] += way["IMAD.WIDE"] * self.alu_slots_of_wide / self.per_clock["SHF"]
        return taken


@dataclass(frozen=True)
class Limit:
    """The most that a device's pipes allow: computed, not measured.

    Attributes:
        gb_per_s: in 1e9 bytes per second.
        clocks: clocks of a multiprocessor for one block of one thread.
        binding: those of PARTS that are busy all the time; several if they are balanced.
        ways: how many of a block's operations are executed in each way, in the order of WAYS.
    """

    gb_per_s: float
    clocks: float
    binding: tuple[str, ...]
    ways: Mapping[str, tuple[float, ...]]


def operations(algorithm: Algorithm) -> Counter[str]:
    """What one block needs (FIPS 180-4), in operations on 32 bits and, for SHA-384, additions on 64 bits.

    A function of three inputs is one logic operation, as is an exclusive or of three terms. A byte permutation swaps
    each word of the block to big-endian.
    """
    wide = algorithm.block_size == 128
    halves = 2 if wide else 1
    rounds = 80 if wide else 64
    add = "add64" if wide else "add"
    logic = Counter(logic=halves)

    def rotations(*distances: int) -> Counter[str]:
        """Rotations to the right. In one of 64 bits, each half is a shift across two words, as it is in one of 32."""
        return sum((_times(halves, Counter([_rotation(-distance % 32)])) for distance in distances), Counter())

    def shift(distance: int) -> Counter[str]:
        """In a 64-bit shift, the word that loses bits is filled from the other one, as in a rotation."""
        return Counter(shift=1) + _times(halves - 1, Counter([_rotation(-distance % 32)]))

    if wide:  # sections 4.1.3 (4.10) to (4.13)
        big_sigmas = rotations(28, 34, 39, 14, 18, 41) + _times(2, logic)
        small_sigmas = rotations(1, 8, 19, 61) + shift(7) + shift(6) + _times(2, logic)
    else:  # 4.1.2 (4.4) to (4.7)
        big_sigmas = rotations(2, 13, 22, 6, 11, 25) + _times(2, logic)
        small_sigmas = rotations(7, 18, 17, 19) + shift(3) + shift(10) + _times(2, logic)
    choose = majority = logic  # (4.2) and (4.3), (4.8) and (4.9)
    # Sections 6.2.2 and 6.4.2: W_t has three additions; T1 four, T2, e and a one each; the end one a variable.
    schedule = small_sigmas + Counter({add: 3})
    one_round = big_sigmas + choose + majority + Counter({add: 4 + 1 + 1 + 1})
    swap = Counter(permute=16 * halves)
    return swap + _times(rounds - 16, schedule) + _times(rounds, one_round) + Counter({add: 8})


def _rotation(left: int) -> str:
    """The name in WAYS of a rotation to the left."""
    return "rotate left by up to 7" if left < 8 else "rotate left by up to 23" if left < 24 else "rotate"


def as_written(algorithm: Algorithm, rates: Rates) -> Limit:
    """The limit with each operation on its default execution pipe."""
    needed = operations(algorithm)
    return _limit(algorithm, rates, {name: (n, *(0.0,) * (len(WAYS[name]) - 1)) for name, n in needed.items()})


def balanced(algorithm: Algorithm, rates: Rates) -> Limit:
    """The limit with the best mixture of ways, by the linear program above."""
    from scipy.optimize import linprog

    needed = operations(algorithm)
    costs = {(name, index): cost for name in needed for index, cost in _useful(WAYS[name], rates).items()}
    least = linprog(
        [*(0.0 for _ in costs), 1.0],  # T
        A_ub=[[*(cost[part] for cost in costs.values()), -1.0] for part in PARTS],
        b_ub=[0.0 for _ in PARTS],
        A_eq=[[*(float(of == name) for of, _ in costs), 0.0] for name in needed],
        b_eq=list(needed.values()),
    )
    taken = dict(zip(costs, map(float, least.x), strict=False))
    ways = {name: tuple(taken.get((name, index), 0.0) for index in range(len(WAYS[name]))) for name in needed}
    return _limit(algorithm, rates, ways)


def _useful(ways: Sequence[Way], rates: Rates) -> dict[int, Mapping[str, float]]:
    """The clocks of each measured way that no other way dominates, by its place in `ways`."""
    costs = {index: rates.clocks(way) for index, way in enumerate(ways) if rates.measured(way)}
    useful: dict[int, Mapping[str, float]] = {}
    for index, cost in sorted(costs.items(), key=lambda item: item[1][ISSUE]):
        if not any(all(other[part] <= SAME * cost[part] for part in PARTS) for other in useful.values()):
            useful[index] = cost
    return useful


def _times(n: int, counts: Counter[str]) -> Counter[str]:
    return Counter({name: n * count for name, count in counts.items()})


def _limit(algorithm: Algorithm, rates: Rates, ways: Mapping[str, tuple[float, ...]]) -> Limit:
    total = dict.fromkeys(PARTS, 0.0)
    for name, counts in ways.items():
        for way, count in zip(WAYS[name], counts, strict=True):
            if count:  # other ways may not have been measured
                for part, clocks in rates.clocks(way).items():
                    total[part] += count * clocks
    clocks = max(total.values())
    return Limit(
        gb_per_s=1e-9 * rates.multiprocessors * rates.hertz * algorithm.block_size / clocks,
        clocks=clocks,
        binding=tuple(part for part in PARTS if math.isclose(total[part], clocks, rel_tol=1e-6)),
        ways=ways,
    )
