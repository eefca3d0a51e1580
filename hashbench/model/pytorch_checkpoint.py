"""The tensors of a PyTorch checkpoint on disk, without PyTorch: what `torch.save` writes since version 1.6.

The archive and the pickle in it are read strictly, so that `torch.load`, mapped or not, finds the same tensors with the
same bytes, or refuses the file. A tensor is a range of the file if it is contiguous; any other is gathered in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hashbench.hashing.sources import FileRange
from hashbench.kernels import Bytes
from hashbench.model.dtypes import tensor_nbytes, torch_description
from hashbench.model.opened import opened
from hashbench.model.pickle_tensors import MAX_SIZE, PickledTensor, PickleError, Storage, read_pickle
from hashbench.model.pytorch_archive import ArchiveError, ForeignFile, Record, Window, read_archive, read_at
from hashbench.model.strict_json import quoted
from hashbench.model.strided import gather, is_contiguous, span

MAX_GATHERED = 1 << 30
"""Bytes of all tensors of a model together that are not contiguous, at most; and never more than a file has."""

_MAX_READ = 8  # times the file's size, read for all of them together
_MAX_SMALL_RECORD = 64
_VERSION = re.compile(rb"([1-9]|10)\n?")  # of the archive's format, as PyTorch reads it
_ALIGNMENT = re.compile(rb"[1-9][0-9]{0,5}")
_32_BITS = 0xFFFFFFFF


class PyTorchError(ValueError):
    """A file is not accepted as a PyTorch checkpoint; the message names it and says why."""


class NotAPyTorchArchive(PyTorchError):
    """A file is another kind of file: TorchScript, PyTorch's format of before version 1.6, or no zip archive."""


class StoredTensor(NamedTuple):
    """A tensor of a checkpoint.

    Attributes:
        name: Its name, as `hashbench.model.pickle_tensors` writes it.
        dtype: Its dtype, by safetensors' name.
        shape: Its shape.
        source: Its bytes: a range of the file, or in memory if it is not contiguous.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: FileRange | Bytes


@dataclass(frozen=True, eq=False)
class PyTorchCheckpoint:
    """What a PyTorch checkpoint has.

    Attributes:
        tensors: Its tensors.
        others: The names of its values that are not tensors.
        status: The file's status before anything was read.
    """

    tensors: tuple[StoredTensor, ...]
    others: tuple[str, ...]
    status: os.stat_result


def read_checkpoint(path: str | os.PathLike[str], max_gathered: int = MAX_GATHERED) -> PyTorchCheckpoint:
    """Reads the description of a PyTorch checkpoint's tensors, and the bytes of those that are not contiguous.

    Args:
        path: Of the file, which is opened once.
        max_gathered: Bytes of all tensors together that are not contiguous, at most.

    Returns:
        Its tensors.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
        NotAPyTorchArchive: It is another kind of file.
        PyTorchError: It is not valid, or has something that is not accepted, as `read_archive` and `read_pickle` say;
            a storage has not the size of its record; a tensor is not within its storage, or has a dtype that
            safetensors does not have; or tensors that are not contiguous are too large together.
    """
    with opened(path) as (stream, status):
        assert status is not None
        try:
            return _Reader(Path(path), stream.fileno(), status, max_gathered, status.st_size).checkpoint()
        except ForeignFile as error:
            raise NotAPyTorchArchive(f"{Path(path)} is not a PyTorch checkpoint in a zip archive: {error}") from None
        except (ArchiveError, PickleError, _InvalidError) as error:
            raise PyTorchError(f"{Path(path)} is not accepted as a PyTorch checkpoint: {error}") from None


def read_tensor(path: Path, start: int, nbytes: int) -> StoredTensor:
    """Reads the description of the one tensor that `torch.save` wrote as a part of a file.

    Args:
        path: Of the file.
        start: Where its archive begins.
        nbytes: The archive's size.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
        PyTorchError: The part is not in the file, not a valid archive, or has not exactly one tensor, which is
            contiguous.
    """
    with opened(path) as (stream, status):
        assert status is not None
        try:
            if not 0 <= start <= start + nbytes <= status.st_size:
                raise _InvalidError(f"the file has {status.st_size} bytes, not bytes {start} to {start + nbytes}")
            found = _Reader(path, Window(stream.fileno(), start), status, 0, nbytes).checkpoint()
            if len(found.tensors) != 1 or found.others:
                raise _InvalidError(f"it has {len(found.tensors)} tensors and {len(found.others)} other values, not 1")
            (tensor,) = found.tensors
            assert isinstance(tensor.source, FileRange)  # no bytes are gathered
            return tensor._replace(source=replace(tensor.source, offset=start + tensor.source.offset))
        except (ArchiveError, PickleError, _InvalidError) as error:
            raise PyTorchError(f"{path} is not accepted at byte {start}: {error}") from None


class _InvalidError(ValueError):
    """What is wrong, without the file's name."""


class _View(NamedTuple):
    """A tensor that lies within its storage."""

    name: str
    tensor: PickledTensor
    dtype: str
    shape: tuple[int, ...]
    offset: int
    itemsize: int
    nbytes: int

    @property
    def is_contiguous(self) -> bool:
        return is_contiguous(self.tensor.shape, self.tensor.stride)


