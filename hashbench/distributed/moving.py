"""Rows of tensors that are sharded along an inner dimension, moved so that each rank holds some rows as a whole.

A rank that holds columns of a matrix has short pieces of every row, and a leaf of the tree may span several ranks'. So
the ranks that together hold the same rows share these out, and send each other their columns of them, piece by piece:
no rank ever holds a whole tensor, nor more than a few pieces besides its own shard.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import gcd
from typing import NamedTuple

import torch

from hashbench.distributed.content import Contents, Extent, bytes_of, describe
from hashbench.distributed.group import Message, Ranks
from hashbench.distributed.planning import Piece
from hashbench.distributed.subtrees import Run


class Moved(NamedTuple):
    """What came of moving rows.

    Attributes:
        contents: the descriptions of the rows that this rank got, by tensor.
        failure: why it could not hash them; None if it could. It has passed on what others needed even so.
    """

    contents: dict[str, bytes]
    failure: Exception | None


def move(
    steps: Sequence[Sequence[Piece]], memory: Mapping[str, torch.Tensor], ranks: Ranks, chunk_size: int, algorithm: str
) -> Moved:
    """Moves rows between ranks and hashes them as they come.

    Args:
        steps: the pieces that move at a time.
        memory: this rank's tensors by name.
        ranks: the ranks that hold them, all of which call this.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".

    Raises:
        GroupError: a rank has ended, or did not answer.
    """
    mover = _Mover(memory, ranks, chunk_size, algorithm)
    if not steps:
        return mover.result()
    device = ranks.device_for(mover.device)
    ranks.connect(device)
    with torch.cuda.stream(mover.stream):
        ahead = mover.post(steps[0])
        for step, following in pairwise([*steps, []]):
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
                for rank in sorted(team.layouts.keys() - {mine}):
                    device = self._ranks.device_for(self._memory[piece.name].device)
                    places[number, rank] = torch.empty(rows * team.width(rank), dtype=torch.uint8, device=device)
                    received.append((rank, places[number, rank]))
            elif mine in team.layouts:
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
            names = [piece.name for _, piece in mine]
            self._running.append((names, describe(items, self._chunk_size, self._algorithm, self.stream)))
            self._finish(all_but=2)
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
        return bytes_of(self._memory[piece.name], piece.start * width, piece.stop * width)

    def _assembled(self, number: int, piece: Piece, places: Mapping[tuple[int, int], torch.Tensor]) -> torch.Tensor:
        """A piece's rows, from the columns of all ranks of the team."""
        size, device = piece.team.any.row_bytes, self._memory[piece.name].device
        rows = torch.empty(piece.nbytes, dtype=torch.uint8, device=device)
        for rank in piece.team.layouts:
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
