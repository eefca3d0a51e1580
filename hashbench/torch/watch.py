"""What is trusted of a model's memory, and whether it still is so: one piece at a time, by a clock of the caller's."""

from __future__ import annotations

import logging
import math
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch

from hashbench.hashing.printable import printable
from hashbench.hashing.verification_error import VerificationError
from hashbench.merkle.rfc9162 import root_of
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.report import compare
from hashbench.torch.held import Model, Names, held, matcher
from hashbench.torch.memory import Elsewhere, Location, Portion, Range, Reader, Reading, reader_for
from hashbench.torch.modules import grouped
from hashbench.torch.schedule import Order, Schedule
from hashbench.torch.slices import Slice, pieces_of, slice_size, slices_of
from hashbench.torch.tensors import Memory

if TYPE_CHECKING:
    from hashbench.kernels.portions import Portions

SLICE_SIZE = 1 << 20
"""The most bytes that a finding names, except that a slice has at least one chunk."""

SLICE_CHUNKS, PORTION_CHUNKS = 256, 128
"""The most chunks of a slice: as many as `hashbench.kernels.confined` and `.portions` accept."""

SETTLED_AFTER = 1.0
"""Seconds after which what was read is compared, if it did not happen before because there was much."""

_UNREADABLE = "its memory was given back, or cannot be read"

Kind = Literal["changed", "moved", "gone", "extra"]

log = logging.getLogger("hashbench.torch.monitor")


@dataclass(frozen=True)
class Finding:
    """Something in memory that is not as the manifest says.

    Attributes:
        kind: "changed": bytes differ, in two readings. "moved": a tensor is in other memory than before, with the right
            bytes. "gone": the model no longer has a tensor, or it cannot be read. "extra": the model has a tensor that
            the manifest does not list.
        tensor: its name in the manifest.
        start: the first byte that this is about, counted in the tensor.
        stop: the byte behind the last.
        text: what was found, on one line.
    """

    kind: Kind
    tensor: str
    start: int
    stop: int
    text: str

    def __str__(self) -> str:
        return f"{printable(self.tensor)}: {self.text}"


class ModelGone(Exception):
    """The model no longer exists."""


@dataclass(eq=False)
class _Piece:
    """Slices that are read at a time, and their tensors' places."""

    slices: Sequence[Slice]
    reading: Reading

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.slices)


@dataclass(eq=False)
class _Watched:
    """Memory that is watched, of a tensor or of several that are tied.

    Attributes:
        location: where it is.
        names: the tensors', the first of which names the slices.
        pieces: those that read it.
    """

    location: Location
    names: list[str]
    pieces: set[_Piece]


@dataclass(frozen=True)
class _Trusted:
    """What is trusted of a tensor.

    Attributes:
        entry: what the manifest says.
        roots: of its slices, by their first byte; none if only other bytes were ever seen.
    """

    entry: TensorEntry
    roots: Mapping[int, bytes] = field(default_factory=dict)


@dataclass
class Tally:
    """What a watch has done.

    Attributes:
        nbytes: bytes that were read, without confirmations.
        slices: slices that were read, without confirmations.
        sweeps: how many times everything was read.
        sweep_seconds: how long the last of them took; None before its end.
        findings: the number of findings of each kind.
        unconfirmed: how many changes a second reading did not see.
    """

    nbytes: int = 0
    slices: int = 0
    sweeps: int = 0
    sweep_seconds: float | None = None
    findings: Counter[str] = field(default_factory=Counter)
    unconfirmed: int = 0


