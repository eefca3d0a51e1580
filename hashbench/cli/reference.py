"""The reference of the command line, from the commands' own help: `python -m hashbench.cli.reference > docs/cli.md`."""

from __future__ import annotations

import click

from hashbench.cli.main import COMMANDS, hashbench

_WIDTH = 100

_HEAD = """# Help of every command

This page has what `--help` prints; it is generated. [The command line](command-line.md) explains with examples.
"""


def reference() -> str:
    """The page, in Markdown."""
    settings = {**hashbench.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    top = click.Context(hashbench, info_name="hashbench", **settings)
    sections = [_HEAD, _section("hashbench", top.get_help())]
    for name in COMMANDS:
        command = hashbench.get_command(top, name)
        assert command is not None
        context = click.Context(command, top, name, **settings)
        sections.append(_section(f"hashbench {name}", context.get_help()))
    return "\n".join(sections)


def _section(heading: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return f"## {heading}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
