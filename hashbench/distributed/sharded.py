"""The manifest of a sharded model in memory, and verification against a manifest, by all ranks together.

Within a process group, ranks say what they hold while they hash it, share out the rows of tensors that are sharded
along an inner dimension, and then exchange descriptions of a few kilobytes. Every rank comes to the same verdict.
"""

from __future__ import annotations

import gc
import json
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from hashbench.distributed.claims import claims_in, message_of
from hashbench.distributed.combining import check_agreement, ranks_named, the_same
from hashbench.distributed.content import Contents, describe
from hashbench.distributed.group import Ranks
from hashbench.distributed.layouts import Local, Sharded, locals_of
from hashbench.distributed.moving import move
from hashbench.distributed.parts import HeldTensor, Part, PartError
from hashbench.distributed.planning import Group, groups_of
from hashbench.distributed.subtrees import content_size
from hashbench.distributed.teams import in_steps
from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.model.manifest import Entry, Manifest, TensorEntry
from hashbench.model.report import Report
from hashbench.model.strict_json import quoted
from hashbench.torch.modules import tensors_of

FIRST_CALL, CALL = 256 << 20, 8 << 30
"""Bytes of the first call of a kernel, for which the device waits, and of the largest."""

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
    for name, layout, _ in held:
        needed += sum(content_size(run, layout.nbytes, chunk_size, size) for run in layout.runs)
        if needed > MAX_CONTENT:
            raise PartError(
                f"the part would have more than {MAX_CONTENT} bytes at the tensor {quoted(name)}, of which this rank "
                "has short pieces of every row: choose smaller chunks, or use a process group"
            )
    hashing = _Hashing(chunk_size, algorithm)
    for local in held:
        hashing.add(local)
    described = hashing.contents()
    tensors = [
        HeldTensor(name, layout.dtype, layout.shape, layout.nbytes, layout.ranks, layout.runs, described[name])
        for name, layout, _ in held
    ]
    return Part(rank, algorithm, chunk_size, tuple(tensors))


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
    terms = _Terms(algorithm_named(algorithm).name, check_chunk_size(chunk_size))
    with _without_collection():
        found = _together(module_or_shards, terms, group)
        if not found.roots:
            raise PartError("the model has no tensors: there is nothing to hash")
        entries = [
            TensorEntry(name, layout.dtype, layout.shape, layout.nbytes, the_same(name, found.roots[name]))
            for group_of in found.groups
            for layout in [next(iter(group_of.layouts.values()))]
            for name in group_of.names
        ]
        return Manifest(algorithm, chunk_size, tuple(entries))


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
    expected = tensors_of(manifest, component)
    terms = _Terms(manifest.algorithm, manifest.chunk_size, manifest.root.hex())
    with _without_collection():
        found = _together(module_or_shards, terms, group, expected)
        entries: dict[str, Entry] = {}
        wrong: dict[str, set[int]] = {}
        for one in found.groups:
            layout = next(iter(one.layouts.values()))
            for name in one.names:
                wanted = expected.by_name[name]
                assert isinstance(wanted, TensorEntry)  # of a component there are no files
                entries[name] = wanted
                roots = found.roots[name]
                if layout.dtype != wanted.dtype or layout.shape != wanted.shape:
                    suspects = set(one.layouts)
                else:
                    suspects = {rank for ranks, root in roots if root != wanted.root for rank in ranks}
                if suspects:
                    wrong[name] = suspects
                    root = next((root for _, root in roots if root != wanted.root), wanted.root)
                    entries[name] = TensorEntry(name, layout.dtype, layout.shape, layout.nbytes, root)
        blamed = {name: tuple(sorted(suspects)) for name, suspects in wrong.items()} | dict(found.extra)
        doubtful = {name for name in wrong if any(root == expected.by_name[name].root for _, root in found.roots[name])}
        if doubtful:
            blamed |= _traced(doubtful, expected, found)
    return ShardedReport(
        expected,
        entries,
        differs=tuple(sorted(wrong)),
        missing=tuple(name for name in expected.by_name if name not in entries),
        extra=tuple(sorted(found.extra)),
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
        tied = self._tied.setdefault(local.content, [])
        tied.append(local.name)
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
            for name in self._tied[local.content]
        }

    def _start(self, device: torch.device) -> None:
        held = self._pending.pop(device)
        self._bytes[device] = 0
        if device.type == "cuda" and device not in self._call:
            torch.cuda.current_stream(device).synchronize()
        self._call[device] = min(CALL, 8 * self._call.get(device, FIRST_CALL))
        extents = [list(local.extents()) for local in held]
        self._running.append((held, describe(extents, self._chunk_size, self._algorithm)))


