"""The manifest of a sharded model in memory, and verification against a manifest, by all ranks together.

Within a process group, ranks say what they hold while they hash it, share out the rows of tensors that are sharded
along an inner dimension, and then exchange descriptions of a few kilobytes. Every rank comes to the same verdict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from hashbench.distributed.claims import Claim
from hashbench.distributed.combining import Copy, Holding, check_agreement, copies_of, ranks_named, the_same
from hashbench.distributed.content import Contents, describe
from hashbench.distributed.group import Ranks
from hashbench.distributed.layouts import Local, Sharded, locals_of
from hashbench.distributed.moving import Plan, move
from hashbench.distributed.parts import HeldTensor, Part, PartError
from hashbench.distributed.subtrees import Box, content_size
from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.model.manifest import Entry, Manifest, TensorEntry
from hashbench.model.report import Report, compare
from hashbench.model.strict_json import quoted

FIRST_CALL, CALL = 1 << 30, 8 << 30
"""Bytes of the first call of a kernel, for which the device waits, and of the others."""

LATE_SHARE = 6
"""The last 1/6 of a model is hashed while the rest is combined."""

MAX_CONTENT = 1 << 30
"""The largest description of what one rank holds, in bytes, if rows cannot move between ranks."""

_DONE, _FAILED = b"\0", b"\1"  # the first byte of a rank's message
_ERROR_SIZE = 2048  # of a message that says why a rank cannot go on


@dataclass(frozen=True)
class ShardedReport(Report):
    """How a sharded model compares with its manifest.

    Attributes:
        ranks: for each name that differs or is extra, the ranks that hold what is not as the manifest says. Where a
            copy on other ranks is right, they are those whose share of the tensor is another than there; otherwise all
            that hold the copy together.
        sent: the bytes that this rank sent to others for the verdict.
    """

    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sent: int = 0

    def _difference(self, expected: Entry, found: Entry) -> str:
        ranks = self.ranks.get(expected.name)
        return super()._difference(expected, found) + (f", on {ranks_named(ranks)}" if ranks else "")


def part(
    module_or_shards: Sharded, *, algorithm: str = "sha256", chunk_size: int = 4096, rank: int | None = None
) -> Part:
    """What this rank holds of a model, hashed in place, as plain data: no process group is used.

    Of a tensor that is sharded along its first dimension, the part has a few subtree roots. Of one that is sharded
    along an inner dimension it has at least one hash for each row, and the bytes of chunks that other ranks hold some
    of: choose chunks that divide the rows' pieces, or let `manifest` move rows between the ranks of a group.

    Args:
        module_or_shards: a module, or tensors and `Shard`s by name. Nothing may write to them until the call returns.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a positive multiple of 64.
        rank: this rank's number; None is that of the process group if there is one, or 0.

    Raises:
        TypeError: `module_or_shards` is neither.
        TensorError: a tensor cannot be hashed, is not yet reduced (Partial), or does not lie where it says.
        PartError: the bytes of shared chunks are too many.
        ValueError: `algorithm` or `chunk_size` is not accepted.
        Unavailable, OutOfDeviceMemory: a device cannot hash.
    """
    check_chunk_size(chunk_size)
    size = algorithm_named(algorithm).digest_size
    if rank is None:
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    held = list(locals_of(module_or_shards, rank))
    needed = 0
    for one in (local.claim for local in held):
        needed += sum(content_size(run, one.nbytes, chunk_size, size) for run in one.runs)
        if needed > MAX_CONTENT:
            raise PartError(
                f"the part would have more than {MAX_CONTENT} bytes at the tensor {quoted(one.name)}, of which this "
                "rank has short pieces of every row: choose smaller chunks, or use a process group"
            )
    hashing = _Hashing(chunk_size, algorithm)
    for local in held:
        hashing.add(local)
    described = hashing.contents()
    return Part(
        rank,
        algorithm,
        chunk_size,
        tuple(
            HeldTensor(one.name, one.dtype, one.shape, one.nbytes, one.ranks, one.runs, described[one.name])
            for one in (local.claim for local in held)
        ),
    )


def manifest(
    module_or_shards: Sharded,
    *,
    algorithm: str = "sha256",
    chunk_size: int = 4096,
    group: dist.ProcessGroup | None = None,
) -> Manifest:
    """The manifest of a sharded model, hashed in place: the same on every rank, and as if it were not sharded.

    All ranks of the group call this.

    Args:
        module_or_shards: as for `part`.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf, a positive multiple of 64.
        group: the ranks that hold the model together; None is all.

    Raises:
        GroupError: there is no process group, or a rank has ended or did not answer within the group's timeout.
        PartError: a rank cannot go on; ranks disagree on the algorithm, the chunk size or a tensor; a rank is missing;
            what ranks hold leaves a gap or overlaps; or copies of a tensor differ.
        TypeError, TensorError, ValueError, Unavailable, OutOfDeviceMemory: this rank cannot go on, as for `part`.
    """
    found = _together(module_or_shards, _Terms(algorithm_named(algorithm).name, check_chunk_size(chunk_size)), group)
    if not found.copies:
        raise PartError("the model has no tensors: there is nothing to hash")
    return Manifest(algorithm, chunk_size, tuple(the_same(copies) for copies in found.copies.values()))


def verify(
    module_or_shards: Sharded, manifest: Manifest, group: dist.ProcessGroup | None = None, *, component: str = ""
) -> ShardedReport:
    """Verifies a sharded model against the manifest of the whole one, in place. All ranks of the group call this.

    Every copy of a tensor is verified. Files that the manifest lists are not in memory: they are not verified.

    Args:
        module_or_shards: as for `part`.
        manifest: made from the model's files, or by `manifest`. It determines algorithm and chunk size.
        group: the ranks that hold the model together; None is all.
        component: as for `hashbench.torch.verify`.

    Returns:
        The report, the same on every rank: verify only `report.ok`.

    Raises:
        GroupError: there is no process group, or a rank has ended or did not answer within the group's timeout.
        PartError: a rank cannot go on; ranks disagree on the manifest or a tensor; a rank is missing; or what ranks
            hold of a tensor leaves a gap or overlaps.
        TypeError, TensorError, ValueError, Unavailable, OutOfDeviceMemory: this rank cannot go on, as for `part`.
    """
    if not isinstance(manifest, Manifest):
        raise TypeError(
            f"{type(manifest).__name__} is not accepted: pass what hashbench.model.manifest.read_manifest() returns"
        )
    expected = manifest.of_component(component)
    if not expected.entries:
        named = f"the component {component!r}" if component else "a model at its top"
        raise ValueError(f"the manifest has no tensors of {named}: name the component that the module is")
    found = _together(
        module_or_shards, _Terms(manifest.algorithm, manifest.chunk_size, manifest.root.hex()), group, expected
    )
    blamed: dict[str, tuple[int, ...]] = dict(found.extra)
    entries: dict[str, Entry] = {}
    to_trace: dict[str, Sequence[CopyEntry]] = {}
    for name, copies in found.copies.items():
        wrong = [copy for copy in copies if copy[1] != expected.by_name[name]]
        entries[name] = (wrong or copies)[0][1]
        if wrong:
            blamed[name] = tuple(sorted({rank for ranks, _ in wrong for rank in ranks}))
            if len(wrong) < len(copies):
                to_trace[name] = copies
    if to_trace:
        blamed |= _traced(to_trace, expected, found)
    compared = compare(expected, entries)
    return ShardedReport(
        expected,
        entries,
        compared.differs,
        compared.missing,
        tuple(sorted(found.extra)),
        root=manifest.root,
        ranks=blamed,
        sent=found.ranks.sent,
    )


class _Terms(NamedTuple):
    """What all ranks must agree on."""

    algorithm: str
    chunk_size: int
    manifest: str = ""

    def __str__(self) -> str:
        return f"{self.algorithm} in chunks of {self.chunk_size}" + (
            f", the manifest with root {self.manifest}" if self.manifest else ""
        )


class _Hashing:
    """What this rank holds, described while more is added: the device soon has something to do.

    Args:
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".
    """

    def __init__(self, chunk_size: int, algorithm: str) -> None:
        self._chunk_size = chunk_size
        self._algorithm = algorithm
        self._tied: dict[Hashable, list[str]] = {}  # names that have the same memory
        self._pending: defaultdict[torch.device, list[Local]] = defaultdict(list)
        self._bytes: defaultdict[torch.device, int] = defaultdict(int)
        self._call: dict[torch.device, int] = {}
        self._running: list[tuple[list[Local], Contents]] = []

    def add(self, local: Local) -> None:
        """Adds a tensor. Nothing may write to it before its description is there."""
        tied = self._tied.setdefault(local.bytes, [])
        tied.append(local.claim.name)
        if len(tied) > 1:
            return
        device = local.memory.device
        self._pending[device].append(local)
        self._bytes[device] += local.memory.nbytes
        if self._bytes[device] >= self._call.get(device, FIRST_CALL):
            self._start(device)

    def start(self) -> None:
        """Starts hashing what was added."""
        for device in list(self._pending):
            self._start(device)

    def contents(self) -> dict[str, bytes]:
        """Waits for the descriptions of all that was added."""
        self.start()
        return {
            name: content
            for started, contents in self._running
            for local, content in zip(started, contents(), strict=True)
            for name in self._tied[local.bytes]
        }

    def _start(self, device: torch.device) -> None:
        held = self._pending.pop(device)
        self._bytes[device] = 0
        if device.type == "cuda" and device not in self._call:
            torch.cuda.current_stream(device).synchronize()
        self._call[device] = CALL
        extents = [list(local.extents()) for local in held]
        self._running.append((held, describe(extents, self._chunk_size, self._algorithm)))


CopyEntry = tuple[tuple[int, ...], TensorEntry]
"""The ranks of a copy of a tensor, and the tensor as they have it."""


@dataclass(frozen=True)
class _Found:
    """What all ranks of a group hold together.

    Attributes:
        copies: the copies of each tensor that is expected.
        extra: the ranks that hold each tensor that is not.
        claims: what each rank holds.
        held: what this rank holds, by name.
        ranks: all of them.
    """

    copies: Mapping[str, Sequence[CopyEntry]]
    extra: Mapping[str, tuple[int, ...]]
    claims: Mapping[int, Sequence[Claim]]
    held: Mapping[str, Local]
    ranks: Ranks


def _together(
    model: Sharded, terms: _Terms, group: dist.ProcessGroup | None, expected: Manifest | None = None
) -> _Found:
    """Hashes what the ranks of a group hold, and combines it. What fails on one rank fails on all.

    Most is hashed first, and combined while the rest is hashed.
    """
    ranks = Ranks(group)
    late = _late(expected) if expected else frozenset[str]()
    held: dict[str, Local] = {}
    rounds = [_Hashing(terms.chunk_size, terms.algorithm) for _ in range(2)]
    failure: Exception | None = None
    try:
        waiting = []
        unlisted = []
        for local in locals_of(model, ranks.mine):
            if expected and local.claim.name not in expected.by_name:
                unlisted.append(local)
                continue
            held[local.claim.name] = local
            if not local.claim.in_short_rows(terms.chunk_size):
                if local.claim.name in late:
                    waiting.append(local)
                else:
                    rounds[0].add(local)
        rounds[0].start()
        for local in waiting:
            rounds[1].add(local)
        rounds[1].start()
        # A name that the manifest does not list may be tied to one that it lists: it is then verified too.
        listed = {local.content for local in held.values()}
        held |= {local.claim.name: local for local in unlisted if local.content not in listed}
    except Exception as error:
        failure = error
    message = {"terms": str(terms), "tensors": [local.claim for local in held.values()]}
    said = _exchanged(ranks, message, failure)
    check_agreement({rank: answer["terms"] for rank, answer in said.items()})
    extra: defaultdict[str, list[int]] = defaultdict(list)
    claims: dict[int, list[Claim]] = {rank: [] for rank in said}
    for rank, answer in said.items():
        for fields in answer["tensors"]:
            claim = Claim.read(fields)
            if expected and claim.name not in expected.by_name:
                extra[claim.name].append(rank)
            else:
                claims[rank].append(claim)
    copies = _hashed(claims, held, rounds, late, terms, ranks)
    return _Found(copies, {name: tuple(holders) for name, holders in extra.items()}, claims, held, ranks)


def _late(expected: Manifest) -> frozenset[str]:
    """The names of the last of a model's bytes: while they are hashed, the others are combined."""
    total, names = 0, set()
    share = sum(tensor.nbytes for tensor in expected.tensors) // LATE_SHARE
    for tensor in reversed(expected.tensors):
        if total + tensor.nbytes > share:
            break
        total += tensor.nbytes
        names.add(tensor.name)
    return frozenset(names)


