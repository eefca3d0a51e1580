"""Attestation reports of AMD SEV-SNP: what a virtual machine is, signed by its processor's key.

The key's certificate (VCEK of the chip, or VLEK of a cloud) says for which firmware it is, which must be the report's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from hashbench.hashing.verification_error import VerificationError
from hashbench.trust.certificates import IsRoot, check_chain, parse_certificate, parse_certificates, with_key
from hashbench.trust.keys import check_signature
from hashbench.trust.trust_error import TrustError

SIZE = 0x4A0
"""Bytes of a report."""

AMD_ROOTS = with_key(
    "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",  # ARK-Milan
    "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",  # ARK-Genoa
    "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",  # ARK-Turin
)
"""AMD's root keys."""

_SIGNED = 0x2A0
_INTEGER = 72  # bytes of a signature's numbers, little-endian
_ECDSA_P384 = 1
_DEBUG, _MIGRATION_AGENT = 1 << 19, 1 << 18  # of the guest's policy
_VERSIONS = range(2, 6)
_ENTRY_FORMAT = struct.Struct("<16sII")
_ENTRY = _ENTRY_FORMAT.size
_CHAIN = tuple(
    bytes.fromhex(name.replace("-", ""))
    for name in (
        "63da758d-e664-4564-adc5-f4b93be8accd",  # VCEK
        "a8074bc2-a25a-483e-aae6-39c045a0b8a1",  # VLEK
        "4ab7b379-bbac-4fe4-a02f-05aef327c782",  # ASK or ASVK
        "c0b406a4-a803-4952-9743-3fb6014cd0ae",  # ARK
    )
)
_OIDS = "1.3.6.1.4.1.3704.1."
_HARDWARE_ID = x509.ObjectIdentifier(f"{_OIDS}4")
_TURIN = x509.ObjectIdentifier(f"{_OIDS}3.9")  # the version of a part that only Turin and later have
_TCB_BYTES = {"3.1": 0, "3.2": 1, "3.3": 6, "3.8": 7}  # where each part's version is in the report
_TCB_BYTES_TURIN = {"3.9": 0, "3.1": 1, "3.2": 2, "3.3": 3, "3.8": 7}


@dataclass(frozen=True)
class SnpReport:
    """What a report says, unverified.

    Attributes:
        data: the report.
        measurement: of the machine as it was started.
        report_data: what the machine bound to the report.
        debug: whether its host may read its memory.
        movable: whether an agent that its host chooses may have its memory, to move it elsewhere.
        vmpl: the privilege level of who asked, 0 the highest.
        reported_tcb: versions of the firmware.
        chip_id: of the processor.
    """

    data: bytes
    measurement: bytes
    report_data: bytes
    debug: bool
    movable: bool
    vmpl: int
    reported_tcb: bytes
    chip_id: bytes


def parse_report(data: bytes) -> SnpReport:
    """Parses a report.

    Raises:
        TrustError: it is not one.
    """
    if len(data) != SIZE:
        raise TrustError(f"the SEV-SNP report has {len(data)} bytes, not {SIZE}")

    def number(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    if number(0, 4) not in _VERSIONS or number(0x34, 4) != _ECDSA_P384:
        raise TrustError("the SEV-SNP report is of another version, or signed by another algorithm")
    return SnpReport(
        data,
        measurement=data[0x90:0xC0],
        report_data=data[0x50:0x90],
        debug=bool(number(0x08, 8) & _DEBUG),
        movable=bool(number(0x08, 8) & _MIGRATION_AGENT),
        vmpl=number(0x30, 4),
        reported_tcb=data[0x180:0x188],
        chip_id=data[0x1A0:0x1E0],
    )


def chain_in(table: bytes) -> bytes:
    """The chain in the table of certificates that a host may give with a report, in PEM; empty if it has none.

    Raises:
        TrustError: the table is not valid.
    """
    found: dict[bytes, bytes] = {}
    for start in range(0, len(table) - _ENTRY + 1, _ENTRY):
        name, offset, size = _ENTRY_FORMAT.unpack_from(table, start)
        if not any(name):
            break
        if offset + size > len(table):
            raise TrustError("the platform's table of certificates is not valid: an entry is not in it")
        found[name] = table[offset : offset + size]
    chain = [parse_certificate(found[name], "a certificate of the platform") for name in _CHAIN if name in found]
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def verify_report(report: SnpReport, chain: bytes, at: datetime, is_root: IsRoot = AMD_ROOTS) -> None:
    """Verifies a report's signature, and that its key is of this chip and firmware.

    Args:
        report: the report.
        chain: certificates in PEM, the key's first.
        at: the time at which they must be valid.
        is_root: says which are trusted.

    Raises:
        VerificationError: the report is not vouched for at that time.
        TrustError: a certificate is not valid.
    """
    leaf, *others = parse_certificates(chain, "the SEV-SNP chain")
    check_chain(leaf, others, is_root, at)
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise VerificationError("the key that signs SEV-SNP reports is not of the curve P-384")
    signature = report.data[_SIGNED:]
    r, s = (int.from_bytes(signature[start : start + _INTEGER], "little") for start in (0, _INTEGER))
    check_signature(key, encode_dss_signature(r, s), report.data[:_SIGNED])
    _check_is_of(leaf, report)


def _check_is_of(leaf: x509.Certificate, report: SnpReport) -> None:
    """Checks that a certificate is for the firmware and the chip of a report."""
    extensions = {extension.oid: extension.value for extension in leaf.extensions}

    def value(oid: x509.ObjectIdentifier) -> bytes | None:
        found = extensions.get(oid)
        return found.value if isinstance(found, x509.UnrecognizedExtension) else None

    for part, place in (_TCB_BYTES_TURIN if _TURIN in extensions else _TCB_BYTES).items():
        encoded = value(x509.ObjectIdentifier(f"{_OIDS}{part}"))
        version = None if encoded is None or encoded[:1] != b"\x02" else int.from_bytes(encoded[2:], "big")
        if version != report.reported_tcb[place]:
            raise VerificationError("the certificate is for another version of the firmware than the report says")
    hardware = value(_HARDWARE_ID)  # only of a chip's key
    if hardware is not None and any(report.chip_id) and hardware != report.chip_id:
        raise VerificationError("the certificate is of another chip than the report")
