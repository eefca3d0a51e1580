"""The signature of a model: `sign` makes one, and `verify --signature` verifies a model by one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hashbench.cli.messages import say
from hashbench.cli.options import (
    PATH,
    algorithm_option,
    chunk_size_option,
    device_option,
    json_option,
    kernel_option,
    quiet_option,
)
from hashbench.cli.output_file import check_output, is_manifest
from hashbench.cli.progress import shown
from hashbench.model.report import bounded, summary
from hashbench.model.verdict import described, verdict

if TYPE_CHECKING:
    from hashbench.trust.bundles import Bundle, Verifier
    from hashbench.trust.signatures import SignedReport

SIGNATURE_VERDICT = "hashbench-signature-verdict"
"""What the document of a verdict by a signature is called in it."""


@click.command("sign")
@click.argument("model", type=PATH)
@click.option("--manifest", "manifest_path", type=PATH, help="The model's manifest, a file in MODEL; default: make it.")
@click.option("--key", "key_path", type=PATH, required=True, help="The private key in PEM: P-256, P-384 or P-521.")
@click.option(
    "--key-password-file", "password_path", type=PATH, help="A file with the key's password, on its first line."
)
@click.option(
    "--certificate", "chain_path", type=PATH, help="The key's certificate in PEM, and those above it, in their order."
)
@click.option("-o", "--output", type=PATH, help="The signature's file; default: model.sig in MODEL.")
@json_option
@quiet_option
@kernel_option
@device_option
@algorithm_option
@chunk_size_option
def sign(
    model: Path,
    manifest_path: Path | None,
    key_path: Path,
    password_path: Path | None,
    chain_path: Path | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    kernel: str | None,
    device: str | None,
    algorithm: str,
    chunk_size: int,
) -> None:
    """Sign a model.

    The signature is in the OpenSSF Model Signing format, which `model_signing verify` and `hashbench verify` verify. It
    covers the SHA-256 of every file in the folder MODEL, among them the manifest with the roots of all tensors. Without
    --manifest it is made, and written to hashbench.manifest.json in MODEL; with it, the model is verified first.

    Files are read once: the kernel makes the roots, and the processor the digests, a file on each core.

    Exit codes: 0 the signature is written; 1 the model is not what --manifest says; 2 the model, a key or the call is
    not usable.
    """
    from hashbench.trust.signatures import not_covered
    from hashbench.trust.signing import MANIFEST_NAME, sign_model

    output = output or model / "model.sig"
    sign_statement = _signer(key_path, password_path, chain_path)
    if not model.is_dir():
        raise click.UsageError(f"{model} is not a folder: a signature is of a model's folder, with its manifest in it")
    check_output(output, "signature", _is_signature)
    if manifest_path is None:
        check_output(model / MANIFEST_NAME, "manifest", is_manifest)
    notes: list[str] = []
    with shown(str(model.absolute())) as progress:
        signed = sign_model(
            model,
            sign_statement,
            output,
            manifest_path=manifest_path,
            algorithm=algorithm,
            chunk_size=chunk_size,
            kernel=kernel,
            device=device,
            notes=notes,
            progress=progress,
        )
    left_out = list(not_covered(model, signed.files, signed.manifest, output))
    if as_json:
        document = {"root": signed.manifest.root.hex(), **described(signed.manifest), "notes": notes}
        click.echo(json.dumps(document | {"signed": len(signed.files.digests), "not_covered": left_out}, indent=2))
    elif not quiet:
        for note in bounded(notes):
            say(note, err=True)
        if left_out:
            say(f"not covered: {', '.join(left_out)}", err=True)
        say(f"signed: {len(signed.files.digests):,} files; {summary(signed.manifest)}")


class Trusted(NamedTuple):
    """Whom `verify --signature` is to trust: exactly one of the ways."""

    public_key: Path | None
    chain: Path | None
    identity: str | None
    provider: str | None
    trust_root: Path | None
    fetch: bool

    def verifier(self) -> Verifier:
        """What verifies by it.

        Raises:
            UsageError: it is none of the ways, or several.
        """
        from hashbench.trust.bundles import CertificateVerifier, KeyVerifier
        from hashbench.trust.certificates import read_certificates
        from hashbench.trust.keyless import KeylessVerifier
        from hashbench.trust.keys import read_public_key

        keyless = self.identity is not None and self.provider is not None
        if (self.identity is None) != (self.provider is None):
            raise click.UsageError("--identity and --identity-provider are needed together")
        if (self.public_key is not None) + (self.chain is not None) + keyless != 1:
            raise click.UsageError(
                "--signature needs whom to trust: --public-key, or --certificate-chain, or --identity with "
                "--identity-provider"
            )
        if (self.trust_root or self.fetch) and not keyless:
            raise click.UsageError("--trust-root and --fetch-trust-root are for --identity")
        if self.public_key is not None:
            return KeyVerifier(read_public_key(self.public_key))
        if self.chain is not None:
            return CertificateVerifier(read_certificates(self.chain))
        assert self.identity is not None
        assert self.provider is not None
        logging.getLogger("sigstore").setLevel(logging.ERROR)  # it warns that it is offline, as it was told
        return KeylessVerifier(self.identity, self.provider, self.trust_root, self.fetch)


def signature_verdict(report: SignedReport) -> dict[str, Any]:
    """The verdict on a signed model as a JSON document, after signature-verdict.schema.json of hashbench.trust."""
    names: Mapping[str, list[str]] = {
        kind: list(getattr(report, kind)) for kind in ("differs", "missing", "extra", "ignored")
    }
    return {
        "kind": SIGNATURE_VERDICT,
        "version": 1,
        "verified": report.ok,
        "signer": report.signer,
        "signed": len(report.files.digests),
        "by_digest": report.by_digest,
        "not_covered": list(report.not_covered),
        "manifest": None if report.model is None else verdict(report.model),
        **names,
        "notes": list(report.notes),
        "problems": list(report.problems),
    }


def _signer(key_path: Path, password_path: Path | None, chain_path: Path | None) -> Callable[[bytes], Bundle]:
    """What signs a statement with a key, whose certificate may be given."""
    from hashbench.hashing.opening import read_regular
    from hashbench.trust.bundles import by_certificate, by_key
    from hashbench.trust.certificates import read_certificates
    from hashbench.trust.dsse import signed
    from hashbench.trust.keys import MAX_SIZE, read_private_key

    password = read_regular(password_path, MAX_SIZE).partition(b"\n")[0] if password_path else None
    key = read_private_key(key_path, password)
    chain = read_certificates(chain_path) if chain_path else None
    if chain and chain[0].public_key() != key.public_key():
        raise click.UsageError(f"the first certificate of {chain_path} is not of the key in {key_path}")

    def sign_statement(statement: bytes) -> Bundle:
        envelope = signed(statement, key, keyid="")  # as stock signers have it
        return by_certificate(envelope, chain) if chain else by_key(envelope, key.public_key())

    return sign_statement


def _is_signature(path: Path) -> bool:
    from hashbench.trust.bundles import read_bundle
    from hashbench.trust.trust_error import TrustError

    try:
        read_bundle(path)
    except TrustError:
        return False
    return True
