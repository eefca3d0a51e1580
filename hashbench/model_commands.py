"""The commands that write a model's manifest, `manifest`, and that hold a model against one, `verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import click
import numpy as np
from click.core import ParameterSource

from hashbench import selection
from hashbench.bench_commands import CHECK_FAILED
from hashbench.checkpoints import OpenModel, Part, open_model
from hashbench.hash_options import algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.manifest import Entry, Manifest, ManifestError, read_manifest
from hashbench.progress import shown
from hashbench.range_hasher import RangeHasher
from hashbench.records import write_atomically
from hashbench.sidecar import Sidecar, SidecarWriter, is_sidecar
from hashbench.strict_json import quoted
from hashbench.verify import Report, compare, runs, summary

_path = click.Path(path_type=Path)
_SHOWN_IGNORED = 4  # names of what is ignored


@click.command("manifest")
@click.argument("model", type=_path)
@click.option("-o", "--output", type=_path, help="The manifest's file; standard output unless given.")
@click.option("--leaves", "sidecar", type=_path, help="Write the hashes of all chunks to this file too (safetensors).")
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
    """Write the manifest of MODEL: the Merkle root of each tensor, and the root of all.

    MODEL is a safetensors file, a folder of safetensors shards with their index, a PyTorch checkpoint, or any folder of
    files, of which the manifest itself is none. The same model gives the same bytes on every machine and kernel.

    With --update, tensors and files whose name, dtype, shape and size are those of the older manifest are not hashed
    again unless --changed names them: its word is taken for them.
    """
    if sidecar and old_path:
        raise click.UsageError("--leaves does not go with --update: what is not hashed has no leaf hashes")
    if changed and not old_path:
        raise click.UsageError("--changed goes with --update alone")
    old = read_manifest(old_path) if old_path else None
    if old:
        for name, given, its in (("algorithm", algorithm, old.algorithm), ("chunk_size", chunk_size, old.chunk_size)):
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT and given != its:
                raise click.UsageError(f"the older manifest's {name.replace('_', ' ')} is {its}, not {given}")
        algorithm, chunk_size = old.algorithm, old.chunk_size

    if output == Path("-"):
        output = None
    if output and sidecar and output.resolve() == sidecar.resolve():
        raise click.UsageError(f"{output} cannot be both the manifest and the leaf hashes")
    if sidecar and model.is_dir() and model.resolve() in sidecar.resolve().parents:
        raise click.UsageError(f"{sidecar} would be a file of the model: it must lie outside of {model}")
    for path, is_ours in ((output, _is_manifest), (sidecar, is_sidecar)):
        if path:
            _check_place(path, model, is_ours)
    opened = _open(model, output, old_path)
    taken = _unchanged(opened.parts, old, changed) if old else {}
    hasher = RangeHasher(selection.choose(kernel, device, algorithm), chunk_size)
    shapes = [(part.name, part.nbytes) for part in opened.parts]
    with SidecarWriter(sidecar, shapes, algorithm, chunk_size) if sidecar else nullcontext() as leaves:
        found = _manifest_of(opened, model, hasher, taken, leaves)
        text = found.text()
        if leaves:
            leaves.finish(found.root)
    if output:
        write_atomically(output, text)
    else:
        sys.stdout.buffer.write(text)
    click.echo(summary(found), err=not output)
    if old:
        click.echo(f"hashed {len(found.entries) - len(taken):,}, taken from {old_path} {len(taken):,}", err=not output)


@click.command("verify")
@click.argument("model", type=_path)
@click.argument("manifest", type=_path)
@click.option("--leaves", "sidecar", type=_path, help="The hashes of all chunks, to tell which of them are damaged.")
@kernel_option
@device_option
@click.pass_context
def verify_model(
    context: click.Context, model: Path, manifest: Path, sidecar: Path | None, kernel: str | None, device: str | None
) -> None:
    """Hold MODEL against its MANIFEST: every tensor and file is hashed.

    Exit code 0: it is what the manifest says. 1: it is not; a line each tells what differs, is missing or is extra.
    With --leaves, what differs is read again, and the line tells which chunks do, and their bytes as [START:END], END
    excluded.
    """
    expected = read_manifest(manifest)
    leaves = Sidecar(sidecar, expected) if sidecar else None
    opened = _open(model, manifest, sidecar)
    hasher = RangeHasher(selection.choose(kernel, device, expected.algorithm), expected.chunk_size)
    report = compare(expected, _manifest_of(opened, model, hasher))
    if leaves:
        report = _located(report, opened, model, hasher, leaves)
    click.echo(str(report))
    if not report.ok:
        context.exit(CHECK_FAILED)


def _manifest_of(
    opened: OpenModel,
    model: Path,
    hasher: RangeHasher,
    taken: Mapping[str, Entry] = MappingProxyType({}),
    leaves: SidecarWriter | None = None,
) -> Manifest:
    """The manifest of a model, whose entries are those that were `taken` where they were; all others are hashed."""
    hashed = [part for part in opened.parts if part.name not in taken]
    with shown(model.name, sum(part.nbytes for part in hashed)) as progress:
        roots = hasher.roots([part.source for part in hashed], progress, leaves.add if leaves else None)
    entries = [part.entry(root) for part, root in zip(hashed, roots, strict=True)]
    return Manifest(hasher.kernel.algorithm.name, hasher.chunk_size, (*entries, *taken.values()))


def _unchanged(parts: Sequence[Part], old: Manifest, changed: Sequence[str]) -> dict[str, Entry]:
    """The entries of an older manifest that are taken for those of a model's parts.

    Raises:
        UsageError: something is said to have changed that the model does not have.
    """
    now = {part.name: part for part in parts}
    for name in changed:
        if name not in now:
            raise click.UsageError(f"--changed {quoted(name)}: the model has no such tensor or file")
    kept = now.keys() - set(changed)
    alike = (entry for entry in old.entries if entry.name in kept and now[entry.name].entry(entry.root) == entry)
    return {entry.name: entry for entry in alike}


def _located(report: Report, opened: OpenModel, model: Path, hasher: RangeHasher, sidecar: Sidecar) -> Report:
    """The report with the chunks that are damaged, after what differs in its bytes has been read again."""
    names = report.damaged
    parts = [part for part in opened.parts if part.name in names]
    expected = [sidecar.leaves(part.name) for part in parts]
    damaged = [  # until shown otherwise, and so where one of both has no such chunk
        np.ones(max(len(leaves), -(-part.nbytes // hasher.chunk_size)), np.bool_)
        for part, leaves in zip(parts, expected, strict=True)
    ]
    with shown(model.name, sum(part.nbytes for part in parts)) as progress:
        for found in hasher.leaves([part.source for part in parts], progress):
            there = expected[found.source][found.first : found.first + len(found.hashes)]
            differ = (there != found.hashes[: len(there)]).any(axis=1)
            damaged[found.source][found.first : found.first + len(there)] = differ
    return replace(report, damage={part.name: runs(chunks) for part, chunks in zip(parts, damaged, strict=True)})


def _open(model: Path, *without: Path | None) -> OpenModel:
    """The model, but for the files of it that are its manifest or sidecar; tells what else of it is left out."""
    opened = open_model(model, [path for path in without if path])
    if opened.ignored:
        more = ", ..." if len(opened.ignored) > _SHOWN_IGNORED else ""
        names = ", ".join(map(quoted, opened.ignored[:_SHOWN_IGNORED])) + more
        click.echo(f"{model}: {len(opened.ignored):,} values are no tensors, and not hashed: {names}", err=True)
    return opened


def _check_place(path: Path, model: Path, is_ours: Callable[[Path], bool]) -> None:
    """Checks, before anything is hashed, that a file can be written, and that none of the model's is overwritten.

    Args:
        path: the file.
        model: the model's file or folder.
        is_ours: whether a file is an older one of the same kind.

    Raises:
        UsageError: it is not so.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not path.is_file()):
        raise click.UsageError(f"{path} cannot be written: accepted is a file in a folder that can be written to")
    home = model.resolve() if model.is_dir() else model.resolve().parent
    if path.exists() and home in path.resolve().parents and not is_ours(path):
        raise click.UsageError(f"{path} may be a file of the model, and is not overwritten")


def _is_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except ManifestError:
        return False
    return True
