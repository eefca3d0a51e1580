"""Sizes in bytes as people write them: "4KiB", "4096", "1.5GB"."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import click

_BINARY = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DECIMAL = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {"": 1, "b": 1} | {name.lower(): size for name, size in (_BINARY | _DECIMAL).items()}
_SIZE = re.compile(r"(-?\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """The bytes that `text` says: a number, with a unit or alone, in any case.

    Raises:
        ValueError: it says no whole number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    size = Decimal(match[1]) * _UNITS[match[2].lower()] if match and match[2].lower() in _UNITS else None
    if size is None or size != int(size):
        units = ", ".join(("B", *_BINARY, *_DECIMAL))
        raise ValueError(f"{text!r} is not a size: accepted is a number of bytes, or a number with one of {units}")
    return int(size)


def format_size(nbytes: int) -> str:
    """`nbytes` in the largest binary unit that it is a whole number of, so that `parse_size` gives it back."""
    for unit, size in reversed(_BINARY.items()):
        if nbytes and nbytes % size == 0:
            return f"{nbytes // size}{unit}"
    return str(nbytes)


class SizeType(click.ParamType):  # type: ignore[type-arg]  # not every click gives it any
    """A command line's option in bytes, written as `parse_size` reads it."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The option's value in bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = SizeType()
