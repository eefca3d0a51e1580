"""The header of a safetensors file, read strictly: what is where, and nothing taken on trust.

A safetensors file is the header's length (8 bytes, little-endian), the header in JSON, and the tensors' bytes, which
cover the rest of the file without gap or overlap. What is accepted here, the safetensors library accepts too and
understands in the same way; it is laxer itself in that it lets unknown fields of a tensor, leading space and a null in
place of the metadata pass.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from hashbench.model.dtypes import DTYPE_BITS, tensor_nbytes
from hashbench.model.strict_json import StrictJsonError, loads, quoted

MAX_HEADER_SIZE = 100_000_000
"""Bytes of the largest header that is read, as in the safetensors library."""

METADATA = "__metadata__"
"""The name in a header under which the file's own texts are, so that no tensor can have it."""

_LENGTH_SIZE = 8
_MAX_DEPTH = 3  # header, tensor, shape
_FIELDS = {"dtype", "shape", "data_offsets"}


class SafetensorsError(ValueError):
    """A file is no sound safetensors file; the message names it and says why."""


@dataclass(frozen=True)
class TensorRange:
    """Where in its file a tensor is.

    Attributes:
        name: of the tensor.
        dtype: by safetensors' name.
        shape: of the tensor.
        offset: of its first byte, from the file's beginning.
        nbytes: its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What the header of a safetensors file says.

    Attributes:
        tensors: in the order of their bytes.
        metadata: the file's own texts, by key.
        status: what the file was before its header was read; None of a stream.
    """

    tensors: tuple[TensorRange, ...]
    metadata: Mapping[str, str]
    status: os.stat_result | None = field(default=None, compare=False)


def read_header(file: str | os.PathLike[str] | BinaryIO) -> Header:
    """The header of a safetensors file; nothing else of the file is read.

    Args:
        file: a path, or a seekable stream over the whole file, with a buffer.

    Raises:
        OSError: it cannot be read.
        SafetensorsError: it is no sound safetensors file: truncated or too long, of a header that is no strict JSON,
            with a dtype that safetensors does not have, or with tensors that overlap, leave gaps or do not have the
            bytes that their dtype and shape need.
    """
    if isinstance(file, (str, os.PathLike)):
        with Path(file).open("rb") as stream:
            status = os.fstat(stream.fileno())
            return replace(read_header(stream), status=status)
    try:
        return _read(file)
    except (_UnsoundError, StrictJsonError) as error:
        name = getattr(file, "name", "the stream")
        raise SafetensorsError(f"{name} is no sound safetensors file: {error}") from None


class _UnsoundError(ValueError):
    """What is wrong, without the file's name."""


def _read(stream: BinaryIO) -> Header:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(_LENGTH_SIZE)
    if len(start) < _LENGTH_SIZE:
        raise _UnsoundError(f"it has {size} bytes, and {_LENGTH_SIZE} are needed for the header's length alone")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_SIZE:
        raise _UnsoundError(f"its header would be of {length} bytes; up to {MAX_HEADER_SIZE} are accepted")
    begin = _LENGTH_SIZE + length
    text = stream.read(length) if begin <= size else b""
    if begin > size or len(text) < length:
        raise _UnsoundError(f"its header would be of {length} bytes, but the file ends after {size}")
    if not text.startswith(b"{"):
        raise _UnsoundError("its header does not begin with '{'")
    described: dict[str, Any] = loads(text, max_depth=_MAX_DEPTH)

    metadata = described.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _UnsoundError(f"{METADATA} is not an object of texts")
    # The order of equal ranges, which are empty tensors, must not hang on the order in the header.
    tensors = sorted(
        (_tensor(name, info, begin) for name, info in described.items()), key=lambda t: (t.offset, t.nbytes, t.name)
    )
    end = begin
    for tensor in tensors:
        if tensor.offset != end:
            what = "leaves a gap to" if tensor.offset > end else "overlaps"
            raise _UnsoundError(f"the tensor {quoted(tensor.name)} {what} what is before it")
        end += tensor.nbytes
    if end != size:
        raise _UnsoundError(f"its tensors have {end - begin} bytes, and {size - begin} bytes follow the header")
    return Header(tuple(tensors), metadata)


def _tensor(name: str, info: Any, begin: int) -> TensorRange:
    about = f"the tensor {quoted(name)}"
    if not isinstance(info, dict) or info.keys() != _FIELDS:
        raise _UnsoundError(f"{about} is not described by {', '.join(sorted(_FIELDS))} alone")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _UnsoundError(f"{about} has the dtype {quoted(dtype)}; safetensors has {', '.join(DTYPE_BITS)}")
    if not _are_lengths(shape):
        raise _UnsoundError(f"the shape of {about} is not a list of integers from 0 on")
    if not _are_lengths(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _UnsoundError(f"the offsets of {about} are not where it begins and where it ends")
    try:
        nbytes = tensor_nbytes(dtype, shape)
    except ValueError as error:
        raise _UnsoundError(f"{about} cannot be: {error}") from None
    start, stop = offsets
    if stop - start != nbytes:
        raise _UnsoundError(f"{about} has {stop - start} bytes, and its dtype and shape need {nbytes}")
    return TensorRange(name, dtype, tuple(shape), begin + start, nbytes)


def _are_lengths(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
