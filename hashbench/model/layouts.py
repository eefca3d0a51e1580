"""Layouts: the tensors that a framework has in memory, from those of files, and their roots from leaf hashes alone.

Frameworks fuse tensors, cut them into a shard for each rank, and pad them. Where the boundaries of what they join are
multiples of the chunk, the chunks are those of the files. So the leaf hashes of the file's tensors, in another order,
give the roots of the tensors in memory: no weights are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.resources import files
from math import prod
from typing import Any, NamedTuple

import numpy as np

from hashbench.kernels import Bytes, algorithm_named
from hashbench.merkle.rfc9162 import leaf_hash, root_of, roots_of_runs
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.model.hints import did_you_mean
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.sidecar import Sidecar
from hashbench.model.strict_json import quoted

VERSION = 1
"""The version of the format, whose schema is layout.schema.json in this package."""

MAX_SIZE = 1 << 20
"""The largest layout that is read, in bytes."""

MAX_RANKS = 1 << 16

KV_HEADS = "kv_heads"
"""What a layout has for the number of key and value heads, which is the model's."""

_MAX_DEPTH = 6  # layout, tensors, tensor, parts, part
_MAX_PADDING = 1 << 32
_SUFFIX = ".layout.json"
_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")
_NOT_DIGITS = re.compile(r"[^0-9]")  # without it, numbers could end anywhere, and a name be read in countless ways


class LayoutError(ValueError):
    """A layout is not valid, or does not fit the model; the message says why."""


class Part(NamedTuple):
    """A part of a tensor in memory.

    Attributes:
        tensor: the tensor's name in the files, with placeholders.
        shard: the dimension that is cut into a shard for each rank; None if every rank has all.
        most: shards at most, or KV_HEADS; with more ranks, neighbours have the same.
        pad: the first dimension is padded with zeros to a multiple of this, before it is cut.
    """

    tensor: str
    shard: int | None = None
    most: int | str | None = None
    pad: int = 1


class Rule(NamedTuple):
    """How one or more tensors in memory are made.

    Attributes:
        name: the tensor's name in memory, with placeholders.
        parts: what it joins along the first dimension.
        stack: a placeholder of the parts' names: the tensor has a first dimension with the parts for each number.
    """

    name: str
    parts: tuple[Part, ...]
    stack: str | None = None


@dataclass(frozen=True)
class Derived:
    """What a layout makes of a manifest.

    Attributes:
        manifest: of the tensors in memory whose roots follow.
        refused: why those of others do not, by name, sorted.
        unused: names in the manifest that no rule takes, sorted.
    """

    manifest: Manifest
    refused: Mapping[str, str]
    unused: tuple[str, ...]


