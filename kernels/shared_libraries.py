"""Loads what a shared library needs, each from an absolute path, before the library itself is loaded.

The dynamic linker looks for needed libraries in the run path of the library that needs them. An empty or relative part
of it means the working directory. What is loaded already is not looked for again.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 15, 29


class LibraryError(Exception):
    """A shared library cannot be loaded without a search of the working directory; the message says why."""


def load_needed(library: Path) -> None:
    """Loads everything that a library needs, and nothing from the working directory.

    Args:
        library: an absolute path.

    Raises:
        LibraryError: something that it needs is not installed, or cannot be loaded.
    """
    _load_needed(library, {library})


def load_by_name(name: str) -> None:
    """Loads a library of the system.

    Raises:
        LibraryError: it is not installed, or would be looked for in the working directory.
    """
    if "/" in name:
        raise LibraryError(f"{name} is not the name of a library of the system")
    path = os.environ.get("LD_LIBRARY_PATH")
    if path and os.getcwd() != "/" and not all(map(os.path.isabs, re.split("[:;]", path))):  # noqa: PTH109
        reason = "LD_LIBRARY_PATH has an empty or relative part, which is the working directory: remove it"
        raise LibraryError(f"{name} is not loaded: {reason}")
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise LibraryError(f"{name} cannot be loaded: {error}") from None


class _Dynamic(NamedTuple):
    """Part of a library's dynamic section.

    Attributes:
        needed: the names of the libraries that it needs.
        folders: the parts of its run path.
    """

    needed: list[str]
    folders: list[str]


def _load_needed(library: Path, seen: set[Path]) -> None:
    dynamic = _read_dynamic(library)
    for name in dynamic.needed:
        if _is_loaded(name):
            continue
        found = _in_folders(name, dynamic.folders, library.resolve().parent)
        if found is None:
            load_by_name(name)
        elif found not in seen:
            seen.add(found)
            _load_needed(found, seen)
            _load(found, name)


def _load(library: Path, name: str) -> None:
    """Loads a library so that the dynamic linker knows it by a name."""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise LibraryError(f"{library} cannot be loaded: {error}") from None
    if not _is_loaded(name):
        raise LibraryError(f"{library} is not named {name} inside, so it would be looked for again")


def _is_loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    return True


def _in_folders(name: str, folders: list[str], origin: Path) -> Path | None:
    """The library of that name in the absolute folders of a run path."""
    for folder in folders:
        path = Path(folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(origin)), name)
        if path.is_absolute() and path.is_file():
            return path
    return None


def _read_dynamic(library: Path) -> _Dynamic:
    try:
        with library.open("rb") as file:
            return _parse_dynamic(file)
    except OSError as error:
        raise LibraryError(f"{library} cannot be read: {error.strerror}") from None
    except (KeyError, StopIteration, ValueError, struct.error):
        raise LibraryError(f"{library} is not a shared library for 64-bit little-endian machines") from None


def _parse_dynamic(file: BinaryIO) -> _Dynamic:
    header = file.read(64)
    if header[:6] != b"\x7fELF\x02\x01":
        raise ValueError
    table, size, count = *struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54)
    segments = [struct.unpack("<IIQQQQQQ", _at(file, table + size * i, 56)) for i in range(count)]

    offset, length = next((offset, size) for kind, _, offset, _, _, size, *_ in segments if kind == _PT_DYNAMIC)
    entries = []
    for tag, value in struct.iter_unpack("<QQ", _at(file, offset, length)):
        if tag == _DT_NULL:
            break
        entries.append((tag, value))

    values = dict(entries)
    address = values[_DT_STRTAB]
    strings_at = next(
        offset + address - start
        for kind, _, offset, start, _, size, *_ in segments
        if kind == _PT_LOAD and start <= address < start + size
    )
    strings = _at(file, strings_at, values[_DT_STRSZ])

    def texts(wanted: int) -> list[str]:
        found = (strings[value : strings.index(b"\0", value)] for tag, value in entries if tag == wanted)
        return [os.fsdecode(text) for text in found]

    paths = texts(_DT_RUNPATH) or texts(_DT_RPATH)
    return _Dynamic(texts(_DT_NEEDED), [part for path in paths for part in path.split(":")])


def _at(file: BinaryIO, offset: int, nbytes: int) -> bytes:
    file.seek(offset)
    return file.read(nbytes)
