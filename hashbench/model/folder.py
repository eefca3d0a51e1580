"""Every file in a model's folder: listed by name, nothing read.

A loader may open any file in the folder, under any name, so none is left out but what is excluded. What is not a plain
file, and links that lead out of the folder, are refused individually.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hashbench.model.exclusions import Exclusions
from hashbench.model.strict_json import MAX_INTEGER

MAX_SIZE = MAX_INTEGER
"""The size of the largest file that a manifest can describe, in bytes."""


@dataclass(frozen=True)
class ListedFile:
    """One file.

    Attributes:
        name: its path relative to the folder, with slashes.
        path: where it is opened; the target, if it is a link.
        status: its status when it was listed.
    """

    name: str
    path: Path
    status: os.stat_result


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        files: sorted by name.
        refused: names of what cannot be part of a model, sorted, and why.
        excluded: names that the exclusions left out, sorted; an excluded folder stands for all that is in it.
        unreadable: names of folders, with a slash at the end, of which nothing is known, and why.
    """

    files: tuple[ListedFile, ...]
    refused: Mapping[str, str]
    excluded: tuple[str, ...] = ()
    unreadable: Mapping[str, OSError] = field(default_factory=dict)


def list_folder(folder: str | os.PathLike[str], exclusions: Exclusions) -> Listing:
    """Lists every file in a folder and below, hidden ones too.

    A link counts as the file that it leads to, if that lies in the folder or, for a snapshot in a Hugging Face cache,
    in the cache's `blobs` of the same repository. Refused are other links, links to folders and to nothing, whatever is
    neither a file nor a folder (FIFOs, sockets, devices), files larger than `MAX_SIZE`, names that are not valid UTF-8,
    and folders below whose path is too long.

    Raises:
        OSError: the folder cannot be read.
    """
    top = Path(folder).resolve(strict=True)
    roots = _roots(top)
    files: list[ListedFile] = []
    refused: dict[str, str] = {}
    excluded: list[str] = []
    unreadable: dict[str, OSError] = {}
    unseen = [""]
    while unseen:
        prefix = unseen.pop()
        try:
            entries = os.scandir(top / prefix)
        except OSError as error:
            if not prefix:
                raise
            if error.errno == errno.ENAMETOOLONG:  # whoever reads it by a shorter way gets what nobody verified
                refused[prefix] = f"it cannot be read: {error.strerror}"
            else:
                unreadable[prefix] = error
            continue
        with entries:
            for entry in entries:
                name = prefix + entry.name
                if problem := _problem_of_name(name):
                    refused[name] = problem
                elif exclusions.exclude(name):
                    excluded.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    unseen.append(f"{name}/")
                else:
                    found = _file(name, Path(entry.path), roots)
                    if isinstance(found, ListedFile):
                        files.append(found)
                    else:
                        refused[name] = found
    files.sort(key=lambda file: file.name)
    return Listing(tuple(files), dict(sorted(refused.items())), tuple(sorted(excluded)), unreadable)


def list_named(folder: str | os.PathLike[str], names: Iterable[str]) -> Listing:
    """Lists the files of a folder that have these names, and looks at no other; otherwise as `list_folder`.

    Args:
        folder: the folder.
        names: of files in it, not below. What is not there, or is a folder, is not listed.
    """
    top = Path(folder).resolve(strict=True)
    roots = _roots(top)
    files: list[ListedFile] = []
    refused: dict[str, str] = {}
    for name in sorted(set(names)):
        # A path keeps its parts for as long as Python runs, and an index may have a million names of nothing.
        if not os.path.lexists(os.path.join(top, name)):  # noqa: PTH118
            continue
        path = top / name
        if path.is_dir() and not path.is_symlink():
            continue
        found = _file(name, path, roots)
        if isinstance(found, ListedFile):
            files.append(found)
        else:
            refused[name] = found
    return Listing(tuple(files), refused)


def _roots(top: Path) -> list[Path]:
    """The folders that links in a model's folder may lead to."""
    return [top, top.parent.parent / "blobs"] if top.parent.name == "snapshots" else [top]


def _problem_of_name(name: str) -> str | None:
    """What is wrong with a name; None if nothing is."""
    if not name.isascii() and (encoding := sys.getfilesystemencoding()) != "utf-8":
        return f"its name would be read as {encoding}, as this locale has it: set PYTHONUTF8=1"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    return None


def _file(name: str, path: Path, roots: list[Path]) -> ListedFile | str:
    """The file, or why it is refused."""
    try:
        if path.is_symlink():
            path = path.resolve(strict=True)
            if not any(path.is_relative_to(root) for root in roots):
                return "it is a link that leads out of the folder"
        status = path.lstat()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, up to Python 3.12
        # Not `Path.is_symlink`, which raises an error for a path that is too long.
        return "it is a link that leads nowhere" if os.path.islink(path) else "it cannot be examined"  # noqa: PTH114
    if stat.S_ISDIR(status.st_mode):
        return "it is a link to a folder; only links to files are accepted"
    if not stat.S_ISREG(status.st_mode):
        return "it is neither a file nor a folder"
    if status.st_size > MAX_SIZE:
        return f"it has more than {MAX_SIZE} bytes"
    return ListedFile(name, path, status)
