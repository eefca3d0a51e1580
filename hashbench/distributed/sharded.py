"""The manifest of a sharded model in memory, and verification against a manifest, by all ranks together.

Within a process group, ranks say what they hold while they hash it, share out the rows of tensors that are sharded
along an inner dimension, and then exchange descriptions of a few kilobytes. Every rank comes to the same verdict.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from hashbench.distributed.combining import Copy, check_agreement, copies_in, ranks_by_root, ranks_named
from hashbench.distributed.content import Contents, Extent, describe
from hashbench.distributed.group import Ranks
from hashbench.distributed.layouts import Local, Sharded, locals_of
from hashbench.distributed.moving import Claim, Plan, move
from hashbench.distributed.parts import HeldTensor, Part, PartError
from hashbench.distributed.subtrees import Box, content_size, runs_of
from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.model.manifest import Entry, Manifest
from hashbench.model.report import Report, compare
from hashbench.model.strict_json import quoted

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
    """

    ranks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

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
    held = locals_of(module_or_shards, rank)
    needed = 0
    for one in held:
        runs = runs_of(one.box, one.memory.tensor.element_size())
        needed += content_size(runs, one.nbytes, chunk_size, size)
        if needed > MAX_CONTENT:
            raise PartError(
                f"the part would have more than {MAX_CONTENT} bytes at the tensor {quoted(one.name)}, of which this "
                "rank has short pieces of every row: choose smaller chunks, or use a process group"
            )
    described = _start(held, chunk_size, algorithm)()
    tensors = [
        HeldTensor(
            one.name,
            one.dtype,
            one.shape,
            one.nbytes,
            one.ranks,
            runs_of(one.box, one.memory.tensor.element_size()),
            described[one.name],
        )
        for one in held
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
    ranks = Ranks(group)
    found = _together(module_or_shards, terms, ranks)
    for name, copies in found.copies.items():
        if len(by_root := ranks_by_root(copies)) > 1:
            sides = "; ".join(f"one is on {ranks_named(of_root)}" for of_root in by_root.values())
            raise PartError(f"the copies of the tensor {quoted(name)} differ: {sides}")
    if not found.copies:
        raise PartError("the model has no tensors: there is nothing to hash")
    return Manifest(algorithm, chunk_size, tuple(copies[0].entry for copies in found.copies.values()))


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
    ranks = Ranks(group)
    found = _together(
        module_or_shards, _Terms(manifest.algorithm, manifest.chunk_size, manifest.root.hex()), ranks, expected
    )
    blamed: dict[str, tuple[int, ...]] = dict(found.extra)
    entries: dict[str, Entry] = {}
    to_trace: dict[str, Sequence[Copy]] = {}
    for name, copies in found.copies.items():
        wanted = expected.by_name[name]
        wrong = [copy for copy in copies if copy.entry != wanted]
        entries[name] = (wrong or copies)[0].entry
        if wrong:
            blamed[name] = tuple(sorted({rank for copy in wrong for rank in copy.ranks}))
            if len(wrong) < len(copies):
                to_trace[name] = copies
    if to_trace:
        blamed |= _traced(to_trace, expected, found, ranks)
    compared = compare(expected, entries)
    return ShardedReport(
        expected,
        entries,
        compared.differs,
        compared.missing,
        tuple(sorted(found.extra)),
        root=manifest.root,
        ranks=blamed,
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


@dataclass(frozen=True)
class _Found:
    """What all ranks of a group hold together.

    Attributes:
        copies: the copies of each tensor that is expected.
        extra: the ranks that hold each tensor that is not.
        claims: what each rank holds.
        held: what this rank holds.
    """

    copies: Mapping[str, Sequence[Copy]]
    extra: Mapping[str, tuple[int, ...]]
    claims: Mapping[int, Sequence[Claim]]
    held: Sequence[Local]


_Named = Callable[[], dict[str, bytes]]
"""Waits for the descriptions of tensors, by name."""


def _together(model: Sharded, terms: _Terms, ranks: Ranks, expected: Manifest | None = None) -> _Found:
    """Hashes what the ranks of a group hold, and combines it. What fails on one rank fails on all."""
    held: list[Local] = []
    claims: list[Claim] = []
    early: _Named = dict
    failure: Exception | None = None
    try:
        held = _without_ties(locals_of(model, ranks.mine), expected)
        claims = [_claim(local) for local in held]
        early = _start(
            [
                local
                for local, claim in zip(held, claims, strict=True)
                if _is_expected(claim.name, expected) and not claim.in_short_rows(terms.chunk_size)
            ],
            terms.chunk_size,
            terms.algorithm,
        )
    except Exception as error:
        failure = error
    said = _exchanged(ranks, {"terms": str(terms), "tensors": claims}, failure)
    check_agreement({rank: message["terms"] for rank, message in said.items()})
    everything = {rank: [_read_claim(fields) for fields in message["tensors"]] for rank, message in said.items()}
    extra: defaultdict[str, list[int]] = defaultdict(list)
    for rank, of_rank in everything.items():
        for claim in of_rank:
            if not _is_expected(claim.name, expected):
                extra[claim.name].append(rank)
    listed = {rank: [claim for claim in of_rank if claim.name not in extra] for rank, of_rank in everything.items()}
    copies = _hashed(listed, held, early, terms, ranks)
    return _Found(copies, {name: tuple(holders) for name, holders in extra.items()}, listed, held)


def _hashed(
    claims: Mapping[int, Sequence[Claim]], held: Sequence[Local], early: _Named, terms: _Terms, ranks: Ranks
) -> dict[str, list[Copy]]:
    """The copies of all tensors, hashed by the ranks that hold them.

    Args:
        claims: what each rank holds.
        held: what this rank holds.
        early: the descriptions that are already under way.
        terms: what to hash with.
        ranks: the ranks of `claims`.
    """
    chunk_size, algorithm = terms.chunk_size, terms.algorithm
    plan = Plan.of(claims, chunk_size)
    mine, moving = claims[ranks.mine], plan.moved[ranks.mine]
    memory = {local.name: local.memory.tensor for local in held if local.name in moving}
    moved = move(plan, memory, ranks, chunk_size, algorithm)
    failure = moved.failure
    content = b""
    if not failure:
        try:
            in_place = {claim.name for claim in mine if claim.in_short_rows(chunk_size)} - moving
            late = _start([local for local in held if local.name in in_place], chunk_size, algorithm)
            described = {**early(), **late(), **moved.contents}
            content = b"".join(described.get(claim.name, b"") for claim in mine)
        except Exception as error:
            failure = error

    size = algorithm_named(algorithm).digest_size
    sizes = {
        rank: [content_size(plan.runs(rank, claim), claim.nbytes, chunk_size, size) for claim in of_rank]
        for rank, of_rank in claims.items()
    }
    message = _FAILED + str(failure).encode()[:_ERROR_SIZE] if failure else _DONE + content
    lengths = [1 + max(_ERROR_SIZE, sum(sizes[rank])) for rank in ranks.numbers]
    said = dict(zip(ranks.numbers, ranks.gather_sized(message, lengths), strict=True))
    if failure:
        raise failure
    _raise_first(
        {rank: text[1:].rstrip(b"\0").decode("utf-8", "replace") for rank, text in said.items() if text[:1] == _FAILED}
    )
    tensors: defaultdict[str, list[tuple[int, HeldTensor]]] = defaultdict(list)
    for rank, of_rank in claims.items():
        at = 1
        for claim, length in zip(of_rank, sizes[rank], strict=True):
            runs, found = plan.runs(rank, claim), said[rank][at : at + length]
            at += length
            tensors[claim.name].append(
                (rank, HeldTensor(claim.name, claim.dtype, claim.shape, claim.nbytes, claim.ranks, runs, found))
            )
    return copies_in(tensors, ranks.numbers, algorithm, chunk_size)


def _traced(
    names: Mapping[str, Sequence[Copy]], expected: Manifest, found: _Found, ranks: Ranks
) -> dict[str, tuple[int, ...]]:
    """The ranks whose share of a tensor differs from the same share of a copy that is right.

    Args:
        names: the copies of each tensor of which some are right and others are not.
        expected: the manifest.
        found: what the ranks hold.
        ranks: all of them.
    """
    failure: Exception | None = None
    shares: dict[str, str] = {}
    try:
        mine = [local for local in found.held if local.name in names]
        whole = [local.as_whole() for local in mine]
        described = _start(whole, expected.chunk_size, expected.algorithm)()
        shares = {name: content.hex() for name, content in described.items()}
    except Exception as error:
        failure = error
    said = _exchanged(ranks, shares, failure)
    boxes = {rank: {claim.name: claim.box for claim in claims} for rank, claims in found.claims.items()}
    traced = {}
    for name, copies in names.items():
        wanted = expected.by_name[name]
        right = defaultdict(set)
        for copy in copies:
            if copy.entry == wanted:
                for rank in copy.ranks:
                    right[boxes[rank][name]].add(said[rank][name])
        suspects = {rank for copy in copies if copy.entry != wanted for rank in copy.ranks}
        guilty = {rank for rank in suspects if said[rank][name] not in right[boxes[rank][name]]}
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


def _is_expected(name: str, expected: Manifest | None) -> bool:
    return expected is None or name in expected.by_name


def _without_ties(held: Sequence[Local], expected: Manifest | None) -> list[Local]:
    """What a rank holds, but for names that the manifest does not list of memory that it lists by another name."""
    if expected is None:
        return list(held)
    listed = {local.content for local in held if local.name in expected.by_name}
    return [local for local in held if local.name in expected.by_name or local.content not in listed]


def _claim(local: Local) -> Claim:
    itemsize = local.memory.tensor.element_size()
    return Claim(local.name, local.dtype, local.shape, local.nbytes, itemsize, local.box, local.ranks)


def _read_claim(fields: Any) -> Claim:
    name, dtype, shape, nbytes, itemsize, (whole, held), ranks = fields
    box = Box(tuple(whole), tuple(tuple((start, stop) for start, stop in ranges) for ranges in held))
    return Claim(name, dtype, tuple(shape), nbytes, itemsize, box, tuple(ranks))


def _start(held: Iterable[Local], chunk_size: int, algorithm: str) -> _Named:
    """Starts describing what a rank holds, on all its devices; tied memory once."""
    by_device: defaultdict[torch.device, dict[Hashable, list[Local]]] = defaultdict(dict)
    for local in held:
        by_device[local.memory.device].setdefault((local.memory.memory, local.nbytes, local.box), []).append(local)
    waiting: list[tuple[list[list[Local]], Contents]] = []
    for device, found in by_device.items():
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        same = list(found.values())
        waiting.append((same, describe([_extents(tied[0]) for tied in same], chunk_size, algorithm)))
    return lambda: {
        local.name: content
        for same, contents in waiting
        for tied, content in zip(same, contents(), strict=True)
        for local in tied
    }


def _extents(local: Local) -> list[Extent]:
    offset, extents = 0, []
    for run in runs_of(local.box, local.memory.tensor.element_size()):
        extents.append(Extent(run, local.nbytes, local.memory.tensor, offset))
        offset += run[1] - run[0]
    return extents
