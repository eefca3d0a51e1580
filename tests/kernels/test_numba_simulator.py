"""Numba's device code, run on the host by Numba's simulator, in a process of its own: see `simulate_numba`."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest
from apart import run_apart
from build_cache import cached_text
from kernel_sources import kernel_sources

from hashbench.kernels import ALGORITHMS

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")


def simulated(algorithm: str) -> str:
    """The output of the simulation."""
    return run_apart("simulate_numba.py", algorithm, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.covers("numba-cuda-simulator")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_device_code_on_the_host(algorithm: str) -> None:
    key: list[str | bytes] = [
        sys.version,
        version("numba-cuda"),
        algorithm,
        *kernel_sources("simulate_numba.py", "boundaries.py"),
    ]
    output = cached_text("simulated", *key, make=lambda: simulated(algorithm))
    digests, _, outcome = output.strip().partition(" ")
    assert outcome == "digests are right"
    assert int(digests) > 100
