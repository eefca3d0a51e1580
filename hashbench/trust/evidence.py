"""The folder of an attestation: a statement about a verified model, and the evidence of where that happened.

The statement is a SCAI attribute report in canonical JSON. Its subject is the manifest; its one attribute says whether
the model in memory, or on disk, was what the manifest says. A quote or report binds it: the report data is SHA-512 of
the statement. GPU evidence is bound by its digest in the statement, and by its nonce to the verifier's.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.opening import read_regular
from hashbench.kernels import ALGORITHMS
from hashbench.model.strict_json import MAX_INTEGER, quoted
from hashbench.trust import bundles, nvidia, snp, tdx
from hashbench.trust.keys import MAX_SIZE as MAX_PEM_SIZE
from hashbench.trust.statements import SCAI, Statement, Subject, parse_statement, parse_timestamp, scai, timestamp
from hashbench.trust.trust_error import TrustError

STATEMENT = "statement.json"
QUOTE, COLLATERAL = "tdx.quote", "tdx.collateral.json"
SNP_REPORT, SNP_CHAIN = "snp.report", "snp.certificates.pem"
GPU = "gpu.json"
SIGNATURE = "model.sig"

SIZES: Mapping[str, int] = {
    STATEMENT: 1 << 16,
    QUOTE: tdx.MAX_QUOTE_SIZE,
    COLLATERAL: tdx.MAX_COLLATERAL_SIZE,
    SNP_REPORT: snp.SIZE,
    SNP_CHAIN: MAX_PEM_SIZE,
    GPU: nvidia.MAX_SIZE,
    SIGNATURE: bundles.MAX_SIZE,
}
"""The files that a folder may have, and the largest that each may be in bytes. Other files are not read."""

NONCE_SIZES = range(16, 65)
"""Bytes of a verifier's nonce."""

PLACES = ("gpu memory", "host memory", "disk")
"""Where a model can have been verified."""

VERIFIED, DIFFERS, NOT_HASHED = "MODEL_VERIFIED", "MODEL_DIFFERS", "MODEL_NOT_HASHED"
_BOUND = "EVIDENCE"


@dataclass(frozen=True)
class Claims:
    """What a statement says.

    Attributes:
        name: of the manifest's file.
        manifest: its SHA-256.
        root: its root.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.
        nonce: the verifier's.
        time: when it was made, by the attester's clock.
        verified: whether the model is what the manifest says; None if it was not hashed.
        place: where it was verified, one of `PLACES`; None if it was not hashed.
        bound: the SHA-256 of other evidence, by its file's name.
        component: the component of the model whose tensors alone were verified; "" for the model's own.
    """

    name: str
    manifest: bytes
    root: bytes
    algorithm: str
    chunk_size: int
    nonce: bytes
    time: datetime
    verified: bool | None
    place: str | None
    bound: Mapping[str, bytes]
    component: str = ""

    def statement(self) -> Statement:
        """The statement."""
        conditions = {
            "algorithm": self.algorithm,
            "chunk_size": self.chunk_size,
            "nonce": self.nonce.hex(),
            "root": self.root.hex(),
            "time": timestamp(self.time),
            **({} if self.place is None else {"place": self.place}),
            **({"component": self.component} if self.component else {}),
        }
        attribute = {None: NOT_HASHED, True: VERIFIED, False: DIFFERS}[self.verified]
        attributes: list[dict[str, object]] = [{"attribute": attribute, "conditions": conditions}]
        for name, digest in self.bound.items():
            attributes.append({"attribute": _BOUND, "evidence": {"name": name, "digest": {"sha256": digest.hex()}}})
        return scai(Subject(self.name, {"sha256": self.manifest.hex()}), attributes)


def claims_of(data: bytes) -> Claims:
    """What a statement says, which must be as `Claims.statement` writes it.

    Raises:
        TrustError: it is not.
    """
    statement = parse_statement(data, SCAI)
    try:
        (subject,) = statement.subjects
        first, *others = statement.predicate["attributes"]
        conditions = first["conditions"]
        claims = Claims(
            subject.name,
            _bytes(subject.digest["sha256"]),
            _bytes(conditions["root"]),
            conditions["algorithm"],
            conditions["chunk_size"],
            _bytes(conditions["nonce"]),
            parse_timestamp(conditions["time"]),
            {NOT_HASHED: None, VERIFIED: True, DIFFERS: False}[first["attribute"]],
            conditions.get("place"),
            {other["evidence"]["name"]: _bytes(other["evidence"]["digest"]["sha256"]) for other in others},
            conditions.get("component", ""),
        )
        valid = claims.statement().text() == data
    except (KeyError, TypeError, ValueError):  # of another shape
        valid = False
    if not valid:
        raise TrustError("the statement is not one of hashbench attest, in canonical JSON")
    if (
        claims.algorithm not in ALGORITHMS
        or len(claims.root) != ALGORITHMS[claims.algorithm].digest_size
        or len(claims.manifest) != hashlib.sha256().digest_size
        or not 0 < claims.chunk_size <= MAX_INTEGER
        or (claims.place is None) != (claims.verified is None)
        or claims.place not in (None, *PLACES)
        or not isinstance(claims.component, str)
    ):
        raise TrustError("the statement is not valid: it has a value that hashbench attest does not write")
    return claims


def report_data_of(statement: bytes) -> bytes:
    """What binds a statement to a quote."""
    return hashlib.sha512(statement).digest()


def check_folder(folder: Path) -> None:
    """Checks that an attestation can be written to a folder without removing what belongs to something else.

    Raises:
        OSError: it cannot be read.
        TrustError: it is there, is not empty, and is not the folder of an attestation.
    """
    if folder.is_dir() and not (folder / STATEMENT).is_file() and next(folder.iterdir(), None):
        raise TrustError(f"{folder} is not the folder of an attestation, and not empty: name another one")


def write_evidence(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files of an attestation to a folder, which is made, and removes those of an older one.

    Raises:
        OSError: they cannot be written.
        TrustError: as for `check_folder`.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        if name not in files:
            (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomically(folder / name, data)


def read_evidence(folder: Path) -> dict[str, bytes]:
    """The files of an attestation, those that are there.

    Raises:
        OSError: one cannot be read, or is a link.
        TrustError: there is no statement, or a file is too large.
    """
    files: dict[str, bytes] = {}
    for name, size in SIZES.items():
        try:
            data = read_regular(folder / name, size + 1, links=False)
        except FileNotFoundError:
            continue
        if len(data) > size:
            raise TrustError(f"{folder / name} has more than {size} bytes")
        files[name] = data
    if STATEMENT not in files:
        raise TrustError(f"{folder} is not the folder of an attestation: it has no {STATEMENT}")
    return files


def parse_nonce(text: str) -> bytes:
    """A verifier's nonce.

    Raises:
        TrustError: it is not in hexadecimal digits, or too short to be unique, or too long.
    """
    nonce = _hex(text)
    if nonce is None or len(nonce) not in NONCE_SIZES:
        least, most = NONCE_SIZES.start, NONCE_SIZES.stop - 1
        raise TrustError(f"the nonce {quoted(text)} is not accepted: write {least} to {most} bytes in hexadecimal")
    return nonce


def _hex(text: str) -> bytes | None:
    return bytes.fromhex(text) if re.fullmatch(r"([0-9a-fA-F]{2})*", text) else None


def _bytes(text: str) -> bytes:
    found = _hex(text)
    if found is None:
        raise ValueError
    return found
