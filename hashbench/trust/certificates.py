"""Chains of X.509 certificates, from a signer's to a root that is trusted, at a given time.

Stricter than what browsers need, and without names of hosts: hardware vendors and model signers have neither. Nothing
is fetched: a certificate that is not given is missing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.strict_json import quoted
from hashbench.trust.keys import read_pem
from hashbench.trust.trust_error import TrustError

E = TypeVar("E", bound=x509.ExtensionType)

MAX_CERTIFICATES = 16
"""The most certificates that are read from one place."""

_LEAST_DIGEST = 28  # bytes: of MD5 and SHA-1, which have fewer, collisions are known
_LEAST_BITS, _LEAST_CURVE_BITS = 2048, 224  # of keys: 112 bits of security, as of NIST SP 800-57, part 1, table 2
_REMEMBERED = 256  # certificates and pairs of them: a machine with many GPUs shows the same authorities many times

_UNDERSTOOD = {ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.EXTENDED_KEY_USAGE}
_SIGNING = {ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
_INVALID = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

IsRoot = Callable[[x509.Certificate], bool]
"""Whether a certificate is a trusted root."""


def read_certificates(path: str | os.PathLike[str]) -> list[x509.Certificate]:
    """The certificates of a PEM file, in their order.

    Raises:
        OSError: the file cannot be read.
        TrustError: it has none, too many, or one that is not valid.
    """
    return parse_certificates(read_pem(path), os.fspath(path))


def parse_certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    """The certificates of a PEM text; `name` is for the error.

    Raises:
        TrustError: as for `read_certificates`.
    """
    if pem.count(b"-----BEGIN") > MAX_CERTIFICATES:
        raise TrustError(f"{name} has more than {MAX_CERTIFICATES} certificates")
    try:
        found = x509.load_pem_x509_certificates(pem)
    except _INVALID:
        raise TrustError(f"{name} has no valid certificates in PEM") from None
    return [_sound(certificate, name) for certificate in found]


def parse_certificate(der: bytes, name: str) -> x509.Certificate:
    """The certificate of a DER encoding; `name` is for the error.

    Raises:
        TrustError: it is not valid.
    """
    try:
        found = x509.load_der_x509_certificate(der)
    except _INVALID:
        raise TrustError(f"{name} is not a valid certificate") from None
    return _sound(found, name)


@lru_cache(_REMEMBERED)
def _sound(certificate: x509.Certificate, name: str) -> x509.Certificate:
    """The certificate itself, after a check of all parts that are used here, which the library parses only then.

    Raises:
        TrustError: one is not valid.
    """
    try:
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc, certificate.signature_hash_algorithm
    except _INVALID:
        raise TrustError(f"{name} is not valid: a part of a certificate is malformed") from None
    return certificate


def check_chain(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], is_root: IsRoot, at: datetime
) -> list[x509.Certificate]:
    """Checks that a chain leads from a certificate to a trusted root, every link of it valid at a time.

    Args:
        leaf: the certificate.
        others: those that may be between, and the root, in any order. None of them is trusted for being here.
        is_root: says which are trusted.
        at: the time, with a time zone.

    Returns:
        The chain, the leaf first.

    Raises:
        VerificationError: there is no such chain.
    """
    chain = [leaf]
    while True:
        current = chain[-1]
        _check_time(current, at)
        _check_extensions(current, below=len(chain) - 1)
        if is_root(current):
            return chain
        issuer = next((c for c in others if c not in chain and _issued(current, c)), None)
        if issuer is None:
            raise VerificationError(
                f"the chain of certificates ends at {quoted(_subject(current))}, whose issuer "
                f"{quoted(current.issuer.rfc4514_string())} is neither given nor a trusted root"
            )
        _check_strength(current, issuer)
        chain.append(issuer)


def among(roots: Sequence[x509.Certificate]) -> IsRoot:
    """Trusts these certificates."""
    return lambda certificate: certificate in roots


def with_key(*pins: str) -> IsRoot:
    """Trusts certificates that issued themselves and whose keys have these SHA-256, in hexadecimal digits."""
    return lambda certificate: _issued(certificate, certificate) and key_pin(certificate) in pins


def key_pin(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's public key (its SubjectPublicKeyInfo in DER), in hexadecimal digits."""
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether a certificate is signed by its own key, as roots are."""
    return _issued(certificate, certificate)


def check_may_sign(chain: Sequence[x509.Certificate]) -> None:
    """Checks that a certificate is for signing: key usage and extended key usage say so, as far as it has them.

    Both count, as RFC 5280 (section 4.2.1.12) has it: certificates of web servers have digital signatures too. The
    extended key usage of an intermediate authority limits what it issues, as browsers and OpenSSL have it: an authority
    for web servers cannot make signers.

    Args:
        chain: what `check_chain` found.

    Raises:
        VerificationError: it is not, or has neither.
    """
    certificate = chain[0]
    usage = _value(certificate.extensions, x509.KeyUsage)
    extended = _value(certificate.extensions, x509.ExtendedKeyUsage)
    if (usage is None and extended is None) or (usage is not None and not usage.digital_signature):
        raise VerificationError(f"the certificate {quoted(_subject(certificate))} is not for signing")
    for each in chain[:-1] or chain:  # a root is trusted for whatever it is
        extended = _value(each.extensions, x509.ExtendedKeyUsage)
        if extended is not None and _SIGNING.isdisjoint(extended):
            raise VerificationError(f"the certificate {quoted(_subject(each))} is not for signing")


@lru_cache(_REMEMBERED)
def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether one issued the other, at whatever time."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_INVALID):
        return False
    return True


def _check_time(certificate: x509.Certificate, at: datetime) -> None:
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise VerificationError(
            f"the certificate {quoted(_subject(certificate))} is valid from {certificate.not_valid_before_utc} to "
            f"{certificate.not_valid_after_utc}, not at {at}"
        )


def _check_strength(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """Checks that nobody can forge the signature on a certificate, by a collision or by the issuer's private key."""
    algorithm, key = certificate.signature_hash_algorithm, issuer.public_key()
    if algorithm is not None and algorithm.digest_size < _LEAST_DIGEST:
        raise VerificationError(
            f"the certificate {quoted(_subject(certificate))} is signed with {algorithm.name}, which is broken"
        )
    if isinstance(key, (rsa.RSAPublicKey, dsa.DSAPublicKey, ec.EllipticCurvePublicKey)):  # others have one size each
        least = _LEAST_CURVE_BITS if isinstance(key, ec.EllipticCurvePublicKey) else _LEAST_BITS
        if key.key_size < least:
            raise VerificationError(
                f"the certificate {quoted(_subject(certificate))} is signed with a key of {key.key_size} bits, which "
                f"is too short: keys of its kind must have {least}"
            )


def _check_extensions(certificate: x509.Certificate, below: int) -> None:
    """Checks that a certificate may be where it is in a chain.

    Args:
        certificate: the certificate.
        below: how many certificates are below it.
    """
    name = quoted(_subject(certificate))
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise VerificationError(
                f"the certificate {name} has the critical extension {extension.oid.dotted_string}, which is not known"
            )
    if below == 0:
        return
    constraints = _value(certificate.extensions, x509.BasicConstraints)
    usage = _value(certificate.extensions, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage is not None and not usage.key_cert_sign):
        raise VerificationError(f"the certificate {name} is not of an authority: it must not issue others")
    if constraints.path_length is not None and constraints.path_length < below - 1:
        raise VerificationError(f"the certificate {name} is too far above the signer's")


def _value(extensions: x509.Extensions, kind: type[E]) -> E | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _subject(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()
