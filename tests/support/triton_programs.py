"""Triton's device code, compiled for GPUs without one."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any

from build_cache import cached_text
from kernel_sources import module_sources

from hashbench.kernels import ALGORITHMS
from hashbench.kernels.triton_gpu import compiled, private_cache

EMULATED = ("gfx942", "gfx1100")
"""The architectures whose programs AMD's emulator executes in tests."""

BINARIES = {"cuda": "cubin", "hip": "hsaco"}


@dataclass(frozen=True)
class Program:
    """One kernel.

    Attributes:
        code: what a GPU loads.
        assembly: its text.
        shared_bytes: the memory that a launch reserves for each group.
    """

    code: bytes
    assembly: str
    shared_bytes: int


@cache
def programs(algorithm: str, architecture: str) -> dict[str, Program]:
    """The kernels by name, for an architecture such as "sm_90" or "gfx942"."""
    from triton.backends.compiler import GPUTarget

    if architecture.startswith("sm_"):
        target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    else:
        target = GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32)

    def make() -> str:
        with private_cache():
            found = compiled(ALGORITHMS[algorithm], target)
        return json.dumps({name: _packed(kernel, target.backend) for name, kernel in found.items()})

    sources = module_sources("triton_tree.py", "triton_gpu.py", "layout.py", "fips180.py")
    stored = json.loads(cached_text("triton", version("triton"), algorithm, architecture, *sources, make=make))
    return {name: Program(base64.b64decode(code), *rest) for name, (code, *rest) in stored.items()}


def _packed(kernel: Any, backend: str) -> tuple[str, str, int]:
    text = kernel.asm["ptx" if backend == "cuda" else "amdgcn"]
    return base64.b64encode(kernel.asm[BINARIES[backend]]).decode(), text, kernel.metadata.shared