class _Reader:
    """Reads one checkpoint.

    Args:
        path: Of the file.
        descriptor: Of the file, or a part of it.
        status: The file's status.
        max_gathered: As for `read_checkpoint`.
        size: Of the file, or of its part.
    """

    def __init__(
        self, path: Path, descriptor: int | Window, status: os.stat_result, max_gathered: int, size: int
    ) -> None:
        self._size = size
        self._path = path
        self._max_gathered = max_gathered
        self._descriptor = descriptor
        self._status = status
        self._records = read_archive(descriptor, size)
        self._to_read = _MAX_READ * size

    def checkpoint(self) -> PyTorchCheckpoint:
        """Reads all of it."""
        self._check_format()
        record = self._records["data.pkl"]
        if record.nbytes > MAX_SIZE:
            raise _InvalidError(f"its pickle has {record.nbytes} bytes; up to {MAX_SIZE} are accepted")
        pickled = read_pickle(read_at(self._descriptor, record.offset, record.nbytes))
        views = [self._view(name, tensor) for name, tensor in pickled.tensors.items()]
        self._check_calculated_offsets([self._record(storage) for storage in pickled.storages])
        # Tied tensors are one tensor under several names.
        scattered = {id(view.tensor): view for view in views if not view.is_contiguous}
        if sum(view.nbytes for view in scattered.values()) > min(self._max_gathered, self._size):
            raise _InvalidError(
                f"the tensor {quoted(next(iter(scattered.values())).name)} and others are not contiguous, and together "
                f"larger than the file or {self._max_gathered} bytes: save them with contiguous()"
            )
        gathered = {identity: self._gather(view) for identity, view in scattered.items()}
        tensors = []
        for view in views:
            source: FileRange | Bytes | None = gathered.get(id(view.tensor))
            if source is None:
                source = FileRange(self._path, view.offset, view.nbytes, self._status)
            tensors.append(StoredTensor(view.name, view.dtype, view.shape, source))
        return PyTorchCheckpoint(tuple(tensors), pickled.others, self._status)

    def _check_format(self) -> None:
        version = self._small("version")
        if version is None or not _VERSION.fullmatch(version):
            raise _InvalidError(f"its format has the version {quoted(version)}; 1 to 10 are accepted")
        if (order := self._small("byteorder")) not in (None, b"little"):
            raise _InvalidError(f"its byte order is {quoted(order)}; accepted is little")

    def _small(self, name: str) -> bytes | None:
        """The content of a record of few bytes, if it is there."""
        record = self._records.get(name)
        if record is None:
            return None
        if record.nbytes > _MAX_SMALL_RECORD:
            raise _InvalidError(f"its record {quoted(name)} has {record.nbytes} bytes, which is more than it needs")
        return read_at(self._descriptor, record.offset, record.nbytes)

    def _record(self, storage: Storage) -> Record:
        """The record of a storage, which has the storage's size."""
        record = self._records.get(f"data/{storage.key}")
        if record is None:
            raise _InvalidError(f"it has no record for the storage {quoted(storage.key)}")
        try:
            nbytes = tensor_nbytes(*torch_description(storage.dtype, (storage.numel,)))
        except ValueError as error:
            raise _InvalidError(f"its storage {quoted(storage.key)} is not accepted: {error}") from None
        if record.nbytes != nbytes:
            raise _InvalidError(
                f"its storage {quoted(storage.key)} has {nbytes} bytes, and its record has {record.nbytes}"
            )
        return record

    def _check_calculated_offsets(self, records: Sequence[Record]) -> None:
        """Checks the records of storages, in the order of the pickle, against where PyTorch calculates them to be.

        With an option, `torch.load` does not look at headers of archives that have a format version: it assumes that
        the storages follow each other as `torch.save` writes them.
        """
        if (version := self._small(".format_version")) is None:
            return
        alignment = self._small(".storage_alignment") or b"64"
        if version != b"1" or not _ALIGNMENT.fullmatch(alignment):
            raise _InvalidError("its .format_version is not 1, or its .storage_alignment is not a number of bytes")
        step = int(alignment)
        header: int | None = None
        for record in records:
            if header is not None:
                fields = 4
                if record.nbytes >= _32_BITS or header >= _32_BITS:
                    fields += 4 + 16 * (record.nbytes >= _32_BITS) + 8 * (header >= _32_BITS)
                unaligned = header + record.name_end - record.header + fields
                if record.offset != -(-unaligned // step) * step:
                    raise _InvalidError("its storages are not where PyTorch calculates them to be")
            header = record.offset + record.nbytes
            if record.nbytes:
                header += 24 if max(record.header, record.nbytes) >= _32_BITS else 16

    def _view(self, name: str, tensor: PickledTensor) -> _View:
        """Checks a tensor against its storage."""
        about = f"the tensor {quoted(name)}"
        try:
            dtype, shape = torch_description(tensor.dtype, tensor.shape)
            nbytes = tensor_nbytes(dtype, shape)
            itemsize = tensor_nbytes(*torch_description(tensor.dtype, (1,)))
        except ValueError as error:
            raise _InvalidError(f"{about} is not accepted: {error}") from None
        record = self._record(tensor.storage)
        offset = tensor.offset * itemsize if nbytes else 0  # an empty view may begin anywhere
        end = offset + span(tensor.shape, tensor.stride) * itemsize
        if end > record.nbytes:
            raise _InvalidError(f"{about} reaches to byte {end} of its storage, which has {record.nbytes}")
        return _View(name, tensor, dtype, shape, record.offset + offset, itemsize, nbytes)

    def _gather(self, view: _View) -> Bytes:
        def read(offset: int, nbytes: int) -> bytes:
            self._to_read -= nbytes
            if self._to_read < 0:
                raise _InvalidError(
                    f"the tensor {quoted(view.name)} and others are not contiguous, and too far apart in their "
                    "storages to be read: save them with contiguous()"
                )
            return read_at(self._descriptor, offset, nbytes)

        return gather(read, view.offset, view.itemsize, view.tensor.shape, view.tensor.stride)
