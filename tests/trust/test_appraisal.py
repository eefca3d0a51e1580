"""Appraisal: what is right is accepted, and every forgery is refused by the check that is there for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib.resources import files
from typing import Any

import jsonschema_rs
import pytest
from attestations import (
    DIGEST,
    MANIFEST,
    NONCE,
    NOW,
    Files,
    Gpu,
    SnpProcessor,
    appraised,
    attested,
    failed,
    platform,
    policy,
    provider,
)
from authorities import issue, key_of, public_pem
from cryptography import x509

from hashbench.trust.appraisal import NOT_ASKED, PASSED
from hashbench.trust.attestation import Verdict
from hashbench.trust.bundles import by_key
from hashbench.trust.dsse import signed
from hashbench.trust.evidence import COLLATERAL, GPU, QUOTE, STATEMENT, claims_of, report_data_of
from hashbench.trust.nvidia import nonce_for, reports_text
from hashbench.trust.oms import SignedFiles
from hashbench.trust.policy import Policy
from hashbench.trust.simulated import Domain, SimulatedPlatform
from hashbench.trust.statements import SVR, parse_statement
from hashbench.trust.tdx import extended, register_digest
from hashbench.trust.trust_error import TrustError

UNVERIFIED = {"quote", "TCB status", "collateral age"}
"""What fails where the vendor's chain does not vouch for a quote."""


def test_what_is_right_is_accepted() -> None:
    found = appraised(attested())
    assert failed(found) == set()
    assert found.ok
    states = {check.name: check.state for check in found.checks}
    assert states.pop("signer") == NOT_ASKED
    assert states.pop("MRCONFIGID") == NOT_ASKED
    assert states.pop("GPU evidence") == NOT_ASKED
    assert set(states.values()) == {PASSED}
    assert list(found.lines())[-1] == f"accepted: on a simulated platform, which proves nothing: manifest {DIGEST}"


def forged(change: Callable[[Files], object]) -> Files:
    files = attested()
    change(files)
    return files


def rewritten(files: Files, **changes: Any) -> None:
    """Edits the statement, as who has no quote for another can."""
    files[STATEMENT] = replace(claims_of(files[STATEMENT]), **changes).statement().text()


def other_root(files: Files) -> None:
    rewritten(files, root=bytes(32))


def other_manifest(files: Files) -> None:
    rewritten(files, manifest=bytes(32))


def another_verdict(files: Files) -> None:
    made = attested(verdict=Verdict(False, "disk"))
    files |= made
    rewritten(files, verified=True)


def quote_of_another(files: Files) -> None:
    made = attested(verdict=None)
    files |= {name: made[name] for name in (QUOTE, COLLATERAL)}


def flipped(name: str, place: int) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        data = bytearray(files[name])
        data[place] ^= 1
        files[name] = bytes(data)

    return change


