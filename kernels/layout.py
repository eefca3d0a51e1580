"""How the chunks of a call are laid out: the table that device code reads, and the launches that cover it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hashbench.kernels.contract import Strategy

GROUP_SIZE_LOG2 = 7
GROUP_SIZE = 1 << GROUP_SIZE_LOG2
"""Threads of a block (work-items of a work-group)."""

WARP_SIZE = 32
"""Threads of a warp of NVIDIA's multiprocessors."""

MANY_NODES = 1 << 17
"""Nodes that fill a device even when each thread takes several of them."""


@dataclass(frozen=True)
class Reduction:
    """One launch of a tree's reduction. It takes tiles of GROUP_SIZE * 2^alone nodes down to one node each.

    Attributes:
        level: of the nodes it starts from; leaves are at level 0.
        alone: the levels, at least one, that each thread takes by itself, before its group takes the others together:
            work without idle threads where there are many nodes, and the shortest way up where there are few.
        groups: the number of groups, which is enough for every tile of every segment.
    """

    level: int
    alone: int
    groups: int

    @property
    def levels(self) -> int:
        """How many levels it goes up."""
        return GROUP_SIZE_LOG2 + self.alone


@dataclass(frozen=True)
class Layout:
    """The chunks of many segments, numbered through.

    Attributes:
        chunk_size: bytes of a chunk, and never more than the longest segment has: groups of `hash_chunks_paired` go
            through that many.
        tagged: 1 where chunks get the leaf prefix of RFC 9162, else 0.
        tree: whether the chunks' digests are reduced to a root for each segment.
        segments: number of segments.
        slots: number of chunks, each with one slot for its digest. An empty segment of a tree has one slot too,
            for the root of the empty tree.
        results: number of digests that the call returns.
        table: uint64, shape (3 * segments,): offsets from the base, lengths in bytes, index of the first chunk.
        reductions: the launches that reduce the tree, bottom up.
    """

    chunk_size: int
    tagged: int
    tree: bool
    segments: int
    slots: int
    results: int
    table: npt.NDArray[np.uint64]
    reductions: tuple[Reduction, ...]


def digest_count(strategy: Strategy, nbytes: int, chunk_size: int | None) -> int:
    """The digests that one segment of `nbytes` adds to a call's result."""
    if strategy == "tree" or chunk_size is None:
        return 1
    return -(-nbytes // chunk_size)


def lay_out(strategy: Strategy, offsets: Sequence[int], lengths: Sequence[int], chunk_size: int | None) -> Layout:
    """The layout of segments of `lengths` bytes, `offsets` bytes from a common base (modulo 2^64). A `chunk_size` of
    None makes each segment one chunk. The number of launches depends on the deepest tree alone."""
    tree = strategy == "tree"
    segments = len(lengths)
    size = np.array(lengths, dtype=np.uint64)
    if chunk_size is None:
        chunks = np.ones(segments, dtype=np.uint64)
    else:
        chunks = size // np.uint64(chunk_size) + (size % np.uint64(chunk_size) != 0)
        if tree:
            chunks = np.maximum(chunks, np.uint64(1))
    first = np.zeros(segments + 1, dtype=np.uint64)
    np.cumsum(chunks, out=first[1:])
    slots = int(first[-1])

    levels = (int(chunks.max()) - 1).bit_length() if tree and segments else 0
    longest = max(lengths, default=0)
    wrapped = np.array([offset % (1 << 64) for offset in offsets], dtype=np.uint64)
    return Layout(
        chunk_size=longest if chunk_size is None else min(int(chunk_size), longest),
        tagged=int(strategy != "batched"),
        tree=tree,
        segments=segments,
        slots=slots,
        results=segments if tree else slots,
        table=np.concatenate([wrapped, size, first[:-1]]),
        reductions=tuple(_reductions(levels, slots, segments)),
    )


def _reductions(levels: int, slots: int, segments: int) -> Iterator[Reduction]:
    level = 0
    while level < levels:
        alone = 3 if slots >> level >= MANY_NODES else 1
        # Segment s's tiles are numbered from (its first slot >> shift) + s on, which leaves room for all of them.
        shift = level + GROUP_SIZE_LOG2 + alone
        yield (reduction := Reduction(level, alone, (slots >> shift) + segments))
        level += reduction.levels
