"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    assert verified.startswith("verified, tensors only: 5 tensors, 2,315,168 bytes, sha256 root ")
    assert served.startswith("served 200 requests, verified ")


def test_a_bit_that_flips_while_it_serves_is_found_and_named() -> None:
    done = run("--damage")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "stopped: differs: 1.weight: other bytes"


def test_it_stops_and_says_why_when_the_weights_cannot_be_verified_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    calls = 0

    def verify(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise RuntimeError("the GPU has fallen off the bus")
        return really_verify(*arguments, **options)

    really_verify = example.verify
    monkeypatch.setattr(example, "verify", verify)
    monkeypatch.setattr(example, "REQUESTS", sys.maxsize)
    assert example.serve(tmp_path, example.publish(tmp_path), damage=False) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "stopped: the weights cannot be verified: RuntimeError: the GPU has fallen off the bus"