OTHER = hashlib.sha384(b"other").digest()
FORGERIES: dict[str, tuple[Callable[[], Files], set[str]]] = {
    "old evidence, of another nonce": (lambda: attested(nonce=bytes(32)), {"nonce"}),
    "an old statement": (lambda: attested(time=NOW - timedelta(hours=2)), {"age"}),
    "a statement from the future": (lambda: attested(time=NOW + timedelta(hours=2)), {"age"}),
    "a statement that claims another root": (lambda: forged(other_root), {"root", "report data"}),
    "a statement that claims another manifest": (lambda: forged(other_manifest), {"manifest", "report data"}),
    "a statement that claims another verdict": (lambda: forged(another_verdict), {"report data"}),
    "the quote of another statement": (lambda: forged(quote_of_another), {"report data"}),
    "an old model that was verified": (
        lambda: attested(manifest=replace(MANIFEST, chunk_size=64)),
        {"manifest", "root"},
    ),
    "a model that differs": (lambda: attested(verdict=Verdict(False, "gpu memory")), {"verdict"}),
    "a model that nobody hashed": (lambda: attested(verdict=None), {"verdict"}),
    "a domain with other software": (lambda: attested(provider(Domain(mr_td=OTHER))), {"MRTD"}),
    "a domain with another register": (
        lambda: attested(provider(Domain(rtmrs=(bytes(48), OTHER, bytes(48), bytes(48))))),
        {"RTMR1"},
    ),
    "a domain in debug mode": (lambda: attested(provider(Domain(debug=True))), UNVERIFIED | {"debug"}),
    "a domain that its host may move": (lambda: attested(provider(Domain(movable=True))), UNVERIFIED | {"migration"}),
    "a platform that is out of date": (
        lambda: attested(provider(Domain(tcb_status="OutOfDate"))),
        {"TCB status"},
    ),
    "a platform that is revoked": (lambda: attested(provider(Domain(tcb_status="Revoked"))), UNVERIFIED),
    "a foreign root": (lambda: attested(provider(on=SimulatedPlatform.made())), UNVERIFIED),
    "stale collateral": (lambda: attested(provider(at=NOW - timedelta(days=25))), {"collateral age"}),
    "expired collateral": (lambda: attested(provider(at=NOW - timedelta(days=40))), UNVERIFIED),
    "a quote with another measurement written into it": (
        lambda: forged(flipped(QUOTE, 48 + 136)),
        UNVERIFIED | {"MRTD"},
    ),
    "a quote with other report data written into it": (
        lambda: forged(flipped(QUOTE, 48 + 520)),
        UNVERIFIED | {"report data"},
    ),
    "no collateral": (lambda: forged(lambda files: files.pop(COLLATERAL)), UNVERIFIED),
    "no quote": (lambda: forged(lambda files: files.pop(QUOTE)), {"platform"}),
    "no quote that can be read": (lambda: forged(lambda files: files.update({QUOTE: b"quote"})), {"quote"}),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_every_forgery_is_named(forgery: str) -> None:
    make, names = FORGERIES[forgery]
    found = appraised(make())
    assert not found.ok
    assert not found  # as who writes `assert appraise(...)` has it
    assert failed(found) == names


def test_a_simulated_platform_is_refused_unless_its_root_is_named() -> None:
    found = appraised(attested(), simulated=False)
    assert failed(found) == UNVERIFIED
    assert not found.simulated


def test_what_the_offsets_of_a_quote_are() -> None:
    """Those of the specification, which the forgeries above write to."""
    quote = attested()[QUOTE]
    assert quote[48 + 136 : 48 + 184] == Domain().mr_td
    assert quote[48 + 520 : 48 + 584] == report_data_of(attested()[STATEMENT])


def test_another_place_than_the_policy_asks() -> None:
    files = attested(verdict=Verdict(True, "disk"))
    assert appraised(files).ok
    assert failed(appraised(files, policy(verified_in=["gpu memory"]))) == {"verdict"}
    assert appraised(files, policy(verified_in=["gpu memory", "disk"])).ok


def test_a_status_that_the_policy_accepts() -> None:
    files = attested(provider(Domain(tcb_status="SWHardeningNeeded")))
    assert failed(appraised(files)) == {"TCB status"}
    assert appraised(files, policy(tdx={"tcb_statuses": ["UpToDate", "SWHardeningNeeded"]})).ok


def test_a_register_that_was_extended_with_the_root() -> None:
    register = extended(register_digest(MANIFEST.root))
    files = attested(provider(Domain(rtmrs=(bytes(48), bytes(48), bytes(48), register))))
    assert appraised(files, policy(tdx={"rtmr3": "root"})).ok
    assert failed(appraised(attested(), policy(tdx={"rtmr3": "root"}))) == {"RTMR3"}
    assert failed(appraised(files)) == {"RTMR3"}


# Signers.


def signature_of(digest: bytes, manifest: str | None = "model.json") -> bytes:
    key = key_of("P-256", 0)
    files = SignedFiles("model", {"model.json": digest, "other.json": bytes(32)}, False, (), manifest)
    return by_key(signed(files.statement().text(), key), key.public_key()).text()


def by_signers(*numbers: int) -> Policy:
    return policy(model={"signers": [public_pem(key_of("P-256", number)).decode() for number in numbers]})


def test_a_signer_of_the_policy() -> None:
    files = attested(signature=signature_of(bytes.fromhex(DIGEST)))
    found = appraised(files, by_signers(1, 0))
    assert found.ok
    assert {check.name: check.state for check in found.checks}["manifest"] == NOT_ASKED
    assert failed(appraised(files, by_signers(1))) == {"signer"}
    assert failed(appraised(attested(), by_signers(0))) == {"signer"}


def test_a_signature_of_another_model() -> None:
    for signature in (
        signature_of(bytes(32)),
        signature_of(bytes.fromhex(DIGEST), "other.json"),
        signature_of(bytes.fromhex(DIGEST), None),  # signed, as a file that anybody may have put into the folder
    ):
        assert failed(appraised(attested(signature=signature), by_signers(0))) == {"signer"}


# GPUs.


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return Gpu()


def with_gpu(gpu: Gpu, **changes: Any) -> Files:
    return attested(gpu=gpu.evidence, **changes)


REQUIRED = {"required": True}


def test_evidence_of_a_gpu(gpu: Gpu) -> None:
    asked = {
        "required": True,
        "count": 1,
        "drivers": ["590.12"],
        "vbios": ["96.00.A5.00.01"],
        "measurements": {"1": [(b"m" * 48).hex()]},
    }
    found = appraised(with_gpu(gpu), policy(gpu=asked), nvidia_root=gpu.is_root)
    assert found.ok, failed(found)
    assert {check.name: check.state for check in found.checks}["GPU place"] == NOT_ASKED


def test_a_gpu_outside_confidential_mode(gpu: Gpu) -> None:
    assert failed(appraised(attested(), policy(gpu=REQUIRED))) == {"GPU evidence"}
    assert appraised(attested(), policy(gpu={"required": False})).ok


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"count": 2}, "GPU count"),
        ({"drivers": ["1"]}, "GPU drivers"),
        ({"vbios": ["1"]}, "GPU vbios"),
        ({"measurements": {"1": ["00" * 48]}}, "GPU measurements"),
        ({"measurements": {"2": ["00" * 48]}}, "GPU measurements"),
    ],
)
def test_another_gpu_than_the_policy_asks(gpu: Gpu, asked: dict[str, Any], name: str) -> None:
    found = appraised(with_gpu(gpu), policy(gpu=REQUIRED | asked), nvidia_root=gpu.is_root)
    assert failed(found) == {name}


