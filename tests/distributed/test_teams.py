"""What ranks say of the columns that they hold covers each row once, and is short where they have whole chunks."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hashbench.distributed.claims import Layout
from hashbench.distributed.subtrees import Box
from hashbench.distributed.teams import MOST_ROWS, Batch, Team, in_steps

pytestmark = [pytest.mark.covers("distributed")]


def team_of(shape: tuple[int, int], ranks: int, chunk_size: int, itemsize: int = 2, rows: int | None = None) -> Team:
    """Ranks that share the columns of a matrix out, or those of its first rows."""
    each = -(-shape[1] // ranks)
    layouts = {}
    for rank in range(ranks):
        columns = (min(shape[1], rank * each), min(shape[1], (rank + 1) * each))
        box = Box(shape, (((0, shape[0] if rows is None else rows),), (columns,)))
        layouts[rank] = Layout.of("BF16", shape, shape[0] * shape[1] * itemsize, itemsize, box, ())
    return Team(layouts, chunk_size, 32)


@pytest.mark.parametrize(
    ("shape", "ranks", "rows", "said"),
    [
        ((8192, 8192), 2, 1, 64),  # Llama 3.1 70B's o_proj: two chunks
        ((8192, 8192), 4, 1, 32),
        ((8192, 28672), 2, 1, 7 * 32),  # its down_proj
        ((8192, 28672), 4, 1, 3 * 32 + 2048),  # three chunks and a half
        ((5120, 27648), 2, 2, 12 * 32 + 6144),  # Qwen2.5 32B's down_proj: two rows are 27 chunks
    ],
)
def test_leaf_hashes_are_said_of_whole_chunks(shape: tuple[int, int], ranks: int, rows: int, said: int) -> None:
    team = team_of(shape, ranks, 4096)
    assert (team.in_chunks, team.unit) == (True, rows)
    assert min(team.sizes.values()) == said


@pytest.mark.parametrize(
    ("shape", "rows"),
    [
        ((8, 1024), None),  # pieces of half a chunk
        ((4096, 4098), None),  # 1024 rows until one begins at a leaf again
        ((5, 5120), None),  # the last two rows would be three
        ((8, 5120), 3),
    ],
)
def test_bytes_are_said_where_chunks_and_rows_do_not_fit(shape: tuple[int, int], rows: int | None) -> None:
    team = team_of(shape, 2, 4096, rows=rows)
    assert (team.in_chunks, team.unit) == (False, 1)
    assert sum(team.sizes.values()) == team.any.row_bytes


@given(
    shape=st.tuples(st.integers(1, 64), st.integers(1, 600)),
    ranks=st.integers(1, 5),
    chunk_size=st.sampled_from([64, 128, 192]),
    itemsize=st.sampled_from([1, 2, 4, 8]),
)
def test_every_byte_of_a_unit_is_said_once(shape: tuple[int, int], ranks: int, chunk_size: int, itemsize: int) -> None:
    team = team_of(shape, ranks, chunk_size, itemsize)
    assert team.unit <= MOST_ROWS
    ranges = sorted((one.start, one.start + one.nbytes) for said in team.said.values() for one in said)
    ends = [0, *(stop for _, stop in ranges)]
    assert [start for start, _ in ranges] == ends[:-1]
    assert ends[-1] == team.unit_bytes
    for rank, said in team.said.items():
        assert team.held[rank] == team.unit * sum(stop - start for start, stop in team.columns(rank))
        assert [one.at for one in said] == [sum(other.size for other in said[:i]) for i in range(len(said))]
        for one in said:
            assert not one.hashed or one.start % chunk_size == one.nbytes % chunk_size == 0


@given(piece=st.integers(1, 1 << 16), names=st.integers(1, 9), width=st.sampled_from([100, 128, 160]))
def test_all_rows_are_in_one_batch_and_steps_are_small(piece: int, names: int, width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hashbench.distributed.teams.PIECE", piece)
        team = team_of((40, width), 2, 64)
        tensors = [str(number) for number in range(names)]
        steps = in_steps(team.batches(tensors))
    batches = [batch for step in steps for batch in step]
    for name in tensors:
        runs = sorted(run for batch in batches if name in batch.names for run in batch.rows.values() if run[0] < run[1])
        assert [start for start, _ in runs] == [0, *(stop for _, stop in runs[:-1])]
        assert runs[-1][1] == 40
    for step in steps:
        assert len(step) == 1 or sum(batch.nbytes for batch in step) <= piece


def test_teams_that_share_no_rank_speak_in_the_same_step() -> None:
    first = team_of((64, 128), 2, 64)
    second = Team({rank + 2: layout for rank, layout in first.layouts.items()}, 64, 32)
    batches: list[Batch] = [*first.batches(["a"]), *second.batches(["b"])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hashbench.distributed.teams.PIECE", batches[0].nbytes)
        assert len(in_steps(batches)) == 1
        assert len(in_steps([*batches, *first.batches(["c"])])) == 2