def _hashed(
    claims: Mapping[int, Sequence[Claim]],
    held: Mapping[str, Local],
    rounds: Sequence[_Hashing],
    late: Collection[str],
    terms: _Terms,
    ranks: Ranks,
) -> dict[str, list[CopyEntry]]:
    """The copies of all tensors, as they are.

    Args:
        claims: what each rank holds.
        held: what this rank holds, by name.
        rounds: what it is hashing: first what is combined first, then what is late.
        late: the names of what is late.
        terms: what to hash with.
        ranks: the ranks of `claims`.
    """
    chunk_size, algorithm = terms.chunk_size, terms.algorithm
    plan = Plan.of(claims, chunk_size)
    copies: dict[str, list[Copy]] = {}
    holdings: defaultdict[str, list[Holding]] = defaultdict(list)
    for rank, of_rank in claims.items():
        for claim in of_rank:
            runs = plan.runs(rank, claim)
            holdings[claim.name].append(Holding(rank, claim.dtype, claim.shape, claim.nbytes, claim.ranks, runs))
    for name, holders in holdings.items():
        copies[name] = copies_of(name, holders, ranks.numbers, chunk_size, algorithm)

    mine = plan.moved[ranks.mine]
    moved = move(plan, {name: held[name].memory.tensor for name in mine}, ranks, chunk_size, algorithm)
    failure = moved.failure
    short = {claim.name for of_rank in claims.values() for claim in of_rank if claim.in_short_rows(chunk_size)}
    contents = dict(moved.contents)
    found: dict[str, list[CopyEntry]] = {}
    for last, hashing in enumerate(rounds):
        names = {name for name in holdings if (name in late or name in short) == bool(last)}
        if not names:
            continue
        try:
            if last:
                for name in held.keys() & short - mine - contents.keys():  # what irregular shards do not let move
                    hashing.add(held[name])
            contents |= hashing.contents()
        except Exception as error:
            failure = failure or error
        said = _spread(names, holdings, contents, failure, terms, ranks)
        for name in names:
            found[name] = [
                (copy.ranks, copy.folded(lambda rank, name: said[rank, name], chunk_size, algorithm))  # noqa: B023
                for copy in copies[name]
            ]
    return found


