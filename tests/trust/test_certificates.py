"""Chains of certificates: what leads to a root, and what does not."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from authorities import Issued, issue
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose

from hashbench.hashing.verification_error import VerificationError
from hashbench.trust import certificates
from hashbench.trust.certificates import (
    MAX_CERTIFICATES,
    among,
    check_chain,
    check_may_sign,
    is_self_issued,
    key_pin,
    parse_certificates,
    read_certificates,
    with_key,
)
from hashbench.trust.trust_error import TrustError

NOW = datetime.now(UTC)
ROOT = issue("root", authority=True)
BETWEEN = issue("between", ROOT, authority=True, path_length=0)
LEAF = issue("leaf", BETWEEN)


def chain(leaf: Issued, *others: Issued, roots: tuple[Issued, ...] = (ROOT,), at: datetime = NOW) -> list[str]:
    """The names in the chain that leads to a root."""
    trusted = among([root.certificate for root in roots])
    found = check_chain(leaf.certificate, [other.certificate for other in others], trusted, at)
    return [one.subject.rfc4514_string() for one in found]


def test_a_chain_leads_to_its_root_in_whatever_order() -> None:
    assert chain(LEAF, ROOT, BETWEEN) == ["CN=leaf", "CN=between", "CN=root"]
    assert chain(LEAF, BETWEEN, BETWEEN, ROOT) == ["CN=leaf", "CN=between", "CN=root"]
    assert chain(LEAF, BETWEEN, roots=(BETWEEN,)) == ["CN=leaf", "CN=between"]


CHAINS: dict[str, tuple[Issued, tuple[Issued, ...], datetime, str]] = {
    "one is missing": (LEAF, (ROOT,), NOW, "neither given nor a trusted root"),
    "another root of the same name": (LEAF, (BETWEEN, issue("root", authority=True)), NOW, "neither given"),
    "expired": (LEAF, (BETWEEN, ROOT), NOW + timedelta(days=4000), "is valid from"),
    "not valid yet": (LEAF, (BETWEEN, ROOT), NOW - timedelta(days=4), "is valid from"),
    "the root expired": (
        issue("x", issue("short", ROOT, authority=True, days=2)),
        (BETWEEN, ROOT),
        NOW + timedelta(days=3),
        "neither given",
    ),
    "issued by who must not": (issue("x", LEAF), (LEAF, BETWEEN, ROOT), NOW, "is not of an authority"),
    "too long": (
        issue("x", issue("deep", BETWEEN, authority=True)),
        (BETWEEN, ROOT),
        NOW,
        "neither given",
    ),
    "an extension that nobody knows": (
        issue("x", ROOT, critical=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\0")),
        (ROOT,),
        NOW,
        "critical extension",
    ),
}


@pytest.mark.parametrize("what", CHAINS)
def test_chains_that_are_refused(what: str) -> None:
    leaf, others, at, message = CHAINS[what]
    with pytest.raises(VerificationError, match=message):
        chain(leaf, *others, at=at)


def test_a_chain_that_is_longer_than_an_authority_allows() -> None:
    deep = issue("deep", BETWEEN, authority=True)
    with pytest.raises(VerificationError, match="too far above"):
        chain(issue("x", deep), deep, BETWEEN, ROOT)


def test_an_expired_authority_between() -> None:
    short = issue("short", ROOT, authority=True, days=2)
    with pytest.raises(VerificationError, match="is valid from"):
        chain(issue("x", short), short, ROOT, at=NOW + timedelta(days=3))


def test_roots_by_their_key() -> None:
    pinned = with_key(key_pin(ROOT.certificate))
    assert pinned(ROOT.certificate)
    assert not pinned(issue("root", authority=True).certificate)
    # A certificate of the same key that another issued is none of these roots.
    assert not with_key(key_pin(BETWEEN.certificate))(BETWEEN.certificate)
    assert is_self_issued(ROOT.certificate)
    assert not is_self_issued(BETWEEN.certificate)


def test_signatures_on_certificates_that_others_can_make(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[Any, str | None]] = [
        (rsa.generate_private_key(65537, 1024), "1024 bits, which is too short: keys of its kind must have 2048"),
        (rsa.generate_private_key(65537, 2048), None),
        (dsa.generate_private_key(1024), "1024 bits, which is too short: keys of its kind must have 2048"),
        (ec.generate_private_key(ec.SECP192R1()), "192 bits, which is too short: keys of its kind must have 224"),
        (ec.generate_private_key(ec.SECP224R1()), None),
        (ed25519.Ed25519PrivateKey.generate(), None),
    ]
    for key, reason in keys:
        between = issue("between", ROOT, authority=True, key=key)
        refusal = pytest.raises(VerificationError, match=f"'CN=x' is signed with a key of {reason}")
        with nullcontext() if reason is None else refusal:
            chain(issue("x", between), between, ROOT)
    # New releases of cryptography neither make nor verify signatures with MD5 and SHA-1.
    monkeypatch.setattr(certificates, "_LEAST_DIGEST", 33)
    with pytest.raises(VerificationError, match="'CN=leaf' is signed with sha256, which is broken"):
        chain(LEAF, BETWEEN, ROOT)
    assert chain(ROOT) == ["CN=root"]  # which is trusted for what it is, whoever signed it


def test_certificates_that_are_not_for_signing() -> None:
    check_may_sign([LEAF.certificate])
    with pytest.raises(VerificationError, match="is not for signing"):
        check_may_sign([issue("x", signs=False).certificate])


def test_an_authority_for_something_else_makes_no_signers() -> None:
    for purpose, accepted in (Purpose.SERVER_AUTH, False), (Purpose.CODE_SIGNING, True):
        usage = x509.ExtendedKeyUsage([purpose])
        between = issue("between", ROOT, authority=True, critical=usage)
        leaf = issue("x", between, critical=x509.ExtendedKeyUsage([Purpose.CODE_SIGNING]))
        found = [leaf.certificate, between.certificate, ROOT.certificate]
        with nullcontext() if accepted else pytest.raises(VerificationError, match="'CN=between' is not for signing"):
            check_may_sign(found)
        check_may_sign(found[:2])  # whoever trusts it as a root


@pytest.mark.parametrize(
    ("signs", "purposes", "accepted"),
    [
        (True, [Purpose.CODE_SIGNING], True),
        (True, [Purpose.SERVER_AUTH, Purpose.CODE_SIGNING], True),
        (True, [Purpose.ANY_EXTENDED_KEY_USAGE], True),
        (True, [Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH], False),
        (True, [Purpose.TIME_STAMPING], False),
        (False, [Purpose.CODE_SIGNING], False),
    ],
)
def test_a_certificate_for_something_else_signs_no_model(
    signs: bool, purposes: list[x509.ObjectIdentifier], accepted: bool
) -> None:
    certificate = issue("x", signs=signs, critical=x509.ExtendedKeyUsage(purposes)).certificate
    with nullcontext() if accepted else pytest.raises(VerificationError, match="is not for signing"):
        check_may_sign([certificate])


def test_files_of_certificates_are_bounded(tmp_path: Path) -> None:
    pem = LEAF.pem() + ROOT.pem()
    assert len(parse_certificates(pem, "it")) == 2
    for text in (b"", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n", pem * MAX_CERTIFICATES):
        with pytest.raises(TrustError):
            parse_certificates(text, "it")
    (tmp_path / "large.pem").write_bytes(bytes(1 << 17))
    with pytest.raises(TrustError, match="more than"):
        read_certificates(tmp_path / "large.pem")
