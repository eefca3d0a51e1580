"""Keys that sign: ECDSA on P-256, P-384 and P-521, each with the SHA-2 of its size, as Sigstore's formats have it."""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from hashbench.hashing.opening import read_regular
from hashbench.hashing.verification_error import VerificationError
from hashbench.trust.trust_error import TrustError

MAX_SIZE = 1 << 16
"""The largest file of keys or certificates that is read, in bytes."""

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


def read_private_key(path: str | os.PathLike[str], password: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """Reads a private key in PEM.

    Args:
        path: the file.
        password: what it is encrypted with; None if it is not.

    Raises:
        OSError: the file cannot be read.
        TrustError: it is no such key, or needs another password.
    """
    try:
        key = load_pem_private_key(read_pem(path), password)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{os.fspath(path)} is not a private key in PEM, or needs another password: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError(f"{os.fspath(path)} is not accepted: keys are of the curves P-256, P-384 and P-521")
    check_public_key(key.public_key(), os.fspath(path))
    return key


def read_public_key(path: str | os.PathLike[str]) -> ec.EllipticCurvePublicKey:
    """Reads a public key in PEM.

    Raises:
        OSError: the file cannot be read.
        TrustError: it is no such key.
    """
    return parse_public_key(read_pem(path), os.fspath(path))


def parse_public_key(pem: bytes, name: str) -> ec.EllipticCurvePublicKey:
    """The public key of a PEM text; `name` is for the error.

    Raises:
        TrustError: it is no such key.
    """
    try:
        key = load_pem_public_key(pem)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise TrustError(f"{name} is not a public key in PEM") from None
    return check_public_key(key, name)


def check_public_key(key: object, name: str) -> ec.EllipticCurvePublicKey:
    """The key itself, if signatures of it are accepted; `name` is for the error.

    Raises:
        TrustError: they are not.
    """
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise TrustError(f"{name} is not accepted: keys are of the curves P-256, P-384 and P-521")
    return key


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """The signature of a message, in DER."""
    return key.sign(message, ec.ECDSA(_HASHES[key.curve.name]()))


def check_signature(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes) -> None:
    """Checks the signature of a message.

    Raises:
        VerificationError: it is not by this key, or of another message.
    """
    try:
        key.verify(signature, message, ec.ECDSA(_HASHES[key.curve.name]()))
    except InvalidSignature:
        raise VerificationError("the signature is not valid: not by this key, or of something else") from None


def hint_of(key: ec.EllipticCurvePublicKey) -> str:
    """What names a key in a bundle: the SHA-256 of its PEM, in hexadecimal digits."""
    return hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def read_pem(path: str | os.PathLike[str]) -> bytes:
    """The content of a file of keys or certificates.

    Raises:
        OSError: it cannot be read.
        TrustError: it is too large.
    """
    data = read_regular(path, MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise TrustError(f"{os.fspath(path)} has more than {MAX_SIZE} bytes: name a file of keys or certificates")
    return data
