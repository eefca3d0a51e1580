"""The manifest of a model: its tensors and files, the root of a Merkle tree for each, and one root over all.

An entry's root is the Merkle Tree Hash (RFC 9162 section 2.1.1) of its bytes in chunks. The model's root is that of the
entries' records, sorted by name as Unicode code points. Records and the manifest itself are RFC 8785 canonical JSON:
the same model always has the same manifest, byte for byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any

from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.merkle.rfc9162 import merkle_tree_hash
from hashbench.model import canonical_json
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.model.dtypes import tensor_nbytes
from hashbench.model.strict_json import MAX_INTEGER, quoted

VERSION = 1
"""The version of the format, whose schema is manifest.schema.json in this package."""

MAX_SIZE = 64 << 20
"""The largest manifest that is written or read, in bytes: some 200,000 entries."""

_MAX_DEPTH = 4  # manifest, tensors, tensor, shape


class ManifestError(ValueError):
    """A manifest is not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor.

    Attributes:
        name: its name.
        dtype: its dtype, by its name in safetensors.
        shape: its shape.
        nbytes: its size in bytes, without padding.
        root: the Merkle Tree Hash of its bytes, little-endian and row-major.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    root: bytes

    def fields(self) -> dict[str, Any]:
        """The content of its record."""
        return {"dtype": self.dtype, "name": self.name, "root": self.root.hex(), "shape": list(self.shape)}

    def record(self) -> bytes:
        """Its leaf in the model's tree: RFC 8785 canonical JSON in UTF-8."""
        return canonical_json.dumps(self.fields())


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file.

    Attributes:
        path: its path relative to the model's folder, with slashes.
        nbytes: its size in bytes.
        root: the Merkle Tree Hash of its bytes.
    """

    path: str
    nbytes: int
    root: bytes

    @property
    def name(self) -> str:
        """Its name among other entries: its path."""
        return self.path

    def fields(self) -> dict[str, Any]:
        """The content of its record."""
        return {"path": self.path, "root": self.root.hex(), "size": self.nbytes}

    def record(self) -> bytes:
        """Its leaf in the model's tree: RFC 8785 canonical JSON in UTF-8."""
        return canonical_json.dumps(self.fields())


Entry = TensorEntry | FileEntry


@dataclass(frozen=True)
class Manifest:
    """What a model consists of, and the roots of its bytes.

    Args:
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf of an entry's tree.
        entries: in any order.

    Attributes:
        entries: sorted by name as Unicode code points.

    Raises:
        ManifestError: the algorithm or chunk size is not accepted; two entries have the same name; or an entry is not
            valid: its name is not valid Unicode, its path leaves the folder or is not normalized, its root is of
            another length than the algorithm's digests, its dtype is unknown, its size does not match dtype and shape,
            or a number is beyond 2^53 - 1.
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
            if problem := _problem(entry, digest_size):
                raise ManifestError(f"the entry {quoted(entry.name)} is not accepted: {problem}")

    @cached_property
    def by_name(self) -> Mapping[str, Entry]:
        """The entries by name, in the order of their names."""
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def root(self) -> bytes:
        """The model's root: the Merkle Tree Hash of the entries' records."""
        return merkle_tree_hash(self.records, self.algorithm)

    @cached_property
    def records(self) -> list[bytes]:
        """The records of the entries: the leaves of the model's tree."""
        return [entry.record() for entry in self.entries]

    def text(self) -> bytes:
        """The content of the manifest's file: RFC 8785 canonical JSON and a line feed.

        Raises:
            ManifestError: it would have more than `MAX_SIZE` bytes.
        """
        # Every entry is encoded once: a file's is its record, a tensor's its record with the size as first field.
        files, tensors = [], []
        for entry, record in zip(self.entries, self.records, strict=True):
            if isinstance(entry, FileEntry):
                files.append(record)
            else:
                tensors.append(b'{"bytes":%d,%b' % (entry.nbytes, record[1:]))
        text = b'{"algorithm":"%b","chunk_size":%d,"files":[%b],"root":"%b","tensors":[%b],"version":%d}\n' % (
            self.algorithm.encode(),
            self.chunk_size,
            b",".join(files),
            self.root.hex().encode(),
            b",".join(tensors),
            VERSION,
        )
        if len(text) > MAX_SIZE:
            raise ManifestError(f"the manifest would have {len(text)} bytes; up to {MAX_SIZE} are accepted")
        return text


def parse_manifest(data: bytes) -> Manifest:
    """Parses a manifest, which must be what `Manifest.text` gives, byte for byte.

    Raises:
        ManifestError: it is larger than `MAX_SIZE`, is not strict JSON, does not follow the schema, has an entry that
            `Manifest` does not accept, has another root than its entries, or is not canonical.
    """
    try:
        document = parse_document(data, "manifest", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH)
    except DocumentError as error:
        raise ManifestError(str(error)) from None
    manifest = Manifest(document["algorithm"], document["chunk_size"], tuple(_entries(document)))
    if manifest.root.hex() != document["root"]:
        raise ManifestError(f"its root is not the one of its entries, {manifest.root.hex()}")
    if manifest.text() != data:
        raise ManifestError(
            "it is not canonical: accepted is RFC 8785 JSON on one line, with tensors and files sorted by name"
        )
    return manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads a manifest from a file.

    Raises:
        OSError: it cannot be read.
        ManifestError: it is not valid, as `parse_manifest` has it; the message names the file.
    """
    return read_document(path, "manifest", parse_manifest, ManifestError, MAX_SIZE)


def _entries(document: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of a document that follows the schema."""
    digits = 2 * algorithm_named(document["algorithm"]).digest_size

    def root(fields: Mapping[str, Any]) -> bytes:
        if len(fields["root"]) != digits:
            raise ManifestError(f"a root has {len(fields['root'])} digits, not {digits} as its algorithm requires")
        return bytes.fromhex(fields["root"])

    for file in document["files"]:
        yield FileEntry(file["path"], file["size"], root(file))
    for tensor in document["tensors"]:
        yield TensorEntry(tensor["name"], tensor["dtype"], tuple(tensor["shape"]), tensor["bytes"], root(tensor))


def _problem(entry: Entry, digest_size: int) -> str | None:
    """Why an entry is not valid; None if it is."""
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "its name is not valid Unicode"
    if len(entry.root) != digest_size:
        return f"its root has {len(entry.root)} bytes, not {digest_size} as its algorithm requires"
    numbers = (entry.nbytes,) if isinstance(entry, FileEntry) else (entry.nbytes, *entry.shape)
    if min(numbers) < 0 or max(numbers) > MAX_INTEGER:
        return f"a number is not between 0 and {MAX_INTEGER}"
    if isinstance(entry, FileEntry):
        # An empty component comes from a slash at either end, or from two in a row.
        if "\0" in entry.path or not {"", ".", ".."}.isdisjoint(entry.path.split("/")):
            return "its path is not relative to the folder and normalized"
        return None
    try:
        needed = tensor_nbytes(entry.dtype, entry.shape)
    except ValueError as error:
        return str(error)
    return None if needed == entry.nbytes else f"it has {entry.nbytes} bytes, but its dtype and shape need {needed}"
