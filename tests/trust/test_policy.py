"""Policies: the documented example is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attestations import appraised, attested, failed

from hashbench.trust.policy import parse_policy, read_policy
from hashbench.trust.trust_error import TrustError

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"


def test_the_documented_policy_is_accepted_and_asks_what_it_says() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    found = parse_policy(example.encode())
    assert failed(appraised(attested(), found)) == {"manifest", "MRTD", "RTMR3", "GPU evidence"}


def test_every_check_of_the_documented_table_is_one() -> None:
    table = PAGE.read_text().partition("## Who can forge what")[2].partition("### What TDX")[0]
    named = set(re.findall(r"checks? `([^`]+)`", table)) | set(re.findall(r"(?:and|to|or) `([^`]+)`", table))
    gpu = {"GPU evidence", "GPU evidence is bound", "GPU nonce", "GPU place"}
    snp = {"report", "measurement"}
    assert named - gpu - snp <= {check.name for check in appraised(attested()).checks}


def test_a_policy_that_is_not_valid_is_named(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_bytes(b"{")
    with pytest.raises(TrustError, match=re.escape(f"{path} is not a valid policy")):
        read_policy(path)
