"""Models on disk: their manifests, and verification against a manifest."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np

from hashbench.hashing.hasher import ChunkHashes, Hasher, Progress
from hashbench.hashing.shared import SharedHasher, Team, hasher_for
from hashbench.hashing.sources import ChangedWhileReadError, Source
from hashbench.hashing.verification_error import VerificationError
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import Kernel
from hashbench.model.contents import Files, ModelError, Part, check_same_files, list_model, named_path, read_contents
from hashbench.model.damage import damaged_chunks
from hashbench.model.exclusions import DEFAULT, Exclusions
from hashbench.model.fs_verity import without_protected
from hashbench.model.hints import did_you_mean
from hashbench.model.located import check_unchanged, locate, tensors_alone
from hashbench.model.manifest import Entry, Manifest, read_manifest
from hashbench.model.report import Report, compare
from hashbench.model.safetensors_header import SafetensorsError
from hashbench.model.sidecar import SidecarError, SidecarWriter, check_outside, opened_sidecar
from hashbench.model.strict_json import quoted

T = TypeVar("T")

Extra = Literal["fail", "warn", "ignore"]
EXTRA: tuple[Extra, ...] = get_args(Extra)

Notes = list[str]


def manifest(
    path: str | os.PathLike[str],
    *,
    algorithm: str | None = None,
    chunk_size: int | None = None,
    kernel: str | Kernel | None = None,
    device: str | None = None,
    ignore: Iterable[str] = (),
    only_tensors: bool = False,
    leaves: str | os.PathLike[str] | None = None,
    older: Manifest | None = None,
    changed: Collection[str] = (),
    notes: Notes | None = None,
    progress: Progress | None = None,
    team: Team | None = None,
    whole: WholeFiles | None = None,
) -> Manifest:
    """The manifest of a model on disk. The same model has the same manifest on every machine and with every kernel.

    Args:
        path: a folder, of which every file counts; an index, with the files that it names; or any other file.
        algorithm: "sha256" or "sha384"; None takes that of `older`, or "sha256".
        chunk_size: bytes of a leaf, a multiple of 64 up to 256 MiB; None takes that of `older`, or 4096.
        kernel: a kernel of that algorithm, or the name of one; None takes the fastest available.
        device: a device id, as `hashbench devices` lists them; None takes the fastest available, "all" all GPUs.
        ignore: patterns of files in a folder that are not part of the model, beside those that tools leave behind
            (`hashbench.model.exclusions`). They are recorded in the manifest.
        only_tensors: leaves out everything but tensors: the manifest does not cover configuration, code, or what else
            is in the files.
        leaves: a file to write the leaf hashes of all chunks to, as `verify` takes it. An older file is replaced.
        older: an older manifest of the model. It is trusted for tensors and files that still have the same name, dtype,
            shape and size: they are not hashed again.
        changed: names that are hashed even so.
        notes: takes one line for each fact that a user should know: what is excluded, and what is hashed as a plain
            file though its name promises tensors.
        progress: is called with the bytes hashed so far and in total.
        team: processes that see the same files, call this together and share the hashing.
        whole: files whose SHA-256 is made from the same reading.

    Raises:
        OSError: a file cannot be read, or `leaves` cannot be written.
        ModelError: the path is neither a file nor a folder; something in the folder cannot be part of a model; an index
            names a file that is not there; or there is nothing to hash.
        ChangedWhileReadError: a file changed while it was read.
        ManifestError: the model has an entry that a manifest cannot have.
        SidecarError: `leaves` would be a file of the model, or cannot hold the model's entries.
        TypeError, ValueError: an argument is not accepted.
        Unavailable: the kernel or device cannot be used.
        OutOfDeviceMemory: the device has no room for one chunk.
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
    path = named_path(path)
    sidecar = None if leaves is None else Path(leaves)
    if sidecar and team:
        raise ValueError("leaf hashes are written by one process: none may share its hashing")
    if sidecar:
        check_outside(sidecar, path)
    exclusions = Exclusions([*DEFAULT, *ignore])
    contents = read_contents(path, exclusions, only_tensors=only_tensors)
    if notes is not None:
        notes += contents.notes
    if contents.problems:
        more = f", and {len(contents.problems) - 1:,} more problems" if len(contents.problems) > 1 else ""
        raise ModelError(f"{path}: {contents.problems[0]}{more}")
    for error in contents.unreadable.values():
        raise error
    parts = tensors_alone(contents) if only_tensors else contents.parts
    if not any(part.entry.nbytes for part in parts):
        nothing = "bytes" if not only_tensors else "tensors with bytes" if parts else "tensors"
        raise ModelError(f"{path} has no {nothing}: there is nothing to hash")
    kept = _unchanged(parts, older, changed) if older else {}
    total = sum(part.entry.hashed for part in parts)
    hasher = hasher_for(kernel, device, algorithm, chunk_size, total, team)
    with _writer(sidecar, parts, algorithm, chunk_size) if sidecar else nullcontext() as writer:
        found = _hashed(parts, hasher, progress, kept, writer, whole=whole)
        check_same_files(contents.files, list_model(path, exclusions).files)
        recorded = exclusions.patterns if path.is_dir() and not only_tensors else ()
        made = Manifest(algorithm, chunk_size, tuple(found.values()), recorded)
        if writer:
            writer.finish(made.root)
    return made


