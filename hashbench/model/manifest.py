"""The manifest of a model: its tensors and files, the root of a Merkle tree for each, and one root over all.

Every byte of every file is in an entry. A file without tensors is one entry. A file that holds tensors is an entry for
each tensor's bytes, and one for the *frame*: all other bytes of the file, joined in their order. So the entries fix the
bytes of a file, however a loader reads it.

An entry's root is the Merkle Tree Hash (RFC 9162 section 2.1.1) of its bytes in chunks. The model's root is

    H(0x02 || header)

where the header is the canonical JSON of everything that gives the entries their meaning (`Header`), and of
the Merkle Tree Hash of the entries' records, sorted by name as Unicode code points. Leaves of a tree are hashed with
0x00 in front, and nodes with 0x01: no file's root can be a model's. Records, header and the manifest itself are RFC
8785 canonical JSON: the same model always has the same manifest, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from operator import attrgetter
from typing import Any

from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.merkle.rfc9162 import merkle_tree_hash
from hashbench.model import canonical_json
from hashbench.model.components import component_of
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.model.dtypes import tensor_nbytes
from hashbench.model.exclusions import ExclusionError, Exclusions
from hashbench.model.frame import FrameError, gaps
from hashbench.model.strict_json import MAX_INTEGER, quoted

VERSION = 2
"""The version of the format, whose schema is manifest.schema.json in this package."""

KIND = "hashbench-manifest"
TREE = "rfc9162"
"""What the format and the trees are called in the header."""

MAX_SIZE = 256 << 20
"""The largest manifest that is written or read, in bytes: some million and a half entries."""

_MAX_VALUES = 1 << 24  # of its JSON: the tensors of the largest header of a safetensors file have 12 million
_ROOT_PREFIX = b"\x02"  # RFC 9162 has 0x00 for leaves and 0x01 for nodes
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
        file: the path of the file that holds it; None if the manifest is of tensors alone.
        offset: its first byte in the file; None if its bytes are not one range of the file, as those of a strided view.
            They are then in the frame. Where a tensor lies does not make it another: it is not compared.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    root: bytes
    file: str | None = field(default=None, compare=False)
    offset: int | None = field(default=None, compare=False)

    @property
    def hashed(self) -> int:
        """The number of bytes that the root is of."""
        return self.nbytes

    def fields(self) -> dict[str, Any]:
        """The content of its record."""
        fields: dict[str, Any] = {
            "dtype": self.dtype,
            "name": self.name,
            "root": self.root.hex(),
            "shape": list(self.shape),
        }
        if self.file is not None:
            fields["file"] = self.file
        if self.offset is not None:
            fields["offset"] = self.offset
        return fields

    def record(self) -> bytes:
        """Its leaf in the model's tree: `fields` in RFC 8785 canonical JSON in UTF-8."""
        # Written out, which takes a fifth of the time: a model may have a million tensors.
        file = "" if self.file is None else f'"file":{canonical_json.string(self.file)},'
        offset = "" if self.offset is None else f'"offset":{self.offset},'
        shape = ",".join(map(str, self.shape))
        return (
            f'{{"dtype":"{self.dtype}",{file}"name":{canonical_json.string(self.name)},{offset}'
            f'"root":"{self.root.hex()}","shape":[{shape}]}}'
        ).encode()

    def with_root(self, root: bytes) -> TensorEntry:
        """The same tensor with this root."""
        if root == self.root:
            return self
        return TensorEntry(self.name, self.dtype, self.shape, self.nbytes, root, self.file, self.offset)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file.

    Attributes:
        path: its path relative to the model's folder, with slashes.
        nbytes: its size in bytes.
        root: the Merkle Tree Hash of its bytes, or of its frame's if it holds tensors.
        frame_bytes: the size of its frame in bytes; None if it is not known to hold tensors.
    """

    path: str
    nbytes: int
    root: bytes
    frame_bytes: int | None = None

    @property
    def name(self) -> str:
        """Its name among other entries: its path."""
        return self.path

    @property
    def hashed(self) -> int:
        """The number of bytes that the root is of."""
        return self.nbytes if self.frame_bytes is None else self.frame_bytes

    def fields(self) -> dict[str, Any]:
        """The content of its record."""
        fields = {"path": self.path, "root": self.root.hex(), "size": self.nbytes}
        if self.frame_bytes is not None:
            fields["frame_bytes"] = self.frame_bytes
        return fields

    def record(self) -> bytes:
        """Its leaf in the model's tree: RFC 8785 canonical JSON in UTF-8."""
        return canonical_json.dumps(self.fields())

    def with_root(self, root: bytes) -> FileEntry:
        """The same file with this root."""
        return self if root == self.root else replace(self, root=root)


