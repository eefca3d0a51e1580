"""PyTorch checkpoints made from bytes, and what PyTorch makes of them."""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hashbench.hashing.sources import FileRange
from hashbench.model.dtypes import torch_description
from hashbench.model.pytorch_checkpoint import StoredTensor, read_checkpoint

Tensors = dict[str, tuple[str, tuple[int, ...], bytes]]
"""The dtype and shape, by safetensors' names, and the row-major bytes of tensors, by name."""


# Zip archives

LIMIT = 0xFFFFFFFF  # of 32-bit fields, whose value is in a zip64 field from there on


@dataclass
class Member:
    """A record of an archive, with whatever is wrong about it.

    Attributes:
        name: Its name, without the folder.
        data: Its bytes, or how many zeros.
        header: Fields of the header beside it that are not as they should be, by name.
        entry: Fields of its entry in the directory, in the same way.
        before: Bytes in front of its header.
        trailer: The descriptor after its bytes; None for the right one.
        align: Where its bytes begin, by padding: at a multiple of this.
    """

    name: str
    data: bytes | int
    header: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] = field(default_factory=dict)
    before: bytes = b""
    trailer: bytes | None = None
    align: int = 64

    def parts(self, folder: str, at: int) -> tuple[list[bytes | int], bytes]:
        """What is in the file from `at` on, zeros as a number, and the entry in the directory."""
        name = f"{folder}/{self.name}".encode()
        at += len(self.before)
        size, crc = (self.data, 0) if isinstance(self.data, int) else (len(self.data), zlib.crc32(self.data))
        flags = 0x808 if size else 0x800
        # PyTorch's zip writer does not know the stored size yet when it writes the header's zip64 field.
        large, far = size >= LIMIT, at >= LIMIT
        offset = struct.pack("<Q", at) if far else b""
        zip64 = (struct.pack("<2Q", size, 0) if large else b"") + offset
        entry64 = (struct.pack("<2Q", size, size) if large else b"") + offset
        zip64, entry64 = (struct.pack("<2H", 1, len(data)) + data if data else b"" for data in (zip64, entry64))
        fill = -(at + 30 + len(name) + len(zip64) + 4) % self.align

        local: dict[str, Any] = {"flags": flags, "method": 0, "crc": 0, "stored": 0, "size": 0, "name": name}
        local |= {"extra": zip64 + struct.pack("<2sH", b"FB", fill) + b"Z" * fill} | self.header
        header = struct.pack(
            *("<4s5H3I2H", b"PK\3\4", 0, local["flags"], local["method"], 0, 0, local["crc"], local["stored"]),
            *(local["size"], len(local["name"]), len(local["extra"])),
        )
        trailer = struct.pack("<4sI2Q" if large or far else "<4s3I", b"PK\7\x08", crc, size, size) if size else b""

        entry: dict[str, Any] = {
            "flags": flags,
            "method": 0,
            "crc": crc,
            "stored": min(size, LIMIT),
            "size": min(size, LIMIT),
        }
        entry |= {"name": name, "extra": entry64, "comment": b"", "disk": 0, "attributes": 0, "header": min(at, LIMIT)}
        entry |= self.entry
        fixed = struct.pack(
            *("<4s6H3I5H2I", b"PK\1\2", 0, 0, entry["flags"], entry["method"], 0, 0, entry["crc"], entry["stored"]),
            *(entry["size"], len(entry["name"]), len(entry["extra"]), len(entry["comment"]), entry["disk"], 0),
            *(entry["attributes"], entry["header"]),
        )
        beside = [self.before + header + local["name"] + local["extra"], self.data]
        return (
            [*beside, trailer if self.trailer is None else self.trailer],
            fixed + entry["name"] + entry["extra"] + entry["comment"],
        )


