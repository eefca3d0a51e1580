"""Runs of consecutive items whose sizes fit a limit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def packed(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Cuts `sizes` into runs, each as long as its sum stays within `limit`. A larger item is a run of its own."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield slice(start, index)
            start, total = index, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