class Watch:
    """The tensors of a model, each of which is trusted, watched, or both.

    Args:
        model: a module, which is referenced weakly; or tensors by name, in a mapping that is kept.
        expected: what is trusted, by the names in the model's component.
        names, ignore: as for `hashbench.torch.verify`.
        period, order: as for `Schedule`.
        now: the time, in seconds.
        on_finding: is called with every finding, before the watch is done with it: it must not call the watch.
        multiprocessors, portion: as for `Monitor`.

    Attributes:
        tally: what was done.
        nbytes: the bytes of the memory that is watched.
        slices: the number of slices that are watched.
        damaged: slices that were changed when they were last read.

    Raises:
        TypeError, ValueError: an argument is not accepted, or nothing is to be watched.
        VerificationError: the model is not what is expected; the message is that of a report.
    """

    def __init__(
        self,
        model: Model,
        expected: Manifest,
        names: Names,
        ignore: Collection[str],
        period: float,
        order: Order,
        now: float,
        on_finding: Callable[[Finding], object],
        multiprocessors: int | None = None,
        portion: Portion | None = None,
    ) -> None:
        self._model = _reference(model)
        self._names, self._ignored = names, matcher(ignore)
        self._algorithm, self._chunk_size = expected.algorithm, expected.chunk_size
        chunks = SLICE_CHUNKS if portion is None else PORTION_CHUNKS
        self._slice_size = slice_size(expected.chunk_size, min(SLICE_SIZE, chunks * expected.chunk_size))
        self._on_finding, self._multiprocessors, self._portion = on_finding, multiprocessors, portion
        self._schedule: Schedule[_Piece] = Schedule(period, order)
        self._readers: dict[tuple[torch.device, bool], Reader] = {}
        self._trusted = {entry.name: _Trusted(entry) for entry in expected.tensors if not self._ignored(entry.name)}
        if not self._trusted:
            raise ValueError(
                f"there is nothing to watch: `ignore` matches all {len(expected.tensors):,} tensors of the manifest"
            )
        self._watched: dict[str, _Watched] = {}
        self._unsettled: list[_Piece] = []
        self._settle_at = math.inf
        self._suspended: set[str] = set()
        self._extra: set[str] = set()
        self._unreadable: set[str] = set()
        self.damaged: set[Slice] = set()
        self.tally = Tally()
        self.nbytes = self.slices = 0
        self._begin(expected, now)
        self._look_at = now + period
        self._begin_sweep(now)

    # What is watched -------------------------------------------------------------------------------------------------

    @property
    def period(self) -> float:
        """Seconds."""
        return self._schedule.period

    @property
    def pace(self) -> float:
        """Seconds from the beginning of one piece to that of the next, at least."""
        return self._schedule.pace

    @property
    def tensors(self) -> int:
        """The number of tensors that are trusted."""
        return len(self._trusted)

    @property
    def suspended(self) -> int:
        """The number of tensors that are being updated."""
        return len(self._suspended)

    @property
    def portions(self) -> dict[torch.device, Portions]:
        """What the workload carries, by device. Any thread may ask."""
        return {device: reader.portions for (device, _), reader in [*self._readers.items()] if reader.portions}

    def oldest(self) -> float | None:
        """When the slice was read that has waited longest; None if nothing is watched."""
        return self._schedule.oldest()

    # Reading ---------------------------------------------------------------------------------------------------------

    def wait(self, now: float) -> float:
        """Seconds until `step` has something to do."""
        due = [self._look_at, self._settle_at]
        if (first := self._schedule.next()) is not None:
            due.append(first[0])
        return max(0.0, min(due) - now)

    def step(self, now: float) -> int:
        """Does what is due first, if anything is.

        Returns:
            How many bytes were read.

        Raises:
            ModelGone: the model no longer exists.
        """
        if self._look_at <= now:
            self.look(now)
        if self._settle_at <= now:
            self.settle()
        first = self._schedule.next()
        if first is None or first[0] > now:
            return 0
        _, piece = first
        if piece in self._unsettled:
            self.settle()  # before its next reading
        try:
            piece.reading.read()
        except Elsewhere:
            self.look(now)
            self._lose_unreadable(piece)
            return 0  # what is left of the piece is still due
        self._schedule.visited(piece, now)
        self.tally.slices += len(piece.slices)
        self.tally.nbytes += piece.nbytes
        self._unsettled.append(piece)
        self._settle_at = min(self._settle_at, now + SETTLED_AFTER)
        self._left.discard(piece)
        if not self._left or len(self._unsettled) >= self._reader_of(piece).batch:
            self.settle()
        if not self._left:
            self._end_sweep(now)
        return piece.nbytes

    def settle(self) -> None:
        """Compares what was read with what is trusted."""
        pieces, self._unsettled, self._settle_at = self._unsettled, [], math.inf
        by_reader: dict[Reader, list[_Piece]] = {}
        for piece in pieces:
            by_reader.setdefault(self._reader_of(piece), []).append(piece)
        for reader, read in by_reader.items():
            for piece, roots in zip(read, reader.roots([piece.reading for piece in read]), strict=True):
                self._compare(piece, roots)

    def _compare(self, piece: _Piece, roots: Sequence[bytes]) -> None:
        for one, root in zip(piece.slices, roots, strict=True):
            right = self._root(one)
            if root == right:
                if one in self.damaged:
                    self.damaged.discard(one)
                    log.warning("%s: bytes %s are again what is trusted", printable(one.tensor), _span(one))
            elif one not in self.damaged:
                try:
                    again = self._roots_now([one])
                except Elsewhere:
                    self.look_soon()  # which tells
                    continue
                if again[0] == right:
                    self.tally.unconfirmed += 1
                    log.warning("%s: bytes %s differed in the first reading alone", printable(one.tensor), _span(one))
                else:
                    self.damaged.add(one)
                    self._find("changed", one.tensor, f"bytes {_span(one)} changed", one.start, one.stop)

    def _root(self, one: Slice) -> bytes | None:
        return self._trusted[one.tensor].roots.get(one.start)

    def _begin_sweep(self, now: float) -> None:
        self._sweep_began, self._left = now, set(self._schedule)

    def _end_sweep(self, now: float) -> None:
        self.tally.sweeps += 1
        self.tally.sweep_seconds = now - self._sweep_began
        self._begin_sweep(now)

    def _find(self, kind: Kind, tensor: str, text: str, start: int = 0, stop: int | None = None) -> None:
        if stop is None:
            stop = self._trusted[tensor].entry.nbytes if tensor in self._trusted else 0
        self.tally.findings[kind] += 1
        self._on_finding(Finding(kind, tensor, start, stop, text))

    # What is there ---------------------------------------------------------------------------------------------------

    def look_soon(self) -> None:
        """Makes the next step look."""
        self._look_at = -math.inf

    def look(self, now: float) -> None:
        """Looks whether the model still has what is watched, where it was, and nothing else.

        Raises:
            ModelGone: the model no longer exists.
        """
        self.settle()
        self._look_at = now + self.period
        found, refused = self._locate()
        moved: set[str] = set()
        untied: set[str] = set()
        for name in self._trusted.keys() - self._suspended:
            watched = self._watched.get(name)
            if name not in found:
                if watched is not None:
                    untied |= self._lose(name, refused.get(name, "the model no longer has it"))
            elif watched is None or not found[name].is_where(watched.location):
                moved.add(name)
        for name in moved:
            untied |= self._forget(name)
        self._adopt(untied & found.keys() - moved, found, now)
        self._adopt(moved, found, now, moved=True)
        extra = _untied(found, self._trusted.keys())
        for name in sorted(extra - self._extra):
            self._find("extra", name, "the manifest does not list it", 0, found[name].nbytes)
        self._extra = extra

    def _locate(self) -> tuple[dict[str, Location], dict[str, str]]:
        """Where the model's tensors are, and why others cannot be read."""
        there = held(self._model(), self._names, self._trusted.keys())
        return (
            {name: Location.of(one) for name, one in there.tensors.items() if not self._ignored(name)},
            {name: reason for name, reason in there.refused.items() if not self._ignored(name)},
        )

    def _lose(self, name: str, reason: str) -> set[str]:
        """A tensor is gone. Returns the names that were tied to it, which are forgotten."""
        tied = self._forget(name)
        self._find("gone", name, reason)
        return tied

    def _lose_unreadable(self, piece: _Piece) -> None:
        """Loses the tensors of a piece that are where they were, and cannot be read."""
        for tensor in {one.tensor: one for one in piece.slices} if piece in self._schedule else ():
            try:
                self._roots_now([one for one in piece.slices if one.tensor == tensor])
            except Elsewhere:
                self._unreadable |= self._lose(tensor, _UNREADABLE) | {tensor}

    def _forget(self, name: str) -> set[str]:
        """Ends to watch the memory of a tensor. Returns the names that were tied to it."""
        if (watched := self._watched.get(name)) is None:
            return set()
        self.nbytes -= watched.location.nbytes
        for piece in watched.pieces:
            self.slices -= len(piece.slices)
            piece.slices = [one for one in piece.slices if one.tensor != watched.names[0]]
            self.slices += len(piece.slices)
            if piece.slices:
                piece.reading = self._prepare(piece.slices)
            else:
                self._schedule.remove(piece)
                self._left.discard(piece)
        for tied in watched.names:
            del self._watched[tied]
        self.damaged = {one for one in self.damaged if one.tensor != watched.names[0]}
        return set(watched.names) - {name}

    # What is trusted -------------------------------------------------------------------------------------------------

    def suspend(self, names: Collection[str] | None, future: Manifest | None) -> frozenset[str]:
        """Ends to read tensors for a while, and those that are tied to them.

        Args:
            names: the tensors; None for all.
            future: what they will be, if it is known.

        Returns:
            The names of them all, for `restore`.

        Raises:
            ValueError: see `Monitor.updating`.
        """
        names = self._trusted.keys() if names is None else names
        if future is not None and (future.algorithm, future.chunk_size) != (self._algorithm, self._chunk_size):
            raise ValueError(
                f"a manifest with {future.algorithm} in chunks of {future.chunk_size:,} bytes is not accepted: what is "
                f"watched is hashed with {self._algorithm} in chunks of {self._chunk_size:,}"
            )
        for name in names:
            if name not in self._trusted:
                raise ValueError(f"{name!r} is not watched: the manifest does not list it, or it is ignored")
            if future is not None and name not in future.by_name:
                raise ValueError(f"the manifest does not list {name!r}, which is to be updated")
        chosen = frozenset().union(names, *(self._watched[name].names for name in names if name in self._watched))
        if twice := sorted(chosen & self._suspended):
            raise ValueError(f"{twice[0]!r} is being updated already")
        self.settle()
        for name in chosen:
            self._forget(name)
        self._suspended |= chosen
        return chosen

    def restore(self, names: frozenset[str], now: float, trusted: Manifest | None, *, trust: bool = False) -> None:
        """Reads suspended tensors, and watches them again.

        Args:
            names: what `suspend` returned.
            now: the time.
            trusted: what is trusted from now on; None leaves it as it was.
            trust: whether what is there now is trusted instead.

        Raises:
            ModelGone: the model no longer exists.
        """
        self._suspended -= names
        found, refused = self._locate()
        for name in sorted(names - found.keys()):
            self._find("gone", name, refused.get(name, "the model no longer has it"))
        if trusted is not None:
            entries = {entry.name: entry for entry in trusted.tensors if entry.name in names}
            self._trusted |= {name: _Trusted(entry) for name, entry in entries.items()}
        self._adopt(names & found.keys(), found, now, trust=trust)

    def _begin(self, expected: Manifest, now: float) -> None:
        """Reads everything, compares it, and begins to watch.

        Raises:
            VerificationError: it is not what is expected.
        """
        found, refused = self._locate()
        read = self._read_tensors(self._trusted.keys() & found.keys(), found)
        report = compare(expected, {name: one.entry for name, one in read.items()})
        report = replace(
            report,
            missing=tuple(name for name in report.missing if name in self._trusted and name not in refused),
            extra=tuple(sorted(_untied(found, read.keys()))),
            problems=tuple(map(str, grouped(refused))),
        )
        if not report.ok:
            raise VerificationError(str(report))
        self._trusted = read
        self._watch(read, found, now)

    def _adopt(
        self,
        names: Collection[str],
        found: Mapping[str, Location],
        now: float,
        *,
        moved: bool = False,
        trust: bool = False,
    ) -> None:
        """Begins to watch tensors, and compares them with what is trusted, or trusts what they are."""
        read = self._read_tensors(names, found)
        unreadable = set(names) - read.keys()
        for name in sorted(unreadable - self._unreadable):
            self._find("gone", name, _UNREADABLE)
        self._unreadable = self._unreadable - read.keys() | unreadable
        for name, one in read.items():
            trusted = self._trusted[name]
            if trust or one.entry == trusted.entry:
                self._trusted[name] = one
                if moved:
                    self._find("moved", name, "it is in other memory than before, with the right bytes")
            elif (one.entry.dtype, one.entry.shape) == (trusted.entry.dtype, trusted.entry.shape) and trusted.roots:
                for part in self._slices(name, found[name]):
                    if one.roots[part.start] != trusted.roots.get(part.start):
                        self._find("changed", name, f"bytes {_span(part)} changed", part.start, part.stop)
            else:
                self._trusted[name] = _Trusted(trusted.entry)
                self._find("changed", name, _difference(trusted.entry, one.entry), 0, one.entry.nbytes)
        self._watch(read, found, now)

    def _watch(self, read: Mapping[str, _Trusted], found: Mapping[str, Location], now: float) -> None:
        """Begins to watch the memory of tensors that were just read."""
        by_memory = {watched.location.memory: watched for watched in self._watched.values()}
        slices: dict[Reader, list[Slice]] = {}
        for name in sorted(read):
            location = found[name]
            watched = by_memory.get(location.memory)
            if watched is None:
                watched = by_memory[location.memory] = _Watched(location, [], set())
                parts = self._slices(name, location)
                slices.setdefault(self._reader(location), []).extend(parts)
                self.nbytes += location.nbytes
                self.slices += len(parts)
                self.damaged |= {part for part in parts if read[name].roots[part.start] != self._root(part)}
            watched.names.append(name)
            self._watched[name] = watched
        for reader, parts in slices.items():
            for piece_slices in pieces_of(parts, reader.piece_size, reader.piece_slices):
                piece = _Piece(piece_slices, self._prepare(piece_slices))
                for part in piece_slices:
                    self._watched[part.tensor].pieces.add(piece)
                self._schedule.add(piece, now)

    def _read_tensors(self, names: Collection[str], found: Mapping[str, Location]) -> dict[str, _Trusted]:
        """What tensors are now, by name, but for those whose memory is gone. What several share is read once."""
        roots: dict[Memory, dict[int, bytes]] = {}
        read = {}
        for name in sorted(names):
            location = found[name]
            if location.memory not in roots:
                try:
                    roots[location.memory] = self._read_slices(self._slices(name, location), location)
                except Elsewhere:
                    continue
            mine = roots[location.memory]
            root = root_of(list(mine.values()), self._algorithm)
            entry = TensorEntry(name, location.dtype, location.shape, location.nbytes, root)
            read[name] = _Trusted(entry, mine)
        return read

    def _read_slices(self, slices: Sequence[Slice], location: Location) -> dict[int, bytes]:
        """The roots of a tensor's slices, by their first byte.

        Raises:
            Elsewhere: the tensor is no longer there.
        """
        reader = self._reader(location)
        roots: dict[int, bytes] = {}
        for piece in pieces_of(slices, reader.piece_size):
            values = reader.now([(location, part.start, part.stop) for part in piece])
            roots.update(zip((part.start for part in piece), values, strict=True))
        return roots

    def _slices(self, name: str, location: Location) -> list[Slice]:
        size = self._slice_size if location.contiguous else max(1, location.nbytes)
        return slices_of(name, location.nbytes, size)

    def _reader(self, location: Location) -> Reader:
        key = location.device, location.contiguous
        if key not in self._readers:
            self._readers[key] = reader_for(
                location, self._algorithm, self._chunk_size, self._multiprocessors, self._portion
            )
        return self._readers[key]

    def _reader_of(self, piece: _Piece) -> Reader:
        return self._reader(self._watched[piece.slices[0].tensor].location)

    def _prepare(self, slices: Sequence[Slice]) -> Reading:
        """Prepares reading slices that one reader reads."""
        ranges = self._ranges(slices)
        return self._reader(ranges[0][0]).prepare(ranges)

    def _roots_now(self, slices: Sequence[Slice]) -> list[bytes]:
        """The roots of slices that one reader reads.

        Raises:
            Elsewhere: a tensor is no longer where it was.
        """
        ranges = self._ranges(slices)
        return self._reader(ranges[0][0]).now(ranges)

    def _ranges(self, slices: Sequence[Slice]) -> list[Range]:
        return [(self._watched[part.tensor].location, part.start, part.stop) for part in slices]


def _reference(model: Model) -> Callable[[], Model]:
    """What gives the model, without keeping a module, and raises `ModelGone` when that no longer exists."""
    if not isinstance(model, torch.nn.Module):
        return lambda: model
    reference = weakref.ref(model)

    def referenced() -> Model:
        if (module := reference()) is None:
            raise ModelGone
        return module

    return referenced


def _untied(found: Mapping[str, Location], listed: Collection[str]) -> set[str]:
    """The names that are not listed, of tensors that are not tied to one that is."""
    contents = {location.content for name, location in found.items() if name in listed}
    return {name for name, location in found.items() if name not in listed and location.content not in contents}


def _difference(expected: TensorEntry, found: TensorEntry) -> str:
    said = [
        f"{what} {now}, not {before}"
        for what, now, before in (
            ("dtype", found.dtype, expected.dtype),
            ("shape", list(found.shape), list(expected.shape)),
        )
        if now != before
    ]
    return "; ".join(said) or "other bytes than it should have now"


def _span(part: Slice) -> str:
    return f"[{part.start}:{part.stop}]"
