"""Envelopes and statements, against other implementations where they are installed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import rfc8785
from authorities import CURVES, key_of
from hypothesis import given
from hypothesis import strategies as st

from hashbench.hashing.verification_error import VerificationError
from hashbench.trust.dsse import IN_TOTO, Envelope, envelope_of, pae, signed
from hashbench.trust.keys import check_signature, sign
from hashbench.trust.statements import (
    SCAI,
    SLSA,
    SVR,
    Statement,
    Subject,
    parse_statement,
    parse_timestamp,
    scai,
    slsa,
    svr,
    timestamp,
)
from hashbench.trust.trust_error import TrustError

SUBJECT = Subject("model.json", {"sha256": "ab" * 32})
TIME = datetime(2026, 11, 26, 12, tzinfo=UTC)

STATEMENTS = {
    SCAI: scai(SUBJECT, [{"attribute": "VERIFIED", "conditions": {"where": "GPU"}}], {"uri": "urn:x"}),
    SVR: svr(SUBJECT, "urn:verifier", [{"name": "policy", "digest": {"sha256": "cd" * 32}}], TIME, ["GOOD"]),
    SLSA: slsa(SUBJECT, "urn:build", {"epochs": 3}, [{"name": "data", "digest": {"sha256": "ef" * 32}}], "urn:me"),
}


@given(st.text(), st.binary())
def test_the_encoding_that_is_signed_is_that_of_others(kind: str, payload: bytes) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse", reason="securesystemslib is not installed")
    assert pae(kind, payload) == dsse.Envelope(payload, kind, {}).pae()


def test_the_example_of_the_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("curve", CURVES)
def test_envelopes_are_accepted_by_others(curve: str) -> None:
    dsse = pytest.importorskip("securesystemslib.dsse", reason="securesystemslib is not installed")
    signer = pytest.importorskip("securesystemslib.signer")
    key = key_of(curve, 0)
    made = signed(STATEMENTS[SCAI].text(), key)
    scheme = {"P-256": "ecdsa-sha2-nistp256", "P-384": "ecdsa-sha2-nistp384", "P-521": "ecdsa-sha2-nistp521"}[curve]
    other = signer.SSlibKey.from_crypto(key.public_key(), made.keyid, scheme)
    dsse.Envelope.from_dict(made.fields()).verify([other], 1)


@pytest.mark.parametrize("kind", STATEMENTS)
def test_statements_are_read_as_they_were_written(kind: str) -> None:
    statement = STATEMENTS[kind]
    text = statement.text()
    assert text == rfc8785.dumps(json.loads(text))
    assert parse_statement(text, kind) == statement
    key = key_of("P-256", 0)
    envelope = envelope_of(json.loads(json.dumps(signed(text, key).fields())))
    assert envelope.checked(key.public_key()) == text
    with pytest.raises(VerificationError):
        envelope.checked(key_of("P-256", 1).public_key())
    with pytest.raises(TrustError, match="predicate is"):
        parse_statement(text, "urn:other")


@pytest.mark.parametrize("kind", STATEMENTS)
def test_a_predicate_without_what_it_must_have_is_refused(kind: str) -> None:
    predicate = dict(STATEMENTS[kind].predicate)
    for name in predicate.keys() - {"producer"}:
        less = {key: value for key, value in predicate.items() if key != name}
        with pytest.raises(TrustError, match="does not follow the schema"):
            parse_statement(Statement((SUBJECT,), kind, less).text(), kind)


def test_statements_of_other_predicates_may_have_any_content() -> None:
    statement = Statement((SUBJECT,), "urn:mine", {"a": [1, None, {"b": True}]})
    assert parse_statement(statement.text(), "urn:mine") == statement
    text = statement.text().replace(b"[1,", b"[1.5,")
    assert parse_statement(text, "urn:mine").predicate["a"][0] == 1.5


def test_another_type_of_payload_is_refused_though_it_is_signed() -> None:
    key = key_of("P-256", 0)
    envelope = Envelope(b"{}", "text/plain", sign(key, pae("text/plain", b"{}")))
    check_signature(key.public_key(), envelope.signature, pae("text/plain", b"{}"))
    with pytest.raises(VerificationError, match="of the type"):
        envelope.checked(key.public_key())


@pytest.mark.parametrize("count", [0, 2])
def test_an_envelope_has_one_signature(count: int) -> None:
    fields = signed(b"{}", key_of("P-256", 0)).fields()
    fields["signatures"] *= count
    with pytest.raises(TrustError, match="accepted is one"):
        envelope_of(fields)


def test_a_payload_that_is_not_base64_is_refused() -> None:
    fields = signed(b"{}", key_of("P-256", 0)).fields()
    for text in ("{}", "e30", "e30=\n", "\u00e9"):
        with pytest.raises(TrustError, match="not base64"):
            envelope_of({**fields, "payload": text, "payloadType": IN_TOTO})


def test_times_are_written_and_read_in_utc() -> None:
    assert timestamp(TIME) == "2026-11-26T12:00:00Z"
    assert parse_timestamp(timestamp(TIME)) == TIME
    for text in ("2026-11-26", "2026-11-26T12:00:00", "2026-11-26T12:00:00+00:00", ""):
        with pytest.raises(TrustError):
            parse_timestamp(text)