def _spread(
    names: Collection[str],
    holdings: Mapping[str, Sequence[Holding]],
    contents: Mapping[str, bytes],
    failure: Exception | None,
    terms: _Terms,
    ranks: Ranks,
) -> dict[tuple[int, str], memoryview]:
    """What each rank says of each tensor, by rank and name: the descriptions of what it holds.

    Args:
        names: the tensors.
        holdings: what ranks hold of each tensor; all ranks know it.
        contents: what this rank says.
        failure: why it cannot say anything.
        terms: what it was hashed with.
        ranks: all ranks.

    Raises:
        Exception: `failure`, if there is one.
        PartError: another rank has failed.
    """
    size = algorithm_named(terms.algorithm).digest_size
    places: dict[tuple[int, str], slice] = {}
    ends = dict.fromkeys(ranks.numbers, 1)
    mine = []
    for name in sorted(names):
        for holder in holdings[name]:
            if holder.rank == ranks.mine:
                mine.append(name)
            start = ends[holder.rank]
            ends[holder.rank] += sum(content_size(run, holder.nbytes, terms.chunk_size, size) for run in holder.runs)
            places[holder.rank, name] = slice(start, ends[holder.rank])
    if failure:
        message = _FAILED + str(failure).encode()[:_ERROR_SIZE]
    else:
        message = _DONE + b"".join(contents.get(name, b"") for name in mine)
    lengths = [max(1 + _ERROR_SIZE, ends[rank]) for rank in ranks.numbers]
    texts = ranks.gather_sized(message, lengths)
    said = {rank: memoryview(text) for rank, text in zip(ranks.numbers, texts, strict=True)}
    if failure:
        raise failure
    failed = {rank: bytes(text[1:]).rstrip(b"\0") for rank, text in said.items() if text[:1] == _FAILED}
    _raise_first({rank: text.decode("utf-8", "replace") for rank, text in failed.items()})
    return {(rank, name): said[rank][place] for (rank, name), place in places.items()}


