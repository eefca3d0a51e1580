"""Inclusion proofs: a tensor, a file, or one chunk of either belongs to the model with a known root.

A proof follows RFC 9162 section 2.1.3: it has the nodes between a record and the root of all records and, if it is for
a chunk, those between the chunk's hash and the root in the record. It also has the model's header
(`hashbench.model.manifest.Header`), which has the root of all records, and whose hash is the model's root. So the root
authenticates all of the proof. Its size is logarithmic in the model's size. Checking it takes the root and the bytes in
question, but neither the manifest nor the rest of the model.

A file that holds tensors is proven tensor by tensor, and its frame like a file.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hashbench.hashing.sources import FileRange
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Bytes, algorithm_named
from hashbench.merkle import rfc9162 as merkle
from hashbench.model import canonical_json
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.model.dtypes import tensor_nbytes
from hashbench.model.hints import did_you_mean
from hashbench.model.manifest import Entry, FileEntry, Header, Manifest, ManifestError, TensorEntry, problem_of
from hashbench.model.safetensors_header import SafetensorsError, read_header
from hashbench.model.strict_json import quoted

VERSION = 2
"""The version of the format, whose schema is proof.schema.json in this package."""

MAX_SIZE = 1 << 20
"""The largest proof that is read, in bytes."""

_MAX_DEPTH = 3  # proof, header or record, exclusions or shape


class ProofError(ValueError):
    """A proof cannot be made or is not valid; the message says why."""


class NotProvenError(VerificationError):
    """A proof does not hold for the given root or data; the message says why."""


@dataclass(frozen=True)
class Inclusion:
    """The inclusion of a leaf in a tree.

    Attributes:
        index: the leaf's index, from 0.
        tree_size: the number of leaves.
        path: the nodes between leaf and root, bottom up: PATH of RFC 9162 section 2.1.3.1.
    """

    index: int
    tree_size: int
    path: tuple[bytes, ...]

    def leads(self, leaf: bytes, root: bytes, algorithm: str) -> bool:
        """Whether the leaf hash `leaf` leads to `root`, by RFC 9162 section 2.1.3.2."""
        return merkle.verify_inclusion(leaf, self.index, self.tree_size, self.path, root, algorithm)


@dataclass(frozen=True)
class Proof:
    """A proof that a record, and possibly a chunk of its tensor or file, belongs to a model.

    Attributes:
        header: the model's.
        entry: the tensor or file that the record describes.
        inclusion: that of the record among all.
        chunk: that of a chunk in the entry's tree; None if the proof is not for a chunk.
    """

    header: Header
    entry: Entry
    inclusion: Inclusion
    chunk: Inclusion | None = None

    @property
    def algorithm(self) -> str:
        """That of all hashes: "sha256" or "sha384"."""
        return self.header.algorithm

    @property
    def chunk_size(self) -> int:
        """Bytes of a chunk; the last may be short."""
        return self.header.chunk_size

    @property
    def start(self) -> int:
        """The first proven byte in the tensor, file or frame."""
        return self.chunk.index * self.chunk_size if self.chunk else 0

    @property
    def nbytes(self) -> int:
        """The number of proven bytes: those of the chunk, or all of the tensor, file or frame."""
        rest = self.entry.hashed - self.start
        return min(self.chunk_size, rest) if self.chunk else rest

    @property
    def named(self) -> str:
        """The tensor or file, in words."""
        if isinstance(self.entry, TensorEntry):
            return f"tensor {quoted(self.entry.name)}"
        return f"{'file' if self.entry.frame_bytes is None else 'frame of'} {quoted(self.entry.path)}"

    @property
    def subject(self) -> str:
        """The proven bytes, in words."""
        if self.chunk is None:
            return self.named
        return f"chunk {self.chunk.index} [{self.start}:{self.start + self.nbytes}] of {self.named}"

    def text(self) -> bytes:
        """The content of the proof's file: RFC 8785 canonical JSON and a line feed."""
        document = {
            "header": self.header.fields(),
            "inclusion": _fields(self.inclusion),
            "record": self.entry.fields(),
            "version": VERSION,
        }
        if self.chunk:
            document["chunk"] = _fields(self.chunk)
        return canonical_json.dumps(document) + b"\n"

    def check_record(self, root: bytes) -> None:
        """Checks that the record is in the model with this root.

        Raises:
            NotProvenError: it is not.
        """
        leaf = merkle.leaf_hash(self.entry.record(), self.algorithm)
        if self.header.root != root or not self.inclusion.leads(leaf, self.header.entries, self.algorithm):
            raise NotProvenError(f"the record of {self.named} does not lead to the root {root.hex()}")

    def check_bytes(self, root: bytes) -> None:
        """Checks that data are the proven bytes.

        Args:
            root: the Merkle Tree Hash of the data; for a chunk, that is its leaf hash.

        Raises:
            NotProvenError: they are not.
        """
        if self.chunk is None:
            proven = root == self.entry.root
        else:
            proven = self.chunk.leads(root, self.entry.root, self.algorithm)
        if not proven:
            raise NotProvenError(f"the data are not {self.subject}")


