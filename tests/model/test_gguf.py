"""GGUF headers: read as llama.cpp's own package reads them if they are valid, and refused if they are not."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import Tensor, array, gguf_file, header, string, value
from hypothesis import given
from hypothesis import strategies as st

from hashbench.model.dtypes import DTYPE_BITS, GGML_BLOCKS, tensor_nbytes
from hashbench.model.gguf import GGML_DTYPES, GgufError, read_gguf_header
from hashbench.model.tensor_range import TensorRange

NUMBERS = {dtype: number for number, dtype in GGML_DTYPES.items()}


def read(data: bytes) -> tuple[TensorRange, ...]:
    return read_gguf_header(io.BytesIO(data)).tensors


def check_as_the_package_reads_it(path: Path) -> None:
    data = path.read_bytes()
    theirs = {
        tensor.name: (GGML_DTYPES[tensor.tensor_type], tuple(tensor.shape.tolist())[::-1], tensor.data.tobytes())
        for tensor in gguf.GGUFReader(path).tensors
    }
    ours = {
        tensor.name: (tensor.dtype, tensor.shape, data[tensor.offset : tensor.offset + tensor.nbytes])
        for tensor in read_gguf_header(path).tensors
    }
    assert ours == theirs


@pytest.mark.parametrize("number", GGML_DTYPES)
def test_every_type_is_the_packages(number: int) -> None:
    kind, dtype = gguf.GGMLQuantizationType(number), GGML_DTYPES[number]
    assert dtype.removeprefix("GGML_") == kind.name
    block = (1, DTYPE_BITS[dtype] // 8) if dtype in DTYPE_BITS else GGML_BLOCKS[dtype]
    assert block == gguf.GGML_QUANT_SIZES[kind]


def test_every_quantized_type_is_one_of_ggml() -> None:
    assert GGML_BLOCKS.keys() == set(GGML_DTYPES.values()) - DTYPE_BITS.keys()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_a_file_that_the_package_wrote(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "model.gguf"
    elements, nbytes = GGML_BLOCKS.get(dtype, (1, DTYPE_BITS.get(dtype, 0) // 8))
    shape = (3, 2, 2 * elements)
    stored = np.random.default_rng(1).integers(0, 256, (3, 2, 2 * nbytes), np.uint8)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.weight", stored, raw_dtype=gguf.GGMLQuantizationType(NUMBERS[dtype]))
    writer.add_tensor("norm", np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    weight, norm = read_gguf_header(path).tensors
    data = path.read_bytes()
    assert (weight.name, weight.dtype, weight.shape, weight.nbytes) == ("blk.0.weight", dtype, shape, stored.nbytes)
    assert data[weight.offset : weight.offset + weight.nbytes] == stored.tobytes()
    assert (norm.name, norm.dtype, norm.shape) == ("norm", "F32", (5,))
    check_as_the_package_reads_it(path)


def test_metadata_of_every_kind_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(128)
    writer.add_token_list(["<s>", "é", "\U0001f600"] * 1000)
    writer.add_token_scores([0.5] * 3000)
    writer.add_array("of.bool", [True, False])
    writer.add_array("of.int", [-1, 2])
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"a.{kind}", 7)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "text")
    writer.add_tensor("w", np.arange(6, dtype=np.int16).reshape(2, 3))
    writer.add_tensor("v", np.arange(6, dtype=np.float64))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [tensor.offset % 128 for tensor in read_gguf_header(path).tensors] == [0, 0]
    check_as_the_package_reads_it(path)


def test_a_file_of_a_vocabulary_alone_has_no_tensors() -> None:
    assert read(header([], [value("tokenizer.ggml.tokens", 9, array(8, 2, string("a") + string("b")))])) == ()


def test_version_2_is_read() -> None:
    (tensor,) = read(gguf_file(header([Tensor("a")], version=2), b"x"))
    assert tensor.name == "a"


def test_arrays_in_arrays_are_read() -> None:
    inner = array(8, 1, string("a"))
    nested = value("k", 9, array(9, 2, array(9, 2, inner * 2) + array(4, 1, bytes(4))))
    assert [tensor.name for tensor in read(gguf_file(header([Tensor("a")], [nested]), b"x"))] == ["a"]


def test_the_data_of_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(gguf_file(header([Tensor("a", (1 << 20, 1 << 20))])))
        file.truncate(file.tell() + (1 << 40))  # a hole: nothing is stored
    (tensor,) = read_gguf_header(path).tensors
    assert (tensor.shape, tensor.nbytes) == ((1 << 20, 1 << 20), 1 << 40)
    assert tensor.offset + tensor.nbytes == path.stat().st_size


def test_the_headers_status_is_of_the_file_that_was_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(header([]))
    status = read_gguf_header(path).status
    assert status is not None
    assert status.st_ino == path.stat().st_ino


scalars = st.sampled_from([(0, b"\1"), (3, b"\1\2"), (4, bytes(4)), (7, b"\1"), (8, string("é")), (12, bytes(8))])


@st.composite
def valid_files(draw: st.DrawFn) -> tuple[bytes, int]:
    """Files of any tensors and metadata, and where their headers end."""
    alignment = draw(st.sampled_from([1, 8, 32, 64]))
    metadata = [] if alignment == 32 else [value("general.alignment", 4, struct.pack("<I", alignment))]
    for key in draw(st.lists(st.text("abc.", min_size=1, max_size=4), unique=True, max_size=3)):
        kind, raw = draw(scalars)
        count = draw(st.integers(0, 3))
        metadata.append(draw(st.sampled_from([value(key, kind, raw), value(key, 9, array(kind, count, raw * count))])))
    tensors, data = [], b""
    for name in draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=5), unique=True, max_size=4)):
        dtype = draw(st.sampled_from(list(NUMBERS)))
        block = GGML_BLOCKS.get(dtype, (1, 0))[0]
        dimensions = [block * draw(st.integers(0, 2)), *draw(st.lists(st.integers(0, 3), max_size=3))]
        nbytes = tensor_nbytes(dtype, dimensions[::-1])
        data += bytes(-len(data) % alignment)
        tensors.append(Tensor(name, dimensions, NUMBERS[dtype], len(data)))
        data += draw(st.binary(min_size=nbytes, max_size=nbytes))
    head = header(draw(st.permutations(tensors)), metadata)
    return gguf_file(head, data, alignment), len(head)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


@given(valid_files())
def test_a_valid_file_reads_as_the_package_reads_it(path: Path, made: tuple[bytes, int]) -> None:
    path.write_bytes(made[0])
    check_as_the_package_reads_it(path)


@given(valid_files(), st.data())
def test_a_damaged_file_is_refused_or_reads_as_the_package_reads_it(
    path: Path, made: tuple[bytes, int], draw: st.DataObject
) -> None:
    damaged, end = bytearray(made[0]), made[1]
    how = draw.draw(st.sampled_from(["flip", "set", "truncate", "insert"]))
    place = draw.draw(st.integers(0, end - 1))
    if how == "flip":
        damaged[place] ^= 1 << draw.draw(st.integers(0, 7))
    elif how == "set":
        damaged[place] = draw.draw(st.integers(0, 255))
    elif how == "truncate":
        del damaged[draw.draw(st.integers(0, len(damaged) - 1)) :]
    else:
        damaged[place:place] = draw.draw(st.sampled_from([b"\0", b"\1", b"\xff" * 8, bytes(8), string("a")]))
    path.write_bytes(damaged)
    message = refusal(path)
    assert message is None or ("\n" not in message and len(message) < 1000)


def refusal(path: Path) -> str | None:
    """The error for a file; if there is none, its tensors are checked against the package's."""
    try:
        read_gguf_header(path)
    except GgufError as error:
        return str(error)
    check_as_the_package_reads_it(path)
    return None


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_magic_are_refused_or_read_as_the_package_reads_them(path: Path, data: bytes) -> None:
    path.write_bytes(b"GGUF\3\0\0\0" + data)
    refusal(path)


@pytest.mark.parametrize("shape", [(31,), (), (32, 16)])
def test_a_quantized_tensor_consists_of_whole_blocks(shape: Any) -> None:
    with pytest.raises(ValueError, match="blocks of 32"):
        tensor_nbytes("GGML_Q4_0", shape)
    assert tensor_nbytes("GGML_Q4_0", (2, 64)) == 2 * 2 * 18
