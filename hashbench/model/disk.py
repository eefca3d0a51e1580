"""Models on disk: their manifests, and verification against a manifest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from hashbench.hashing.hasher import ChunkHashes, Hasher, Progress
from hashbench.hashing.selection import kernel_for
from hashbench.hashing.sources import ChangedWhileReadError
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Kernel
from hashbench.model.checkpoints import CheckpointError, OpenModel, Part, open_model
from hashbench.model.damage import damaged_chunks
from hashbench.model.manifest import Entry, Manifest, read_manifest
from hashbench.model.report import Report, compare
from hashbench.model.safetensors_header import SafetensorsError
from hashbench.model.sidecar import Sidecar, SidecarError, SidecarWriter, check_outside
from hashbench.model.strict_json import quoted

T = TypeVar("T")

_SHOWN_IGNORED = 4  # names in a warning


class NotHashedWarning(UserWarning):
    """Something of a model is not covered by its manifest, or only as a plain file."""


def manifest(
    path: str | os.PathLike[str],
    *,
    algorithm: str | None = None,
    chunk_size: int | None = None,
    kernel: str | Kernel | None = None,
    device: str | None = None,
    exclude: Iterable[str | os.PathLike[str]] = (),
    leaves: str | os.PathLike[str] | None = None,
    older: Manifest | None = None,
    changed: Collection[str] = (),
    progress: Progress | None = None,
) -> Manifest:
    """The manifest of a model on disk. The same model has the same manifest on every machine and with every kernel.

    Args:
        path: a safetensors file, a folder of safetensors shards with their index, a PyTorch checkpoint, any other file,
            or any other folder, of which every file counts. `open_model` has the details.
        algorithm: "sha256" or "sha384"; None takes that of `older`, or "sha256".
        chunk_size: bytes of a leaf, a multiple of 64 up to 256 MiB; None takes that of `older`, or 4096.
        kernel: a kernel of that algorithm, or the name of one; None takes the fastest available.
        device: a device id, as `hashbench devices` lists them; None takes the fastest available.
        exclude: files that are not part of a folder, such as a manifest in it.
        leaves: a file to write the leaf hashes of all chunks to, as `verify` takes it. An older file is replaced.
        older: an older manifest of the model. It is trusted for tensors and files that still have the same name, dtype,
            shape and size: they are not hashed again.
        changed: names that are hashed even so.
        progress: is called with the bytes hashed so far and in total.

    Raises:
        OSError: a file cannot be read, or `leaves` cannot be written.
        SafetensorsError, CheckpointError: the model is not valid, as `open_model` has it.
        ChangedWhileReadError: a file changed while it was read.
        ManifestError: the model has an entry that a manifest cannot have.
        SidecarError: `leaves` would be a file of the model, or cannot hold the model's entries.
        TypeError, ValueError: an argument is not accepted.
        Unavailable: the kernel or device cannot be used.
        OutOfDeviceMemory: the device has no room for one chunk.

    Warns:
        NotHashedWarning: a PyTorch checkpoint has values that are not tensors.
    """
    if older is None:
        algorithm, chunk_size = algorithm or "sha256", 4096 if chunk_size is None else chunk_size
        if changed:
            raise ValueError("changed names need an older manifest")
    else:
        if leaves is not None:
            raise ValueError("leaf hashes need all chunks to be hashed: there can be no older manifest")
        algorithm = _same("algorithm", algorithm, older.algorithm)
        chunk_size = _same("chunk size", chunk_size, older.chunk_size)
    path = Path(path)
    sidecar = None if leaves is None else Path(leaves)
    if sidecar:
        check_outside(sidecar, path)
    opened = _open(path, exclude)
    kept = _unchanged(opened.parts, older, changed) if older else {}
    hasher = Hasher(kernel_for(kernel, device, algorithm), chunk_size)
    sizes = [(part.name, part.nbytes) for part in opened.parts]
    with SidecarWriter(sidecar, sizes, algorithm, chunk_size) if sidecar else nullcontext() as writer:
        found = _entries(opened, hasher, progress, kept, writer)
        made = Manifest(algorithm, chunk_size, tuple(found.values()))
        if writer:
            writer.finish(made.root)
    return made


def verify(
    path: str | os.PathLike[str],
    manifest: Manifest | str | os.PathLike[str],
    *,
    root: bytes | str | None = None,
    kernel: str | Kernel | None = None,
    device: str | None = None,
    exclude: Iterable[str | os.PathLike[str]] = (),
    leaves: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Verifies a model on disk against its manifest. Every tensor and file is hashed.

    Args:
        path: the model, as for `manifest`.
        manifest: the manifest, or its file, which is not part of the model's folder.
        root: the manifest's root from a trusted source, as bytes or in hexadecimal digits.
        kernel: as for `manifest`, of the manifest's algorithm.
        device: as for `manifest`.
        exclude: as for `manifest`.
        leaves: the leaf hashes that `manifest` wrote. If tensors or files differ, they are read again and compared with
            them: the report then says which chunks differ. The file is not read if nothing differs.
        progress: is called with the bytes hashed so far and in total, again from 0 for what is read again.

    Returns:
        The report: verify only `report.ok`. Shards that cannot be read are problems in it, and all others are verified.

    Raises:
        VerificationError: the manifest does not have the trusted root, or the model is not valid, so that nothing of it
            can be compared.
        OSError: a file cannot be read.
        ManifestError: the manifest is not valid.
        ChangedWhileReadError: a file changed while it was read.
        SidecarError: `leaves` is a file of the model.
        TypeError, ValueError: an argument is not accepted.
        Unavailable: the kernel or device cannot be used.
        OutOfDeviceMemory: the device has no room for one chunk.

    Warns:
        NotHashedWarning: a PyTorch checkpoint has values that are not tensors.
    """
    path = Path(path)
    named = "the manifest"
    if not isinstance(manifest, Manifest):
        named, exclude = os.fspath(manifest), [*exclude, manifest]
        manifest = read_manifest(manifest)
    try:
        trusted = bytes.fromhex(root) if isinstance(root, str) else root
    except ValueError:
        raise ValueError(f"the root {quoted(root)} is not accepted: write hexadecimal digits") from None
    if trusted is not None and trusted != manifest.root:
        raise VerificationError(f"{named} is not trusted: its root is {manifest.root.hex()}, not {trusted.hex()}")
    sidecar = None if leaves is None else Path(leaves)
    if sidecar:
        check_outside(sidecar, path)
    try:
        opened = _open(path, exclude, tolerant=True)
    except (CheckpointError, SafetensorsError) as error:
        raise VerificationError(str(error)) from None
    hasher = Hasher(kernel_for(kernel, device, manifest.algorithm), manifest.chunk_size)
    problems = tuple(" ".join(problem.split()) for problem in opened.problems)
    report = replace(compare(manifest, _entries(opened, hasher, progress)), problems=problems)
    if not sidecar or not report.damaged:
        return report
    damaged = [part for part in opened.parts if part.name in report.damaged]
    try:
        return replace(report, damage=damaged_chunks(damaged, Sidecar(sidecar, manifest), hasher, progress))
    except (OSError, SafetensorsError, SidecarError, ChangedWhileReadError) as error:
        return replace(report, problems=(*report.problems, f"cannot tell which chunks differ: {error}"))


