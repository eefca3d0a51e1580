"""Packing: nothing is lost, nothing exceeds the limit, and no run could be longer."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hashbench.hashing.packing import packed


@given(sizes=st.lists(st.integers(0, 50)), limit=st.integers(1, 100))
def test_runs_are_as_long_as_they_can_be(sizes: list[int], limit: int) -> None:
    runs = [sizes[part] for part in packed(sizes, limit)]
    assert [size for run in runs for size in run] == sizes
    assert all(runs)
    assert all(sum(run) <= limit or len(run) == 1 for run in runs)
    assert all(sum(run) + after[0] > limit for run, after in pairwise(runs))
