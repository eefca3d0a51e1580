"""What a model on disk consists of: its files, and the tensors in those whose format is known.

Nothing of a model is executed. Headers, indexes and descriptions of tensors are read; the tensors' bytes are not.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

from hashbench.hashing.sources import ChangedWhileReadError, FileParts, FileRange, Source, change
from hashbench.model.components import name_tensors
from hashbench.model.elsewhere import named_elsewhere, whole_cache
from hashbench.model.exclusions import Exclusions
from hashbench.model.folder import ListedFile, Listing, list_folder, list_named
from hashbench.model.formats import FoundTensors, NotTensorsError, ShardsError, find_tensors, promises_tensors
from hashbench.model.frame import gaps, separate
from hashbench.model.manifest import Entry, FileEntry, TensorEntry
from hashbench.model.pytorch_checkpoint import MAX_GATHERED
from hashbench.model.shard_index import ShardIndexError, beside, read_index, weights_named_by
from hashbench.model.strict_json import quoted

_SHOWN = 8  # names in one line

Files = Mapping[str, ListedFile]
"""The files of a model, by path relative to its folder."""


class ModelError(ValueError):
    """A model cannot be used as it is on disk; the message names the file and says why."""


def named_path(path: str | os.PathLike[str]) -> Path:
    """The path that a caller names a model by.

    Raises:
        FileNotFoundError: it is empty, which `Path` would take for the working directory.
    """
    if not os.fspath(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "")
    return Path(path)


def check_same_files(before: Files, now: Files) -> None:
    """Checks that files are still where they were, and what they were, so that all were there at one moment.

    Args:
        before: as they were listed before they were read.
        now: as they are listed afterwards.

    Raises:
        ChangedWhileReadError: one appeared, disappeared, was replaced, as by a link to another file, or changed.
    """
    for name in sorted(before.keys() | now.keys()):
        if name not in before or name not in now:
            how: str | None = "appeared" if name in now else "disappeared"
        elif before[name].path != now[name].path:
            how = "was replaced"
        else:
            how = change(before[name].status, now[name].status)
        if how:
            raise ChangedWhileReadError(f"{quoted(name)}: the file {how} while the model was read")


class Part(NamedTuple):
    """An entry of a manifest, and where its bytes are."""

    entry: Entry
    source: Source


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model, of which nothing has been read but indexes.

    Attributes:
        files: the files.
        notes: one line for each fact that the user should know.
        problems: one line for each thing that cannot be part of a model, or is missing from it.
        unreadable: names of files, and of folders with a slash at the end, that cannot be read, and why.
    """

    files: Files
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    unreadable: Mapping[str, OSError] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents(ModelFiles):
    """What a model consists of.

    Attributes:
        parts: every tensor, and every file unless tensors alone were asked for, their entries with empty roots.
        names: of each file of weights its tensors' names there, and in the model; none of a file that cannot be used.
        indexes: what each index says (`read_index`), by its path.
    """

    parts: tuple[Part, ...] = ()
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    indexes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def list_model(path: Path, exclusions: Exclusions, own: Iterable[Path] = ()) -> ModelFiles:
    """Lists the files of the model at `path`: a folder, an index and the files that it names, or any other file.

    Args:
        path: of the model.
        exclusions: what is left out of a folder.
        own: files that are not part of a folder, and that no exclusion names: the manifest that it is verified against.

    Raises:
        OSError: something cannot be read.
        ModelError: the path is neither a file nor a folder.
    """
    mode = path.stat().st_mode
    if S_ISREG(mode):
        return _named_file(path)
    if not S_ISDIR(mode):
        raise ModelError(f"{path} is neither a file nor a folder")
    listing = list_folder(path, exclusions)
    top = path.resolve()
    left_out = {_place(file, top) for file in own}
    files = {file.name: file for file in listing.files if top / file.name not in left_out}
    notes = (f"excluded: {_enumerated(listing.excluded)}",) if listing.excluded else ()
    return ModelFiles(files, notes, (*_refusals(listing),), listing.unreadable)


