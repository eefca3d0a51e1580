"""safetensors headers: read as the safetensors library reads them if they are valid, and refused if they are not."""

from __future__ import annotations

import io
import json
import tracemalloc
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize, safe_open
from safetensors.numpy import save_file

from hashbench.model import safetensors_header
from hashbench.model.dtypes import DTYPE_BITS, tensor_nbytes
from hashbench.model.safetensors_header import MAX_HEADER_SIZE, Header, SafetensorsError, read_header

Description = dict[str, Any]


def file_of(header: bytes | Description, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(start: int, stop: int, dtype: str = "U8", shape: list[Any] | None = None) -> Description:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


def read(data: bytes) -> Header:
    return read_header(io.BytesIO(data))


def refusal(data: bytes) -> str | None:
    """The line with which `data` is refused; where it is not, it is checked to be what the safetensors library sees."""
    try:
        read(data)
    except SafetensorsError as error:
        return str(error)
    check_as_the_library_has_it(data)
    return None


def check_as_the_library_has_it(data: bytes) -> None:
    found = deserialize(data)  # type: ignore[no-untyped-call]
    theirs = {name: (t["dtype"], tuple(t["shape"]), bytes(t["data"])) for name, t in found}
    ours = {t.name: (t.dtype, t.shape, data[t.offset : t.offset + t.nbytes]) for t in read(data).tensors}
    assert ours == theirs


@st.composite
def sound_files(draw: st.DrawFn) -> bytes:
    """Files of any tensors, in any order in the header."""
    described: dict[str, Description] = {}
    end = 0
    for name in draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), unique=True, max_size=5)):
        if name == "__metadata__":
            continue
        dtype = draw(st.sampled_from(list(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 5), max_size=4))
        if prod(shape) * DTYPE_BITS[dtype] % 8:
            shape.append(4)
        start, end = end, end + tensor_nbytes(dtype, shape)
        described[name] = tensor(start, end, dtype, shape)
    header = dict(draw(st.permutations(list(described.items()))))
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(st.text("ab"), st.text("cd"), max_size=2))
    text = json.dumps(header, ensure_ascii=draw(st.booleans())).encode() + b" " * draw(st.integers(0, 8))
    return file_of(text, draw(st.binary(min_size=end, max_size=end)))


@given(sound_files())
def test_a_sound_file_reads_as_the_library_reads_it(data: bytes) -> None:
    check_as_the_library_has_it(data)
    header = read(data)
    assert [t.offset for t in header.tensors] == sorted(t.offset for t in header.tensors)
    assert sum(t.nbytes for t in header.tensors) == len(data) - 8 - int.from_bytes(data[:8], "little")


@given(sound_files(), st.data())
def test_a_damaged_file_is_refused_or_reads_as_the_library_reads_it(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    header_end = 8 + int.from_bytes(data[:8], "little")
    how = draw.draw(st.sampled_from(["flip", "truncate", "grow", "insert"]))
    if how == "flip":
        bit = draw.draw(st.integers(0, 8 * header_end - 1))
        damaged[bit // 8] ^= 1 << bit % 8
    elif how == "truncate":
        del damaged[draw.draw(st.integers(0, len(data) - 1)) :]
    elif how == "grow":
        damaged += draw.draw(st.binary(min_size=1, max_size=9))
    else:
        place = draw.draw(st.integers(8, header_end))
        damaged[place:place] = draw.draw(st.sampled_from([b"[", b"]", b"{", b'"', b",", b"0", b"-", b"9", b"e1", b" "]))
        damaged[:8] = (header_end - 8 + len(damaged) - len(data)).to_bytes(8, "little")
    refused = refusal(bytes(damaged))
    assert refused or how in ("flip", "insert")
    assert "\n" not in (refused or "")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10) | st.sampled_from([2**53, 2**64, 1.5, "U8", "F4", "", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)
near_tensors = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPE_BITS, "U4", ""]) | json_values,
        "shape": st.lists(st.integers(-1, 4) | st.sampled_from([2**31, 2**53 - 1, 2**64 - 1]), max_size=3)
        | json_values,
        "data_offsets": st.lists(st.integers(-1, 16), max_size=3) | json_values,
    }
)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), near_tensors | json_values, max_size=3),
    st.integers(0, 16),
)
def test_any_description_is_refused_or_reads_as_the_library_reads_it(header: Description, nbytes: int) -> None:
    refused = refusal(file_of(header, bytes(nbytes))) or ""
    assert "\n" not in refused
    assert len(refused) < 1000


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_or_read_as_the_library_reads_them(data: bytes) -> None:
    assert "\n" not in (refusal(data) or "")


