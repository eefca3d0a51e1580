"""Comparison of a model with its manifest: which tensors and files differ, are missing or are extra, and where."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal
from unicodedata import normalize

from hashbench.hashing.printable import printable
from hashbench.model.manifest import Entry, FileEntry, Manifest, TensorEntry

MAX_LINES = 100
"""Lines of each kind in a report's text."""

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
_GROUP = 8  # names that begin alike have one line from that many on
_MAX_BEGINNINGS = 32  # of a name that are compared with those of others
_SHOWN_RUNS = 16  # runs of damaged chunks on one line


@dataclass(frozen=True)
class Report:
    """How a model compares with its manifest.

    As text, it is one line if the model is what the manifest says, and otherwise one line for each tensor or file that
    is not, and for each problem. Many names that are missing or extra and begin alike have one line, and so have many
    tensors of the same other dtype.

    Attributes:
        expected: the manifest, or that of the component that was compared.
        found: what the model has, by name.
        differs: names of what is in both, but with other bytes, dtype, shape or size. Sorted, like all names here.
        missing: names that only the manifest has.
        extra: names that only the model has.
        damage: runs of the chunks that differ, counted from 0, for each entry for which they are known.
        ignored: names of extra files that the caller accepts.
        notes: one line each: what the verdict does not cover.
        problems: one line each: why parts of the model could not be compared.
        unreadable: names of files, and of folders with a slash at the end, that could not be read, and why. Nothing is
            known of what is in them.
        root: of the whole manifest; None if it is that of `expected`.
    """

    expected: Manifest
    found: Mapping[str, Entry]
    differs: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    damage: Mapping[str, tuple[range, ...]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    root: bytes | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the model is what the manifest says."""
        return not (self.wrong or self.unreadable)

    def __bool__(self) -> bool:
        """`ok`: whoever asks whether a report is true means that."""
        return self.ok

    @property
    def wrong(self) -> bool:
        """Whether the model is known not to be what the manifest says, even if some of it could not be read."""
        return bool(self.differs or self.missing or self.extra or self.problems)

    @property
    def damaged(self) -> frozenset[str]:
        """Names of what differs in its bytes, and not only in dtype or shape."""
        expected = self.expected.by_name
        return frozenset(name for name in self.differs if expected[name].root != self.found[name].root)

    def __str__(self) -> str:
        # Notes and problems may have paths of files, which the lines before have escaped.
        return "\n".join([*self.lines(), *map(printable, [*bounded(self.notes), *bounded(self.problems)])])

    def lines(self) -> Iterator[str]:
        """The lines of the text but for notes and problems; of each kind up to `MAX_LINES`, and then their number."""
        if self.ok:
            yield f"verified{'' if self.expected.files else ', tensors only'}: {summary(self.expected, self.root)}"
        yield from self._differing()
        alike = _alike(self.missing, self.extra)
        prefixed, missing, extra = _prefixed(self.missing, self.extra)
        yield from prefixed
        yield from _grouped(
            "missing", missing, lambda name: f"{_shown(name)}{alike.get(name, '')}{self._with_tensors(name)}"
        )
        yield from _grouped("extra", extra, lambda name: f"{_shown(name)}{alike.get(name, '')}")
        yield from _grouped("extra, ignored", self.ignored, _shown)
        yield from _up_to(
            "unreadable",
            tuple(self.unreadable),
            lambda name: f"{_shown(name)}: {self.unreadable[name]}{self._with_tensors(name)}",
        )

    def _differing(self) -> Iterator[str]:
        """Lines of what differs. Many tensors of the same other dtype, as after a conversion, have one."""

        def text(name: str) -> str:
            return self._difference(self.expected.by_name[name], self.found[name])

        converted: defaultdict[str, list[str]] = defaultdict(list)
        for name in self.differs:
            if (how := text(name)).startswith("dtype "):
                converted[how].append(name)
        together = {how: names for how, names in converted.items() if len(names) >= _GROUP}
        yield from bounded(
            [f"differs: {len(names):,} tensors, such as {_shown(names[0])}: {how}" for how, names in together.items()]
        )
        told = set().union(*together.values())
        single = [name for name in self.differs if name not in told]
        yield from _up_to("differs", single, lambda name: f"{_shown(name)}: {text(name)}")

    def _with_tensors(self, name: str) -> str:
        """How many tensors a file has, for which there are no lines of their own."""
        count = len(self.expected.spans_in(name))
        return f", with {count:,} tensor{'s' * (count != 1)}" if count else ""

    def _difference(self, expected: Entry, found: Entry) -> str:
        fields: dict[str, tuple[object, object]]
        if isinstance(expected, TensorEntry) and isinstance(found, TensorEntry):
            fields = {"dtype": (expected.dtype, found.dtype), "shape": (list(expected.shape), list(found.shape))}
        elif isinstance(expected, FileEntry) and isinstance(found, FileEntry):
            fields = {"size": (expected.nbytes, found.nbytes)}
        else:
            fields = {"kind": (_kind(expected), _kind(found))}
        said = [f"{what} {now}, not {before}" for what, (before, now) in fields.items() if now != before]
        if expected.root != found.root:
            said.append(self._where(expected, found))
        if "size" in fields and found.nbytes != expected.nbytes:
            said.append(f"not hashed{self._with_tensors(expected.name)}")
        return "; ".join(said)

    def _where(self, expected: Entry, found: Entry) -> str:
        runs = self.damage.get(expected.name)
        if runs is None:
            in_frame = isinstance(expected, FileEntry) and expected.frame_bytes is not None
            return "other bytes outside its tensors" if in_frame else "other bytes"
        if not runs:
            return "other bytes in the first reading, but none in the second"
        size = self.expected.chunk_size
        end = max(expected.hashed, found.hashed)
        count = sum(map(len, runs))
        shown = [
            f"{run.start}{f'-{run.stop - 1}' if len(run) > 1 else ''} [{run.start * size}:{min(run.stop * size, end)}]"
            for run in runs[:_SHOWN_RUNS]
        ]
        more = f" and in {len(runs) - _SHOWN_RUNS:,} more runs" if len(runs) > _SHOWN_RUNS else ""
        return f"other bytes in {count:,} of {-(-end // size):,} chunks: {', '.join(shown)}{more}"


def bounded(lines: Sequence[str]) -> Iterator[str]:
    """Up to `MAX_LINES` lines, and then the number of the others."""
    yield from lines[:MAX_LINES]
    if len(lines) > MAX_LINES:
        yield f"and {len(lines) - MAX_LINES:,} more such lines"


def _up_to(kind: str, names: Sequence[str], line: Callable[[str], str]) -> Iterator[str]:
    for name in names[:MAX_LINES]:
        yield f"{kind}: {line(name)}"
    if len(names) > MAX_LINES:
        yield f"{kind}: {len(names) - MAX_LINES:,} more"


def _grouped(kind: str, names: Sequence[str], line: Callable[[str], str]) -> Iterator[str]:
    """As `_up_to`, but with one line for many names that begin alike."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[next(_beginnings(name), "")].append(name)
    single, together = [], []
    for beginning, group in groups.items():
        if not beginning or len(group) < _GROUP:
            single += group
        else:
            common = [begin for begin in _beginnings(group[0]) if all(name.startswith(begin) for name in group)]
            together.append(
                f"{kind}: {len(group):,} names that begin with {_shown(common[-1])}, such as {_shown(group[0])}"
            )
    yield from bounded(together)
    yield from _up_to(kind, single, line)


def _beginnings(name: str) -> Iterator[str]:
    """The beginnings of a name that end with a dot or slash, the shortest first, of which names have few."""
    ends = (index for index, letter in enumerate(name[:-1], 1) if letter in "./")
    return (name[:end] for end in islice(ends, _MAX_BEGINNINGS))


def _prefixed(missing: Sequence[str], extra: Sequence[str]) -> tuple[list[str], Sequence[str], Sequence[str]]:
    """One line if many names differ by the same prefix, and the names that it does not explain."""
    for longer, shorter, has, lacks in (
        (extra, missing, "the model", "the manifest"),
        (missing, extra, "the manifest", "the model"),
    ):
        there = set(shorter)
        prefixes = Counter(
            beginning for name in longer for beginning in _beginnings(name) if name[len(beginning) :] in there
        )
        prefix, count = next(iter(prefixes.most_common(1)), ("", 0))
        if count < _GROUP:
            continue
        explained = {name for name in longer if name.startswith(prefix) and name[len(prefix) :] in there}
        explained |= {name[len(prefix) :] for name in explained}
        line = f"missing and extra: {count:,} names begin with {_shown(prefix)} in {has}, but not in {lacks}"
        return [line], [n for n in missing if n not in explained], [n for n in extra if n not in explained]
    return [], missing, extra


def compare(expected: Manifest, found: Mapping[str, Entry]) -> Report:
    """Compares a model with its manifest.

    Args:
        expected: the manifest.
        found: what the model has, by name, hashed with the manifest's algorithm and chunk size.
    """
    before = expected.by_name
    return Report(
        expected,
        found,
        differs=tuple(name for name, entry in before.items() if name in found and found[name] != entry),
        missing=tuple(name for name in before if name not in found),
        extra=tuple(sorted(found.keys() - before.keys())),
    )


def summary(manifest: Manifest, root: bytes | None = None) -> str:
    """What a manifest describes, on one line.

    Args:
        manifest: the manifest.
        root: that of the manifest of which it is a part; None if it is whole.
    """
    tensors, files = len(manifest.tensors), len(manifest.files)
    parts = [f"{count:,} {what}{'s' * (count != 1)}" for count, what in ((files, "file"), (tensors, "tensor")) if count]
    nbytes = sum(entry.nbytes for entry in manifest.files or manifest.tensors)
    root = root or manifest.root
    return f"{' with '.join(parts) or 'nothing'}, {nbytes:,} bytes, {manifest.algorithm} root {root.hex()}"


def _kind(entry: Entry) -> str:
    return "tensor" if isinstance(entry, TensorEntry) else "file"


def _alike(missing: Sequence[str], extra: Sequence[str]) -> Mapping[str, str]:
    """For names that look the same and are not, as Unicode writes some letters in two ways: which way each is."""
    sides = [{normalize("NFC", name) for name in names if not name.isascii()} for names in (missing, extra)]
    return {
        name: f" (Unicode form {next((form for form in _FORMS if normalize(form, name) == name), 'mixed')})"
        for name in (*missing, *extra)
        if not name.isascii() and normalize("NFC", name) in sides[0] & sides[1]
    }


def _shown(name: str) -> str:
    """A name as it is if it is printable on one line, and otherwise as JSON."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)
