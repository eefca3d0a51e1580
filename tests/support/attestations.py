"""Attestations of a small model on simulated platforms, and policies for them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from authorities import Issued, issue
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.trust.appraisal import FAILED, Appraisal, appraise
from hashbench.trust.attestation import Provider, Verdict, attest
from hashbench.trust.certificates import among
from hashbench.trust.evidence import COLLATERAL, QUOTE
from hashbench.trust.nvidia import reports_text
from hashbench.trust.policy import Policy, parse_policy
from hashbench.trust.simulated import Domain, SimulatedPlatform

NOW = datetime.now(UTC).replace(microsecond=0)
NONCE = bytes(range(32))

MANIFEST = Manifest("sha256", 4096, (TensorEntry("weight", "U8", (3,), 3, hashlib.sha256(b"\0abc").digest()),))
DIGEST = hashlib.sha256(MANIFEST.text()).hexdigest()

IN_MEMORY = Verdict(True, "gpu memory")

Files = dict[str, bytes]


@cache
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.made(NOW - timedelta(days=100))


def provider(domain: Domain | None = None, at: datetime = NOW, on: SimulatedPlatform | None = None) -> Provider:
    """The simulated platform, or another, with a domain and collateral of a time."""

    def provide(report_data: bytes) -> Mapping[str, bytes]:
        quote, collateral = (on or platform()).quote(report_data, domain, at)
        return {QUOTE: quote, COLLATERAL: collateral}

    return provide


def attested(
    by: Provider | None = None,
    *,
    verdict: Verdict | None = IN_MEMORY,
    nonce: bytes = NONCE,
    manifest: Manifest = MANIFEST,
    gpu: Callable[[bytes], bytes | None] = lambda nonce: None,
    signature: bytes | None = None,
    time: datetime = NOW,
) -> Files:
    """An attestation that is right but for what is said."""
    by = by or provider()
    return attest(manifest, "model.json", verdict, nonce, by, gpu=gpu, signature=signature, time=time)


def policy(**parts: Any) -> Policy:
    """A policy that asks for this very model and domain, and for what else is said."""
    domain = Domain()
    tdx = {
        "mr_td": [domain.mr_td.hex()],
        **{f"rtmr{number}": [value.hex()] for number, value in enumerate(domain.rtmrs)},
        "max_collateral_age_days": 20,
    }
    document = {
        "kind": "hashbench-policy",
        "version": 1,
        "model": {"manifests": [DIGEST], "roots": [MANIFEST.root.hex()]},
        "max_age_seconds": 3600,
        "tdx": tdx,
        **parts,
    }
    return parse_policy(json.dumps({name: value for name, value in document.items() if value is not None}).encode())


def appraised(files: Files, asked: Policy | None = None, *, simulated: bool = True, **options: Any) -> Appraisal:
    """The appraisal of an attestation, with the simulated platform's root."""
    root = x509.load_der_x509_certificate(platform().root_der) if simulated else None
    given: dict[str, Any] = {"nonce": NONCE, "at": NOW + timedelta(seconds=10), "simulated_root": root} | options
    nonce, at = given.pop("nonce"), given.pop("at")
    return appraise(files, nonce, asked or policy(), at, **given)


def failed(found: Appraisal) -> set[str]:
    """The names of the checks that failed."""
    return {check.name for check in found.checks if check.state == FAILED}


