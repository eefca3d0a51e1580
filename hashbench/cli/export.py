"""The commands of documents for other tools: `export` writes one about a manifest, and `check-export` verifies it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import click

from hashbench.cli.messages import say
from hashbench.cli.options import PATH, quiet_option
from hashbench.cli.output_file import check_output
from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.opening import read_regular
from hashbench.hashing.printable import printable
from hashbench.model.manifest import read_manifest

T = TypeVar("T")

_NEEDS = {"atlas": ("cbor2", "cryptography"), "c2pa": ("c2pa", "cryptography")}
"""The modules that each format needs; its extra, which has its name, installs them."""

_format = click.option(
    "--format", "kind", type=click.Choice(list(_NEEDS)), required=True, help="The other tool's format."
)


@click.command("export")
@click.argument("manifest", type=PATH)
@_format
@click.option("--key", "key_path", type=PATH, required=True, help="The private key in PEM: P-384, or any of C2PA's.")
@click.option("--certificate", "chain_path", type=PATH, help="For C2PA: the key's certificate in PEM, and its issuers.")
@click.option("-o", "--output", type=PATH, required=True, help="The document's file.")
@quiet_option
def export(manifest: Path, kind: str, key_path: Path, chain_path: Path | None, output: Path, quiet: bool) -> None:
    """Write a signed document about a manifest for another tool.

    The document binds the file MANIFEST, and so the roots of all that the manifest lists. The model is not read.

    \b
    atlas  a manifest of Atlas (IntelLabs' atlas-cli), with MANIFEST's SHA-384
    c2pa   a C2PA sidecar, with MANIFEST's SHA-256

    Exit codes: 0 the document is written; 2 a file, a key or the call is not usable.
    """  # noqa: D301  # click's mark for lines to keep
    if (kind == "c2pa") != (chain_path is not None):
        raise click.UsageError("--certificate is needed for c2pa, and cannot be used for atlas")
    content, name = read_manifest(manifest), printable(manifest.name)
    check_output(output, f"document of {kind}", lambda path: _is_document(kind, path), manifest)

    def made() -> bytes:
        from hashbench.trust.keys import read_private_key

        key = read_private_key(key_path)
        if chain_path is None:
            from hashbench.trust import atlas

            return atlas.export(content, name, key, datetime.now(UTC))
        from hashbench.trust import c2pa
        from hashbench.trust.certificates import read_certificates

        return c2pa.export(content, name, key, read_certificates(chain_path))

    document = _with_extra(kind, made)
    write_atomically(output, document)
    if not quiet:
        say(f"wrote {output}: {len(document):,} bytes")


@click.command("check-export")
@click.argument("document", type=PATH)
@click.argument("manifest", type=PATH)
@_format
@click.option("--public-key", "key_path", type=PATH, help="For Atlas: the trusted signer's public key in PEM.")
@click.option("--anchor", "anchor_path", type=PATH, help="For C2PA: the trusted authorities' certificates in PEM.")
@quiet_option
def check_export(
    document: Path, manifest: Path, kind: str, key_path: Path | None, anchor_path: Path | None, quiet: bool
) -> None:
    """Verify a document that `export` wrote.

    DOCUMENT must be signed by who is trusted, and be of the file MANIFEST. The model is not read: verify it against
    MANIFEST.

    Exit codes: 0 the document is valid; 1 it is not; 2 a file or the call is not usable.
    """
    if (kind == "atlas") != (key_path is not None) or (kind == "c2pa") != (anchor_path is not None):
        raise click.UsageError("atlas needs --public-key alone, and c2pa --anchor alone")
    content = read_manifest(manifest)

    def check() -> None:
        if key_path is not None:
            from hashbench.trust import atlas
            from hashbench.trust.keys import read_public_key

            atlas.check(_read(document, atlas.MAX_SIZE), content, read_public_key(key_path))
        elif anchor_path is not None:
            from hashbench.trust import c2pa
            from hashbench.trust.certificates import read_certificates

            c2pa.check(_read(document, c2pa.MAX_SIZE), content, read_certificates(anchor_path))

    _with_extra(kind, check)
    if not quiet:
        say(f"verified: {document} is signed, and of {manifest}")


def _read(path: Path, max_size: int) -> bytes:
    """A file's content, of which one byte more than accepted is enough to refuse it."""
    return read_regular(path, max_size + 1)


def _is_document(kind: str, path: Path) -> bool:
    """Whether an existing file is of that kind, by how it begins: it may be replaced."""
    beginning = read_regular(path, 64)
    return beginning.startswith(b'{\n  "claim_generator"') if kind == "atlas" else beginning[4:8] == b"jumb"


def _with_extra(kind: str, do: Callable[[], T]) -> T:
    """What `do` returns, or the extra to install."""
    try:
        return do()
    except ModuleNotFoundError as error:
        if error.name not in _NEEDS[kind]:
            raise
        raise click.ClickException(f"{error.name} is not installed: install hashbench[{kind}]") from None
