"""The tensors in a file, in whichever format it has them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hashbench.hashing.sources import FileRange
from hashbench.kernels import Bytes
from hashbench.model.gguf import GgufError, GgufHeader, read_gguf_header
from hashbench.model.pytorch_checkpoint import PyTorchError, read_checkpoint
from hashbench.model.recognition import GIT_LFS_POINTER, HTML_PAGE, recognise
from hashbench.model.safetensors_header import Header, SafetensorsError, read_header

SHARDING_INFO = "DCP_SHARDING_INFO"
"""In the metadata of a safetensors file of which tensors are shards: where they begin in the whole tensors."""


class NotTensorsError(ValueError):
    """A file does not have the tensors that its name promises; the message says why."""


class ShardsError(NotTensorsError):
    """A file's tensors are shards of others, which are joined where tensors alone are asked for."""


class FoundTensor(NamedTuple):
    """One tensor of a file.

    Attributes:
        name: its name in the file.
        dtype: its dtype.
        shape: its shape.
        offset: its first byte in the file; None if its bytes are not one range of it.
        nbytes: its size in bytes.
        gathered: its bytes, if they are not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int | None
    nbytes: int
    gathered: Bytes | None = None


@dataclass(frozen=True, eq=False)
class FoundTensors:
    """The tensors of one file.

    Attributes:
        tensors: none if the file is a plain file.
        status: the file's status before its header was read; None if nothing was read.
    """

    tensors: tuple[FoundTensor, ...] = ()
    status: os.stat_result | None = None

    @property
    def gathered_bytes(self) -> int:
        """The bytes in memory; tied tensors share theirs."""
        return sum({id(t.gathered): t.gathered.nbytes for t in self.tensors if t.gathered is not None}.values())


def find_tensors(name: str, path: Path, max_gathered: int) -> FoundTensors:
    """The tensors of a file, by the format that its name promises.

    Args:
        name: the file's name in the model, by which loaders choose the format.
        path: where it is opened; a link's target has another name.
        max_gathered: bytes of all tensors that are not one range of the file, at most.

    Raises:
        OSError: it cannot be read.
        NotTensorsError: it does not keep the promise.
    """
    suffix = Path(name).suffix.lower()
    try:
        if suffix in _PYTORCH:
            checkpoint = read_checkpoint(path, max_gathered)
            tensors = tuple(
                FoundTensor(tensor.name, tensor.dtype, tensor.shape, tensor.source.offset, tensor.source.nbytes)
                if isinstance(tensor.source, FileRange)
                else FoundTensor(tensor.name, tensor.dtype, tensor.shape, None, tensor.source.nbytes, tensor.source)
                for tensor in checkpoint.tensors
            )
            return FoundTensors(tensors, checkpoint.status)
        if read := _HEADERS.get(suffix):
            header = read(path)
            if isinstance(header, Header) and SHARDING_INFO in header.metadata:
                raise ShardsError("its tensors are shards, which are joined where tensors alone are asked for")
            return FoundTensors(tuple(FoundTensor(*tensor) for tensor in header.tensors), header.status)
    except (SafetensorsError, GgufError, PyTorchError) as error:
        found = recognise(path)
        why = f"it is {found}" if found in (GIT_LFS_POINTER, HTML_PAGE) else str(error)
        raise NotTensorsError(why) from None
    return FoundTensors()


def promises_tensors(name: str) -> bool:
    """Whether a file's name is one of a format whose tensors can be found."""
    suffix = Path(name).suffix.lower()
    return suffix in _PYTORCH or suffix in _HEADERS


_PYTORCH = (".pt", ".pth", ".bin", ".ckpt")

_HEADERS: dict[str, Callable[[Path], Header | GgufHeader]] = {
    ".safetensors": read_header,
    ".gguf": read_gguf_header,
}