def test_forged_evidence_of_a_gpu(gpu: Gpu) -> None:
    asked = policy(gpu=REQUIRED)
    files = with_gpu(gpu)
    assert failed(appraised(files, asked)) == {"GPU evidence"}  # not NVIDIA's root

    def check(report: tuple[bytes, bytes], names: set[str]) -> None:
        made = attested(gpu=lambda _: reports_text([report]))
        assert failed(appraised(made, asked, nvidia_root=gpu.is_root)) == names

    right, chain = gpu.report(nonce_for(NONCE))
    for place in (4, 60, -97, -1):
        changed = bytearray(right)
        changed[place] ^= 1
        check((bytes(changed), chain), {"GPU evidence"} | ({"GPU nonce"} if place == 4 else set()))
    check(gpu.report(NONCE), {"GPU nonce"})
    check((right, issue("other", curve="P-384").pem()), {"GPU evidence"})
    check((right[:-1], chain), {"GPU evidence"})
    gpu.firmware, before = b"g" * 48, gpu.firmware
    check(gpu.report(nonce_for(NONCE)), {"GPU evidence"})
    gpu.firmware = before
    # Evidence that the statement does not name, as who relays a genuine report may add.
    added = attested() | {GPU: gpu.evidence(nonce_for(NONCE))}
    assert failed(appraised(added, asked, nvidia_root=gpu.is_root)) == {"GPU evidence is bound"}


# AMD SEV-SNP.


@pytest.fixture(scope="module")
def processor() -> SnpProcessor:
    return SnpProcessor()


