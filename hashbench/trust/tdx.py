"""Quotes of Intel TDX: what a trust domain is, signed by its platform, and verified offline at a given time.

The library that verifies says whether Intel's chain vouches for the quote and how current the platform is. It compares
neither measurements nor report data, and returns a status that is not current instead of failing: that is appraisal's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dcap_qvl

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.documents import DocumentError, parse_document
from hashbench.model.strict_json import StrictJsonError, loads, one_line
from hashbench.trust.statements import parse_timestamp
from hashbench.trust.trust_error import TrustError

MAX_QUOTE_SIZE = 1 << 16
MAX_COLLATERAL_SIZE = 1 << 20

_DEBUG, _MIGRATABLE = 1 << 0, 1 << 29  # of a trust domain's attributes
_HEX = re.compile(r"([0-9a-fA-F]{2})*")
_FIELDS = (
    "pck_crl_issuer_chain",
    "root_ca_crl",
    "pck_crl",
    "tcb_info_issuer_chain",
    "tcb_info",
    "tcb_info_signature",
    "qe_identity_issuer_chain",
    "qe_identity",
    "qe_identity_signature",
)
_BINARY = ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature")


@dataclass(frozen=True)
class Quote:
    """What a quote says, unverified.

    Attributes:
        data: the quote.
        mr_td: the measurement of the domain as it was started.
        mr_config_id: what its owner configured.
        rtmrs: registers that were extended while it ran.
        report_data: what the domain bound to the quote.
        debug: whether its host may read its memory.
        movable: whether an agent that its host chooses may have its memory, to move it elsewhere.
    """

    data: bytes
    mr_td: bytes
    mr_config_id: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    debug: bool
    movable: bool


@dataclass(frozen=True)
class Verified:
    """What the platform's vendor says of a quote.

    Attributes:
        status: of the platform: "UpToDate", "OutOfDate" and others.
        advisories: those that apply to it.
        issued: when the older part of the collateral was issued.
    """

    status: str
    advisories: tuple[str, ...]
    issued: datetime


def parse_quote(data: bytes) -> Quote:
    """Parses a quote of a trust domain.

    Raises:
        TrustError: it is not one.
    """
    if len(data) > MAX_QUOTE_SIZE:
        raise TrustError(f"the quote has more than {MAX_QUOTE_SIZE} bytes")
    try:
        quote = dcap_qvl.parse_quote(data)
    except ValueError as error:
        raise TrustError(f"the quote is not valid: {one_line(str(error))}") from None
    report: Any = quote.report
    if not quote.is_tdx():
        raise TrustError("the quote is of an SGX enclave, not of a TDX trust domain")
    attributes = int.from_bytes(report.td_attributes, "little")
    return Quote(
        data,
        mr_td=report.mr_td,
        mr_config_id=report.mr_config_id,
        rtmrs=(report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3),
        report_data=report.report_data,
        debug=bool(attributes & _DEBUG),
        movable=bool(attributes & _MIGRATABLE),
    )


def verify_quote(quote: Quote, collateral: bytes, at: datetime, root: bytes | None = None) -> Verified:
    """Verifies a quote by its collateral, at a time.

    Args:
        quote: the quote.
        collateral: certificates, revocation lists, and what is current, in JSON.
        at: the time.
        root: another root than Intel's, in DER.

    Raises:
        VerificationError: the quote is not vouched for at that time.
        TrustError: the collateral is not valid.
    """
    fields = _parse_collateral(collateral)
    issued = min(_issue_date(fields[part], part) for part in ("tcb_info", "qe_identity"))
    try:
        parsed = dcap_qvl.QuoteCollateralV3(**{
            name: bytes.fromhex(value) if name in _BINARY else value for name, value in fields.items()
        })  # fmt: skip
        seconds = int(at.timestamp())
        if root is None:
            found = dcap_qvl.verify(quote.data, parsed, seconds)
        else:
            found = dcap_qvl.verify_with_root_ca(quote.data, parsed, root, seconds)
    except ValueError as error:
        raise VerificationError(one_line(" ".join(str(error).split()))) from None
    return Verified(found.status, tuple(found.advisory_ids), issued)


def fetch_collateral(url: str, quote: bytes) -> bytes:
    """The collateral of a quote, from a provisioning service on the network.

    Args:
        url: of the service.
        quote: the quote.

    Raises:
        TrustError: the service does not give it.
    """

    async def fetch() -> dcap_qvl.QuoteCollateralV3:
        return await dcap_qvl.get_collateral(url, quote)

    try:
        found = asyncio.run(fetch())
    except (ValueError, RuntimeError) as error:
        raise TrustError(f"{one_line(url)} gives no collateral: {one_line(str(error))}") from None
    fields = {name: getattr(found, name) for name in _FIELDS}
    return json.dumps({n: value.hex() if isinstance(value, bytes) else value for n, value in fields.items()}).encode()


def register_digest(root: bytes) -> bytes:
    """What RTMR3 is extended with for a model's root: the root itself if it fits, or its SHA-384."""
    return root if len(root) == 48 else hashlib.sha384(root).digest()


def extended(digest: bytes, register: bytes = bytes(48)) -> bytes:
    """A register's value after it was extended."""
    return hashlib.sha384(register + digest).digest()


def _parse_collateral(data: bytes) -> Mapping[str, str]:
    try:
        fields: dict[str, str] = parse_document(
            data, "collateral", version=None, max_size=MAX_COLLATERAL_SIZE, max_depth=1, package="hashbench.trust"
        )
    except DocumentError as error:
        raise TrustError(f"the collateral is not valid: {error}") from None
    for name in _BINARY:
        if not _HEX.fullmatch(fields[name]):
            raise TrustError(f"the collateral is not valid: {name} is not in hexadecimal digits")
    return fields


def _issue_date(text: str, name: str) -> datetime:
    try:
        document = loads(text.encode(), max_depth=16)
        return parse_timestamp(document["issueDate"])
    except (StrictJsonError, UnicodeEncodeError, TypeError, KeyError, TrustError):
        raise TrustError(f"the collateral is not valid: {name} has no date of issue") from None