def _traced(names: Mapping[str, Sequence[CopyEntry]], expected: Manifest, found: _Found) -> dict[str, tuple[int, ...]]:
    """The ranks whose share of a tensor differs from the same share of a copy that is right.

    Args:
        names: the copies of each tensor of which some are right and others are not.
        expected: the manifest.
        found: what the ranks hold.
    """
    failure: Exception | None = None
    shares: dict[str, str] = {}
    try:
        hashing = _Hashing(expected.chunk_size, expected.algorithm)
        for name in names.keys() & found.held.keys():
            hashing.add(found.held[name].as_whole())
        shares = {name: content.hex() for name, content in hashing.contents().items()}
    except Exception as error:
        failure = error
    said = _exchanged(found.ranks, shares, failure)
    boxes = {(rank, claim.name): claim.box for rank, claims in found.claims.items() for claim in claims}
    traced = {}
    for name, copies in names.items():
        right: set[tuple[Box, str]] = set()
        suspects: set[int] = set()
        for ranks, entry in copies:
            if entry == expected.by_name[name]:
                right |= {(boxes[rank, name], said[rank][name]) for rank in ranks}
            else:
                suspects |= set(ranks)
        guilty = {rank for rank in suspects if (boxes[rank, name], said[rank][name]) not in right}
        traced[name] = tuple(sorted(guilty or suspects))
    return traced


def _exchanged(ranks: Ranks, message: Any, failure: Exception | None) -> dict[int, Any]:
    """What each rank says.

    Raises:
        Exception: `failure`, if there is one.
        PartError: another rank has failed.
    """
    mine = {"failed": str(failure)} if failure else {"said": message}
    texts = ranks.gather(json.dumps(mine).encode())
    said = {rank: json.loads(text) for rank, text in zip(ranks.numbers, texts, strict=True)}
    if failure:
        raise failure
    _raise_first({rank: answer["failed"] for rank, answer in said.items() if "failed" in answer})
    return {rank: answer["said"] for rank, answer in said.items()}


def _raise_first(failures: Mapping[int, str]) -> None:
    """Raises what the first rank that failed says."""
    for rank, reason in sorted(failures.items()):
        more = f" ({len(failures) - 1:,} more ranks failed)" if len(failures) > 1 else ""
        raise PartError(f"rank {rank} cannot go on: {reason}{more}")
