"""Finds the files that an ONNX model keeps tensors in, without executing or loading the model.

A strict reader of Protocol Buffers' wire format walks from the model to every tensor that it holds: the graph's
initializers, sparse ones, those of subgraphs and functions in the attributes of nodes, and training graphs. Only where
a tensor says that its data is external is anything decoded; all other fields are skipped. So is a message in which the
word "location" does not occur: a tensor with external data needs it.

Protocol Buffers merge a message field that occurs twice where one is expected, and take the last of several scalars.
No writer does that, so a file in which such a field occurs twice is refused rather than interpreted. A field of
another wire type than its number stands for is an unknown field, to Protocol Buffers and here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import BinaryIO

from hashbench.model.opened import name_of, opened
from hashbench.model.strict_json import MAX_INTEGER, quoted

MAX_STEPS = 1 << 22
"""The most fields that are looked at one by one, some ten seconds' worth. A run of plain numbers counts as one."""

_MAX_NESTING = 100  # of messages, as in Protocol Buffers itself
_MAX_ENTRY = 1 << 16  # bytes of an entry of a tensor's external data
_BUFFER = 1 << 20

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# From onnx.proto: the fields of each message that lead to tensors, and what they hold.
_MODEL, _GRAPH, _TRAINING, _FUNCTION = "ModelProto", "GraphProto", "TrainingInfoProto", "FunctionProto"
_NODE, _ATTRIBUTE, _SPARSE, _TENSOR = "NodeProto", "AttributeProto", "SparseTensorProto", "TensorProto"
_FIELDS: dict[str, dict[int, str]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
_ONCE = {(_MODEL, 7), (_TRAINING, 1), (_TRAINING, 2), (_ATTRIBUTE, 5), (_ATTRIBUTE, 6), (_ATTRIBUTE, 22)}
_ONCE |= {(_SPARSE, 1), (_SPARSE, 2)}

_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_DEFAULT, _EXTERNAL = 0, 1  # values of a data location
_KEY, _VALUE = 1, 2  # of an entry of external data
_LOCATION, _OFFSET, _LENGTH = "location", "offset", "length"
_MARK = _LOCATION.encode()

# Repeated numbers stand one by one, each with its field's number in front, and a model may have millions: a run of
# them is skipped at once. The tags are those of one byte, but for a tensor's data location. The repetition is not
# possessive: Python before 3.11.4 ends such a one in the middle of an item that does not match to its end.
_NUMBERS = re.compile(
    rb"(?:[\x08\x10\x18\x20\x28\x30\x38\x40\x48\x50\x58\x60\x68\x78][\x80-\xff]{0,9}[\x00-\x7f]"
    rb"|[\x0d\x15\x1d\x25\x2d\x35\x3d\x45\x4d\x55\x5d\x65\x6d\x75\x7d].{4}"
    rb"|[\x09\x11\x19\x21\x29\x31\x39\x41\x49\x51\x59\x61\x69\x71\x79].{8})+",
    re.DOTALL,
)


class OnnxError(ValueError):
    """A file is not a valid ONNX model, or names files that it must not; the message names it and says why."""


@dataclass(frozen=True)
class ExternalData:
    """Where a tensor of an ONNX model has its data, if not in the model's own file.

    Attributes:
        location: The file, relative to the model's folder, with slashes; it never leads out of the folder by name.
        offset: The first byte of the data.
        length: The number of its bytes; None if the model does not say.
    """

    location: str
    offset: int
    length: int | None


def external_data(file: str | os.PathLike[str] | BinaryIO) -> tuple[ExternalData, ...]:
    """Finds the data that an ONNX model keeps in other files.

    Args:
        file: The path of the `.onnx` file, or a seekable, buffered stream over the whole file.

    Returns:
        One item for each tensor with external data, in the order of the file.

    Raises:
        OSError: The file cannot be read.
        OnnxError: The file is not a sound ONNX model: it is not in the wire format, ends within a field, nests too
            deep, has too many fields or one twice that may occur once; or external data has no location, a location
            that is absolute or contains `..`, or an offset or length that is not a number.
    """
    with opened(file) as (stream, _):
        try:
            return tuple(_walk(stream))
        except _InvalidError as error:
            raise OnnxError(f"{name_of(file)} is not a valid ONNX model: {error}") from None


class _InvalidError(ValueError):
    """What is wrong, without the file's name."""


class _Wire:
    """Reads fields of Protocol Buffers' wire format from a file, one after another.

    Args:
        stream: The file.

    Attributes:
        size: The file's size.
        position: The place in the file of what is read next.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.size = stream.seek(0, os.SEEK_END)
        self.position = 0
        self._stream = stream
        self._begin = 0
        self._buffer = b""

    def tag(self, end: int) -> tuple[int, int]:
        """Reads the number and the wire type of the next field."""
        begin = self.position
        value = self.varint(end)
        number, kind = value >> 3, value & 7
        if not 1 <= number < 1 << 29 or self.position - begin > 5:
            raise _InvalidError(f"an invalid field number at byte {begin}")
        return number, kind

    def varint(self, end: int) -> int:
        at = self._at(min(10, end - self.position))
        if self.position < end and (first := self._buffer[at]) < 0x80:
            self.position += 1
            return first
        value = shift = 0
        for byte in self._buffer[at : min(at + 10, at + end - self.position)]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                self.position += shift // 7
                return value
        raise _InvalidError(f"an invalid number at byte {self.position}")

    def length(self, end: int) -> int:
        """Reads the length of a field of bytes, which must lie before `end`."""
        length = self.varint(end)
        if length > end - self.position:
            raise _InvalidError(f"a field at byte {self.position} of {length} bytes, with {end - self.position} left")
        return length

    def take(self, count: int) -> bytes:
        at = self._at(count)
        self.position += count
        return self._buffer[at : at + count]

    def may_contain(self, text: bytes, length: int) -> bool:
        """Whether a text may occur in the next bytes. It may where these are too many to look at."""
        if length > _BUFFER:
            return True
        at = self._at(length)
        return self._buffer.find(text, at, at + length) >= 0

    def skip(self, kind: int, end: int) -> None:
        """Skips the value of a field, and behind a number the fields of numbers that follow it."""
        if kind == _BYTES:
            length = self.length(end)
            self.position += length
            return
        if kind == _VARINT:
            self.varint(end)
        elif kind in (_FIXED32, _FIXED64):
            count = 4 if kind == _FIXED32 else 8
            if count > end - self.position:
                raise _InvalidError(f"a field at byte {self.position} is cut off")
            self.position += count
        else:
            raise _InvalidError(f"a field of the wire type {kind} at byte {self.position}")
        at = self._at(min(64, end - self.position))
        if run := _NUMBERS.match(self._buffer, at, min(len(self._buffer), at + end - self.position)):
            self.position += run.end() - at

    def _at(self, count: int) -> int:
        """The place in the buffer of the next bytes, of which it then has `count`."""
        at = self.position - self._begin
        if at > len(self._buffer) - count:
            self._stream.seek(self.position)
            self._begin, at = self.position, 0
            self._buffer = self._stream.read(max(_BUFFER, count))
            if len(self._buffer) < count:
                raise _InvalidError("it became shorter while it was read")
        return at


@dataclass
class _Message:
    """A message that is being read.

    Attributes:
        kind: Its name in onnx.proto.
        end: The place in the file at which it ends.
        seen: The numbers of its fields so far that may occur once.
        location: Of a tensor: where it says its data is.
        entries: Of a tensor: what it says of external data.
    """

    kind: str
    end: int
    seen: set[int] = field(default_factory=set)
    location: int = _DEFAULT
    entries: dict[str, str] = field(default_factory=dict)

    def once(self, number: int) -> None:
        if number in self.seen:
            raise _InvalidError(f"field {number} of a {self.kind} occurs twice")
        self.seen.add(number)


def _walk(stream: BinaryIO) -> Iterator[ExternalData]:
    wire = _Wire(stream)
    unfinished = [_Message(_MODEL, wire.size)]
    steps = 0
    while unfinished:
        message = unfinished[-1]
        if wire.position == message.end:
            unfinished.pop()
            if message.location == _EXTERNAL:
                yield _external(message.entries)
            continue
        if (steps := steps + 1) > MAX_STEPS:
            raise _InvalidError(f"it has more than {MAX_STEPS} fields")
        number, kind = wire.tag(message.end)
        inner = _FIELDS[message.kind].get(number)
        if inner is not None and kind == _BYTES:
            if (message.kind, number) in _ONCE:
                message.once(number)
            length = wire.length(message.end)
            if not wire.may_contain(_MARK, length):
                wire.position += length
                continue
            if len(unfinished) == _MAX_NESTING:
                raise _InvalidError(f"it nests messages more than {_MAX_NESTING} deep")
            unfinished.append(_Message(inner, wire.position + length))
        elif message.kind == _TENSOR and number == _DATA_LOCATION and kind == _VARINT:
            message.once(number)
            message.location = wire.varint(message.end)
            if message.location not in (_DEFAULT, _EXTERNAL):
                raise _InvalidError(f"a tensor's data location is {message.location}, not {_DEFAULT} or {_EXTERNAL}")
        elif message.kind == _TENSOR and number == _EXTERNAL_DATA and kind == _BYTES:
            key, value = _entry(wire, wire.length(message.end))
            if key in message.entries:
                raise _InvalidError(f"a tensor's external data has the key {quoted(key)} twice")
            if key in (_LOCATION, _OFFSET, _LENGTH):
                message.entries[key] = value
        else:
            wire.skip(kind, message.end)


def _entry(wire: _Wire, length: int) -> tuple[str, str]:
    """Reads one key and its value from a tensor's external data."""
    if length > _MAX_ENTRY:
        raise _InvalidError(f"an entry of a tensor's external data has {length} bytes; up to {_MAX_ENTRY} are accepted")
    message = _Message("StringStringEntryProto", wire.position + length)
    texts = {_KEY: "", _VALUE: ""}
    while wire.position < message.end:
        number, kind = wire.tag(message.end)
        if number not in texts or kind != _BYTES:
            wire.skip(kind, message.end)
            continue
        message.once(number)
        raw = wire.take(wire.length(message.end))
        try:
            texts[number] = raw.decode()
        except UnicodeDecodeError:
            raise _InvalidError(f"a tensor's external data is not UTF-8: {quoted(raw)}") from None
    return texts[_KEY], texts[_VALUE]


def _external(entries: dict[str, str]) -> ExternalData:
    """Checks the entries of a tensor's external data."""
    location = entries.get(_LOCATION, "")
    path = PureWindowsPath(location)  # a model is safe on every system: this knows both slashes, and drives
    if not path.parts or path.anchor or ".." in path.parts or "\0" in location:
        raise _InvalidError(f"the location {quoted(location)} of external data is not a path within the model's folder")
    return ExternalData(str(PurePosixPath(location)), _number(entries, _OFFSET) or 0, _number(entries, _LENGTH))


def _number(entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,16}", text) or int(text) > MAX_INTEGER:
        raise _InvalidError(f"the {key} {quoted(text)} of external data is not an integer from 0 to {MAX_INTEGER}")
    return int(text)
