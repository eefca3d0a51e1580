"""`hashbench derive`: the manifest of what a framework holds in memory, from that of the files and its leaf hashes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hashbench.cli.documents import manifest_from
from hashbench.cli.messages import say
from hashbench.cli.options import PATH, json_option, quiet_option
from hashbench.cli.output_file import check_output, is_manifest
from hashbench.hashing.atomic_write import write_atomically
from hashbench.model.layouts import derive, read_layout, shipped
from hashbench.model.report import bounded, summary
from hashbench.model.sidecar import opened_sidecar
from hashbench.model.strict_json import quoted
from hashbench.model.verdict import described


@click.command("derive")
@click.argument("manifest", type=PATH)
@click.option(
    "--leaves", type=PATH, required=True, help="The hashes of all chunks, as `hashbench manifest` wrote them."
)
@click.option(
    "--layout",
    type=PATH,
    required=True,
    help=f"The layout's file, or one of {', '.join(shipped())}.",
)
@click.option("--ranks", type=int, default=1, show_default=True, help="How many ranks the tensors are cut for.")
@click.option("--rank", type=int, default=0, show_default=True, help="Which rank's tensors, from 0.")
@click.option(
    "--kv-heads",
    type=click.IntRange(min=1),
    help="The model's number of key and value heads: num_key_value_heads in its config.json. The layouts that ship "
    "need it for several ranks.",
)
@click.option("-o", "--output", type=PATH, help="The derived manifest's file; default: standard output.")
@json_option
@quiet_option
def derive_manifest(
    manifest: Path,
    leaves: Path,
    layout: Path,
    ranks: int,
    rank: int,
    kv_heads: int | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Derive the manifest of a model as a framework holds it.

    Serving frameworks fuse tensors, cut them into a shard for each rank, and pad them. The layout says how, and the
    hashes of the chunks in MANIFEST's files, in another order, give the roots of the tensors in memory: no weights are
    read. The derived manifest can be trusted as much as MANIFEST, which may be -: standard input.

    A tensor whose boundaries are within a chunk cannot be derived; nor can one that is quantised while it is loaded.
    Each is named on stderr, and is not in the derived manifest. Smaller chunks may help.

    Exit codes: 0 the manifest is written; 2 the files or the call are not usable, or nothing can be derived.
    """
    if as_json and not output:
        raise click.UsageError("--json needs -o: without it, the manifest is printed, which is JSON too")
    if output:
        check_output(output, "manifest", is_manifest, manifest)
    expected = manifest_from(manifest)
    with opened_sidecar(leaves, expected) as sidecar:
        found = derive(expected, sidecar, read_layout(layout), ranks, rank, kv_heads)
    lost = [f"not derived: {quoted(name)}: {reason}" for name, reason in found.refused.items()]
    if not found.manifest.entries:
        raise click.ClickException(f"nothing can be derived; {lost[0]}")
    text = found.manifest.text()
    if output:
        write_atomically(output, text)
    else:
        sys.stdout.buffer.write(text)
    if as_json:
        content = {"root": found.manifest.root.hex(), **described(found.manifest)}
        click.echo(json.dumps({**content, "not_derived": dict(found.refused), "unused": list(found.unused)}, indent=2))
        return
    for line in bounded(lost):
        say(line, err=True)
    if found.unused:
        more = f" and {len(found.unused) - 1:,} more" if len(found.unused) > 1 else ""
        say(f"not in the layout: {quoted(found.unused[0])}{more}", err=True)
    if not quiet:
        say(summary(found.manifest), err=not output)
