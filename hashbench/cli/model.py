"""The commands of models: `manifest` writes a model's manifest, and `verify` verifies a model against one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

import hashbench
from hashbench.cli.exit_codes import CHECK_FAILED
from hashbench.cli.options import ROOT, algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.cli.output_file import check_output
from hashbench.cli.progress import shown
from hashbench.hashing.atomic_write import write_atomically
from hashbench.model.disk import EXTRA, Extra
from hashbench.model.exclusions import DEFAULT, exactly
from hashbench.model.manifest import ManifestError, read_manifest
from hashbench.model.report import bounded, summary
from hashbench.model.sidecar import is_sidecar

_path = click.Path(path_type=Path)


@click.command("manifest")
@click.argument("model", type=_path)
@click.option("-o", "--output", type=_path, help="The manifest's file; default: standard output.")
@click.option("--leaves", "sidecar", type=_path, help="Also write the hashes of all chunks to this safetensors file.")
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    metavar="GLOB",
    help="Leave out these files of a folder, beside " + ", ".join(DEFAULT) + "; may be repeated.",
)
@click.option("--only-tensors", is_flag=True, help="Cover tensors alone, not the files that they are in, nor others.")
@click.option("--update", "old_path", type=_path, help="Take what is not --changed from this older manifest.")
@click.option("--changed", multiple=True, metavar="NAME", help="With --update: hash this too; may be repeated.")
@kernel_option
@device_option
@algorithm_option
@chunk_size_option
@click.pass_context
def write_manifest(
    context: click.Context,
    model: Path,
    output: Path | None,
    sidecar: Path | None,
    ignored: Sequence[str],
    only_tensors: bool,
    old_path: Path | None,
    changed: Sequence[str],
    kernel: str | None,
    device: str | None,
    algorithm: str,
    chunk_size: int,
) -> None:
    """Write the manifest of a model.

    Of a folder, it covers every byte of every file: tensors one by one, in formats that are known (safetensors,
    PyTorch, GGUF), and all else as files. Of an index, it covers the index and the files that it names; otherwise MODEL
    is one file. The same model has the same manifest on every machine and with every kernel.

    What is left out of a folder is recorded in the manifest: the files that --ignore names, what version control,
    downloads and file managers leave behind, and the manifest itself if it is written to the folder. A GLOB without a
    slash is a name at any depth; one with a slash, which may be its first character, is a path in the folder.

    With --update, tensors and files that are described as in the older manifest are not hashed again unless --changed
    names them: the older manifest is trusted for these.
    """
    if sidecar and old_path:
        raise click.UsageError("--leaves cannot be used with --update: what is not hashed has no leaf hashes")
    if changed and not old_path:
        raise click.UsageError("--changed can only be used with --update")
    if output == Path("-"):
        output = None
    if output and sidecar and output.resolve() == sidecar.resolve():
        raise click.UsageError(f"{output} cannot be both the manifest and the leaf hashes")
    older = read_manifest(old_path) if old_path else None
    ignored = [*ignored, *(older.exclusions if older else ())]
    if output and (inside := _path_in(model, output)):
        ignored.append(exactly(inside))
    if output:
        check_output(output, "manifest", _is_manifest, model)
    if sidecar:
        check_output(sidecar, "file of leaf hashes", is_sidecar, model)

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    notes: list[str] = []
    with shown(model.name) as progress:
        found = hashbench.manifest(
            model,
            algorithm=None if older and not given("algorithm") else algorithm,
            chunk_size=None if older and not given("chunk_size") else chunk_size,
            kernel=kernel,
            device=device,
            ignore=ignored,
            only_tensors=only_tensors,
            leaves=sidecar,
            older=older,
            changed=changed,
            notes=notes,
            progress=progress,
        )
    if old_path and (inside := _path_in(model, old_path)) and inside in {file.path for file in found.files}:
        raise click.UsageError(f"{old_path} would be a file of the model: overwrite it with -o, or move it")
    _say(notes)
    text = found.text()
    if output:
        write_atomically(output, text)
    else:
        sys.stdout.buffer.write(text)
    click.echo(summary(found), err=not output)
    if older:
        taken = sum(older.by_name.get(e.name) == e for e in found.entries if e.name not in changed)
        click.echo(f"hashed {len(found.entries) - taken:,}, taken from {old_path} {taken:,}", err=not output)


@click.command("verify")
@click.argument("model", type=_path)
@click.argument("manifest", type=_path)
@click.option("--root", type=ROOT, help="The manifest's root, from a trusted source.")
@click.option(
    "--extra",
    type=click.Choice(EXTRA),
    default="fail",
    show_default=True,
    help="What files mean that the manifest does not list.",
)
@click.option("--leaves", "sidecar", type=_path, help="The hashes of all chunks, to show which chunks are damaged.")
@kernel_option
@device_option
@click.pass_context
def verify_model(
    context: click.Context,
    model: Path,
    manifest: Path,
    root: bytes | None,
    extra: Extra,
    sidecar: Path | None,
    kernel: str | None,
    device: str | None,
) -> None:
    """Verify a model against its manifest.

    Every byte of MODEL that MANIFEST lists is hashed, where the manifest says that it lies: no file of the model is
    interpreted. Exit code 0: the model is what MANIFEST says. 1: it is not, and a line for each difference says what
    differs, is missing or is extra. With --root, a manifest with another root is refused, also with exit code 1.

    With --leaves, what differs is read again, and its line has the chunks that differ, and their bytes as [START:END],
    END excluded. The file is not read if nothing differs.
    """
    with shown(model.name) as progress:
        report = hashbench.verify(
            model, manifest, root=root, extra=extra, kernel=kernel, device=device, leaves=sidecar, progress=progress
        )
    for line in report.lines():
        click.echo(line)
    _say(report.notes)
    for problem in bounded(report.problems):
        click.echo(f"hashbench: {problem}", err=True)
    if not report.ok:
        context.exit(CHECK_FAILED)


def _say(notes: Sequence[str]) -> None:
    """Prints notes on one line of stderr each."""
    for note in bounded(notes):
        click.echo(" ".join(note.split()), err=True)


def _path_in(model: Path, path: Path) -> str | None:
    """The path of a file relative to the model's folder, with slashes; None if it is not in it."""
    if not model.is_dir():
        return None
    place, top = path.parent.resolve() / path.name, model.resolve()
    return place.relative_to(top).as_posix() if place.is_relative_to(top) else None


def _is_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except ManifestError:
        return False
    return True
