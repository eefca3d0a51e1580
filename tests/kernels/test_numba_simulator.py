"""Numba's device code, run on the host by Numba's simulator, in a process of its own: see `simulate_numba`."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest
from apart import run_apart
from build_cache import cached_text
from kernel_sources import kernel_sources

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")


def simulated(*arguments: str) -> str:
    """The output of the simulation."""
    return run_apart("simulate_numba.py", *arguments, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.covers("numba-cuda-simulator")
@pytest.mark.parametrize(
    "form",
    [
        ["sha256"],
        pytest.param(["sha384"], marks=pytest.mark.thorough),
        pytest.param(["sha384", "--thorough"], marks=pytest.mark.thorough),
    ],
    ids=" ".join,
)
def test_device_code_on_the_host(form: list[str]) -> None:
    sources = kernel_sources("simulate_numba.py", "boundaries.py")
    key: list[str | bytes] = [sys.version, version("numba-cuda"), *form, *sources]
    output = cached_text("simulated", *key, make=lambda: simulated(*form))
    digests, _, outcome = output.strip().partition(" ")
    assert outcome == "digests are right"
    assert int(digests) > 100
