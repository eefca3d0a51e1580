"""The commands of models: `manifest` writes a model's manifest, and `verify` verifies a model against one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import hashbench
from hashbench.cli.documents import STANDARD_INPUT, manifest_from
from hashbench.cli.exit_codes import CHECK_FAILED, UNUSABLE
from hashbench.cli.messages import say
from hashbench.cli.options import (
    PATH,
    ROOT,
    algorithm_option,
    chunk_size_option,
    devices_option,
    json_option,
    kernel_option,
    quiet_option,
)
from hashbench.cli.output_file import check_output, is_manifest
from hashbench.cli.progress import shown
from hashbench.cli.signing import SIGNATURE_VERDICT, Trusted, signature_verdict
from hashbench.cli.team import speaks, team
from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.hasher import Progress
from hashbench.hashing.shared import ALL
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.disk import EXTRA, Extra
from hashbench.model.exclusions import DEFAULT, exactly
from hashbench.model.report import Report, bounded, summary
from hashbench.model.sidecar import is_sidecar
from hashbench.model.verdict import KIND, described, failure, verdict

if TYPE_CHECKING:
    from hashbench.trust.signatures import SignedReport


@click.command("manifest")
@click.argument("model", type=PATH)
@click.option("-o", "--output", type=PATH, help="The manifest's file; default: standard output.")
@click.option("--leaves", "sidecar", type=PATH, help="Also write the hashes of all chunks to this safetensors file.")
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    metavar="GLOB",
    help="Leave out these files of a folder, beside " + ", ".join(DEFAULT) + "; may be repeated.",
)
@click.option("--only-tensors", is_flag=True, help="Cover tensors alone, not the files that they are in, nor others.")
@click.option("--update", "old_path", type=PATH, help="Take what is not --changed from this older manifest.")
@click.option("--changed", multiple=True, metavar="NAME", help="With --update: hash this too; may be repeated.")
@json_option
@quiet_option
@kernel_option
@devices_option
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
    as_json: bool,
    quiet: bool,
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

    Started by torchrun, several processes share the hashing of a model that all of them see; one writes the manifest.

    With --update, tensors and files that are described as in the older manifest are not hashed again unless --changed
    names them: the older manifest is trusted for these.

    With --json, what is printed besides the manifest is a JSON document, which needs -o.

    Exit codes: 0 the manifest is written; 2 the model or the call is not usable.
    """
    if sidecar and old_path:
        raise click.UsageError("--leaves cannot be used with --update: what is not hashed has no leaf hashes")
    if changed and not old_path:
        raise click.UsageError("--changed can only be used with --update")
    if output == Path("-"):
        output = None
    if output and sidecar and output.resolve() == sidecar.resolve():
        raise click.UsageError(f"{output} cannot be both the manifest and the leaf hashes")
    if as_json and not output:
        raise click.UsageError("--json needs -o: without it, the manifest is printed, which is JSON too")
    older = manifest_from(old_path) if old_path else None
    written = [output] if output else _redirected()
    inside = [path for path in (_path_in(model, file) for file in written) if path]
    ignored = [*ignored, *(older.exclusions if older else ()), *map(exactly, inside)]
    if output:
        check_output(output, "manifest", is_manifest, model)
    if sidecar:
        check_output(sidecar, "file of leaf hashes", is_sidecar, model)

    def given(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    notes: list[str] = []
    with team() as processes, shown(str(model.absolute()), on=speaks(processes)) as progress:
        found = hashbench.manifest(
            model,
            algorithm=None if older and not given("algorithm") else algorithm,
            chunk_size=None if older and not given("chunk_size") else chunk_size,
            kernel=kernel,
            device=device or (ALL if processes else None),
            ignore=ignored,
            only_tensors=only_tensors,
            leaves=sidecar,
            older=older,
            changed=changed,
            notes=notes,
            progress=progress,
            team=processes,
        )
    if not speaks(processes):
        return
    if old_path and _path_in(model, old_path) in {file.path for file in found.files}:
        raise click.UsageError(f"{old_path} would be a file of the model: overwrite it with -o, or move it")
    text = found.text()
    if output:
        write_atomically(output, text)
    else:
        sys.stdout.buffer.write(text)
    if as_json:
        click.echo(json.dumps({"root": found.root.hex(), **described(found), "notes": notes}, indent=2))
        return
    if quiet:
        return
    _say(notes)
    say(summary(found), err=not output)
    if older:
        taken = sum(older.by_name.get(e.name) == e for e in found.entries if e.name not in changed)
        say(f"hashed {len(found.entries) - taken:,}, taken from {old_path} {taken:,}", err=not output)


@click.command("verify")
@click.argument("model", type=PATH)
@click.argument("manifest", type=PATH, required=False)
@click.option("--root", type=ROOT, help="The manifest's root, from a trusted source.")
@click.option(
    "--extra",
    type=click.Choice(EXTRA),
    default="fail",
    show_default=True,
    help="What files mean that the manifest does not list.",
)
@click.option("--leaves", "sidecar", type=PATH, help="The hashes of all chunks, to show which chunks are damaged.")
@click.option("--signature", type=PATH, help="The model's signature (OpenSSF Model Signing).")
@click.option("--public-key", type=PATH, help="With --signature: the signer's public key in PEM.")
@click.option("--certificate-chain", "chain", type=PATH, help="With --signature: the trusted root certificates in PEM.")
@click.option("--identity", help="With --signature: the signer's identity, which Sigstore vouches for.")
@click.option("--identity-provider", "provider", help="With --signature: the URL of the identity's provider.")
@click.option("--trust-root", type=PATH, help="With --identity: a file with Sigstore's roots; default: built in.")
@click.option(
    "--fetch-trust-root", "fetch", is_flag=True, help="With --identity: get Sigstore's roots from the network."
)
@click.option(
    "--fs-verity", metavar="LIST", help="A file of the model with the digests by which the kernel protects all others."
)
@json_option
@quiet_option
@kernel_option
@devices_option
@click.pass_context
def verify_model(
    context: click.Context,
    model: Path,
    manifest: Path | None,
    root: bytes | None,
    extra: Extra,
    sidecar: Path | None,
    signature: Path | None,
    public_key: Path | None,
    chain: Path | None,
    identity: str | None,
    provider: str | None,
    trust_root: Path | None,
    fetch: bool,
    fs_verity: str | None,
    as_json: bool,
    quiet: bool,
    kernel: str | None,
    device: str | None,
) -> None:
    """Verify a model against its manifest, or its signature.

    Every byte of MODEL that MANIFEST lists is hashed, where the manifest says that it lies: no file of the model is
    interpreted. A line for each difference says what differs, is missing or is extra. With --root, a manifest with
    another root is refused. MANIFEST may be -, which is standard input.

    Started by torchrun, several processes share the hashing of a model that all of them see; one writes the verdict.

    With --leaves, what differs is read again, and its line has the chunks that differ, and their bytes as [START:END],
    END excluded. The file is not read if nothing differs.

    What cannot be read has a line of its own, and all else is verified.

    With --signature, the signature is verified first, by --public-key, --certificate-chain or --identity. It says which
    of the files is MANIFEST, if it was made by `hashbench sign`. Files that are signed but not in MANIFEST, or all if
    there is none, are verified by the SHA-256 in the signature. What it does not cover is printed. Nothing is fetched
    from the network but with --fetch-trust-root.

    With --fs-verity, LIST is a file of MODEL with lines of `hashbench digest --format fs-verity`. It is verified, and
    the other files are not read: the kernel must check every read of them against the digests in LIST.

    Exit codes: 0 the model is what MANIFEST says; 1 it is not, or MANIFEST has another root, or the signature is not
    valid; 2 there is no verdict: nothing is found to differ, but some of the model cannot be read, or MANIFEST or the
    call is not usable.
    """
    known: dict[str, Any] = {"root": root, "extra": extra, "kernel": kernel, "leaves": sidecar}
    trusted = Trusted(public_key, chain, identity, provider, trust_root, fetch)
    if signature is None and trusted != Trusted(None, None, None, None, None, False):
        raise click.UsageError("--public-key, --certificate-chain, --identity and their options are for --signature")
    if signature is None and manifest is None:
        raise click.UsageError("verify needs a MANIFEST or a --signature")
    if fs_verity is not None:
        if signature is not None:
            raise click.UsageError("--fs-verity and --signature are not used together: verify the signature first")
        known["fs_verity"] = fs_verity
    report: Report | SignedReport
    try:
        with team() as processes, shown(str(model.absolute()), on=speaks(processes)) as progress:
            if signature is not None:
                report = _verify_signed(model, signature, trusted, manifest, known | {"device": device}, progress)
            else:
                assert manifest is not None
                known |= {"device": device or (ALL if processes else None), "team": processes}
                report = _verify(model, manifest, known, progress)
    except VerificationError as error:
        if as_json:
            kind = KIND if signature is None else SIGNATURE_VERDICT
            click.echo(json.dumps(failure([str(error)], kind), indent=2))
        raise
    if not speaks(processes):
        pass
    elif as_json:
        document = verdict(report) if isinstance(report, Report) else signature_verdict(report)
        click.echo(json.dumps(document, indent=2))
    elif not (quiet and report.ok):
        for line in report.lines():
            say(line)
        if not quiet:
            _say(report.notes)
        for problem in bounded(report.problems):
            say(f"hashbench: {problem}", err=True)
    if not report.ok:
        context.exit(CHECK_FAILED if report.wrong else UNUSABLE)


def _verify(model: Path, manifest: Path, known: dict[str, Any], progress: Progress | None) -> Report:
    expected = manifest_from(manifest) if manifest == STANDARD_INPUT else manifest
    return hashbench.verify(model, expected, progress=progress, **known)


def _verify_signed(
    model: Path,
    signature: Path,
    trusted: Trusted,
    manifest: Path | None,
    known: dict[str, Any],
    progress: Progress | None,
) -> SignedReport:
    from hashbench.trust.signatures import verify_signed  # needs the extra `trust`

    return verify_signed(model, signature, trusted.verifier(), manifest=manifest, progress=progress, **known)


def _say(notes: Sequence[str]) -> None:
    """Prints notes on one line of stderr each."""
    for note in bounded(notes):
        say(" ".join(note.split()), err=True)


def _redirected() -> list[Path]:
    """The files that standard output and error go to."""
    found = []
    for descriptor in (1, 2):
        with suppress(OSError):
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            status = os.fstat(descriptor)
            if S_ISREG(status.st_mode) and os.path.samestat(status, path.stat()):
                found.append(path)
    return found


def _path_in(model: Path, path: Path) -> str | None:
    """The path of a file relative to the model's folder, with slashes; None if it is not in it."""
    if not model.is_dir():
        return None
    place, top = path.parent.resolve() / path.name, model.resolve()
    return place.relative_to(top).as_posix() if place.is_relative_to(top) else None
