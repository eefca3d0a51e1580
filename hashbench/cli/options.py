"""The options of every command that hashes: with what, and how."""

from __future__ import annotations

import re

import click

from hashbench.hashing.sizes import SIZE
from hashbench.kernels import ALGORITHMS
from hashbench.model.strict_json import quoted


class _RootType(click.ParamType):  # type: ignore[type-arg]  # not every click gives it any
    """An option in hexadecimal digits."""

    name = "hex"

    def convert(self, value: str | bytes, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """The option's bytes."""
        if isinstance(value, bytes):
            return value
        if not re.fullmatch(r"([0-9a-fA-F]{2})+", value):
            self.fail(f"{quoted(value)} is no root: accepted are hexadecimal digits", param, ctx)
        return bytes.fromhex(value)


ROOT = _RootType()
"""The root of a model, which is trusted."""

kernel_option = click.option("--kernel", help="Kernel to hash with; the fastest available unless given.")
device_option = click.option("--device", help="Device id, as `hashbench devices` lists it.")
algorithm_option = click.option("--algorithm", type=click.Choice(list(ALGORITHMS)), default="sha256", show_default=True)
chunk_size_option = click.option(
    "--chunk-size",
    type=SIZE,
    default="4KiB",
    show_default=True,
    help="Bytes of a leaf: a multiple of 64, up to 256MiB.",
)
