"""A tensor whose bytes are saved in boxes, in several files, read as one stream in the order of its elements."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

from hashbench.hashing.opening import open_regular
from hashbench.hashing.sources import ChangedWhileReadError, Stream, change

_MAX_VECTORS = 512  # places that one system call reads into; Linux accepts 1024

MAX_RUNS = 1 << 24
"""The most runs of bytes that all boxes of a tensor have."""


class BoxError(ValueError):
    """Boxes do not make up a tensor; the message says why."""


class FileBox(NamedTuple):
    """A box of a tensor in a file, row-major.

    Attributes:
        offsets: the index of its first element along each dimension.
        shape: its shape.
        path: the file.
        start: its first byte there.
        status: the file's status, which it must still have.
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    path: Path
    start: int
    status: os.stat_result


class JoinedBoxes(Stream):
    """A tensor in boxes, as a stream of its bytes.

    Args:
        shape: the tensor's shape.
        itemsize: bytes of an element.
        boxes: they make up the tensor.

    Raises:
        BoxError: they leave a gap, overlap, or leave the tensor.
    """

    def __init__(self, shape: Sequence[int], itemsize: int, boxes: Sequence[FileBox]) -> None:
        self._reader = _Reader(shape, itemsize, boxes)
        super().__init__(self._reader)
        self.nbytes = self._reader.nbytes

    @property
    def statuses(self) -> Sequence[os.stat_result]:
        """Of the boxes' files."""
        return self._reader.statuses

    def check_unchanged(self) -> None:
        """Checks, after the end, that the files are still what they were.

        Raises:
            ChangedWhileReadError: one is not.
        """
        self._reader.check_unchanged()


class _Reader:
    """What `JoinedBoxes` reads from. It needs memory only while it is read."""

    name = "-"

    def __init__(self, shape: Sequence[int], itemsize: int, boxes: Sequence[FileBox]) -> None:
        self._shape = tuple(shape)
        self._itemsize = itemsize
        self._boxes = boxes
        self._place = 0
        self.nbytes = itemsize * prod(shape)
        rows = 0
        for box in boxes:
            ends = (offset + length for offset, length in zip(box.offsets, box.shape, strict=True))
            if len(box.shape) != len(self._shape) or any(end > n for end, n in zip(ends, self._shape, strict=True)):
                raise BoxError(f"a box of shape {list(box.shape)} is not inside the shape {list(self._shape)}")
            rows += prod(box.shape[: self._rows(box)])
        if rows > MAX_RUNS:
            raise BoxError(f"its boxes have {rows} rows; up to {MAX_RUNS} are accepted")
        spans = sorted((start, start + length) for box in boxes for start, length in self._runs(box))
        place = 0
        for start, stop in (*spans, (self.nbytes, self.nbytes)):
            if start != place:
                raise BoxError(f"its boxes {'leave a gap' if start > place else 'overlap'} at byte {place}")
            place = stop

    def readinto(self, host: memoryview) -> int:
        """Fills `host` with the next bytes, as far as there are any."""
        start = self._place
        stop = min(self.nbytes, start + len(host))
        with ExitStack() as stack:
            for box, starts in zip(self._boxes, self._starts, strict=True):
                if starts and starts[0] < stop and starts[-1] + self._length(box) > start:
                    file = stack.enter_context(open_regular(box.path))
                    self._check(box, os.fstat(file.fileno()))
                    self._read(file.fileno(), box, starts, start, host[: stop - start])
        self._place = stop
        return stop - start

    @property
    def statuses(self) -> Sequence[os.stat_result]:
        """See `JoinedBoxes.statuses`."""
        return [box.status for box in self._boxes]

    def check_unchanged(self) -> None:
        """See `JoinedBoxes.check_unchanged`."""
        for box in self._boxes:
            self._check(box, box.path.stat())

    @cached_property
    def _starts(self) -> list[list[int]]:
        """Where the runs of each box begin in the tensor."""
        return [[start for start, _ in self._runs(box)] for box in self._boxes]

    def _rows(self, box: FileBox) -> int:
        """The dimensions before the last that a box does not have as a whole; 0 if it has all."""
        partial = [d for d in range(len(self._shape)) if box.shape[d] != self._shape[d]]
        return partial[-1] if partial else 0

    def _length(self, box: FileBox) -> int:
        """The bytes of each of a box's runs."""
        return self._itemsize * prod(box.shape[self._rows(box) :])

    def _runs(self, box: FileBox) -> Iterator[tuple[int, int]]:
        """Start and length of each run of a box in the tensor."""
        length = self._length(box)
        if not prod(box.shape):
            return
        strides = [self._itemsize * prod(self._shape[d + 1 :]) for d in range(len(self._shape))]
        first = sum(offset * stride for offset, stride in zip(box.offsets, strides, strict=True))
        starts = [first]
        for dimension in range(self._rows(box)):
            steps = range(0, box.shape[dimension] * strides[dimension], strides[dimension])
            starts = [start + step for start in starts for step in steps]
        for start in starts:
            yield start, length

    def _read(self, descriptor: int, box: FileBox, starts: Sequence[int], begin: int, host: memoryview) -> None:
        """Reads what a box has of the bytes from `begin` on."""
        length = self._length(box)
        number = max(0, bisect_right(starts, begin) - 1)
        targets: list[memoryview] = []
        place = None
        for index in range(number, len(starts)):
            a, b = max(starts[index], begin), min(starts[index] + length, begin + len(host))
            if starts[index] >= begin + len(host):
                break
            if a >= b:
                continue
            if place is None:
                place = box.start + index * length + a - starts[index]
            targets.append(host[a - begin : b - begin])
            if len(targets) == _MAX_VECTORS:
                place = _fill(descriptor, box.path, targets, place)
                targets = []
        if place is not None:
            _fill(descriptor, box.path, targets, place)

    def _check(self, box: FileBox, now: os.stat_result) -> None:
        if how := change(box.status, now):
            raise ChangedWhileReadError(f"{box.path}: the file {how} while it was read")


def _fill(descriptor: int, path: Path, targets: Sequence[memoryview], place: int) -> int:
    """Fills memory from consecutive bytes of a file; returns where they end."""
    ends = [0]
    for target in targets:
        ends.append(ends[-1] + len(target))
    done = 0
    while done < ends[-1]:
        left = [target[max(0, done - a) :] for target, (a, b) in zip(targets, pairwise(ends), strict=True) if b > done]
        count = os.preadv(descriptor, left, place + done)
        if not count:
            raise ChangedWhileReadError(f"{path}: the file shrank while it was read")
        done += count
    return place + done
