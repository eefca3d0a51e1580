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

TILE_LEVELS = GROUP_SIZE_LOG2 + 1
"""Levels of a tree that a group takes in one launch."""

MANY_TILES = 1 << 8
"""Tiles that fill a device. With fewer, the way up is short; with as many or more, threads without a node to hash would
hold places, and a launch a level leaves none."""


@dataclass(frozen=True)
class Reduction:
    """One launch of a tree's reduction. It takes tiles of 2^levels nodes down to one node each.

    Attributes:
        level: of the nodes it starts from; leaves are at level 0.
        levels: how many it goes up: one, a thread a tile, or `TILE_LEVELS`, a group a tile.
        tiles: the number of threads or groups, which is enough for every tile of every segment.
    """

    level: int
    levels: int
    tiles: int


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
        shorts: number of chunks that have fewer bytes than `chunk_size`: at most the last of each segment.
        results: number of digests that the call returns.
        table: uint64, shape (4 * segments + shorts,): of each segment its offset from the base, length in bytes, first
            slot, and the number of whole chunks before its own; then the segments with a short chunk, the longest of
            these chunks first.
        reductions: the launches that reduce the tree, bottom up.
    """

    chunk_size: int
    tagged: int
    tree: bool
    segments: int
    slots: int
    shorts: int
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
    None makes each segment one chunk. There is never more than a launch for each level of the deepest tree."""
    tree = strategy == "tree"
    segments = len(lengths)
    size = np.array(lengths, dtype=np.uint64)
    if chunk_size is None:
        chunks = np.ones(segments, dtype=np.uint64)
    else:
        chunks = size // np.uint64(chunk_size) + (size % np.uint64(chunk_size) != 0)
        if tree:
            chunks = np.maximum(chunks, np.uint64(1))
    slots = int(chunks.sum())
    longest = max(lengths, default=0)
    chunk_size = longest if chunk_size is None else min(int(chunk_size), longest)
    wholes = size // np.uint64(max(1, chunk_size))
    with_short = np.flatnonzero(chunks > wholes)
    bytes_of_short = size[with_short] - wholes[with_short] * np.uint64(chunk_size)

    levels = (int(chunks.max()) - 1).bit_length() if tree and segments else 0
    wrapped = np.array([offset % (1 << 64) for offset in offsets], dtype=np.uint64)
    return Layout(
        chunk_size=chunk_size,
        tagged=int(strategy != "batched"),
        tree=tree,
        segments=segments,
        slots=slots,
        shorts=len(with_short),
        results=segments if tree else slots,
        table=np.concatenate(
            [wrapped, size, _sums_before(chunks), _sums_before(wholes), with_short[np.argsort(bytes_of_short)[::-1]]],
            dtype=np.uint64,
            casting="unsafe",
        ),
        reductions=tuple(_reductions(levels, slots, segments)),
    )


def _sums_before(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Of each number the sum of those before it."""
    return np.cumsum(numbers, dtype=np.uint64) - numbers


def _reductions(levels: int, slots: int, segments: int) -> Iterator[Reduction]:
    level = 0
    while level < levels:
        step = 1 if (slots >> (level + TILE_LEVELS)) + segments >= MANY_TILES else TILE_LEVELS
        # Segment s's tiles are numbered from (its first slot >> shift) + s on, which leaves room for all of them.
        yield Reduction(level, step, (slots >> (level + step)) + segments)
        level += step
