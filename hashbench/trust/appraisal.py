"""Appraisal: what evidence proves of an attestation, check by check, at a given time and without the network.

Every check that is known is in the result, also those that the policy does not ask and those that no evidence could
answer: who reads it sees what was not looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.strict_json import quoted
from hashbench.trust import nvidia, snp, tdx
from hashbench.trust.bundles import KeyVerifier, parse_bundle
from hashbench.trust.certificates import IsRoot
from hashbench.trust.evidence import (
    COLLATERAL,
    GPU,
    QUOTE,
    SIGNATURE,
    SNP_CHAIN,
    SNP_REPORT,
    STATEMENT,
    Claims,
    claims_of,
    report_data_of,
)
from hashbench.trust.keys import parse_public_key
from hashbench.trust.oms import signed_files
from hashbench.trust.policy import Policy
from hashbench.trust.statements import Statement, Subject, svr
from hashbench.trust.trust_error import TrustError


class State(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_ASKED = "not asked"


PASSED, FAILED, NOT_ASKED = State

_CLOCKS = timedelta(minutes=5)  # how far the attester's clock may be ahead
_VERIFIER = "urn:hashbench:appraisal:v1"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, or not.

    Attributes:
        name: what.
        state: what came of it.
        reason: more, for people.
    """

    name: str
    state: State
    reason: str


@dataclass(frozen=True)
class Appraisal:
    """What came of an appraisal.

    Attributes:
        checks: all of them, in their order.
        claims: what the statement says; only `ok` makes it believable.
        policy: the policy.
        time: the time for which it holds.
        simulated: whether the platform is a simulated one, whose root was named.
    """

    checks: tuple[Check, ...]
    claims: Claims
    policy: Policy
    time: datetime
    simulated: bool

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.state != FAILED for check in self.checks)

    def __bool__(self) -> bool:
        """`ok`: whoever asks whether an appraisal is true means that."""
        return self.ok

    def lines(self) -> Iterator[str]:
        """A line for each check, and the verdict."""
        for check in self.checks:
            yield f"{check.state}: {check.name}{': ' if check.reason else ''}{check.reason}"
        kind = "on a simulated platform, which proves nothing: " if self.simulated else ""
        yield f"{'accepted' if self.ok else 'refused'}: {kind}manifest {self.claims.manifest.hex()}"

    def document(self) -> dict[str, Any]:
        """It as a JSON document."""
        return {
            "kind": "hashbench-appraisal",
            "version": 1,
            "accepted": self.ok,
            "simulated": self.simulated,
            "manifest": self.claims.manifest.hex(),
            "root": self.claims.root.hex(),
            "policy": self.policy.digest.hex(),
            "time": self.time.isoformat(),
            "checks": [{"name": c.name, "state": c.state, "reason": c.reason} for c in self.checks],
        }

    def statement(self) -> Statement:
        """It as a simple verification result: the properties are the checks that passed; of none if one failed."""
        prefix = "HASHBENCH_SIMULATED_" if self.simulated else "HASHBENCH_"
        passed = [check.name.upper().replace(" ", "_") for check in self.checks if check.state == PASSED]
        properties = [prefix + name for name in passed] if self.ok else []
        policy = {"name": "policy", "digest": {"sha256": self.policy.digest.hex()}}
        subject = Subject(self.claims.name, {"sha256": self.claims.manifest.hex()})
        return svr(subject, _VERIFIER, [policy], self.time, properties)


