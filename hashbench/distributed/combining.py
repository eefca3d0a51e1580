"""Parts of a model combined to its manifest: pure, with or without a process group.

What makes up one copy of a tensor is known by the ranks that hold it: the same tensor may be there once in every group
of ranks, or on every rank. Every copy is folded to a root of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from hashbench.distributed.parts import HeldTensor, Part, PartError
from hashbench.distributed.subtrees import Run, TilingError, described, fold
from hashbench.kernels import algorithm_named
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.strict_json import quoted

_SHOWN = 8  # ranks in one line

Held = tuple[int, HeldTensor]
"""A rank, and what it holds of a tensor."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of a tensor.

    Attributes:
        ranks: the ranks that hold it together.
        entry: the tensor, with the copy's root.
    """

    ranks: tuple[int, ...]
    entry: TensorEntry


def combine(parts: Iterable[Part]) -> Manifest:
    """The manifest of a model from the parts that its ranks hold: that of its tensors, as if they were not sharded.

    Raises:
        PartError: there are no parts or no tensors; two parts are of one rank; parts disagree on the algorithm, the
            chunk size, or a tensor's dtype or shape; a rank that holds some of a tensor has no part; what ranks hold of
            a tensor leaves a gap or overlaps; or copies of a tensor differ.
        ManifestError: a tensor's name is not valid Unicode.
    """
    parts = list(parts)
    check_agreement({part.rank: f"{part.algorithm} in chunks of {part.chunk_size}" for part in parts})
    if len(ranks := {part.rank for part in parts}) < len(parts):
        raise PartError("two parts are of the same rank: every rank has one part")
    held: defaultdict[str, list[Held]] = defaultdict(list)
    for part in parts:
        for tensor in part.tensors:
            held[tensor.name].append((part.rank, tensor))
    if not held:
        raise PartError("the parts have no tensors: there is nothing to combine")
    copies = copies_in(held, ranks, parts[0].algorithm, parts[0].chunk_size)
    for name, of_tensor in copies.items():
        if len(by_root := ranks_by_root(of_tensor)) > 1:
            sides = "; ".join(f"one is on {ranks_named(ranks)}" for ranks in by_root.values())
            raise PartError(f"the copies of the tensor {quoted(name)} differ: {sides}")
    entries = tuple(of_tensor[0].entry for of_tensor in copies.values())
    return Manifest(parts[0].algorithm, parts[0].chunk_size, entries)


def copies_in(
    held: Mapping[str, Sequence[Held]], present: Collection[int], algorithm: str, chunk_size: int
) -> dict[str, list[Copy]]:
    """The copies of each tensor, by name.

    Args:
        held: what ranks hold of each tensor.
        present: the ranks that said what they hold.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.

    Raises:
        PartError: ranks disagree on a tensor's dtype or shape, a rank that holds some of one is missing, or what ranks
            hold leaves a gap or overlaps.
    """
    return {
        name: [_folded(name, copy, algorithm, chunk_size) for copy in copies_of(name, holders, present)]
        for name, holders in held.items()
    }


def check_agreement(terms: Mapping[int, str]) -> None:
    """Checks that all ranks say the same of what they hash with.

    Raises:
        PartError: they do not.
    """
    by_value: defaultdict[str, list[int]] = defaultdict(list)
    for rank, value in terms.items():
        by_value[value].append(rank)
    if len(by_value) > 1:
        said = "; ".join(f"{ranks_named(ranks)}: {value}" for value, ranks in by_value.items())
        raise PartError(f"ranks disagree on what to hash with: {said}")


def copies_of(name: str, holders: Sequence[Held], present: Collection[int]) -> Iterator[list[Held]]:
    """What makes up each copy of a tensor.

    Raises:
        PartError: ranks disagree on the tensor, or a rank is missing.
    """
    kinds: defaultdict[tuple[str, tuple[int, ...]], list[int]] = defaultdict(list)
    for rank, tensor in holders:
        kinds[tensor.dtype, tensor.shape].append(rank)
    if len(kinds) > 1:
        said = "; ".join(f"{ranks_named(ranks)}: {dtype} {list(shape)}" for (dtype, shape), ranks in kinds.items())
        raise PartError(f"ranks disagree on the tensor {quoted(name)}: {said}")
    known: defaultdict[tuple[int, ...], list[Held]] = defaultdict(list)
    unknown: defaultdict[tuple[Run, ...], list[Held]] = defaultdict(list)
    for rank, tensor in holders:
        if tensor.ranks:
            known[tensor.ranks].append((rank, tensor))
        elif tensor.runs or not tensor.nbytes:
            unknown[tensor.runs].append((rank, tensor))
    for ranks, copy in known.items():
        if missing := sorted(set(ranks) - {rank for rank, _ in copy}):
            why = "holds" if missing[0] in present else "is missing, and holds"
            raise PartError(f"{ranks_named(missing)} {why} a part of the tensor {quoted(name)} that was not given")
        yield copy
    if holders and not known and not unknown:
        raise PartError(f"no rank holds any of the tensor {quoted(name)}")
    # Where ranks do not say which others they belong to, equal ranges are of different copies.
    for places in zip_longest(*unknown.values()):
        yield [place or same[-1] for place, same in zip(places, unknown.values(), strict=True)]


def _folded(name: str, copy: Sequence[Held], algorithm: str, chunk_size: int) -> Copy:
    size = algorithm_named(algorithm).digest_size
    pieces: list[tuple[int, int, memoryview]] = []
    for _, held in copy:
        pieces += described(held.runs, held.content, held.nbytes, chunk_size, size)
    pieces.sort(key=lambda piece: piece[:2])
    tensor = copy[0][1]
    ranks = tuple(sorted(rank for rank, _ in copy))
    try:
        root = fold(pieces, tensor.nbytes, chunk_size, algorithm)
    except TilingError as error:
        raise PartError(f"the tensor {quoted(name)} on {ranks_named(ranks)} is not complete: {error}") from None
    return Copy(ranks, TensorEntry(name, tensor.dtype, tensor.shape, tensor.nbytes, root))


def ranks_by_root(copies: Iterable[Copy]) -> Mapping[bytes, list[int]]:
    """The ranks that hold copies with each root."""
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for copy in copies:
        found[copy.entry.root] += copy.ranks
    return found


def ranks_named(ranks: Iterable[int]) -> str:
    """Ranks in a line of text: "rank 0", "ranks 0, 1, 2"."""
    numbers = sorted(set(ranks))
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    return f"rank{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers[:_SHOWN]))}{more}"
