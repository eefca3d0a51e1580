"""Keys and certificates made for tests: roots, authorities between, and signers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

for _needed in ("cryptography", "dcap_qvl"):
    pytest.importorskip(_needed, reason=f"{_needed} is not installed: install hashbench[trust]")

from cryptography import x509  # noqa: E402  # after what it needs is known to be there
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402
from cryptography.hazmat.primitives.serialization import (  # noqa: E402
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID  # noqa: E402

CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


class Issued(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> bytes:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


@cache
def key_of(curve: str, number: int) -> ec.EllipticCurvePrivateKey:
    """A key of a curve: for each number, another."""
    return ec.generate_private_key(CURVES[curve])


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def write_keys(folder: Path, curve: str = "P-256", number: int = 0) -> tuple[Path, Path]:
    """Writes a private and a public key, and returns their files."""
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / f"{curve}-{number}.pem", folder / f"{curve}-{number}.pub"
    private.write_bytes(private_pem(key_of(curve, number)))
    public.write_bytes(public_pem(key_of(curve, number)))
    return private, public


def issue(
    name: str,
    issuer: Issued | None = None,
    *,
    curve: str = "P-256",
    authority: bool = False,
    signs: bool = True,
    path_length: int | None = None,
    start: datetime | None = None,
    days: int = 3650,
    critical: x509.ExtensionType | None = None,
    key: Any = None,
) -> Issued:
    """Makes a certificate.

    Args:
        name: its common name.
        issuer: None for a root, which issues itself.
        curve: of its key.
        authority: whether it may issue others.
        signs: whether its key usage has digital signatures.
        path_length: how many authorities may be below it.
        start: when it begins to be valid; None for a day ago.
        days: how long it is valid.
        critical: one more extension, which is critical.
        key: its key, of whatever kind; None for a new one of the curve.
    """
    key = ec.generate_private_key(CURVES[curve]) if key is None else key
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = start or datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(authority, path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=signs,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=authority,
                crl_sign=authority,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if critical is not None:
        builder = builder.add_extension(critical, critical=True)
    signer = issuer.key if issuer else key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return Issued(builder.sign(signer, digest), key)
