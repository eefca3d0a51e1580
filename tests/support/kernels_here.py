"""The kernels of this machine: every kernel on every device in every variant, built once a session."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from cuda_on_host import CudaOnHost

from hashbench.kernels import ALGORITHMS, KERNELS, Device, Kernel, kernel_class

CLASSES: list[type[Kernel]] = [*map(kernel_class, KERNELS), CudaOnHost]


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
    """Every kernel's devices, the unavailable ones too."""
    return [(cls, device) for cls in CLASSES for device in cls.devices()]


def variants(cls: type[Kernel], device: Device) -> tuple[str, ...]:
    """The variants to test on that device.

    Of OpenCL C, those above "plain" differ from it on NVIDIA's devices alone. On the host, "paired" is a thread switch
    for every barrier of every thread: `test_cuda_source.py` runs it, under sanitizers.
    """
    if cls.name == "opencl" and "NVIDIA" not in device.vendor:
        return ("plain",)
    return tuple(name for name in cls.variants if (cls, name) != (CudaOnHost, "paired"))


@cache
def cases() -> list[Case]:
    """What can be built here."""
    return [
        Case(cls, device, variant)
        for cls, device in devices()
        if device.unavailable is None
        for variant in variants(cls, device)
    ]


@cache
def build(case: Case, algorithm: str) -> Kernel:
    """The kernel of that case; building takes seconds."""
    return case.cls(case.device, algorithm, case.variant)


def available(*names: str) -> list[Kernel]:
    """Every kernel of those names that can be built here, for every algorithm."""
    return [build(case, algorithm) for case in cases() if case.cls.name in names for algorithm in ALGORITHMS]
