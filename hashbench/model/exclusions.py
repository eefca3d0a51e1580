"""Which names in a model's folder are not part of the model.

Exclusions are recorded in the manifest and are under its root: whoever trusts the root trusts them too.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from glob import escape

DEFAULT = (".git", ".cache/huggingface", ".DS_Store")
"""What version control, download caches and file managers leave in a folder.

Names alone, and no pattern: loaders that list `*.safetensors` by `pathlib` or `os.walk` also find `._x.safetensors`.
"""

MAX_PATTERNS = 256
MAX_LENGTH = 1024
"""Patterns of one manifest, and characters of one pattern."""


class ExclusionError(ValueError):
    """A pattern is not accepted; the message says why."""


class Exclusions:
    """Patterns of names that are left out.

    A pattern is a glob as in the shell, case-sensitive; `*` also matches slashes. A pattern without a slash excludes
    every file and folder of that name, at any depth. One with a slash, which may be its first character, excludes the
    file or folder with that path, relative to the model's folder. All that is in an excluded folder is excluded too.

    Args:
        patterns: the globs; duplicates count once.

    Attributes:
        patterns: sorted, without duplicates.

    Raises:
        ExclusionError: a pattern is empty, has a part that is empty, "." or "..", is not valid Unicode, or is too long;
            or there are too many.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(sorted(set(patterns)))
        if len(self.patterns) > MAX_PATTERNS:
            raise ExclusionError(f"{len(self.patterns):,} patterns are not accepted: the most is {MAX_PATTERNS}")
        for pattern in self.patterns:
            if problem := _problem(pattern):
                raise ExclusionError(f"the pattern {pattern[:MAX_LENGTH]!a} is not accepted: {problem}")
        self._names = [pattern for pattern in self.patterns if "/" not in pattern]
        self._paths = [pattern.removeprefix("/") for pattern in self.patterns if "/" in pattern]

    def exclude(self, path: str) -> bool:
        """Whether a file or folder is left out, if the folder that it lies in is not.

        Args:
            path: relative to the model's folder, with slashes.
        """
        name = path.rpartition("/")[2]
        return any(fnmatchcase(name, pattern) for pattern in self._names) or any(
            fnmatchcase(path, pattern) for pattern in self._paths
        )


def exactly(path: str) -> str:
    """The pattern that excludes the file with this path, and no other.

    Args:
        path: relative to the model's folder, with slashes.
    """
    return f"/{escape(path)}"


def _problem(pattern: str) -> str | None:
    """What is wrong with a pattern; None if nothing is."""
    if not pattern:
        return "it is empty"
    if len(pattern) > MAX_LENGTH:
        return f"it has more than {MAX_LENGTH} characters"
    if not {"", ".", ".."}.isdisjoint(pattern.removeprefix("/").split("/")):
        return "it must be a name, or a path relative to the model's folder in its shortest form"
    try:
        pattern.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return "it has a null character" if "\0" in pattern else None
