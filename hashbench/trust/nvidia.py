"""Attestation reports of NVIDIA GPUs: firmware and confidential mode, signed by the GPU's own key.

A report is an SPDM exchange: the request with a nonce, and the response with measurements and what describes the GPU.
It vouches for firmware and mode, never for the contents of memory, and not for where the GPU is: a report that was
relayed from another machine is genuine too.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hashbench.hashing.verification_error import VerificationError
from hashbench.model import canonical_json
from hashbench.model.documents import DocumentError, parse_document
from hashbench.trust.certificates import IsRoot, check_chain, key_pin, parse_certificates, with_key
from hashbench.trust.dsse import from_base64
from hashbench.trust.keys import check_signature
from hashbench.trust.trust_error import TrustError

NVIDIA_ROOT = with_key("a90c4eb5acfd3e3d03a25db6a26b84f720ad0503196c627c21ddd48dd85b06a4")
"""NVIDIA's device identity root."""

MAX_GPUS = 16
MAX_SIZE = 1 << 20
"""The largest file of reports that is read, in bytes."""

NONCE_SIZE = 32

_REQUEST = 37  # bytes: version, code and parameters, nonce, slot
_GET_MEASUREMENTS, _MEASUREMENTS = 0xE0, 0x60
_NUMBER = 48  # bytes of each number of a signature
_DRIVER, _VBIOS, _FIRMWARE = 3, 6, 20  # kinds of opaque fields
_CHAIN = "the GPU's chain"  # in errors
_FWID = x509.ObjectIdentifier("2.23.133.5.4.1")


@dataclass(frozen=True)
class GpuReport:
    """What a GPU says, unverified.

    Attributes:
        data: the exchange, request and response.
        chain: certificates in PEM, the GPU's first.
        nonce: the one in the request.
        measurements: by their index: of firmware and configuration.
        driver: the driver's version.
        vbios: the version of the video BIOS.
        firmware: a digest of the firmware that signed.
    """

    data: bytes
    chain: bytes
    nonce: bytes
    measurements: Mapping[int, bytes]
    driver: str
    vbios: str
    firmware: bytes

    @property
    def key_pin(self) -> str:
        """What tells GPUs apart: the pin of the key that signs, which is the GPU's own. Its chain has many encodings.

        Raises:
            TrustError: the chain has no valid certificate.
        """
        return key_pin(parse_certificates(self.chain, _CHAIN)[0])


class _Reader:
    """Takes fields from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._place = data, 0

    def take(self, size: int) -> bytes:
        found = self._data[self._place : self._place + size]
        if len(found) != size:
            raise TrustError("the GPU's report is not valid: it ends early")
        self._place += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    @property
    def left(self) -> int:
        return len(self._data) - self._place


def nonce_for(nonce: bytes) -> bytes:
    """The nonce that a GPU is asked with, for the verifier's."""
    return hashlib.sha256(b"hashbench GPU evidence\0" + nonce).digest()


def parse_reports(data: bytes) -> list[GpuReport]:
    """Parses a file of reports: a JSON list of objects with `evidence` and `certificate` in base64, as NVIDIA's.

    Raises:
        TrustError: it is not valid.
    """
    try:
        listed: Sequence[Mapping[str, Any]] = parse_document(
            data, "gpu", version=None, max_size=MAX_SIZE, max_depth=2, package="hashbench.trust"
        )
    except DocumentError as error:
        raise TrustError(f"the GPU evidence is not valid: {error}") from None
    return [
        parse_report(from_base64(one["evidence"], "a GPU's report"), from_base64(one["certificate"], "a GPU's chain"))
        for one in listed
    ]


