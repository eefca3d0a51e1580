"""Progress bars on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hashbench.hashing.hasher import Progress
from hashbench.hashing.printable import printable

_LABEL = 40  # characters: the bar needs the rest of a line


@contextmanager
def shown(name: str, on: bool = True) -> Iterator[Progress | None]:
    """A progress bar on stderr, if that is a terminal.

    Args:
        name: what is worked on, a path; its end is the bar's label.
        on: whether to show it at all.

    Yields:
        What updates the bar; None if there is none.
    """
    if not on or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    description = TextColumn("{task.description}", markup=False)
    label = printable(name)
    label = label if len(label) <= _LABEL else f"...{label[3 - _LABEL :]}"
    with Bar(description, *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
