"""Tensors that several processes have saved in boxes, each in files of its own, joined to whole tensors.

These are folders of torch.distributed.checkpoint, and safetensors files in which its HuggingFaceStorageWriter saves
shards. A tensor has the same bytes whoever saved which of its boxes.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from hashbench.hashing.opening import read_regular
from hashbench.hashing.sources import FileRange
from hashbench.model.boxes import BoxError, FileBox, JoinedBoxes
from hashbench.model.contents import Files, ModelError, Part
from hashbench.model.dcp_metadata import MAX_SIZE, DcpError, SavedTensor, read_metadata
from hashbench.model.dtypes import tensor_nbytes, torch_description
from hashbench.model.folder import ListedFile
from hashbench.model.formats import SHARDING_INFO
from hashbench.model.manifest import TensorEntry
from hashbench.model.pytorch_checkpoint import PyTorchError, read_tensor
from hashbench.model.safetensors_header import SafetensorsError, read_header
from hashbench.model.strict_json import StrictJsonError, loads, quoted

METADATA = ".metadata"
"""The file that says where the tensors of a folder of torch.distributed.checkpoint are."""


def is_sharded(name: str) -> bool:
    """Whether a file's name is one of torch.distributed.checkpoint."""
    return name == METADATA or name.endswith(".distcp")


class Joined(NamedTuple):
    """Tensors that files have in boxes.

    Attributes:
        file: the file that stands for all of them.
        files: those that have them.
        parts: the tensors.
    """

    file: str
    files: frozenset[str]
    parts: list[Part]


def sharded_tensors(files: Files) -> Joined | None:
    """The tensors that files have in boxes; None if they have none.

    Args:
        files: of a folder.

    Raises:
        OSError: a file cannot be read.
        ModelError: a file is not valid, or the boxes do not make up whole tensors.
    """
    if METADATA in files:
        tensors, holding = _of_checkpoint(files), [METADATA]
    else:
        tensors, holding = _in_safetensors(files)
    return Joined(min(holding), frozenset(holding), [_joined(*tensor) for tensor in tensors]) if holding else None


_Tensor = tuple[str, str, tuple[int, ...], Sequence[FileBox]]
"""Name, dtype, shape and boxes."""


def _joined(name: str, dtype: str, shape: tuple[int, ...], boxes: Sequence[FileBox]) -> Part:
    try:
        nbytes, itemsize = tensor_nbytes(dtype, shape), tensor_nbytes(dtype, (1,))
        return Part(TensorEntry(name, dtype, shape, nbytes, b""), JoinedBoxes(shape, itemsize, boxes))
    except (BoxError, ValueError) as error:
        raise ModelError(f"the tensor {quoted(name)} is not accepted: {error}") from None


def _of_checkpoint(files: Files) -> Iterator[_Tensor]:
    try:
        tensors = read_metadata(read_regular(files[METADATA].path, MAX_SIZE + 1))
    except DcpError as error:
        raise ModelError(f"{files[METADATA].path} is not accepted: {error}") from None
    for tensor in tensors:
        try:
            dtype, shape = torch_description(tensor.dtype, tensor.shape)
        except ValueError as error:
            raise ModelError(f"the tensor {quoted(tensor.name)} is not accepted: {error}") from None
        if shape != tensor.shape:
            raise ModelError(f"the tensor {quoted(tensor.name)} is not accepted: its elements are packed in pairs")
        yield tensor.name, dtype, shape, [_box(tensor, number, dtype, files) for number in range(len(tensor.boxes))]


def _box(tensor: SavedTensor, number: int, dtype: str, files: Files) -> FileBox:
    """Where the bytes of a box are: in an archive of its own, inside a file."""
    box = tensor.boxes[number]
    about = f"the box at {list(box.offsets)} of the tensor {quoted(tensor.name)}"
    file = files.get(PurePosixPath(box.file).as_posix())
    if file is None:
        raise ModelError(f"{about} is said to be in {quoted(box.file)}, which is not a file of the folder")
    try:
        found = read_tensor(file.path, box.start, box.nbytes)
    except PyTorchError as error:
        raise ModelError(f"{about}: {error}") from None
    if (found.dtype, found.shape) != (dtype, box.shape):
        raise ModelError(
            f"{about} is said to be {dtype} {list(box.shape)}, but is {found.dtype} {list(found.shape)} in its file"
        )
    if not isinstance(found.source, FileRange):
        raise ModelError(f"{about} is not contiguous in its file")
    return FileBox(box.offsets, box.shape, file.path, found.source.offset, file.status)


def _in_safetensors(files: Files) -> tuple[Iterator[_Tensor], list[str]]:
    """Tensors in boxes of safetensors files, and the files that say that they have boxes."""
    found: defaultdict[str, list[tuple[str, FileBox]]] = defaultdict(list)
    holding = []
    for file in files.values():
        if not file.name.endswith(".safetensors"):
            continue
        try:
            header = read_header(file.path)
        except SafetensorsError:
            continue
        if SHARDING_INFO not in header.metadata:
            continue
        holding.append(file.name)
        offsets = _offsets(file, header.metadata[SHARDING_INFO])
        for tensor in header.tensors:
            first = tuple(offsets.get(tensor.name, [0] * len(tensor.shape)))
            if len(first) != len(tensor.shape):
                raise ModelError(f"{file.path}: the offsets of {quoted(tensor.name)} do not fit its shape")
            box = FileBox(first, tensor.shape, file.path, tensor.offset, file.status)
            found[tensor.name].append((tensor.dtype, box))
    return _whole(found), holding


def _whole(found: dict[str, list[tuple[str, FileBox]]]) -> Iterator[_Tensor]:
    for name, boxes in found.items():
        if len({(dtype, len(box.shape)) for dtype, box in boxes}) > 1:
            raise ModelError(f"the files do not agree on the dtype or the dimensions of {quoted(name)}")
        # The whole shape is not said: it is what the boxes reach to. Were the last missing, no manifest would fit.
        ends = zip(*((a + n for a, n in zip(box.offsets, box.shape, strict=True)) for _, box in boxes), strict=True)
        shape = tuple(max(lengths) for lengths in ends)
        yield name, boxes[0][0], shape, [box for _, box in boxes]


def _offsets(file: ListedFile, text: str) -> dict[str, list[int]]:
    """Where the boxes of a file begin, by tensor."""
    try:
        document: Any = loads(text.encode(), max_depth=3)
    except StrictJsonError as error:
        raise ModelError(f"{file.path}: its {SHARDING_INFO} is not valid: {error}") from None
    offsets = {}
    for name, info in document.items() if isinstance(document, dict) else [("", None)]:
        first = info.get("saved_offsets") if isinstance(info, dict) else None
        if not isinstance(first, list) or any(type(n) is not int or n < 0 for n in first):
            raise ModelError(f"{file.path}: its {SHARDING_INFO} does not say where {json.dumps(name)} begins")
        offsets[name] = first
    return offsets
