"""JSON from files that nobody vouches for: one meaning only, and in bounded memory.

I-JSON (RFC 7493) is what every reader takes for the same thing: UTF-8, no key twice, no unpaired surrogates, integers
that are exact everywhere. Nothing else is accepted, and how much is in a text is known before it is parsed.
"""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

MAX_INTEGER = (1 << 53) - 1
"""The largest integer that RFC 7493 section 2.2 calls exact, hence the largest that RFC 8785 writes."""

MAX_VALUES = 1 << 22
"""Values in a text, at most: each may take a hundred bytes and more once it is an object."""

_STRING = re.compile(rb'"[^"]*"')
_OPENING = bytes.maketrans(b"{}", b"[]")  # which kind a bracket is of is the parser's business
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_short = reprlib.Repr()
_short.maxstring = 200
_short.maxlong = 40


class StrictJsonError(ValueError):
    """A text is not JSON as it is accepted here; the message says why."""


def quoted(value: object) -> str:
    """`value` as an error's one line can show it: in quotes if it is text, escaped, and no longer than is read."""
    return _short.repr(value)


def one_line(text: str) -> str:
    """The beginning of a text that may be anything, as an error's one line can show it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: _short.maxstring])


def loads(data: bytes, *, max_depth: int, floats: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        data: UTF-8, without a byte order mark.
        max_depth: how deep lists and objects may nest.
        floats: numbers with a fraction or an exponent are accepted.

    Raises:
        StrictJsonError: it is no JSON, has a key twice in one object, an unpaired surrogate, an integer beyond
            `MAX_INTEGER` either way, NaN or an infinity; it nests deeper or has more values than is accepted.
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
        raise StrictJsonError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"not JSON: {error.msg} at character {error.pos}") from None
    return value


def _check_size(data: bytes, max_depth: int) -> None:
    """Checks depth and number of values on the text alone, strings left out. Where it is no JSON, the parser tells."""
    bare = _STRING.sub(b"", data.replace(b"\\\\", b"").replace(b'\\"', b"")) if b'"' in data else data
    brackets = bare.translate(_OPENING, _NO_BRACKET)
    if bare.count(b",") + brackets.count(b"[") > MAX_VALUES:
        raise StrictJsonError(f"more than {MAX_VALUES} values")
    for _ in range(max_depth):  # each time the innermost go
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets or brackets.count(b"[") > max_depth:
        raise StrictJsonError(f"lists or objects nest more than {max_depth} deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictJsonError(f"the key {quoted(twice)} stands twice in one object")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= len(str(MAX_INTEGER)) + 1 else None
    if value is None or abs(value) > MAX_INTEGER:
        raise StrictJsonError(f"the integer {text[:40]} is beyond {MAX_INTEGER}, up to which integers are exact")
    return value


def _no_number(text: str) -> Any:
    raise StrictJsonError(f"the number {text[:40]} is not accepted: only integers are")
