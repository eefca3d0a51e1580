"""Tests of a kernel run on every kernel of this machine.

A test with the argument `kernel` runs for each kernel, device, variant and algorithm that can be built here;
`device_kernel` is the same without hashlib, which launches nothing. What is unavailable shows as a skip of the
devices' own test. HASHBENCH_REQUIRED lists, with commas, what must have run: names of kernels and of `covers` markers
(see `required`).
"""

from __future__ import annotations

import os

import hypothesis
import pytest
from kernels_here import build, cases
from required import Required

from hashbench.kernels import ALGORITHMS, Kernel
from hashbench.kernels.device_kernel import DeviceKernel

# A kernel's first call is slow, and no test is about time. Every run but CI's tries new examples.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_configure(config: pytest.Config) -> None:
    names = [name.strip() for name in os.environ.get("HASHBENCH_REQUIRED", "").split(",")]
    config.pluginmanager.register(Required([name for name in names if name]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for fixture, floor in (("kernel", Kernel), ("device_kernel", DeviceKernel)):
        if fixture in metafunc.fixturenames:
            parameters = [
                pytest.param((case, algorithm), id=f"{case}-{algorithm}", marks=pytest.mark.covers(case.cls.name))
                for case in cases()
                if issubclass(case.cls, floor)
                for algorithm in ALGORITHMS
            ]
            metafunc.parametrize(fixture, parameters, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel of any framework."""
    return build(*request.param)


@pytest.fixture(scope="session")
def device_kernel(request: pytest.FixtureRequest) -> DeviceKernel:
    """A kernel that allocates device memory and launches."""
    found = build(*request.param)
    assert isinstance(found, DeviceKernel)
    return found
