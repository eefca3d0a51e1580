"""What a model is against what its manifest says: which tensors and files differ, are missing or extra, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hashbench.model.manifest import Entry, FileEntry, Manifest, TensorEntry

_SHOWN_RUNS = 16  # runs of damaged chunks that a line has


@dataclass(frozen=True)
class Report:
    """How a model compares with its manifest. As text it is one line where it is as it should be, and otherwise one for
    each tensor or file that is not.

    Attributes:
        expected: what the manifest says.
        found: what the model is.
        differs: names of what is in both, and not the same: in bytes, dtype, shape or size. Sorted, as all names here.
        missing: names that the manifest alone has.
        extra: names that the model alone has.
        damage: of entries that differ, where it is known: runs of the chunks that do, counted from 0.
    """

    expected: Manifest
    found: Manifest
    differs: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    damage: Mapping[str, tuple[range, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the model is what the manifest says."""
        return not (self.differs or self.missing or self.extra)

    @property
    def damaged(self) -> frozenset[str]:
        """Names of what differs in its bytes, and not in dtype or shape alone."""
        expected, found = self.expected.by_name, self.found.by_name
        return frozenset(name for name in self.differs if expected[name].root != found[name].root)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.ok:
            yield f"verified: {summary(self.expected)}"
            return
        expected, found = self.expected.by_name, self.found.by_name
        for name in self.differs:
            yield f"differs: {_shown(name)}: {self._difference(expected[name], found[name])}"
        for name in self.missing:
            yield f"missing: {_shown(name)}"
        for name in self.extra:
            yield f"extra: {_shown(name)}"

    def _difference(self, expected: Entry, found: Entry) -> str:
        fields: dict[str, tuple[object, object]]
        if isinstance(expected, TensorEntry) and isinstance(found, TensorEntry):
            fields = {"dtype": (expected.dtype, found.dtype), "shape": (list(expected.shape), list(found.shape))}
        elif isinstance(expected, FileEntry) and isinstance(found, FileEntry):
            fields = {"size": (expected.nbytes, found.nbytes)}
        else:
            fields = {"kind": (_kind(expected), _kind(found))}
        said = [f"{what} {now}, not {before}" for what, (before, now) in fields.items() if now != before]
        if expected.root != found.root:
            said.append(self._where(expected, found))
        return "; ".join(said)

    def _where(self, expected: Entry, found: Entry) -> str:
        runs = self.damage.get(expected.name)
        if runs is None:
            return "other bytes"
        if not runs:
            return "other bytes when it was read first, and none when it was read again"
        size = self.expected.chunk_size
        end = max(expected.nbytes, found.nbytes)
        count = sum(map(len, runs))
        shown = [
            f"{run.start}{f'-{run.stop - 1}' if len(run) > 1 else ''} [{run.start * size}:{min(run.stop * size, end)}]"
            for run in runs[:_SHOWN_RUNS]
        ]
        more = f" and in {len(runs) - _SHOWN_RUNS:,} more runs" if len(runs) > _SHOWN_RUNS else ""
        return f"other bytes in {count:,} of {-(-end // size):,} chunks: {', '.join(shown)}{more}"


def compare(expected: Manifest, found: Manifest) -> Report:
    """How the model of `found` compares with what is `expected`.

    Raises:
        ValueError: they are of different algorithms or chunk sizes, so that their roots cannot be compared.
    """
    kinds = [(manifest.algorithm, manifest.chunk_size) for manifest in (expected, found)]
    if kinds[0] != kinds[1]:
        ours, theirs = (f"{algorithm} over chunks of {chunk_size} bytes" for algorithm, chunk_size in kinds)
        raise ValueError(f"manifests of different trees cannot be compared: {ours}, and {theirs}")
    before, now = expected.by_name, found.by_name
    return Report(
        expected,
        found,
        differs=tuple(name for name, entry in before.items() if name in now and now[name] != entry),
        missing=tuple(name for name in before if name not in now),
        extra=tuple(name for name in now if name not in before),
    )


def summary(manifest: Manifest) -> str:
    """What a manifest is of, on one line."""
    tensors = sum(isinstance(entry, TensorEntry) for entry in manifest.entries)
    files = len(manifest.entries) - tensors
    parts = [f"{count:,} {what}{'s' * (count != 1)}" for count, what in ((tensors, "tensor"), (files, "file")) if count]
    nbytes = sum(entry.nbytes for entry in manifest.entries)
    return f"{' and '.join(parts) or 'nothing'}, {nbytes:,} bytes, {manifest.algorithm} root {manifest.root.hex()}"


def runs(damaged: npt.NDArray[np.bool_]) -> tuple[range, ...]:
    """The runs of what is true.

    Args:
        damaged: of each chunk whether it differs: bool, shape (chunks,).
    """
    edges = np.flatnonzero(np.diff(damaged, prepend=False, append=False)).tolist()
    return tuple(range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))


def _kind(entry: Entry) -> str:
    return "tensor" if isinstance(entry, TensorEntry) else "file"


def _shown(name: str) -> str:
    """A name as it is, where it can be told on one line, and as JSON elsewhere."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)
