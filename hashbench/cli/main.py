"""The command line: `hashbench devices | hash | manifest | verify | prove | check-proof | bench | ...`.

Exit codes: 0 good; 1 a check failed; 2 the call or the input was unusable; 130 interrupted. Errors are one line on
stderr.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING

import click

from hashbench.cli.bench import bench, figures
from hashbench.cli.exit_codes import CHECK_FAILED, INTERRUPTED, UNUSABLE
from hashbench.cli.model import verify_model, write_manifest
from hashbench.cli.options import algorithm_option, chunk_size_option, device_option, kernel_option
from hashbench.cli.predict import predict
from hashbench.cli.progress import shown
from hashbench.cli.proof import check_proof, write_proof
from hashbench.cli.report import compare, report
from hashbench.hashing import selection
from hashbench.hashing.file_range import FileRange
from hashbench.hashing.files import ChangedWhileReadError, FileHasher, open_source, size_of
from hashbench.hashing.range_hasher import RangeHasher
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Bytes, Device, Unavailable

if TYPE_CHECKING:
    from rich.table import Table

_SPOOL_SIZE = 32 << 20  # bytes of lines that wait in memory, and not on disk, for the end of their file
_SAYS_WHAT_IS_WRONG = (Unavailable, OSError, ValueError, TypeError, MemoryError, VerificationError)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hashbench")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
@click.pass_context
def hashbench(context: click.Context, debug: bool) -> None:
    """Standard SHA-2 and Merkle trees on every accelerator: hashed, measured and verified."""
    context.obj = debug
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@hashbench.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def devices(as_json: bool) -> None:
    """List every kernel and device: available, or why not."""
    if as_json:
        click.echo(json.dumps([asdict(device) for device in selection.devices()], indent=2))
        return
    from rich.console import Console

    # Away from a terminal a device takes one line, however long.
    console = Console(width=None if sys.stdout.isatty() else 1000)
    console.print(_table(selection.devices(), selection.available()[:1]))


@hashbench.command("hash")
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
    """Print the root of each FILE's Merkle tree (RFC 9162), as sha256sum prints digests; - is standard input.

    With --leaves, print the plain digest of each chunk, a line each: the digest, two spaces, the file's name and
    the chunk's bytes as [START:END], END excluded.
    """
    chosen = selection.choose(kernel, device, algorithm)
    ranges = RangeHasher(chosen, chunk_size)
    streams = FileHasher(chosen, chunk_size, staging=ranges.staging)
    unusable = False
    for name in files:
        # Nothing of a file is printed before all of it is known to be good.
        with SpooledTemporaryFile(_SPOOL_SIZE) as lines:
            try:
                _hash_file(streams, ranges, name, leaves, lines)
            except (OSError, ChangedWhileReadError) as error:
                unusable = True
                _complain(error, name if isinstance(error, OSError) else None, debug=context.obj)
                continue
            lines.seek(0)
            shutil.copyfileobj(lines, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    if unusable:
        context.exit(UNUSABLE)


for command in (write_manifest, verify_model, write_proof, check_proof, bench, figures, report, compare, predict):
    hashbench.add_command(command)


def main() -> None:
    """Runs the command line and exits."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs the command line and returns the exit code."""
    debug = False
    try:
        try:
            with hashbench.make_context("hashbench", list(arguments)) as context:
                debug = context.params["debug"]
                hashbench.invoke(context)
            code = 0
        except click.exceptions.Exit as end:
            code = end.exit_code
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, click.Abort):
        click.echo("hashbench: interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        _complain(error, error.filename if isinstance(error, OSError) else None, debug)
        _drop_output()
        return CHECK_FAILED if isinstance(error, VerificationError) else UNUSABLE


def _table(listed: Sequence[Device], default: Sequence[Device]) -> Table:
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table("kernel", "device", "kind", "name", "software", Column("status", overflow="fold"))
    for device in listed:
        software = ", ".join(part for part in (device.framework, device.driver) if part)
        status = "[green]available[/]" + (", the default" if device in default else "")
        if device.unavailable is not None:
            status = f"[red]{escape(device.unavailable)}[/]"
        cells = (device.kernel, device.id, device.kind, device.name, software)
        table.add_row(*map(escape, cells), status)
    return table


def _hash_file(streams: FileHasher, ranges: RangeHasher, name: str, leaves: bool, lines: IO[bytes]) -> None:
    """Writes the lines of one file to `lines`. What has a path and a size is read by several threads at once."""
    with open_source(name) as stream, shown(name, size := size_of(stream)) as progress:
        whole = [FileRange(Path(name), 0, size, os.fstat(stream.fileno()))] if size and name != "-" else []
        if not leaves:
            root = ranges.roots(whole, progress)[0] if whole else streams.root(stream, progress)
            lines.write(_line(root, name))
            return
        pieces: Iterable[tuple[int, Bytes]] = (
            ((piece.nbytes, piece.hashes) for piece in ranges.digests(whole, progress))
            if whole
            else streams.digests(stream, progress)
        )
        start = 0
        for nbytes, digests in pieces:
            end = start + nbytes
            for digest in digests:
                stop = min(start + streams.chunk_size, end)
                lines.write(_line(digest.tobytes(), name, f"[{start}:{stop}]"))
                start = stop


def _line(digest: bytes, name: str, part: str = "") -> bytes:
    """A line as sha256sum prints it: it begins with a backslash where characters of the name were escaped."""
    escaped = name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    mark = "" if escaped == name else "\\"
    return os.fsencode(f"{mark}{digest.hex()}  {escaped}{part}\n")


def _complain(error: Exception, name: str | None, debug: bool) -> None:
    """Tells an error on one line of stderr, after the name of the file it is about; with its traceback for `debug`."""
    if debug:
        traceback.print_exception(error)
        return
    if isinstance(error, click.ClickException):
        reason = error.format_message().rstrip(".")
        if isinstance(error, click.UsageError) and error.ctx:
            reason += f" (try '{error.ctx.command_path} --help')"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    elif isinstance(error, _SAYS_WHAT_IS_WRONG):
        reason = str(error)
    else:
        reason = f"{type(error).__name__}: {error} (--debug shows where)"
    about = f"{name}: " if name else ""
    click.echo(f"hashbench: {about}{' '.join(reason.split())}", err=True)


def _drop_output() -> None:
    """Lets what standard output no longer takes go, so that the interpreter does not complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
