"""The command `hash`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache, lru_cache, partial
from io import BufferedReader
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import click
from click.core import ParameterSource

from hashbench.cli.each_file import of_each, of_file, total_size
from hashbench.cli.errors import complain
from hashbench.cli.exit_codes import CHECK_FAILED, UNUSABLE
from hashbench.cli.messages import say
from hashbench.cli.options import algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.cli.progress import shown
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.opening import open_regular
from hashbench.hashing.root_lines import MAX_LINE, RootLine, RootLineError, parse_line
from hashbench.hashing.selection import choose
from hashbench.hashing.sources import ChangedWhileReadError, opened
from hashbench.kernels import Kernel
from hashbench.model.strict_json import quoted

_SPOOL_SIZE = 1 << 20  # bytes of one file's lines that are kept in memory


@click.command("hash")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(allow_dash=True))
@kernel_option
@device_option
@algorithm_option
@chunk_size_option
@click.option("--leaves", is_flag=True, help="Print the digest of each chunk instead of the tree's root.")
@click.option("--tag", is_flag=True, help="Name algorithm and chunk size on each line.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
@click.option("-c", "--check", is_flag=True, help="Read lists of roots from FILEs, and check the files they name.")
@click.option("-q", "--quiet", is_flag=True, help="With --check: print no line for a file that is right.")
@click.pass_context
def hash_files(
    context: click.Context,
    files: Sequence[str],
    kernel: str | None,
    device: str | None,
    algorithm: str,
    chunk_size: int,
    leaves: bool,
    tag: bool,
    as_json: bool,
    check: bool,
    quiet: bool,
) -> None:
    """Print the Merkle root of files.

    The tree is that of RFC 9162, and a line is printed for each FILE as by sha256sum; - is standard input. A root
    depends on the algorithm and the chunk size, which --tag puts on each line, as in
    "SHA256-RFC9162-4096 (NAME) = ROOT".

    With --leaves, print the plain digest of each chunk, one per line: the digest, two spaces, the file's name and
    the chunk's bytes as [START:END], END excluded.

    With --check, each FILE is a list of such lines, and each file that it names is hashed and compared. Lines without a
    tag are checked with --algorithm and --chunk-size.

    Exit codes: 0 all files were hashed, and with --check are right; 1 with --check: a file differs or cannot be read;
    2 a file, a list or the call is not usable.
    """
    if sum((leaves, tag, as_json, check)) > 1 and not (check and as_json):
        raise click.UsageError("--leaves, --tag, --json and --check cannot be combined, except --check with --json")
    if quiet and not check:
        raise click.UsageError("--quiet can only be used with --check")

    @cache
    def chosen(algorithm: str) -> Kernel:
        return choose(kernel, device, algorithm, None if check else total_size(files))

    @lru_cache(1)  # it keeps the memory that it reads into, and each line of a list may have a chunk size of its own
    def build(algorithm: str, chunk_size: int) -> Hasher:
        return Hasher(chosen(algorithm), chunk_size)

    if check:
        named = context.get_parameter_source("algorithm") is not ParameterSource.DEFAULT
        _check(context, files, build, algorithm if named else None, chunk_size, quiet, as_json)
        return
    hasher = build(algorithm, chunk_size)
    if leaves:
        usable = _print_digests(hasher, files, context.obj)
    else:
        line = partial(RootLine, algorithm=algorithm, chunk_size=chunk_size) if tag else RootLine
        usable = True
        report: list[dict[str, Any]] = []
        for name, root in of_each(hasher.roots, files):
            if isinstance(root, Exception):
                usable = False
                complain(root, name, debug=context.obj)
            elif as_json:
                report.append({"algorithm": algorithm, "chunk_size": chunk_size, "name": name, "root": root.hex()})
            else:
                sys.stdout.buffer.write(line(name, root).text() + b"\n")
                sys.stdout.buffer.flush()
        if as_json:
            click.echo(json.dumps(report, indent=2))
    if not usable:
        context.exit(UNUSABLE)


def _print_digests(hasher: Hasher, names: Iterable[str], debug: bool) -> bool:
    """Prints a line for each chunk of each file, and says whether all could be read."""
    usable = True
    for name in names:
        # Print nothing of a file before it is read without an error.
        with SpooledTemporaryFile(_SPOOL_SIZE) as lines:
            try:
                _write_digests(hasher, name, lines)
            except (OSError, ChangedWhileReadError) as error:
                usable = False
                complain(error, name, debug)
                continue
            lines.seek(0)
            copyfileobj(lines, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    return usable


def _write_digests(hasher: Hasher, name: str, lines: IO[bytes]) -> None:
    """Writes a line for each chunk of a file."""
    start = 0
    with opened(name) as source, shown(name) as progress:
        for piece in hasher.digests([source], progress):
            end = start + piece.nbytes
            for digest in piece.hashes:
                stop = min(start + hasher.chunk_size, end)
                lines.write(RootLine(name, digest.tobytes()).text(f"[{start}:{stop}]") + b"\n")
                start = stop


def _check(
    context: click.Context,
    lists: Sequence[str],
    build: Callable[[str, int], Hasher],
    algorithm: str | None,
    chunk_size: int,
    quiet: bool,
    as_json: bool,
) -> None:
    """Checks the files of lists, and exits with what that came to."""
    report = []
    for expected in _listed(lists):
        by_length = "sha256" if len(expected.root) == 32 else "sha384"
        try:
            hasher = build(expected.algorithm or algorithm or by_length, expected.chunk_size or chunk_size)
            verdict = "OK" if of_file(hasher.roots, expected.name) == expected.root else "FAILED"
        except (OSError, ChangedWhileReadError) as error:
            complain(error, expected.name, debug=context.obj)
            verdict = "FAILED: not readable"
        report.append({"name": expected.name, "ok": verdict == "OK"})
        if not as_json and not (quiet and verdict == "OK"):
            say(f"{expected.name}: {verdict}")
    if as_json:
        click.echo(json.dumps(report, indent=2))
    wrong = sum(not checked["ok"] for checked in report)
    if wrong:
        click.echo(f"hashbench: {wrong:,} of {len(report):,} files are not what the list says", err=True)
        context.exit(CHECK_FAILED)


def _listed(lists: Sequence[str]) -> Iterator[RootLine]:
    """The lines of lists.

    Raises:
        OSError: a list cannot be read.
        UsageError: it has a line that is not one of a root, or no line.
    """
    for name in lists:
        with nullcontext(sys.stdin.buffer) if name == "-" else BufferedReader(open_regular(name)) as file:
            number = 0
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE), b""), 1):
                try:
                    yield parse_line(line.removesuffix(b"\n"))
                except RootLineError as error:
                    raise click.UsageError(f"{quoted(name)}: line {number} is not one of a root: {error}") from None
            if not number:
                raise click.UsageError(f"{quoted(name)} has no lines")
