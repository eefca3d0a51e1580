"""How callers follow long work."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int], object]
"""Is told how many more bytes are done."""
