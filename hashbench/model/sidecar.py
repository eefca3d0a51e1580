"""Sidecars: the leaf hashes of a manifest's tensors and files in a file of their own, to locate damage to a chunk.

A sidecar is a safetensors file with one tensor for each entry of the manifest, under the entry's name: U8, of the shape
(chunks, digest size). Its metadata has the manifest's root, algorithm and chunk size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from hashbench.hashing.atomic_write import AtomicFile
from hashbench.hashing.hasher import ChunkHashes
from hashbench.kernels import Bytes, algorithm_named
from hashbench.merkle.rfc9162 import RUN, root_of, roots_of_runs
from hashbench.model.manifest import Manifest
from hashbench.model.opened import opened
from hashbench.model.safetensors_header import MAX_HEADER_SIZE, METADATA, SafetensorsError, read_header
from hashbench.model.strict_json import quoted

_RUNS = 64  # that are read at a time: 32 MiB of SHA-256
_ALIGNMENT = 8  # of the first tensor, as the safetensors library writes it


class SidecarError(ValueError):
    """A sidecar cannot be written, or does not belong to the manifest; the message says why."""


def is_sidecar(path: Path) -> bool:
    """Whether a file is the sidecar of some manifest.

    Raises:
        OSError: it cannot be read.
    """
    try:
        header = read_header(path)
    except SafetensorsError:
        return False
    hashes = all(tensor.dtype == "U8" and len(tensor.shape) == 2 for tensor in header.tensors)
    return hashes and {"root", "algorithm", "chunk_size"} <= header.metadata.keys()


def check_outside(sidecar: Path, model: Path) -> None:
    """Checks that a sidecar is not in the folder of its model, where it would be a file of the model.

    Raises:
        SidecarError: it is.
    """
    if model.is_dir() and model.resolve() in (sidecar.parent.resolve() / sidecar.name).parents:
        raise SidecarError(f"{sidecar} would be a file of the model: it must be outside {model}")


def _shape(nbytes: int, algorithm: str, chunk_size: int) -> tuple[int, int]:
    return -(-nbytes // chunk_size), algorithm_named(algorithm).digest_size


class SidecarWriter:
    """Writes a sidecar completely or not at all: the file is there when `finish` has returned.

    Args:
        path: the file; an older one is replaced.
        entries: name and size in bytes of each tensor or file, in the manifest's order.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a chunk.

    Raises:
        OSError: the file cannot be written. So do all methods.
        SidecarError: an entry has a name that is reserved in safetensors files, or there are too many entries.
    """

    def __init__(self, path: Path, entries: Sequence[tuple[str, int]], algorithm: str, chunk_size: int) -> None:
        if any(name == METADATA for name, _ in entries):
            raise SidecarError(f"{METADATA} cannot have leaf hashes: safetensors files reserve the name")
        self._algorithm, self._chunk_size = algorithm, chunk_size
        self._shapes = {name: _shape(nbytes, algorithm, chunk_size) for name, nbytes in entries}
        lengths = [prod(shape) for shape in self._shapes.values()]
        self._starts = np.cumsum([0, *lengths]).tolist()
        self._begin = len(self._header(bytes(algorithm_named(algorithm).digest_size)))
        if self._begin - 8 > MAX_HEADER_SIZE:
            raise SidecarError(
                f"{len(entries):,} entries are too many: the header of a safetensors file has {MAX_HEADER_SIZE} bytes "
                "at most"
            )
        self._file = AtomicFile(path)

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def add(self, leaves: ChunkHashes) -> None:
        """Writes the leaf hashes of a piece; its source is the entry's index."""
        size = leaves.hashes.shape[1]
        self._file.write(leaves.hashes.tobytes(), self._begin + self._starts[leaves.source] + leaves.first * size)

    def finish(self, root: bytes) -> None:
        """Completes the file, as the sidecar of the manifest with this root."""
        self._file.write(self._header(root), 0)
        self._file.commit()

    def _header(self, root: bytes) -> bytes:
        """The start of the file, equally long for all roots."""
        metadata = {"algorithm": self._algorithm, "chunk_size": str(self._chunk_size), "root": root.hex()}
        header: dict[str, Any] = {METADATA: metadata}
        for (name, shape), start in zip(self._shapes.items(), self._starts, strict=False):
            header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [start, start + prod(shape)]}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text


@contextmanager
def opened_sidecar(path: Path, manifest: Manifest) -> Iterator[Sidecar]:
    """Opens the sidecar of a manifest.

    Raises:
        OSError: it cannot be read.
        SafetensorsError: it is not a valid safetensors file.
        SidecarError: it is not the sidecar of that manifest.
    """
    with opened(path) as (stream, _):
        yield Sidecar(path, stream, manifest)


class Sidecar:
    """A sidecar to read, through one open file: `opened_sidecar` opens it.

    Args:
        path: the file's name, for errors.
        stream: the file.
        manifest: the manifest whose leaf hashes it has.

    Raises:
        OSError, SafetensorsError, SidecarError: as for `opened_sidecar`.
    """

    def __init__(self, path: Path, stream: BinaryIO, manifest: Manifest) -> None:
        self._path = path
        self._stream = stream
        self._manifest = manifest
        header = read_header(stream)
        if header.metadata.get("root") != manifest.root.hex():
            raise SidecarError(f"{path} is not the sidecar of this manifest: its metadata has another root, or none")
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        expected = {
            entry.name: _shape(entry.hashed, manifest.algorithm, manifest.chunk_size) for entry in manifest.entries
        }
        for name in expected.keys() | self._tensors.keys():
            tensor = self._tensors.get(name)
            if tensor is None or (tensor.dtype, tensor.shape) != ("U8", expected.get(name)):
                raise SidecarError(
                    f"{path} is not the sidecar of this manifest: {quoted(name)} is missing, extra or of another shape"
                )

    def check(self, name: str) -> None:
        """Checks the leaf hashes of the tensor or file `name` against its root.

        Raises:
            KeyError: the manifest has no such tensor or file.
            OSError, SidecarError: they cannot be read, or have another root.
        """
        count, algorithm = self._tensors[name].shape[0], self._manifest.algorithm
        nodes: list[bytes] = []
        for first in range(0, count, _RUNS * RUN):
            nodes += roots_of_runs(self.leaves(name, first, min(_RUNS * RUN, count - first)), algorithm)
        if root_of(nodes, algorithm) != self._manifest.by_name[name].root:
            raise SidecarError(f"{self._path} is damaged: the leaf hashes of {quoted(name)} do not have its root")

    def leaves(self, name: str, first: int = 0, count: int | None = None) -> Bytes:
        """Leaf hashes of the tensor or file `name`, in memory. `check` vouches for them.

        Args:
            name: of the tensor or file.
            first: the first chunk.
            count: how many chunks; None means all that follow. There may be fewer.

        Returns:
            The hashes: uint8, shape (chunks, digest size).

        Raises:
            KeyError: the manifest has no such tensor or file.
            OSError, SidecarError: they cannot be read.
        """
        tensor = self._tensors[name]
        chunks, size = tensor.shape
        count = max(0, min(chunks - first, chunks if count is None else count))
        self._stream.seek(tensor.offset + first * size)
        data = self._stream.read(count * size)
        if len(data) != count * size:
            raise SidecarError(f"{self._path} shrank while it was read")
        return np.frombuffer(data, np.uint8).reshape(count, size)