Roots = Sequence[tuple[tuple[int, ...], bytes]]
"""The ranks and the root of each copy of a tensor."""


@dataclass(frozen=True)
class _Found:
    """What all ranks of a group hold together.

    Attributes:
        groups: how the tensors that are expected are held.
        roots: the copies of each of them.
        extra: the ranks that hold each tensor that is not expected.
        held: what this rank holds, by name.
        ranks: all of them.
    """

    groups: Sequence[Group]
    roots: Mapping[str, Roots]
    extra: Mapping[str, tuple[int, ...]]
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
    places: set[str] = set()  # the types of devices with tensors that may be shared out by rows
    failure: Exception | None = None
    try:
        waiting: list[Local] = []
        unlisted: list[Local] = []
        for local in locals_of(model, ranks.mine):
            if expected and local.name not in expected.by_name:
                unlisted.append(local)
                continue
            held[local.name] = local
            if local.layout.in_short_rows(terms.chunk_size):
                places.add(local.memory.device.type)
            elif local.name in late:
                waiting.append(local)
            else:
                rounds[0].add(local)
        rounds[0].start()
        for local in waiting:
            rounds[1].add(local)
        rounds[1].start()
        if unlisted:  # a name may be tied to one that is listed: it is then verified too
            listed = {local.content for local in held.values()}
            unlisted = [local for local in unlisted if local.content not in listed]
    except Exception as error:
        failure = error
    claims = {
        "terms": str(terms),
        "held": message_of((local.name, local.layout) for local in held.values()),
        "extra": [one.name for one in unlisted],
        "rows": list(places),
    }
    said = _exchanged(ranks, claims, failure)
    check_agreement({rank: answer["terms"] for rank, answer in said.items()})
    extra: defaultdict[str, list[int]] = defaultdict(list)
    for rank, answer in said.items():
        for name in answer["extra"]:
            extra[name].append(rank)
    groups = groups_of(
        {rank: list(claims_in(answer["held"])) for rank, answer in said.items()}, terms.chunk_size, terms.algorithm
    )
    places = {place for answer in said.values() for place in answer["rows"]}
    roots = _hashed(groups, held, rounds, late, terms, ranks, places == {"cuda"})
    return _Found(groups, roots, {name: tuple(holders) for name, holders in extra.items()}, held, ranks)


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
    groups: Sequence[Group],
    held: Mapping[str, Local],
    rounds: Sequence[_Hashing],
    late: Collection[str],
    terms: _Terms,
    ranks: Ranks,
    on_gpus: bool,
) -> dict[str, Roots]:
    """The copies of all tensors.

    Args:
        groups: how the tensors are held.
        held: what this rank holds, by name.
        rounds: what it is hashing: first what is combined first, then what is late.
        late: the names of what is late.
        terms: what to hash with.
        ranks: all ranks.
        on_gpus: whether all ranks have the tensors whose rows are shared out in GPU memory.
    """
    mine = [one for one in groups if ranks.mine in one.layouts]
    memory = {name: held[name].memory.tensor for one in mine if ranks.mine in one.moving for name in one.names}
    steps = in_steps(batch for one in groups for team in one.teams for batch in team.batches(one.names))
    moved = move(steps, memory, ranks, on_gpus, terms.chunk_size, terms.algorithm)
    contents = dict(moved.contents)
    failure = moved.failure
    roots: dict[str, Roots] = {}
    size = algorithm_named(terms.algorithm).digest_size
    shares: list[list[_Place]] = [[] for _ in ranks.numbers]  # what each rank has folded of the first round
    folded = b""
    for last, hashing in enumerate(rounds):
        names = [[name for name in one.names if one.is_last(name in late) == bool(last)] for one in groups]
        try:
            if last:  # what irregular shards do not let move
                for one in mine:
                    if one.in_rows and ranks.mine not in one.moving:
                        for name in one.names:
                            if name not in contents:
                                hashing.add(held[name])
            contents |= hashing.contents()
        except Exception as error:
            failure = failure or error
        sizes = [size * sum(len(groups[number].copies) for number, _, _ in share) for share in shares]
        said, folded_by = _spread(groups, names, contents, (folded, sizes), failure, ranks)
        for share, digests in zip(shares, folded_by, strict=True):
            for number, name, _ in share:
                copies = groups[number].copies
                roots[name] = [(copy.ranks, digests[size * k : size * (k + 1)]) for k, copy in enumerate(copies)]
                digests = digests[size * len(copies) :]
        places = [(number, name, place) for number, chosen in enumerate(names) for place, name in enumerate(chosen)]
        if last:  # of the rest, all fold all: nobody waits for another
            roots |= _folded(places, groups, said, terms)
        else:
            shares = [places[first :: len(shares)] for first in range(len(shares))]
            of_share = _folded(shares[ranks.numbers.index(ranks.mine)], groups, said, terms)
            folded = b"".join(root for of_copies in of_share.values() for _, root in of_copies)
    return roots


