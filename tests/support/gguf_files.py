"""GGUF files made byte by byte, as no writer would make them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass


def string(text: bytes | str) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(key: bytes | str, kind: int, raw: bytes) -> bytes:
    """One metadata key, the number of its value's type, and the value's bytes."""
    return string(key) + struct.pack("<I", kind) + raw


def array(kind: int, count: int, raw: bytes) -> bytes:
    """The bytes of an array, which is a value of type 9."""
    return struct.pack("<IQ", kind, count) + raw


@dataclass(frozen=True)
class Tensor:
    """A row of the table of tensors; its dimensions are in ggml's order, the fastest-varying one first."""

    name: bytes | str
    dimensions: Sequence[int] = (1,)
    type: int = 24  # I8
    offset: int = 0

    def row(self) -> bytes:
        count = len(self.dimensions)
        return string(self.name) + struct.pack(f"<I{count}QIQ", count, *self.dimensions, self.type, self.offset)


def header(
    tensors: Sequence[Tensor],
    metadata: Sequence[bytes] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    tensor_count: int | None = None,
    key_count: int | None = None,
) -> bytes:
    """All that stands in front of the padding."""
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(metadata) if key_count is None else key_count,
    )
    rows = b"".join(tensor.row() for tensor in tensors)
    return magic + struct.pack("<IQQ", version, *counts) + b"".join(metadata) + rows


def gguf_file(head: bytes, data: bytes = b"", alignment: int = 32) -> bytes:
    return head + bytes(-len(head) % alignment) + data
