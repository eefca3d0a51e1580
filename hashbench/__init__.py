"""Standard SHA-2 and Merkle trees on every accelerator: kernels, measured and verified.

Names are imported when they are used, so that a program waits only for what it needs. This module imports nothing that
Python has not loaded yet: `python -m hashbench` runs it while it still imports from the working directory.
"""

from importlib import import_module

TYPE_CHECKING = False  # that of typing, which type checkers know by its name
if TYPE_CHECKING:
    from hashbench import torch
    from hashbench.hashing.hasher import hash_file
    from hashbench.hashing.selection import choose
    from hashbench.model.disk import manifest, verify

__all__ = ["choose", "hash_file", "manifest", "torch", "verify"]

_MODULES = {
    "choose": "hashbench.hashing.selection",
    "hash_file": "hashbench.hashing.hasher",
    "manifest": "hashbench.model.disk",
    "verify": "hashbench.model.disk",
}


def __getattr__(name: str) -> object:
    if name == "torch":
        return import_module("hashbench.torch")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
