"""Attests that a model was verified: the statement, and the evidence that binds it to the platform that did it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hashbench.model.manifest import Manifest
from hashbench.trust import nvidia, snp, tdx, tsm
from hashbench.trust.evidence import (
    COLLATERAL,
    GPU,
    QUOTE,
    SIGNATURE,
    SNP_CHAIN,
    SNP_REPORT,
    STATEMENT,
    Claims,
    report_data_of,
)
from hashbench.trust.simulated import SimulatedPlatform
from hashbench.trust.trust_error import TrustError

_PROVIDERS = {"tdx": tsm.TDX, "snp": tsm.SNP}

Provider = Callable[[bytes], Mapping[str, bytes]]
"""Makes the files of evidence that bind 64 bytes of report data."""


@dataclass(frozen=True)
class Verdict:
    """What came of verifying a model.

    Attributes:
        verified: whether it is what the manifest says.
        place: where it was verified, one of `hashbench.trust.evidence.PLACES`.
        component: the component whose tensors alone were verified; "" for the model's own.
    """

    verified: bool
    place: str
    component: str = ""


def attest(
    manifest: Manifest,
    name: str,
    verdict: Verdict | None,
    nonce: bytes,
    provider: Provider,
    *,
    gpu: Callable[[bytes], bytes | None] = nvidia.collect,
    signature: bytes | None = None,
    extend_rtmr3: bool = False,
    time: datetime | None = None,
) -> dict[str, bytes]:
    """The files of an attestation.

    Args:
        manifest: the model's.
        name: of its file.
        verdict: on the model; None if it was not hashed.
        nonce: the verifier's.
        provider: makes the platform's evidence.
        gpu: makes the GPUs' evidence from a nonce; None from it means that there is none.
        signature: the model's signature, if the verifier is to check it.
        extend_rtmr3: extends the register RTMR3 with the model's root before the quote is made; it cannot be undone.
        time: of the statement; None for now.

    Raises:
        TrustError, OSError: evidence cannot be made.
    """
    files: dict[str, bytes] = {} if signature is None else {SIGNATURE: signature}
    bound: dict[str, bytes] = {}
    reports = gpu(nvidia.nonce_for(nonce))
    if reports is not None:
        files[GPU] = reports
        bound[GPU] = hashlib.sha256(reports).digest()
    if extend_rtmr3:
        tsm.extend_rtmr3(tdx.register_digest(manifest.root))
    claims = Claims(
        name,
        hashlib.sha256(manifest.text()).digest(),
        manifest.root,
        manifest.algorithm,
        manifest.chunk_size,
        nonce,
        time or datetime.now(UTC),
        None if verdict is None else verdict.verified,
        None if verdict is None else verdict.place,
        bound,
        "" if verdict is None else verdict.component,
    )
    statement = claims.statement().text()
    return {STATEMENT: statement, **files, **provider(report_data_of(statement))}


def by_kernel(
    name: str | None = None,
    certificates: bytes | None = None,
    collateral: bytes | None = None,
    pccs: str | None = None,
) -> Provider:
    """The platform that this machine runs on.

    Args:
        name: the one that it must be, "tdx" or "snp"; None for either.
        certificates: of SEV-SNP: the chain in PEM; None takes what the platform gives, if anything.
        collateral: of TDX; None for none.
        pccs: the URL of a service of TDX collateral, which is asked over the network.
    """

    def provide(report_data: bytes) -> Mapping[str, bytes]:
        report = tsm.report(report_data)
        if name is not None and report.provider != _PROVIDERS[name]:
            raise TrustError(f"the platform here is {report.provider}, not {_PROVIDERS[name]}")
        if report.provider == tsm.SNP:
            chain = certificates if certificates is not None else snp.chain_in(report.more)
            return {SNP_REPORT: report.data} | ({SNP_CHAIN: chain} if chain else {})
        found = tdx.fetch_collateral(pccs, report.data) if pccs else collateral
        return {QUOTE: report.data} | ({COLLATERAL: found} if found else {})

    return provide


def by_simulation(folder: Path) -> Provider:
    """The simulated platform in a folder, which is made if it is not there."""

    def provide(report_data: bytes) -> Mapping[str, bytes]:
        quote, collateral = SimulatedPlatform.in_folder(folder).quote(report_data)
        return {QUOTE: quote, COLLATERAL: collateral}

    return provide