def parse_report(data: bytes, chain: bytes) -> GpuReport:
    """Parses a report.

    Raises:
        TrustError: it is not one.
    """
    reader = _Reader(data)
    request, response = _Reader(reader.take(_REQUEST)), reader
    _, code = request.number(1), request.number(1)
    request.take(2)
    nonce = request.take(NONCE_SIZE)
    _, answer = response.number(1), response.number(1)
    if (code, answer) != (_GET_MEASUREMENTS, _MEASUREMENTS):
        raise TrustError("the GPU's report is not valid: it is not of measurements")
    response.take(2)
    count = response.number(1)
    record = _Reader(response.take(response.number(3)))
    measurements: dict[int, bytes] = {}
    for _ in range(count):
        index, _ = record.number(1), record.number(1)
        block = _Reader(record.take(record.number(2)))
        block.take(1)
        if index in measurements:
            raise TrustError(f"the GPU's report is not valid: it has the measurement {index} twice")
        measurements[index] = block.take(block.number(2))
    response.take(NONCE_SIZE)  # the GPU's own
    opaque = _Reader(response.take(response.number(2)))
    fields: dict[int, bytes] = {}
    while opaque.left:
        kind = opaque.number(2)
        if kind in fields:
            raise TrustError(f"the GPU's report is not valid: it has the field {kind} twice")
        fields[kind] = opaque.take(opaque.number(2))
    if response.left != 2 * _NUMBER or record.left:
        raise TrustError("the GPU's report is not valid: it is longer than what it holds")
    return GpuReport(
        data,
        chain,
        nonce,
        measurements,
        driver=_text(fields.get(_DRIVER, b"")),
        vbios=_version(fields.get(_VBIOS, b"")),
        firmware=fields.get(_FIRMWARE, b""),
    )


def verify_report(report: GpuReport, at: datetime, is_root: IsRoot = NVIDIA_ROOT) -> None:
    """Verifies a report's signature, and that its key is of the firmware that it says. Revocation is not looked up.

    Args:
        report: the report.
        at: the time at which its certificates must be valid.
        is_root: says which are trusted.

    Raises:
        VerificationError: the report is not vouched for at that time.
        TrustError: a certificate is not valid.
    """
    leaf, *others = parse_certificates(report.chain, _CHAIN)
    check_chain(leaf, others, is_root, at)
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise VerificationError("the key that signs GPU reports is not of the curve P-384")
    signature = report.data[-2 * _NUMBER :]
    r, s = int.from_bytes(signature[:_NUMBER], "big"), int.from_bytes(signature[_NUMBER:], "big")
    check_signature(key, encode_dss_signature(r, s), report.data[: -2 * _NUMBER])
    try:
        extension = leaf.extensions.get_extension_for_oid(_FWID).value
    except x509.ExtensionNotFound:
        raise VerificationError("the GPU's certificate does not say of which firmware it is") from None
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(report.firmware) != _NUMBER or not value.endswith(report.firmware):
        raise VerificationError("the GPU's certificate is of other firmware than the report says")


def collect(nonce: bytes) -> bytes | None:
    """The reports of all GPUs of this machine, by NVIDIA's driver, for `parse_reports`.

    Args:
        nonce: 32 bytes, from `nonce_for`.

    Returns:
        None if there is no driver, or no GPU in confidential mode.
    """
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        reports = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
            found = pynvml.nvmlDeviceGetConfComputeGpuAttestationReport(gpu, nonce)
            chain = pynvml.nvmlDeviceGetConfComputeGpuCertificate(gpu)
            reports.append(
                (
                    bytes(found.attestationReport[: found.attestationReportSize]),
                    bytes(chain.attestationCertChain[: chain.attestationCertChainSize]),
                )
            )
    except pynvml.NVMLError:  # as outside confidential mode
        return None
    finally:
        pynvml.nvmlShutdown()
    return reports_text(reports) if reports else None


def reports_text(reports: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The file of reports, each with its chain."""
    return canonical_json.dumps(
        [
            {"certificate": b64encode(chain).decode(), "evidence": b64encode(report).decode()}
            for report, chain in reports
        ]
    )


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")


def _version(field: bytes) -> str:
    """A version of the video BIOS, as the driver writes it: four bytes, the last first, and one more."""
    if len(field) != 8:
        return ""
    return ".".join(f"{byte:02X}" for byte in (*reversed(field[:4]), field[4]))
