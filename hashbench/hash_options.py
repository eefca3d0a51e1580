"""The options of every command that hashes: with what, and how."""

from __future__ import annotations

import click

from hashbench.kernels import ALGORITHMS
from hashbench.sizes import SIZE

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
