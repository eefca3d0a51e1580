"""The examples run as they are, and do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
pytest.importorskip("safetensors", reason="safetensors is not installed")

EXAMPLE = Path(__file__).parent.parent / "examples" / "verify_in_process.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True, check=False)


def test_a_model_is_verified_before_and_while_it_serves() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    *_, verified, served = done.stdout.splitlines()
    assert verified.startswith("verified: 5 tensors, 2,315,168 bytes, sha256 root ")
    assert served.startswith("served 200 requests, verified ")


def test_a_bit_that_flips_while_it_serves_is_found_and_named() -> None:
    done = run("--damage")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "stopped: differs: 1.weight: other bytes"
