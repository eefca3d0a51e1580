"""Verification without reading: of files that the kernel protects with fs-verity.

A file of the model is a list of the others' fs-verity digests, with lines as `fsverity digest` and `hashbench digest`
print them. The manifest has the root of the list as of any file, so whoever trusts the manifest trusts the list. A file
whose digest in the kernel is the one in the list has the bytes that the list's maker had, or cannot be read: the kernel
checks every read against it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace

from hashbench.hashing.fs_verity_ioctl import NotProtected, NotSupported, measured
from hashbench.hashing.opening import open_regular, read_regular
from hashbench.hashing.root_lines import RootLineError, unescaped
from hashbench.hashing.sources import ChangedWhileReadError, change
from hashbench.hashing.verification_error import VerificationError
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model.contents import ModelError
from hashbench.model.folder import ListedFile
from hashbench.model.located import Located
from hashbench.model.manifest import Entry, Manifest, TensorEntry
from hashbench.model.strict_json import quoted

_MAX_LIST = 64 << 20  # bytes
_LINE = re.compile(rb"(?P<escaped>\\?)(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}) (?P<name>.+)", re.DOTALL)


def without_protected(there: Located, manifest: Manifest, digest_list: str) -> Located:
    """What of a model is left to hash: the parts of files that are protected, as the list says, are known.

    Args:
        there: what is there of the manifest.
        manifest: the manifest, of files.
        digest_list: the path of the list in the model.

    Returns:
        The same, with a problem for each other file that is not protected, or by another digest.

    Raises:
        VerificationError: the list is not what the manifest says.
        ValueError: the manifest does not have the list, or the list is not one.
        ModelError: the model is where no file can be protected.
        OSError: a file cannot be opened, or the kernel refuses to tell its digest.
        ChangedWhileReadError: a file is not the one that was listed.
    """
    digests = _read(there, manifest, digest_list)
    known, problems = dict(there.known), list(there.problems)
    protected = set()
    for file in manifest.files:
        if file.path == digest_list or file.path not in there.files or file.path in known:
            continue
        try:
            now = _measured(there.files[file.path])
        except NotSupported as error:
            raise ModelError(f"{there.files[file.path].path} cannot be protected: {error}") from None
        except NotProtected as error:
            problems.append(f"{quoted(file.path)} is not protected: {error}")
            continue
        expected = digests.get(file.path)
        if expected is None:
            problems.append(f"{quoted(file.path)} has no digest in {quoted(digest_list)}")
        elif now != expected:
            problems.append(f"{quoted(file.path)} is protected by another digest, {now}, not {expected}")
        else:
            protected.add(file.path)
    known |= {entry.name: entry for entry in manifest.entries if _file_of(entry) in protected}
    notes = list(there.notes)
    if protected:
        nbytes = sum(file.nbytes for file in manifest.files if file.path in protected)
        notes.append(
            f"not read: {len(protected):,} files, {nbytes:,} bytes; with fs-verity, the kernel checks every read "
            f"against {quoted(digest_list)}"
        )
    return replace(
        there,
        parts=[part for part in there.parts if _file_of(part.entry) == digest_list],
        known=known,
        notes=tuple(notes),
        problems=tuple(problems),
    )


def _read(there: Located, manifest: Manifest, digest_list: str) -> Mapping[str, str]:
    """The digests of a list by the names of their files; errors are those of `without_protected`."""
    entry = next((file for file in manifest.files if file.path == digest_list and file.frame_bytes is None), None)
    if entry is None:
        raise ValueError(
            f"the manifest has no file {quoted(digest_list)}: name a list of digests in the model's folder"
        )
    if entry.nbytes > _MAX_LIST:
        raise ValueError(f"{quoted(digest_list)} has {entry.nbytes} bytes; a list of digests has up to {_MAX_LIST}")
    found = there.files.get(digest_list)
    data = read_regular(found.path, entry.nbytes + 1) if found else None
    if data is None or merkle_tree_hash(chunks_of(data, manifest.chunk_size), manifest.algorithm) != entry.root:
        raise VerificationError(f"the list of digests {quoted(digest_list)} is not what the manifest says")
    digests: dict[str, str] = {}
    for number, text in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        line = _LINE.fullmatch(text)
        try:
            if not line:
                raise RootLineError("it is not DIGEST NAME, as `fsverity digest` prints it")
            name = os.fsdecode(unescaped(line["name"]) if line["escaped"] else line["name"]).removeprefix("./")
        except RootLineError as error:
            raise ValueError(f"{quoted(digest_list)}: line {number} is not one of a digest: {error}") from None
        if digests.setdefault(name, line["digest"].decode()) != line["digest"].decode():
            raise ValueError(
                f"{quoted(digest_list)}: line {number} has another digest for {quoted(name)} than one before"
            )
    return digests


def _measured(file: ListedFile) -> str:
    """The digest by which the kernel protects a file, which must be the one that was listed."""
    with open_regular(file.path, links=False) as raw:
        if how := change(file.status, os.fstat(raw.fileno())):
            raise ChangedWhileReadError(f"{quoted(file.name)}: the file {how} while the model was read")
        try:
            return measured(raw.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fspath(file.path)) from None


def _file_of(entry: Entry) -> str | None:
    return entry.file if isinstance(entry, TensorEntry) else entry.path
