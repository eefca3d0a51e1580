"""The commands that tell what was measured: `compare` and `report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from hashbench.bench import comparison
from hashbench.bench.records import check_writable
from hashbench.bench.tables import comparisons_table, print_table, summaries_table
from hashbench.cli.bench import results_option
from hashbench.cli.exit_codes import CHECK_FAILED
from hashbench.hashing.atomic_write import write_atomically


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="A B [...]")
@click.option("--points", is_flag=True, help="Show each point instead of what they come to.")
@results_option
@click.pass_context
def compare(context: click.Context, runs: Sequence[str], points: bool, results: Path) -> None:
    """Compare machines or runs with A, by kernel and experiment.

    Each is a machine's folder, by its path or by its name under RESULTS, or one results file. Exit code 1: digests of
    the same input differ.
    """
    if len(runs) < 2:
        raise click.UsageError("compare needs two runs at least: each a machine's folder or a results file")
    paths = [Path(run) if Path(run).exists() else results / run for run in runs]
    base, *others = [comparison.read_run(path) for path in paths]
    tables = []
    wrong: list[str] = []
    for name, rows in zip(runs[1:], others, strict=True):
        pairs = comparison.compare(base, rows)
        if not pairs:
            raise comparison.NotComparableError(f"{runs[0]} and {name} have no point in common")
        if points:
            tables.append(comparisons_table(pairs, runs[0], name))
        else:
            tables.append(summaries_table(comparison.summarise(pairs), runs[0], name))
        wrong += comparison.disagreements([*base, *rows])
    for table in tables:
        print_table(table)
    for line in dict.fromkeys(wrong):
        click.echo(line, err=True)
    if wrong:
        context.exit(CHECK_FAILED)


@click.command()
@results_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; RESULTS/report.html unless given.",
)
def report(results: Path, output: Path | None) -> None:
    """Write one self-contained HTML page: the claims, their verdicts, and what these rest on.

    It shows the figures that lie under RESULTS, as `hashbench figures` draws them, and computes everything else from
    rows and readings.
    """
    from hashbench.report.page import build  # jinja2 and the static model, which no other command here needs

    path = output or results / "report.html"
    page = build(results)
    check_writable(path.parent)
    write_atomically(path, page.encode())
    click.echo(f"report: {path}")
