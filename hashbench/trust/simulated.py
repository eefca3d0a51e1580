"""A platform without hardware: an authority of its own, quotes of Intel TDX with any content, and their collateral.

For tests, and to try attestation where there is no such platform. Its root is made here and in nobody's trust: a quote
of it is refused unless that very root is named, and the verdict then says "simulated".
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from hashbench.hashing.atomic_write import write_atomically
from hashbench.trust.certificates import read_certificates
from hashbench.trust.keys import read_private_key
from hashbench.trust.statements import timestamp

ROOT_NAME, KEY_NAME = "root.pem", "root.key"
"""The files of a platform: its root, which is to be named, and the root's key."""

_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # Intel's, which quotes are refused without
_FMSPC, _PCE_ID = bytes(5) + b"\x51", bytes(2)
_SVN = 1
_SEPT_VE_DISABLE, _MIGRATABLE = 1 << 28, 1 << 29  # attributes; every domain must have the first
_SGX = bytes.fromhex("2a864886f84d010d01")  # the object identifier of Intel's extension, 1.2.840.113741.1.13.1
_DATES = timedelta(days=30)


@dataclass(frozen=True)
class Domain:
    """What a simulated trust domain is.

    Attributes:
        mr_td: its measurement, 48 bytes; so are the registers.
        mr_config_id: what its owner configured.
        rtmrs: its registers.
        debug: whether its host may read its memory.
        movable: whether an agent that its host chooses may have its memory, to move it elsewhere.
        tcb_status: what the collateral says of its platform.
    """

    mr_td: bytes = field(default=hashlib.sha384(b"simulated").digest())
    mr_config_id: bytes = bytes(48)
    rtmrs: tuple[bytes, bytes, bytes, bytes] = (bytes(48),) * 4
    debug: bool = False
    movable: bool = False
    tcb_status: str = "UpToDate"


