"""What all tests share: the kernels of this machine as fixtures, how much a run tries, and what it must have run.

A test with one of the arguments below runs for each kernel, device and variant that can be built here, with each
algorithm:

- `kernel`: hashlib and the frameworks. Code above the kernels knows them by their contract alone, so this is enough.
- `usual_kernel`: hashlib and the fastest framework, for tests that say nothing of a kernel but that it is used well.
- `any_kernel`: also the CUDA source compiled for the host.
- `edge_kernel`: also its slow variant "bytewise", for tests of the lengths at which the code takes another path.
- `device_kernel`: `any_kernel` without hashlib, which launches nothing.

An unavailable kernel shows as a skip of its devices' own test. HASHBENCH_REQUIRED lists, with commas, what must have
run: names of kernels and of `covers` markers (see `required`). `profiles` has the options of a run.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator

import pytest
from dpnp_spirv import DpnpSpirv
from kernels_here import Case, build, cases, edge_cases, frameworks, usual
from required import Required

from hashbench.kernels import ALGORITHMS, Kernel
from hashbench.kernels.device_kernel import DeviceKernel

pytest_plugins = ["profiles", "cuda_compilers", "cupy_here"]

CASES: dict[str, Callable[[], list[Case]]] = {
    "kernel": frameworks,
    "usual_kernel": usual,
    "any_kernel": cases,
    "edge_kernel": edge_cases,
    "device_kernel": lambda: [case for case in cases() if issubclass(case.cls, DeviceKernel)],
}


def pytest_configure(config: pytest.Config) -> None:
    names = [name.strip() for name in os.environ.get("HASHBENCH_REQUIRED", "").split(",")]
    config.pluginmanager.register(Required([name for name in names if name]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    """What was collected stays until the end: the garbage collector, which many tests call, need not look at it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # extensions count what is left at the end


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = metafunc.definition.get_closest_marker("algorithms")
    for fixture in CASES.keys() & set(metafunc.fixturenames):
        parameters = [
            pytest.param((case, algorithm), id=f"{case}-{algorithm}", marks=_marks(case, algorithm))
            for case in CASES[fixture]()
            for algorithm in (chosen.args if chosen else ALGORITHMS)
        ]
        metafunc.parametrize(fixture, parameters, indirect=True, scope="session")


def _marks(case: Case, algorithm: str) -> list[pytest.MarkDecorator]:
    """Building a framework's kernels takes seconds: one process of a test run does it, for all their tests.

    The short form has the SPIR-V that ships for SHA-256 alone: its source for SHA-384 is what `dpnp` compiles.
    """
    marks = [pytest.mark.covers(case.cls.name)]
    if case.cls.name != "hashlib":
        marks.append(pytest.mark.xdist_group(case.cls.name))
    if case.cls is DpnpSpirv and algorithm != "sha256":
        marks.append(pytest.mark.thorough)
    return marks


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """The reference, or a kernel of a framework."""
    return build(*request.param)


@pytest.fixture(scope="session")
def usual_kernel(request: pytest.FixtureRequest) -> Kernel:
    """The reference, or the kernel of the fastest framework."""
    return build(*request.param)


@pytest.fixture(scope="session")
def any_kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel, which may be the CUDA source compiled for the host."""
    return build(*request.param)


@pytest.fixture(scope="session")
def edge_kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel in any variant that can be built here."""
    return build(*request.param)


@pytest.fixture(scope="session")
def device_kernel(request: pytest.FixtureRequest) -> DeviceKernel:
    """A kernel that allocates device memory and launches."""
    found = build(*request.param)
    assert isinstance(found, DeviceKernel)
    return found
