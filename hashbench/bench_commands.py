"""The commands that measure: `bench`, `figures` and `compare`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hashbench import comparison, machine, selection
from hashbench.experiment import (
    Experiment,
    Failure,
    Outcome,
    Point,
    Report,
    Skip,
    experiment_named,
    experiments,
    plan,
    run,
)
from hashbench.kernels import ALGORITHMS, KERNELS, Device, Unavailable
from hashbench.results import (
    FIGURES_FOLDER,
    ResultsFile,
    check_writable,
    machine_folders,
    read_rows,
    results_files,
    write_machine,
)
from hashbench.tables import comparisons_table, print_table, rows_table
from hashbench.verification import VerificationError

CHECK_FAILED = 1
"""Exit code where a kernel's output was wrong."""

_results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="The folder of results, one folder a machine in it.",
)


@click.command()
@click.argument("names", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--quick", is_flag=True, help="The short form of each sweep.")
@click.option("--kernel", "kernels", multiple=True, help="Measure this kernel alone; may be given again.")
@click.option("--device", "ids", multiple=True, help="Measure devices of this id alone; may be given again.")
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(list(ALGORITHMS)),
    help="Measure this algorithm alone.",
)
@click.option("--machine", "machine_name", help="Name of the machine's folder; after its main device unless given.")
@_results_option
@click.pass_context
def bench(
    context: click.Context,
    names: Sequence[str],
    quick: bool,
    kernels: Sequence[str],
    ids: Sequence[str],
    algorithms: Sequence[str],
    machine_name: str | None,
    results: Path,
) -> None:
    """Measure every kernel and device of this machine by each EXPERIMENT; by all of them where none is named.

    Each kernel's output is verified before it is timed. Rows go to RESULTS/<machine>/<experiment>.csv, each as soon as
    it is measured, and the figures beside them. Exit code 1: a kernel's output was wrong.
    """
    chosen = [experiment_named(name) for name in names or experiments()]
    found = selection.devices()
    wanted = _wanted(found, kernels, ids)
    folder = results / _machine_name(machine_name or machine.slug(found))
    check_writable(folder)
    files = {experiment.name: ResultsFile(folder / f"{experiment.name}.csv") for experiment in chosen}
    planned = {e.name: plan(e, wanted, algorithms or list(ALGORITHMS), quick=quick) for e in chosen}
    if not any(isinstance(entry, Point) for entries in planned.values() for entry in entries):
        reasons = [f"{device.kernel}: {device.unavailable}" for device in wanted if device.unavailable is not None]
        if chosen and len(reasons) == len(wanted):
            raise Unavailable(f"there is nothing to measure on: {'; '.join(reasons)}")
        raise ValueError(f"there is nothing to measure: no points in {', '.join(files) or 'no experiment'}")
    write_machine(folder, machine.describe(found))

    commit = machine.commit()
    reports = []
    for experiment in chosen:
        file = files[experiment.name]
        report = _run(experiment, planned[experiment.name], file, commit)
        reports.append(report)
        print_table(rows_table(report.rows))
        if report.rows:
            click.echo(f"rows: {file.path}")
            _draw(experiment, file.path)
        if report.interrupted:
            click.echo(f"rows measured before the interrupt, and kept: {len(report.rows)}", err=True)
            raise KeyboardInterrupt
    errors = [failure.error for report in reports for failure in report.failures]
    if any(isinstance(error, VerificationError) for error in errors):
        context.exit(CHECK_FAILED)
    if errors:
        raise errors[0]


@click.command()
@_results_option
def figures(results: Path) -> None:
    """Draw every figure again, from the results alone."""
    for folder in machine_folders(results):
        for path in results_files(folder):
            _draw(experiment_named(path.stem), path)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="A B [...]")
@_results_option
def compare(runs: Sequence[str], results: Path) -> None:
    """Compare machines or runs, point by point, with A.

    Each is a machine's folder, by its path or by its name under RESULTS, or one results file.
    """
    if len(runs) < 2:
        raise click.UsageError("compare needs two runs at least: each a machine's folder or a results file")
    paths = [Path(run) if Path(run).exists() else results / run for run in runs]
    base, *others = [comparison.read_run(path) for path in paths]
    tables = []
    for name, rows in zip(runs[1:], others, strict=True):
        pairs = comparison.compare(base, rows)
        if not pairs:
            raise comparison.NotComparableError(f"{runs[0]} and {name} have no point in common")
        tables.append(comparisons_table(pairs, runs[0], name))
    for table in tables:
        print_table(table)


def _wanted(found: Sequence[Device], kernels: Sequence[str], ids: Sequence[str]) -> list[Device]:
    for kernel in kernels:
        if kernel not in KERNELS:
            raise selection.UsageError(f"unknown kernel {kernel!r}: accepted are {', '.join(KERNELS)}")
    of_kernels = [device for device in found if not kernels or device.kernel in kernels]
    known = dict.fromkeys(device.id for device in of_kernels if device.id)
    for name in ids:
        if name not in known:
            raise selection.UsageError(f"unknown device {name!r}: accepted are {', '.join(known) or 'none'}")
    return [device for device in of_kernels if not ids or device.id in ids]


def _machine_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(f"machine name {name!r} is not accepted: it is made of letters, digits, '.', '_' and '-'")
    return name


def _run(experiment: Experiment, planned: Sequence[Point | Skip], file: ResultsFile, commit: str) -> Report:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(experiment.question, total=sum(isinstance(entry, Point) for entry in planned))
        done = count()
        return run(
            experiment,
            planned,
            file,
            commit,
            on_start=lambda point: progress.update(task, completed=next(done), description=str(point)),
            on_end=_tell,
        )


def _tell(outcome: Outcome) -> None:
    if isinstance(outcome, Skip):
        click.echo(f"skipped {outcome.what}: {outcome.reason}", err=True)
    elif isinstance(outcome, Failure):
        what = "wrong" if isinstance(outcome.error, VerificationError) else "failed"
        click.echo(f"{what}, so not measured: {outcome.point}: {_reason(outcome.error)}", err=True)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _draw(experiment: Experiment, path: Path) -> None:
    """Draws an experiment's figure from the rows at `path`."""
    rows = read_rows(path)
    comparison.check_comparable(rows)
    if rows:
        for written in experiment.figure(rows, path.parent / FIGURES_FOLDER / experiment.name):
            click.echo(f"figure: {written}")
