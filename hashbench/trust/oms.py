"""What a model's signature says: the SHA-256 of every file (OpenSSF Model Signing, version 1.0, method `files`).

The format's other ways are refused: shards, which stock command lines do not verify, and other hashes.

A signature made here also says that one of the files is hashbench's manifest and stands for the files that it lists, so
that these can be verified by their roots: its resource has an annotation, as in-toto's resources may. That a manifest
is signed does not say so: who signs a folder of somebody else's with a stock tool may have signed a manifest that is of
other bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from hashbench.model.exclusions import ExclusionError, Exclusions, exactly
from hashbench.model.strict_json import quoted
from hashbench.trust.statements import OMS, Statement, Subject, parse_statement
from hashbench.trust.trust_error import TrustError

ALONE = "."
"""The name of the resource that is the model itself, if that is one file."""

_STANDS_FOR_FILES = {"hashbench": "manifest"}
"""The annotation of the manifest that stands for the files."""

IGNORED_BY_STOCK = (".git", ".gitattributes", ".github", ".gitignore")
"""What stock command lines leave out whether or not it is signed: as a resource, it would be missing to them."""


@dataclass(frozen=True)
class SignedFiles:
    """What is signed.

    Attributes:
        name: of the model, for people.
        digests: the SHA-256 of every file, by its path relative to the model's folder, in the order of the statement.
        links: whether links to files counted as files. It is told, and no link is followed or refused for it.
        ignored: paths in the folder that the signature does not cover, with all that is in them.
        manifest: the file that is hashbench's manifest and stands for those that it lists; None if none does.
    """

    name: str
    digests: Mapping[str, bytes]
    links: bool
    ignored: tuple[str, ...]
    manifest: str | None = None

    def statement(self) -> Statement:
        """The statement that is signed."""
        over_all = hashlib.sha256(b"".join(self.digests.values())).hexdigest()
        resources = [
            {
                "algorithm": "sha256",
                "digest": digest.hex(),
                "name": name,
                **({"annotations": _STANDS_FOR_FILES} if name == self.manifest else {}),
            }
            for name, digest in self.digests.items()
        ]
        serialization = {
            "allow_symlinks": self.links,
            "hash_type": "sha256",
            "ignore_paths": list(self.ignored),
            "method": "files",
        }
        predicate = {"resources": resources, "serialization": serialization}
        return Statement((Subject(self.name, {"sha256": over_all}),), OMS, predicate)

    @cached_property
    def exclusions(self) -> Exclusions:
        """The ignored paths, as exclusions of a folder."""
        return Exclusions(map(exactly, self.ignored))


def signed_files(payload: bytes) -> SignedFiles:
    """The files of a statement whose signature is checked.

    Raises:
        TrustError: it is not a valid statement of the method `files` with SHA-256; a name is not a path in a folder, or
            occurs twice; or the subject's digest is not that of the resources.
    """
    statement = parse_statement(payload, OMS)
    serialization = statement.predicate["serialization"]
    if serialization["method"] != "files" or serialization["hash_type"] != "sha256":
        raise TrustError(
            f"the signature is of {quoted(serialization['method'])} by {quoted(serialization['hash_type'])}; accepted "
            "is 'files' by 'sha256'"
        )
    digests: dict[str, bytes] = {}
    resources = statement.predicate["resources"]
    for resource in resources:
        name = resource["name"]
        if resource["algorithm"] != "sha256":
            raise TrustError(f"the digest of {quoted(name)} is by {quoted(resource['algorithm'])}, not by 'sha256'")
        if name in digests:
            raise TrustError(f"the signature lists {quoted(name)} twice")
        if name != ALONE and ("\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/"))):
            raise TrustError(f"the signature lists {quoted(name)}, which is not a path in the model's folder")
        digests[name] = bytes.fromhex(resource["digest"])
    (subject,) = statement.subjects
    if subject.digest.get("sha256") != hashlib.sha256(b"".join(digests.values())).hexdigest():
        raise TrustError("the signature's digest is not that of the files that it lists")
    if ALONE in digests and len(digests) > 1:
        raise TrustError("the signature is of one file, and lists others")
    ignored = tuple(path.removesuffix("/") for path in serialization.get("ignore_paths", ()))
    standing = [one["name"] for one in resources if one.get("annotations") == _STANDS_FOR_FILES]
    if len(standing) > 1:
        raise TrustError("the signature says of several files that they are the manifest")
    manifest = standing[0] if standing else None
    files = SignedFiles(subject.name, digests, serialization["allow_symlinks"], ignored, manifest)
    try:
        _ = files.exclusions
    except ExclusionError as error:
        raise TrustError(f"the signature's ignored paths are not accepted: {error}") from None
    return files
