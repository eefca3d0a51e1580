"""Parts of a model combined to its manifest: pure, with or without a process group.

The same tensor may be held once by every group of ranks, or by every rank. What makes up one copy is known by the ranks
that hold it. Every copy is folded to a root of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

from hashbench.distributed.parts import Part, PartError
from hashbench.distributed.subtrees import Run, content_size, fold
from hashbench.kernels import algorithm_named
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.strict_json import quoted

_SHOWN = 8  # ranks in one line


class Holding(NamedTuple):
    """That a rank holds some of a tensor.

    Attributes:
        rank: the rank.
        dtype: the tensor's dtype, by its name in safetensors.
        shape: its shape.
        nbytes: its size.
        ranks: the ranks that hold one copy together; none if that is not known.
        runs: the ranges of the tensor's bytes that the rank describes.
    """

    rank: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    ranks: tuple[int, ...]
    runs: tuple[Run, ...]


class _Piece(NamedTuple):
    """A run of a tensor, and where the rank's description of the tensor describes it."""

    run: Run
    rank: int
    start: int
    stop: int


@dataclass(frozen=True)
class Copy:
    """How one copy of a tensor is made up.

    Attributes:
        ranks: the ranks that hold it together.
        nbytes: the tensor's size.
        pieces: the runs that make it up, in order.
    """

    ranks: tuple[int, ...]
    nbytes: int
    pieces: Sequence[_Piece]

    def root(self, contents: Mapping[int, memoryview], chunk_size: int, algorithm: str) -> bytes:
        """The root of this copy.

        Args:
            contents: what each rank says of the tensor: the descriptions of its runs.
            chunk_size: bytes of a leaf.
            algorithm: "sha256" or "sha384".
        """
        described = [(run, contents[rank][start:stop]) for run, rank, start, stop in self.pieces]
        return fold(described, self.nbytes, chunk_size, algorithm)


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
    held: defaultdict[str, list[Holding]] = defaultdict(list)
    contents: defaultdict[str, dict[int, memoryview]] = defaultdict(dict)
    for part in parts:
        for tensor in part.tensors:
            contents[tensor.name][part.rank] = memoryview(tensor.content)
            held[tensor.name].append(
                Holding(part.rank, tensor.dtype, tensor.shape, tensor.nbytes, tensor.ranks, tensor.runs)
            )
    if not held:
        raise PartError("the parts have no tensors: there is nothing to combine")
    algorithm, chunk_size = parts[0].algorithm, parts[0].chunk_size
    entries = []
    for name, holders in held.items():
        copies = copies_of(name, holders, ranks, chunk_size, algorithm)
        roots = [(copy.ranks, copy.root(contents[name], chunk_size, algorithm)) for copy in copies]
        _, dtype, shape, nbytes, _, _ = holders[0]
        entries.append(TensorEntry(name, dtype, shape, nbytes, the_same(name, roots)))
    return Manifest(algorithm, chunk_size, tuple(entries))


def the_same(name: str, roots: Sequence[tuple[tuple[int, ...], bytes]]) -> bytes:
    """The root of all copies of a tensor.

    Args:
        name: the tensor's name.
        roots: the ranks and the root of each copy.

    Raises:
        PartError: they differ.
    """
    by_root: defaultdict[bytes, list[int]] = defaultdict(list)
    for ranks, root in roots:
        by_root[root] += ranks
    if len(by_root) > 1:
        sides = "; ".join(f"one is on {ranks_named(ranks)}" for ranks in by_root.values())
        raise PartError(f"the copies of the tensor {quoted(name)} differ: {sides}")
    return roots[0][1]


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


def copies_of(
    name: str, holders: Sequence[Holding], present: Collection[int], chunk_size: int, algorithm: str
) -> list[Copy]:
    """The copies of a tensor.

    Args:
        name: its name.
        holders: what ranks hold of it.
        present: the ranks that said what they hold.
        chunk_size: bytes of a leaf.
        algorithm: "sha256" or "sha384".

    Raises:
        PartError: ranks disagree on the tensor's dtype or shape, a rank that holds some of it is missing, or what ranks
            hold leaves a gap or overlaps.
    """
    first = holders[0]
    if any(holder.dtype != first.dtype or holder.shape != first.shape for holder in holders):
        kinds: defaultdict[str, list[int]] = defaultdict(list)
        for holder in holders:
            kinds[f"{holder.dtype} {list(holder.shape)}"].append(holder.rank)
        said = "; ".join(f"{ranks_named(ranks)}: {kind}" for kind, ranks in kinds.items())
        raise PartError(f"ranks disagree on the tensor {quoted(name)}: {said}")
    size = algorithm_named(algorithm).digest_size
    return [_tiled(name, members, chunk_size, size) for members in _members(name, holders, present)]


def _members(name: str, holders: Sequence[Holding], present: Collection[int]) -> Iterator[list[Holding]]:
    """What makes up each copy of a tensor."""
    known: dict[tuple[int, ...], list[Holding]] = {}
    unknown: dict[tuple[Run, ...], list[Holding]] = {}
    for holder in holders:
        if holder.ranks:
            known.setdefault(holder.ranks, []).append(holder)
        elif holder.runs or not holder.nbytes:
            unknown.setdefault(holder.runs, []).append(holder)
    if not known and not unknown:
        raise PartError(f"no rank holds any of the tensor {quoted(name)}")
    for ranks, members in known.items():
        if missing := set(ranks) - {holder.rank for holder in members}:
            why = "does not say so" if missing <= set(present) else "is missing"
            raise PartError(f"{ranks_named(missing)} {why}, but holds some of the tensor {quoted(name)}")
        yield members
    # Where ranks do not say which others they belong to, equal ranges are of different copies.
    for places in zip_longest(*unknown.values()):
        yield [place or same[-1] for place, same in zip(places, unknown.values(), strict=True)]


def _tiled(name: str, members: Sequence[Holding], chunk_size: int, digest_size: int) -> Copy:
    """The runs of a copy, in order.

    Raises:
        PartError: they leave a gap or overlap.
    """
    pieces: list[_Piece] = []
    for holder in members:
        at = 0
        for run in holder.runs:
            end = at + content_size(run, holder.nbytes, chunk_size, digest_size)
            pieces.append(_Piece(run, holder.rank, at, end))
            at = end
    pieces.sort()
    ranks, nbytes, place = tuple(sorted(holder.rank for holder in members)), members[0].nbytes, 0
    for (start, stop), rank, _, _ in (*pieces, _Piece((nbytes, nbytes), ranks[0], 0, 0)):
        if start != place:
            how = f"bytes {place} to {start} are missing" if start > place else f"rank {rank} overlaps at byte {start}"
            raise PartError(f"the tensor {quoted(name)} is not complete on {ranks_named(ranks)}: {how}")
        place = stop
    return Copy(ranks, nbytes, pieces)


def ranks_named(ranks: Iterable[int]) -> str:
    """Ranks in a line of text: "rank 0", "ranks 0, 1, 2"."""
    numbers = sorted(set(ranks))
    more = f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else ""
    return f"rank{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers[:_SHOWN]))}{more}"
