"""Protocol Buffers' wire format, written byte by byte."""

from __future__ import annotations

VARINT, FIXED64, BYTES, GROUP, FIXED32 = 0, 1, 2, 3, 5


def varint(value: int, size: int = 1) -> bytes:
    """A number in at least `size` bytes; the shortest form is the one that writers use."""
    out = bytearray()
    while value >= 0x80 or len(out) < size - 1:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def number(field: int, value: int) -> bytes:
    return tag(field, VARINT) + varint(value)


def message(field: int, *parts: bytes | str) -> bytes:
    """A field of bytes, of a string, or of a message made of its fields."""
    content = b"".join(part.encode() if isinstance(part, str) else part for part in parts)
    return tag(field, BYTES) + varint(len(content)) + content