def appraise(
    files: Mapping[str, bytes],
    nonce: bytes,
    policy: Policy,
    at: datetime,
    *,
    simulated_root: x509.Certificate | None = None,
    amd_roots: IsRoot = snp.AMD_ROOTS,
    nvidia_root: IsRoot = nvidia.NVIDIA_ROOT,
) -> Appraisal:
    """Appraises an attestation.

    Args:
        files: its files, of `hashbench.trust.evidence.read_evidence`.
        nonce: what the verifier gave for this attestation, and for no other.
        policy: what is asked.
        at: the time for which the answer is to hold.
        simulated_root: the root of a simulated platform, which is trusted instead of Intel's.
        amd_roots: says which roots of SEV-SNP are trusted.
        nvidia_root: says which roots of GPUs are trusted.

    Raises:
        TrustError: the statement is not one, or a file or the policy is not valid.
    """
    claims = claims_of(files[STATEMENT])
    checks = [
        _check("nonce", _nonce, claims, nonce),
        *_age(claims, policy, at),
        *_model(claims, policy, files),
        _check("verdict", _verdict, claims, policy),
    ]
    root = None if simulated_root is None else simulated_root.public_bytes(Encoding.DER)
    if QUOTE in files and policy.tdx is not None:
        checks += _tdx(files, claims, policy.tdx, at, root)
    elif SNP_REPORT in files and policy.snp is not None and root is None:
        checks += _snp(files, policy.snp, at, amd_roots)
    else:
        wanted = " or ".join(
            name for name, asked in (("TDX", policy.tdx), ("SEV-SNP", policy.snp)) if asked is not None
        )
        checks.append(Check("platform", FAILED, f"there is no evidence of {wanted}, which the policy asks"))
    checks += _gpu(files, claims, nonce, policy.gpu, at, nvidia_root)
    return Appraisal(tuple(checks), claims, policy, at, simulated_root is not None)


def _check(name: str, check: Callable[..., str], *arguments: Any) -> Check:
    """The check that a function makes, which gives what it saw or raises what is wrong."""
    try:
        return Check(name, PASSED, check(*arguments))
    except (VerificationError, TrustError) as error:
        return Check(name, FAILED, str(error))


def _decided(name: str, passed: bool, reason: str) -> Check:
    return Check(name, PASSED if passed else FAILED, reason)


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise VerificationError(otherwise)


def _reference(name: str, value: bytes, accepted: Sequence[str] | None) -> Check:
    """A check of a measurement against reference values."""
    if accepted is None:
        return Check(name, NOT_ASKED, value.hex())
    if value.hex() in accepted:
        return Check(name, PASSED, value.hex())
    return Check(name, FAILED, f"{value.hex()} is none of the {len(accepted)} references of the policy")


def _nonce(claims: Claims, nonce: bytes) -> str:
    _require(claims.nonce == nonce, "the statement has another nonce: it is not the answer to this request")
    return ""


def _age(claims: Claims, policy: Policy, at: datetime) -> Iterator[Check]:
    age = at - claims.time
    if policy.max_age_seconds is None:
        yield Check("age", NOT_ASKED, f"{age.total_seconds():.0f} s by the attester's clock")
    elif age < -_CLOCKS:
        yield Check("age", FAILED, "the statement is from the future")
    elif age > timedelta(seconds=policy.max_age_seconds):
        yield Check("age", FAILED, f"{age.total_seconds():.0f} s, and the policy accepts {policy.max_age_seconds} s")
    else:
        yield Check("age", PASSED, f"{age.total_seconds():.0f} s by the attester's clock")


def _model(claims: Claims, policy: Policy, files: Mapping[str, bytes]) -> Iterator[Check]:
    yield _reference("manifest", claims.manifest, policy.model.get("manifests"))
    yield _reference("root", claims.root, policy.model.get("roots"))
    signers = policy.model.get("signers")
    if signers is None:
        yield Check("signer", NOT_ASKED, "")
    else:
        yield _check("signer", _signer, claims, signers, files.get(SIGNATURE))


def _signer(claims: Claims, signers: Sequence[str], signature: bytes | None) -> str:
    if signature is None:
        raise VerificationError("the attestation has no signature of the model")
    bundle = parse_bundle(signature)
    for pem in signers:
        key = parse_public_key(pem.encode(), "a signer of the policy")
        try:
            payload, signer = KeyVerifier(key).payload(bundle)
        except VerificationError:
            continue
        files = signed_files(payload)
        _require(
            files.manifest is not None and claims.manifest == files.digests[files.manifest],
            "the signature is valid, and of another model: this is not the manifest that it names",
        )
        return signer
    raise VerificationError("no signer of the policy signed the model")


