"""Public samples of real hardware: verified at their time, and refused today where their collateral has expired.

They are not part of the project: HASHBENCH_EVIDENCE names the folder that has them (docs/trust.md says what and from
where), by default shared/evidence beside the project's folder.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attestations import appraised, attested, failed, policy

from hashbench.hashing.verification_error import VerificationError
from hashbench.trust import nvidia, tdx
from hashbench.trust.evidence import COLLATERAL, GPU, QUOTE

FOLDER = Path(os.environ.get("HASHBENCH_EVIDENCE", Path(__file__).parents[3] / "shared" / "evidence"))
THEN = datetime(2025, 6, 20, tzinfo=UTC)
NOW = datetime.now(UTC)


def sample(name: str) -> bytes:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"the sample {name} is not here: name its folder in HASHBENCH_EVIDENCE")
    return path.read_bytes()


@pytest.mark.covers("tdx-sample")
def test_a_quote_of_intel_tdx() -> None:
    quote, collateral = tdx.parse_quote(sample("tdx_quote_v4.bin")), sample("tdx_quote_collateral.json")
    found = tdx.verify_quote(quote, collateral, THEN)
    assert found.status == "UpToDate"
    assert found.issued == datetime(2025, 6, 19, 10, 16, 3, tzinfo=UTC)
    assert not quote.debug
    with pytest.raises(VerificationError, match="CrlExpired"):
        tdx.verify_quote(quote, collateral, NOW)
    for place in (48 + 136, 48 + 520, 48 + 600):  # a measurement, report data, the signature
        changed = bytearray(quote.data)
        changed[place] ^= 1
        with pytest.raises(VerificationError):
            tdx.verify_quote(tdx.parse_quote(bytes(changed)), collateral, THEN)


@pytest.mark.covers("tdx-sample")
def test_a_real_quote_does_not_vouch_for_our_statement() -> None:
    files = attested() | {QUOTE: sample("tdx_quote_v4.bin"), COLLATERAL: sample("tdx_quote_collateral.json")}
    found = appraised(files, policy(tdx={}, max_age_seconds=None), simulated=False, at=THEN)
    assert failed(found) == {"report data"}
    found = appraised(files, policy(), simulated=False)
    assert {"quote", "report data", "MRTD", "TCB status"} <= failed(found)


@pytest.mark.covers("nvidia-sample")
def test_reports_of_hopper_gpus() -> None:
    data = sample("nvidia_gpu_evidence.json")
    reports = nvidia.parse_reports(data)
    assert len(reports) == 8
    listed = json.loads(data)
    for report, one in zip(reports, listed, strict=True):
        nvidia.verify_report(report, NOW)
        assert report.nonce.hex() == one["nonce"]
        assert (report.driver, report.vbios) == (one["driver_version"], one["vbios_version"])
        assert sorted(report.measurements) == list(range(1, 65))
    for place in (10, 200, 3000, -97, -1):
        changed = bytearray(b64decode(listed[0]["evidence"]))
        changed[place] ^= 1
        with pytest.raises((VerificationError, ValueError)):
            nvidia.verify_report(nvidia.parse_report(bytes(changed), reports[0].chain), NOW)


@pytest.mark.covers("nvidia-sample")
def test_nvidias_root_is_the_one_that_is_pinned() -> None:
    from cryptography import x509

    root = x509.load_pem_x509_certificate(sample("nvidia_device_root.pem"))
    assert nvidia.NVIDIA_ROOT(root)


@pytest.mark.covers("nvidia-sample")
def test_relayed_reports_of_real_gpus_answer_another_nonce() -> None:
    data = sample("nvidia_gpu_evidence.json")
    found = appraised(attested(gpu=lambda _: data), policy(gpu={"required": True, "count": 8}))
    assert failed(found) == {"GPU nonce"}
    added = appraised(attested() | {GPU: data}, policy(gpu={"required": True}))
    assert failed(added) == {"GPU nonce", "GPU evidence is bound"}
