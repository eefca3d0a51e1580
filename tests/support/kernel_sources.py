"""The sources that decide how a kernel runs in a process of its own, as part of a key of `build_cache`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def kernel_sources(*support: str) -> list[bytes]:
    """The modules of kernels, the reference of trees, and those modules of `tests/support`."""
    kernels = sorted((str(module.name), module) for module in files("hashbench.kernels").iterdir() if module.is_file())
    reference = files("hashbench.merkle") / "rfc9162.py"
    here = Path(__file__).parent
    return [
        *(module.read_bytes() for name, module in kernels if name.endswith(".py")),
        reference.read_bytes(),
        *((here / name).read_bytes() for name in support),
    ]
