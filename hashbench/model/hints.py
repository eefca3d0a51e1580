"""What a user may have meant by a name that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from hashbench.model.strict_json import quoted

_COMPARED = 20_000  # names: comparing takes some 50 microseconds each


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error message with the name that looks most like `name`; "" if none does."""
    close = get_close_matches(name, islice(names, _COMPARED), 1)
    return f"; did you mean {quoted(close[0])}?" if close else ""
