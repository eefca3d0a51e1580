"""The command `devices`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from hashbench.hashing import selection
from hashbench.kernels import Device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def devices(as_json: bool) -> None:
    """List kernels and devices.

    Each is available, or the reason why it is not is given.
    """
    if as_json:
        click.echo(json.dumps([asdict(device) for device in selection.devices()], indent=2))
        return
    # Unless on a terminal, a device is one line, however long.
    console = Console(width=None if sys.stdout.isatty() else 1000)
    console.print(_table(selection.devices(), selection.available()[:1]))


def _table(listed: Sequence[Device], default: Sequence[Device]) -> Table:
    table = Table("kernel", "device", "kind", "name", "software", Column("status", overflow="fold"))
    for device in listed:
        software = ", ".join(part for part in (device.framework, device.driver) if part)
        status = "[green]available[/]" + (", the default" if device in default else "")
        status += f"; {escape(device.remark)}" if device.remark else ""
        if device.unavailable is not None:
            status = f"[red]{escape(device.unavailable)}[/]"
        cells = (device.kernel, device.id, device.kind, device.name, software)
        table.add_row(*map(escape, cells), status)
    return table
