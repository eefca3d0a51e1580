"""Who hashes what, and which rows move: what follows from what all ranks say that they hold.

All ranks come to the same plan. Tensors with the same layouts on the same ranks are planned as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, zip_longest
from math import gcd
from typing import NamedTuple

from hashbench.distributed.claims import Layout
from hashbench.distributed.combining import Copy, Holding, copies_of
from hashbench.distributed.subtrees import Box, Run, content_size, runs_of
from hashbench.hashing.packing import packed
from hashbench.kernels import algorithm_named

PIECE = 1 << 30
"""Bytes that a rank receives rows of at a time, except that a piece has at least one row."""


@dataclass(frozen=True)
class Team:
    """Ranks that hold the same rows of a tensor together, each its own columns.

    Attributes:
        layouts: what each holds, by rank.
    """

    layouts: Mapping[int, Layout]

    @cached_property
    def any(self) -> Layout:
        """What one of them holds, for what they have in common."""
        return next(iter(self.layouts.values()))

    @cached_property
    def rows(self) -> tuple[Run, ...]:
        """The rows that they hold, in the order of their memory."""
        box, dimensions = self.any.box, self.any.box.row_dimensions
        return runs_of(Box(box.shape[:dimensions], box.held[:dimensions]), 1)

    def complete(self) -> bool:
        """Whether their columns are whole rows exactly."""
        dimension = self.any.box.row_dimensions
        columns = sorted(run for layout in self.layouts.values() for run in layout.box.held[dimension])
        ends = [(0, 0), *columns, (self.any.box.shape[dimension],) * 2]
        return all(before[1] == after[0] for before, after in pairwise(ends))

    def columns(self, rank: int) -> Iterator[Run]:
        """The ranges of a row's bytes that a rank holds."""
        box = self.layouts[rank].box
        inner = self.any.row_bytes // box.shape[box.row_dimensions]
        return ((start * inner, stop * inner) for start, stop in box.held[box.row_dimensions])

    def width(self, rank: int) -> int:
        """The bytes of a row that a rank holds."""
        return sum(stop - start for start, stop in self.columns(rank))

    def shares(self, chunk_size: int) -> Iterator[tuple[int, int, int]]:
        """The rows that each of them gets, in pieces: rank, first and end. They begin at leaves where the rows do."""
        total = sum(stop - start for start, stop in self.rows)
        size = self.any.row_bytes
        step = chunk_size // gcd(chunk_size, size)  # rows from the start of a leaf to the next row that starts one
        at_once = max(1, PIECE // size // step) * step
        bounds = [round(total * share / len(self.layouts) / step) * step for share in range(len(self.layouts))]
        for rank, (first, end) in zip(sorted(self.layouts), pairwise([*bounds, total]), strict=True):
            for start in range(min(first, total), min(end, total), at_once):
                yield rank, start, min(start + at_once, end, total)


class Piece(NamedTuple):
    """Rows of a tensor that one rank of a team gets.

    Attributes:
        name: the tensor's name.
        team: the ranks that hold them.
        rank: the one that gets them.
        start: the first of them, counted in the team's memory.
        stop: where they end.
    """

    name: str
    team: Team
    rank: int
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """The bytes of its rows."""
        return (self.stop - self.start) * self.team.any.row_bytes

    @property
    def runs(self) -> Iterator[Run]:
        """Where they lie in the tensor."""
        size, place = self.team.any.row_bytes, 0
        for start, stop in self.team.rows:
            a, b = max(start, start + self.start - place), min(stop, start + self.stop - place)
            if a < b:
                yield a * size, b * size
            place += stop - start


@dataclass(frozen=True)
class Group:
    """Tensors that all have the same layouts on the same ranks.

    Attributes:
        names: the tensors, sorted.
        layouts: what each rank holds of each of them.
        teams: the ranks that share out rows.
        copies: the copies of each tensor.
        sizes: the bytes with which each rank describes what it has hashed of a tensor.
        in_rows: whether a rank holds short pieces of many rows.
    """

    names: Sequence[str]
    layouts: Mapping[int, Layout]
    teams: Sequence[Team]
    copies: Sequence[Copy]
    sizes: Mapping[int, int]
    in_rows: bool

    @cached_property
    def moving(self) -> frozenset[int]:
        """The ranks whose rows move."""
        return frozenset(rank for team in self.teams for rank in team.layouts)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        layouts: Mapping[int, Layout],
        present: Collection[int],
        chunk_size: int,
        algorithm: str,
    ) -> Group:
        """Plans tensors.

        Args:
            names: the tensors.
            layouts: what each rank holds of each of them.
            present: all ranks.
            chunk_size: bytes of a leaf.
            algorithm: "sha256" or "sha384".

        Raises:
            PartError: ranks disagree on a tensor, a rank is missing, or what ranks hold leaves a gap or overlaps.
        """
        rows: defaultdict[tuple[object, ...], dict[int, Layout]] = defaultdict(dict)
        for rank, layout in layouts.items():
            if layout.in_short_rows(chunk_size):
                above = layout.box.held[: layout.box.row_dimensions]
                rows[layout.ranks, layout.dtype, layout.box.shape, above][rank] = layout
        teams = [team for holders in rows.values() for members in _apart(holders) if (team := Team(members)).complete()]
        moved: dict[int, list[Run]] = {rank: [] for team in teams for rank in team.layouts}
        for team in teams:
            for rank, start, stop in team.shares(chunk_size):
                moved[rank] += Piece("", team, rank, start, stop).runs
        runs = {rank: tuple(moved[rank]) if rank in moved else layout.runs for rank, layout in layouts.items()}
        holdings = [
            Holding(rank, layout.dtype, layout.shape, layout.nbytes, layout.ranks, runs[rank])
            for rank, layout in layouts.items()
        ]
        copies = [
            replace(copy, ranks=tuple(sorted({*copy.ranks, *_team_mates(copy, teams)})))
            for copy in copies_of(names[0], holdings, present, chunk_size, algorithm)
        ]
        size = algorithm_named(algorithm).digest_size
        sizes = {
            rank: sum(content_size(run, layouts[rank].nbytes, chunk_size, size) for run in of_rank)
            for rank, of_rank in runs.items()
        }
        return cls(names, layouts, teams, copies, sizes, bool(rows))


