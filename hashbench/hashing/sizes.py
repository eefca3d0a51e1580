"""Sizes in bytes as people write them: "4KiB", "4096", "1.5GB"."""

from __future__ import annotations

import re
from decimal import Decimal

_BINARY = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {"": 1, "b": 1} | {name.lower(): size for name, size in (_BINARY | _DECIMAL).items()}
_SIZE = re.compile(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """The bytes of a size: a number, with or without a unit, in upper or lower case.

    Raises:
        ValueError: `text` is not a size, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    size = Decimal(match[1]) * _UNITS[match[2].lower()] if match and match[2].lower() in _UNITS else None
    if size is None or size != int(size):
        units = ", ".join(("B", *_BINARY, *_DECIMAL))
        raise ValueError(f"{text!r} is not a size: write a number of bytes, or a number with one of {units}")
    return int(size)


def format_size(nbytes: int) -> str:
    """`nbytes` in the largest binary unit that divides it, so that `parse_size` returns the same number."""
    for unit, size in reversed(_BINARY.items()):
        if nbytes and nbytes % size == 0:
            return f"{nbytes // size}{unit}"
    return str(nbytes)
