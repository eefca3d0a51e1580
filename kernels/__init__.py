"""The hash kernels, one module for each framework, and their registry.

May import nothing else of this project.
"""

from __future__ import annotations

from importlib import import_module

from hashbench.kernels.contract import (
    ALGORITHMS,
    CHUNK_SIZE_MULTIPLE,
    PAGE,
    PRIORITIES,
    SPLITMIX64_INCREMENT,
    STRATEGIES,
    Algorithm,
    Buffer,
    Bytes,
    Device,
    Kernel,
    Lane,
    OutOfDeviceMemory,
    Part,
    PartsInTurn,
    Priority,
    Stage,
    Strategy,
    Unavailable,
    Work,
    algorithm_named,
    check_chunk_size,
)

__all__ = [
    "ALGORITHMS",
    "CHUNK_SIZE_MULTIPLE",
    "KERNELS",
    "PAGE",
    "PRIORITIES",
    "SPLITMIX64_INCREMENT",
    "STRATEGIES",
    "Algorithm",
    "Buffer",
    "Bytes",
    "Device",
    "Kernel",
    "Lane",
    "OutOfDeviceMemory",
    "Part",
    "PartsInTurn",
    "Priority",
    "Stage",
    "Strategy",
    "Unavailable",
    "Work",
    "algorithm_named",
    "check_chunk_size",
    "kernel_class",
]

KERNELS = {
    "hashlib": "hashbench.kernels.hashlib_cpu:HashlibCpu",
    "numba-cpu": "hashbench.kernels.numba_cpu:NumbaCpu",
    "cupy": "hashbench.kernels.cupy_cuda:CupyCuda",
    "numba-cuda": "hashbench.kernels.numba_cuda:NumbaCuda",
    "triton": "hashbench.kernels.triton_gpu:TritonGpu",
    "dpnp": "hashbench.kernels.dpnp_sycl:DpnpSycl",
    "opencl": "hashbench.kernels.opencl:OpenCL",
}
"""The class of each kernel, by the kernel's name. A module is imported when its kernel is first used."""


def kernel_class(name: str) -> type[Kernel]:
    """The class of the kernel of that name.

    Raises:
        ValueError: no kernel has that name.
    """
    if name not in KERNELS:
        raise ValueError(f"unknown kernel {name!r}: accepted are {', '.join(KERNELS)}")
    module, _, cls = KERNELS[name].partition(":")
    found: type[Kernel] = getattr(import_module(module), cls)
    return found
