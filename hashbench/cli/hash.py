"""The command `hash`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from tempfile import SpooledTemporaryFile
from typing import IO

import click

from hashbench.cli.errors import complain
from hashbench.cli.exit_codes import UNUSABLE
from hashbench.cli.options import algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.cli.progress import shown
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.selection import choose
from hashbench.hashing.sources import ChangedWhileReadError, opened

_SPOOL_SIZE = 32 << 20  # bytes of output that wait in memory instead of on disk for the end of their file


@click.command("hash")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@kernel_option
@device_option
@algorithm_option
@chunk_size_option
@click.option("--leaves", is_flag=True, help="Print the digest of each chunk instead of the tree's root.")
@click.pass_context
def hash_files(
    context: click.Context,
    files: Sequence[str],
    kernel: str | None,
    device: str | None,
    algorithm: str,
    chunk_size: int,
    leaves: bool,
) -> None:
    """Print the Merkle root of files.

    The tree is that of RFC 9162, and a line is printed for each FILE as by sha256sum; - is standard input.

    With --leaves, print the plain digest of each chunk, one per line: the digest, two spaces, the file's name and
    the chunk's bytes as [START:END], END excluded.
    """
    hasher = Hasher(choose(kernel, device, algorithm, _total(files)), chunk_size)
    unusable = False
    for name in files:
        # Print nothing of a file before it is read without an error.
        with SpooledTemporaryFile(_SPOOL_SIZE) as lines:
            try:
                _hash_file(hasher, name, leaves, lines)
            except (OSError, ChangedWhileReadError) as error:
                unusable = True
                complain(error, name if isinstance(error, OSError) else None, debug=context.obj)
                continue
            lines.seek(0)
            shutil.copyfileobj(lines, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    if unusable:
        context.exit(UNUSABLE)


def _total(names: Sequence[str]) -> int | None:
    """The bytes of all files; None if one is a stream."""
    if not all(map(os.path.isfile, names)):
        return None
    return sum(map(os.path.getsize, names))


def _hash_file(hasher: Hasher, name: str, leaves: bool, lines: IO[bytes]) -> None:
    """Writes the lines of one file to `lines`."""
    with opened(name) as source, shown(name) as progress:
        if not leaves:
            lines.write(_line(hasher.roots([source], progress)[0], name))
            return
        start = 0
        for piece in hasher.digests([source], progress):
            end = start + piece.nbytes
            for digest in piece.hashes:
                stop = min(start + hasher.chunk_size, end)
                lines.write(_line(digest.tobytes(), name, f"[{start}:{stop}]"))
                start = stop


def _line(digest: bytes, name: str, part: str = "") -> bytes:
    """A line in the format of sha256sum: it starts with a backslash if the name has escaped characters."""
    escaped = name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    mark = "" if escaped == name else "\\"
    return os.fsencode(f"{mark}{digest.hex()}  {escaped}{part}\n")