def shipped() -> list[str]:
    """The names of the layouts that come with this package, sorted."""
    names = (path.name for path in files("hashbench.model").iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def read_layout(path: str | os.PathLike[str]) -> tuple[Rule, ...]:
    """Reads a layout from a file, or one that comes with this package, by its name.

    Raises:
        OSError: it cannot be read.
        LayoutError: it is not valid, or there is none.
    """
    name, known = os.fspath(path), shipped()
    if name in known:
        return parse_layout(files("hashbench.model").joinpath(f"{name}{_SUFFIX}").read_bytes())
    try:
        return read_document(path, "layout", parse_layout, LayoutError, MAX_SIZE)
    except FileNotFoundError:
        such = f"{quoted(name)} is neither a file nor one of the layouts {', '.join(known)}"
        raise LayoutError(f"{such}{did_you_mean(name, known)}") from None


def parse_layout(data: bytes) -> tuple[Rule, ...]:
    """Parses a layout.

    Raises:
        LayoutError: it is not strict JSON, does not follow the schema, or a name has a placeholder that the first
            part's tensor does not have, or lacks one; or two placeholders have nothing but digits between them.
    """
    try:
        document = parse_document(data, "layout", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH)
    except DocumentError as error:
        raise LayoutError(str(error)) from None
    return tuple(map(_rule, document["tensors"]))


def _rule(fields: Mapping[str, Any]) -> Rule:
    rule = Rule(fields["name"], tuple(Part(**part) for part in fields["parts"]), fields.get("stack"))
    known = set(_PLACEHOLDER.findall(rule.name)) | ({rule.stack} if rule.stack else set())
    if rule.stack and rule.stack in _PLACEHOLDER.findall(rule.name):
        raise LayoutError(f"{quoted(rule.name)} has the placeholder by which it is stacked")
    for part in rule.parts:
        if not all(_NOT_DIGITS.search(between) for between in _PLACEHOLDER.split(part.tensor)[2:-1:2]):
            raise LayoutError(f"{quoted(part.tensor)} has placeholders with nothing but digits between them")
        if set(_PLACEHOLDER.findall(part.tensor)) != known:
            raise LayoutError(f"{quoted(part.tensor)} does not have the placeholders of {quoted(rule.name)}")
        if part.pad > 1 and part.shard not in (None, 0):
            raise LayoutError(f"{quoted(part.tensor)} is padded along the first dimension, and cut along another")
    return rule


def derive(
    manifest: Manifest,
    leaves: Sidecar,
    layout: Sequence[Rule],
    ranks: int = 1,
    rank: int = 0,
    kv_heads: int | None = None,
) -> Derived:
    """The manifest of the tensors that one rank has in memory, from a manifest of the files and its leaf hashes.

    The leaf hashes are checked against the manifest's roots. So whoever trusts the manifest can trust what is derived.

    Args:
        manifest: of the model's files, which has the tensors under plain names.
        leaves: its sidecar.
        layout: the rules.
        ranks: how many ranks the tensors are cut for.
        rank: which of them, from 0.
        kv_heads: the number of the model's key and value heads, for layouts that cut by them for several ranks.

    Raises:
        ValueError: there is no such rank, or the ranks cannot share that many heads alike.
        LayoutError: `kv_heads` is missing or has no use, no tensor is made, two are of one name, or a part of a tensor
            is not in the manifest.
        OSError, SidecarError: the leaf hashes cannot be read, or do not have their roots.
    """
    if not 0 < ranks <= MAX_RANKS or not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} of {ranks} is not accepted: ranks are counted from 0, up to {MAX_RANKS}")
    layout = _with_heads(layout, ranks, kv_heads)
    tensors = {tensor.name: tensor for tensor in manifest.of_component("").tensors}
    checked = lru_cache(_KEPT)(partial(_checked, leaves))
    made: dict[str, TensorEntry] = {}
    refused: dict[str, str] = {}
    used: set[str] = set()
    for rule in layout:
        for name, parts in _made_by(rule, tensors):
            if name in refused or name in made:
                raise LayoutError(f"two rules make {quoted(name)}")
            used.update(tensor.name for tensor, _ in parts)
            stacked = len(parts) // len(rule.parts) if rule.stack else None
            try:
                shape, runs = _runs(parts, ranks, rank, stacked)
                root = _root(runs, manifest.algorithm, manifest.chunk_size, checked)
            except _Underivable as reason:
                refused[name] = str(reason)
                continue
            made[name] = TensorEntry(name, parts[0][0].dtype, shape, sum(run.nbytes for run in runs), root)
    if not made and not refused:
        raise LayoutError("the layout makes no tensor of what the manifest lists")
    derived = Manifest(manifest.algorithm, manifest.chunk_size, tuple(made.values()))
    return Derived(derived, dict(sorted(refused.items())), tuple(sorted(tensors.keys() - used)))


def _with_heads(layout: Sequence[Rule], ranks: int, kv_heads: int | None) -> Sequence[Rule]:
    """The rules with the number of key and value heads in the place of its name.

    Raises:
        ValueError, LayoutError: as for `derive`.
    """
    cut = next((part.tensor for rule in layout for part in rule.parts if part.most == KV_HEADS), None)
    if kv_heads is None:
        if cut is not None and ranks > 1:
            raise LayoutError(
                f"{quoted(cut)} is cut by key and value heads, which ranks share if there are more ranks: give their "
                "number (--kv-heads), `num_key_value_heads` in the model's config.json"
            )
        kv_heads = 1
    elif cut is None:
        raise LayoutError("the layout cuts nothing by key and value heads: their number has no use")
    if kv_heads < 1 or max(ranks, kv_heads) % min(ranks, kv_heads):
        raise ValueError(
            f"{kv_heads} key and value heads are not accepted for {ranks} ranks: their number must be a multiple or a "
            "divisor of that of the ranks"
        )
    return [
        rule._replace(
            parts=tuple(part._replace(most=kv_heads) if part.most == KV_HEADS else part for part in rule.parts)
        )
        for rule in layout
    ]


