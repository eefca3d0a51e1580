"""One root of a model whose tensors are sharded over many processes and devices, over torch.distributed.

A rank hashes what it holds; a few kilobytes of subtree roots travel; the roots are those of the unsharded model's file.

May import hashbench.torch and what is below it. Only what touches tensors imports PyTorch: parts are combined without.
"""

from importlib import import_module

TYPE_CHECKING = False  # that of typing, which type checkers know by its name
if TYPE_CHECKING:
    from hashbench.distributed.combining import combine
    from hashbench.distributed.layouts import Shard
    from hashbench.distributed.parts import Part, PartError, parse_part, read_part
    from hashbench.distributed.sharded import ShardedReport, manifest, part, verify

__all__ = [
    "Part",
    "PartError",
    "Shard",
    "ShardedReport",
    "combine",
    "manifest",
    "parse_part",
    "part",
    "read_part",
    "verify",
]

_MODULES = {
    "Part": "parts",
    "PartError": "parts",
    "Shard": "layouts",
    "ShardedReport": "sharded",
    "combine": "combining",
    "manifest": "sharded",
    "parse_part": "parts",
    "part": "sharded",
    "read_part": "parts",
    "verify": "sharded",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
