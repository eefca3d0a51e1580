"""The commands that write a model's manifest, `manifest`, and that hold a model against one, `verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import click
import numpy as np
from click.core import ParameterSource

from hashbench.cli.exit_codes import CHECK_FAILED
from hashbench.cli.options import ROOT, algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.cli.progress import shown
from hashbench.hashing import selection
from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.file_range import FileRange
from hashbench.hashing.files import ChangedWhileReadError
from hashbench.hashing.range_hasher import Leaves, RangeHasher
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.checkpoints import CheckpointError, OpenModel, Part, open_model
from hashbench.model.manifest import Entry, Manifest, ManifestError, read_manifest
from hashbench.model.report import Report, compare, runs, summary
from hashbench.model.safetensors_header import SafetensorsError
from hashbench.model.sidecar import Sidecar, SidecarError, SidecarWriter, is_sidecar
from hashbench.model.strict_json import quoted

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
    again unless --changed names them: its word is taken for them. Within a folder of files the older manifest can only
    be the one that is written anew.
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
    if sidecar:
        _check_outside(sidecar, model)
    for path, is_ours in ((output, _is_manifest), (sidecar, is_sidecar)):
        if path:
            _check_place(path, model, is_ours)
    opened = _open(model, output)
    files = {part.source.path for part in opened.parts if part.dtype is None and isinstance(part.source, FileRange)}
    if old_path and old_path.resolve() in files:
        raise click.UsageError(
            f"{old_path} would be a file of the model: give it to -o too, to be written anew, or move it elsewhere"
        )
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
@click.option("--root", type=ROOT, help="The manifest's root, from a source that is trusted.")
@click.option("--leaves", "sidecar", type=_path, help="The hashes of all chunks, to tell which of them are damaged.")
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
    """Hold MODEL against its MANIFEST: every tensor and file is hashed.

    Exit code 0: it is what the manifest says. 1: it is not; a line each tells what differs, is missing or is extra, or
    one line why it is no sound model at all. Shards that cannot be read are told one by one, and all others verified.
    With --root, a manifest of another root is refused, with exit code 1 too.

    With --leaves, what differs is read again, and the line tells which chunks do, and their bytes as [START:END], END
    excluded. They are not read where nothing differs.
    """
    expected = read_manifest(manifest)
    if root is not None and root != expected.root:
        raise VerificationError(f"{manifest} is not trusted: its root is {expected.root.hex()}, not {root.hex()}")
    if sidecar:
        _check_outside(sidecar, model)
    try:
        opened = _open(model, manifest, tolerant=True)
    except (CheckpointError, SafetensorsError) as error:
        raise VerificationError(str(error)) from None
    hasher = RangeHasher(selection.choose(kernel, device, expected.algorithm), expected.chunk_size)
    report = compare(expected, _manifest_of(opened, model, hasher))
    unlocated = None
    if sidecar and not report.ok:
        try:
            report = _located(report, opened, model, hasher, Sidecar(sidecar, expected))
        except (OSError, SafetensorsError, SidecarError, ChangedWhileReadError) as error:
            unlocated = error
    if not (opened.damaged and report.ok):  # which it is where the manifest has nothing of what is damaged
        click.echo(str(report))
    for reason in opened.damaged:
        click.echo(f"hashbench: {' '.join(reason.split())}", err=True)
    if unlocated:
        raise VerificationError(f"which chunks differ is not known: {unlocated}")
    if opened.damaged or not report.ok:
        context.exit(CHECK_FAILED)


def _manifest_of(
    opened: OpenModel,
    model: Path,
    hasher: RangeHasher,
    taken: Mapping[str, Entry] = MappingProxyType({}),
    leaves: SidecarWriter | None = None,
) -> Manifest:
    """The manifest of a model, whose entries are those that were `taken` where they were; all others are hashed, and
    those that have the same bytes once.
    """
    hashed = [part for part in opened.parts if part.name not in taken]
    at: dict[Hashable, list[int]] = {}
    for number, part in enumerate(hashed):
        at.setdefault(part.place, []).append(number)
    sharing = list(at.values())
    sources = [hashed[numbers[0]].source for numbers in sharing]
    with shown(model.name, sum(source.nbytes for source in sources)) as progress:
        write = partial(_write, leaves, sharing) if leaves else None
        roots = hasher.roots([*sources, *opened.watched], progress, write)[: len(sources)]
    entries = [hashed[number].entry(root) for numbers, root in zip(sharing, roots, strict=True) for number in numbers]
    return Manifest(hasher.kernel.algorithm.name, hasher.chunk_size, (*entries, *taken.values()))


def _write(leaves: SidecarWriter, sharing: Sequence[Sequence[int]], found: Leaves) -> None:
    """Writes leaf hashes for each of the entries that share their source."""
    for number in sharing[found.source]:
        leaves.add(replace(found, source=number))


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


def _open(model: Path, *without: Path | None, tolerant: bool = False) -> OpenModel:
    """The model, but for the files of it that are its manifest or sidecar; tells what else of it is left out."""
    opened = open_model(model, [path for path in without if path], tolerant=tolerant)
    if opened.ignored:
        more = ", ..." if len(opened.ignored) > _SHOWN_IGNORED else ""
        names = ", ".join(map(quoted, opened.ignored[:_SHOWN_IGNORED])) + more
        click.echo(f"{model}: {len(opened.ignored):,} values are no tensors, and not hashed: {names}", err=True)
    return opened


def _check_place(path: Path, model: Path, is_ours: Callable[[Path], bool]) -> None:
    """Checks, before anything is hashed, that a file can be written, and that nothing is overwritten but an older one.

    Args:
        path: the file.
        model: what is read meanwhile.
        is_ours: whether a file is an older one of the same kind.

    Raises:
        UsageError: it is not so.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not path.is_file()):
        raise click.UsageError(f"{path} cannot be written: accepted is a file in a folder that can be written to")
    if path.exists() and (path.samefile(model) or not is_ours(path)):
        raise click.UsageError(f"{path} is there and no older one of its kind: it is not overwritten")


def _check_outside(sidecar: Path, model: Path) -> None:
    """Checks that the leaf hashes are no file of a model's folder.

    Raises:
        UsageError: they are, or would be.
    """
    if model.is_dir() and model.resolve() in (sidecar.parent.resolve() / sidecar.name).parents:
        raise click.UsageError(f"{sidecar} would be a file of the model: it must lie outside of {model}")


def _is_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except ManifestError:
        return False
    return True
