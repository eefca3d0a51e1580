"""Verification of a model by its signature.

If the signature says that hashbench's manifest stands for the files, it leads to the manifest's digest, the manifest to
the roots, and these to the bytes, which any kernel hashes. What the manifest does not list, or all if none stands for
them, is verified by the SHA-256 that the signature has. In both ways every file of the folder must be accounted for:
only paths that the signature itself ignores may hold others. So a manifest vouches for nothing unless the signer said
so, and for no file that is not signed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from hashbench.hashing.hasher import Progress
from hashbench.hashing.opening import read_regular
from hashbench.hashing.printable import printable
from hashbench.hashing.verification_error import VerificationError
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import Kernel
from hashbench.model.contents import Files, check_same_files, list_model
from hashbench.model.disk import Extra, verify
from hashbench.model.exclusions import Exclusions
from hashbench.model.manifest import MAX_SIZE, Manifest, ManifestError, parse_manifest
from hashbench.model.report import MAX_LINES, Report, bounded
from hashbench.model.strict_json import quoted
from hashbench.trust.bundles import KeyVerifier, Verifier, read_bundle
from hashbench.trust.keys import read_public_key
from hashbench.trust.oms import ALONE, SignedFiles, signed_files


@dataclass(frozen=True)
class SignedReport:
    """How a model compares with its signature.

    Attributes:
        signer: who signed it.
        files: what is signed.
        model: the verification through the manifest; None if the signature has none.
        by_digest: the number of files that were compared by their SHA-256.
        differs: names of files with other bytes than were signed; those that the manifest lists are in `model`.
        missing: names of files that are not there, likewise.
        extra: names of files that are neither signed nor listed by the manifest.
        ignored: those of them that the caller accepts.
        not_covered: paths in the model that the signature says to ignore, and the manifest does not list.
        notes: one line each: what else a user should know.
        problems: one line each: why parts of the model could not be compared.
    """

    signer: str
    files: SignedFiles
    model: Report | None
    by_digest: int
    differs: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model is what was signed."""
        return not self.wrong and (self.model is None or self.model.ok)

    def __bool__(self) -> bool:
        """`ok`: whoever asks whether a report is true means that."""
        return self.ok

    @property
    def wrong(self) -> bool:
        """Whether the model is known not to be what was signed, even if some of it could not be read."""
        apart = self.differs or self.missing or self.extra or self.problems
        return bool(apart) or (self.model is not None and self.model.wrong)

    def lines(self) -> Iterator[str]:
        """What differs, or that nothing does; of each kind up to `MAX_LINES`, and then their number."""
        if self.ok:
            yield f"signed by {self.signer}: {len(self.files.digests):,} files"
            if self.model is None:
                yield f"verified by SHA-256: {self.by_digest:,} files"
        if self.model is not None and self.ok == self.model.ok:  # "verified" is for the whole
            yield from self.model.lines()
        if self.ok and self.not_covered:
            yield f"not covered: {', '.join(map(_shown, self.not_covered[:MAX_LINES]))}"
        for kind in ("differs", "missing", "extra"):
            yield from _up_to(kind, getattr(self, kind))
        yield from _up_to("extra, ignored", self.ignored)

    def __str__(self) -> str:
        # Notes and problems may have paths of files, which the lines before have escaped.
        return "\n".join([*self.lines(), *map(printable, [*bounded(self.notes), *bounded(self.problems)])])


