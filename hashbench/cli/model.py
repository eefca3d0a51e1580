"""The commands of models: `manifest` writes a model's manifest, and `verify` verifies a model against one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from click.core import ParameterSource

import hashbench
from hashbench.cli.exit_codes import CHECK_FAILED
from hashbench.cli.options import ROOT, algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.cli.output_file import check_output
from hashbench.cli.progress import shown
from hashbench.hashing.atomic_write import write_atomically
from hashbench.model.disk import NotHashedWarning
from hashbench.model.manifest import FileEntry, Manifest, ManifestError, read_manifest
from hashbench.model.report import summary
from hashbench.model.sidecar import is_sidecar

_path = click.Path(path_type=Path)


@click.command("manifest")
@click.argument("model", type=_path)
@click.option("-o", "--output", type=_path, help="The manifest's file; default: standard output.")
@click.option("--leaves", "sidecar", type=_path, help="Also write the hashes of all chunks to this safetensors file.")
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
    old_path: Path | None,
    changed: Sequence[str],
    kernel: str | None,
    device: str | None,
    algorithm: str,
    chunk_size: int,
) -> None:
    """Write the manifest of a model.

    It has the Merkle root of each tensor or file, and one root of all. MODEL is a safetensors file, a folder of
    safetensors shards with their index, a PyTorch checkpoint, or any folder of files, of which the manifest itself is
    not part. The same model has the same manifest on every machine and with every kernel.

    With --update, tensors and files with the same name, dtype, shape and size as in the older manifest are not hashed
    again unless --changed names them: the older manifest is trusted for these. If it is in a folder of files, it can
    only be overwritten.
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
    if output:
        check_output(output, "manifest", _is_manifest, model)
    if sidecar:
        check_output(sidecar, "file of leaf hashes", is_sidecar, model)

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    with shown(model.name) as progress, _warnings_shown():
        found = hashbench.manifest(
            model,
            algorithm=None if older and not given("algorithm") else algorithm,
            chunk_size=None if older and not given("chunk_size") else chunk_size,
            kernel=kernel,
            device=device,
            exclude=[output] if output else [],
            leaves=sidecar,
            older=older,
            changed=changed,
            progress=progress,
        )
    if old_path and _has_file(found, model, old_path):
        raise click.UsageError(f"{old_path} would be a file of the model: overwrite it with -o, or move it")
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
@click.option("--leaves", "sidecar", type=_path, help="The hashes of all chunks, to show which chunks are damaged.")
@kernel_option
@device_option
@click.pass_context
def verify_model(
    context: click.Context,
    model: Path,
    manifest: Path,
    root: bytes | None,
    sidecar: Path | None,
    kernel: str | None,
    device: str | None,
) -> None:
    """Verify a model against its manifest.

    Every tensor and file of MODEL is hashed. Exit code 0: it is what MANIFEST says. 1: it is not; one line for each
    difference says what differs, is missing or is extra, or one line says why the model is not valid. Shards that
    cannot be read are reported individually, and all others are verified. With --root, a manifest with another root is
    refused, also with exit code 1.

    With --leaves, what differs is read again, and its line has the chunks that differ, and their bytes as [START:END],
    END excluded. The file is not read if nothing differs.
    """
    with shown(model.name) as progress, _warnings_shown():
        report = hashbench.verify(
            model, manifest, root=root, kernel=kernel, device=device, leaves=sidecar, progress=progress
        )
    for line in report.lines():
        click.echo(line)
    for problem in report.problems:
        click.echo(f"hashbench: {problem}", err=True)
    if not report.ok:
        context.exit(CHECK_FAILED)


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Prints warnings on one line of stderr each."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NotHashedWarning)
        warnings.showwarning = lambda message, *_: click.echo(" ".join(str(message).split()), err=True)
        yield


def _has_file(found: Manifest, model: Path, path: Path) -> bool:
    """Whether a file is one of those in a model's folder."""
    if not model.is_dir() or model.resolve() not in path.resolve().parents:
        return False
    files = [entry.path for entry in found.entries if isinstance(entry, FileEntry)]
    return path.resolve() in {(model / name).resolve() for name in files}


def _is_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except ManifestError:
        return False
    return True
