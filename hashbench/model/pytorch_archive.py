"""A strict reader of the zip archives in which PyTorch saves checkpoints since version 1.6.

Zip readers disagree about where the directory is, about whether the directory or the header beside a record is right,
and about names and flags. PyTorch's reader ignores case in names, checks no checksum, and leaves memory uninitialized
for a record that is marked as a folder. Accepted here are archives that every reader understands in the same way:

- Records fill the file from its first byte to the directory, which the end record follows, which ends the file.
- The headers beside the records agree with the directory. Nothing is compressed or encrypted.
- Every record is one that `torch.save` writes, in one folder, and occurs once.

Checksums are compared with each other and not with the data, as PyTorch can be told not to compute them.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from hashbench.model.strict_json import quoted

MAX_RECORDS = 1 << 18
"""The most records that are accepted; there is one for each storage."""

MAX_DIRECTORY_SIZE = 32 << 20
"""Bytes of the largest accepted directory; PyTorch writes some 60 to 90 for each record."""

_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR = struct.Struct("<4s3I")
_DESCRIPTOR64 = struct.Struct("<4sI2Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")

_LOCAL_SIGNATURE = b"PK\3\4"
_LOCATOR64_SIGNATURE = b"PK\6\7"
_IN_ZIP64 = 0xFFFFFFFF  # the value of a 32-bit field whose real value is in a zip64 field
_HAS_DESCRIPTOR, _UTF8 = 0x8, 0x800  # flags
_ZIP64, _PADDING = 0x1, int.from_bytes(b"FB", "little")  # extra fields; PyTorch aligns records by the second

_RECORDS = re.compile(
    rb"data\.pkl|data/[0-9]{1,20}|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
)
_DIFFERS = "differs from what the directory says of it"
_SPLIT = re.compile(rb"([^/\x00-\x1f]+)/(.*)", re.DOTALL)  # a folder, and a name in it


class ArchiveError(ValueError):
    """An archive is not accepted; the message says why, without the file's name."""


class ForeignFile(ArchiveError):
    """A file is not an archive of a PyTorch checkpoint, but another kind of file."""


class Record(NamedTuple):
    """A file in an archive.

    Attributes:
        header: The offset of its header.
        name_end: The offset of the end of its name, in the header.
        offset: The offset of its first byte.
        nbytes: The number of its bytes.
    """

    header: int
    name_end: int
    offset: int
    nbytes: int


class _Entry(NamedTuple):
    """What the directory says of a record."""

    name: bytes
    flags: int
    method: int
    crc: int
    stored: int
    nbytes: int
    extra: bytes
    comment: int
    disk: int
    attributes: int
    header: int


def read_archive(descriptor: int | Window, size: int) -> dict[str, Record]:
    """Reads the directory and the headers of a PyTorch archive.

    Args:
        descriptor: Of the open file, or a part of one.
        size: The size of the file or part.

    Returns:
        Its records, by their names in the archive's folder.

    Raises:
        OSError: The file cannot be read.
        ForeignFile: It is another kind of file: not a zip archive, a TorchScript archive, or an archive without
            `data.pkl`.
        ArchiveError: It is not an archive that all readers understand in the same way.
    """
    if read_at(descriptor, 0, min(4, size)) != _LOCAL_SIGNATURE:
        raise ForeignFile(
            "it does not begin as a zip archive; the format of before PyTorch 1.6 is not read: load it and save it "
            "again"
        )
    count, begin, end = _directory_place(descriptor, size)
    if count > MAX_RECORDS or end - begin > MAX_DIRECTORY_SIZE:
        raise ArchiveError(
            f"its directory lists {count} records in {end - begin} bytes; up to {MAX_RECORDS} records and "
            f"{MAX_DIRECTORY_SIZE} bytes are accepted"
        )
    entries = list(_entries(read_at(descriptor, begin, end - begin), count))
    names = _names(entries)
    records: dict[str, Record] = {}
    position = 0
    for name, entry in zip(names, entries, strict=True):
        if name in records:
            raise ArchiveError(f"it has the record {quoted(name)} twice")
        try:
            records[name], position = _record(descriptor, _checked(entry), position, begin)
        except ArchiveError as error:
            raise ArchiveError(f"its record {quoted(name)} {error}") from None
    if position != begin:
        raise ArchiveError("there are bytes between its last record and its directory")
    return records


class Window(NamedTuple):
    """A part of an open file, in place of its descriptor.

    Attributes:
        descriptor: Of the file.
        start: Where the part begins.
    """

    descriptor: int
    start: int