def verify(
    path: str | os.PathLike[str],
    manifest: Manifest | str | os.PathLike[str],
    *,
    root: bytes | str | None = None,
    extra: Extra = "fail",
    kernel: str | Kernel | None = None,
    device: str | None = None,
    leaves: str | os.PathLike[str] | None = None,
    own: Iterable[Path] = (),
    fs_verity: str | None = None,
    progress: Progress | None = None,
    team: Team | None = None,
    whole: WholeFiles | None = None,
) -> Report:
    """Verifies a model on disk against its manifest.

    A manifest with files says where every byte belongs, and the verdict is of all bytes: the files' names and sizes are
    compared, and then all that the manifest lists is hashed where it says. Nothing of the model is parsed, and no byte
    of a file that the manifest does not list is read. Of a manifest of tensors alone, the model's files are parsed, and
    the tensors compared by name.

    Args:
        path: the model, as for `manifest`.
        manifest: the manifest, or its file, which is not part of the model's folder.
        root: the manifest's root from a trusted source, as bytes or in hexadecimal digits.
        extra: what files mean that the manifest does not list: "fail", "warn" or "ignore".
        kernel: as for `manifest`, of the manifest's algorithm.
        device: as for `manifest`.
        leaves: the file of leaf hashes that `manifest` wrote. What differs is then read again, and the report says
            which chunks differ. The file is not read if nothing differs.
        own: more files in the folder that are not part of it, such as its signature.
        fs_verity: the path in the model of a list of fs-verity digests (`hashbench.model.fs_verity`). All other files
            must be protected by the kernel with these digests, and are not read.
        progress: is called with the bytes hashed so far and in total, again from 0 for what is read again.
        team: as for `manifest`.
        whole: as for `manifest`.

    Returns:
        The report: verify only `report.ok`.

    Raises:
        VerificationError: the manifest does not have the trusted root, or is of another kind of model, so that nothing
            can be compared.
        OSError: the model's folder or the manifest cannot be read. A file in the folder that cannot is in the report.
        ModelError: the path is neither a file nor a folder.
        ManifestError: the manifest is not valid.
        ChangedWhileReadError: a file changed while it was read.
        SidecarError: `leaves` is a file of the model.
        TypeError, ValueError: an argument is not accepted.
        Unavailable: the kernel or device cannot be used.
        OutOfDeviceMemory: the device has no room for one chunk.
    """
    if extra not in EXTRA:
        raise ValueError(f"{extra!r} is not accepted for extra files: accepted are {', '.join(EXTRA)}")
    path = named_path(path)
    named, own = "the manifest", list(own)
    if not isinstance(manifest, Manifest):
        named, own = os.fspath(manifest), [*own, Path(manifest)]
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
    there = locate(path, manifest, own)
    if fs_verity is not None:
        there = without_protected(there, manifest, fs_verity)
    total = sum(part.entry.hashed for part in there.parts)
    hasher = hasher_for(kernel, device, manifest.algorithm, manifest.chunk_size, total, team)
    failed: dict[str, OSError] = {}
    found = {**there.known, **_hashed(there.parts, hasher, progress, failed=failed, whole=whole)}
    unreadable = {**there.unreadable, **_named(failed, there.files)}
    check_unchanged(there, path, manifest, own, extra=extra == "fail")
    report = replace(
        compare(manifest, found),
        missing=tuple(there.missing),
        extra=tuple(there.extra) if extra == "fail" else (),
        ignored=tuple(there.extra) if extra == "warn" else (),
        notes=there.notes,
        problems=there.problems,
        unreadable={name: error.strerror or str(error) for name, error in sorted(unreadable.items())},
    )
    if not sidecar or not report.damaged:
        return report
    differs = report.damaged
    damaged = [part for part in there.parts if part.entry.name in differs]
    try:
        with opened_sidecar(sidecar, manifest) as leaf_hashes:
            return replace(report, damage=damaged_chunks(damaged, leaf_hashes, hasher, progress))
    except (OSError, SafetensorsError, SidecarError, ChangedWhileReadError) as error:
        return replace(report, problems=(*report.problems, f"cannot tell which chunks differ: {error}"))


