"""Attacks by safetensors headers: each is refused in one line, in little time and memory, whatever the library does.

Where the library reads a file, a case says what it sees: another reader, or another version, may see something else.
"""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, deserialize

from hashbench.model import safetensors_header
from hashbench.model.safetensors_header import MAX_HEADER_SIZE, SafetensorsError, read_header


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def tensor(start: int, stop: int) -> bytes:
    return b'{"dtype":"U8","shape":[%d],"data_offsets":[%d,%d]}' % (stop - start, start, stop)


A = tensor(0, 1)
SEEN_A = {"a": ("U8", [1], b"1")}

# The file; why it is refused here; and what the library sees in it, None if it refuses the file too.
CASES: dict[str, tuple[bytes, str, dict[str, tuple[str, list[int], bytes]] | None]] = {
    "a name twice": (
        file_of(b'{"a":%b,"a":%b}' % (tensor(1, 2), A), b"1"),
        "the tensor 'a' occurs twice",
        SEEN_A,
    ),
    "a name twice, once escaped": (
        file_of(b'{"a":%b,"\\u0061":%b}' % (tensor(1, 2), A), b"1"),
        "the tensor 'a' occurs twice",
        SEEN_A,
    ),
    "a key of the metadata twice": (
        file_of(b'{"__metadata__":{"format":"pt","format":"np"},"a":%b}' % A, b"1"),
        "the key 'format' occurs twice in __metadata__",
        SEEN_A,
    ),
    "a field twice": (
        file_of(b'{"a":{"dtype":"U8","shape":[2],"shape":[1],"data_offsets":[0,1]}}', b"1"),
        "does not have the form",
        None,
    ),
    "an unknown field": (
        file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[0]}}', b"1"),
        "does not have the form",
        SEEN_A,
    ),
    "a tensor as a list": (file_of(b'{"a":["U8",[1],[0,1]]}', b"1"), "does not have the form", SEEN_A),
    "a field's name escaped": (
        file_of(b'{"a":{"dtyp\\u0065":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
        "does not have the form",
        SEEN_A,
    ),
    "metadata that is null": (file_of(b'{"__metadata__":null,"a":%b}' % A, b"1"), "not an object of strings", SEEN_A),
    "space in front": (file_of(b' {"a":%b}' % A, b"1"), "does not begin with", SEEN_A),
    "a zero below zero": (
        file_of(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'),
        "does not have the form",
        None,
    ),
    "a size that wraps to 1": (
        file_of(b'{"a":{"dtype":"U8","shape":[%d,%d],"data_offsets":[0,1]}}' % (2**64 // 3, 3), b"1"),
        "is not accepted",
        None,
    ),
    "two tensors in one place": (file_of(b'{"a":%b,"b":%b}' % (A, A), b"1"), "the tensor 'b' overlaps", None),
    "bytes between tensors": (file_of(b'{"a":%b,"b":%b}' % (A, tensor(2, 3)), b"123"), "leaves a gap", None),
    "bytes behind the tensors": (file_of(b'{"a":%b}' % A, b"12"), "1 bytes, but 2 follow", None),
    "an unpaired surrogate": (file_of(b'{"\\ud800":%b}' % A, b"1"), "unpaired surrogate", None),
    "a header of 2^63 bytes": ((1 << 63).to_bytes(8, "little") + b"{}", "up to 100000000 are accepted", None),
}


def seen_by_the_library(data: bytes) -> dict[str, tuple[str, list[int], bytes]] | None:
    try:
        found: Any = deserialize(data)  # type: ignore[no-untyped-call]
    except SafetensorError:
        return None
    return {name: (info["dtype"], info["shape"], bytes(info["data"])) for name, info in found}


@pytest.mark.parametrize(("data", "reason", "theirs"), CASES.values(), ids=CASES)
def test_a_hostile_file_is_refused(
    tmp_path: Path, data: bytes, reason: str, theirs: dict[str, tuple[str, list[int], bytes]] | None
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(SafetensorsError, match=reason) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a valid safetensors file: ")
    assert "\n" not in message
    assert len(message) < 600
    assert seen_by_the_library(data) == theirs


def test_a_fifo_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(OSError, match="Not a regular file"):
        read_header(tmp_path / "model.safetensors")


def peak_and_refusal(data: bytes) -> tuple[float, str]:
    """The peak of memory while a file is refused, as a multiple of the file's size, and why it is."""
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        with pytest.raises(SafetensorsError) as caught:
            read_header(stream)
        return tracemalloc.get_traced_memory()[1] / len(data), str(caught.value)
    finally:
        tracemalloc.stop()


MANY = 4 << 20


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'{"a":' + b"[]," * MANY + b"0}", "does not have the form"),
        (b'{"a":' + b"[" * MANY + b"]" * MANY + b"}", "does not have the form"),
        (b"{" + b" " * MANY, "the name of a tensor was expected"),
        (b'{"' + b"a" * MANY, "the name of a tensor was expected"),
        (b'{"' + b"\\\\" * MANY, "the name of a tensor was expected"),
        (b'{"a":{"dtype":"' + b"U" * MANY + b'","shape":[1],"data_offsets":[0,1]}}', "its dtype is"),
        (b'{"a":{"dtype":"U8","shape":[' + b"1," * MANY + b'1],"data_offsets":[0,1]}}', "more than 4096 bytes"),
        (b'{"a":{"dtype":"U8","shape":[' + b"1," * MANY, "does not have the form"),
        (b'{"a":{"dtype":"U8","shape":[' + b"1" * MANY + b'],"data_offsets":[0,1]}}', "does not have the form"),
        (b'{"__metadata__":{' + b'"":"",' * (MANY >> 2) + b'"":""}}', "the key '' occurs twice"),
    ],
    ids=["lists", "deep lists", "spaces", "a name", "escapes", "a dtype", "a shape", "an open shape", "digits", "keys"],
)
def test_a_header_of_one_thing_without_end_takes_no_memory_but_its_own(header: bytes, reason: str) -> None:
    peak, message = peak_and_refusal(file_of(header))
    assert reason in message
    assert peak < 3.2


def test_metadata_of_too_many_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_header, "MAX_METADATA", 1000)
    for count in (1000, 1001):
        pairs = b",".join(b'"%d":""' % number for number in range(count))
        data = file_of(b'{"__metadata__":{' + pairs + b"}}")
        if count == 1000:
            assert len(read_header(io.BytesIO(data)).metadata) == count
        else:
            with pytest.raises(SafetensorsError, match="more than 1000 keys"):
                read_header(io.BytesIO(data))


@pytest.mark.parametrize(
    "size", [MAX_HEADER_SIZE // 50, pytest.param(MAX_HEADER_SIZE, marks=pytest.mark.thorough)], ids=["2 MB", "100 MB"]
)
def test_a_header_takes_memory_in_proportion(size: int) -> None:
    """With the shortest entries that tensors have, 1.9 million in the largest header: 8 times the header, at most."""
    entries, count, left = [], 0, size - 2
    while left > 0:
        entries.append(b'"%x":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}' % (count, count, count + 1))
        left -= len(entries[-1]) + 1
        count += 1
    count -= 1
    stream = io.BytesIO(file_of(b"{" + b",".join(entries[:count]) + b"}", bytes(count)))
    del entries
    tracemalloc.start()
    try:
        assert len(read_header(stream).tensors) == count
        assert tracemalloc.get_traced_memory()[1] < 8 * size
    finally:
        tracemalloc.stop()
