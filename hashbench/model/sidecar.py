"""The leaf hashes of a manifest's tensors and files, in a file of their own: with them damage is located to a chunk.

It is a safetensors file with a tensor for each entry of the manifest, under the entry's name: U8, of the shape (chunks,
digest size). Its metadata has the manifest's root, algorithm and chunk size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from hashbench.hashing.range_hasher import Leaves
from hashbench.kernels import Bytes, algorithm_named
from hashbench.merkle.rfc9162 import root_of, roots_of_runs
from hashbench.model.manifest import Manifest
from hashbench.model.safetensors_header import MAX_HEADER_SIZE, METADATA, SafetensorsError, read_header
from hashbench.model.strict_json import quoted

_ALIGNMENT = 8  # of the tensors' first byte, as the safetensors library writes it


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


def _shape(nbytes: int, algorithm: str, chunk_size: int) -> tuple[int, int]:
    return -(-nbytes // chunk_size), algorithm_named(algorithm).digest_size


class SidecarWriter:
    """Writes a sidecar, whole or not at all: the file is there when `finish` has returned.

    Args:
        path: the file; an older one is replaced.
        entries: name and bytes of each tensor or file, in the manifest's order.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a chunk.

    Raises:
        SidecarError: the file cannot be written, or an entry has a name that safetensors keeps to itself.
    """

    def __init__(self, path: Path, entries: Sequence[tuple[str, int]], algorithm: str, chunk_size: int) -> None:
        if any(name == METADATA for name, _ in entries):
            raise SidecarError(f"{METADATA} cannot have leaf hashes in a safetensors file, where that name is taken")
        self._path = path
        self._algorithm, self._chunk_size = algorithm, chunk_size
        self._shapes = {name: _shape(nbytes, algorithm, chunk_size) for name, nbytes in entries}
        lengths = [prod(shape) for shape in self._shapes.values()]
        self._starts = np.cumsum([0, *lengths]).tolist()
        self._begin = len(self._header(bytes(algorithm_named(algorithm).digest_size)))
        if self._begin - 8 > MAX_HEADER_SIZE:
            raise SidecarError(
                f"{len(entries):,} entries are too many: the header of a safetensors file has {MAX_HEADER_SIZE} bytes"
            )
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._file = self._temporary.open("wb")
            self._file.truncate(self._begin + self._starts[-1])
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            raise self._cannot(error) from None

    def __enter__(self) -> SidecarWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # of what could not be written, which has been told
            self._file.close()

    def add(self, leaves: Leaves) -> None:
        """Writes the leaf hashes of a piece; its source is the entry's place.

        Raises:
            SidecarError: they cannot be written.
        """
        size = leaves.hashes.shape[1]
        self._write(self._begin + self._starts[leaves.source] + leaves.first * size, leaves.hashes.tobytes())

    def finish(self, root: bytes) -> None:
        """Ends the file, of the manifest that has this root.

        Raises:
            SidecarError: it cannot be written; an older file is left as it was.
        """
        self._write(0, self._header(root))
        try:
            self._file.close()
            self._temporary.replace(self._path)
        except OSError as error:
            raise self._cannot(error) from None

    def _write(self, place: int, data: bytes) -> None:
        try:
            self._file.seek(place)
            self._file.write(data)
        except OSError as error:
            raise self._cannot(error) from None

    def _header(self, root: bytes) -> bytes:
        """The file's start, as long for one root as for another."""
        metadata = {"algorithm": self._algorithm, "chunk_size": str(self._chunk_size), "root": root.hex()}
        header: dict[str, Any] = {METADATA: metadata}
        for (name, shape), start in zip(self._shapes.items(), self._starts, strict=False):
            header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [start, start + prod(shape)]}
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    def _cannot(self, error: OSError) -> SidecarError:
        return SidecarError(f"{self._path} cannot be written: {error.strerror}")


class Sidecar:
    """A sidecar, to be read.

    Args:
        path: the file.
        manifest: whose leaf hashes it has.

    Raises:
        OSError: it cannot be read.
        SafetensorsError: it is not a valid safetensors file.
        SidecarError: it is not the sidecar of that manifest.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._path = path
        self._manifest = manifest
        header = read_header(path)
        if header.metadata.get("root") != manifest.root.hex():
            raise SidecarError(f"{path} is not the sidecar of this manifest: its metadata has another root, or none")
        self._tensors = {tensor.name: tensor for tensor in header.tensors}
        self._roots = {entry.name: entry.root for entry in manifest.entries}
        expected = {
            entry.name: _shape(entry.nbytes, manifest.algorithm, manifest.chunk_size) for entry in manifest.entries
        }
        for name in expected.keys() | self._tensors.keys():
            tensor = self._tensors.get(name)
            if tensor is None or (tensor.dtype, tensor.shape) != ("U8", expected.get(name)):
                raise SidecarError(f"{path} is not the sidecar of this manifest: {quoted(name)} is not as it should be")

    def leaves(self, name: str) -> Bytes:
        """The leaf hashes of the tensor or file `name`, which lead to its root: uint8, shape (chunks, digest size).

        They stay in the file until they are used.

        Raises:
            KeyError: the manifest has no such tensor or file.
            SidecarError: they lead to another root.
        """
        tensor = self._tensors[name]
        if tensor.nbytes:
            leaves: Bytes = np.memmap(self._path, np.uint8, "r", tensor.offset, tensor.shape)
        else:
            leaves = np.empty(tensor.shape, np.uint8)
        algorithm = self._manifest.algorithm
        if root_of(roots_of_runs(leaves, algorithm), algorithm) != self._roots[name]:
            raise SidecarError(f"{self._path} is damaged: the leaf hashes of {quoted(name)} do not lead to its root")
        return leaves
