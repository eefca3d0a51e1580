"""A strict reader of GGUF headers (llama.cpp's format), for untrusted files.

A GGUF file is metadata (keys and typed values), a table of tensors, padding up to a multiple of the alignment, and the
tensors' bytes, each tensor at a multiple of the alignment. Only versions 2 and 3, little-endian, are read. Metadata is
skipped: a manifest covers it as bytes of the file.

ggml lists a tensor's dimensions with the fastest-varying one first; `TensorRange` has row-major shapes, so the list is
reversed, as llama.cpp's own Python package does for its arrays.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import BinaryIO

from hashbench.model.dtypes import DTYPE_BITS, tensor_nbytes
from hashbench.model.opened import name_of, opened
from hashbench.model.strict_json import MAX_INTEGER, quoted
from hashbench.model.tensor_range import TensorRange

MAGIC = b"GGUF"
"""The first bytes of a GGUF file."""

MAX_HEADER_SIZE = 100_000_000
"""Bytes of the longest accepted header: the largest vocabularies take some 20 MB."""

MAX_TENSORS = 1 << 18
"""The most tensors that are accepted; models have thousands."""

MAX_METADATA = 1 << 16
"""The most metadata keys that are accepted; models have tens."""

_MAX_NAME = 1 << 16  # bytes of a key or name; the format's specification allows 65,535 and 64
_MAX_DIMENSIONS = 4  # ggml's own limit
_MAX_NESTING = 4  # of arrays in arrays, which the specification allows and nobody writes
_MAX_VALUES = 1 << 22  # strings and arrays within arrays, of all metadata; the largest vocabularies have a million

_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32

_UINT32, _STRING, _ARRAY = 4, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, _UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of each scalar type

_TYPES = """
    F32 F16 Q4_0 Q4_1 - - Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S
    IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16 - - - TQ1_0 TQ2_0 - - - MXFP4 NVFP4 Q1_0
"""  # in the order of their numbers; ggml has retired those of the dashes
GGML_DTYPES = {
    number: name if name in DTYPE_BITS else f"GGML_{name}" for number, name in enumerate(_TYPES.split()) if name != "-"
}
"""The dtype of each of ggml's types, by its number."""


class GgufError(ValueError):
    """A file is not a valid GGUF file; the message names it and says why."""


@dataclass(frozen=True)
class GgufHeader:
    """The tensors of a GGUF file.

    Attributes:
        tensors: The tensors, in the order of their bytes; none in a file of a vocabulary alone.
        status: The file's status before its header was read; None for a stream.
    """

    tensors: tuple[TensorRange, ...]
    status: os.stat_result | None = field(default=None, compare=False)


def read_gguf_header(file: str | os.PathLike[str] | BinaryIO) -> GgufHeader:
    """Reads the header of a GGUF file, and nothing else of it.

    Args:
        file: A path, or a seekable, buffered stream over the whole file.

    Returns:
        The tensors.

    Raises:
        OSError: The file cannot be read.
        GgufError: The file is not a valid GGUF file of version 2 or 3: it is big-endian, truncated, or has a header
            beyond the limits here; a key or a tensor's name occurs twice or is not UTF-8; a type is unknown; or a
            tensor is not aligned, overlaps another, ends after the file, or does not consist of whole blocks.
    """
    with opened(file) as (stream, status):
        try:
            return GgufHeader(_read(stream), status)
        except _InvalidError as error:
            raise GgufError(f"{name_of(file)} is not a valid GGUF file: {error}") from None


class _InvalidError(ValueError):
    """What is wrong, without the file's name."""


class _Cursor:
    """Reads forward through a header, never beyond the file's end or the longest header.

    Args:
        stream: The file, at its beginning.
        size: The file's size.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.position = 0
        self.left = min(size, MAX_HEADER_SIZE)
        self.values = _MAX_VALUES
        self._read = stream.read
        self._end = "the file ends" if size <= MAX_HEADER_SIZE else f"{MAX_HEADER_SIZE} bytes end"

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _InvalidError(f"{self._end} within its header")
        data = self._read(count)
        if len(data) < count:
            raise _InvalidError("it became shorter while it was read")
        self.position += count
        self.left -= count
        return data

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def name(self, what: str) -> str:
        length = self.uint64()
        if length > _MAX_NAME:
            raise _InvalidError(f"{what} would have {length} bytes; up to {_MAX_NAME} are accepted")
        raw = self.take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _InvalidError(f"{what} is not UTF-8: {quoted(raw)}") from None

    def count(self, what: str, at_least: int, most: int = MAX_INTEGER) -> int:
        """Reads a number of items, and refuses it where the rest of the header cannot hold as many.

        Args:
            what: What is counted, for the error.
            at_least: Bytes that the smallest item takes.
            most: The largest number that is accepted.
        """
        count = self.uint64()
        if count > most or count * at_least > self.left:
            room = min(most, self.left // at_least)
            raise _InvalidError(f"it would have {count} {what}, and has room for {room}")
        return count


def _read(stream: BinaryIO) -> tuple[TensorRange, ...]:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    cursor = _Cursor(stream, size)
    if (magic := cursor.take(4)) != MAGIC:
        raise _InvalidError(f"it begins with {magic!r}, not with {MAGIC!r}")
    version = cursor.uint32()
    if version & 0xFFFF == 0:
        raise _InvalidError("it is big-endian; only little-endian files are accepted")
    if version not in (2, 3):
        raise _InvalidError(f"its version is {version}; 2 and 3 are accepted")
    tensors = cursor.count("tensors", 24, MAX_TENSORS)
    keys = cursor.count("metadata keys", 13, MAX_METADATA)

    alignment = _read_metadata(cursor, keys)
    described = _read_tensors(cursor, tensors)
    begin = -(-cursor.position // alignment) * alignment

    for name, tensor in described.items():
        if tensor.offset % alignment:
            raise _InvalidError(f"the tensor {quoted(name)} is at {tensor.offset}, not at a multiple of {alignment}")
        if begin + tensor.offset + tensor.nbytes > size:
            raise _InvalidError(f"the tensor {quoted(name)} ends after the file")
    found = [tensor._replace(offset=begin + tensor.offset) for tensor in described.values()]

    # Ties are between empty tensors; the order in the table must not decide them.
    found.sort(key=lambda tensor: (tensor.offset, tensor.nbytes, tensor.name))
    end = begin
    for tensor in found:
        if tensor.offset < end:
            raise _InvalidError(f"the tensor {quoted(tensor.name)} overlaps another")
        end = tensor.offset + tensor.nbytes
    return tuple(found)


def _read_metadata(cursor: _Cursor, keys: int) -> int:
    """Skips the metadata, and returns the alignment that it sets."""
    alignment = _DEFAULT_ALIGNMENT
    seen: set[str] = set()
    for _ in range(keys):
        key = cursor.name("a metadata key")
        if key in seen:
            raise _InvalidError(f"the metadata key {quoted(key)} occurs twice")
        seen.add(key)
        kind = cursor.uint32()
        if key != _ALIGNMENT:
            _skip_values(cursor, kind, 1, 0)
            continue
        if kind != _UINT32:
            raise _InvalidError(f"{_ALIGNMENT} is of type {kind}, not of type {_UINT32} (uint32)")
        alignment = cursor.uint32()
        if alignment.bit_count() != 1:
            raise _InvalidError(f"{_ALIGNMENT} is {alignment}, not a power of two")
    return alignment


def _skip_values(cursor: _Cursor, kind: int, count: int, nesting: int) -> None:
    """Skips values of one type.

    Args:
        cursor: Where they begin.
        kind: The number of their type.
        count: How many there are.
        nesting: How many arrays they lie in.
    """
    if kind in _SIZES:
        cursor.take(_SIZES[kind] * count)
    elif kind == _STRING:
        for _ in range(count):
            cursor.take(cursor.uint64())
    elif kind == _ARRAY:
        if nesting == _MAX_NESTING:
            raise _InvalidError(f"its metadata nests arrays more than {_MAX_NESTING} deep")
        for _ in range(count):
            items = cursor.uint32()
            _skip_values(cursor, items, _array_length(cursor, items), nesting + 1)
    else:
        raise _InvalidError(f"its metadata has a value of the unknown type {kind}")


def _array_length(cursor: _Cursor, kind: int) -> int:
    if kind in _SIZES:
        return cursor.count("items of an array", _SIZES[kind])
    length = cursor.count("items of an array", 8 if kind == _STRING else 12, cursor.values)
    cursor.values -= length
    return length


def _read_tensors(cursor: _Cursor, count: int) -> dict[str, TensorRange]:
    """Reads the table of tensors, by name. Their offsets are those of the table: from the beginning of the data."""
    found: dict[str, TensorRange] = {}
    for _ in range(count):
        name = cursor.name("a tensor's name")
        about = f"the tensor {quoted(name)}"
        if name in found:
            raise _InvalidError(f"{about} occurs twice")
        dimensions = cursor.uint32()
        if dimensions > _MAX_DIMENSIONS:
            raise _InvalidError(f"{about} has {dimensions} dimensions; up to {_MAX_DIMENSIONS} are accepted")
        shape = tuple(cursor.uint64() for _ in range(dimensions))[::-1]
        if max(shape, default=0) > MAX_INTEGER:
            raise _InvalidError(f"{about} has a dimension above {MAX_INTEGER}")
        number = cursor.uint32()
        dtype = GGML_DTYPES.get(number)
        if dtype is None:
            raise _InvalidError(f"{about} has the unknown ggml type {number}")
        try:
            nbytes = tensor_nbytes(dtype, shape)
        except ValueError as error:
            raise _InvalidError(f"{about} is not accepted: {error}") from None
        found[name] = TensorRange(name, dtype, shape, cursor.uint64(), nbytes)
    return found
