"""Ranks that hold the same rows of a tensor together, each its own columns, and what they say of the rows.

A leaf of the tree may span several ranks' columns. So the ranks share the rows out, and each tells the one that gets a
row what it holds of it: the leaf hashes of whole chunks, and as bytes only what shares a chunk with others' columns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import gcd
from typing import NamedTuple

from hashbench.distributed.claims import Layout
from hashbench.distributed.subtrees import Box, Run, cut, runs_of
from hashbench.hashing.packing import packed

PIECE = 1 << 30
"""Bytes that a rank gathers of its rows at a time, except that a piece has at least one unit of rows."""

MOST_ROWS = 8
"""Rows of a unit at most, for its whole chunks to be hashed where they are."""


class Said(NamedTuple):
    """What a rank says of a range of a unit's bytes: the bytes themselves, or the leaf hashes of whole chunks.

    Attributes:
        start: the range's first byte in the unit.
        place: its first byte among all that the rank holds of the unit.
        nbytes: its bytes.
        hashed: whether leaf hashes are said.
        at: where that begins in what the rank says of the unit.
        size: the bytes of what is said.
    """

    start: int
    place: int
    nbytes: int
    hashed: bool
    at: int
    size: int


@dataclass(frozen=True)
class Team:
    """Ranks that hold the same rows of a tensor together.

    Attributes:
        layouts: what each holds, by rank.
        chunk_size: bytes of a leaf.
        digest_size: bytes of a digest.
    """

    layouts: Mapping[int, Layout]
    chunk_size: int
    digest_size: int

    @cached_property
    def any(self) -> Layout:
        """What one of them holds, for what they have in common."""
        return next(iter(self.layouts.values()))

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """The ranks, sorted."""
        return tuple(sorted(self.layouts))

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

    @cached_property
    def _step(self) -> int:
        """Rows from the start of a leaf to the next row that starts one."""
        return self.chunk_size // gcd(self.chunk_size, self.any.row_bytes)

    @cached_property
    def in_chunks(self) -> bool:
        """Whether whole chunks are hashed where they are: a few rows make up whole chunks, and the ranks have some."""
        step = self._step
        if step > MOST_ROWS or any(edge % step for run in self.rows for edge in run):
            return False
        return any(cut(a, b, b + 1, self.chunk_size).blocks for rank in self.ranks for a, b in self._ranges(rank, step))

    @cached_property
    def unit(self) -> int:
        """The rows that are spoken of together."""
        return self._step if self.in_chunks else 1

    @cached_property
    def unit_bytes(self) -> int:
        """The bytes of a unit."""
        return self.unit * self.any.row_bytes

    def _ranges(self, rank: int, rows: int) -> Iterator[Run]:
        """The ranges of the bytes of a few rows that a rank holds."""
        for row in range(rows):
            origin = row * self.any.row_bytes
            yield from ((origin + start, origin + stop) for start, stop in self.columns(rank))

    @cached_property
    def said(self) -> Mapping[int, tuple[Said, ...]]:
        """What each rank says of a unit."""
        return {rank: tuple(self._said(rank)) for rank in self.ranks}

    def _said(self, rank: int) -> Iterator[Said]:
        place = at = 0
        for start, stop in self._ranges(rank, self.unit):
            head, chunks, tail = stop - start, 0, 0
            if self.in_chunks:
                head, blocks, tail = cut(start, stop, self.unit_bytes, self.chunk_size)
                chunks = sum(count for _, count in blocks)
            for nbytes, size, hashed in (
                (head, head, False),
                (chunks * self.chunk_size, chunks * self.digest_size, True),
                (tail, tail, False),
            ):
                if nbytes:
                    yield Said(start, place, nbytes, hashed, at, size)
                start, place, at = start + nbytes, place + nbytes, at + size

    @cached_property
    def held(self) -> Mapping[int, int]:
        """The bytes of a unit that each rank holds."""
        return {rank: sum(one.nbytes for one in said) for rank, said in self.said.items()}

    @cached_property
    def sizes(self) -> Mapping[int, int]:
        """The bytes that each rank says of a unit."""
        return {rank: sum(one.size for one in said) for rank, said in self.said.items()}

    @cached_property
    def torn(self) -> tuple[int, ...]:
        """The chunks of a unit of which several ranks have bytes."""
        torn: set[int] = set()
        for said in self.said.values():
            for start, _, nbytes, hashed, _, _ in said:
                if not hashed:
                    torn.update(range(start // self.chunk_size, -(-(start + nbytes) // self.chunk_size)))
        return tuple(sorted(torn))

    def shares(self) -> Iterator[Mapping[int, Run]]:
        """The rows that each rank gets, in pieces: first and end by rank, none where there are no more.

        They begin at leaves where the rows do.
        """
        total, step = sum(stop - start for start, stop in self.rows), self._step
        at_once = max(1, PIECE // self.any.row_bytes // step) * step
        bounds = [round(total * share / len(self.ranks) / step) * step for share in range(len(self.ranks))]
        ends = [(min(first, total), min(end, total)) for first, end in pairwise([*bounds, total])]
        longest = max(end - first for first, end in ends)
        for done in range(0, longest, at_once):
            places = [(min(first + done, end), min(first + done + at_once, end)) for first, end in ends]
            yield dict(zip(self.ranks, places, strict=True))

    def runs(self, first: int, end: int) -> Iterator[Run]:
        """Where rows lie in the tensor, counted in the team's memory."""
        size, place = self.any.row_bytes, 0
        for start, stop in self.rows:
            a, b = max(start, start + first - place), min(stop, start + end - place)
            if a < b:
                yield a * size, b * size
            place += stop - start

    def batches(self, names: Sequence[str]) -> Iterator[Batch]:
        """The rows of tensors that the ranks hold like this."""
        shares = list(self.shares())
        if len(shares) > 1:
            yield from (Batch((name,), self, share) for name in names for share in shares)
            return
        each = Batch(("",), self, shares[0]).nbytes
        yield from (Batch(tuple(names[run]), self, shares[0]) for run in packed([each] * len(names), PIECE))


