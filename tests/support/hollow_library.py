"""Shared libraries without code, as the dynamic linker sees them."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from pathlib import Path

ADDRESS = 0x10000
"""Where they begin in memory, so that addresses are not offsets in the file."""


def library(needed: Sequence[str] = (), run_path: str | None = None, name: str | None = None) -> bytes:
    """A shared library of this machine without code, which needs others and is known by a name."""
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    dynamic = [(1, string(name)) for name in needed] + ([] if run_path is None else [(29, string(run_path))])
    dynamic += [] if name is None else [(14, string(name))]
    dynamic_at = 64 + 3 * 56
    symbols_at = dynamic_at + 16 * (len(dynamic) + 5)
    strings_at = symbols_at + 24
    dynamic += [(5, ADDRESS + strings_at), (6, ADDRESS + symbols_at), (10, len(strings)), (11, 24), (0, 0)]
    content = b"".join(struct.pack("<QQ", *entry) for entry in dynamic) + bytes(24) + strings

    machine = Path(sys.executable).read_bytes()[18:20]
    header = (
        b"\x7fELF\x02\x01\x01"
        + bytes(9)
        + struct.pack("<H2sIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
    )
    size = dynamic_at + len(content)
    segments = [
        (1, 6, 0, ADDRESS, ADDRESS, size, size, 0x10000),
        (2, 6, dynamic_at, ADDRESS + dynamic_at, ADDRESS + dynamic_at, 16 * len(dynamic), 16 * len(dynamic), 8),
        (0x6474E551, 6, 0, 0, 0, 0, 0, 16),  # no executable stack
    ]
    return header + b"".join(struct.pack("<IIQQQQQQ", *segment) for segment in segments) + content
