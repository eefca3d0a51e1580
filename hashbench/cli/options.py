"""Options that several commands share, and their types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from hashbench.hashing.sizes import parse_size
from hashbench.kernels import ALGORITHMS
from hashbench.model.strict_json import quoted


class _SizeType(click.ParamType):  # type: ignore[type-arg]  # generic only in some versions of click
    """A size in bytes, as `parse_size` reads it."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The size in bytes."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _HexType(click.ParamType):  # type: ignore[type-arg]  # generic only in some versions of click
    """Bytes in hexadecimal digits.

    Args:
        what: what they are, for errors.
    """

    name = "hex"

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(self, value: str | bytes, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """The bytes."""
        if isinstance(value, bytes):
            return value
        if not re.fullmatch(r"([0-9a-fA-F]{2})+", value):
            self.fail(f"{quoted(value)} is not {self._what}: write hexadecimal digits", param, ctx)
        return bytes.fromhex(value)


class _PathType(click.Path):
    """A path, which is not empty: an unset variable of a script must not mean the working directory."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        if value == "":
            self.fail("an empty path is not accepted: write . for the working directory", param, ctx)
        return super().convert(value, param, ctx)


PATH = _PathType(path_type=Path)
"""A path of any kind."""

SIZE = _SizeType()
"""A size in bytes, such as 4KiB."""

ROOT = _HexType("a root")
"""The trusted root of a model."""

SALT = _HexType("a salt")
"""A salt of blocks."""

kernel_option = click.option(
    "--kernel", help="The kernel; default: hashlib for less than 640 MiB, else the fastest available."
)
device_option = click.option("--device", help="The device's id, as `hashbench devices` lists it.")
devices_option = click.option(
    "--device",
    help="The device's id, as `hashbench devices` lists it; several, with commas, or all for all GPUs.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document instead of text.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print errors alone.")
algorithm_option = click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), default="sha256", show_default=True)
chunk_size_option = click.option(
    "--chunk-size",
    type=SIZE,
    default="4KiB",
    show_default=True,
    help="Bytes of a leaf: a multiple of 64, up to 256MiB.",
)
