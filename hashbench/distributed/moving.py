"""Rows of tensors that are sharded along an inner dimension, shared out between the ranks that hold them.

A rank that holds columns of a matrix has short pieces of every row, and a leaf of the tree may span several ranks'. So
each rank hashes the whole chunks of its pieces where they are, and sends the leaf hashes to the rank that gets the row,
with the bytes that fill no chunk. That one hashes the chunks of which several ranks had bytes, and folds all to roots.
Where pieces have no whole chunks, all of their bytes move. What a rank gathers at a time is bounded: no rank ever holds
a whole tensor.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import gcd
from typing import NamedTuple

import torch

from hashbench.distributed.content import Contents, Extent, Range, bytes_of, describe, folded, leaves
from hashbench.distributed.group import Ranks
from hashbench.distributed.subtrees import Run, cut
from hashbench.distributed.teams import Batch, Team


class Moved(NamedTuple):
    """What came of sharing rows out.

    Attributes:
        contents: the descriptions of the rows that this rank got, by tensor.
        failure: why it could not hash them; None if it could. It has passed something on even so: others wait for it.
    """

    contents: dict[str, bytes]
    failure: Exception | None


def move(
    steps: Sequence[Sequence[Batch]],
    memory: Mapping[str, torch.Tensor],
    ranks: Ranks,
    on_gpus: bool,
    chunk_size: int,
    algorithm: str,
) -> Moved:
    """Shares rows out between ranks, and hashes them.

    Args:
        steps: the rows, those together that are spoken of at a time.
        memory: this rank's tensors by name.
        ranks: the ranks that hold them, all of which call this.
        on_gpus: whether the tensors of all ranks are in GPU memory.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".

    Raises:
        GroupError: a rank has ended, or did not answer.
    """
    if not steps:
        return Moved({}, None)
    device = next((tensor.device for tensor in memory.values()), torch.device("cpu"))
    if on_gpus and not memory:  # this rank has no rows, but takes part
        device = torch.device("cuda", torch.cuda.current_device())
    mover = _Mover(memory, ranks, device, on_gpus, chunk_size, algorithm)
    with torch.cuda.stream(mover.stream):
        for step in steps:
            mover.take(step)
        return mover.result()


class _Mover:
    """One rank's side of `move`, in the order in which a GPU's stream does it."""

    def __init__(
        self,
        memory: Mapping[str, torch.Tensor],
        ranks: Ranks,
        device: torch.device,
        on_gpus: bool,
        chunk_size: int,
        algorithm: str,
    ) -> None:
        self._memory = memory
        self._ranks = ranks
        self._device = device
        self._between = ranks.device_for(device if on_gpus else torch.device("cpu"))
        self._chunk_size = chunk_size
        self._algorithm = algorithm
        self._contents: defaultdict[str, list[bytes]] = defaultdict(list)
        self._failure: Exception | None = None
        self._running: deque[list[tuple[Sequence[str], Contents]]] = deque()  # by step
        self._kept: deque[list[torch.Tensor]] = deque()  # leaf hashes, until what reads them is done, by step
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            # Ahead of what else is hashed: other ranks wait for it.
            self.stream = torch.cuda.Stream(device, priority=-1)
            self.stream.wait_stream(torch.cuda.current_stream(device))

    def take(self, step: Sequence[Batch]) -> None:
        """Says what this rank holds of rows, and starts to hash and fold what it hears of those that it gets."""
        mine, numbers = self._ranks.mine, self._ranks.numbers
        batches = [batch for batch in step if mine in batch.team.layouts]
        said_to = [[batch.size(mine, other) for batch in batches] for other in numbers]
        heard_of = [[batch.size(other, mine) for batch in batches] for other in numbers]
        self._running.append([])
        self._kept.append([])
        said: list[torch.Tensor] = []
        if not self._failure:
            try:
                of_batches = [self._said(batch) for batch in batches]
                said = [part for other in numbers for of in of_batches for part in of.get(other, ())]
            except Exception as error:  # others wait for what this rank has to say
                self._failure, said = error, []
        size = sum(map(sum, said_to))
        everything = torch.cat(said) if said else torch.zeros(size, dtype=torch.uint8, device=self._device)
        heard = torch.empty(sum(map(sum, heard_of)), dtype=torch.uint8, device=self._between)
        self._ranks.exchange(everything.to(self._between), list(map(sum, said_to)), heard, list(map(sum, heard_of)))
        if self._failure:
            return
        try:
            parts = heard.to(self._device).split(list(chain.from_iterable(heard_of)))
            for place, batch in enumerate(batches):  # rank after rank, and batch after batch
                self._hear(batch, dict(zip(numbers, parts[place :: len(batches)], strict=True)))
            self._finish(all_but=1)
        except Exception as error:
            self._failure = error

    def result(self) -> Moved:
        """What came of all steps."""
        try:
            self._finish(all_but=0)
        except Exception as error:
            self._failure = self._failure or error
        if self.stream:  # other ranks still read what is kept
            self.stream.synchronize()
        return Moved({name: b"".join(contents) for name, contents in self._contents.items()}, self._failure)

    def _finish(self, all_but: int) -> None:
        while len(self._running) > all_but:
            for names, contents in self._running.popleft():
                for name, content in zip(names, contents(), strict=True):
                    self._contents[name].append(content)
            self._kept.popleft()

    # What this rank says ----------------------------------------------------------------------------------------------

    def _said(self, batch: Batch) -> dict[int, list[torch.Tensor]]:
        """What each rank of a team gets to hear: of each tensor its units, one after another."""
        team, mine = batch.team, self._ranks.mine
        memories = [self._memory[name] for name in batch.names]
        units = {rank: batch.units(rank) for rank in team.ranks if batch.count(rank)}
        held = team.held[mine]
        if not team.in_chunks:
            return {
                rank: [bytes_of(one, first * held, end * held).to(self._device) for one in memories]
                for rank, (first, end) in units.items()
            }
        sizes = [team.sizes[mine] * (end - first) for first, end in units.values()]
        in_place = all(one.device == self._device and one.is_contiguous() for one in memories)
        if in_place and all(one.hashed for one in team.said[mine]):
            places = [Range(one, first * held, end * held) for first, end in units.values() for one in memories]
            parts = self._leaves(places).split([len(memories) * size for size in sizes])
        else:
            runs = _joined(units.values())
            rows = [bytes_of(one, a * held, b * held).to(self._device) for one in memories for a, b in runs]
            parts = self._gathered(team, rows).memory.view(len(memories), -1).split(sizes, dim=1)
        return {rank: [part.flatten()] for rank, part in zip(units, parts, strict=True)}

    def _gathered(self, team: Team, rows: Sequence[torch.Tensor]) -> _Table:
        """What this rank says of units in whose memory whole chunks and other bytes take turns."""
        mine = self._ranks.mine
        hashed = [one for one in team.said[mine] if one.hashed]
        said = self._table(sum(map(len, rows)) // team.held[mine], team.sizes[mine])
        chunks = self._table(len(said), sum(one.nbytes for one in hashed))
        first = 0
        for part in rows:
            source = _Table(part, team.held[mine])
            target, bodies = said.rows(first, first + len(source)), chunks.rows(first, first + len(source))
            first += len(source)
            to = 0
            for one in team.said[mine]:
                if one.hashed:
                    source.copy(one.place, one.nbytes, bodies, to)
                    to += one.nbytes
                else:
                    source.copy(one.place, one.nbytes, target, one.at)
        if hashed:
            digests, at = self._leaf_hashes(chunks), 0
            for one in hashed:
                digests.copy(at, one.size, said, one.at)
                at += one.size
        return said

    # What it hears ----------------------------------------------------------------------------------------------------

    def _hear(self, batch: Batch, heard: Mapping[int, torch.Tensor]) -> None:
        """Starts to hash and fold the units that this rank gets.

        Args:
            batch: their batch.
            heard: what each rank says of them.
        """
        team, size = batch.team, batch.team.digest_size
        count = batch.count(self._ranks.mine)
        if not count:
            return
        hashes = self._table(count, team.unit_bytes // self._chunk_size * size if team.in_chunks else 0)
        loose = self._table(count, self._chunk_size * len(team.torn) if team.in_chunks else team.unit_bytes)
        for rank in team.ranks:
            said = _Table(heard[rank], team.sizes[rank])
            for one in team.said[rank]:
                chunk, offset = divmod(one.start, self._chunk_size)
                if one.hashed:
                    said.copy(one.at, one.size, hashes, chunk * size)
                elif team.in_chunks:
                    said.copy(one.at, one.size, loose, team.torn.index(chunk) * self._chunk_size + offset)
                else:
                    said.copy(one.at, one.size, loose, one.start)
        if not team.in_chunks:
            self._describe(batch, loose.memory)
            return
        if team.torn:
            digests = self._leaf_hashes(loose)
            for place, chunk in enumerate(team.torn):
                digests.copy(place * size, size, hashes, chunk * size)
        self._fold(batch, hashes.memory)

    def _describe(self, batch: Batch, rows: torch.Tensor) -> None:
        """Starts to describe rows that are here as a whole."""
        items: list[list[Extent]] = []
        offset = 0
        for _ in batch.names:
            items.append([])
            for run in batch.team.runs(*batch.rows[self._ranks.mine]):
                items[-1].append(Extent(run, batch.team.any.nbytes, rows, offset))
                offset += run[1] - run[0]
        contents = describe(items, self._chunk_size, self._algorithm, self.stream)
        self._running[-1].append((batch.names, contents))

    def _fold(self, batch: Batch, hashes: torch.Tensor) -> None:
        """Starts to fold the leaves of rows, all of which are here, to the roots of complete subtrees."""
        subtrees: list[Run] = []
        place = 0
        for _ in batch.names:
            for run in batch.team.runs(*batch.rows[self._ranks.mine]):
                for _, count in cut(*run, batch.team.any.nbytes, self._chunk_size).blocks:
                    subtrees.append((place, place + count * batch.team.digest_size))
                    place = subtrees[-1][1]
        roots = folded(hashes, subtrees, self._algorithm, self.stream)
        each = len(subtrees) // len(batch.names)

        def contents() -> list[bytes]:
            found = roots()
            return [b"".join(found[first : first + each]) for first in range(0, len(found), each)]

        self._running[-1].append((batch.names, contents))

    # Hashing ----------------------------------------------------------------------------------------------------------

    def _leaves(self, ranges: Sequence[Range]) -> torch.Tensor:
        digests = leaves(ranges, self._chunk_size, self._algorithm, self.stream)
        self._kept[-1].append(digests)
        return digests

    def _leaf_hashes(self, chunks: _Table) -> _Table:
        """The leaf hashes of rows of whole chunks."""
        digests = self._leaves([Range(chunks.memory, 0, len(chunks.memory))])
        return _Table(digests, len(digests) // len(chunks))

    def _table(self, count: int, width: int) -> _Table:
        return _Table(torch.empty(count * width, dtype=torch.uint8, device=self._device), width)


@dataclass(frozen=True)
class _Table:
    """Rows of bytes, all as wide.

    Attributes:
        memory: uint8, shape (bytes,).
        width: the bytes of a row.
    """

    memory: torch.Tensor
    width: int

    def __len__(self) -> int:
        return len(self.memory) // self.width if self.width else 0

    def rows(self, first: int, end: int) -> _Table:
        """Some of the rows, which share the memory."""
        return _Table(self.memory[first * self.width : end * self.width], self.width)

    def copy(self, at: int, count: int, target: _Table, to: int) -> None:
        """Copies `count` bytes of every row, from byte `at` to byte `to` of another table, in the widest words."""
        starts = self.memory.storage_offset(), target.memory.storage_offset()
        unit = gcd(8, self.width, at, count, target.width, to, *starts)
        word = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[unit]
        out_of = self.memory.view(word).view(-1, self.width // unit)
        into = target.memory.view(word).view(-1, target.width // unit)
        into[:, to // unit : (to + count) // unit] = out_of[:, at // unit : (at + count) // unit]


def _joined(runs: Iterable[Run]) -> list[Run]:
    """Runs in order, those that follow each other as one."""
    joined: list[Run] = []
    for start, stop in runs:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined
