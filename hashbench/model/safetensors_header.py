"""A strict reader of safetensors headers, for untrusted files.

A safetensors file is the length of its header (8 bytes, little-endian), the header in JSON, and the tensors' bytes,
which cover the rest of the file without gaps or overlaps. Every file that is accepted here the safetensors library
accepts too, and reads the same tensors from it. The library is more lenient: it also accepts duplicate names, unknown
fields of a tensor, a tensor written as a list, escaped field names, leading spaces, and null as the metadata.

A header has a fixed form, so one regular expression reads a whole tensor: a header of 100 MB takes seconds, and memory
holds nothing that is not part of the result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import BinaryIO

from hashbench.model.dtypes import DTYPE_BITS, tensor_nbytes
from hashbench.model.opened import name_of, opened
from hashbench.model.strict_json import MAX_INTEGER, StrictJsonError, loads, quoted
from hashbench.model.tensor_range import TensorRange

MAX_HEADER_SIZE = 100_000_000
"""Bytes of the largest accepted header, the safetensors library's own limit."""

MAX_SHAPE_SIZE = 4096
"""Bytes of the longest accepted list of dimensions: a header could hold a list of 50 million."""

MAX_METADATA = 1 << 20
"""The most keys that the metadata may have: a header could hold ten million."""

METADATA = "__metadata__"
"""The key of a header's metadata, hence not a name that a tensor can have."""

_LENGTH_SIZE = 8

_WS = r"[ \t\n\r]*+"
_CHARS = r'[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+'
_KEY = rf'{_WS}"({_CHARS})"{_WS}:{_WS}'
_SEPARATOR = rf'{_WS}(?:,(?={_WS}")|(?=\}}))'
_CLOSING = rf"{_WS}\}}{_WS}([,}}])"

_NUMBER = r"(?:0|[1-9][0-9]{0,18})"
_DTYPE = rf'"dtype"{_WS}:{_WS}"([^"\\\x00-\x1f]*+)"'
_SHAPE = rf'"shape"{_WS}:{_WS}\[({_WS}(?:{_NUMBER}{_WS}(?:,{_WS}{_NUMBER}{_WS})*+)?+)\]'
_OFFSETS = rf'"data_offsets"{_WS}:{_WS}\[{_WS}({_NUMBER}){_WS},{_WS}({_NUMBER}){_WS}\]'
# Three fields out of three alternatives: if each alternative has matched, each field is there once, in any order.
_FIELDS = rf"(?:{_WS}(?:{_DTYPE}|{_SHAPE}|{_OFFSETS}){_SEPARATOR}){{3}}"

_TENSOR_ENTRY = re.compile(rf"{_KEY}\{{{_FIELDS}{_CLOSING}".encode())
_METADATA_START = re.compile(rf'{_WS}"{METADATA}"{_WS}:{_WS}\{{'.encode())
_METADATA_PAIR = re.compile(rf'{_KEY}"({_CHARS})"{_SEPARATOR}'.encode())
_METADATA_END = re.compile(_CLOSING.encode())
_ENTRY_KEY = re.compile(_KEY.encode())
_EMPTY_HEADER = re.compile(rf"\{{{_WS}\}}{_WS}".encode())
_SPACE = re.compile(_WS.encode())

_DTYPES = {name.encode(): name for name in DTYPE_BITS}
_FORM = '{"dtype": "...", "shape": [...], "data_offsets": [begin, end]}, with integers from 0 on'
_NOT_STRINGS = f"{METADATA} is not an object of strings"


class SafetensorsError(ValueError):
    """A file is not a valid safetensors file; the message names it and says why."""


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file.

    Attributes:
        tensors: The tensors, in the order of their bytes.
        metadata: The file's own texts, by key.
        status: The file's status before its header was read; None for a stream.
    """

    tensors: tuple[TensorRange, ...]
    metadata: Mapping[str, str]
    status: os.stat_result | None = field(default=None, compare=False)


def read_header(file: str | os.PathLike[str] | BinaryIO) -> Header:
    """Reads the header of a safetensors file, and nothing else of it.

    Args:
        file: A path, or a seekable, buffered stream over the whole file.

    Returns:
        The header.

    Raises:
        OSError: The file cannot be read.
        SafetensorsError: The file is not a valid safetensors file: it is truncated or too long; its header is not
            strict JSON of the format's form; a dtype is unknown; or the tensors overlap, leave gaps, or do not have
            the bytes that their dtypes and shapes need.
    """
    with opened(file) as (stream, status):
        try:
            return replace(_read(stream), status=status)
        except (_InvalidError, StrictJsonError) as error:
            raise SafetensorsError(f"{name_of(file)} is not a valid safetensors file: {error}") from None


class _InvalidError(ValueError):
    """What is wrong, without the file's name."""


def _read(stream: BinaryIO) -> Header:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(_LENGTH_SIZE)
    if len(start) < _LENGTH_SIZE:
        raise _InvalidError(f"it has {size} bytes, and the header's length alone takes {_LENGTH_SIZE}")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_SIZE:
        raise _InvalidError(f"its header would have {length} bytes; up to {MAX_HEADER_SIZE} are accepted")
    begin = _LENGTH_SIZE + length
    text = stream.read(length) if begin <= size else b""
    if begin > size or len(text) < length:
        raise _InvalidError(f"its header would have {length} bytes, but the file ends after {size}")
    tensors, metadata = _parse(text, begin)

    # Ties are between empty tensors; the order in the header must not decide them.
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes, tensor.name))
    end = begin
    for tensor in tensors:
        if tensor.offset != end:
            what = "leaves a gap after" if tensor.offset > end else "overlaps"
            raise _InvalidError(f"the tensor {quoted(tensor.name)} {what} what is before it")
        end += tensor.nbytes
    if end != size:
        raise _InvalidError(f"its tensors have {end - begin} bytes, but {size - begin} follow the header")
    return Header(tuple(tensors), metadata)


