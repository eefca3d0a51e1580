"""Keys and certificates as C2PA accepts them for signing, made for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Signer:
    """A signer, and the authority that issued its certificate.

    Args:
        curve: of the signer's key. The authority's is P-384, as C2PA's library trusts none of P-521.
    """

    def __init__(self, curve: ec.EllipticCurve) -> None:
        self.key, authority = ec.generate_private_key(curve), ec.generate_private_key(ec.SECP384R1())
        self.anchor = _certificate("an authority", authority, "an authority", authority)
        self.certificate = _certificate("a signer", self.key, "an authority", authority)

    def write(self, folder: Path) -> None:
        """Writes key.pem, key.pub, chain.pem and anchor.pem."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(pem)
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "key.pub").write_bytes(pem)
        (folder / "chain.pem").write_bytes(self.certificate.public_bytes(Encoding.PEM))
        (folder / "anchor.pem").write_bytes(self.anchor.public_bytes(Encoding.PEM))


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, issued_by: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    def named(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    authority = name == issuer
    now = datetime.now(UTC)
    usage = {
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage), critical=True
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issued_by.public_key()), critical=False)
    )
    if not authority:
        protection = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(protection, critical=False)
    return builder.sign(issued_by, hashes.SHA256())
