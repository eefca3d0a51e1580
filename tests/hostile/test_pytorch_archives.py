"""Attacks by the zip archives of PyTorch checkpoints: what one reader finds and another does not.

Each archive is refused in one line. Beside it stands what `torch.load` makes of it: in which of its ways it loads.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytorch_files import Member, archive, checkpoint, pickled, stock_loads, storage, tensor

from hashbench.model.pytorch_archive import MAX_DIRECTORY_SIZE, MAX_RECORDS
from hashbench.model.pytorch_checkpoint import PyTorchError, read_checkpoint

GOOD = np.arange(4, dtype=np.float32).tobytes()
EVIL = np.full(4, 666, np.float32).tobytes()
PICKLE = pickled(a=tensor())
THREE = pickled(a=tensor(), b=tensor(storage("1")), c=tensor(storage("2")))
FORMAT = [Member(".format_version", b"1")]
ALL = "read mapped calculated"


def good(**fields: object) -> list[Member]:
    """A good checkpoint, with the given changes of the record of its storage."""
    members = checkpoint(PICKLE)
    for name, value in fields.items():
        setattr(members[1], name, value)
    return members


def with_record(name: str, data: bytes = b"x") -> list[Member]:
    return [*good(), Member(name, data)]


def two_directories() -> bytes:
    """A second archive behind the first one; its offsets do not count the first."""
    return archive(good()) + archive(checkpoint(PICKLE, {"0": EVIL}))


def directory_in_a_comment() -> bytes:
    """The first archive is the comment of a second one's end record."""
    inner = archive(good(), zip64=False)
    return archive(checkpoint(PICKLE, {"0": EVIL}), zip64=False, end={"comment": len(inner)}, after=inner)


def overlapping() -> bytes:
    """Two storages in one record: the second header is in the data of the first."""
    second = archive([Member("data/1", GOOD)])
    inside = second[: second.index(GOOD) + len(GOOD)]
    begin = archive(good()).index(GOOD)
    members = checkpoint(PICKLE, {"0": inside})
    return archive([*members, Member("data/1", b"", entry={"header": begin, "stored": 16, "size": 16})])


def deflated() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for member in good():
            assert isinstance(member.data, bytes)
            file.writestr(f"archive/{member.name}", member.data)
    return stream.getvalue()


def moved(to: int) -> bytes:
    """The storage's entry points to another place, where a second header and other bytes are."""
    data = archive([*good(), Member("data/1", EVIL)])
    place = data.rindex(b"archive/data/0") - 4
    return data[:place] + struct.pack("<I", data.rindex(b"PK\3\4", 0, data.index(EVIL)) + to) + data[place + 4 :]


def long_directory() -> bytes:
    data = archive(good(), zip64=False, between=bytes(MAX_DIRECTORY_SIZE))
    begin = data.index(bytes(64))
    return data[:-10] + struct.pack("<2IH", len(data) - 22 - begin, begin, 0)


