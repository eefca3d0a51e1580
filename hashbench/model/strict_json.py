"""Strict JSON for untrusted input: unambiguous, and parsed in bounded memory.

Only I-JSON (RFC 7493), which every parser reads alike, is accepted: UTF-8, no duplicate keys, no unpaired surrogates,
and integers that are exact everywhere. The number of values is checked before the text is parsed.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

MAX_INTEGER = (1 << 53) - 1
"""The largest integer that is exact by RFC 7493 section 2.2, and hence the largest in RFC 8785."""

MAX_VALUES = 1 << 22
"""The most values in a text: each may take more than a hundred bytes as an object."""

_STRING = re.compile(rb'"[^"]*"')
_OPENING = bytes.maketrans(b"{}", b"[]")  # the parser tells the two kinds apart
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_short = reprlib.Repr()
_short.maxstring = 200
_short.maxlong = 40


class StrictJsonError(ValueError):
    """A text is not strict JSON; the message says why."""


def quoted(value: object) -> str:
    """`value` for an error message on one line: escaped and shortened; a string is quoted."""
    return _short.repr(value)


def one_line(text: str) -> str:
    """The beginning of any text, escaped for an error message on one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: _short.maxstring])


def loads(data: bytes, *, max_depth: int, floats: bool = False) -> Any:
    """Parses a JSON text.

    Args:
        data: UTF-8, without a byte order mark.
        max_depth: how deep lists and objects may nest.
        floats: accept numbers with a fraction or an exponent.

    Raises:
        StrictJsonError: it is not valid JSON, has a duplicate key, an unpaired surrogate, an integer beyond
            `MAX_INTEGER` in either direction, NaN or infinity, nests too deep, or has too many values.
    """
    _check_size(data, max_depth)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
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
        raise StrictJsonError(f"it is not valid UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"it is not valid JSON: {error.msg} at character {error.pos}") from None
    return value


def _check_size(data: bytes, max_depth: int) -> None:
    """Checks depth and number of values on the text without its strings. The parser finds what is not JSON."""
    bare = _STRING.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b"")) if b'"' in data else data
    brackets = bare.translate(_OPENING, _NO_BRACKET)
    if bare.count(b",") + brackets.count(b"[") > MAX_VALUES:
        raise StrictJsonError(f"it has more than {MAX_VALUES} values")
    for _ in range(max_depth):  # each time the innermost brackets go
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > max_depth:
        raise StrictJsonError(f"lists or objects nest more than {max_depth} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictJsonError(f"the key {quoted(twice)} is there twice in one object")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= len(str(MAX_INTEGER)) + 1 else None
    if value is None or abs(value) > MAX_INTEGER:
        raise StrictJsonError(f"the integer {text[:40]} is beyond {MAX_INTEGER}")
    return value


def _no_number(text: str) -> Any:
    raise StrictJsonError(f"the number {text[:40]} is not an integer")