SNP = {"tdx": None, "snp": {"measurements": [(b"m" * 48).hex()], "min_tcb": [1, 2, 0, 0, 0, 0, 6, 7]}}


def test_a_report_of_sev_snp(processor: SnpProcessor) -> None:
    files = attested(processor.provider())
    asked: dict[str, Any] = {"simulated": False, "amd_roots": processor.is_root}
    found = appraised(files, policy(**SNP), **asked)
    assert found.ok, failed(found)
    assert failed(appraised(files, policy(**SNP), simulated=False)) == {"report"}  # not AMD's root
    assert failed(appraised(files, policy(), **asked)) == {"platform"}
    assert failed(appraised(files, policy(**SNP), amd_roots=processor.is_root)) == {"platform"}  # a simulated root
    for change, names in (
        ({"report": {"debug": True}}, {"debug"}),
        ({"report": {"movable": True}}, {"migration"}),
        ({"report": {"vmpl": 2}}, {"VMPL"}),
        ({"report": {"version": 9}}, {"report"}),
        ({"chain": {"tcb": bytes(8)}}, {"report"}),
        ({"chain": {"chip": b"d" * 64}}, {"report"}),
    ):
        made = attested(processor.provider(**change))
        assert failed(appraised(made, policy(**SNP), **asked)) == names, change
    least = {"tdx": None, "snp": {"min_tcb": [2, 2, 0, 0, 0, 0, 6, 7]}}
    assert failed(appraised(files, policy(**least), **asked)) == {"TCB"}
    other = {"tdx": None, "snp": {"measurements": ["00" * 48]}}
    assert failed(appraised(files, policy(**other), **asked)) == {"measurement"}
    changed = bytearray(files["snp.report"])
    changed[0x50] ^= 1
    forged_files = files | {"snp.report": bytes(changed)}
    assert failed(appraised(forged_files, policy(**SNP), **asked)) == {"report", "report data"}
    del files["snp.certificates.pem"]
    assert failed(appraised(files, policy(**SNP), **asked)) == {"report"}


# What an appraisal says.


def test_an_appraisal_as_a_document_and_as_a_statement() -> None:
    found = appraised(attested())
    schema = json.loads((files("hashbench.trust") / "appraisal.schema.json").read_text())
    jsonschema_rs.meta.validate(schema)
    document = json.loads(json.dumps(found.document()))
    jsonschema_rs.validate(schema, document)
    assert document["accepted"] is True
    assert document["simulated"] is True
    assert [check["name"] for check in document["checks"]] == [check.name for check in found.checks]
    predicate = parse_statement(found.statement().text(), SVR).predicate
    assert "HASHBENCH_SIMULATED_REPORT_DATA" in predicate["properties"]
    assert predicate["verifier"]["policies"][0]["digest"]["sha256"] == policy().digest.hex()
    refused = appraised(attested(nonce=bytes(32)))
    assert refused.statement().predicate["properties"] == []
    assert refused.document()["accepted"] is False
    jsonschema_rs.validate(schema, refused.document())


def test_a_statement_of_another_shape_is_no_attestation() -> None:
    files = attested()
    changes: list[Callable[[bytes], bytes]] = [
        lambda text: text.replace(b"MODEL_VERIFIED", b"MODEL_LOOKED_AT"),
        lambda text: text + b"\n",
        lambda text: text.replace(b'"sha256","chunk_size"', b'"sha1","chunk_size"'),
        lambda text: text.replace(b"gpu memory", b"my memory"),
        lambda text: text.replace(b"4096", b"-4096"),
        lambda text: text.replace(MANIFEST.root.hex().encode(), b"00" * 31),
        lambda text: text.replace(DIGEST.encode(), b"00" * 33),
    ]
    for change in changes:
        changed = change(files[STATEMENT])
        assert changed != files[STATEMENT]
        with pytest.raises(TrustError, match="the statement is not"):
            appraised(files | {STATEMENT: changed})


def test_the_simulated_root_is_no_ones_else() -> None:
    root = x509.load_der_x509_certificate(platform().root_der)
    assert "not for trust" in root.subject.rfc4514_string()
