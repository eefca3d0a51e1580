"""The examples run and do what they say."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
pytest.importorskip("safetensors", reason="safetensors is not installed")

from hashbench.torch.watch import Watch  # after what it needs is known to be there

EXAMPLE = Path(__file__).parent.parent / "examples" / "verify_in_process.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Runs the example as its users do, but in this process. Returns its exit code."""
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    return ended.value.code


def test_a_model_is_verified_before_and_while_it_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    *_, verified, served = capsys.readouterr().out.splitlines()
    assert verified == "verified: 5 tensors, 2,315,168 bytes"
    assert served.startswith("served 200 requests, verified ")


def test_a_bit_that_flips_while_it_serves_is_found_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--damage") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "stopped: 1.weight: bytes [0:262144] changed"


def test_it_stops_and_says_why_when_the_weights_cannot_be_verified_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location(EXAMPLE.stem, EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    def fails(watch: Any, now: float) -> int:
        raise RuntimeError("the GPU has fallen off the bus")

    monkeypatch.setattr(Watch, "step", fails)
    monkeypatch.setattr(example, "REQUESTS", sys.maxsize)
    assert example.serve(tmp_path, example.publish(tmp_path), damage=False) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "stopped: the weights cannot be verified: RuntimeError: the GPU has fallen off the bus"
