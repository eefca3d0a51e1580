"""Trees from pieces: which complete subtrees lie in a range of a tensor's bytes, and how they fold to its root.

The Merkle Tree Hash of RFC 9162 splits n leaves at the largest power of two below n. By induction, every aligned block
of 2^k leaves inside [0, n) is a node of the tree, whoever holds it. So a range of bytes is described by the roots of at
most 2 log2(n) blocks, and by the bytes at its ends that fill no leaf. Certificate Transparency calls such a description
a compact range: merging is associative.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

from hashbench.kernels import algorithm_named

Run: TypeAlias = tuple[int, int]
"""A range of a tensor's row-major bytes, or of the indexes along one of its dimensions: its start and its end."""


class Cut(NamedTuple):
    """How a range of a tensor's bytes is described.

    Attributes:
        head: the bytes before the first whole leaf; all bytes if there is none.
        blocks: first leaf and number of leaves of each complete subtree, in order.
        tail: the bytes after the last whole leaf.
    """

    head: int
    blocks: tuple[tuple[int, int], ...]
    tail: int


@lru_cache(1 << 16)
def cut(start: int, stop: int, nbytes: int, chunk_size: int) -> Cut:
    """Cuts the bytes from `start` to `stop` of a tensor of `nbytes` into complete subtrees and what is left."""
    first = -(-start // chunk_size)
    end = -(-nbytes // chunk_size) if stop == nbytes else stop // chunk_size
    if first >= end:
        return Cut(stop - start, (), 0)
    return Cut(first * chunk_size - start, tuple(_blocks(first, end)), max(0, stop - end * chunk_size))


def _blocks(first: int, end: int) -> Iterator[tuple[int, int]]:
    """The largest aligned blocks of 2^k leaves that make up the leaves from `first` to `end`."""
    while first < end:
        count = 1 << ((end - first).bit_length() - 1)
        if first:
            count = min(count, first & -first)
        yield first, count
        first += count


def content_size(run: Run, nbytes: int, chunk_size: int, digest_size: int) -> int:
    """The bytes that describe a run of a tensor: its head, the roots of its blocks, and its tail."""
    head, blocks, tail = cut(*run, nbytes, chunk_size)
    return head + digest_size * len(blocks) + tail


def fold(pieces: Iterable[tuple[Run, memoryview]], nbytes: int, chunk_size: int, algorithm: str) -> bytes:
    """The root of a tensor from the descriptions of runs that tile it.

    Args:
        pieces: each run and its description, in the order of the tensor's bytes.
        nbytes: the tensor's size.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".
    """
    size = algorithm_named(algorithm).digest_size
    new: Callable[[bytes], Any] = getattr(hashlib, algorithm)
    nodes: list[tuple[int, bytes]] = []  # leaves and root of each complete subtree, from the left
    loose = b""  # bytes since the last whole leaf

    def push(count: int, node: bytes) -> None:
        # Blocks are aligned, and sizes fall from left to right: so equal neighbours are siblings.
        while nodes and nodes[-1][0] == count:
            node = new(b"\x01" + nodes.pop()[1] + node).digest()
            count *= 2
        nodes.append((count, node))

    for run, content in pieces:
        head, blocks, tail = cut(*run, nbytes, chunk_size)
        if head:
            loose += content[:head]
            while len(loose) >= chunk_size:
                push(1, new(b"\x00" + loose[:chunk_size]).digest())
                loose = loose[chunk_size:]
        at = head
        for _, count in blocks:
            push(count, bytes(content[at : at + size]))
            at += size
        if tail:
            loose = bytes(content[at:])
    if loose:
        push(1, new(b"\x00" + loose).digest())
    if not nodes:
        return bytes(new(b"").digest())
    _, root = nodes.pop()
    while nodes:
        root = new(b"\x01" + nodes.pop()[1] + root).digest()
    return root


class Box(NamedTuple):
    """The elements that a rank holds of a tensor: all whose index along each dimension is in one of its ranges.

    Attributes:
        shape: the tensor's.
        held: for each dimension the ranges of indexes, in the order of the rank's memory, none of them empty.
    """

    shape: tuple[int, ...]
    held: tuple[tuple[Run, ...], ...]

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Box:
        """All of a tensor."""
        return cls(shape, tuple(((0, length),) if length else () for length in shape))

    @property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of what the rank holds."""
        return tuple(sum(stop - start for start, stop in ranges) for ranges in self.held)

    @property
    def row_dimensions(self) -> int:
        """The number of dimensions before the last that is not held as a whole; 0 if all are."""
        for dimension in reversed(range(len(self.shape))):
            if self.held[dimension] != ((0, self.shape[dimension]),):
                return dimension
        return 0


@lru_cache(1 << 12)
def runs_of(box: Box, itemsize: int) -> tuple[Run, ...]:
    """The runs of bytes of a box that are contiguous both in the tensor and in the rank's memory, in that order."""
    if not all(box.held):
        return ()
    if not box.shape:
        return ((0, itemsize),)
    last = box.row_dimensions
    inner = itemsize * prod(box.shape[last + 1 :])
    runs = [(start * inner, stop * inner) for start, stop in box.held[last]]
    stride = inner * box.shape[last]
    for dimension in reversed(range(last)):
        starts = [index * stride for held in box.held[dimension] for index in range(*held)]
        runs = [(start + a, start + b) for start in starts for a, b in runs]
        stride *= box.shape[dimension]
    return tuple(runs)
