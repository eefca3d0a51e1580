"""Signs a model's folder: the SHA-256 of every file, among them hashbench's manifest with the roots of every tensor.

So one small signature carries all roots, and whoever has only stock tools can verify it too.

Every byte is read once: the kernel makes the roots and the processor the digests of whole files, of the same memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.hasher import Progress
from hashbench.hashing.verification_error import VerificationError
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import Kernel
from hashbench.model.contents import check_same_files
from hashbench.model.disk import Notes, check_decided, manifest, verify
from hashbench.model.exclusions import DEFAULT, Exclusions, exactly
from hashbench.model.folder import Listing, list_folder
from hashbench.model.manifest import Manifest, read_manifest
from hashbench.model.strict_json import quoted
from hashbench.trust.bundles import Bundle
from hashbench.trust.oms import IGNORED_BY_STOCK, SignedFiles
from hashbench.trust.trust_error import TrustError

MANIFEST_NAME = "hashbench.manifest.json"
"""The manifest's name in a signed folder."""


@dataclass(frozen=True)
class Signed:
    """A model that was signed.

    Attributes:
        manifest: its manifest.
        files: what the signature says.
    """

    manifest: Manifest
    files: SignedFiles


def sign_model(
    folder: Path,
    sign: Callable[[bytes], Bundle],
    output: Path,
    *,
    manifest_path: Path | None = None,
    algorithm: str = "sha256",
    chunk_size: int = 4096,
    kernel: str | Kernel | None = None,
    device: str | None = None,
    notes: Notes | None = None,
    progress: Progress | None = None,
) -> Signed:
    """Signs a model's folder, and writes its manifest there if it has none.

    Args:
        folder: the model.
        sign: signs a statement.
        output: the signature's file.
        manifest_path: the model's manifest, a file of the folder, against which the model is verified; None makes it,
            with the name `MANIFEST_NAME`.
        algorithm: of a manifest that is made; so are the next.
        chunk_size: bytes of a leaf.
        kernel: as for `hashbench.verify`.
        device: as for `hashbench.verify`.
        notes: takes one line for each fact that a user should know.
        progress: is called with the bytes that the kernel hashed so far and in total.

    Raises:
        VerificationError: the model is not what its manifest says.
        TrustError: `folder` is not a folder, the manifest is not in it, or something in it cannot be signed.
        OSError, ValueError: as for `hashbench.manifest`.
    """
    if not folder.is_dir():
        raise TrustError(f"{folder} is not a folder: a signature is of a model's folder, with its manifest in it")
    name = MANIFEST_NAME if manifest_path is None else _name_in(folder, manifest_path)
    if name is None:
        raise TrustError(f"{manifest_path} is not in {folder}: the signature covers files of the folder")
    signature = _name_in(folder, output)
    own = [exactly(path) for path in (name, signature) if path]
    older = None if manifest_path is None else read_manifest(manifest_path)
    exclusions = Exclusions([*DEFAULT, *own] if older is None else [*older.exclusions, *own])
    before = list_folder(folder, exclusions)
    if before.refused:
        refused, reason = next(iter(before.refused.items()))
        raise TrustError(f"{quoted(refused)} cannot be signed: {reason}")
    whole = WholeFiles({str(file.path): file.status for file in before.files})
    if older is None:
        made = manifest(
            folder,
            algorithm=algorithm,
            chunk_size=chunk_size,
            kernel=kernel,
            device=device,
            ignore=own,
            notes=notes,
            progress=progress,
            whole=whole,
        )
    else:
        made = older
        own_files = [folder / name, *([output] if signature else [])]
        report = verify(folder, older, kernel=kernel, device=device, own=own_files, progress=progress, whole=whole)
        check_decided(report)
        if not report.ok:
            raise VerificationError(f"the model is not what {manifest_path} says: {next(report.lines())}")
    digests = whole.digests()
    _check_same(before, list_folder(folder, exclusions))
    if older is None:
        write_atomically(folder / name, made.text())
    by_name = {file.name: digests[str(file.path)] for file in before.files}
    by_name[name] = hashlib.sha256(made.text()).digest()  # a manifest is read only if it is canonical
    digests_to_sign = {path: by_name[path] for path in sorted(by_name) if not _under(path, IGNORED_BY_STOCK)}
    if name not in digests_to_sign:
        raise TrustError(f"{manifest_path} cannot be signed: other tools ignore {', '.join(IGNORED_BY_STOCK)}")
    files = SignedFiles(
        name=folder.resolve().name,
        digests=digests_to_sign,
        links=any(file.path != folder.resolve() / file.name for file in before.files),
        ignored=_ignored(before, name, signature),
        manifest=name,
    )
    write_atomically(output, sign(files.statement().text()).text())
    return Signed(made, files)


def _ignored(listing: Listing, manifest_name: str, signature: str | None) -> tuple[str, ...]:
    """The paths that the signature does not cover: those that are there, and those that tools leave in any copy."""
    there = {path for path in listing.excluded if path != manifest_name}
    return tuple(sorted(there | {*IGNORED_BY_STOCK, *DEFAULT} | ({signature} if signature else set())))


def _name_in(folder: Path, path: Path) -> str | None:
    """The path of a file relative to a folder; None if it is not in it."""
    place, top = path.parent.resolve() / path.name, folder.resolve()
    return place.relative_to(top).as_posix() if place.is_relative_to(top) else None


def _under(path: str, ignored: tuple[str, ...]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in ignored)


def _check_same(before: Listing, now: Listing) -> None:
    check_same_files({file.name: file for file in before.files}, {file.name: file for file in now.files})
