"""The tensors in a file, in whichever format it has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hashbench.hashing.sources import Source
from hashbench.model.gguf import GgufError, read_gguf_header
from hashbench.model.onnx import OnnxError, external_data
from hashbench.model.recognition import GIT_LFS_POINTER, HTML_PAGE, recognise
from hashbench.model.safetensors_header import SafetensorsError, read_header
from hashbench.model.tensor_range import TensorRange

PYTORCH = (".pt", ".pth", ".bin", ".ckpt")


class FoundTensor(NamedTuple):
    """One tensor of a file.

    Attributes:
        name: its name in the file.
        dtype: its dtype.
        shape: its shape.
        offset: its first byte in the file; None if its bytes are not one range of it.
        nbytes: its size in bytes.
        source: its bytes, if they are not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int | None
    nbytes: int
    source: Source | None = None


@dataclass(frozen=True, eq=False)
class FoundTensors:
    """The tensors of one file.

    Attributes:
        tensors: none if the file is a plain file.
        status: the file's status before its header was read; None if nothing was read.
        note: why a file that looks as if it had tensors is a plain file, or what of it is not a tensor; "" otherwise.
    """

    tensors: tuple[FoundTensor, ...] = ()
    status: os.stat_result | None = None
    note: str = ""


def find_tensors(path: Path) -> FoundTensors:
    """The tensors of a file, by the format that its name promises.

    A file that does not keep the promise is a plain file: its bytes count, and a note says why its tensors do not.

    Args:
        path: of a regular file.

    Raises:
        OSError: it cannot be read.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        return FoundTensors()
    try:
        return read(path)
    except (SafetensorsError, GgufError) as error:
        found = recognise(path)
        why = f"it is {found}" if found in (GIT_LFS_POINTER, HTML_PAGE) else str(error)
        return FoundTensors(note=f"hashed as a plain file: {why}")


def not_covered_by(path: Path) -> tuple[str, ...]:
    """Files that a model in one file names as part of itself: the external data of an ONNX model.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() != ".onnx":
        return ()
    try:
        return tuple(sorted({data.location for data in external_data(path)}))
    except OnnxError:
        return ()


def _in_file(tensors: Iterable[TensorRange]) -> tuple[FoundTensor, ...]:
    return tuple(FoundTensor(*tensor) for tensor in tensors)


def _safetensors(path: Path) -> FoundTensors:
    header = read_header(path)
    return FoundTensors(_in_file(header.tensors), header.status)


def _gguf(path: Path) -> FoundTensors:
    header = read_gguf_header(path)
    return FoundTensors(_in_file(header.tensors), header.status)


_READERS: dict[str, Callable[[Path], FoundTensors]] = {
    ".safetensors": _safetensors,
    ".gguf": _gguf,
}
