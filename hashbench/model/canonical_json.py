"""Canonical JSON (RFC 8785) of the values that this package writes: one byte string for each value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hashbench.model.strict_json import MAX_INTEGER

# RFC 8785 sorts keys by UTF-16 code units and this encoder by code points: the same for ASCII.
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"), sort_keys=True)


def dumps(value: Any) -> bytes:
    """The canonical JSON of a value, in UTF-8.

    Args:
        value: None, a boolean, an integer, a string, or a list or dictionary of such values.

    Raises:
        TypeError: a value is of another type, such as a float, or a key is not a string.
        ValueError: a key is not ASCII, a string has a surrogate, or an integer is beyond 2^53 - 1.
    """
    _check([value])
    return _ENCODER.encode(value).encode()


def string(value: str) -> str:
    """The canonical JSON of a string without surrogates."""
    return _ENCODER.encode(value)


def _check(items: Iterable[Any]) -> None:
    """Raises what `dumps` raises for values that the encoder would accept."""
    for item in items:
        kind = type(item)
        if kind is str or kind is bool or item is None:
            continue
        if kind is int:
            if not -MAX_INTEGER <= item <= MAX_INTEGER:
                raise ValueError(f"the integer {item} is not between -{MAX_INTEGER} and {MAX_INTEGER}")
        elif kind is list:
            _check(item)
        elif kind is dict:
            for key in item:
                if type(key) is not str:
                    raise TypeError(f"a key of type {type(key).__name__} is not accepted: keys are strings")
                if not key.isascii():
                    raise ValueError(f"the key {key!r} is not ASCII")
            _check(item.values())
        else:
            raise TypeError(f"a value of type {kind.__name__} is not accepted in canonical JSON")
