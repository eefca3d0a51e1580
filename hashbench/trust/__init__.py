"""What vouches for a root: signatures, statements, evidence of a platform, and their appraisal.

May import hashbench.model and what is below it. Names are imported when they are used: they need the extra
`trust`.
"""

from importlib import import_module

TYPE_CHECKING = False  # that of typing, which type checkers know by its name
if TYPE_CHECKING:
    from hashbench.trust.signatures import verified_manifest

__all__ = ["verified_manifest"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hashbench.trust.signatures"), name)