class Gpu:
    """A GPU with an authority of its own, which answers as NVIDIA's do.

    Args:
        firmware: the digest of its firmware, 48 bytes; its certificate is of this one.
    """

    def __init__(self, firmware: bytes = b"f" * 48) -> None:
        self.firmware = firmware
        self._root = issue("GPU root", authority=True, curve="P-384")
        self._key = self._leaf(firmware)
        self.is_root = among([self._root.certificate])

    def _leaf(self, firmware: bytes) -> Issued:
        key = ec.generate_private_key(ec.SECP384R1())
        made = issue("GPU", self._root, curve="P-384").certificate
        builder = (
            x509.CertificateBuilder()
            .subject_name(made.subject)
            .issuer_name(self._root.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(made.not_valid_before_utc)
            .not_valid_after(made.not_valid_after_utc)
            .add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier("2.23.133.5.4.1"), b"0" + firmware), critical=False
            )
        )
        return Issued(builder.sign(self._root.key, hashes.SHA384()), key)

    def report(self, nonce: bytes, measurements: Mapping[int, bytes] | None = None) -> tuple[bytes, bytes]:
        """A report, and its chain."""
        blocks = b"".join(
            struct.pack("<BBHBH", index, 1, len(value) + 3, 1, len(value)) + value
            for index, value in (measurements or {1: b"m" * 48}).items()
        )
        fields = {3: b"590.12\0", 6: bytes.fromhex("00a5009601000000"), 20: self.firmware}
        opaque = b"".join(struct.pack("<HH", kind, len(value)) + value for kind, value in fields.items())
        count = len(measurements or {1: b""})
        response = bytes([0x11, 0x60, 0, 0, count]) + len(blocks).to_bytes(3, "little") + blocks
        response += bytes(32) + struct.pack("<H", len(opaque)) + opaque
        signed = bytes([0x11, 0xE0, 1, 0xFF]) + nonce + b"\0" + response
        r, s = decode_dss_signature(self._key.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        chain = self._key.pem() + self._root.pem()
        return signed + r.to_bytes(48, "big") + s.to_bytes(48, "big"), chain

    def evidence(self, nonce: bytes) -> bytes:
        """The file of its one report."""
        return reports_text([self.report(nonce)])


class SnpProcessor:
    """A processor of SEV-SNP with an authority of its own."""

    TCB = bytes([1, 2, 0, 0, 0, 0, 6, 7])
    CHIP = b"c" * 64

    def __init__(self) -> None:
        self._root = issue("ARK", authority=True, curve="P-384")
        self._between = issue("ASK", self._root, authority=True, curve="P-384")
        self.is_root = among([self._root.certificate])

    def provider(self, **changes: Any) -> Provider:
        """Makes reports; `changes` are those of `report`."""
        return lambda report_data: {
            "snp.report": self.report(report_data, **changes.get("report", {})),
            "snp.certificates.pem": self.chain(**changes.get("chain", {})),
        }

    def chain(self, tcb: bytes = TCB, chip: bytes = CHIP) -> bytes:
        """The chain of its key, in PEM."""
        made = issue("VCEK", self._between, curve="P-384").certificate
        key = self._vcek
        builder = (
            x509.CertificateBuilder()
            .subject_name(made.subject)
            .issuer_name(self._between.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(made.not_valid_before_utc)
            .not_valid_after(made.not_valid_after_utc)
        )
        for part, place in {"3.1": 0, "3.2": 1, "3.3": 6, "3.8": 7}.items():
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.3704.1.{part}")
            value = x509.UnrecognizedExtension(oid, bytes([2, 1, tcb[place]]))
            builder = builder.add_extension(value, critical=False)
        hardware = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.3704.1.4"), chip)
        leaf = builder.add_extension(hardware, critical=False).sign(self._between.key, hashes.SHA384())
        return Issued(leaf, key).pem() + self._between.pem() + self._root.pem()

    def report(
        self, report_data: bytes, *, debug: bool = False, movable: bool = False, vmpl: int = 0, version: int = 2
    ) -> bytes:
        """A report that binds 64 bytes."""
        data = bytearray(0x2A0)
        struct.pack_into("<I", data, 0, version)
        struct.pack_into("<Q", data, 8, (1 << 17) | (movable << 18) | (debug << 19))
        struct.pack_into("<II", data, 0x30, vmpl, 1)
        data[0x50:0x90] = report_data
        data[0x90:0xC0] = b"m" * 48
        data[0x180:0x188] = self.TCB
        data[0x1A0:0x1E0] = self.CHIP
        r, s = decode_dss_signature(self._vcek.sign(bytes(data), ec.ECDSA(hashes.SHA384())))
        return bytes(data) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(0x200 - 144)

    @property
    def _vcek(self) -> ec.EllipticCurvePrivateKey:
        return _vcek()


@cache
def _vcek() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())
