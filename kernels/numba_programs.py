"""Functions that Numba compiles, kept on disk if possible.

Whoever can write compiled code to the disk makes others run it, so only private folders are used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hashbench.kernels.caches import is_private


def cached(jit: Callable[..., Any], function: Any, **options: Any) -> Any:
    """A function of a program under one of Numba's decorators, with its cache on disk if there is a private folder."""
    # Numba's cache is keyed by the function's qualified name, which must differ between programs.
    function.__qualname__ = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    try:
        compiled = jit(function, cache=True, **options)
    except RuntimeError:  # no cache folder is writable
        return jit(function, **options)
    return compiled if is_private(Path(compiled.stats.cache_path)) else jit(function, **options)