def archive(
    members: Iterable[Member],
    folder: str = "archive",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    locator: dict[str, int] | None = None,
    zip64: bool = True,
    between: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """An archive as PyTorch writes it, but for what is given.

    Args:
        members: The records, in their order.
        folder: The folder that they are in.
        end: Fields of the end record that are not as they should be, by name.
        end64: Fields of the zip64 end record, in the same way.
        locator: Fields of the zip64 locator, in the same way.
        zip64: Whether there is a zip64 end record.
        between: Bytes between the last record and the directory.
        after: Bytes after the end record.
    """
    out = bytearray()
    for part in _parts(members, folder, end or {}, end64 or {}, locator or {}, zip64, between):
        out += bytes(part)
    return bytes(out + after)


def write_sparse(path: Path, members: Iterable[Member]) -> None:
    """Writes an archive, in which zeros take no space."""
    with path.open("wb") as file:
        for part in _parts(members, "archive", {}, {}, {}, True, b""):
            if isinstance(part, int):
                file.seek(part, os.SEEK_CUR)
            else:
                file.write(part)


def _parts(
    members: Iterable[Member],
    folder: str,
    end: dict[str, int],
    end64: dict[str, int],
    locator: dict[str, int],
    zip64: bool,
    between: bytes,
) -> Iterator[bytes | int]:
    entries = []
    position = 0
    for member in members:
        parts, entry = member.parts(folder, position)
        position += sum(part if isinstance(part, int) else len(part) for part in parts)
        entries.append(entry)
        yield from parts
    yield between
    begin, directory = position + len(between), b"".join(entries)
    yield directory
    if zip64:
        long = {"size": 44, "disk": 0, "start": 0, "on_disk": len(entries), "count": len(entries)}
        long |= {"nbytes": len(directory), "begin": begin} | end64
        place = {"disk": 0, "at": begin + len(directory), "disks": 1} | locator
        yield struct.pack(
            *("<4sQ2H2I4Q", b"PK\6\6", long["size"], 798, 45, long["disk"], long["start"], long["on_disk"]),
            *(long["count"], long["nbytes"], long["begin"]),
        )
        yield struct.pack("<4sIQI", b"PK\6\7", *place.values())
    count = min(len(entries), 0xFFFF)
    last = {"disk": 0, "start": 0, "on_disk": count, "count": count, "nbytes": len(directory)}
    last |= {"begin": min(begin, LIMIT), "comment": 0} | end
    yield struct.pack("<4s4H2IH", b"PK\5\6", *last.values())


def checkpoint(pickled: bytes, storages: Mapping[str, bytes | int] | None = None, **others: bytes) -> list[Member]:
    """The records of a checkpoint.

    Args:
        pickled: The pickle.
        storages: The storages, by key; one of four floats if it is not given.
        others: Records, by name, with "_" for ".", in addition or in place of the version and the byte order.
    """
    storages = {"0": np.arange(4, dtype=np.float32).tobytes()} if storages is None else storages
    records = {"byteorder": b"little", "version": b"3\n"} | {
        name.replace("_", ".", 1) if name.startswith("_") else name: data for name, data in others.items()
    }
    return [
        Member("data.pkl", pickled),
        *(Member(f"data/{key}", data) for key, data in storages.items()),
        *(Member(name, data) for name, data in records.items()),
    ]


# Pickles, in the instructions of protocol 2


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def numbers(*values: int) -> bytes:
    return several(*map(number, values))


def called(name: str, *arguments: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return f"c{module}\n{function}\n".encode() + several(*arguments) + b"R"


def named(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


ORDERED = called("collections.OrderedDict")


def storage(key: str = "0", kind: str = "FloatStorage", numel: int = 4, location: str = "cpu") -> bytes:
    return several(text("storage"), named(f"torch.{kind}"), text(key), text(location), number(numel)) + b"Q"


def tensor(
    of: bytes = storage(), offset: int = 0, shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), *more: bytes
) -> bytes:
    arguments = (of, number(offset), numbers(*shape), numbers(*stride), b"\x89", ORDERED, *more)
    return called("torch._utils._rebuild_tensor_v2", *arguments)


def items(values: dict[str, bytes]) -> bytes:
    return b"(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def pickled(**values: bytes) -> bytes:
    """The pickle of a dict."""
    return b"\x80\2}" + items(values) + b"."


# PyTorch's view of them


def described(content: Any) -> Tensors:
    """The tensors in what PyTorch loaded, by the names that they have here."""
    return {name: _bytes_of(value) for name, value in _walk("", content, True)}


def _walk(name: str, value: Any, top: bool) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, dict):
        for key, inner in value.items():
            if type(key) is int:
                yield from _walk(f"{name}[{key}]", inner, False)
            else:
                written = re.sub(r"([\\/\[])", r"\\\1", key) or r"\e"
                yield from _walk(written if top else f"{name}/{written}", inner, False)
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _walk(f"{name}[{place}]", inner, False)
    elif isinstance(value, torch.Tensor):
        yield name, value


def _bytes_of(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    import torch

    plain = value.detach().resolve_conj().resolve_neg()
    flat = plain.flatten().clone(memory_format=torch.contiguous_format)  # a single element may have any stride
    try:
        dtype, shape = torch_description(str(value.dtype), value.shape)
    except ValueError:
        dtype, shape = str(value.dtype), tuple(value.shape)
    return dtype, shape, flat.view(torch.uint8).numpy().tobytes()


def bytes_of(tensor: StoredTensor) -> bytes:
    """The bytes of a tensor, which are read if they are in a file."""
    if not isinstance(tensor.source, FileRange):
        return tensor.source.tobytes()
    with tensor.source.path.open("rb") as file:
        file.seek(tensor.source.offset)
        return file.read(tensor.source.nbytes)


def our_tensors(path: Path) -> Tensors:
    """The tensors that hashbench finds.

    Raises:
        PyTorchError: It refuses the file.
    """
    found = read_checkpoint(path).tensors
    tensors = {tensor.name: (tensor.dtype, tensor.shape, bytes_of(tensor)) for tensor in found}
    assert len(tensors) == len(found)
    return tensors


def loads(path: Path, **options: Any) -> Tensors | None:
    """The tensors that `torch.load` finds; None if it refuses the file."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return described(torch.load(path, map_location="cpu", **options))
        except Exception:  # whatever it raises
            return None


def stock_loads(path: Path) -> dict[str, Tensors | None]:
    """The tensors that `torch.load` finds in each of its ways, with `weights_only`."""
    from torch.utils.serialization import config

    found = {
        "read": loads(path, weights_only=True, mmap=False),
        "mapped": loads(path, weights_only=True, mmap=True),
    }
    with config.patch("load.calculate_storage_offsets", True):
        found["calculated"] = loads(path, weights_only=True, mmap=True)
    return found
