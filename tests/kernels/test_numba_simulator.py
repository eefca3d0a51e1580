"""Numba's device code, run on the host by Numba's simulator, in a process of its own: see `simulate_numba`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hashbench.kernels import ALGORITHMS

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")


@pytest.mark.covers("numba-cuda-simulator")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_device_code_on_the_host(algorithm: str) -> None:
    ran = subprocess.run(
        [sys.executable, Path(__file__).parent.parent / "support" / "simulate_numba.py", algorithm],
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    digests, _, outcome = ran.stdout.strip().partition(" ")
    assert outcome == "digests are right"
    assert int(digests) > 100
