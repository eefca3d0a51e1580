"""The command `combine`, which makes a sharded model's manifest from what its ranks hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from hashbench.cli.messages import say
from hashbench.cli.options import PATH, quiet_option
from hashbench.cli.output_file import check_output, is_manifest
from hashbench.distributed import combine, read_part
from hashbench.hashing.atomic_write import write_atomically
from hashbench.model.report import summary


@click.command("combine")
@click.argument("parts", type=PATH, nargs=-1, required=True)
@click.option("-o", "--output", type=PATH, help="The manifest's file; default: standard output.")
@quiet_option
def combine_parts(parts: Sequence[Path], output: Path | None, quiet: bool) -> None:
    """Make the manifest of a sharded model from its parts.

    PARTS are files, one of each rank. A part is what `hashbench.distributed.part` makes of what one rank holds, written
    with its method `text`. Together they must be the whole model: a gap, an overlap, a missing rank or copies that
    differ are errors.

    Exit codes: 0 the manifest is written; 2 a part is not valid, or the parts are not a model.
    """
    if output:
        check_output(output, "manifest", is_manifest)
    made = combine(read_part(path) for path in parts)
    if output:
        write_atomically(output, made.text())
    else:
        sys.stdout.buffer.write(made.text())
    if not quiet:
        say(summary(made), err=not output)