def read_at(descriptor: int | Window, offset: int, nbytes: int) -> bytes:
    """Reads a range of a file.

    Raises:
        OSError: The file cannot be read.
        ArchiveError: The file ends within the range.
    """
    if isinstance(descriptor, Window):
        offset += descriptor.start
        descriptor = descriptor.descriptor
    data = os.pread(descriptor, nbytes, offset)
    while len(data) < nbytes:  # a system call reads at most 2 GiB
        more = os.pread(descriptor, nbytes - len(data), offset + len(data))
        if not more:
            raise ArchiveError("the file became shorter while it was read")
        data += more
    return data


def _directory_place(descriptor: int | Window, size: int) -> tuple[int, int, int]:
    """The number of records, and where the directory begins and ends."""
    at = size - _END.size
    if at < 0:
        raise ArchiveError("it ends before the end record of a zip archive")
    signature, *disks, count, nbytes, begin, comment = _END.unpack(read_at(descriptor, at, _END.size))
    if signature != b"PK\5\6" or comment:
        raise ArchiveError("its last 22 bytes are not a zip archive's end record: it is truncated, or bytes follow it")
    if disks != [0, 0, count]:
        raise ArchiveError("its end record says that it is one of several parts")
    end = at
    locator = read_at(descriptor, max(0, at - _LOCATOR64.size), _LOCATOR64.size)
    if locator.startswith(_LOCATOR64_SIGNATURE):
        end = at - _LOCATOR64.size - _END64.size
        if end < 0 or _LOCATOR64.unpack(locator)[1:] != (0, end, 1):
            raise ArchiveError("its zip64 end record is not directly before its end record")
        long = _END64.unpack(read_at(descriptor, end, _END64.size))
        short = (count, count, nbytes, begin)
        limits = (0xFFFF, 0xFFFF, _IN_ZIP64, _IN_ZIP64)
        if (
            (long[0], long[1], *long[4:6]) != (b"PK\6\6", _END64.size - 12, 0, 0)
            or long[6] != long[7]
            or any(value not in (exact, limit) for value, exact, limit in zip(short, long[6:], limits, strict=True))
        ):
            raise ArchiveError("its end record and its zip64 end record disagree")
        count, nbytes, begin = long[7:]
    elif count == 0xFFFF or _IN_ZIP64 in (nbytes, begin):
        raise ArchiveError("it has no zip64 end record, to which its end record refers")
    if begin + nbytes != end:
        raise ArchiveError("its directory does not end where its end record begins")
    return count, begin, end


def _entries(directory: bytes, count: int) -> Iterator[_Entry]:
    position = 0
    for _ in range(count):
        if position + _ENTRY.size > len(directory):
            raise ArchiveError("its directory ends within an entry")
        signature, _, _, flags, method, _, _, crc, stored, nbytes, *rest = _ENTRY.unpack_from(directory, position)
        name_length, extra_length, comment, disk, _, attributes, header = rest
        name_at = position + _ENTRY.size
        extra_at = name_at + name_length
        comment_at = extra_at + extra_length
        position = comment_at + comment
        if signature != b"PK\1\2" or position > len(directory):
            raise ArchiveError("its directory has an entry that is not valid")
        name, extra = directory[name_at:extra_at], directory[extra_at:comment_at]
        yield _Entry(name, flags, method, crc, stored, nbytes, extra, comment, disk, attributes, header)
    if position != len(directory):
        raise ArchiveError("its directory is longer than its entries")


def _names(entries: list[_Entry]) -> list[str]:
    """The names of the records in the one folder that they are all in."""
    split = [_SPLIT.fullmatch(entry.name) for entry in entries]
    folders = {match[1] if match else None for match in split}
    names = [match[2] for match in split if match]
    if any(name == b"constants.pkl" or name.startswith(b"code/") for name in names):
        raise ForeignFile("it is a TorchScript archive, which has code and not only tensors")
    if len(folders) != 1 or None in folders or b"data.pkl" not in names:
        raise ForeignFile("it is a zip archive, but does not have one folder with a data.pkl, as torch.save writes it")
    for name in names:
        if not _RECORDS.fullmatch(name):
            raise ArchiveError(f"it has the record {quoted(name)}, which torch.save does not write")
    return [name.decode() for name in names]


