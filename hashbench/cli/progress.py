"""How far long work is, shown where stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hashbench.hashing.progress import Progress


@contextmanager
def shown(name: str, total: int | None) -> Iterator[Progress]:
    """What takes the bytes that are done, and shows them as a bar where stderr is a terminal.

    Args:
        name: what the bar is called.
        total: all bytes; None where they are not known.
    """
    if not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    label = TextColumn("{task.description}", markup=False)
    with Bar(label, *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda nbytes: bar.advance(task, nbytes)
