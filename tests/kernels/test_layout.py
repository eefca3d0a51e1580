"""The table and the launches of a call, at sizes beyond any memory: all arithmetic is 64-bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.kernels import Strategy
from hashbench.kernels.layout import TILE_LEVELS, Layout, digest_count, lay_out

# Segments that add up to fewer than 2^64 chunks of 64 bytes.
segments = st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**62)), min_size=1, max_size=30)
chunk_sizes = st.integers(1, 2**58 - 1).map(lambda n: 64 * n) | st.sampled_from([64, 128, 4096, 1 << 20])


def leaves_of(lengths: list[int], chunk_size: int) -> list[int]:
    return [max(1, -(-length // chunk_size)) for length in lengths]


def check_table(layout: Layout, offsets: list[int], lengths: list[int], chunks: list[int]) -> None:
    """Checks where each segment is, how its chunks are numbered, and that partial chunks come first."""
    count = len(lengths)
    columns = [layout.table[place * count : (place + 1) * count].tolist() for place in range(4)]
    full_chunks = [length // max(1, layout.chunk_size) for length in lengths]
    assert columns == [offsets, lengths, *([sum(of[:i]) for i in range(count)] for of in (chunks, full_chunks))]
    with_partial = layout.table[4 * count :].tolist()
    assert sorted(with_partial) == [i for i in range(count) if chunks[i] > full_chunks[i]]
    assert len(with_partial) == layout.partial_chunks
    left = [lengths[i] - full_chunks[i] * layout.chunk_size for i in with_partial]
    assert left == sorted(left, reverse=True)


@given(segments=segments, chunk_size=chunk_sizes)
def test_a_tree(segments: list[tuple[int, int]], chunk_size: int) -> None:
    offsets, lengths = map(list, zip(*segments, strict=True))
    layout = lay_out("tree", offsets, lengths, chunk_size)
    assert layout.chunk_size == min(chunk_size, max(lengths, default=0))
    leaves = leaves_of(lengths, chunk_size)
    assert layout.slots == sum(leaves)
    assert (layout.tagged, layout.tree) == (1, True)
    assert layout.results == layout.segments == len(lengths)
    assert layout.table.dtype == np.uint64
    check_table(layout, offsets, lengths, leaves)
    assert [digest_count("tree", length, chunk_size) for length in lengths] == [1] * len(lengths)


@pytest.mark.parametrize("strategy", ["batched", "leaves"])
@given(segments=segments, chunk_size=chunk_sizes)
def test_a_digest_for_each_chunk(strategy: Strategy, segments: list[tuple[int, int]], chunk_size: int) -> None:
    offsets, lengths = map(list, zip(*segments, strict=True))
    layout = lay_out(strategy, offsets, lengths, chunk_size)
    assert (layout.tagged, layout.tree) == (int(strategy == "leaves"), False)
    assert layout.chunk_size == min(chunk_size, max(lengths, default=0))
    chunks = [-(-length // chunk_size) for length in lengths]
    assert layout.slots == layout.results == sum(chunks)
    check_table(layout, offsets, lengths, chunks)
    assert [digest_count(strategy, length, chunk_size) for length in lengths] == chunks
    assert layout.reductions == ()


@given(segments=segments)
def test_whole_segments(segments: list[tuple[int, int]]) -> None:
    offsets, lengths = map(list, zip(*segments, strict=True))
    layout = lay_out("batched", offsets, lengths, None)
    assert layout.slots == layout.results == len(lengths)
    assert layout.chunk_size == max(lengths)
    check_table(layout, offsets, lengths, [1] * len(lengths))


@given(before=st.integers(-(2**63), -1))
def test_a_segment_before_the_base(before: int) -> None:
    layout = lay_out("batched", [before], [64], None)
    assert (int(layout.table[0]) - before) % 2**64 == 0


@given(segments=segments, chunk_size=chunk_sizes)
def test_the_reduction_covers_every_tile_once(segments: list[tuple[int, int]], chunk_size: int) -> None:
    """The tiles of segment s are numbered from (first[s] >> shift) + s, as the device code finds them."""
    lengths = [length for _, length in segments]
    layout = lay_out("tree", [0] * len(lengths), lengths, chunk_size)
    leaves = leaves_of(lengths, chunk_size)
    height = 0
    for reduction in layout.reductions:
        assert reduction.level == height
        assert reduction.levels in (1, TILE_LEVELS)
        height += reduction.levels
        free = 0
        for s, count in enumerate(leaves):
            nodes = -(-count // 2**reduction.level)
            begin = (sum(leaves[:s]) >> height) + s
            assert begin >= free
            free = begin + -(-nodes // 2**reduction.levels)
        assert free <= reduction.tiles
    assert height >= (max(leaves) - 1).bit_length()
