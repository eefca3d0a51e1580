"""Lines with the root of a file each, as `hashbench hash` prints them and reads them again.

A plain line has the form of sha256sum: the root in hexadecimal digits, two spaces, the name. A tagged line has the form
of cksum --tag, and names what a root depends on, so that it cannot be mistaken for one of another program:

    SHA256-RFC9162-4096 (model.safetensors) = 3222eae8...

In both, a line begins with a backslash if backslashes, line feeds and carriage returns in its name are escaped by one.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from hashbench.kernels import ALGORITHMS

MAX_LINE = 1 << 16
"""Bytes of the longest line that is read."""

_PLAIN = re.compile(rb"(?P<escaped>\\?)(?P<root>[0-9a-fA-F]+) [ *](?P<name>.+)", re.DOTALL)
_TAGGED = re.compile(
    rb"(?P<escaped>\\?)(?P<algorithm>[A-Z0-9]+)-RFC9162-(?P<chunk_size>[0-9]{1,16}) "
    rb"\((?P<name>.+)\) = (?P<root>[0-9a-fA-F]+)",
    re.DOTALL,
)
_ESCAPES = {b"\\\\": b"\\", b"\\n": b"\n", b"\\r": b"\r"}


class RootLineError(ValueError):
    """A line is neither plain nor tagged; the message says what is wrong."""


class RootLine(NamedTuple):
    """One file.

    Attributes:
        name: the file's name.
        root: the Merkle Tree Hash of its bytes.
        algorithm: "sha256" or "sha384"; None if the line does not say.
        chunk_size: bytes of a leaf; None if the line does not say.
    """

    name: str
    root: bytes
    algorithm: str | None = None
    chunk_size: int | None = None

    def text(self, part: str = "") -> bytes:
        """The line, tagged if it has an algorithm and a chunk size, without a line feed.

        Args:
            part: follows the name of a plain line.
        """
        mark, name = escaped(self.name)
        if self.algorithm is None or self.chunk_size is None:
            return os.fsencode(f"{mark}{self.root.hex()}  {name}{part}")
        return os.fsencode(f"{mark}{self.algorithm.upper()}-RFC9162-{self.chunk_size} ({name}) = {self.root.hex()}")


def escaped(name: str) -> tuple[str, str]:
    """The mark at the beginning of a name's line, and the name as it stands there."""
    shown = name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    return ("" if shown == name else "\\"), shown


def unescaped(name: bytes) -> bytes:
    """A name as it stands in a line that begins with a backslash, without its escapes.

    Raises:
        RootLineError: a backslash in it is not one of an escape.
    """
    if re.search(rb"(?<!\\)(?:\\\\)*\\(?![\\nr])", name):
        raise RootLineError(r"a backslash in its name is not one of \\, \n and \r")
    return re.sub(rb"\\[\\nr]", lambda escape: _ESCAPES[escape[0]], name)


def parse_line(line: bytes) -> RootLine:
    """Parses a plain or tagged line, without its line feed.

    Raises:
        RootLineError: it is neither.
    """
    found = _TAGGED.fullmatch(line) or _PLAIN.fullmatch(line)
    if not found:
        raise RootLineError("it is neither ROOT  NAME nor ALGORITHM-RFC9162-CHUNKSIZE (NAME) = ROOT")
    fields = found.groupdict()
    algorithm = fields["algorithm"].decode().lower() if "algorithm" in fields else None
    if algorithm is not None and algorithm not in ALGORITHMS:
        raise RootLineError(f"the algorithm {algorithm} is unknown: accepted are {', '.join(ALGORITHMS)}")
    sizes = {a.digest_size for a in ALGORITHMS.values()} if algorithm is None else {ALGORITHMS[algorithm].digest_size}
    if len(fields["root"]) not in {2 * size for size in sizes}:
        raise RootLineError(f"its root has {len(fields['root'])} digits")
    name = fields["name"]
    if fields["escaped"]:
        name = unescaped(name)
    chunk_size = int(fields["chunk_size"]) if "chunk_size" in fields else None
    return RootLine(os.fsdecode(name), bytes.fromhex(fields["root"].decode()), algorithm, chunk_size)
