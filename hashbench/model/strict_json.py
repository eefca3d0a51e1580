"""Strict JSON for untrusted input: only what every reader understands in the same way, in bounded memory.

That is I-JSON (RFC 7493): UTF-8, no duplicate keys, no unpaired surrogates, and integers that are exact everywhere.
Depth and number of values are checked before anything is parsed.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

from hashbench.hashing.printable import printable

MAX_INTEGER = (1 << 53) - 1
"""The largest integer that RFC 7493 section 2.2 calls exact, and so the largest that RFC 8785 can write."""

MAX_VALUES = 1 << 22
"""The most values that a text may have: each may take a hundred bytes of memory or more once it is parsed."""

_BLOCK = 1 << 20
_OPENING = bytes.maketrans(b"{}", b"[]")  # the parser checks that brackets match in kind
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_MAY_BE_INEXACT = re.compile(rb"-|[0-9]{16}")  # a text without either has no integer beyond `MAX_INTEGER`, nor -0
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_short = reprlib.Repr()
_short.maxstring = 200
_short.maxlong = 40


class StrictJsonError(ValueError):
    """A text is not strict JSON; the message says why."""


def quoted(value: object) -> str:
    """Shows any value in an error message: quoted if it is a string, escaped, on one line, and shortened."""
    return _short.repr(value)


def one_line(text: str) -> str:
    """Shows the beginning of any text in an error message: escaped, on one line."""
    return printable(text[: _short.maxstring])


def loads(data: bytes, *, max_depth: int, floats: bool = False, max_values: int = MAX_VALUES) -> Any:
    """Parses a JSON text.

    Args:
        data: The text, in UTF-8 without a byte order mark.
        max_depth: How deep lists and objects may nest.
        floats: Whether numbers with a fraction or an exponent are accepted.
        max_values: The most values that the text may have.

    Returns:
        Its value.

    Raises:
        StrictJsonError: The text is not valid JSON; an object has a key twice; a string has an unpaired surrogate; a
            number is NaN, infinite, -0, or an integer beyond `MAX_INTEGER` in either direction; or the text nests
            deeper or has more values than is accepted.
    """
    bare = _without_strings(data)
    _check_size(bare, max_depth, max_values)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer if _MAY_BE_INEXACT.search(bare) else None,
            parse_float=float if floats else _no_number,
            parse_constant=_no_number,
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except StrictJsonError:
        raise
    except UnicodeEncodeError:
        raise StrictJsonError("a string has an unpaired surrogate") from None
    except UnicodeDecodeError as error:
        raise StrictJsonError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"not valid JSON: {error.msg} at character {error.pos}") from None
    return value


def _without_strings(data: bytes) -> bytes:
    """The text with its strings removed. The parser finds what is not JSON."""
    if b'"' not in data:
        return data
    quotes_only = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = bytearray()
    inside = 0
    for start in range(0, len(quotes_only), _BLOCK):  # the parts of all would take ten times the text's memory
        parts = quotes_only[start : start + _BLOCK].split(b'"')
        bare += b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1
    return bytes(bare)


def _check_size(bare: bytes, max_depth: int, max_values: int) -> None:
    """Checks depth and number of values on the text with its strings removed."""
    brackets = bare.translate(_OPENING, _NO_BRACKET)
    if bare.count(b",") + brackets.count(b"[") > max_values:
        raise StrictJsonError(f"more than {max_values} values")
    for _ in range(max_depth):  # each pass removes the innermost brackets
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > max_depth:
        raise StrictJsonError(f"lists or objects nest more than {max_depth} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictJsonError(f"the key {quoted(twice)} occurs twice in one object")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= len(str(MAX_INTEGER)) + 1 else None
    if value is None or abs(value) > MAX_INTEGER:
        raise StrictJsonError(f"the integer {text[:40]} is not exact: accepted are those up to {MAX_INTEGER}")
    if text == "-0":  # an integer to some readers, a float to others
        raise StrictJsonError("the number -0 is not accepted")
    return value


def _no_number(text: str) -> Any:
    raise StrictJsonError(f"the number {text[:40]} is not accepted: only integers are")
