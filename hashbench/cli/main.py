"""The command line.

Exit codes: 0 success; 1 a check failed; 2 the call or its input is not usable; 130 interrupted. Errors are one line on
stderr.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NamedTuple

import click

from hashbench.cli.errors import complain
from hashbench.cli.exit_codes import CHECK_FAILED, INTERRUPTED, UNUSABLE
from hashbench.cli.messages import say
from hashbench.cli.standard_streams import drop_unwritable, make_safe
from hashbench.hashing.verification_error import VerificationError


class _Entry(NamedTuple):
    """A command that is imported when it runs.

    Attributes:
        place: its module and name.
        summary: the first line of its help.
    """

    place: str
    summary: str


COMMANDS = {
    "devices": _Entry("hashbench.cli.devices:devices", "List kernels and devices."),
    "hash": _Entry("hashbench.cli.hash:hash_files", "Print the Merkle root of files."),
    "digest": _Entry("hashbench.cli.digest:print_digests", "Print digests in the formats of other tools."),
    "manifest": _Entry("hashbench.cli.model:write_manifest", "Write the manifest of a model."),
    "verify": _Entry("hashbench.cli.model:verify_model", "Verify a model against its manifest, or its signature."),
    "combine": _Entry("hashbench.cli.combine:combine_parts", "Make the manifest of a sharded model from its parts."),
    "derive": _Entry("hashbench.cli.derive:derive_manifest", "Derive the manifest of a model as a framework holds it."),
    "sign": _Entry("hashbench.cli.signing:sign", "Sign a model."),
    "attest": _Entry("hashbench.cli.attestation:attest", "Attest that a model was verified here."),
    "appraise": _Entry("hashbench.cli.attestation:appraise", "Appraise the evidence that a model was verified."),
    "prove": _Entry("hashbench.cli.proof:write_proof", "Write an inclusion proof of a tensor, file or chunk."),
    "check-proof": _Entry("hashbench.cli.proof:check_proof", "Verify an inclusion proof against a trusted root."),
    "export": _Entry("hashbench.cli.export:export", "Write a signed document about a manifest for another tool."),
    "check-export": _Entry("hashbench.cli.export:check_export", "Verify a document that `export` wrote."),
    "bench": _Entry("hashbench.cli.bench:bench", "Measure every kernel and device of this machine."),
    "figures": _Entry("hashbench.cli.bench:figures", "Draw all figures from the results."),
    "report": _Entry("hashbench.cli.report:report", "Write the report: one self-contained HTML page."),
    "compare": _Entry("hashbench.cli.report:compare", "Compare machines or runs with the first one."),
    "predict": _Entry("hashbench.cli.predict:predict", "Predict the throughput of GPUs without running them."),
}
"""The commands by name, in the order of the help."""

OF_BENCH = ("cpuinfo", "jinja2", "matplotlib", "pandas", "scipy")
"""The modules that only the extra `bench` installs."""

OF_TRUST = ("cryptography", "dcap_qvl")
"""The modules that only the extra `trust` installs."""


class _Commands(click.Group):
    """A group that imports a command when it is needed, and none to list them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].place.partition(":")
        found: click.Command = getattr(import_module(module), name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hashbench")
@click.option("--debug", is_flag=True, help="Show a traceback for an error.")
@click.pass_context
def hashbench(context: click.Context, debug: bool) -> None:
    """Verify and measure with SHA-2 and Merkle trees on GPUs and CPUs."""
    context.obj = debug
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """Runs the command line and exits."""
    make_safe()
    gc.set_threshold(1 << 20)  # a manifest has millions of objects that are no garbage; to look for some takes a fifth
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has one ignored
            signal.signal(number, _terminate)  # so that temporary files are removed
    warnings.showwarning = lambda message, category, *_: _show(message, category)
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # Python processes that it starts import nothing from their folder
    sys.exit(run(sys.argv[1:]))


def _terminate(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _show(message: Warning | str, category: type[Warning]) -> None:
    """Prints a warning of this project on one line, and no other: they are for developers."""
    if category.__module__.partition(".")[0] == __name__.partition(".")[0]:
        with suppress(OSError):
            say(f"hashbench: {' '.join(str(message).split())}", err=True)


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
        with suppress(OSError):
            say("hashbench: interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in OF_BENCH:
            error = click.ClickException(f"{error.name} is not installed: install hashbench[bench]")
        elif isinstance(error, ModuleNotFoundError) and error.name in OF_TRUST:
            error = click.ClickException(f"{error.name} is not installed: install hashbench[trust]")
        complain(error, getattr(error, "filename", None), debug)
        return CHECK_FAILED if isinstance(error, VerificationError) else UNUSABLE
    finally:
        drop_unwritable()
