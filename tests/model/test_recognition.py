"""What a file is by its first bytes: each kind as its real writer makes it, and nothing for what is none of them."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from safetensors.numpy import save

from hashbench.model import recognition
from hashbench.model.recognition import READ_SIZE, recognise, recognise_bytes

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"content")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("tensors"))
    return out.getvalue()


def gguf_of(tmp_path: Path) -> bytes:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.write_header_to_file()
    writer.close()
    return (tmp_path / "model.gguf").read_bytes()


def onnx_model(producer: str) -> bytes:
    model = helper.make_model(helper.make_graph([], "g", [], []), producer_name=producer)
    return bytes(model.SerializeToString())


KINDS: dict[str, tuple[str | None, Callable[[Path], bytes]]] = {
    "nothing": (recognition.EMPTY, lambda _: b""),
    "Git LFS": (recognition.GIT_LFS_POINTER, lambda _: POINTER),
    "HTML": (recognition.HTML_PAGE, lambda _: b"<!DOCTYPE html>\n<html>"),
    "HTML after space": (recognition.HTML_PAGE, lambda _: b'\xef\xbb\xbf\r\n <html lang="en">'),
    "gzip": (recognition.GZIP, lambda _: gzip.compress(b"")),
    "zip": (recognition.ZIP, lambda _: zipped("a.txt")),
    "an empty zip": (recognition.ZIP, lambda _: b"PK\5\6" + bytes(18)),
    "tar": (recognition.TAR, lambda _: tarred()),
    "pickle": (recognition.PICKLE, lambda _: pickle.dumps({})),
    "GGUF": (recognition.GGUF, gguf_of),
    "safetensors": (recognition.SAFETENSORS, lambda _: save({"a": np.zeros(1)})),
    "ONNX": (recognition.ONNX, lambda _: onnx_model("pytorch")),
    "ONNX of no producer": (recognition.ONNX, lambda _: onnx_model("")),
    "text": (None, lambda _: b"Hello"),
    "a page's word": (None, lambda _: b"<htmlish>"),
    "JSON": (None, lambda _: b'{"model_type": "llama"}'),
    "zeros": (None, lambda _: bytes(1000)),
    "NumPy": (None, lambda _: b"\x93NUMPY\1\0"),
}


@pytest.mark.parametrize(("kind", "make"), KINDS.values(), ids=KINDS)
def test_a_file_is_recognised_whatever_its_name(
    tmp_path: Path, kind: str | None, make: Callable[[Path], bytes]
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(make(tmp_path))
    assert recognise(path) == kind


def test_what_pytorch_writes_is_recognised(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.bin"
    torch.save({"a": torch.zeros(3)}, path)
    assert recognise(path) == recognition.PYTORCH_ZIP
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    assert recognise(path) == recognition.PYTORCH_PICKLE


@given(st.binary(max_size=600) | st.binary(max_size=20).map(lambda tail: b"PK\3\4" + tail))
def test_any_bytes_are_of_one_kind_or_none(data: bytes) -> None:
    """And what follows the first bytes makes no difference."""
    assert recognise_bytes(data[:READ_SIZE]) == recognise(io.BytesIO(data))


def test_little_is_read(tmp_path: Path) -> None:
    with (tmp_path / "model.safetensors").open("w+b") as file:
        file.write(POINTER)
        file.truncate(1 << 40)
        file.seek(100)
        assert recognise(file) == recognition.GIT_LFS_POINTER
        assert file.tell() == READ_SIZE


def test_a_fifo_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(OSError, match="Not a regular file"):
        recognise(tmp_path / "model.safetensors")


def test_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        recognise(tmp_path)


def test_the_names_complete_a_sentence() -> None:
    names = {value for name, value in vars(recognition).items() if name.isupper() and isinstance(value, str)}
    assert all(name.startswith(("a ", "an ")) for name in names)
    assert len(names) == 12