def prove(manifest: Manifest, name: str) -> Proof:
    """Proves that the tensor or file `name` is in the model of `manifest`.

    Raises:
        ProofError: it is not.
    """
    index = next((index for index, entry in enumerate(manifest.entries) if entry.name == name), None)
    if index is None:
        raise ProofError(f"the manifest has no tensor or file {quoted(name)}{did_you_mean(name, manifest.by_name)}")
    path = merkle.inclusion_proof(manifest.records, index, manifest.algorithm)
    inclusion = Inclusion(index, len(manifest.entries), tuple(path))
    return Proof(manifest.header, manifest.entries[index], inclusion)


def check_chunk(proof: Proof, index: int) -> None:
    """Checks that the tensor or file of a proof has a chunk `index`.

    Raises:
        ProofError: it does not.
    """
    count = _chunk_count(proof)
    if not 0 <= index < count:
        raise ProofError(f"{proof.named} has no chunk {index}: it has {count}, counted from 0")


def prove_chunk(proof: Proof, index: int, leaves: Bytes) -> Proof:
    """Adds the proof of one chunk to the proof of its tensor or file.

    Args:
        proof: the proof of the tensor or file.
        index: the chunk's index, from 0.
        leaves: the leaf hashes of all chunks: uint8, shape (chunks, digest size).

    Raises:
        ProofError: there is no such chunk.
        NotProvenError: the leaves do not have the root of the tensor or file.
    """
    check_chunk(proof, index)
    count, algorithm = _chunk_count(proof), proof.algorithm
    if len(leaves) == count:
        # All runs but the last are complete subtrees, so the path passes through the root of the leaf's run.
        run, within = divmod(index, merkle.RUN)
        of_run = [leaf.tobytes() for leaf in leaves[run * merkle.RUN :][: merkle.RUN]]
        path = [
            *merkle.path_of(within, of_run, algorithm),
            *merkle.path_of(run, merkle.roots_of_runs(leaves, algorithm), algorithm),
        ]
        chunk = Inclusion(index, count, tuple(path))
        if chunk.leads(leaves[index].tobytes(), proof.entry.root, algorithm):
            return replace(proof, chunk=chunk)
    raise NotProvenError(f"the chunks are not those of {proof.named} in the manifest")


def bytes_in(data: Path, proof: Proof) -> FileRange:
    """The range of a file in which the proven bytes must be.

    Args:
        data: a file of just those bytes; of all bytes of the tensor, file or frame; or with the tensor in it, where the
            record says or, if it does not say, where the header of a safetensors file does. The size tells which.
        proof: the proof.

    Raises:
        OSError: the file cannot be read.
        ProofError: it is not a regular file.
        NotProvenError: it is none of the three.
    """
    status = data.stat()
    size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        raise ProofError(f"{data} is not a regular file")
    entry = proof.entry
    if size == proof.nbytes:
        return FileRange(data, 0, size, status)
    if size == entry.hashed:
        return FileRange(data, proof.start, proof.nbytes, status)
    if isinstance(entry, FileEntry):
        raise NotProvenError(f"{data} has {size} bytes, but {proof.subject} has {proof.nbytes}")
    if entry.offset is None:
        return replace(_tensor_in(data, proof), nbytes=proof.nbytes)
    if size < entry.offset + entry.nbytes:
        raise NotProvenError(f"{data} ends before byte {entry.offset + entry.nbytes}, where {proof.named} does")
    return FileRange(data, entry.offset + proof.start, proof.nbytes, status)