_KEPT = 8  # tensors whose leaf hashes are kept: the parts of one are read one after the other


class _Underivable(Exception):
    """The leaf hashes of the files do not have those of the tensor; the message says why."""


class _Run(NamedTuple):
    """Ranges of one tensor's bytes at equal distances, one after the other; or zeros.

    Attributes:
        tensor: the tensor; None for zeros.
        start: the first byte.
        length: bytes of each range.
        ranges: how many.
        stride: bytes from the start of one range to that of the next.
    """

    tensor: TensorEntry | None
    start: int
    length: int
    ranges: int = 1
    stride: int = 0

    @property
    def nbytes(self) -> int:
        return self.length * self.ranges


def _checked(leaves: Sidecar, name: str) -> Bytes:
    leaves.check(name)
    return leaves.leaves(name)


def _made_by(rule: Rule, tensors: Mapping[str, TensorEntry]) -> Iterator[tuple[str, list[tuple[TensorEntry, Part]]]]:
    """The names that a rule makes, and the parts of each."""
    first = rule.parts[0].tensor
    pattern = re.compile(_pattern(first))
    bindings: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in tensors:
        if found := pattern.fullmatch(name):
            given = found.groupdict()
            number = given.pop(rule.stack) if rule.stack else ""
            bindings.setdefault(tuple(sorted(given.items())), []).append(number)
    for numbers, stacked in bindings.items():
        name = _filled(rule.name, dict(numbers))
        if rule.stack:
            stacked.sort(key=int)
            if stacked != [str(number) for number in range(len(stacked))]:
                raise LayoutError(f"{quoted(name)}: the numbers for {{{rule.stack}}} are not all from 0 on")
        parts = []
        for number in stacked:
            for part in rule.parts:
                given = dict(numbers) | ({rule.stack: number} if rule.stack else {})
                wanted = _filled(part.tensor, given)
                if wanted not in tensors:
                    raise LayoutError(f"{quoted(name)}: the manifest has no tensor {quoted(wanted)}")
                parts.append((tensors[wanted], part))
        yield name, parts


def _pattern(template: str) -> str:
    """The regular expression of the names that a template stands for. A placeholder is the same number everywhere."""
    seen: set[str] = set()
    pieces = []
    for index, piece in enumerate(_PLACEHOLDER.split(template)):
        if index % 2 == 0:
            pieces.append(re.escape(piece))
        elif piece in seen:
            pieces.append(f"(?P={piece})")
        else:
            seen.add(piece)
            pieces.append(f"(?P<{piece}>0|[1-9][0-9]{{0,8}})")
    return "".join(pieces)


def _filled(template: str, numbers: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: numbers[found[1]], template)


def _runs(
    parts: Sequence[tuple[TensorEntry, Part]], ranks: int, rank: int, stacked: int | None
) -> tuple[tuple[int, ...], list[_Run]]:
    """The shape of a tensor in memory, and its bytes.

    Args:
        parts: what it joins.
        ranks: as for `derive`.
        rank: as for `derive`.
        stacked: the length of the first dimension along which the parts are stacked; None if they are not.

    Raises:
        _Underivable: the parts do not fit each other, or cannot be cut.
    """
    found = [_of_part(tensor, part, ranks, rank) for tensor, part in parts]
    runs = [run for _, of_part in found for run in of_part]
    shapes = [shape for shape, _ in found]
    if len({tensor.dtype for tensor, _ in parts}) > 1:
        raise _Underivable("its parts have different dtypes")
    if len(parts) == 1 and stacked is None:
        return shapes[0], runs
    if () in shapes or len({shape[1:] for shape in shapes}) > 1:
        raise _Underivable("its parts have shapes that cannot be joined along the first dimension")
    each = len(parts) // (stacked or 1)
    rows = {sum(shape[0] for shape in shapes[start : start + each]) for start in range(0, len(parts), each)}
    if len(rows) > 1:
        raise _Underivable("what is stacked has different shapes")
    return (*(() if stacked is None else (stacked,)), *rows, *shapes[0][1:]), runs


