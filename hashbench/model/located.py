"""Where the entries of a manifest are in a model on disk.

A manifest with files says where every byte belongs: the model's files are compared with it by name and size, and then
each entry is a range, or the frame, of one of them. Nothing of the model is parsed. Of a manifest of tensors alone, the
model's files are parsed, and the tensors are found by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hashbench.hashing.sources import FileParts, FileRange
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.components import name_tensors
from hashbench.model.contents import Contents, Files, Part, check_same_files, list_model, read_contents
from hashbench.model.exclusions import DEFAULT, Exclusions
from hashbench.model.formats import promises_tensors
from hashbench.model.frame import gaps
from hashbench.model.manifest import Entry, Manifest, TensorEntry
from hashbench.model.sharded_files import is_sharded, sharded_tensors
from hashbench.model.strict_json import quoted


@dataclass(frozen=True, eq=False)
class Located:
    """What of a manifest is there.

    Attributes:
        parts: what to hash.
        known: what is compared without being hashed: files of another size, tensors of another dtype or shape, and
            views that the frame vouches for.
        missing: names that the manifest alone has, sorted.
        extra: names that the model alone has, sorted.
        notes, problems: as in `Report`.
        unreadable: names of files, and of folders with a slash at the end, that cannot be read, and why.
        files: those that were listed and can matter.
    """

    parts: Sequence[Part]
    known: Mapping[str, Entry]
    missing: Sequence[str]
    extra: Sequence[str]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    unreadable: Mapping[str, OSError]
    files: Files


def locate(path: Path, manifest: Manifest, own: Iterable[Path] = ()) -> Located:
    """Finds the entries of a manifest in the model at `path`.

    Args:
        path: of the model.
        manifest: the manifest.
        own: files that are not part of a folder, and that no exclusion names, such as the manifest's own.

    Raises:
        VerificationError: the manifest is of another kind of model, so that nothing can be compared.
        OSError: something cannot be read.
        ModelError: the path is neither a file nor a folder.
    """
    return _by_layout(path, manifest, own) if manifest.files else _by_name(path, manifest)


def check_unchanged(there: Located, path: Path, manifest: Manifest, own: Iterable[Path], extra: bool) -> None:
    """Checks, after all is hashed, that the model's files were all there at one moment, as they were listed.

    Args:
        there: what `locate` found, with the same arguments.
        path: as for `locate`.
        manifest: as for `locate`.
        own: as for `locate`.
        extra: whether it matters that there are more files now.

    Raises:
        ChangedWhileReadError: they are not.
        OSError, ModelError: as for `locate`.
    """
    now = _that_matter(list_model(path, _exclusions(manifest), own).files, manifest)
    told = set(there.extra) if manifest.files else ()
    check_same_files(
        {name: file for name, file in there.files.items() if name not in told},
        {name: file for name, file in now.items() if name not in told and (extra or name in there.files)},
    )


def _exclusions(manifest: Manifest) -> Exclusions:
    return Exclusions(manifest.exclusions if manifest.files else DEFAULT)


def _that_matter(files: Files, manifest: Manifest) -> Files:
    """For a manifest of tensors alone, files of weights alone."""
    return (
        files
        if manifest.files
        else {name: file for name, file in files.items() if promises_tensors(name) or is_sharded(name)}
    )


def tensors_alone(contents: Contents) -> Sequence[Part]:
    """The tensors of a model's contents without their places in files, and with those that several processes saved
    joined: these have plain names only if loaders take no other file of the folder.

    Raises:
        OSError, ModelError: as for `sharded_tensors`.
    """
    readable = {name: file for name, file in contents.files.items() if name not in contents.unreadable}
    joined = sharded_tensors(readable)
    if joined is None:
        return [_alone(part, part.entry.name) for part in contents.parts]
    others = {file: given for file, given in contents.names.items() if file not in joined.files}
    saved = {joined.file: [part.entry.name for part in joined.parts]}
    named = name_tensors({**others, **saved}, contents.indexes, contents.files)
    again = {given: named[file][name] for file, names in others.items() for name, given in names.items()}
    return [
        *(_alone(part, again[part.entry.name]) for part in contents.parts if part.entry.name in again),
        *(_alone(part, named[joined.file][part.entry.name]) for part in joined.parts),
    ]


def _alone(part: Part, name: str) -> Part:
    """A tensor under this name, without its place in a file."""
    assert isinstance(part.entry, TensorEntry)  # of tensors alone
    return Part(replace(part.entry, name=name, file=None, offset=None), part.source)


def _by_layout(path: Path, manifest: Manifest, own: Iterable[Path]) -> Located:
    """What is there of a manifest with files."""
    listed = list_model(path, _exclusions(manifest), own)
    files, problems = dict(listed.files), list(listed.problems)
    expected = {file.path: file for file in manifest.files}
    if not path.is_dir():
        if len(expected) == 1 == len(files):  # whatever its name: it is the one that was named
            files = {name: replace(file, name=name) for name, file in zip(expected, files.values(), strict=True)}
        elif len(files) == 1 and not problems:  # an index without its shards has some
            raise VerificationError(f"the manifest is of {len(expected):,} files in a folder, and {path} is one file")
    elif len(expected) == 1 and expected.keys() < files.keys() and not manifest.exclusions:
        (name,) = expected
        problems.append(f"the manifest is of one file: verify {quoted(name)} in {path}, or make one of the folder")
    known: dict[str, Entry] = {}
    right = set()
    for name in expected.keys() & files.keys():
        size = files[name].status.st_size
        if size == expected[name].nbytes:
            right.add(name)
        else:
            known[name] = replace(expected[name], nbytes=size)
    entries = [
        entry for entry in manifest.entries if (entry.file if isinstance(entry, TensorEntry) else entry.path) in right
    ]
    parts = list(_ranges(entries, files, manifest))
    hashed = {part.entry.name for part in parts}
    # A view that is not one range of its file is vouched for by the frame, which has its bytes.
    known |= {entry.name: entry for entry in entries if entry.name not in hashed}
    return Located(
        parts,
        known,
        missing=sorted(name for name in expected.keys() - files.keys() if not name.startswith((*listed.unreadable,))),
        extra=sorted(files.keys() - expected.keys()),
        notes=listed.notes,
        problems=tuple(problems),
        unreadable=listed.unreadable,
        files=listed.files,
    )


def _by_name(path: Path, manifest: Manifest) -> Located:
    """What is there of a manifest of tensors alone."""
    contents = read_contents(path, _exclusions(manifest), only_tensors=True)
    there = {part.entry.name: part for part in tensors_alone(contents)}
    if not there and not contents.unreadable:
        raise VerificationError(f"the manifest is of tensors alone, and no file of {path} has tensors that can be read")
    parts, known = [], {}
    for name, expected in manifest.by_name.items():
        if name not in there:
            continue
        entry = there[name].entry.with_root(expected.root)
        if entry == expected:
            parts.append(there[name])
        else:
            known[name] = entry
    return Located(
        parts,
        known,
        # They may be in what cannot be read.
        missing=() if contents.unreadable else sorted(manifest.by_name.keys() - there.keys()),
        extra=sorted(there.keys() - manifest.by_name.keys()),
        notes=contents.notes,
        problems=contents.problems,
        unreadable=contents.unreadable,
        files=_that_matter(contents.files, manifest),
    )


def _ranges(entries: Iterable[Entry], files: Files, manifest: Manifest) -> Iterator[Part]:
    """Where the bytes of a manifest's entries are, by what it says of the files that hold them.

    Args:
        entries: a file, or a tensor in one; tensors that are not one range of their file are passed over.
        files: at least those of the entries, of the sizes that the entries have.
        manifest: the manifest.
    """
    for entry in entries:
        if isinstance(entry, TensorEntry):
            if entry.file is not None and entry.offset is not None:
                file = files[entry.file]
                yield Part(entry, FileRange(file.path, entry.offset, entry.nbytes, file.status))
        elif entry.frame_bytes is None:
            file = files[entry.path]
            yield Part(entry, FileRange(file.path, 0, entry.nbytes, file.status))
        else:
            file = files[entry.path]
            frame = gaps(entry.nbytes, manifest.spans_in(entry.path))
            yield Part(entry, FileParts(file.path, tuple(frame), file.status))
