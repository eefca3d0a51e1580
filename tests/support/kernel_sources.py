"""Sources as part of a key of `build_cache`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def module_sources(*names: str) -> list[bytes]:
    """Those modules of `kernels`."""
    return [(files("hashbench.kernels") / name).read_bytes() for name in names]


def kernel_sources(*support: str) -> list[bytes]:
    """What decides how a program of `tests/support` hashes: all modules of `kernels`, the reference, and its own."""
    names = sorted(module.name for module in files("hashbench.kernels").iterdir() if module.name.endswith(".py"))
    own = [(Path(__file__).parent / name).read_bytes() for name in support]
    return [*module_sources(*names), (files("hashbench.merkle") / "rfc9162.py").read_bytes(), *own]