@dataclass(frozen=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


class SimulatedPlatform:
    """A platform with an authority of its own.

    Args:
        certificate: its root.
        key: the root's key.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._root = _Authority(certificate, key)

    @classmethod
    def made(cls, at: datetime | None = None) -> SimulatedPlatform:
        """A new one, whose certificates begin to be valid at a time, or now."""
        at = (at or datetime.now(UTC)).replace(microsecond=0)
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(_certificate("Simulated Root CA, not for trust", key, None, at, authority=True), key)

    @classmethod
    def in_folder(cls, folder: Path) -> SimulatedPlatform:
        """The one in a folder; it is made if there is none.

        Raises:
            OSError, TrustError: its files cannot be read or written.
        """
        if (folder / ROOT_NAME).exists():
            return cls(read_certificates(folder / ROOT_NAME)[0], read_private_key(folder / KEY_NAME))
        made = cls.made()
        folder.mkdir(parents=True, exist_ok=True)
        private = made._root.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomically(folder / KEY_NAME, private)
        (folder / KEY_NAME).chmod(0o600)
        write_atomically(folder / ROOT_NAME, made.root_pem)
        return made

    @property
    def root_pem(self) -> bytes:
        """The root, in PEM."""
        return self._root.certificate.public_bytes(Encoding.PEM)

    @property
    def root_der(self) -> bytes:
        """The root, in DER."""
        return self._root.certificate.public_bytes(Encoding.DER)

    def quote(
        self, report_data: bytes, domain: Domain | None = None, at: datetime | None = None
    ) -> tuple[bytes, bytes]:
        """A quote that binds 64 bytes, and its collateral.

        Args:
            report_data: what is bound.
            domain: what the quote says; None for the usual.
            at: when the collateral is issued; None for now. It is valid for 30 days.
        """
        domain = domain or Domain()
        at = (at or datetime.now(UTC)).replace(microsecond=0)
        authority = self._below("Simulated PCK Platform CA", self._root, at, authority=True)
        pck = self._below("Simulated PCK Certificate", authority, at, extension=_pck_extension())
        signer = self._below("Simulated TCB Signing", self._root, at)
        chain = b"".join(
            one.public_bytes(Encoding.PEM) for one in (pck.certificate, authority.certificate, self._root.certificate)
        )
        return _quote(report_data, domain, pck, chain), self._collateral(authority, signer, domain, at)

    def _below(
        self,
        name: str,
        issuer: _Authority,
        at: datetime,
        *,
        authority: bool = False,
        extension: x509.UnrecognizedExtension | None = None,
    ) -> _Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        return _Authority(_certificate(name, key, issuer, at, authority=authority, extension=extension), key)

    def _collateral(self, authority: _Authority, signer: _Authority, domain: Domain, at: datetime) -> bytes:
        dates = {"issueDate": timestamp(at), "nextUpdate": timestamp(at + _DATES)}
        level = {"tcbDate": timestamp(at), "tcbStatus": domain.tcb_status}
        svns = [{"svn": _SVN}] * 16
        module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "ff" * 8}
        tcb_info = {
            "id": "TDX",
            "version": 3,
            **dates,
            "fmspc": _FMSPC.hex(),
            "pceId": _PCE_ID.hex(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": 1,
            "tdxModule": module,
            "tdxModuleIdentities": [],
            "tcbLevels": [
                {**level, "tcb": {"sgxtcbcomponents": svns, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": _SVN}},
            ],
        }
        qe_identity = {
            "id": "TD_QE",
            "version": 2,
            **dates,
            "tcbEvaluationDataNumber": 1,
            "miscselect": "00" * 4,
            "miscselectMask": "ff" * 4,
            "attributes": "00" * 16,
            "attributesMask": "ff" * 16,
            "mrsigner": "00" * 32,
            "isvprodid": 1,
            "tcbLevels": [{"tcb": {"isvsvn": _SVN}, "tcbDate": timestamp(at), "tcbStatus": "UpToDate"}],
        }
        root_pem = self.root_pem.decode()
        signer_chain = signer.certificate.public_bytes(Encoding.PEM).decode() + root_pem
        tcb_text, qe_text = json.dumps(tcb_info), json.dumps(qe_identity)
        return json.dumps(
            {
                "pck_crl_issuer_chain": authority.certificate.public_bytes(Encoding.PEM).decode() + root_pem,
                "root_ca_crl": _revocations(self._root, at).hex(),
                "pck_crl": _revocations(authority, at).hex(),
                "tcb_info_issuer_chain": signer_chain,
                "tcb_info": tcb_text,
                "tcb_info_signature": _raw_signature(signer.key, tcb_text.encode()).hex(),
                "qe_identity_issuer_chain": signer_chain,
                "qe_identity": qe_text,
                "qe_identity_signature": _raw_signature(signer.key, qe_text.encode()).hex(),
            }
        ).encode()


def _quote(report_data: bytes, domain: Domain, pck: _Authority, chain: bytes) -> bytes:
    """A quote of version 4."""
    header = struct.pack("<HHIHH16s20s", 4, 2, 0x81, _SVN, _SVN, _QE_VENDOR, bytes(20))
    attributes = _SEPT_VE_DISABLE | domain.debug | (_MIGRATABLE if domain.movable else 0)
    body = b"".join(
        (
            bytes(16),  # versions of the TDX module
            bytes(48),  # its measurement, its signer and its attributes
            bytes(48),
            bytes(8),
            attributes.to_bytes(8, "little"),
            bytes(8),
            domain.mr_td,
            domain.mr_config_id,
            bytes(48),  # the owner and its configuration
            bytes(48),
            *domain.rtmrs,
            report_data,
        )
    )
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    authentication = os.urandom(32)
    enclave = b"".join(
        (
            bytes([_SVN]) * 16,
            bytes(4 + 28 + 16 + 32 + 32 + 32 + 96),
            struct.pack("<HH", 1, _SVN),
            bytes(60),
            hashlib.sha256(public + authentication).digest() + bytes(32),
        )
    )
    certification = struct.pack("<HI", 5, len(chain)) + chain
    inner = enclave + _raw_signature(pck.key, enclave) + struct.pack("<H", 32) + authentication + certification
    signature = _raw_signature(key, header + body) + public + struct.pack("<HI", 6, len(inner)) + inner
    return header + body + struct.pack("<I", len(signature)) + signature


def _raw_signature(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: _Authority | None,
    at: datetime,
    *,
    authority: bool = False,
    extension: x509.UnrecognizedExtension | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    signing_key = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(days=1))
        .not_valid_after(at + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not authority,
                key_cert_sign=authority,
                crl_sign=authority,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signing_key, hashes.SHA256())


def _revocations(authority: _Authority, at: datetime) -> bytes:
    """A list of revocations, of none."""
    return (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(at)
        .next_update(at + _DATES)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def _pck_extension() -> x509.UnrecognizedExtension:
    """Intel's extension of the certificate of a platform's key: which platform, and which versions."""
    versions = [*(_pair(b"\x02" + bytes([part]), _der(2, bytes([_SVN]))) for part in range(1, 17))]
    versions.append(_pair(b"\x02\x11", _der(2, bytes([_SVN]))))
    versions.append(_pair(b"\x02\x12", _der(4, bytes([_SVN]) * 16)))
    value = _der(
        0x30,
        _pair(b"\x01", _der(4, bytes(16)))
        + _pair(b"\x02", _der(0x30, b"".join(versions)))
        + _pair(b"\x03", _der(4, _PCE_ID))
        + _pair(b"\x04", _der(4, _FMSPC))
        + _pair(b"\x05", _der(10, b"\0")),
    )
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.840.113741.1.13.1"), value)


def _pair(part: bytes, value: bytes) -> bytes:
    return _der(0x30, _der(6, _SGX + part) + value)


def _der(tag: int, content: bytes) -> bytes:
    """A value in DER."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content