def parse_proof(data: bytes) -> Proof:
    """Parses a proof, which must be what `Proof.text` gives, byte for byte.

    Raises:
        ProofError: it is larger than `MAX_SIZE`, is not strict JSON, does not follow the schema, has an index outside
            its tree, a node of the wrong length, or a record that no manifest can have, or is not canonical.
    """
    try:
        document = parse_document(data, "proof", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH)
    except DocumentError as error:
        raise ProofError(str(error)) from None
    proof = Proof(
        _header(document["header"]),
        _entry(document["record"]),
        _inclusion(document["inclusion"]),
        _inclusion(document["chunk"]) if "chunk" in document else None,
    )
    _check(proof)
    if proof.text() != data:
        raise ProofError("it is not canonical: accepted is RFC 8785 JSON on one line")
    return proof


def read_proof(path: str | os.PathLike[str]) -> Proof:
    """Reads a proof from a file.

    Raises:
        OSError: it cannot be read.
        ProofError: it is not valid, as `parse_proof` has it; the message names the file.
    """
    return read_document(path, "proof", parse_proof, ProofError, MAX_SIZE)


def _chunk_count(proof: Proof) -> int:
    return -(-proof.entry.hashed // proof.chunk_size)


def _tensor_in(data: Path, proof: Proof) -> FileRange:
    """The bytes of the tensor in a safetensors file, from the first proven one on."""
    entry = proof.entry
    assert isinstance(entry, TensorEntry)
    try:
        header = read_header(data)
    except SafetensorsError as error:
        raise NotProvenError(f"{data} does not have the {proof.nbytes} bytes of {proof.subject}, and {error}") from None
    found = next((tensor for tensor in header.tensors if tensor.name == entry.name), None)
    if found is None:
        raise NotProvenError(f"{data} has no tensor {quoted(entry.name)}")
    if (found.dtype, found.shape) != (entry.dtype, entry.shape):
        raise NotProvenError(
            f"{proof.named} is {entry.dtype} {list(entry.shape)}, but {found.dtype} {list(found.shape)} in {data}"
        )
    return FileRange(data, found.offset + proof.start, found.nbytes - proof.start, header.status)


def _fields(inclusion: Inclusion) -> dict[str, Any]:
    return {
        "index": inclusion.index,
        "path": [node.hex() for node in inclusion.path],
        "tree_size": inclusion.tree_size,
    }


def _inclusion(fields: dict[str, Any]) -> Inclusion:
    return Inclusion(fields["index"], fields["tree_size"], tuple(map(bytes.fromhex, fields["path"])))


def _header(fields: dict[str, Any]) -> Header:
    return Header(
        fields["algorithm"],
        fields["chunk_size"],
        tuple(fields["exclusions"]),
        fields["count"],
        bytes.fromhex(fields["entries"]),
    )


def _entry(record: dict[str, Any]) -> Entry:
    root = bytes.fromhex(record["root"])
    if "path" in record:
        return FileEntry(record["path"], record["size"], root, record.get("frame_bytes"))
    try:
        nbytes = tensor_nbytes(record["dtype"], record["shape"])
    except ValueError as error:
        raise ProofError(f"its record is not accepted: {error}") from None
    shape, place = tuple(record["shape"]), (record.get("file"), record.get("offset"))
    return TensorEntry(record["name"], record["dtype"], shape, nbytes, root, *place)


def _check(proof: Proof) -> None:
    """Checks what a schema cannot express."""
    try:
        Manifest(proof.algorithm, proof.chunk_size, (), proof.header.exclusions)
    except ManifestError as error:
        raise ProofError(str(error)) from None
    if problem := problem_of(proof.entry, algorithm_named(proof.algorithm).digest_size):
        raise ProofError(f"its record is not accepted: {problem}")
    for inclusion in filter(None, (proof.inclusion, proof.chunk)):
        if not inclusion.index < inclusion.tree_size:
            raise ProofError(f"leaf {inclusion.index} is not in a tree of {inclusion.tree_size}, counted from 0")
    nodes = [proof.header.entries, *proof.inclusion.path, *(proof.chunk.path if proof.chunk else ())]
    if any(len(node) != len(proof.entry.root) for node in nodes):
        raise ProofError(f"a node does not have the length of a {proof.algorithm} digest")
    if proof.inclusion.tree_size != proof.header.count:
        raise ProofError(f"its record would be one of {proof.inclusion.tree_size}, but there are {proof.header.count}")
    if proof.chunk and proof.chunk.tree_size != _chunk_count(proof):
        raise ProofError(f"its chunk would be one of {proof.chunk.tree_size}, but there are {_chunk_count(proof)}")
