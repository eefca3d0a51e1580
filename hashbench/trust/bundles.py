"""Sigstore bundles: the file of a model's signature, with the envelope and what names its key.

Three ways lead from a bundle to its payload, one for each kind of key: a public key that is known, a certificate whose
chain leads to a root that is known, and an identity that Sigstore vouches for (`keyless`).
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.trust.certificates import (
    among,
    check_chain,
    check_may_sign,
    is_self_issued,
    parse_certificate,
)
from hashbench.trust.dsse import Envelope, envelope_of, from_base64
from hashbench.trust.keys import check_public_key, hint_of
from hashbench.trust.trust_error import TrustError

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

MAX_SIZE = 96 << 20
"""The largest bundle that is read, in bytes: that of the largest statement, in base64."""

_MAX_DEPTH = 16


@dataclass(frozen=True)
class Bundle:
    """A signature and what names its key.

    Attributes:
        envelope: what is signed.
        hint: of a public key: what names it.
        chain: certificates in DER, the signer's first.
        document: the whole bundle.
    """

    envelope: Envelope
    hint: str | None = None
    chain: tuple[bytes, ...] = ()
    document: bytes = b""

    def text(self) -> bytes:
        """The content of its file."""
        material: dict[str, Any] = {"tlogEntries": []}
        if self.chain:
            certificates = [{"rawBytes": b64encode(der).decode()} for der in self.chain]
            material["x509CertificateChain"] = {"certificates": certificates}
        else:
            material["publicKey"] = {"hint": self.hint}
        document = {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": material,
            "dsseEnvelope": self.envelope.fields(),
        }
        return json.dumps(document).encode() + b"\n"


class Verifier(Protocol):
    """Leads from a bundle to what is signed."""

    def payload(self, bundle: Bundle) -> tuple[bytes, str]:
        """The in-toto statement that a bundle signs, and who signed it.

        Raises:
            VerificationError: the signature is not valid, or not by the one who is trusted.
            TrustError: the bundle has no such signature.
        """


@dataclass(frozen=True)
class KeyVerifier:
    """Trusts a public key."""

    key: ec.EllipticCurvePublicKey

    def payload(self, bundle: Bundle) -> tuple[bytes, str]:
        """The statement; otherwise as `Verifier`."""
        hint = hint_of(self.key)
        if bundle.chain:
            raise TrustError("the signature is by a certificate: name the chain of certificates, not a public key")
        if bundle.hint and bundle.hint != hint:
            raise VerificationError(f"the signature is by the key {bundle.hint[:64]}, and the trusted one is {hint}")
        return bundle.envelope.checked(self.key), f"key {hint}"


@dataclass(frozen=True)
class CertificateVerifier:
    """Trusts certificates that issued themselves, and what they vouch for.

    A signature says nothing of when it was made, so that certificates must be valid when the signer's began to be, as
    stock OMS verifiers have it.

    Args:
        certificates: roots; others may be between a root and the signer.
    """

    certificates: Sequence[x509.Certificate]

    def payload(self, bundle: Bundle) -> tuple[bytes, str]:
        """The statement; otherwise as `Verifier`."""
        if not bundle.chain:
            raise TrustError("the signature is by a key: name its public key, not a chain of certificates")
        leaf, *others = [parse_certificate(der, "a certificate of the signature") for der in bundle.chain]
        roots = [certificate for certificate in self.certificates if is_self_issued(certificate)]
        if not roots:
            raise TrustError("none of the certificates that are trusted is a root, which issued itself")
        check_may_sign(check_chain(leaf, [*self.certificates, *others], among(roots), leaf.not_valid_before_utc))
        key = check_public_key(leaf.public_key(), "the signer's certificate")
        return bundle.envelope.checked(key), f"certificate of {leaf.subject.rfc4514_string()}"


def by_key(envelope: Envelope, key: ec.EllipticCurvePublicKey) -> Bundle:
    """The bundle of what a key signed."""
    return Bundle(envelope, hint_of(key))


def by_certificate(envelope: Envelope, chain: Sequence[x509.Certificate]) -> Bundle:
    """The bundle of what the key of a certificate signed, with the certificates above it, in order."""
    return Bundle(envelope, None, tuple(certificate.public_bytes(Encoding.DER) for certificate in chain))


def parse_bundle(data: bytes) -> Bundle:
    """Parses a bundle. Nothing of it is trusted yet.

    Raises:
        TrustError: it is not valid.
    """
    try:
        document = parse_document(
            data, "bundle", version=None, max_size=MAX_SIZE, max_depth=_MAX_DEPTH, package="hashbench.trust"
        )
    except DocumentError as error:
        raise TrustError(str(error)) from None
    material = document["verificationMaterial"]
    listed = material.get("x509CertificateChain", {}).get("certificates", [])
    if "certificate" in material:
        listed = [material["certificate"]]
    chain = tuple(from_base64(one["rawBytes"], "a certificate") for one in listed)
    return Bundle(envelope_of(document["dsseEnvelope"]), material.get("publicKey", {}).get("hint"), chain, data)


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Reads a bundle from a file.

    Raises:
        OSError: it cannot be read.
        TrustError: it is not valid; the message names the file.
    """
    return read_document(path, "signature", parse_bundle, TrustError, MAX_SIZE)