def _parse(text: bytes, begin: int) -> tuple[list[TensorRange], dict[str, str]]:
    """Parses a header.

    Args:
        text: The header.
        begin: The place in the file at which the tensors' bytes begin.

    Returns:
        The tensors in the header's order, and the metadata.

    Raises:
        _InvalidError: It is not a header as accepted here.
        StrictJsonError: A string of it is not one.
    """
    tensors: list[TensorRange] = []
    metadata: dict[str, str] | None = None
    if not text.startswith(b"{"):
        raise _InvalidError("its header does not begin with '{'")
    if _EMPTY_HEADER.fullmatch(text):
        return [], {}
    position, closing = 1, b","
    while closing == b",":
        if entry := _TENSOR_ENTRY.match(text, position):
            key, dtype, shape, start, stop, closing = entry.groups()
            if start is None or shape is None or dtype is None:
                raise _InvalidError(f"the tensor {quoted(_string(key))} has a field twice: its form is {_FORM}")
            tensors.append(_tensor(_string(key), dtype, shape, int(start), int(stop), begin))
            position = entry.end()
        elif entry := _METADATA_START.match(text, position):
            if metadata is not None:
                raise _InvalidError(f"{METADATA} occurs twice")
            metadata, position = _metadata(text, entry.end())
            if not (entry := _METADATA_END.match(text, position)):
                raise _InvalidError(_NOT_STRINGS)
            closing, position = entry[1], entry.end()
        else:
            raise _InvalidError(_wrong_entry(text, position))
    if not _SPACE.fullmatch(text, position):
        raise _InvalidError(f"its header is not valid JSON: something follows its end, at byte {position}")
    if len({tensor.name for tensor in tensors}) < len(tensors):
        seen: set[str] = set()
        twice = next(t.name for t in tensors if t.name in seen or seen.add(t.name))  # type: ignore[func-returns-value]
        raise _InvalidError(f"the tensor {quoted(twice)} occurs twice")
    return tensors, metadata or {}


def _tensor(name: str, dtype_name: bytes, lengths: bytes, start: int, stop: int, begin: int) -> TensorRange:
    if name == METADATA:
        raise _InvalidError(_NOT_STRINGS)
    if len(lengths) > MAX_SHAPE_SIZE:
        raise _InvalidError(f"the shape of the tensor {quoted(name)} takes more than {MAX_SHAPE_SIZE} bytes")
    try:
        dtype, shape, nbytes = _dtype_shape_nbytes(dtype_name, lengths)
    except ValueError as error:
        raise _InvalidError(f"the tensor {quoted(name)} is not accepted: {error}") from None
    if stop - start != nbytes:
        raise _InvalidError(
            f"the tensor {quoted(name)} has {stop - start} bytes, and its dtype and shape need {nbytes}"
        )
    return TensorRange(name, dtype, shape, begin + start, nbytes)


@lru_cache(maxsize=1024)  # a model of a million tensors has few shapes
def _dtype_shape_nbytes(dtype_name: bytes, lengths: bytes) -> tuple[str, tuple[int, ...], int]:
    dtype = _DTYPES.get(dtype_name)
    if dtype is None:
        raise ValueError(f"its dtype is {quoted(_string(dtype_name))}, not one of {', '.join(DTYPE_BITS)}")
    shape = tuple(map(int, lengths.split(b","))) if lengths.strip() else ()
    if max(shape, default=0) > MAX_INTEGER:
        raise ValueError(f"a dimension is above {MAX_INTEGER}")
    return dtype, shape, tensor_nbytes(dtype, shape)


def _metadata(text: bytes, position: int) -> tuple[dict[str, str], int]:
    """Parses the strings of the metadata, by key, and tells where they end."""
    found: dict[str, str] = {}
    while pair := _METADATA_PAIR.match(text, position):
        key = _string(pair[1])
        if key in found:
            raise _InvalidError(f"the key {quoted(key)} occurs twice in {METADATA}")
        if len(found) == MAX_METADATA:
            raise _InvalidError(f"{METADATA} has more than {MAX_METADATA} keys")
        found[key] = _string(pair[2])
        position = pair.end()
    return found, position


def _string(raw: bytes) -> str:
    """Decodes what stands between the quotes of a string."""
    if b"\\" in raw:
        return str(loads(b'"%b"' % raw, max_depth=0))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _InvalidError(f"its header has a string that is not UTF-8: {quoted(raw)}") from None


def _wrong_entry(text: bytes, position: int) -> str:
    """Says what is wrong where a tensor or the metadata was expected."""
    key = _ENTRY_KEY.match(text, position)
    if key is None:
        return f"its header is not valid JSON: the name of a tensor was expected at byte {position}"
    name = _string(key[1])
    return _NOT_STRINGS if name == METADATA else f"the tensor {quoted(name)} does not have the form {_FORM}"