A = tensor(0, 1)
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes"),
    "half a length": (b"\x01\x02\x03", "3 bytes"),
    "a length of 2^64 - 1": (b"\xff" * 8 + b"{}", f"up to {MAX_HEADER_SIZE} are accepted"),
    "a length over the limit": ((MAX_HEADER_SIZE + 1).to_bytes(8, "little") + b"{}", "are accepted"),
    "a length over the file": ((100).to_bytes(8, "little") + b"{}", "the file ends after 10"),
    "no header": (bytes(8), "does not begin with"),
    "a list": (file_of(b"[]"), "does not begin with"),
    "leading space": (file_of(b" {}"), "does not begin with"),
    "another encoding": (file_of(b"{" + "}".encode("utf-16-le")), "not valid JSON"),
    "two headers": (file_of(b"{}{}"), "not valid JSON"),
    "a name twice": (
        file_of(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), b"1"),
        "the tensor 'a' occurs twice",
    ),
    "metadata twice": (file_of(b'{"__metadata__":{},"__metadata__":{}}'), "occurs twice"),
    "metadata of numbers": (file_of({"__metadata__": {"a": 1}}), "not an object of strings"),
    "no metadata": (file_of({"__metadata__": None}), "not an object of strings"),
    "no tensor": (file_of({"a": 1}), "the tensor 'a' does not have the form"),
    "a field too few": (file_of({"a": {"dtype": "U8", "shape": [0]}}), "does not have the form"),
    "a field too many": (file_of({"a": {**A, "x": 1}}, b"1"), "does not have the form"),
    "an unknown dtype": (file_of({"a": tensor(0, 1, "U9")}, b"1"), "its dtype is 'U9', not one of BOOL,"),
    "a dtype that is none": (file_of({"a": {**A, "dtype": ["U8"]}}, b"1"), "does not have the form"),
    "a zero below zero": (file_of(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "does not have the form"),
    "a number that begins with zero": (
        file_of(b'{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', b"1"),
        "does not have the form",
    ),
    "a field twice": (
        file_of(b'{"a":{"dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]}}', b"1"),
        "does not have the form",
    ),
    "a field twice and none of another": (
        file_of(b'{"a":{"dtype":"U8","shape":[1],"shape":[1]}}', b"1"),
        "has a field twice",
    ),
    "a comma after the last field": (
        file_of(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],}}', b"1"),
        "does not have the form",
    ),
    "a comma after the last tensor": (file_of(json.dumps({"a": A}).encode()[:-1] + b",}", b"1"), "not valid JSON"),
    "a comma after the metadata": (file_of(b'{"__metadata__":{"a":"b",}}'), "not an object of strings"),
    "a key of the metadata twice": (file_of(b'{"__metadata__":{"k":"1","\\u006b":"2"}}'), "key 'k' occurs twice"),
    "a tensor by the metadata's name": (file_of({"__metadata__": A}, b"1"), "not an object of strings"),
    "a tensor by the metadata's name, escaped": (
        file_of(json.dumps({"x": A}).replace("x", "\\u005f_metadata__").encode(), b"1"),
        "not an object of strings",
    ),
    "a tab in a name": (file_of(b'{"a\tb":%b}' % json.dumps(A).encode(), b"1"), "not valid JSON"),
    "a name that is not UTF-8": (file_of(b'{"\xff":%b}' % json.dumps(A).encode(), b"1"), "not UTF-8"),
    "a dtype that is not UTF-8": (file_of(b'{"a":{"dtype":"\xff","shape":[],"data_offsets":[0,1]}}', b"1"), "UTF-8"),
    "a shape longer than any": (file_of({"a": tensor(0, 1, shape=[1] * 3000)}, b"1"), "takes more than 4096 bytes"),
    "a dimension beyond integers": (file_of({"a": tensor(0, 0, shape=[0, 2**53])}), "a dimension is above"),
    "a dimension beyond 64 bits": (file_of({"a": tensor(0, 0, shape=[0, 10**19])}), "does not have the form"),
    "a negative shape": (file_of({"a": tensor(0, 1, shape=[-1, -1])}, b"1"), "the tensor 'a' does not have the form"),
    "a fraction": (file_of({"a": tensor(0, 1, shape=[1.0])}, b"1"), "does not have the form"),
    "a boolean": (file_of({"a": tensor(0, 1, shape=[True])}, b"1"), "the tensor 'a' does not have the form"),
    "a shape of another size": (file_of({"a": tensor(0, 1, "F32")}, b"1"), "has 1 bytes, and .* need 4"),
    "a huge shape": (file_of({"a": tensor(0, 1, shape=[2**53 - 1] * 100)}, b"1"), "more than 2\\^60 bytes"),
    "a shape that wraps to 0": (file_of({"a": tensor(0, 0, shape=[2**32, 2**32])}), "more than 2\\^60 bytes"),
    "half a byte": (file_of({"a": tensor(0, 2, "F4", [3])}, b"12"), "12 bits are not a whole number"),
    "offsets back": (
        file_of({"a": {**A, "data_offsets": [1, 0]}}, b"1"),
        "has -1 bytes, and its dtype and shape need 1",
    ),
    "three offsets": (file_of({"a": {**A, "data_offsets": [0, 1, 1]}}, b"1"), "does not have the form"),
    "a gap before": (file_of({"a": tensor(1, 2)}, b"12"), "'a' leaves a gap"),
    "a gap between": (file_of({"a": A, "b": tensor(2, 3)}, b"123"), "'b' leaves a gap"),
    "an overlap": (file_of({"a": tensor(0, 2), "b": tensor(1, 3)}, b"123"), "'b' overlaps"),
    "one place twice": (file_of({"a": A, "b": A}, b"1"), "'b' overlaps"),
    "out of the file": (file_of({"a": tensor(0, 5)}, b"1234"), "5 bytes, but 4 follow"),
    "beyond any file": (file_of({"a": tensor(0, 2**50)}, b"1"), "but 1 follow the header"),
    "bytes of nobody": (file_of({"a": A}, b"12"), "1 bytes, but 2 follow"),
    "deep JSON": (file_of(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "does not have the form"),
    "an unpaired surrogate": (file_of({"\ud800": A}, b"1"), "unpaired surrogate"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_unsound_is_refused_with_its_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(SafetensorsError, match=reason) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a valid safetensors file: ")
    assert "\n" not in message
    assert len(message) < 1000


def test_a_long_file_is_not_read_beyond_its_header(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    nbytes = 1 << 40  # a hole: nothing is stored
    with path.open("wb") as file:
        file.write(file_of({"a": tensor(0, nbytes), "__metadata__": {"format": "pt"}}))
        file.truncate(file.tell() + nbytes)
    header = read_header(path)
    (found,) = header.tensors
    assert (found.nbytes, found.offset + nbytes, header.metadata) == (nbytes, path.stat().st_size, {"format": "pt"})


def test_a_header_of_nothing_but_brackets_takes_little_memory() -> None:
    data = file_of(b'{"a":' + b"[]," * (20 << 20) + b"0}")
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        with pytest.raises(SafetensorsError, match="does not have the form"):
            read_header(stream)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_is_the_librarys(dtype: str) -> None:
    data = file_of({"a": tensor(0, DTYPE_BITS[dtype], dtype, [2, 4])}, bytes(DTYPE_BITS[dtype]))
    check_as_the_library_has_it(data)


def test_a_header_tells_what_the_file_was_before_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": tensor(0, 1)}, b"x"))
    reading = safetensors_header._read

    def replaced(stream: BinaryIO) -> Header:
        header = reading(stream)
        path.with_name("other").write_bytes(path.read_bytes())
        path.with_name("other").replace(path)
        return header

    before = path.stat()
    monkeypatch.setattr(safetensors_header, "_read", replaced)
    status = read_header(path).status
    assert status is not None
    assert status.st_ino == before.st_ino != path.stat().st_ino
    with path.open("rb") as stream:
        assert read_header(stream).status is None


def test_a_file_that_the_library_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "half": np.ones((2, 2), np.float16),
        "scalar": np.array(7, np.int64),
        "empty": np.empty((0, 5), np.uint8),
        "mask": np.array([True, False]),
    }
    save_file(arrays, path, metadata={"format": "np"})
    header = read_header(path)
    data = path.read_bytes()
    assert header.metadata == {"format": "np"}
    assert {t.name for t in header.tensors} == set(arrays)
    for found in header.tensors:
        assert found.shape == arrays[found.name].shape
        assert data[found.offset : found.offset + found.nbytes] == arrays[found.name].tobytes()
    with safe_open(path, "np") as theirs:
        for found in header.tensors:
            assert theirs.get_slice(found.name).get_dtype() == found.dtype