class Batch(NamedTuple):
    """Rows of tensors with the same layouts that are spoken of together.

    Attributes:
        names: the tensors' names.
        team: the ranks that hold them.
        rows: first and end of those that each rank gets, in the team's memory.
    """

    names: tuple[str, ...]
    team: Team
    rows: Mapping[int, Run]

    def units(self, rank: int) -> Run:
        """First and end of the units of each tensor that a rank gets."""
        first, end = self.rows[rank]
        return first // self.team.unit, end // self.team.unit

    def count(self, rank: int) -> int:
        """The units of all tensors that a rank gets."""
        first, end = self.units(rank)
        return len(self.names) * (end - first)

    def size(self, speaker: int, listener: int) -> int:
        """The bytes that one rank says to another, which may be of no team."""
        ranks = self.team.layouts
        return self.count(listener) * self.team.sizes[speaker] if speaker in ranks and listener in ranks else 0

    @property
    def nbytes(self) -> int:
        """The bytes that a rank gathers or says, at most."""
        team = self.team
        return sum(map(self.count, team.ranks)) * max(
            team.sizes[rank] if all(one.hashed for one in team.said[rank]) else team.held[rank] for rank in team.ranks
        )


def in_steps(batches: Iterable[Batch]) -> list[list[Batch]]:
    """Batches by the step in which they are spoken of: those together that a rank has the memory for."""
    steps: defaultdict[int, list[Batch]] = defaultdict(list)
    reached: Counter[int] = Counter()  # by rank, the last step that it has a part in
    filled: Counter[tuple[int, int]] = Counter()  # by rank and step, bytes
    for batch in batches:
        ranks = batch.team.ranks
        step = max(reached[rank] for rank in ranks)
        if any(0 < filled[rank, step] > PIECE - batch.nbytes for rank in ranks):
            step += 1
        for rank in ranks:
            reached[rank] = step
            filled[rank, step] += batch.nbytes
        steps[step].append(batch)
    return [steps[step] for step in sorted(steps)]
