"""Location of damage: which chunks of tensors and files differ, by comparison with a sidecar."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hashbench.hashing.hasher import Hasher, Progress
from hashbench.hashing.shared import SharedHasher
from hashbench.model.contents import Part
from hashbench.model.sidecar import Sidecar


def damaged_chunks(
    parts: Sequence[Part], sidecar: Sidecar, hasher: Hasher | SharedHasher, progress: Progress | None = None
) -> dict[str, tuple[range, ...]]:
    """The chunks of each part that differ, after it is read again.

    Args:
        parts: tensors and files that the sidecar's manifest has too, of the same sizes.
        sidecar: has the expected leaf hashes.
        hasher: has the manifest's algorithm and chunk size.
        progress: as for `Hasher.roots`.

    Returns:
        For each name, runs of chunks, counted from 0.

    Raises:
        OSError, ChangedWhileReadError: a file cannot be read, or changed.
        SidecarError: the sidecar is damaged itself.
    """
    for part in parts:
        sidecar.check(part.entry.name)
    damaged = [np.ones(-(-part.entry.hashed // hasher.chunk_size), np.bool_) for part in parts]
    for found in hasher.leaves([part.source for part in parts], progress):
        there = sidecar.leaves(parts[found.source].entry.name, found.first, len(found.hashes))
        differ = (there != found.hashes[: len(there)]).any(axis=1)
        damaged[found.source][found.first : found.first + len(there)] = differ
    return {part.entry.name: runs(chunks) for part, chunks in zip(parts, damaged, strict=True)}


def runs(damaged: npt.NDArray[np.bool_]) -> tuple[range, ...]:
    """The runs of true values.

    Args:
        damaged: whether each chunk differs: bool, shape (chunks,).
    """
    edges = np.flatnonzero(np.diff(damaged, prepend=False, append=False)).tolist()
    return tuple(range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))
