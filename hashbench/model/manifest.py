"""The manifest of a model: its tensors or files, a root of a Merkle tree for each, and one root over all.

An entry's root is the Merkle Tree Hash (RFC 9162 section 2.1.1) of its bytes in chunks. The model's root is that over
the entries' records, in the order of their names as Unicode code points. A record is RFC 8785 canonical JSON, and so is
the manifest: the same model gives the same bytes wherever it is made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

import rfc8785

from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.merkle.rfc9162 import merkle_tree_hash
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.model.dtypes import tensor_nbytes
from hashbench.model.strict_json import MAX_INTEGER, quoted

VERSION = 1
"""Of the format, whose schema is manifest.schema.json in this package."""

MAX_SIZE = 64 << 20
"""Bytes of the largest manifest that is written or read: some 200,000 entries."""

_MAX_DEPTH = 4  # manifest, tensors, tensor, shape


class ManifestError(ValueError):
    """A manifest cannot be made or used; the message says why."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor.

    Attributes:
        name: of the tensor.
        dtype: by safetensors' name.
        shape: of the tensor.
        nbytes: its bytes, row-major, without padding.
        root: the Merkle Tree Hash of those bytes, little-endian.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    root: bytes

    def fields(self) -> dict[str, Any]:
        """What the tensor's record says."""
        return {"dtype": self.dtype, "name": self.name, "root": self.root.hex(), "shape": list(self.shape)}

    def record(self) -> bytes:
        """The tensor's leaf in the model's tree: RFC 8785 canonical JSON in UTF-8."""
        return rfc8785.dumps(self.fields())


@dataclass(frozen=True)
class FileEntry:
    """One file.

    Attributes:
        path: relative to the model's folder, with slashes.
        nbytes: its size.
        root: the Merkle Tree Hash of its bytes.
    """

    path: str
    nbytes: int
    root: bytes

    @property
    def name(self) -> str:
        """What the file goes by among other entries: its path."""
        return self.path

    def fields(self) -> dict[str, Any]:
        """What the file's record says."""
        return {"path": self.path, "root": self.root.hex(), "size": self.nbytes}

    def record(self) -> bytes:
        """The file's leaf in the model's tree: RFC 8785 canonical JSON in UTF-8."""
        return rfc8785.dumps(self.fields())


Entry = TensorEntry | FileEntry


@dataclass(frozen=True)
class Manifest:
    """What a model consists of, and what its bytes hash to.

    Args:
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf of an entry's tree.
        entries: in any order.

    Attributes:
        entries: sorted by name as Unicode code points.

    Raises:
        ManifestError: there is no such algorithm or chunk size; two entries have one name; an entry's name is no
            Unicode text, its path leads out of the folder or is not the shortest, its root has not the algorithm's
            length, its dtype is unknown, its bytes are not those of dtype and shape, or a number is beyond 2^53 - 1.
    """

    algorithm: str
    chunk_size: int
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        try:
            digest_size = algorithm_named(self.algorithm).digest_size
            check_chunk_size(self.chunk_size)
        except (TypeError, ValueError) as error:
            raise ManifestError(str(error)) from None
        if self.chunk_size > MAX_INTEGER:
            raise ManifestError(f"chunk size {self.chunk_size} is not accepted: the largest is {MAX_INTEGER}")
        object.__setattr__(self, "entries", tuple(sorted(self.entries, key=attrgetter("name"))))
        before = None
        for entry in self.entries:
            if entry.name == before:
                raise ManifestError(f"two entries have the name {quoted(before)}")
            before = entry.name
            if wrong := _wrong(entry, digest_size):
                raise ManifestError(f"the entry {quoted(entry.name)} is not accepted: {wrong}")

    @cached_property
    def by_name(self) -> Mapping[str, Entry]:
        """The entries by their names, in the order of these."""
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def root(self) -> bytes:
        """The model's root: the Merkle Tree Hash over the entries' records."""
        return merkle_tree_hash([entry.record() for entry in self.entries], self.algorithm)

    def text(self) -> bytes:
        """The manifest as a file has it: RFC 8785 canonical JSON and a line feed.

        Raises:
            ManifestError: it would have more than `MAX_SIZE` bytes.
        """
        document: dict[str, Any] = {
            "algorithm": self.algorithm,
            "chunk_size": self.chunk_size,
            "files": [entry.fields() for entry in self.entries if isinstance(entry, FileEntry)],
            "root": self.root.hex(),
            "tensors": [
                {**entry.fields(), "bytes": entry.nbytes} for entry in self.entries if isinstance(entry, TensorEntry)
            ],
            "version": VERSION,
        }
        text = rfc8785.dumps(document) + b"\n"
        if len(text) > MAX_SIZE:
            raise ManifestError(f"it would have {len(text)} bytes; up to {MAX_SIZE} are accepted")
        return text


def parse_manifest(data: bytes) -> Manifest:
    """The manifest of a text as `Manifest.text` gives it, which must be that text byte for byte.

    Raises:
        ManifestError: it is larger than `MAX_SIZE`; it is no strict JSON; it does not follow the schema; an entry is
            not accepted, as `Manifest` has it; its root is not that of its entries; or it is not in canonical form.
    """
    try:
        document = parse_document(data, "manifest", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH)
    except DocumentError as error:
        raise ManifestError(str(error)) from None
    manifest = Manifest(document["algorithm"], document["chunk_size"], tuple(_entries(document)))
    if manifest.root.hex() != document["root"]:
        raise ManifestError(f"its root is not that of its entries, which is {manifest.root.hex()}")
    if manifest.text() != data:
        raise ManifestError(
            "it is not in canonical form: accepted is RFC 8785 JSON in one line, tensors and files sorted by name"
        )
    return manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of a file.

    Raises:
        OSError: it cannot be read.
        ManifestError: as `parse_manifest`; the message names the file.
    """
    return read_document(path, "manifest", parse_manifest, ManifestError, MAX_SIZE)


def _entries(document: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of a document that follows the schema."""
    digits = 2 * algorithm_named(document["algorithm"]).digest_size

    def root(fields: Mapping[str, Any]) -> bytes:
        if len(fields["root"]) != digits:
            raise ManifestError(f"a root has {len(fields['root'])} digits, not the {digits} of its algorithm")
        return bytes.fromhex(fields["root"])

    for file in document["files"]:
        yield FileEntry(file["path"], file["size"], root(file))
    for tensor in document["tensors"]:
        yield TensorEntry(tensor["name"], tensor["dtype"], tuple(tensor["shape"]), tensor["bytes"], root(tensor))


def _wrong(entry: Entry, digest_size: int) -> str | None:
    """What is wrong with an entry; None where nothing is."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "its name is no Unicode text"
    if len(entry.root) != digest_size:
        return f"its root has {len(entry.root)} bytes, not the {digest_size} of its algorithm"
    numbers = (entry.nbytes,) if isinstance(entry, FileEntry) else (entry.nbytes, *entry.shape)
    if min(numbers) < 0 or max(numbers) > MAX_INTEGER:
        return f"a number is not from 0 to {MAX_INTEGER}"
    if isinstance(entry, FileEntry):
        # An empty part is of a slash at either end, or of two together.
        if "\0" in entry.path or not {"", ".", ".."}.isdisjoint(entry.path.split("/")):
            return "its path is not relative to the folder, by the shortest way"
        return None
    try:
        needed = tensor_nbytes(entry.dtype, entry.shape)
    except ValueError as error:
        return str(error)
    return None if needed == entry.nbytes else f"it has {entry.nbytes} bytes, and its dtype and shape need {needed}"
