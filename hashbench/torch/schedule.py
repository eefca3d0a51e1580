"""When each of many keys is due, so that all are visited once a period on average and none waits much longer.

In random order a key is due again after a time that is drawn after each visit, evenly from half a period to one and a
half. So no visit can be foreseen, and a change at any moment is met after 0.54 periods on average, after 1.36 in 99 of
100 cases, and after 1.5 at most, if visits are not late. In fixed order each key is due once a period, evenly spread
over it: 0.50, 0.99 and 1 periods, and foreseeable.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, Literal, TypeAlias, TypeVar

Key = TypeVar("Key", bound=Hashable)

Order: TypeAlias = Literal["random", "fixed"] | random.Random
"""Random by the operating system's generator, which cannot be predicted; or fixed; or random by a generator that is
given, as for a test."""

SHORTEST, LONGEST = 0.5, 1.5
"""Bounds, in periods, of the time to the next visit in random order."""

FULLEST = 0.95
"""The share of the time between two visits that must have passed before the next, if there are many keys."""

FEW = 500
"""With fewer keys, the time between two visits is as with so many, so that one that waits for others is hardly late."""

_GOLDEN_RATIO = 0.6180339887498949
"""Its multiples modulo 1 are spread evenly over [0, 1), however many there are."""


class Schedule(Generic[Key]):
    """The keys, and when each is due. Times are seconds of one clock of the caller's, which never
    goes back.

    Args:
        period: seconds.
        order: see `Order`.

    Raises:
        TypeError, ValueError: an argument is not accepted.
    """

    def __init__(self, period: float, order: Order = "random") -> None:
        if not isinstance(period, (int, float)) or not 0 < period < float("inf"):
            raise ValueError(f"a period of {period!r} s is not accepted: it must be a positive number of seconds")
        if order not in ("random", "fixed") and not isinstance(order, random.Random):
            raise ValueError(f"the order {order!r} is not accepted: pass 'random', 'fixed' or a random.Random")
        self.period = period
        self._random = order if isinstance(order, random.Random) else random.SystemRandom()
        self._fixed = order == "fixed"
        self._added = 0
        self._visited: OrderedDict[Key, float] = OrderedDict()  # the longest ago first
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def __iter__(self) -> Iterator[Key]:
        return iter(self._due)

    @property
    def pace(self) -> float:
        """Seconds from one visit to the next at least, so that several that are due at about the same time do not come
        in a row."""
        return FULLEST * self.period / max(FEW, len(self))

    def add(self, key: Key, now: float) -> None:
        """Adds a key that has been visited now.

        In random order, the time to its first visit is what is left of an interval in which a moment falls: so as many
        keys are due in the first periods as in all others.
        """
        self._visited[key] = now
        if self._fixed:
            self._added += 1
            self._push(key, now + self.period * (self._added * _GOLDEN_RATIO % 1))
        else:  # a moment falls into long intervals more often
            interval = math.sqrt(self._random.uniform(SHORTEST**2, LONGEST**2))
            self._push(key, now + self.period * self._random.uniform(0, interval))

    def remove(self, key: Key) -> None:
        """Removes a key; nothing happens if it is not there."""
        self._visited.pop(key, None)
        self._due.pop(key, None)

    def next(self) -> tuple[float, Key] | None:
        """The key that is due first, and when; None without keys."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due:
                return due, key
            heapq.heappop(self._heap)  # removed, or visited and due at another time
        return None

    def visited(self, key: Key, now: float) -> None:
        """Says that a key was visited: its visit began now."""
        if self._fixed:
            late = max(0.0, now - self._due[key])
            self._push(key, self._due[key] + self.period * (1 + late // self.period))
        else:
            self._push(key, now + self._interval())
        self._visited[key] = now
        self._visited.move_to_end(key)

    def oldest(self) -> float | None:
        """When the key that has waited longest was visited; None without keys."""
        return next(iter(self._visited.values()), None)

    def _interval(self) -> float:
        return self.period * self._random.uniform(SHORTEST, LONGEST)

    def _push(self, key: Key, due: float) -> None:
        self._due[key] = due
        self._pushed += 1
        heapq.heappush(self._heap, (due, self._pushed, key))