def _of_part(tensor: TensorEntry, part: Part, ranks: int, rank: int) -> tuple[tuple[int, ...], list[_Run]]:
    """The shape and the bytes of what one rank has of a tensor."""
    shape = list(tensor.shape)
    if part.pad > 1 or part.shard is not None:
        dimension = part.shard or 0
        if dimension >= len(shape) or not tensor.nbytes:
            raise _Underivable(f"{quoted(tensor.name)} has no dimension {dimension} to cut")
        assert not isinstance(part.most, str)  # it was replaced by the number
        shards = min(ranks, part.most or ranks) if part.shard is not None else 1
        if ranks % shards:
            raise _Underivable(f"{shards} shards of {quoted(tensor.name)} are not for {ranks} ranks alike")
        mine = rank // (ranks // shards) if part.shard is not None else 0
        length = -(-shape[dimension] // part.pad) * part.pad
        if length % shards:
            raise _Underivable(
                f"the {length} of dimension {dimension} of {quoted(tensor.name)} are not {shards} shards"
            )
        outer = prod(shape[:dimension])
        item = tensor.nbytes // (outer * shape[dimension])
        if item * outer * shape[dimension] != tensor.nbytes:
            raise _Underivable(f"{quoted(tensor.name)} is cut within a byte")
        width = shape[dimension] * item
        there = length // shards
        begin = mine * there
        real = max(0, min(there, shape[dimension] - begin))
        shape[dimension] = there
        runs = [_Run(tensor, begin * item, real * item, outer, width)] if real else []
        if real < there:
            runs.append(_Run(None, 0, (there - real) * item))
            if runs[-1].nbytes > _MAX_PADDING:
                raise _Underivable(f"its padding would have more than {_MAX_PADDING:,} bytes")
        return tuple(shape), [_joined(run) for run in runs]
    return tensor.shape, [_Run(tensor, 0, tensor.nbytes)]


def _joined(run: _Run) -> _Run:
    """A run whose ranges adjoin each other as one range."""
    return run._replace(length=run.nbytes, ranges=1, stride=0) if run.length == run.stride else run


def _root(runs: Sequence[_Run], algorithm: str, chunk_size: int, leaves_of: Any) -> bytes:
    """The root of the bytes of runs.

    Raises:
        _Underivable: a boundary is within a chunk.
    """
    nodes: list[Bytes] = []
    runs = [run for run in runs if run.nbytes]
    for index, run in enumerate(runs):
        last = index == len(runs) - 1
        if run.tensor is None:
            nodes.append(_zeros(run.nbytes, algorithm, chunk_size, last))
            continue
        name, ends = quoted(run.tensor.name), run.start + run.length == run.tensor.nbytes
        if run.start % chunk_size or (run.ranges > 1 and (run.stride % chunk_size or run.length % chunk_size)):
            pieces = f"it has {run.length:,} bytes from each {run.stride:,} of {name}"
            what = pieces if run.ranges > 1 else f"{name} is cut"
            raise _Underivable(f"{what}, which is within a chunk of {chunk_size:,} bytes")
        if run.length % chunk_size and not (last and ends):
            raise _Underivable(f"{name} ends within a chunk of {chunk_size:,} bytes")
        each = np.arange(-(-run.length // chunk_size)) + run.start // chunk_size
        chunks = each + (run.stride // chunk_size * np.arange(run.ranges))[:, None]
        nodes.append(leaves_of(run.tensor.name)[chunks.ravel()])
    if not nodes:
        return root_of([], algorithm)
    return root_of(roots_of_runs(np.concatenate(nodes), algorithm), algorithm)


def _zeros(nbytes: int, algorithm: str, chunk_size: int, last: bool) -> Bytes:
    """The leaf hashes of zeros."""
    if nbytes % chunk_size and not last:
        raise _Underivable(f"its padding ends within a chunk of {chunk_size:,} bytes")
    whole, rest = divmod(nbytes, chunk_size)
    leaves = leaf_hash(bytes(chunk_size), algorithm) * whole + (leaf_hash(bytes(rest), algorithm) if rest else b"")
    return np.frombuffer(leaves, np.uint8).reshape(-1, algorithm_named(algorithm).digest_size)