CASES: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "two directories": (two_directories, "its zip64 end record is not directly before its end record", ALL),
    "an archive in the comment of another": (
        directory_in_a_comment,
        "its directory does not end where its end record begins",
        ALL,
    ),
    "bytes after the end": (lambda: archive(good(), after=b"x"), "its last 22 bytes are not a zip archive's end", ALL),
    "an end record that is cut off": (lambda: archive(good())[:-1], "its last 22 bytes are not", ""),
    "bytes in front": (lambda: b"x" + archive(good()), "it does not begin as a zip archive", ""),
    "a comment": (lambda: archive(good(), end={"comment": 1}, after=b"x"), "its last 22 bytes are not", ALL),
    "several parts": (lambda: archive(good(), end={"disk": 1}), "one of several parts", ALL),
    "a count that differs": (lambda: archive(good(), end={"on_disk": 3}), "one of several parts", ALL),
    "a count too few": (
        lambda: archive(good(), end={"on_disk": 3, "count": 3}, end64={"on_disk": 3, "count": 3}),
        "its directory is longer than its entries",
        "",
    ),
    "a count too many": (
        lambda: archive(good(), end={"on_disk": 5, "count": 5}, end64={"on_disk": 5, "count": 5}),
        "its directory ends within an entry",
        "",
    ),
    "two end records that disagree": (
        lambda: archive(good(), end={"begin": 0}),
        "its end record and its zip64 end record disagree",
        ALL,
    ),
    "a zip64 record elsewhere": (
        lambda: archive(good(), locator={"at": 0}),
        "its zip64 end record is not directly before its end record",
        ALL,
    ),
    "a zip64 record of another size": (lambda: archive(good(), end64={"size": 45}), "disagree", ALL),
    "no zip64 record where one is named": (
        lambda: archive(good(), zip64=False, end={"begin": 0xFFFFFFFF}),
        "it has no zip64 end record, to which its end record refers",
        "",
    ),
    "bytes between records and directory": (
        lambda: archive(good(), between=b"x"),
        "there are bytes between its last record and its directory",
        ALL,
    ),
    "bytes between records": (lambda: archive(good(before=b"x")), "'data/0' overlaps", ALL),
    "overlapping records": (overlapping, "overlaps what is before it, or leaves a gap", "mapped calculated"),
    "an entry that points elsewhere": (lambda: moved(0), "'data/0' overlaps what is before it", ALL),
    "a header that is none": (lambda: moved(1), "'data/0' overlaps what is before it", ""),
    "another name in the header": (
        lambda: archive(good(header={"name": b"archive/data/1"})),
        "'data/0' differs from what the directory says of it",
        ALL,
    ),
    "a longer name in the header": (
        lambda: archive(good(header={"name": b"archive/data/0" + bytes(64), "extra": b""})),
        "'data/0' differs from what the directory says of it",
        ALL,
    ),
    "another size in the header": (lambda: archive(good(header={"size": 8})), "'data/0' differs", ALL),
    "another checksum in the header": (lambda: archive(good(header={"crc": 1})), "'data/0' differs", ALL),
    "another checksum after the bytes": (
        lambda: archive(good(trailer=struct.pack("<4s3I", b"PK\7\x08", 1, 16, 16))),
        "'data/0' differs",
        ALL,
    ),
    "no descriptor after the bytes": (lambda: archive(good(trailer=b"")), "'data/0' differs", ALL),
    "other bytes as padding": (
        lambda: archive(good(header={"extra": b"FB\4\0evil"})),
        "'data/0' has fields in its header that PyTorch does not write",
        ALL,
    ),
    "an unknown field": (
        lambda: archive(good(header={"extra": b"UT\1\0\0"})),
        "'data/0' has fields in its header",
        ALL,
    ),
    "padding twice": (
        lambda: archive(good(header={"extra": b"FB\1\0ZFB\1\0Z"})),
        "'data/0' has extra fields that are not valid",
        ALL,
    ),
    "a field that is cut off": (lambda: archive(good(header={"extra": b"FB\5\0Z"})), "extra fields that are not", ALL),
    "a zip64 field of another size": (
        lambda: archive(good(header={"extra": struct.pack("<2H2Q", 1, 16, 8, 8)})),
        "'data/0' differs",
        ALL,
    ),
    "a size of 64 bits that differs": (
        lambda: archive(good(entry={"size": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, 8)})),
        "'data/0' is compressed",
        "",
    ),
    "fields in the directory": (
        lambda: archive(good(entry={"extra": b"FB\0\0"})),
        "'data/0' has fields in the directory that PyTorch does not write",
        ALL,
    ),
    "a comment of a record": (lambda: archive(good(entry={"comment": b"x"})), "'data/0' has a comment", ALL),
    "a record in another part": (lambda: archive(good(entry={"disk": 1})), "is in another part", ALL),
    "a record that is marked as a folder": (
        lambda: archive(good(entry={"attributes": 0x10})),
        "is marked as something other than a file",
        ALL,  # read, it is memory as it is found
    ),
    "an encrypted record": (
        lambda: archive(good(header={"flags": 0x809}, entry={"flags": 0x809})),
        "'data/0' has the flags 0x809",
        "",
    ),
    "flags that differ": (lambda: archive(good(entry={"flags": 0x800})), "'data/0' differs", ALL),
    "compressed records": (deflated, "is compressed", ALL),  # mapped, its tensors are compressed bytes
    "a record that is compressed by the directory alone": (
        lambda: archive(good(entry={"method": 8})),
        "'data/0' is compressed",
        ALL,  # read, it is memory as it is found
    ),
    "a record that is compressed by its header alone": (
        lambda: archive(good(header={"method": 8})),
        "'data/0' differs",
        ALL,
    ),
    "a record twice": (lambda: archive(with_record("data/0", EVIL)), "it has the record 'data/0' twice", ALL),
    "a record in two cases": (
        lambda: archive(with_record("DATA/0", EVIL)),
        "it has the record b'DATA/0', which torch.save does not write",
        ALL,
    ),
    "a record of another folder": (
        lambda: archive([Member("x", b""), *good()]).replace(b"archive/x", b"brchive/x"),
        "does not have one folder with a data.pkl",
        "",
    ),
    "a version of its own": (lambda: archive(with_record(".data/version")), "which torch.save does not write", ""),
    "a name with a null": (lambda: archive(with_record("data/0\0")), "which torch.save does not write", ALL),
    "the old format's name": (lambda: archive(with_record("model.json")), "which torch.save does not write", ALL),
    "records outside of folders": (
        lambda: archive(good()).replace(b"archive/", b"archive_"),
        "does not have one folder with a data.pkl",
        "",
    ),
    "big-endian numbers": (
        lambda: archive(checkpoint(PICKLE, byteorder=b"big")),
        "its byte order is b'big'; accepted is little",
        ALL,
    ),
    "an unknown byte order": (lambda: archive(checkpoint(PICKLE, byteorder=b"Little")), "its byte order is", ""),
    "a version to come": (lambda: archive(checkpoint(PICKLE, version=b"11\n")), "version b'11\\n'; 1 to 10 are", ""),
    "a long version": (lambda: archive(checkpoint(PICKLE, version=b"3" * 65)), "'version' has 65 bytes", ""),
    "a record shorter than its storage": (
        lambda: archive(checkpoint(PICKLE, {"0": GOOD[:8]})),
        "its storage '0' has 16 bytes, and its record has 8",
        "mapped calculated",
    ),
    "a record longer than its storage": (
        lambda: archive(checkpoint(PICKLE, {"0": GOOD + EVIL})),
        "its storage '0' has 16 bytes, and its record has 32",
        "mapped calculated",
    ),
    "a storage without a record": (
        lambda: archive(checkpoint(PICKLE, {"1": GOOD})),
        "it has no record for the storage '0'",
        "",
    ),
    "storages in another order than is calculated": (
        lambda: archive(checkpoint(THREE, {"0": GOOD, "2": EVIL, "1": GOOD}, _format_version=b"1")),
        "its storages are not where PyTorch calculates them to be",
        ALL,
    ),
    "a storage that is not aligned as is calculated": (
        lambda: archive([*checkpoint(THREE), Member("data/1", GOOD), Member("data/2", EVIL), *FORMAT]),
        "its storages are not where PyTorch calculates them to be",
        ALL,
    ),
    "an unknown format version": (
        lambda: archive(checkpoint(PICKLE, _format_version=b"2")),
        "its .format_version is not 1",
        ALL,
    ),
    "an alignment that is not a number": (
        lambda: archive(checkpoint(PICKLE, _format_version=b"1", _storage_alignment=b"6_4")),
        "its .storage_alignment is not a number of bytes",
        ALL,
    ),
    "a directory too long": (long_directory, f"bytes; up to {MAX_RECORDS} records and {MAX_DIRECTORY_SIZE} bytes", ""),
    "records without end": (
        lambda: archive(good(), end={"on_disk": 0xFFFF, "count": 0xFFFF}, end64={"on_disk": 1 << 40, "count": 1 << 40}),
        f"its directory lists {1 << 40} records in",
        "",
    ),
}


@pytest.mark.covers("torch")
@pytest.mark.parametrize(("make", "reason", "loads"), CASES.values(), ids=CASES)
def test_an_archive_that_readers_understand_differently_is_refused(
    tmp_path: Path, make: Callable[[], bytes], reason: str, loads: str
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "model.pt"
    path.write_bytes(make())
    with pytest.raises(PyTorchError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert reason in message
    assert message.startswith(f"{path} is not ")
    assert len(message.splitlines()) == 1
    assert [way for way, tensors in stock_loads(path).items() if tensors is not None] == loads.split()


@pytest.mark.covers("torch")
@pytest.mark.parametrize(
    ("name", "way", "other"),
    [
        ("storages in another order than is calculated", "calculated", "mapped"),
        ("a storage that is not aligned as is calculated", "calculated", "mapped"),
        ("compressed records", "mapped", "read"),
    ],
)
def test_stock_loaders_differ_in_what_they_find(tmp_path: Path, name: str, way: str, other: str) -> None:
    """The refusals above are needed: one archive has two contents."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    path = tmp_path / "model.pt"
    path.write_bytes(CASES[name][0]())
    found = stock_loads(path)
    assert found[way] != found[other]
