"""Strict JSON for untrusted input: what `json` reads or less, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.model import strict_json
from hashbench.model.strict_json import MAX_INTEGER, MAX_VALUES, StrictJsonError, loads, one_line, quoted

DEPTH = 4

text = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    if isinstance(value, (list, dict)):
        return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_json_reads_as_json_reads_it(value: Any, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    depth = depth_of(value)
    assert loads(data, max_depth=depth) == value
    if depth:
        with pytest.raises(StrictJsonError, match=f"nest more than {depth - 1} deep"):
            loads(data, max_depth=depth - 1)


@given(st.binary(max_size=60) | st.text('[]{}",:\\u0d8e1-.', max_size=40).map(str.encode))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = loads(data, max_depth=DEPTH)
    except StrictJsonError:
        return
    assert value == json.loads(data.decode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b"[1,]", "not valid JSON"),
        (b"[01]", "not valid JSON"),
        (b'["\n"]', "not valid JSON"),
        (b'{"a":1', "not valid JSON"),
        (b"[[[[", "not valid JSON"),
        (b"\xef\xbb\xbf[]", "not valid JSON"),
        (b'["\xff"]', "not UTF-8 at byte 2"),
        ("[]".encode("utf-16"), "not UTF-8"),
        (b'{"a":1,"b":2,"a":1}', "the key 'a' occurs twice"),
        (b'[{"":{},"":{}}]', "the key '' occurs twice"),
        (b'{"\\u0061":1,"a":1}', "the key 'a' occurs twice"),
        (b"[NaN]", "number NaN is not accepted"),
        (b"[-Infinity]", "number -Infinity is not accepted"),
        (b"[1.0]", "number 1.0 is not accepted"),
        (b"[1e3]", "number 1e3 is not accepted"),
        (b"[9007199254740992]", "accepted are those up to 9007199254740991"),
        (b"[-9007199254740992]", "accepted are those up to 9007199254740991"),
        (b"[" + b"9" * 100_000 + b"]", "accepted are those up to 9007199254740991"),
        (b"[-0]", "number -0 is not accepted"),
        (b'["\\ud800"]', "unpaired surrogate"),
        (b'{"\\uDFFF":1}', "unpaired surrogate"),
        (b"[[[[[]]]]]", "nest more than 4 deep"),
        (b'{"a":[{"a":[{}]}]}', "nest more than 4 deep"),
        (b"[" * 1_000_000, "nest more than 4 deep"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_has_more_than_one_meaning_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(StrictJsonError, match=reason) as caught:
        loads(data, max_depth=DEPTH)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_brackets_in_strings_are_no_depth() -> None:
    assert loads(rb'["[[[[[[\"[[[[\\", "\\\\\"{{{{{{"]', max_depth=1) == ['[[[[[["[[[[\\', '\\\\"{{{{{{']


def test_strings_end_where_they_end_however_long_a_text_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in range(1, 9):
        monkeypatch.setattr(strict_json, "_BLOCK", block)
        assert loads(rb'["[[", "{\"[", "", "]"]', max_depth=1) == ["[[", '{"[', "", "]"]
        with pytest.raises(StrictJsonError, match="nest more than 1 deep"):
            loads(rb'["]]", ["\"", ""]]', max_depth=1)


def test_integers_are_exact_beside_any_others() -> None:
    largest = str(MAX_INTEGER)
    assert loads(f'[1, "-0", {largest}, "{largest}0"]'.encode(), max_depth=1)[2] == MAX_INTEGER
    for inexact in (f"{largest}0", "9007199254740992", "-0"):
        with pytest.raises(StrictJsonError, match="accepted"):
            loads(f'["text", 1, {inexact}]'.encode(), max_depth=1)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert loads(b'["\\ud83d\\ude00"]', max_depth=1) == ["\U0001f600"]


def test_fractions_are_accepted_where_they_are_wanted() -> None:
    assert loads(b"[1.5, 1e3, 7]", max_depth=1, floats=True) == [1.5, 1000.0, 7]
    with pytest.raises(StrictJsonError, match="NaN"):
        loads(b"[NaN]", max_depth=1, floats=True)


@pytest.mark.parametrize("item", [b"[],", b"0,", b"{},", b'"a",'])
def test_more_values_than_memory_should_hold_are_refused_before_they_take_any(item: bytes) -> None:
    data = b"[" + item * (MAX_VALUES + 1) + b"0]"
    tracemalloc.start()
    try:
        with pytest.raises(StrictJsonError, match=f"more than {MAX_VALUES} values"):
            loads(data, max_depth=DEPTH)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    finally:
        tracemalloc.stop()


def test_what_is_put_on_one_line_has_no_other() -> None:
    assert one_line("a\nb\x1b[2J é 'c' \u2028") == r"a\nb\x1b[2J é 'c' \u2028"
    assert len(one_line("x" * 1_000_000)) == 200


def test_what_is_quoted_is_one_short_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted("model.layers.79.mlp.gate_proj.weight") == "'model.layers.79.mlp.gate_proj.weight'"
    assert len(quoted("x" * 1_000_000)) < 300
    assert len(quoted({"x" * 1000: ["y" * 1000] * 1000})) < 3000
