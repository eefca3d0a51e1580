"""What one rank holds of a model, as plain data: a part. All ranks' parts combine to the model's manifest.

A part has, for each tensor, the runs of bytes that the rank holds, and a description of each run: the roots of the
complete subtrees in it, and the bytes at its ends that fill no leaf. It can be pickled, or written to a file and read.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hashbench.distributed.subtrees import Run, content_size
from hashbench.kernels import algorithm_named, check_chunk_size
from hashbench.model import canonical_json
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.model.dtypes import tensor_nbytes
from hashbench.model.manifest import MAX_SIZE
from hashbench.model.strict_json import quoted

VERSION = 1
"""The version of the format, whose schema is part.schema.json in hashbench.model."""

KIND = "hashbench-part"

_MAX_DEPTH = 6  # part, tensors, tensor, runs, run
_MAX_VALUES = 1 << 24  # as of a manifest


class PartError(ValueError):
    """A part is not valid, or parts do not make up a model; the message says why."""


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """What a rank holds of one tensor.

    Attributes:
        name: the tensor's name.
        dtype: its dtype, by its name in safetensors.
        shape: its shape as a whole.
        nbytes: its size as a whole.
        ranks: the ranks that hold one copy of it together, this one among them; none if that is not known.
        runs: the ranges of the tensor's bytes that this rank holds.
        content: the description of the runs, one after another: the bytes before the first whole leaf, the roots of the
            complete subtrees, the bytes after the last whole leaf.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    ranks: tuple[int, ...]
    runs: tuple[Run, ...]
    content: bytes

    def fields(self) -> dict[str, Any]:
        """Its record in a part's file."""
        return {
            "content": b64encode(self.content).decode(),
            "dtype": self.dtype,
            "name": self.name,
            "ranks": list(self.ranks),
            "runs": [list(run) for run in self.runs],
            "shape": list(self.shape),
        }


@dataclass(frozen=True)
class Part:
    """What one rank holds of a model.

    Args:
        rank: the rank's number among all that hold the model.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.
        tensors: what it holds, in any order.

    Raises:
        PartError: algorithm or chunk size is not accepted, or a tensor is not valid: its size is not that of its dtype
            and shape, its runs overlap or leave it, its description has another length than its runs need, or its ranks
            are not sorted or lack this one.
    """

    rank: int
    algorithm: str
    chunk_size: int
    tensors: tuple[HeldTensor, ...]

    def __post_init__(self) -> None:
        try:
            digest_size = algorithm_named(self.algorithm).digest_size
            check_chunk_size(self.chunk_size)
        except (TypeError, ValueError) as error:
            raise PartError(str(error)) from None
        names = set()
        for tensor in self.tensors:
            if tensor.name in names:
                raise PartError(f"the tensor {quoted(tensor.name)} is there twice")
            names.add(tensor.name)
            if problem := _problem_of(tensor, self.rank, self.chunk_size, digest_size):
                raise PartError(f"the tensor {quoted(tensor.name)} is not accepted: {problem}")

    def text(self) -> bytes:
        """The content of the part's file: RFC 8785 canonical JSON and a line feed.

        Raises:
            PartError: it would have more bytes than the largest manifest.
        """
        document = {
            "algorithm": self.algorithm,
            "chunk_size": self.chunk_size,
            "kind": KIND,
            "rank": self.rank,
            "tensors": [tensor.fields() for tensor in self.tensors],
            "version": VERSION,
        }
        text = canonical_json.dumps(document) + b"\n"
        if len(text) > MAX_SIZE:
            raise PartError(
                f"the part would have {len(text)} bytes; up to {MAX_SIZE} are accepted: choose chunks that divide the "
                "rows that ranks hold, or combine within a process group"
            )
        return text


def _problem_of(tensor: HeldTensor, rank: int, chunk_size: int, digest_size: int) -> str | None:
    """Why what a rank holds of a tensor is not valid by itself; None if it is."""
    try:
        needed = tensor_nbytes(tensor.dtype, tensor.shape)
    except ValueError as error:
        return str(error)
    if needed != tensor.nbytes:
        return f"it has {tensor.nbytes} bytes, but its dtype and shape need {needed}"
    if tensor.ranks and (rank not in tensor.ranks or any(a >= b for a, b in pairwise(tensor.ranks))):
        return f"the ranks that hold it are not sorted, or lack rank {rank}"
    runs = sorted(tensor.runs)
    if any(not 0 <= start < stop <= needed for start, stop in runs) or any(a[1] > b[0] for a, b in pairwise(runs)):
        return "its runs overlap or leave it"
    size = sum(content_size(run, needed, chunk_size, digest_size) for run in tensor.runs)
    if size != len(tensor.content):
        return f"its runs are described by {len(tensor.content)} bytes, not by {size}"
    return None


def parse_part(data: bytes) -> Part:
    """Parses the content of a part's file.

    Raises:
        PartError: it is larger than the largest manifest, not strict JSON, does not follow the schema, or has a tensor
            that `Part` does not accept.
    """
    try:
        document = parse_document(
            data, "part", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES
        )
    except DocumentError as error:
        raise PartError(str(error)) from None
    return Part(document["rank"], document["algorithm"], document["chunk_size"], tuple(_tensors(document)))


def read_part(path: str | os.PathLike[str]) -> Part:
    """Reads a part from a file.

    Raises:
        OSError: it cannot be read.
        PartError: it is not valid, as `parse_part` has it; the message names the file.
    """
    return read_document(path, "part", parse_part, PartError, MAX_SIZE)


def _tensors(document: Mapping[str, Any]) -> Iterator[HeldTensor]:
    """The tensors of a document that follows the schema."""
    for fields in document["tensors"]:
        shape = tuple(fields["shape"])
        try:
            content = b64decode(fields["content"], validate=True)
            nbytes = tensor_nbytes(fields["dtype"], shape)
        except (Base64Error, ValueError) as error:
            raise PartError(f"the tensor {quoted(fields['name'])} is not accepted: {error}") from None
        runs = tuple((start, stop) for start, stop in fields["runs"])
        yield HeldTensor(fields["name"], fields["dtype"], shape, nbytes, tuple(fields["ranks"]), runs, content)