def _verdict(claims: Claims, policy: Policy) -> str:
    _require(claims.verified is not None, "the model was not hashed")
    _require(claims.verified is True, "the model is not what the manifest says")
    assert claims.place is not None
    _require(
        policy.verified_in is None or claims.place in policy.verified_in,
        f"verified in {claims.place}, and the policy asks for {' or '.join(policy.verified_in or ())}",
    )
    _require(
        claims.component in policy.components,
        f"verified is the component {quoted(claims.component)} alone, and the policy does not ask for it",
    )
    return f"verified in {claims.place}{f': the component {quoted(claims.component)}' if claims.component else ''}"


def _tdx(
    files: Mapping[str, bytes], claims: Claims, asked: Mapping[str, Any], at: datetime, root: bytes | None
) -> Iterator[Check]:
    """The checks of a quote. What the quote says counts only if all pass, which the verdict takes care of."""
    try:
        quote = tdx.parse_quote(files[QUOTE])
    except TrustError as error:
        yield Check("quote", FAILED, str(error))
        return
    verified: tdx.Verified | None = None
    try:
        if COLLATERAL not in files:
            raise VerificationError(f"the attestation has no {COLLATERAL}")
        verified = tdx.verify_quote(quote, files[COLLATERAL], at, root)
        yield Check(
            "quote", PASSED, "signed by a platform of the simulated root" if root else "signed by Intel's chain"
        )
    except (VerificationError, TrustError) as error:
        yield Check("quote", FAILED, str(error))
    yield _check("report data", _report_data, quote.report_data, files[STATEMENT])
    yield _reference("MRTD", quote.mr_td, asked.get("mr_td"))
    yield _reference("MRCONFIGID", quote.mr_config_id, asked.get("mr_config_id"))
    for number, value in enumerate(quote.rtmrs):
        accepted = asked.get(f"rtmr{number}")
        if accepted == "root":
            accepted = [tdx.extended(tdx.register_digest(claims.root)).hex()]
        yield _reference(f"RTMR{number}", value, accepted)
    yield _check("debug", _not_debug, quote.debug)
    yield _check("migration", _not_movable, quote.movable)
    statuses = asked.get("tcb_statuses", ["UpToDate"])
    if verified is None:
        yield Check("TCB status", FAILED, "not known, since the quote is not verified")
        yield Check("collateral age", FAILED, "not known, since the quote is not verified")
        return
    advisories = f" ({', '.join(verified.advisories)})" if verified.advisories else ""
    if verified.status in statuses:
        yield Check("TCB status", PASSED, verified.status + advisories)
    else:
        yield Check("TCB status", FAILED, f"{verified.status}{advisories}; accepted are {', '.join(statuses)}")
    age = at - verified.issued
    most = asked.get("max_collateral_age_days")
    if most is None:
        yield Check("collateral age", NOT_ASKED, f"{age.days} days")
    else:
        fits = age <= timedelta(days=most)
        yield _decided("collateral age", fits, f"{age.days} days; accepted are {most}")


def _snp(files: Mapping[str, bytes], asked: Mapping[str, Any], at: datetime, is_root: IsRoot) -> Iterator[Check]:
    """The checks of a report of SEV-SNP."""
    try:
        report = snp.parse_report(files[SNP_REPORT])
    except TrustError as error:
        yield Check("report", FAILED, str(error))
        return
    yield _check("report", _snp_report, report, files.get(SNP_CHAIN), at, is_root)
    yield _check("report data", _report_data, report.report_data, files[STATEMENT])
    yield _reference("measurement", report.measurement, asked.get("measurements"))
    yield _check("debug", _not_debug, report.debug)
    yield _check("migration", _not_movable, report.movable)
    most = asked.get("max_vmpl", 0)
    fits = report.vmpl <= most
    yield _decided("VMPL", fits, f"{report.vmpl}; accepted is up to {most}")
    least = asked.get("min_tcb")
    if least is None:
        yield Check("TCB", NOT_ASKED, report.reported_tcb.hex())
    else:
        fits = all(have >= want for have, want in zip(report.reported_tcb, least, strict=True))
        yield _decided("TCB", fits, f"{report.reported_tcb.hex()}; at least {bytes(least).hex()}")


