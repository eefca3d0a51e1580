"""The command `digest`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence

import click

from hashbench.cli.each_file import of_each, total_size
from hashbench.cli.errors import complain
from hashbench.cli.exit_codes import UNUSABLE
from hashbench.cli.options import SALT, SIZE, device_option, kernel_option
from hashbench.hashing.block_digests import BlockDigester
from hashbench.hashing.root_lines import escaped
from hashbench.hashing.selection import choose
from hashbench.hashing.sizes import parse_size
from hashbench.merkle.bittorrent import BitTorrentV2
from hashbench.merkle.digest_format import DigestFormat
from hashbench.merkle.s3 import S3
from hashbench.merkle.unixfs import UnixFs
from hashbench.merkle.verity import DmVerity, FsVerity
from hashbench.model.strict_json import quoted

_FORMATS: dict[str, tuple[Callable[..., DigestFormat], frozenset[str]]] = {
    "fs-verity": (FsVerity, frozenset({"block_size", "salt"})),
    "dm-verity": (DmVerity, frozenset({"block_size", "salt", "algorithm"})),
    "bittorrent-v2": (BitTorrentV2, frozenset()),
    "s3": (S3, frozenset()),
    "unixfs": (UnixFs, frozenset()),
}
"""The formats by name, and the options that each takes."""

_FOR_THREADS = 1 << 20
"""Bytes of a block from which on a CPU with SHA instructions is faster than a GPU: a block is one sequence of steps."""


class _FormatType(click.ParamType):  # type: ignore[type-arg]  # generic only in some versions of click
    """The name of a format, and the size of a part for S3."""

    name = "format"

    def convert(
        self, value: str | tuple[str, int | None], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        """The format's name, and the size."""
        if isinstance(value, tuple):
            return value
        name, colon, size = value.partition(":")
        if name not in _FORMATS or (colon and name != "s3"):
            accepted = ", ".join("s3:SIZE" if known == "s3" else known for known in _FORMATS)
            self.fail(f"{quoted(value)} is not a format: accepted are {accepted}", param, ctx)
        try:
            return name, parse_size(size) if colon else None
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("digest")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(allow_dash=True))
@click.option(
    "--format",
    "chosen",
    type=_FormatType(),
    required=True,
    metavar="FORMAT",
    help="fs-verity, dm-verity, bittorrent-v2, s3:SIZE (of a part; 8MiB if left out) or unixfs.",
)
@click.option("--block-size", type=SIZE, help="For fs-verity and dm-verity: 1KiB to 64KiB; default: 4KiB.")
@click.option("--salt", type=SALT, help="For fs-verity and dm-verity, in hexadecimal digits; default: none.")
@click.option("--algorithm", type=click.Choice(["sha256", "sha384"]), help="For dm-verity; default: sha256.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of lines.")
@kernel_option
@device_option
@click.pass_context
def print_digests(
    context: click.Context,
    files: Sequence[str],
    chosen: tuple[str, int | None],
    block_size: int | None,
    salt: bytes | None,
    algorithm: str | None,
    as_json: bool,
    kernel: str | None,
    device: str | None,
) -> None:
    """Print digests in the formats of other tools.

    A line is printed for each FILE, with the digest that the format's own tool has for it; - is standard input.

    \b
    fs-verity      what `fsverity digest` prints
    dm-verity      the root hash of `veritysetup format`, hash type 1
    bittorrent-v2  the file's "pieces root" (BEP 52)
    s3:SIZE        the ChecksumSHA256 of an S3 object uploaded in parts of SIZE
    unixfs         the CID of IPFS, version 1, raw leaves of 1 MiB

    Exit codes: 0 all files have a digest; 2 a file or the call is not usable.
    """  # noqa: D301  # click's mark for lines to keep
    name, part_size = chosen
    build, takes = _FORMATS[name]
    given = {"block_size": block_size, "salt": salt, "algorithm": algorithm}
    options = {option: value for option, value in given.items() if value is not None}
    if refused := sorted(options.keys() - takes):
        raise click.UsageError(f"--{refused[0].replace('_', '-')} cannot be used with the format {name}")
    if part_size is not None:
        options["part_size"] = part_size
    digest_format = build(**options)
    blocks = digest_format.blocks
    if kernel is None and device is None and blocks.size >= _FOR_THREADS:
        kernel = "hashlib"
    digester = BlockDigester(choose(kernel, device, blocks.algorithm, total_size(files)), digest_format)
    usable = True
    report = []
    for file, digest in of_each(digester.digests, files):
        if isinstance(digest, Exception):
            usable = False
            complain(digest, file, debug=context.obj)
        elif as_json:
            report.append({"format": name, "name": file, "digest": digest})
        else:
            mark, shown = escaped(file)
            sys.stdout.buffer.write(os.fsencode(f"{mark}{digest_format.line(digest, shown)}\n"))
            sys.stdout.buffer.flush()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    if not usable:
        context.exit(UNUSABLE)
