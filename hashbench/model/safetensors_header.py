"""The header of a safetensors file, read strictly.

A safetensors file is the length of the header (8 bytes, little-endian), the header in JSON, and the tensors' bytes,
which cover the rest of the file without gap or overlap. The safetensors library accepts everything that is accepted
here, and reads it in the same way. It is more lenient: it also accepts unknown fields of a tensor, leading space, and
null metadata.
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
"""The largest header that is read, in bytes, as in the safetensors library."""

METADATA = "__metadata__"
"""The key of the file's metadata in the header, which no tensor can have as its name."""

_LENGTH_SIZE = 8
_MAX_DEPTH = 3  # header, tensor, shape
_FIELDS = {"dtype", "shape", "data_offsets"}


class SafetensorsError(ValueError):
    """A file is not a valid safetensors file; the message names it and says why."""


@dataclass(frozen=True)
class TensorRange:
    """Where in its file a tensor is.

    Attributes:
        name: the tensor's name.
        dtype: its dtype, by its name in safetensors.
        shape: its shape.
        offset: its first byte in the file.
        nbytes: its size in bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        tensors: in the order of their bytes.
        metadata: strings by key.
        status: the file's status before its header was read; None for a stream.
    """

    tensors: tuple[TensorRange, ...]
    metadata: Mapping[str, str]
    status: os.stat_result | None = field(default=None, compare=False)


def read_header(file: str | os.PathLike[str] | BinaryIO) -> Header:
    """Reads the header of a safetensors file, and nothing else of it.

    Args:
        file: a path, or a seekable, buffered stream over the whole file.

    Raises:
        OSError: it cannot be read.
        SafetensorsError: it is not a valid safetensors file: it is truncated or too long, its header is not strict
            JSON, a dtype is unknown, or tensors overlap, leave gaps or have another size than their dtype and shape
            need.
    """
    if isinstance(file, (str, os.PathLike)):
        with Path(file).open("rb") as stream:
            status = os.fstat(stream.fileno())
            return replace(read_header(stream), status=status)
    try:
        return _read(file)
    except (_InvalidError, StrictJsonError) as error:
        name = getattr(file, "name", "the stream")
        raise SafetensorsError(f"{name} is not a valid safetensors file: {error}") from None


class _InvalidError(ValueError):
    """The reason, without the file's name."""


def _read(stream: BinaryIO) -> Header:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(_LENGTH_SIZE)
    if len(start) < _LENGTH_SIZE:
        raise _InvalidError(f"it has {size} bytes, and the length of the header alone has {_LENGTH_SIZE}")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_SIZE:
        raise _InvalidError(f"its header would have {length} bytes; up to {MAX_HEADER_SIZE} are accepted")
    begin = _LENGTH_SIZE + length
    text = stream.read(length) if begin <= size else b""
    if begin > size or len(text) < length:
        raise _InvalidError(f"its header would have {length} bytes, but the file has {size}")
    if not text.startswith(b"{"):
        raise _InvalidError("its header does not begin with '{'")
    described: dict[str, Any] = loads(text, max_depth=_MAX_DEPTH)

    metadata = described.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _InvalidError(f"{METADATA} is not an object of strings")
    # The order of empty tensors at one offset must not depend on the order in the header.
    tensors = sorted(
        (_tensor(name, info, begin) for name, info in described.items()), key=lambda t: (t.offset, t.nbytes, t.name)
    )
    end = begin
    for tensor in tensors:
        if tensor.offset != end:
            what = "leaves a gap after" if tensor.offset > end else "overlaps"
            raise _InvalidError(f"the tensor {quoted(tensor.name)} {what} what comes before it")
        end += tensor.nbytes
    if end != size:
        raise _InvalidError(f"its tensors have {end - begin} bytes, but {size - begin} bytes follow the header")
    return Header(tuple(tensors), metadata)


def _tensor(name: str, info: Any, begin: int) -> TensorRange:
    about = f"the tensor {quoted(name)}"
    if not isinstance(info, dict) or info.keys() != _FIELDS:
        raise _InvalidError(f"{about} does not have exactly the fields {', '.join(sorted(_FIELDS))}")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _InvalidError(f"{about} has the unknown dtype {quoted(dtype)}: accepted are {', '.join(DTYPE_BITS)}")
    if not _are_lengths(shape):
        raise _InvalidError(f"the shape of {about} is not a list of non-negative integers")
    if not _are_lengths(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _InvalidError(f"the offsets of {about} are not its begin and end")
    try:
        nbytes = tensor_nbytes(dtype, shape)
    except ValueError as error:
        raise _InvalidError(f"{about} is impossible: {error}") from None
    start, stop = offsets
    if stop - start != nbytes:
        raise _InvalidError(f"{about} has {stop - start} bytes, but its dtype and shape need {nbytes}")
    return TensorRange(name, dtype, tuple(shape), begin + start, nbytes)


def _are_lengths(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
