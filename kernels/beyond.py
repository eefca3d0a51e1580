"""Device functions beyond the contract's, which are for NVIDIA's GPUs alone: how CuPy builds them."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from hashbench.kernels.contract import Algorithm, Unavailable
from hashbench.kernels.cupy_cuda import CupyCuda, built
from hashbench.kernels.source import device_source
from hashbench.kernels.working_directory import outside_working_directory


@cache
def program(algorithm: Algorithm, variant: str, *names: str) -> str:
    """The program with files of `kernels/device` that go beyond the contract's kernels."""
    folder = files("hashbench.kernels") / "device"
    parts = [f'#line 1 "{part}"\n{(folder / part).read_text()}' for part in ("short_tree.h", *names)]
    return "".join([device_source(algorithm, variant), *parts])


@outside_working_directory()
def build(kernel: CupyCuda, name: str, *functions: str) -> list[Any]:
    """Builds device functions.

    Args:
        kernel: hashes on the GPU.
        name: the file in `kernels/device`.
        functions: what is launched.

    Returns:
        Each function, as CuPy launches it.

    Raises:
        Unavailable: the GPU is not one of NVIDIA's.
    """
    if kernel.cupy.cuda.runtime.is_hip:
        raise Unavailable(f"what {name} does is for NVIDIA's GPUs alone")
    with kernel.cuda_device:
        module = built(kernel.cupy, program(kernel.algorithm, kernel.variant, name))
        return [module.get_function(function) for function in functions]
