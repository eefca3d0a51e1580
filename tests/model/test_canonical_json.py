"""Canonical JSON: the bytes of another implementation of RFC 8785 for every value that is accepted."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from hashbench.model.canonical_json import dumps
from hashbench.model.strict_json import MAX_INTEGER, loads

texts = st.text(st.characters(codec="utf-8"))
keys = st.text(st.characters(codec="ascii"))
scalars = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner))


@given(values)
def test_the_bytes_are_those_of_another_implementation(value: Any) -> None:
    assert dumps(value) == rfc8785.dumps(value)
    assert loads(dumps(value), max_depth=100) == value


def test_every_code_point_is_written_as_another_implementation_writes_it() -> None:
    surrogates = range(0xD800, 0xE000)
    points = [chr(point) for point in range(sys.maxunicode + 1) if point not in surrogates]
    text = "".join(points)
    assert dumps(text) == rfc8785.dumps(text)
    for point in points[:256]:
        value = {point: point} if point.isascii() else [point]
        assert dumps(value) == rfc8785.dumps(value)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1.0, TypeError),
        (float("nan"), TypeError),
        ({"a": [1, 2.5]}, TypeError),
        ([b"bytes"], TypeError),
        ((1, 2), TypeError),
        ({1: "a"}, TypeError),
        ({None: "a"}, TypeError),
        ({"é": 1}, ValueError),
        ("\ud800", ValueError),
        ({"a": "\udfff"}, ValueError),
        (MAX_INTEGER + 1, ValueError),
        ([{"a": -MAX_INTEGER - 1}], ValueError),
    ],
)
def test_what_has_no_canonical_form_here_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        dumps(value)
