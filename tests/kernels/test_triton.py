"""Triton's device code without a GPU: run by its interpreter, compiled for GPUs, and executed by AMD's emulator."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from build_cache import cached_text
from kernel_sources import kernel_sources

from hashbench.kernels import ALGORITHMS

pytest.importorskip("triton", reason="Triton is not installed: install hashbench[triton]")

SUPPORT = Path(__file__).parent.parent / "support"


def interpreted(*arguments: str) -> str:
    """The output of the interpreter."""
    ran = subprocess.run(
        [sys.executable, SUPPORT / "interpret_triton.py", *arguments],
        env={
            **os.environ,
            "TRITON_INTERPRET": "1",
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.covers("triton-interpreter")
@pytest.mark.parametrize("form", [[], pytest.param(["--thorough"], marks=pytest.mark.thorough)], ids=["", "thorough"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_device_code_on_the_host(algorithm: str, form: list[str]) -> None:
    sources = kernel_sources("interpret_triton.py", "boundaries.py", "host_memory.py")
    key = [sys.version, version("triton"), algorithm, *form, *sources]
    output = cached_text("interpreted", *key, make=lambda: interpreted(algorithm, *form))
    digests, _, outcome = output.strip().partition(" ")
    assert outcome == "digests are right"
    assert int(digests) > 40
