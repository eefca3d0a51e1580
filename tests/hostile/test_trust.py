"""Hostile signatures, quotes, evidence, certificates and policies: refused in one line, in bounded memory and time."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attestations import MANIFEST, NONCE, NOW, Gpu, SnpProcessor, appraised, attested, failed, platform, policy
from authorities import issue, key_of, write_keys
from command_line import in_process
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from model_folders import write
from profiles import examples

from hashbench.hashing.verification_error import VerificationError
from hashbench.trust import nvidia, snp, tdx
from hashbench.trust.appraisal import Appraisal
from hashbench.trust.bundles import CertificateVerifier, KeyVerifier, by_certificate, by_key, parse_bundle
from hashbench.trust.certificates import among, check_chain, check_may_sign, key_pin, parse_certificate
from hashbench.trust.dsse import signed
from hashbench.trust.evidence import COLLATERAL, GPU, QUOTE, STATEMENT, claims_of
from hashbench.trust.keys import parse_public_key
from hashbench.trust.oms import SignedFiles, signed_files
from hashbench.trust.policy import parse_policy
from hashbench.trust.trust_error import TrustError

# Of serial numbers that are not positive, as damaged certificates may have, and AMD's have.
pytestmark = pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")

REFUSED = (TrustError, VerificationError)

FILES = SignedFiles("model", {"a": bytes(32), "b/c": bytes(range(32))}, False, ("model.sig", ".git"))


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes of it changed, cut off, repeated or put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        size = draw(st.integers(0, 8))
        what = draw(st.sampled_from(("set", "cut", "repeat", "insert", "end")))
        if what == "set":
            changed[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "cut":
            del changed[place : place + size]
        elif what == "repeat":
            changed[place:place] = changed[place : place + size]
        elif what == "insert":
            changed[place:place] = draw(st.binary(max_size=8))
        else:
            del changed[place:]
    return bytes(changed)


def refused_or_read(parse: Callable[[], object]) -> None:
    """Runs a parser, whose refusals are of one printable line."""
    refusal = ""
    try:
        parse()
    except REFUSED as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert len(refusal) < 2000


BUNDLE = by_key(signed(FILES.statement().text(), key_of("P-256", 0)), key_of("P-256", 0).public_key()).text()
ROOT = issue("root", authority=True)
LEAF = issue("leaf", ROOT)
BY_CERTIFICATE = by_certificate(signed(FILES.statement().text(), LEAF.key), [LEAF.certificate, ROOT.certificate]).text()


@given(damaged(BUNDLE))
def test_damaged_bundles_verify_only_what_was_signed(data: bytes) -> None:
    verifier = KeyVerifier(key_of("P-256", 0).public_key())

    def check() -> None:
        payload, _ = verifier.payload(parse_bundle(data))
        assert payload == FILES.statement().text()

    refused_or_read(check)


@given(damaged(BY_CERTIFICATE))
def test_damaged_bundles_with_certificates_verify_only_what_was_signed(data: bytes) -> None:
    verifier = CertificateVerifier([ROOT.certificate])

    def check() -> None:
        payload, _ = verifier.payload(parse_bundle(data))
        assert payload == FILES.statement().text()

    refused_or_read(check)


@given(damaged(FILES.statement().text()))
def test_damaged_statements_of_signatures(data: bytes) -> None:
    refused_or_read(lambda: signed_files(data))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_statements_of_any_json(value: Any) -> None:
    data = json.dumps(value).encode()
    refused_or_read(lambda: signed_files(data))
    refused_or_read(lambda: claims_of(data))
    refused_or_read(lambda: parse_policy(data))
    refused_or_read(lambda: parse_bundle(data))
    refused_or_read(lambda: nvidia.parse_reports(data))


CERTIFICATE = LEAF.certificate.public_bytes(Encoding.DER)


@given(damaged(CERTIFICATE))
def test_damaged_certificates(data: bytes) -> None:
    def check() -> None:
        certificate = parse_certificate(data, "it")
        key_pin(certificate)
        check_chain(certificate, [ROOT.certificate], among([ROOT.certificate]), datetime.now(UTC))
        check_may_sign([certificate])
        assert certificate == LEAF.certificate

    refused_or_read(check)


@given(
    st.binary()
    | damaged(b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n")
)
def test_damaged_keys(data: bytes) -> None:
    with pytest.raises(TrustError):
        parse_public_key(data, "it")


# Evidence.

ATTESTED = attested()


@given(damaged(ATTESTED[QUOTE]) | st.binary())
def test_damaged_quotes(data: bytes) -> None:
    def check() -> None:
        quote = tdx.parse_quote(data)
        tdx.verify_quote(quote, ATTESTED[COLLATERAL], NOW + timedelta(seconds=10), platform().root_der)
        right = tdx.parse_quote(ATTESTED[QUOTE])
        assert (quote.mr_td, quote.report_data, quote.rtmrs) == (right.mr_td, right.report_data, right.rtmrs)

    refused_or_read(check)


@given(damaged(ATTESTED[COLLATERAL]))
def test_damaged_collateral(data: bytes) -> None:
    quote = tdx.parse_quote(ATTESTED[QUOTE])
    refused_or_read(lambda: tdx.verify_quote(quote, data, NOW + timedelta(seconds=10), platform().root_der))


@pytest.mark.parametrize("name", sorted(json.loads(ATTESTED[COLLATERAL])))
@pytest.mark.parametrize("value", ["", "00", "zz", "{}", "[]", "\x00", "é", "-----BEGIN CERTIFICATE-----", "1" * 5000])
def test_collateral_with_any_field_is_refused(name: str, value: str) -> None:
    quote = tdx.parse_quote(ATTESTED[QUOTE])
    data = json.dumps(json.loads(ATTESTED[COLLATERAL]) | {name: value}).encode()
    if name == "pck_crl_issuer_chain":  # which the library does not need
        refused_or_read(lambda: tdx.verify_quote(quote, data, NOW + timedelta(seconds=10), platform().root_der))
        return
    with pytest.raises(REFUSED):
        tdx.verify_quote(quote, data, NOW + timedelta(seconds=10), platform().root_der)


PROCESSOR = SnpProcessor()
SNP_REPORT, SNP_CHAIN = PROCESSOR.report(bytes(64)), PROCESSOR.chain()


@given(damaged(SNP_REPORT), damaged(SNP_CHAIN))
@examples(30)
def test_damaged_reports_of_processors(report: bytes, chain: bytes) -> None:
    for data, certificates in ((report, SNP_CHAIN), (SNP_REPORT, chain)):

        def check(data: bytes = data, certificates: bytes = certificates) -> None:
            snp.verify_report(snp.parse_report(data), certificates, datetime.now(UTC), PROCESSOR.is_root)
            assert data[:0x2A0] == SNP_REPORT[:0x2A0]

        refused_or_read(check)


@given(st.binary(max_size=200))
def test_any_table_of_certificates(data: bytes) -> None:
    refused_or_read(lambda: snp.chain_in(data))


GPU_AT_HAND = Gpu()
GPU_REPORT, GPU_CHAIN = GPU_AT_HAND.report(bytes(32))


@given(damaged(GPU_REPORT) | st.binary())
def test_damaged_reports_of_gpus(data: bytes) -> None:
    def check() -> None:
        nvidia.verify_report(nvidia.parse_report(data, GPU_CHAIN), datetime.now(UTC), GPU_AT_HAND.is_root)
        assert data == GPU_REPORT

    refused_or_read(check)


@given(st.sampled_from(sorted({*ATTESTED, GPU, "snp.report", "model.sig"})), st.data())
@examples(30)
def test_damaged_attestations_are_refused(name: str, data: st.DataObject) -> None:
    right = ATTESTED.get(name, b'[{"certificate":"","evidence":""}]')
    changed = data.draw(damaged(right))
    if changed == right or name in ("snp.report", "model.sig"):  # the policy asks for neither
        return

    def check() -> None:
        found = appraised(ATTESTED | {name: changed})
        assert not found.ok or name in (COLLATERAL, QUOTE)  # where a part may be of no meaning

    refused_or_read(check)


# Bounds.


def statement(**serialization: Any) -> bytes:
    document = json.loads(FILES.statement().text())
    document["predicate"]["serialization"] |= serialization
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (statement(method="shards"), "accepted is 'files' by 'sha256'"),
        (statement(hash_type="blake3"), "accepted is 'files' by 'sha256'"),
        (statement(ignore_paths=["../x"]), "ignored paths"),
        (statement(ignore_paths=["."]), "ignored paths"),
        (statement(ignore_paths=[""]), "ignored paths"),
        (statement(ignore_paths=[str(number) for number in range(300)]), "the most is"),
        (statement(ignore_paths=["a\0"]), "ignored paths"),
        (
            FILES.statement().text().replace(b'{"algorithm"', b'{"annotations":{"hashbench":"manifest"},"algorithm"'),
            "several files",
        ),
        (SignedFiles("m", {"../a": bytes(32)}, False, ()).statement().text(), "not a path"),
        (SignedFiles("m", {"/etc/passwd": bytes(32)}, False, ()).statement().text(), "not a path"),
        (SignedFiles("m", {"a//b": bytes(32)}, False, ()).statement().text(), "not a path"),
        (SignedFiles("m", {"a\0": bytes(32)}, False, ()).statement().text(), "not a path"),
        (SignedFiles("m", {".": bytes(32), "a": bytes(32)}, False, ()).statement().text(), "lists others"),
        (FILES.statement().text().replace(b'"name":"b/c"', b'"name":"a"'), "twice"),
        (FILES.statement().text().replace(b"00" * 32, b"01" * 32), "is not that of the files"),
        (FILES.statement().text().replace(b'"algorithm":"sha256"', b'"algorithm":"md5"'), "not by 'sha256'"),
        (b"[" * 100 + b"]" * 100, "nest"),
    ],
)
def test_statements_that_are_refused_though_they_are_signed(payload: bytes, message: str) -> None:
    with pytest.raises(TrustError, match=message) as caught:
        signed_files(payload)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/vnd.dev.sigstore.bundle.v0.2+json"},
        {"verificationMaterial": []},
        {"dsseEnvelope": {}},
    ],
)
def test_bundles_of_other_kinds(change: dict[str, Any]) -> None:
    with pytest.raises(TrustError, match="schema"):
        parse_bundle(json.dumps(json.loads(BUNDLE) | change).encode())


def test_a_bundle_with_many_certificates_is_refused() -> None:
    document = json.loads(BY_CERTIFICATE)
    listed = document["verificationMaterial"]["x509CertificateChain"]["certificates"]
    document["verificationMaterial"]["x509CertificateChain"]["certificates"] = listed * 10
    with pytest.raises(TrustError, match="schema"):
        parse_bundle(json.dumps(document).encode())


def test_certificates_that_issue_each_other_end() -> None:
    """A circle of authorities is followed once around."""
    first = issue("one", authority=True)
    # The same name and key, issued by an authority that it issued itself.
    second = issue("two", first, authority=True)
    with pytest.raises(VerificationError, match="ends at"):
        check_chain(issue("x", second).certificate, [second.certificate, first.certificate], among([]), NOW)


def test_a_policy_that_asks_for_no_platform_or_no_model_is_refused() -> None:
    for document in (
        {"kind": "hashbench-policy", "version": 1, "model": {}, "tdx": {}},
        {"kind": "hashbench-policy", "version": 1, "model": {"roots": ["00" * 32]}},
        {"kind": "hashbench-policy", "version": 2, "model": {"roots": ["00" * 32]}, "tdx": {}},
        {"kind": "hashbench-policy", "version": 1, "model": {"roots": ["00" * 32]}, "tdx": {"mrtd": []}},
        {"kind": "hashbench-policy", "version": 1, "model": {"roots": ["00" * 32]}, "tdx": {"mr_td": []}},
        {"kind": "hashbench-policy", "version": 1, "model": {"roots": ["00" * 32]}, "tdx": {"debug": True}},
        {
            "kind": "hashbench-policy",
            "version": 1,
            "model": {"roots": ["00" * 32]},
            "tdx": {"tcb_statuses": ["Revoked"]},
        },
    ):
        with pytest.raises(TrustError):
            parse_policy(json.dumps(document).encode())


def test_names_in_a_signature_change_nothing_but_their_line(tmp_path: Path) -> None:
    _, public = write_keys(tmp_path / "keys")
    model = write(tmp_path / "model", {"a": b"a"})
    name = "\x1b[2J\u202eevil\nverified: all"
    files = SignedFiles("model", {name: bytes(32)}, False, ("model.sig",))
    key = key_of("P-256", 0)
    (model / "model.sig").write_bytes(by_key(signed(files.statement().text(), key), key.public_key()).text())
    done = in_process("verify", model, "--signature", model / "model.sig", "--public-key", public)
    assert done.returncode == 1
    assert [line.partition(b":")[0] for line in done.stdout.splitlines()] == [b"missing", b"extra"]
    assert b"\x1b" not in done.stdout


def test_nothing_is_fetched_from_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    private, public = write_keys(tmp_path / "keys")
    model = write(tmp_path / "model", {"a": b"a"})
    assert in_process("sign", model, "--key", private, "--kernel", "hashlib").returncode == 0
    options = ("verify", model, "--signature", model / "model.sig")
    assert in_process(*options, "--public-key", public).returncode == 0
    assert appraised(attested()).ok
    pytest.importorskip("sigstore", reason="sigstore is not installed: install hashbench[keyless]")
    done = in_process(*options, "--identity", "a@example.com", "--identity-provider", "https://example.com")
    assert done.returncode == 2
    assert b"Sigstore does not accept" in done.stderr


def test_evidence_of_many_gpus_is_refused() -> None:
    one = {"certificate": "", "evidence": b64encode(GPU_REPORT).decode()}
    assert len(nvidia.parse_reports(json.dumps([one] * 16).encode())) == 16
    with pytest.raises(TrustError, match="not valid"):
        nvidia.parse_reports(json.dumps([one] * 17).encode())
    with pytest.raises(TrustError, match="more than"):
        nvidia.parse_reports(b" " * (nvidia.MAX_SIZE + 1))


@pytest.mark.parametrize("before", [b"", b"\n", b"# the second GPU\n"])
def test_one_gpu_is_not_counted_twice(before: bytes) -> None:
    def report() -> tuple[bytes, bytes]:
        return GPU_AT_HAND.report(nvidia.nonce_for(NONCE))

    def found(chain: bytes, count: int) -> Appraisal:
        evidence = nvidia.reports_text([(first, right), (second, chain)])
        asked = policy(gpu={"required": True, "count": count})
        return appraised(attested(gpu=lambda _: evidence), asked, nvidia_root=GPU_AT_HAND.is_root)

    (first, right), (second, again) = report(), report()
    for count in 1, 2:
        assert failed(found(before + again, count)) == {"GPU count"}
        reason = f"failed: GPU count: reports: 2; different GPUs: 1; accepted: {count}"
        assert reason in found(before + again, count).lines()
    assert failed(found(b"", 2)) == failed(found(b"no certificate", 2)) == {"GPU evidence", "GPU count"}


def test_two_gpus_are_counted() -> None:
    nonce = nvidia.nonce_for(NONCE)
    other = Gpu()
    both = nvidia.reports_text([GPU_AT_HAND.report(nonce), other.report(nonce)])
    asked = policy(gpu={"required": True, "count": 2})

    def is_root(certificate: x509.Certificate) -> bool:
        return GPU_AT_HAND.is_root(certificate) or other.is_root(certificate)

    found = appraised(attested(gpu=lambda _: both), asked, nvidia_root=is_root)
    assert found.ok, list(found.lines())


def test_a_statement_is_no_larger_than_it_needs_to_be() -> None:
    assert len(ATTESTED[STATEMENT]) < 1000
    assert MANIFEST.root.hex().encode() in ATTESTED[STATEMENT]
