"""Who hashes what, and who gets which rows: what follows from what all ranks say that they hold.

All ranks come to the same plan. Tensors with the same layouts on the same ranks are planned as one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from hashbench.distributed.claims import Layout
from hashbench.distributed.combining import Copy, Holding, copies_of
from hashbench.distributed.subtrees import Run, content_size
from hashbench.distributed.teams import Team
from hashbench.kernels import algorithm_named


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
        """The ranks whose rows are shared out."""
        return frozenset(rank for team in self.teams for rank in team.ranks)

    def is_last(self, late: bool) -> bool:
        """Whether a tensor is combined last: if it is hashed late, or if shards are too irregular to be shared out."""
        return self.moving != self.layouts.keys() if self.in_rows else late

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
        size = algorithm_named(algorithm).digest_size
        teams = [Team(members, chunk_size, size) for holders in rows.values() for members in _apart(holders)]
        teams = [team for team in teams if team.complete()]
        moved: dict[int, list[Run]] = {rank: [] for team in teams for rank in team.ranks}
        for team in teams:
            for share in team.shares():
                for rank, (first, end) in share.items():
                    moved[rank] += team.runs(first, end)
        runs = {rank: tuple(moved[rank]) if rank in moved else layout.runs for rank, layout in layouts.items()}
        holdings = [
            Holding(rank, layout.dtype, layout.shape, layout.nbytes, layout.ranks, runs[rank])
            for rank, layout in layouts.items()
        ]
        copies = [
            replace(copy, ranks=tuple(sorted({*copy.ranks, *_team_mates(copy, teams)})))
            for copy in copies_of(names[0], holdings, present, chunk_size, algorithm)
        ]
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


def _apart(holders: Mapping[int, Layout]) -> Iterator[dict[int, Layout]]:
    """Holders of the same rows, split so that none has the columns of another: where ranks do not say which others they
    belong to, there may be several copies."""
    by_columns: defaultdict[tuple[Run, ...], list[tuple[int, Layout]]] = defaultdict(list)
    for rank, layout in holders.items():
        by_columns[layout.box.held[layout.box.row_dimensions]].append((rank, layout))
    for places in zip_longest(*by_columns.values()):
        yield dict(place for place in places if place)