Entry = TensorEntry | FileEntry


@dataclass(frozen=True)
class Header:
    """What the root of a model is the hash of: everything that gives the entries their meaning, and their own root.

    Attributes:
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf of an entry's tree.
        exclusions: patterns of files in the model's folder that are not part of the model, sorted.
        count: the number of entries.
        entries: the Merkle Tree Hash of their records.
    """

    algorithm: str
    chunk_size: int
    exclusions: tuple[str, ...]
    count: int
    entries: bytes

    def fields(self) -> dict[str, Any]:
        """Its content, which is hashed as canonical JSON."""
        return {
            "algorithm": self.algorithm,
            "chunk_size": self.chunk_size,
            "count": self.count,
            "entries": self.entries.hex(),
            "exclusions": list(self.exclusions),
            "kind": KIND,
            "tree": TREE,
            "version": VERSION,
        }

    @property
    def root(self) -> bytes:
        """The model's root: H(0x02 || header)."""
        return hashlib.new(self.algorithm, _ROOT_PREFIX + canonical_json.dumps(self.fields())).digest()


@dataclass(frozen=True)
class Manifest:
    """What a model consists of, and the roots of its bytes.

    Args:
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf of an entry's tree.
        entries: in any order.
        exclusions: patterns of files in the model's folder that are not part of the model (`Exclusions`).

    Attributes:
        entries: sorted by name as Unicode code points.
        exclusions: sorted.

    Raises:
        ManifestError: the algorithm, chunk size or an exclusion is not accepted; two entries have the same name; an
            entry is not valid: its name is not valid Unicode, its path leaves the folder or is not normalized, its root
            is of another length than the algorithm's digests, its dtype is unknown, its size does not match dtype and
            shape, or a number is beyond 2^53 - 1; or a file's tensors and its frame are not all of its bytes.
    """

    algorithm: str
    chunk_size: int
    entries: tuple[Entry, ...]
    exclusions: tuple[str, ...] = ()

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
            if problem := problem_of(entry, digest_size):
                raise ManifestError(f"the entry {quoted(entry.name)} is not accepted: {problem}")
        try:
            object.__setattr__(self, "exclusions", Exclusions(self.exclusions).patterns)
        except ExclusionError as error:
            raise ManifestError(str(error)) from None
        self._check_files()

    def _check_files(self) -> None:
        """Checks that each file is exactly its tensors' ranges and its frame.

        Raises:
            ManifestError: one is not.
        """
        holding = {file.path for file in self.files if file.frame_bytes is not None}
        for tensor in self.tensors:
            if tensor.file is None and self.files:
                raise ManifestError(f"the entry {quoted(tensor.name)} is not accepted: it names no file, but others do")
            if tensor.file is not None and tensor.file not in holding:
                raise ManifestError(
                    f"the entry {quoted(tensor.name)} is not accepted: {quoted(tensor.file)} is not a file with a frame"
                )
        for file in self.files:
            if file.frame_bytes is None:
                continue
            try:
                frame = sum(nbytes for _, nbytes in gaps(file.nbytes, self.spans_in(file.path)))
            except FrameError as error:
                raise ManifestError(f"the entry {quoted(file.path)} is not accepted: {error}") from None
            if frame != file.frame_bytes:
                raise ManifestError(
                    f"the entry {quoted(file.path)} is not accepted: its frame has {file.frame_bytes} bytes, but its "
                    f"tensors leave {frame}"
                )

    @cached_property
    def files(self) -> tuple[FileEntry, ...]:
        """The files, sorted by path; none if the manifest is of tensors alone."""
        return tuple(entry for entry in self.entries if isinstance(entry, FileEntry))

    @cached_property
    def tensors(self) -> tuple[TensorEntry, ...]:
        """The tensors, sorted by name."""
        return tuple(entry for entry in self.entries if isinstance(entry, TensorEntry))

    def of_component(self, component: str) -> Manifest:
        """A manifest of one component's tensors alone, by their names in it. It has another root.

        Args:
            component: as `hashbench.model.components` names it: "" for the tensors with plain names, or a path.
        """
        if not component and not self.files:
            return self
        if component not in self._components:
            prefix = f"{component}/" if component else ""
            paths = {file.path for file in self.files}
            self._components[component] = Manifest(
                self.algorithm,
                self.chunk_size,
                tuple(
                    replace(tensor, name=tensor.name.removeprefix(prefix), file=None, offset=None)
                    for tensor in self.tensors
                    if tensor.name.startswith(prefix)
                    and (tensor.file is None or component_of(tensor.name, tensor.file, paths) == component)
                ),
            )
        return self._components[component]

    @cached_property
    def components(self) -> tuple[str, ...]:
        """The components that have tensors, sorted, as `of_component` takes them; none if the manifest has no files."""
        paths = {file.path for file in self.files}
        return tuple(sorted({component_of(one.name, one.file, paths) for one in self.tensors if one.file is not None}))

    @cached_property
    def _components(self) -> dict[str, Manifest]:
        return {}

    def spans_in(self, path: str) -> Sequence[tuple[int, int]]:
        """Offset and size in bytes of each tensor that is one range of the file at `path`."""
        return self._spans.get(path, ())

    @cached_property
    def _spans(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        spans: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for tensor in self.tensors:
            if tensor.file is not None and tensor.offset is not None:
                spans[tensor.file].append((tensor.offset, tensor.nbytes))
        return spans

    @cached_property
    def by_name(self) -> Mapping[str, Entry]:
        """The entries by name, in the order of their names."""
        return {entry.name: entry for entry in self.entries}

    @cached_property
    def root(self) -> bytes:
        """The model's root: H(0x02 || header)."""
        return self.header.root

    @cached_property
    def header(self) -> Header:
        """What the root is of."""
        entries = merkle_tree_hash(self.records, self.algorithm)
        return Header(self.algorithm, self.chunk_size, self.exclusions, len(self.entries), entries)

    @cached_property
    def records(self) -> list[bytes]:
        """The records of the entries: the leaves of the model's tree."""
        return [entry.record() for entry in self.entries]

    def text(self) -> bytes:
        """The content of the manifest's file: RFC 8785 canonical JSON and a line feed.

        Raises:
            ManifestError: it would have more than `MAX_SIZE` bytes.
        """
        out = BytesIO()
        out.writelines(self._pieces())
        text = out.getvalue()
        if len(text) > MAX_SIZE:
            raise ManifestError(f"the manifest would have {len(text)} bytes; up to {MAX_SIZE} are accepted")
        return text

    def is_written_as(self, text: bytes) -> bool:
        """Whether this is its `text`, told piece by piece: the whole text of a large model is not made for it."""
        end = 0
        for piece in self._pieces():
            if not text.startswith(piece, end):
                return False
            end += len(piece)
        return end == len(text)

    def _pieces(self) -> Iterator[bytes]:
        """The text in pieces. Every entry is encoded once: a tensor's is its record with the size as first field."""
        records = self.records
        yield b'{"algorithm":"%b","chunk_size":%d,' % (self.algorithm.encode(), self.chunk_size)
        yield b'"exclusions":%b,"files":[' % canonical_json.dumps(list(self.exclusions))
        yield from _separated(
            record for entry, record in zip(self.entries, records, strict=True) if isinstance(entry, FileEntry)
        )
        yield b'],"kind":"%b","root":"%b","tensors":[' % (KIND.encode(), self.root.hex().encode())
        yield from _separated(
            b'{"bytes":%d,' % entry.nbytes + record[1:]
            for entry, record in zip(self.entries, records, strict=True)
            if isinstance(entry, TensorEntry)
        )
        yield b'],"tree":"%b","version":%d}\n' % (TREE.encode(), VERSION)


def _separated(items: Iterable[bytes]) -> Iterator[bytes]:
    """The items, with a comma between two of them."""
    for number, item in enumerate(items):
        yield b"," + item if number else item


def parse_manifest(data: bytes) -> Manifest:
    """Parses a manifest, which must be what `Manifest.text` gives, byte for byte.

    Raises:
        ManifestError: it is larger than `MAX_SIZE`, is not strict JSON, does not follow the schema, has an entry that
            `Manifest` does not accept, has another root than its entries, or is not canonical.
    """
    try:
        document = parse_document(
            data, "manifest", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES
        )
    except DocumentError as error:
        raise ManifestError(str(error)) from None
    manifest = Manifest(
        document["algorithm"], document["chunk_size"], tuple(_entries(document)), tuple(document["exclusions"])
    )
    if manifest.root.hex() != document["root"]:
        raise ManifestError(f"its root is not the one of its entries, {manifest.root.hex()}")
    if not manifest.is_written_as(data):
        raise ManifestError(
            "it is not canonical: accepted is RFC 8785 JSON on one line, with tensors and files sorted by name"
        )
    object.__delattr__(manifest, "records")  # they take more memory than the entries, and only a proof needs them again
    return manifest


def read_manifest(path: str | os.PathLike[str]) -> Manifest:
    """Reads a manifest from a file.

    Raises:
        OSError: it cannot be read.
        ManifestError: it is not valid, as `parse_manifest` has it; the message names the file.
    """
    return read_document(path, "manifest", parse_manifest, ManifestError, MAX_SIZE)


def _entries(document: Mapping[str, Any]) -> Iterator[Entry]:
    """The entries of a document that follows the schema, taken out of it: both at once would need much memory."""
    digits = 2 * algorithm_named(document["algorithm"]).digest_size

    def root(fields: Mapping[str, Any]) -> bytes:
        if len(fields["root"]) != digits:
            raise ManifestError(f"a root has {len(fields['root'])} digits, not {digits} as its algorithm requires")
        return bytes.fromhex(fields["root"])

    same: dict[Any, Any] = {}  # a million tensors have few dtypes, shapes and files

    def shared(value: Hashable) -> Any:
        return same.setdefault(value, value)

    for file in _taken(document["files"]):
        yield FileEntry(file["path"], file["size"], root(file), file.get("frame_bytes"))
    for tensor in _taken(document["tensors"]):
        dtype, shape, path = shared(tensor["dtype"]), shared(tuple(tensor["shape"])), shared(tensor.get("file"))
        yield TensorEntry(tensor["name"], dtype, shape, tensor["bytes"], root(tensor), path, tensor.get("offset"))


def _taken(items: list[Any]) -> Iterator[Any]:
    """The items, each removed from the list."""
    items.reverse()
    while items:
        yield items.pop()


def problem_of(entry: Entry, digest_size: int) -> str | None:
    """Why an entry is not valid by itself; None if it is.

    Args:
        entry: the entry.
        digest_size: bytes of its algorithm's digests.
    """
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        return "its name is not valid Unicode"
    if len(entry.root) != digest_size:
        return f"its root has {len(entry.root)} bytes, not {digest_size} as its algorithm requires"
    if isinstance(entry, FileEntry):
        numbers: tuple[int, ...] = (entry.nbytes, entry.frame_bytes or 0)
    else:
        numbers = (entry.nbytes, entry.offset or 0, *entry.shape)
    if min(numbers) < 0 or max(numbers) > MAX_INTEGER:
        return f"a number is not between 0 and {MAX_INTEGER}"
    if isinstance(entry, FileEntry):
        # An empty component comes from a slash at either end, or from two in a row.
        if "\0" in entry.path or not {"", ".", ".."}.isdisjoint(entry.path.split("/")):
            return "its path is not relative to the folder and normalized"
        return None
    if entry.offset is not None and entry.file is None:
        return "it has an offset but no file"
    try:
        needed = tensor_nbytes(entry.dtype, entry.shape)
    except ValueError as error:
        return str(error)
    return None if needed == entry.nbytes else f"it has {entry.nbytes} bytes, but its dtype and shape need {needed}"
