"""The frame of a file that holds tensors: all of its bytes that are in no tensor's range."""

from __future__ import annotations

from collections.abc import Iterable


class FrameError(ValueError):
    """Ranges of a file cannot be its tensors'; the message says why."""


def separate(spans: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
    """Ranges of a file, without those that overlap an earlier or longer one but are not the same.

    Args:
        spans: offset and size of each range.
    """
    kept: set[tuple[int, int]] = set()
    end = 0
    for start, nbytes in sorted(set(spans), key=lambda span: (span[0], -span[1])):
        if start >= end or not nbytes:
            kept.add((start, nbytes))
            end = max(end, start + nbytes)
    return kept


def gaps(size: int, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What ranges of a file leave of it.

    Args:
        size: of the file in bytes.
        spans: offset and size of each range. Several may be the same; others do not overlap.

    Returns:
        Offset and size of each gap, none of them empty, in their order.

    Raises:
        FrameError: a range reaches beyond the file, or overlaps another one that is not the same.
    """
    found = []
    end = 0
    for start, nbytes in sorted(set(spans)):
        if start + nbytes > size:
            raise FrameError(f"a tensor ends at byte {start + nbytes} of {size}")
        if not nbytes:
            continue
        if start < end:
            raise FrameError(f"tensors overlap at byte {start}")
        if start > end:
            found.append((end, start - end))
        end = start + nbytes
    if end < size:
        found.append((end, size - end))
    return found
