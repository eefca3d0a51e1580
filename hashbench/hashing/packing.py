"""Runs of consecutive things that fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def packed(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Cuts `sizes` into runs, from the first on each as long as its sum stays within `limit`. What is larger by itself
    is a run of its own.
    """
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and total + size > limit:
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
