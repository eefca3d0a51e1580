"""Lines for people, perhaps on a terminal. Names in them are a stranger's, and can change nothing but their line."""

from __future__ import annotations

import click

from hashbench.hashing.printable import printable


def say(line: str, *, err: bool = False) -> None:
    """Prints a line in which everything that is not printable is escaped: controls of the terminal, broken Unicode.

    Args:
        line: the line, without its end.
        err: whether to print it on standard error.

    Raises:
        OSError: the stream takes no more.
    """
    click.echo(printable(line), err=err)
