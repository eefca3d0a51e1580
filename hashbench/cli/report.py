"""The commands that show results: `compare` and `report`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashbench.bench import comparison
from hashbench.bench.frames import Results, read_run, together
from hashbench.bench.records import LeftOut, check_writable
from hashbench.bench.tables import comparison_tables, summary_table
from hashbench.bench.text_table import print_table
from hashbench.cli.bench import results_option, tell_left_out
from hashbench.cli.exit_codes import CHECK_FAILED, UNUSABLE
from hashbench.cli.options import json_option
from hashbench.hashing.atomic_write import write_atomically

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="A B [...]")
@click.option("--points", is_flag=True, help="Show each point instead of a summary.")
@json_option
@results_option
@click.pass_context
def compare(context: click.Context, runs: Sequence[str], points: bool, as_json: bool, results: Path) -> None:
    """Compare machines or runs with the first one.

    Each run is a machine's folder, given by its path or by its name under RESULTS, or one results file. Throughputs are
    compared by kernel and experiment. Files of a folder that cannot be used are left out, and named.

    Exit codes: 0 compared; 1 digests of the same input differ; 2 unusable arguments, or something was left out.
    """
    if len(runs) < 2:
        raise click.UsageError("compare needs at least two runs: each a machine's folder or a results file")
    paths = [Path(run) if Path(run).exists() else results / run for run in runs]
    left_out = LeftOut()
    base, *others = (read_run(path, left_out) for path in paths)
    compared = []
    wrong: list[str] = []
    for name, other in zip(runs[1:], others, strict=True):
        pairs = comparison.compare(base, other)
        if pairs.empty:
            raise comparison.NotComparableError(f"{runs[0]} and {name} have no point in common")
        compared.append((name, pairs))
        wrong += comparison.disagreements(together([base, other]).rows)
    if as_json:
        click.echo(
            json.dumps([{"base": runs[0], "run": n, **_document(pairs, points)} for n, pairs in compared], indent=2)
        )
    else:
        for name, pairs in compared:
            summary = comparison.summarize(pairs)
            of_points = comparison_tables(pairs, runs[0], name)
            for table in of_points if points else [summary_table(summary, runs[0], name)]:
                print_table(table)
    for line in dict.fromkeys(wrong):
        click.echo(line, err=True)
    tell_left_out(left_out)
    if wrong or left_out.lines:
        context.exit(CHECK_FAILED if wrong else UNUSABLE)


def _document(pairs: Results, points: bool) -> dict[str, Any]:
    if not points:
        return {"summary": _records(comparison.summarize(pairs))}
    return {"rows": _records(pairs.rows), "readings": _records(pairs.readings)}


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A data frame's lines as JSON objects, with those of its index that have names."""
    named = frame.reset_index() if any(frame.index.names) else frame
    records: list[dict[str, Any]] = json.loads(named.to_json(orient="records", double_precision=6))
    return records


@click.command()
@results_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.  [default: RESULTS/report.html]",
)
@click.pass_context
def report(context: click.Context, results: Path, output: Path | None) -> None:
    """Write the report: one self-contained HTML page.

    It shows the claims, their verdicts and the measurements behind them, computed from the results, and the figures
    that `hashbench figures` has drawn. Files that cannot be used are left out, and named.

    Exit codes: 0 written; 2 unusable arguments, or something was left out.
    """
    from hashbench.report.page import build  # imports jinja2 and the static model

    path = output or results / "report.html"
    left_out = LeftOut()
    page = build(results, left_out)
    check_writable(path.parent)
    write_atomically(path, page.encode())
    click.echo(f"report: {path}")
    tell_left_out(left_out)
    if left_out.lines:
        context.exit(UNUSABLE)