def read_contents(path: Path, exclusions: Exclusions, *, only_tensors: bool = False) -> Contents:
    """Finds what the model at `path` consists of.

    Of a folder, every file counts; of an index, the index and the files that it names; otherwise the file alone. A file
    that is not valid in the format that its name promises is a plain file, and a note says why. A file that cannot be
    read is one of the `unreadable`, and has no parts.

    Args:
        path: of the model.
        exclusions: what is left out of a folder.
        only_tensors: finds tensors alone.

    Raises:
        OSError: the path cannot be read.
        ModelError: the path is neither a file nor a folder.
    """
    listed = list_model(path, exclusions)
    notes, problems, files = list(listed.notes), list(listed.problems), dict(listed.files)
    unreadable = dict(listed.unreadable)
    indexes: dict[str, Mapping[str, str]] = {}
    found: dict[str, FoundTensors] = {}
    referring: list[str] = []
    room = MAX_GATHERED
    otherwise = "not covered" if only_tensors else "hashed as a plain file"
    for name, file in listed.files.items():
        try:
            if weights_named_by(name.rpartition("/")[2]) is not None:
                indexes[name] = read_index(file.path)
            tensors = find_tensors(name, file.path, room)
            if not only_tensors:
                referring += named_elsewhere(file, listed.files)
        except (ShardIndexError, NotTensorsError) as error:
            if not (only_tensors and isinstance(error, ShardsError)):
                notes.append(f"{quoted(name)}: {otherwise}: {error}")
            continue
        except OSError as error:
            unreadable[name] = error
            continue
        room -= tensors.gathered_bytes
        if tensors.tensors:
            found[name] = tensors
            files[name] = replace(file, status=tensors.status or file.status)
    if path.is_dir():
        problems += islice(_missing_shards(indexes, files), _SHOWN)
        notes += filter(None, [whole_cache(files)])
    elif not only_tensors:
        notes += _of_one_file(indexes, referring)
    notes += referring
    tensors_of = {name: {tensor.name for tensor in of.tensors} for name, of in found.items()}
    notes += _mismatches(indexes, tensors_of)
    # Which file a loader takes does not depend on whether it can be read here.
    names = name_tensors({name: tensors_of.get(name, ()) for name in files if promises_tensors(name)}, indexes, files)
    parts: list[Part] = []
    for name, file in files.items():
        if name in found:
            parts += _parts(file, found[name], names[name])
        elif name not in unreadable:
            parts.append(_whole(file))
    if only_tensors:
        parts = [part for part in parts if isinstance(part.entry, TensorEntry)]
    return Contents(files, tuple(notes), tuple(problems), unreadable, tuple(parts), names, indexes)


def _place(file: Path, top: Path) -> Path:
    """Where a file is. A link in the folder is one of the model's files, and leads to another of them."""
    place = file.parent.resolve() / file.name
    return place if place.is_relative_to(top) else file.resolve()


def _named_file(path: Path) -> ModelFiles:
    """One file, and its shards if it is an index."""
    shards: list[str] = []
    if weights_named_by(path.name) is not None:
        with suppress(ShardIndexError):  # it is a plain file then, as a note will say
            shards = sorted(set(read_index(path).values()))
    resolved = path.resolve(strict=True)
    files = {path.name: ListedFile(path.name, resolved, resolved.stat())}
    if not shards:
        return ModelFiles(files)
    listing = list_named(path.parent, shards)
    files |= {file.name: file for file in listing.files}
    absent = [name for name in shards if name not in files and name not in listing.refused]
    return ModelFiles(files, (), (*_refusals(listing), *(_missing(path.name, name) for name in absent[:_SHOWN])))


def _refusals(listing: Listing) -> Iterator[str]:
    return (f"{quoted(name)} is refused: {reason}" for name, reason in listing.refused.items())


def _missing_shards(indexes: Mapping[str, Mapping[str, str]], files: Files) -> Iterator[str]:
    for index, file_of in indexes.items():
        for name in sorted(set(file_of.values())):
            if beside(index, name) not in files:
                yield _missing(index, name)


def _mismatches(indexes: Mapping[str, Mapping[str, str]], tensors_of: Mapping[str, Set[str]]) -> Iterator[str]:
    """Where indexes and the files that they name do not have the same tensors."""
    for index, file_of in indexes.items():
        named: defaultdict[str, set[str]] = defaultdict(set)
        for tensor, shard in file_of.items():
            named[beside(index, shard)].add(tensor)
        there = {shard: tensors_of[shard] for shard in named if shard in tensors_of}
        if absent := sorted(set().union(*(named[shard] - tensors for shard, tensors in there.items()))):
            yield f"{quoted(index)} lists tensors that are not where it says: {_enumerated(absent)}"
        if more := sorted(set().union(*(tensors - named[shard] for shard, tensors in there.items()))):
            yield f"{quoted(index)} does not list all tensors of its files; covered too: {_enumerated(more)}"


def _missing(index: str, name: str) -> str:
    return f"{quoted(index)} names {quoted(name)}, and there is no such file"


def _of_one_file(indexes: Mapping[str, object], referring: Sequence[str]) -> Iterator[str]:
    """What a user should do who named one file where others belong to the model."""
    if indexes:
        yield "only the index and the files that it names are covered: name the folder to cover configuration and code"
    elif referring:
        yield "only this file is covered: name the folder to cover all of the model"


def _parts(file: ListedFile, found: FoundTensors, names: Mapping[str, str]) -> Iterator[Part]:
    """The tensors of a file, and its frame."""
    # Views of one storage may overlap; each byte is in one range, or in the frame.
    spans = separate((tensor.offset, tensor.nbytes) for tensor in found.tensors if tensor.offset is not None)
    for name, dtype, shape, offset, nbytes, gathered in found.tensors:
        place = offset if (offset, nbytes) in spans else None
        entry = TensorEntry(names[name], dtype, shape, nbytes, b"", file.name, place)
        if gathered is not None:
            yield Part(entry, gathered)
        else:
            assert offset is not None
            yield Part(entry, FileRange(file.path, offset, nbytes, file.status))
    size = file.status.st_size
    frame = gaps(size, spans)
    entry_of_file = FileEntry(file.name, size, b"", sum(nbytes for _, nbytes in frame))
    yield Part(entry_of_file, FileParts(file.path, tuple(frame), file.status))


def _whole(file: ListedFile) -> Part:
    size = file.status.st_size
    return Part(FileEntry(file.name, size, b""), FileRange(file.path, 0, size, file.status))


def _enumerated(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(quoted, names[:_SHOWN])) + more
