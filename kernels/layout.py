"""The layout of a call: the table of chunks that device code reads, and the launches that cover it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hashbench.kernels.contract import Strategy

GROUP_SIZE_LOG2 = 7
GROUP_SIZE = 1 << GROUP_SIZE_LOG2
"""Threads per block (work-items per work-group)."""

WARP_SIZE = 32
"""Threads per warp of NVIDIA's multiprocessors."""

TILE_LEVELS = GROUP_SIZE_LOG2 + 1
"""Levels of a tree that a group computes in one launch."""

MANY_TILES = 1 << 8
"""The number of tiles from which on a reduction takes one launch per level.

With that many tiles a group per tile would occupy the device with threads that have no node to hash. With fewer, a
launch for `TILE_LEVELS` levels at once is faster."""


@dataclass(frozen=True)
class Reduction:
    """One launch of a tree's reduction. It reduces tiles of 2^levels nodes to one node each.

    Attributes:
        level: the level of the nodes that it starts from; leaves are at level 0.
        levels: the number of levels it goes up: 1, with a thread per tile, or `TILE_LEVELS`, with a group per tile.
        tiles: the number of threads or groups, enough for every tile of every segment.
    """

    level: int
    levels: int
    tiles: int


@dataclass(frozen=True)
class Layout:
    """The chunks of many segments, numbered consecutively.

    Attributes:
        chunk_size: bytes of a full chunk, at most the length of the longest segment: groups of `hash_chunks_paired`
            always process that many.
        tagged: 1 if chunks get the leaf prefix of RFC 9162, else 0.
        tree: whether the chunks' digests are reduced to a root for each segment.
        segments: number of segments.
        slots: number of chunks, each with one slot for its digest. An empty segment of a tree also has one slot, for
            the root of the empty tree.
        partial_chunks: number of chunks with fewer bytes than `chunk_size`: at most the last of each segment.
        results: number of digests that the call returns.
        table: uint64, shape (4 * segments + partial_chunks,): for each segment its offset from the base, its length in
            bytes, its first slot, and the number of full chunks before its own; then the segments with a partial
            chunk, by the length of that chunk, longest first.
        reductions: the launches that reduce the tree, bottom up.
    """

    chunk_size: int
    tagged: int
    tree: bool
    segments: int
    slots: int
    partial_chunks: int
    results: int
    table: npt.NDArray[np.uint64]
    reductions: tuple[Reduction, ...]


def digest_count(strategy: Strategy, nbytes: int, chunk_size: int | None) -> int:
    """The number of digests that one segment of `nbytes` adds to the result of a call."""
    if strategy == "tree" or chunk_size is None:
        return 1
    return -(-nbytes // chunk_size)


def lay_out(strategy: Strategy, offsets: Sequence[int], lengths: Sequence[int], chunk_size: int | None) -> Layout:
    """Lays out the chunks of a call. It never takes more launches than the deepest tree has levels.

    Args:
        strategy: as in `Kernel.prepare`.
        offsets: the offset of each segment from a common base, modulo 2^64.
        lengths: the length of each segment in bytes.
        chunk_size: as in `Kernel.prepare`; None makes each segment one chunk.
    """
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
    full_chunks = size // np.uint64(max(1, chunk_size))
    with_partial = np.flatnonzero(chunks > full_chunks)
    bytes_of_partial = size[with_partial] - full_chunks[with_partial] * np.uint64(chunk_size)

    levels = (int(chunks.max()) - 1).bit_length() if tree and segments else 0
    wrapped = np.array([offset % (1 << 64) for offset in offsets], dtype=np.uint64)
    return Layout(
        chunk_size=chunk_size,
        tagged=int(strategy != "batched"),
        tree=tree,
        segments=segments,
        slots=slots,
        partial_chunks=len(with_partial),
        results=segments if tree else slots,
        table=np.concatenate(
            [
                wrapped,
                size,
                _sums_before(chunks),
                _sums_before(full_chunks),
                with_partial[np.argsort(bytes_of_partial)[::-1]],
            ],
            dtype=np.uint64,
            casting="unsafe",
        ),
        reductions=tuple(_reductions(levels, slots, segments)),
    )


def _sums_before(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """For each number, the sum of the numbers before it."""
    return np.cumsum(numbers, dtype=np.uint64) - numbers


def _reductions(levels: int, slots: int, segments: int) -> Iterator[Reduction]:
    level = 0
    while level < levels:
        step = 1 if (slots >> (level + TILE_LEVELS)) + segments >= MANY_TILES else TILE_LEVELS
        # The tiles of segment s are numbered from (its first slot >> shift) + s, which leaves room for all of them.
        yield Reduction(level, step, (slots >> (level + step)) + segments)
        level += step