def _team_mates(copy: Copy, teams: Iterable[Team]) -> Iterator[int]:
    """The ranks that hold columns of the rows that ranks of a copy describe, whether they describe any themselves."""
    for team in teams:
        if not team.layouts.keys().isdisjoint(copy.ranks):
            yield from team.layouts


def groups_of(
    claims: Mapping[int, Iterable[tuple[Layout, Iterable[str]]]], chunk_size: int, algorithm: str
) -> list[Group]:
    """Plans a model.

    Args:
        claims: what each rank holds.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".

    Raises:
        PartError: as for `Group.of`.
    """
    layouts: defaultdict[str, list[tuple[int, Layout]]] = defaultdict(list)
    for rank, of_rank in claims.items():
        for layout, names in of_rank:
            for name in names:
                layouts[name].append((rank, layout))
    names_by_layouts: defaultdict[tuple[tuple[int, Layout], ...], list[str]] = defaultdict(list)
    for name in sorted(layouts):
        names_by_layouts[tuple(layouts[name])].append(name)
    return [
        Group.of(names, dict(of_ranks), claims.keys(), chunk_size, algorithm)
        for of_ranks, names in names_by_layouts.items()
    ]


def steps_of(groups: Iterable[Group], chunk_size: int) -> list[list[Piece]]:
    """The pieces of all tensors whose rows move, those together that move at a time."""
    queues: defaultdict[int, list[Piece]] = defaultdict(list)
    for group in groups:
        for team in group.teams:
            shares = list(team.shares(chunk_size))
            for name in group.names:
                for rank, start, stop in shares:
                    queues[rank].append(Piece(name, team, rank, start, stop))
    # What one rank gets at a time.
    batches = [[queue[run] for run in packed([one.nbytes for one in queue], PIECE)] for queue in queues.values()]
    steps = zip_longest(*batches, fillvalue=())
    return [[piece for batch in step for piece in batch] for step in steps]


def _apart(holders: Mapping[int, Layout]) -> Iterator[dict[int, Layout]]:
    """Holders of the same rows, split so that none has the columns of another: where ranks do not say which others they
    belong to, there may be several copies."""
    by_columns: defaultdict[tuple[Run, ...], list[tuple[int, Layout]]] = defaultdict(list)
    for rank, layout in holders.items():
        by_columns[layout.box.held[layout.box.row_dimensions]].append((rank, layout))
    for places in zip_longest(*by_columns.values()):
        yield dict(place for place in places if place)