_Place = tuple[int, str, int]
"""The number of a group, the name of a tensor in it, and the tensor's place among those that are asked for."""


def _folded(
    places: Iterable[_Place], groups: Sequence[Group], said: Sequence[Mapping[int, memoryview]], terms: _Terms
) -> dict[str, Roots]:
    """The copies of tensors.

    Args:
        places: the tensors.
        groups: how tensors are held.
        said: for each group what the ranks say of its tensors.
        terms: what they were hashed with.
    """
    roots: dict[str, Roots] = {}
    for number, name, place in places:
        one = groups[number]
        described = {rank: view[place * one.sizes[rank] :][: one.sizes[rank]] for rank, view in said[number].items()}
        roots[name] = [(copy.ranks, copy.root(described, terms.chunk_size, terms.algorithm)) for copy in one.copies]
    return roots


def _spread(
    groups: Sequence[Group],
    names: Sequence[Sequence[str]],
    contents: Mapping[str, bytes],
    folded: tuple[bytes, Sequence[int]],
    failure: Exception | None,
    ranks: Ranks,
) -> tuple[list[dict[int, memoryview]], list[bytes]]:
    """What each rank says: for each group the descriptions of all its names, one after another, by rank; and what it
    has folded.

    Args:
        groups: how the tensors are held; all ranks know it.
        names: those of each group that are asked for.
        contents: what this rank says.
        folded: what this rank has folded, and the size of what each has.
        failure: why it cannot say anything.
        ranks: all ranks.

    Raises:
        Exception: `failure`, if there is one.
        PartError: another rank has failed.
    """
    mine, sizes = folded
    starts = {rank: 1 + size for rank, size in zip(ranks.numbers, sizes, strict=True)}
    ends = dict(starts)
    places: list[dict[int, slice]] = []
    for one, chosen in zip(groups, names, strict=True):
        places.append({})
        for rank, size in one.sizes.items():
            start = ends[rank]
            ends[rank] += size * len(chosen)
            places[-1][rank] = slice(start, ends[rank])
    if failure:
        message = _FAILED + str(failure).encode()[:_ERROR_SIZE]
    else:
        own = (name for one, chosen in zip(groups, names, strict=True) if ranks.mine in one.sizes for name in chosen)
        message = b"".join([_DONE, mine, *(contents.get(name, b"") for name in own)])
    texts = ranks.gather_sized(message, [max(1 + _ERROR_SIZE, ends[rank]) for rank in ranks.numbers])
    said = {rank: memoryview(text) for rank, text in zip(ranks.numbers, texts, strict=True)}
    if failure:
        raise failure
    failed = {rank: bytes(text[1:]).rstrip(b"\0") for rank, text in said.items() if text[:1] == _FAILED}
    _raise_first({rank: text.decode("utf-8", "replace") for rank, text in failed.items()})
    return (
        [{rank: said[rank][place] for rank, place in of_group.items()} for of_group in places],
        [bytes(said[rank][1 : starts[rank]]) for rank in ranks.numbers],
    )


def _traced(names: Collection[str], expected: Manifest, found: _Found) -> dict[str, tuple[int, ...]]:
    """The ranks whose share of a tensor differs from the same share of a copy that is right.

    Args:
        names: tensors of which some copies are right and others are not.
        expected: the manifest.
        found: what the ranks hold.
    """
    failure: Exception | None = None
    shares: dict[str, str] = {}
    try:
        hashing = _Hashing(expected.chunk_size, expected.algorithm)
        for name in found.held.keys() & names:
            hashing.add(found.held[name].as_whole())
        shares = {name: content.hex() for name, content in hashing.contents().items()}
    except Exception as error:
        failure = error
    said = _exchanged(found.ranks, shares, failure)
    traced = {}
    for one in found.groups:
        for name in one.names:
            if name not in names:
                continue
            shown = {rank: (layout.box, said[rank][name]) for rank, layout in one.layouts.items()}
            right, suspects = set(), set()
            for ranks, root in found.roots[name]:
                if root == expected.by_name[name].root:
                    right |= {shown[rank] for rank in ranks}
                else:
                    suspects |= set(ranks)
            guilty = {rank for rank in suspects if shown[rank] not in right}
            traced[name] = tuple(sorted(guilty or suspects))
    return traced


@contextmanager
def _without_collection() -> Iterator[None]:
    """Puts off the collection of garbage, which takes longer than hashing where a process has many objects."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


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
