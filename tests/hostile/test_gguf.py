"""Attacks by GGUF files: each is refused in one line, in little time and memory, whatever llama.cpp's package does."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
from pathlib import Path
from types import EllipsisType

import gguf
import pytest
from gguf_files import Tensor, array, gguf_file, header, string, value

from hashbench.model.gguf import MAX_HEADER_SIZE, MAX_METADATA, MAX_TENSORS, GgufError, read_gguf_header

MANY = 1 << 60

# The file; why it is refused here; and what the package makes of it: None if it refuses the file too, or the names of
# the tensors that it reads from it, or `...` if it tries to read as many items as the file claims.
CASES: dict[str, tuple[bytes, str, list[str] | EllipsisType | None]] = {
    "nothing": (b"", "the file ends within its header", None),
    "another format": (b"GGML\3\0\0\0" + bytes(24), "it begins with b'GGML'", None),
    "version 1": (header([], version=1), "its version is 1; 2 and 3 are accepted", None),
    "version 4": (header([], version=4), "its version is 4", None),
    "big-endian": (header([], version=3 << 24), "it is big-endian", []),
    "a tensor fewer than claimed": (
        header([Tensor("a")], tensor_count=2),
        "it would have 2 tensors, and has room for 1",
        None,
    ),
    "tensors without end": (header([], tensor_count=MANY), f"it would have {MANY} tensors, and has room for 0", None),
    "keys without end": (header([], key_count=MANY), f"it would have {MANY} metadata keys, and has room for 0", None),
    "a key without end": (header([], [struct.pack("<Q", MANY) + bytes(8)]), f"would have {MANY} bytes", None),
    "a key longer than any": (header([], [value("k" * 65537, 0, b"\1")]), "a metadata key would have 65537 bytes", []),
    "a value of an unknown type": (header([], [value("k", 13, bytes(8))]), "of the unknown type 13", None),
    "an array without end": (
        header([], [value("k", 9, struct.pack("<IQ", 0, MANY))]),
        f"it would have {MANY} items of an array",
        ...,
    ),
    "strings without end": (
        header([], [value("k", 9, struct.pack("<IQ", 8, 1 << 40))]),
        "items of an array",
        None,
    ),
    "an array of arrays of arrays": (
        header([], [value("k", 9, b"".join(struct.pack("<IQ", 9, 1) for _ in range(500)) + array(0, 0, b""))]),
        "nests arrays more than 4 deep",
        [],
    ),
    "a key twice": (
        header([], [value("k", 0, b"\1"), value("k", 0, b"\2")]),
        "the metadata key 'k' occurs twice",
        None,
    ),
    "a key that is not UTF-8": (header([], [value(b"\xff", 0, b"\1")]), "a metadata key is not UTF-8", None),
    "an alignment of another type": (
        header([], [value("general.alignment", 10, struct.pack("<Q", 32))]),
        "is of type 10",
        None,
    ),
    "an alignment of 0": (header([], [value("general.alignment", 4, bytes(4))]), "is 0, not a power of two", None),
    "an alignment of 48": (
        header([], [value("general.alignment", 4, struct.pack("<I", 48))]),
        "is 48, not a power of two",
        None,
    ),
    "a name twice": (
        gguf_file(header([Tensor("a"), Tensor("a", offset=32)]), bytes(33)),
        "the tensor 'a' occurs twice",
        None,
    ),
    "a name that is not UTF-8": (gguf_file(header([Tensor(b"\xff")]), b"x"), "a tensor's name is not UTF-8", None),
    "a retired type": (gguf_file(header([Tensor("a", type=4)]), bytes(64)), "the unknown ggml type 4", None),
    "half a block": (gguf_file(header([Tensor("a", (16,), 2)]), bytes(64)), "stores blocks of 32", None),
    "blocks across rows": (gguf_file(header([Tensor("a", (16, 2), 2)]), bytes(64)), "stores blocks of 32", None),
    "five dimensions": (
        gguf_file(header([Tensor("a", (1,) * 5)]), b"x"),
        "has 5 dimensions; up to 4 are accepted",
        ["a"],
    ),
    "a million dimensions": (
        gguf_file(string("a").join([header([], tensor_count=1), struct.pack("<I", 1 << 20)]) + bytes(64)),
        "has 1048576 dimensions",
        None,
    ),
    "a size that wraps to 0": (
        gguf_file(header([Tensor("a", (1 << 32, 1 << 32))]), b"x"),
        "more than 2\\^60 bytes",
        None,
    ),
    "a dimension beyond integers": (gguf_file(header([Tensor("a", (0, 1 << 63))])), "has a dimension above", None),
    "an unaligned tensor": (
        gguf_file(header([Tensor("a", offset=1)]), b"12"),
        "is at 1, not at a multiple of 32",
        ["a"],
    ),
    "two tensors in one place": (
        gguf_file(header([Tensor("a"), Tensor("b")]), b"1"),
        "the tensor 'b' overlaps",
        ["a", "b"],
    ),
    "a tensor within another": (
        gguf_file(header([Tensor("a", (100,)), Tensor("b", offset=32)]), bytes(100)),
        "the tensor 'b' overlaps another",
        ["a", "b"],
    ),
    "a tensor behind the end": (
        gguf_file(header([Tensor("a", offset=32)]), b"1"),
        "the tensor 'a' ends after the file",
        None,
    ),
    "a tensor whose end wraps": (
        gguf_file(header([Tensor("a", (64,), offset=(1 << 64) - 32)]), bytes(64)),
        "ends after the file",
        ["a"],
    ),
}


def names_by_the_package(path: Path) -> list[str] | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            return [tensor.name for tensor in gguf.GGUFReader(path).tensors]
    except (IndexError, KeyError, ValueError):
        return None


@pytest.mark.parametrize(("data", "reason", "theirs"), CASES.values(), ids=CASES)
def test_a_hostile_file_is_refused(
    tmp_path: Path, data: bytes, reason: str, theirs: list[str] | EllipsisType | None
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(GgufError, match=reason) as caught:
        read_gguf_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is not a valid GGUF file: ")
    assert "\n" not in message
    assert len(message) < 600
    if theirs is not ...:
        assert names_by_the_package(path) == theirs


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (header([], tensor_count=1 << 40), f"room for {MAX_TENSORS}"),
        (header([], key_count=1 << 40), f"room for {MAX_METADATA}"),
        (header([], [value("k", 9, struct.pack("<IQ", 8, 1 << 40))]), "room for 4194304"),
        (header([], [value("k", 9, struct.pack("<IQ", 12, 1 << 40))]), "room for 12"),
        (header([], [value("k", 8, struct.pack("<Q", 1 << 40))]), f"{MAX_HEADER_SIZE} bytes end within its header"),
        (header([Tensor("a")], tensor_count=MAX_TENSORS), "the tensor '' occurs twice"),
    ],
    ids=["tensors", "keys", "strings", "numbers", "a string", "rows of zeros"],
)
def test_a_sparse_file_of_a_tebibyte_takes_no_more_than_its_header_may(
    tmp_path: Path, head: bytes, reason: str
) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(GgufError, match=reason):
            read_gguf_header(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(size)[:-1]

    with pytest.raises(GgufError, match="it became shorter while it was read"):
        read_gguf_header(Shrinking(header([])))