def verify_signed(
    path: Path,
    signature: Path,
    verifier: Verifier,
    *,
    manifest: Path | None = None,
    root: bytes | None = None,
    extra: Extra = "fail",
    leaves: Path | None = None,
    kernel: str | Kernel | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> SignedReport:
    """Verifies a model against its signature.

    Links count as the files that they lead to, if these are in the folder (`hashbench.model.folder`); all others are
    refused, whatever the signature says of links.

    Args:
        path: the model: a folder, or the one file that is signed.
        signature: the signature's file.
        verifier: whom to trust.
        manifest: the manifest that the signature is expected to name; None takes whichever it names, if any.
        root: the manifest's root, if it is known besides.
        extra: what files mean that are not signed: "fail", "warn" or "ignore".
        leaves: as for `hashbench.verify`.
        kernel: as for `hashbench.verify`.
        device: as for `hashbench.verify`.
        progress: is called with the bytes that the kernel hashed so far and in total.

    Returns:
        The report: verify only `report.ok`.

    Raises:
        VerificationError: the signature is not valid or not of who is trusted, or the manifest is not the signed one.
        TrustError: the signature's file is not valid, or of another kind.
        OSError, ValueError: as for `hashbench.verify`.
    """
    bundle = read_bundle(signature)
    payload, signer = verifier.payload(bundle)
    files = signed_files(payload)
    own = [signature]
    listed = list_model(path, files.exclusions, own)
    there = listed.files
    if not path.is_dir():
        there = _alone(there, files, path)
    name = _manifest_name(path, files, manifest)
    found = None if name is None else _bound_manifest(path / name, files.digests[name], name)
    report = None
    if found is not None and name is not None:
        own_files = [path / name, signature]
        report = verify(
            path, found, root=root, extra=extra, leaves=leaves, kernel=kernel, device=device, own=own_files,
            progress=progress,
        )  # fmt: skip
    elif root is not None:
        raise VerificationError("the signature has no manifest, and so no root that could be the trusted one")
    by_root = {file.path for file in found.files} if found else set()
    by_digest = [one for one in files.digests if one not in by_root and one != name]
    to_hash = [there[one] for one in by_digest if one in there]
    digests = WholeFiles({str(file.path): file.status for file in to_hash}).digests()
    differs = [file.name for file in to_hash if digests[str(file.path)] != files.digests[file.name]]
    known = {*files.digests, *by_root}
    unknown = sorted(there.keys() - known)
    if path.is_dir():
        now = list_model(path, files.exclusions, own)
        check_same_files(_counting(there, known, extra), _counting(now.files, known, extra))
    told = {*report.extra, *report.ignored} if report is not None else set()
    untold = tuple(one for one in unknown if one not in told)
    return SignedReport(
        signer,
        files,
        report,
        len(to_hash),
        differs=tuple(differs),
        missing=tuple(one for one in by_digest if one not in there),
        extra=untold if extra == "fail" else (),
        ignored=untold if extra == "warn" else (),
        not_covered=not_covered(path, files, found, signature),
        notes=tuple(note for note in (() if report is None else report.notes) if not note.startswith("excluded: ")),
        problems=tuple(dict.fromkeys([*listed.problems, *(() if report is None else report.problems)])),
    )


def verified_manifest(
    signature: str | os.PathLike[str],
    key: str | os.PathLike[str] | ec.EllipticCurvePublicKey | Verifier,
    *,
    model: str | os.PathLike[str] | None = None,
    manifest: str | os.PathLike[str] | None = None,
) -> Manifest:
    """The manifest that a signature covers, for `hashbench.torch.verify`: so nobody handles a bare root.

    Args:
        signature: the signature's file.
        key: the signer's public key or its file in PEM, or another `Verifier`.
        model: the model's folder; None takes the one that the signature is in.
        manifest: the manifest that the signature is expected to name; None takes whichever it names.

    Raises:
        VerificationError: the signature is not valid, names no manifest that stands for the files, or one that is not
            what was signed.
        TrustError: the signature or the key is not valid.
        ManifestError: the manifest is not valid.
        OSError: a file cannot be read.
    """
    verifier: Verifier
    if isinstance(key, (str, os.PathLike)):
        verifier = KeyVerifier(read_public_key(key))
    else:
        verifier = KeyVerifier(key) if isinstance(key, ec.EllipticCurvePublicKey) else key
    payload, _ = verifier.payload(read_bundle(signature))
    files = signed_files(payload)
    folder = Path(signature).parent if model is None else Path(model)
    name = _manifest_name(folder, files, None if manifest is None else Path(manifest))
    if name is None:
        raise VerificationError(f"{os.fspath(signature)} names no manifest that stands for the model's files")
    return _bound_manifest(folder / name, files.digests[name], name)


def _bound_manifest(path: Path, digest: bytes, name: str) -> Manifest:
    """The manifest in a file, after a check that it is the signed one."""
    try:
        data = read_regular(path, MAX_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise VerificationError(f"{quoted(name)}, the manifest that was signed, is missing") from None
    if hashlib.sha256(data).digest() != digest:
        raise VerificationError(f"{quoted(name)} is not the manifest that was signed")
    try:
        return parse_manifest(data)
    except ManifestError as error:
        raise ManifestError(f"{path} is signed, but is not a valid manifest: {error}") from None


def _manifest_name(path: Path, files: SignedFiles, manifest: Path | None) -> str | None:
    """The name of the manifest that stands for the signed files; None if there is none."""
    if manifest is None:
        return files.manifest
    place, top = manifest.parent.resolve() / manifest.name, path.resolve()
    name = place.relative_to(top).as_posix() if place.is_relative_to(top) else None
    if name is None or name != files.manifest:
        named = f"{quoted(files.manifest)} does" if files.manifest else "hashbench sign makes one that does"
        raise VerificationError(f"the signature does not say that {manifest} stands for the model's files: {named}")
    return name


def _alone(there: Files, files: SignedFiles, path: Path) -> Files:
    """The one file that is the model, under the name that it has in the signature."""
    if list(files.digests) != [ALONE]:
        raise VerificationError(f"the signature is of {len(files.digests):,} files in a folder, and {path} is one file")
    return {ALONE: replace(there[path.name], name=ALONE)}


def _counting(files: Files, known: Iterable[str], extra: Extra) -> Files:
    """The files that matter for whether something changed meanwhile."""
    return files if extra == "fail" else {name: file for name, file in files.items() if name in set(known)}


def not_covered(path: Path, files: SignedFiles, manifest: Manifest | None, signature: Path) -> tuple[str, ...]:
    """The ignored paths that are there, but for the signature, and that no manifest with files covers either."""
    if not path.is_dir():
        return ()
    covers_others = manifest is not None and bool(manifest.files)
    left_out = Exclusions(manifest.exclusions if manifest else ())
    own = signature.resolve()
    there = [name for name in files.ignored if os.path.lexists(path / name) and (path / name).resolve() != own]
    return tuple(sorted(name for name in there if not covers_others or left_out.exclude(name)))


def _up_to(kind: str, names: Sequence[str]) -> Iterator[str]:
    for name in names[:MAX_LINES]:
        yield f"{kind}: {_shown(name)}"
    if len(names) > MAX_LINES:
        yield f"{kind}: {len(names) - MAX_LINES:,} more"


def _shown(name: str) -> str:
    return name if name.isprintable() else quoted(name)
