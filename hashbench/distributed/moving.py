"""Rows of tensors that are sharded along an inner dimension, moved so that each rank holds some rows as a whole.

A rank that holds columns of a matrix has short pieces of every row, and a leaf of the tree may span several ranks'. So
the ranks that together hold the same rows share these out, and send each other their columns of them, piece by piece:
no rank ever holds a whole tensor, nor more than two pieces besides its own shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, zip_longest
from math import gcd
from typing import NamedTuple

import torch

from hashbench.distributed.claims import Claim
from hashbench.distributed.content import Contents, Extent, bytes_of, describe
from hashbench.distributed.group import Message, Ranks
from hashbench.distributed.subtrees import Box, Run, runs_of

PIECE = 256 << 20
"""Bytes that a rank receives rows of at a time, except that a piece has at least one row."""


@dataclass(frozen=True)
class Team:
    """Ranks that hold the same rows of a tensor together, each its own columns.

    Attributes:
        claims: what each holds, by rank.
    """

    claims: Mapping[int, Claim]

    @cached_property
    def any(self) -> Claim:
        """The claim of one of them, for what they have in common."""
        return next(iter(self.claims.values()))

    @cached_property
    def rows(self) -> tuple[Run, ...]:
        """The rows that they hold, in the order of their memory."""
        box, dimensions = self.any.box, self.any.box.row_dimensions
        return runs_of(Box(box.shape[:dimensions], box.held[:dimensions]), 1)

    def complete(self) -> bool:
        """Whether their columns are whole rows exactly."""
        dimension = self.any.box.row_dimensions
        columns = sorted(run for claim in self.claims.values() for run in claim.box.held[dimension])
        ends = [(0, 0), *columns, (self.any.box.shape[dimension],) * 2]
        return all(before[1] == after[0] for before, after in pairwise(ends))

    def columns(self, rank: int) -> Iterator[Run]:
        """The ranges of a row's bytes that a rank holds."""
        box = self.claims[rank].box
        inner = self.any.row_bytes // box.shape[box.row_dimensions]
        return ((start * inner, stop * inner) for start, stop in box.held[box.row_dimensions])

    def width(self, rank: int) -> int:
        """The bytes of a row that a rank holds."""
        return sum(stop - start for start, stop in self.columns(rank))

    def pieces(self, chunk_size: int) -> Iterator[Piece]:
        """The pieces of the rows that each of them gets. They begin at leaves where the rows do."""
        total = sum(stop - start for start, stop in self.rows)
        size = self.any.row_bytes
        step = chunk_size // gcd(chunk_size, size)  # rows from the start of a leaf to the next row that starts one
        at_once = max(1, PIECE // size // step) * step
        bounds = [round(total * share / len(self.claims) / step) * step for share in range(len(self.claims))]
        for rank, (first, end) in zip(sorted(self.claims), pairwise([*bounds, total]), strict=True):
            for start in range(min(first, total), min(end, total), at_once):
                yield Piece(self, rank, start, min(start + at_once, end, total))


class Piece(NamedTuple):
    """Rows that one rank of a team gets.

    Attributes:
        team: the ranks that hold them.
        rank: the one that gets them.
        start: the first of them, counted in the team's memory.
        stop: where they end.
    """

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
class Plan:
    """What moves, and who hashes what.

    Attributes:
        steps: the pieces that move at a time.
        moved: names of the tensors of each rank whose rows move.
    """

    steps: Sequence[Sequence[Piece]]
    moved: Mapping[int, frozenset[str]]
    _runs: Mapping[tuple[int, str], tuple[Run, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, claims: Mapping[int, Sequence[Claim]], chunk_size: int) -> Plan:
        """The plan that follows from what all ranks hold: the same on all of them."""
        rows: defaultdict[tuple[object, ...], dict[int, Claim]] = defaultdict(dict)
        for rank, of_rank in claims.items():
            for claim in of_rank:
                if claim.in_short_rows(chunk_size):
                    above = claim.box.held[: claim.box.row_dimensions]
                    rows[claim.name, claim.ranks, claim.dtype, claim.box.shape, above][rank] = claim
        teams = [
            team for holders in rows.values() for members in _copies(holders) if (team := Team(members)).complete()
        ]
        queues: defaultdict[int, list[Piece]] = defaultdict(list)
        runs: defaultdict[tuple[int, str], list[Run]] = defaultdict(list)
        moved: defaultdict[int, set[str]] = defaultdict(set)
        for team in teams:
            for rank, claim in team.claims.items():
                moved[rank].add(claim.name)
            for piece in team.pieces(chunk_size):
                queues[piece.rank].append(piece)
                runs[piece.rank, team.any.name] += piece.runs
        steps = zip_longest(*(_batches(queue) for queue in queues.values()), fillvalue=())
        return cls(
            [[piece for batch in step for piece in batch] for step in steps],
            {rank: frozenset(moved[rank]) for rank in claims},
            {key: tuple(found) for key, found in runs.items()},
        )

    def runs(self, rank: int, claim: Claim) -> tuple[Run, ...]:
        """The runs of a tensor that a rank describes."""
        return self._runs.get((rank, claim.name), ()) if claim.name in self.moved[rank] else claim.runs


def _copies(holders: Mapping[int, Claim]) -> Iterator[dict[int, Claim]]:
    """Holders of the same rows, split so that none has the columns of another: where ranks do not say which others they
    belong to, there may be several copies."""
    by_columns: defaultdict[tuple[Run, ...], list[tuple[int, Claim]]] = defaultdict(list)
    for rank, claim in holders.items():
        by_columns[claim.box.held[claim.box.row_dimensions]].append((rank, claim))
    for places in zip_longest(*by_columns.values()):
        yield dict(place for place in places if place)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Consecutive pieces that one rank gets at a time."""
    batch: list[Piece] = []
    for piece in pieces:
        if batch and sum(other.nbytes for other in batch) + piece.nbytes > PIECE:
            yield batch
            batch = []
        batch.append(piece)
    if batch:
        yield batch


class Moved(NamedTuple):
    """What came of moving rows.

    Attributes:
        contents: the descriptions of the rows that this rank got, by tensor.
        failure: why it could not hash them; None if it could. It has passed on what others needed even so.
    """

    contents: dict[str, bytes]
    failure: Exception | None


def move(plan: Plan, memory: Mapping[str, torch.Tensor], ranks: Ranks, chunk_size: int, algorithm: str) -> Moved:
    """Moves rows between ranks and hashes them as they come.

    Args:
        plan: what moves.
        memory: this rank's tensors by name.
        ranks: the ranks of the plan, all of which call this.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".

    Raises:
        GroupError: a rank has ended, or did not answer.
    """
    mover = _Mover(memory, ranks, chunk_size, algorithm)
    if not plan.steps:
        return mover.result()
    device = ranks.device_for(mover.device)
    ranks.connect(device)
    with torch.cuda.stream(mover.stream):
        ahead = mover.post(plan.steps[0])
        for step, following in pairwise([*plan.steps, []]):
            ahead = mover.take(step, ahead, following)
    return mover.result()


_Posted = tuple[list["torch.distributed.Work"], list[Message], dict[tuple[int, int], torch.Tensor]]


class _Mover:
    """One rank's side of `move`."""

    def __init__(self, memory: Mapping[str, torch.Tensor], ranks: Ranks, chunk_size: int, algorithm: str) -> None:
        self._memory = memory
        self._ranks = ranks
        self._chunk_size = chunk_size
        self._algorithm = algorithm
        self._contents: defaultdict[str, list[bytes]] = defaultdict(list)
        self._failure: Exception | None = None
        self._running: list[tuple[list[str], Contents]] = []
        self.device = next((tensor.device for tensor in memory.values()), torch.device("cpu"))
        # Ahead of what else is hashed: others wait for the memory that a piece takes.
        self.stream = torch.cuda.Stream(self.device, priority=-1) if self.device.type == "cuda" else None

    def post(self, step: Sequence[Piece]) -> _Posted:
        """Starts sending and receiving a step's pieces."""
        sent: list[Message] = []
        received: list[Message] = []
        places: dict[tuple[int, int], torch.Tensor] = {}
        mine = self._ranks.mine
        for number, piece in enumerate(step):
            rows, team = piece.stop - piece.start, piece.team
            if piece.rank == mine:
                for rank in sorted(team.claims.keys() - {mine}):
                    device = self._ranks.device_for(self._memory[team.any.name].device)
                    places[number, rank] = torch.empty(rows * team.width(rank), dtype=torch.uint8, device=device)
                    received.append((rank, places[number, rank]))
            elif mine in team.claims:
                tensor = self._own(piece)
                sent.append((piece.rank, tensor.to(self._ranks.device_for(tensor.device))))
        return self._ranks.post(sent, received), sent, places

    def take(self, step: Sequence[Piece], posted: _Posted, following: Sequence[Piece]) -> _Posted:
        """Waits for a step's pieces, starts the next step, and starts hashing what came."""
        works, _, places = posted
        self._ranks.arrived(works)
        mine = [(number, piece) for number, piece in enumerate(step) if piece.rank == self._ranks.mine]
        whole: list[torch.Tensor] = []
        try:
            whole = [self._assembled(number, piece, places) for number, piece in mine]
        except Exception as error:  # other ranks still need what this one holds
            self._failure = self._failure or error
        ahead = self.post(following)
        if self._failure:
            return ahead
        try:
            items = [
                [Extent(run, piece.team.any.nbytes, rows, offset) for run, offset in _placed(piece)]
                for (_, piece), rows in zip(mine, whole, strict=True)
            ]
            names = [piece.team.any.name for _, piece in mine]
            self._running.append((names, describe(items, self._chunk_size, self._algorithm, self.stream)))
            self._finish(all_but=1)
        except Exception as error:
            self._failure = error
        return ahead

    def result(self) -> Moved:
        """What came of all steps."""
        try:
            self._finish(all_but=0)
        except Exception as error:
            self._failure = self._failure or error
        return Moved({name: b"".join(contents) for name, contents in self._contents.items()}, self._failure)

    def _own(self, piece: Piece) -> torch.Tensor:
        """This rank's columns of a piece's rows."""
        width = piece.team.width(self._ranks.mine)
        return bytes_of(self._memory[piece.team.any.name], piece.start * width, piece.stop * width)

    def _assembled(self, number: int, piece: Piece, places: Mapping[tuple[int, int], torch.Tensor]) -> torch.Tensor:
        """A piece's rows, from the columns of all ranks of the team."""
        size, device = piece.team.any.row_bytes, self._memory[piece.team.any.name].device
        rows = torch.empty(piece.nbytes, dtype=torch.uint8, device=device)
        for rank in piece.team.claims:
            columns = self._own(piece) if rank == self._ranks.mine else places[number, rank].to(device)
            at, width = 0, piece.team.width(rank)
            for start, stop in piece.team.columns(rank):
                _copy_columns(rows, size, start, columns, width, at, stop - start)
                at += stop - start
        return rows

    def _finish(self, all_but: int) -> None:
        while len(self._running) > all_but:
            names, contents = self._running.pop(0)
            for name, content in zip(names, contents(), strict=True):
                self._contents[name].append(content)


def _placed(piece: Piece) -> Iterator[tuple[Run, int]]:
    """The runs of a piece, and where each begins in its memory."""
    offset = 0
    for run in piece.runs:
        yield run, offset
        offset += run[1] - run[0]


def _copy_columns(
    target: torch.Tensor, target_width: int, to: int, source: torch.Tensor, source_width: int, at: int, count: int
) -> None:
    """Copies `count` bytes of every row, from byte `at` to byte `to`, in the widest words that fit."""
    unit = gcd(8, target_width, to, source_width, at, count, source.storage_offset(), target.storage_offset())
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[unit]
    rows = target.numel() // target_width
    into = target.view(word).view(rows, target_width // unit)
    out_of = source.view(word).view(rows, source_width // unit)
    into[:, to // unit : (to + count) // unit] = out_of[:, at // unit : (at + count) // unit]