def check_decided(report: Report) -> None:
    """Checks that a report is a verdict: that a model is what its manifest says, or is not.

    Raises:
        ModelError: nothing is found to differ, but something cannot be read.
    """
    if report.unreadable and not report.wrong:
        name, reason = next(iter(report.unreadable.items()))
        more = f" (and {len(report.unreadable) - 1:,} more)" if len(report.unreadable) > 1 else ""
        raise ModelError(f"{quoted(name)} cannot be read: {reason}{more}; all else is what the manifest says")


def _hashed(
    parts: Iterable[Part],
    hasher: Hasher | SharedHasher,
    progress: Progress | None,
    kept: Mapping[str, Entry] | None = None,
    leaves: SidecarWriter | None = None,
    failed: dict[str, OSError] | None = None,
    whole: WholeFiles | None = None,
) -> dict[str, Entry]:
    """The entries of parts by name, with their roots. Those of `kept` stay; the others are hashed, and equal bytes only
    once. Those in a file that cannot be read are left out if there is a `failed` to take the error.
    """
    found = dict(kept or {})
    ordered = sorted((part for part in parts if part.entry.name not in found), key=lambda part: part.entry.name)
    distinct: list[Source] = []
    number_of: dict[Hashable, int] = {}
    numbers = []
    for part in ordered:
        identity = id(part.source) if isinstance(part.source, np.ndarray) else part.source
        number = number_of.setdefault(identity, len(distinct))
        if number == len(distinct):
            distinct.append(part.source)
        numbers.append(number)
    roots = hasher.roots(distinct, progress, _writing(leaves, numbers) if leaves else None, failed, whole)
    for part, number in zip(ordered, numbers, strict=True):
        if root := roots[number]:
            found[part.entry.name] = part.entry.with_root(root)
    return found


def _named(failed: Mapping[str, OSError], files: Files) -> dict[str, OSError]:
    """The errors of files by their names in the model, where several may be links to one."""
    return {name: failed[str(file.path)] for name, file in files.items() if str(file.path) in failed}


def _writing(leaves: SidecarWriter, numbers: Iterable[int]) -> Callable[[ChunkHashes], None]:
    """Writes leaf hashes for each of the entries that share a source.

    Args:
        leaves: where to.
        numbers: the number of each entry's source.
    """
    sharing: defaultdict[int, list[int]] = defaultdict(list)
    for index, number in enumerate(numbers):
        sharing[number].append(index)

    def write(found: ChunkHashes) -> None:
        for index in sharing[found.source]:
            leaves.add(replace(found, source=index))

    return write


def _writer(path: Path, parts: Iterable[Part], algorithm: str, chunk_size: int) -> SidecarWriter:
    sizes = sorted((part.entry.name, part.entry.hashed) for part in parts)
    return SidecarWriter(path, sizes, algorithm, chunk_size)


def _unchanged(parts: Iterable[Part], older: Manifest, changed: Collection[str]) -> dict[str, Entry]:
    """The entries of an older manifest that are trusted to be those of a model's parts.

    Raises:
        ValueError: the model does not have a name that is said to have changed.
    """
    now = {part.entry.name: part.entry for part in parts}
    if unknown := sorted(set(changed) - now.keys()):
        hint = did_you_mean(unknown[0], now)
        raise ValueError(f"the model has no tensor or file {quoted(unknown[0])} that could have changed{hint}")
    kept = {}
    for entry in older.entries:
        if entry.name in now and entry.name not in changed:
            same = now[entry.name].with_root(entry.root)
            if same == entry:
                kept[entry.name] = same
    return kept


def _same(what: str, given: T | None, older: T) -> T:
    """What the older manifest has, which must be what was given, if anything was.

    Raises:
        ValueError: it is not.
    """
    if given is not None and given != older:
        raise ValueError(f"the older manifest's {what} is {older}, not {given}")
    return older