def _snp_report(report: snp.SnpReport, chain: bytes | None, at: datetime, is_root: IsRoot) -> str:
    if chain is None:
        raise VerificationError(f"the attestation has no {SNP_CHAIN}")
    snp.verify_report(report, chain, at, is_root)
    return "signed by AMD's chain"


def _report_data(report_data: bytes, statement: bytes) -> str:
    _require(report_data == report_data_of(statement), "the platform signed another statement")
    return "SHA-512 of the statement"


def _not_debug(debug: bool) -> str:
    _require(not debug, "the host may read and change the memory of this machine")
    return "off"


def _not_movable(movable: bool) -> str:
    _require(not movable, "an agent that the host chooses may get the memory of this machine, to move it elsewhere")
    return "off"


def _gpu(
    files: Mapping[str, bytes],
    claims: Claims,
    nonce: bytes,
    asked: Mapping[str, Any],
    at: datetime,
    is_root: IsRoot,
) -> Iterator[Check]:
    """The checks of GPU evidence."""
    required = asked.get("required", False)
    if GPU not in files:
        missing = "there is none: a GPU outside confidential mode can return any root"
        yield Check("GPU evidence", FAILED if required else NOT_ASKED, missing)
        return
    try:
        reports = nvidia.parse_reports(files[GPU])
    except TrustError as error:
        yield Check("GPU evidence", FAILED, str(error))
        return
    yield _check("GPU evidence", _gpu_reports, reports, at, is_root)
    yield _check("GPU evidence is bound", _gpu_bound, files[GPU], claims)
    yield _check("GPU nonce", _gpu_nonce, reports, nonce)
    count = asked.get("count")
    if count is None:
        yield Check("GPU count", NOT_ASKED, str(len(reports)))
    else:
        yield _check("GPU count", _gpu_count, reports, count)
    for name, listed in (("drivers", [r.driver for r in reports]), ("vbios", [r.vbios for r in reports])):
        accepted = asked.get(name)
        state = NOT_ASKED if accepted is None else PASSED if set(listed) <= set(accepted) else FAILED
        yield Check(f"GPU {name}", state, ", ".join(sorted(set(listed))))
    references = asked.get("measurements")
    if references is None:
        yield Check("GPU measurements", NOT_ASKED, f"{len(reports[0].measurements)} a GPU")
    else:
        yield _check("GPU measurements", _gpu_measurements, reports, references)
    yield Check(
        "GPU place",
        NOT_ASKED,
        "a report that was relayed from another machine is as genuine: only an SPDM session of this machine's own, or "
        "TDX Connect, tells them apart",
    )


def _gpu_reports(reports: Sequence[nvidia.GpuReport], at: datetime, is_root: IsRoot) -> str:
    for report in reports:
        nvidia.verify_report(report, at, is_root)
    return f"{len(reports)} signed by NVIDIA's chain: firmware and mode, not what memory holds"


def _gpu_bound(data: bytes, claims: Claims) -> str:
    _require(claims.bound.get(GPU) == hashlib.sha256(data).digest(), "the statement is of other GPU evidence, or none")
    return ""


def _gpu_nonce(reports: Sequence[nvidia.GpuReport], nonce: bytes) -> str:
    wanted = nvidia.nonce_for(nonce)
    _require(all(report.nonce == wanted for report in reports), "a GPU was asked with another nonce")
    return ""


def _gpu_count(reports: Sequence[nvidia.GpuReport], count: int) -> str:
    different = len({report.key_pin for report in reports})
    reason = f"reports: {len(reports)}; different GPUs: {different}; accepted: {count}"
    _require(different == len(reports) == count, reason)
    return str(count)


def _gpu_measurements(reports: Sequence[nvidia.GpuReport], references: Mapping[str, Sequence[str]]) -> str:
    for report in reports:
        for index, accepted in references.items():
            value = report.measurements.get(int(index), b"")
            _require(value.hex() in accepted, f"measurement {index} is {value.hex() or 'missing'}")
    return f"{len(references)} a GPU"