def _open(path: Path, exclude: Iterable[str | os.PathLike[str]], *, tolerant: bool = False) -> OpenModel:
    """Opens the model, and warns of what is in it but not hashed."""
    opened = open_model(path, map(Path, exclude), tolerant=tolerant)
    if opened.ignored:
        more = ", ..." if len(opened.ignored) > _SHOWN_IGNORED else ""
        names = ", ".join(map(quoted, opened.ignored[:_SHOWN_IGNORED])) + more
        message = f"{path}: {len(opened.ignored):,} values are not tensors and are not hashed: {names}"
        warnings.warn(message, NotHashedWarning, stacklevel=3)
    for note in opened.notes:
        warnings.warn(f"{path}: {note}", NotHashedWarning, stacklevel=3)
    return opened


def _entries(
    opened: OpenModel,
    hasher: Hasher,
    progress: Progress | None,
    kept: Mapping[str, Entry] | None = None,
    leaves: SidecarWriter | None = None,
) -> dict[str, Entry]:
    """The entries of a model by name. Those of `kept` stay; the others are hashed, and equal bytes only once."""
    found = dict(kept or {})
    hashed = [part for part in opened.parts if part.name not in found]
    at: dict[Hashable, list[int]] = {}
    for index, part in enumerate(hashed):
        at.setdefault(part.place, []).append(index)
    sharing = list(at.values())
    sources = [hashed[indexes[0]].source for indexes in sharing]
    write = partial(_write, leaves, sharing) if leaves else None
    roots = hasher.roots([*sources, *opened.watched], progress, write)[: len(sources)]
    for indexes, root in zip(sharing, roots, strict=True):
        found |= {hashed[index].name: hashed[index].entry(root) for index in indexes}
    return found


def _write(leaves: SidecarWriter, sharing: Sequence[Sequence[int]], found: ChunkHashes) -> None:
    """Writes leaf hashes for each of the entries that share their source."""
    for index in sharing[found.source]:
        leaves.add(replace(found, source=index))


def _unchanged(parts: Sequence[Part], older: Manifest, changed: Collection[str]) -> dict[str, Entry]:
    """The entries of an older manifest that are trusted to be those of a model's parts.

    Raises:
        ValueError: the model does not have a name that is said to have changed.
    """
    now = {part.name: part for part in parts}
    if unknown := sorted(set(changed) - now.keys()):
        raise ValueError(f"the model has no tensor or file {quoted(unknown[0])} that could have changed")
    kept = now.keys() - set(changed)
    same = (entry for entry in older.entries if entry.name in kept and now[entry.name].entry(entry.root) == entry)
    return {entry.name: entry for entry in same}


def _same(what: str, given: T | None, older: T) -> T:
    """What the older manifest has, which must be what was given, if anything was.

    Raises:
        ValueError: it is not.
    """
    if given is not None and given != older:
        raise ValueError(f"the older manifest's {what} is {older}, not {given}")
    return older
