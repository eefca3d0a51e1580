"""Error messages of one line."""

from __future__ import annotations

import traceback
from contextlib import suppress

import click

from hashbench.cli.messages import say


def complain(error: Exception, name: str | None, debug: bool) -> None:
    """Prints an error on one line of stderr.

    Args:
        error: the error.
        name: the file that it is about, if any; only an error of the system does not name it itself.
        debug: print a traceback instead.
    """
    with suppress(OSError):  # the exit code says it too
        if debug:
            traceback.print_exception(error)
            return
        about = f"{name}: " if name and isinstance(error, OSError) else ""
        say(f"hashbench: {about}{' '.join(_reason(error).split())}", err=True)


def _reason(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        reason = error.format_message().rstrip(".")
        if isinstance(error, click.UsageError) and error.ctx:
            reason += f" (try '{error.ctx.command_path} --help')"
        return reason
    if isinstance(error, MemoryError) and not str(error):
        return "out of memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    ours = type(error).__module__.partition(".")[0] == __name__.partition(".")[0]
    if ours or isinstance(error, (OSError, ValueError, TypeError, MemoryError)):
        return str(error)  # which says what is wrong
    return f"{type(error).__name__}: {error} (--debug shows a traceback)"
