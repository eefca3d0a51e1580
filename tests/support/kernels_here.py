"""The kernels of this machine: every kernel on every device in every variant, built once per session."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from functools import cache

from cuda_on_host import CudaOnHost
from dpnp_spirv import DpnpSpirv

from hashbench.hashing import selection
from hashbench.kernels import ALGORITHMS, KERNELS, Device, Kernel, kernel_class

IN_TESTS: list[type[Kernel]] = [CudaOnHost, DpnpSpirv]
"""Kernels that no user has, to run what another device would."""

CLASSES: list[type[Kernel]] = [*map(kernel_class, KERNELS), *IN_TESTS]


@dataclass(frozen=True)
class Case:
    """A kernel to build: its class, device and variant."""

    cls: type[Kernel]
    device: Device
    variant: str

    def __str__(self) -> str:
        return f"{self.cls.name}-{self.device.id}-{self.variant}"


@cache
def devices() -> list[tuple[type[Kernel], Device]]:
    """The devices of every kernel, including unavailable ones."""
    return [(cls, device) for cls in CLASSES for device in cls.devices()]


def _variants(cls: type[Kernel], device: Device) -> tuple[str, ...]:
    """The variants that all tests run.

    Those of OpenCL C above "plain" differ on NVIDIA's devices alone. Those of numba-cpu differ in the compression of
    blocks alone: `edge_cases` has the others.
    """
    if cls.name == "opencl" and "NVIDIA" not in device.vendor:
        return ("plain",)
    return (cls.default_variant(device),) if cls.name == "numba-cpu" else cls.variants


@cache
def frameworks() -> list[Case]:
    """hashlib, and every framework that works here in all its variants."""
    return [
        Case(cls, device, variant)
        for cls, device in devices()
        if device.unavailable is None and cls not in IN_TESTS
        for variant in _variants(cls, device)
    ]


def usual() -> list[Case]:
    """hashlib, and the framework that is the fastest here."""
    best = {device.kernel: device for device in reversed(selection.available())}
    others = [device for name, device in best.items() if name != "hashlib"]
    chosen = [(kernel_class(device.kernel), device) for device in (best["hashlib"], *others[-1:])]
    return [Case(cls, device, cls.default_variant(device)) for cls, device in chosen]


def cases() -> list[Case]:
    """`frameworks`, and the CUDA source compiled for the host."""
    return [*frameworks(), *_in_tests(CudaOnHost, "plain")]


def edge_cases() -> list[Case]:
    """`cases`, and code that differs from theirs in the hashing of blocks alone.

    That is the CUDA source for the host in its slow variant, the SPIR-V that ships, and the other variants of numba-cpu
    on one thread.

    The third variant for the host, "paired", switches threads at every barrier: `test_cuda_source.py` runs it, under
    sanitizers.
    """
    others = [
        Case(cls, device, variant)
        for cls, device in devices()
        if cls.name == "numba-cpu" and device.unavailable is None and device.id == "1-thread"
        for variant in cls.variants
        if variant != cls.default_variant(device)
    ]
    return [*cases(), *_in_tests(CudaOnHost, "bytewise"), *_in_tests(DpnpSpirv, "plain"), *others]


def _in_tests(wanted: type[Kernel], variant: str) -> list[Case]:
    return [Case(cls, device, variant) for cls, device in devices() if cls is wanted and device.unavailable is None]


@cache
def build(case: Case, algorithm: str) -> Kernel:
    """The kernel of that case; building takes seconds."""
    kernel = case.cls(case.device, algorithm, case.variant)
    gc.freeze()  # its framework stays until the end: the garbage collector need not look at it
    return kernel


def available(*names: str) -> list[Kernel]:
    """Every kernel of those names that can be built here, for every algorithm."""
    return [build(case, algorithm) for case in cases() if case.cls.name in names for algorithm in ALGORITHMS]
