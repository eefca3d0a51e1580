"""Lines with roots: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.hashing.root_lines import RootLine, RootLineError, parse_line
from hashbench.kernels import ALGORITHMS

names = st.binary(min_size=1).filter(lambda name: b"\0" not in name).map(os.fsdecode)


@st.composite
def root_lines(draw: st.DrawFn) -> RootLine:
    algorithm = draw(st.sampled_from(list(ALGORITHMS.values())))
    size = algorithm.digest_size
    root = draw(st.binary(min_size=size, max_size=size))
    if draw(st.booleans()):
        return RootLine(draw(names), root)
    return RootLine(draw(names), root, algorithm.name, 64 * draw(st.integers(1, 1 << 22)))


@given(root_lines())
def test_what_is_written_is_read_back(line: RootLine) -> None:
    text = line.text()
    assert b"\n" not in text
    assert parse_line(text) == line


@given(root_lines(), st.data())
def test_a_damaged_line_is_another_or_none(line: RootLine, data: st.DataObject) -> None:
    text = bytearray(line.text())
    start = data.draw(st.integers(0, len(text)))
    text[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        read = parse_line(bytes(text))
    except RootLineError:
        return
    assert parse_line(read.text()) == read


def test_both_forms() -> None:
    root = bytes(range(32))
    assert RootLine("a b", root).text() == root.hex().encode() + b"  a b"
    assert RootLine("a\\\n", root, "sha256", 4096).text() == (rb"\SHA256-RFC9162-4096 (a\\\n) = " + root.hex().encode())
    assert parse_line(root.hex().upper().encode() + b" *a") == RootLine("a", root)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "it is neither ROOT"),
        (b"x  y", "it is neither ROOT"),
        (b"00  y", "its root has 2 digits"),
        (b"00" * 32 + b"  ", "it is neither ROOT"),
        (b"SHA256 (y) = " + b"00" * 32, "it is neither ROOT"),
        (b"MD5-RFC9162-64 (y) = " + b"00" * 32, "the algorithm md5 is unknown: accepted are sha256, sha384"),
        (b"SHA384-RFC9162-64 (y) = " + b"00" * 32, "its root has 64 digits"),
        (b"\\" + b"00" * 32 + b"  a\\b", "a backslash in its name"),
        (b"\\" + b"00" * 32 + b"  a\\\\\\", "a backslash in its name"),
    ],
)
def test_what_is_no_line_is_refused(line: bytes, reason: str) -> None:
    with pytest.raises(RootLineError, match=reason):
        parse_line(line)