def _checked(entry: _Entry) -> _Entry:
    """An entry of the directory that is valid, with its sizes and offset from zip64 fields if they are there."""
    fields = (entry.nbytes, entry.stored, entry.header)
    if _IN_ZIP64 in fields or entry.extra:
        extra = _extra(entry.extra)
        zip64 = extra.pop(_ZIP64, b"")
        if extra or not zip64 or len(zip64) != 8 * fields.count(_IN_ZIP64):
            raise ArchiveError("has fields in the directory that PyTorch does not write")
        values = (value for (value,) in struct.iter_unpack("<Q", zip64))
        nbytes, stored, header = (next(values) if field == _IN_ZIP64 else field for field in fields)
        entry = entry._replace(nbytes=nbytes, stored=stored, header=header)
    if entry.method or entry.stored != entry.nbytes:
        raise ArchiveError("is compressed")
    if entry.flags & ~(_HAS_DESCRIPTOR | _UTF8):
        raise ArchiveError(f"has the flags {entry.flags:#x}, such as for encryption, which PyTorch does not set")
    if entry.comment or entry.disk or entry.attributes & 0xFFFF:  # a bit of the lower half marks a folder
        raise ArchiveError("has a comment, is in another part, or is marked as something other than a file")
    return entry


def _record(descriptor: int | Window, entry: _Entry, position: int, limit: int) -> tuple[Record, int]:
    """Checks the header and trailer of a record against its entry in the directory.

    Args:
        descriptor: Of the file.
        entry: The entry.
        position: Where the header must be.
        limit: Where the directory begins.

    Returns:
        The record, and where the next one must be.
    """
    if entry.header != position:
        raise ArchiveError("overlaps what is before it, or leaves a gap to it")
    begin = position + _LOCAL.size + len(entry.name)
    if begin > limit:
        raise ArchiveError("overlaps the directory")
    header = read_at(descriptor, position, begin - position)
    signature, _, flags, method, _, _, *sizes, name_length, extra_length = _LOCAL.unpack_from(header)
    if (signature, flags, method) != (_LOCAL_SIGNATURE, entry.flags, entry.method):
        raise ArchiveError(_DIFFERS)
    if name_length != len(entry.name) or not header.endswith(entry.name):
        raise ArchiveError(_DIFFERS)
    begin, extra_at = begin + extra_length, begin
    end = begin + entry.nbytes
    if end > limit:
        raise ArchiveError("overlaps the directory")

    extra = _extra(read_at(descriptor, extra_at, extra_length))
    padding, zip64 = extra.pop(_PADDING, b""), extra.pop(_ZIP64, b"")
    if extra or padding.strip(b"Z"):
        raise ArchiveError("has fields in its header that PyTorch does not write")
    accepted = [[entry.crc, entry.nbytes, entry.nbytes]]
    if entry.flags & _HAS_DESCRIPTOR:
        accepted.append([0, 0, 0])
    if zip64:
        # PyTorch writes this header before it sets the stored size, which is 0 here then.
        size, offset = (value.to_bytes(8, "little") for value in (entry.nbytes, position))
        if zip64 not in {sizes64 + last for sizes64 in (b"", size + size, size + bytes(8)) for last in (b"", offset)}:
            raise ArchiveError(_DIFFERS)
        if zip64.startswith(size + size):
            accepted.append([entry.crc, _IN_ZIP64, _IN_ZIP64])
    if sizes not in accepted:
        raise ArchiveError(_DIFFERS)
    following = end
    if entry.flags & _HAS_DESCRIPTOR:
        following += _check_trailer(read_at(descriptor, end, min(_DESCRIPTOR64.size, limit - end)), entry)
    return Record(position, extra_at, begin, entry.nbytes), following


def _check_trailer(data: bytes, entry: _Entry) -> int:
    """Checks the descriptor that follows a record's bytes.

    Args:
        data: What follows the bytes.
        entry: The record's entry in the directory.

    Returns:
        The descriptor's size.
    """
    for form in (_DESCRIPTOR, _DESCRIPTOR64):
        if form is _DESCRIPTOR64 or entry.nbytes < 1 << 32:
            trailer = form.pack(b"PK\7\x08", entry.crc, entry.nbytes, entry.nbytes)
            if data.startswith(trailer):  # with one form at most, as no record begins after it with zeros
                return form.size
    raise ArchiveError(_DIFFERS)


def _extra(data: bytes) -> dict[int, bytes]:
    """The extra fields of a header, by their numbers."""
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(data):
        number, length = (int.from_bytes(data[at : at + 2], "little") for at in (position, position + 2))
        end = position + 4 + length
        if end > len(data) or number in fields:
            raise ArchiveError("has extra fields that are not valid")
        fields[number] = data[position + 4 : end]
        position = end
    return fields
