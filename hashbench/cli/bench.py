"""The commands that measure, `bench`, and that draw what was measured, `figures`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hashbench.bench import comparison, machine
from hashbench.bench.experiment import (
    Experiment,
    Failure,
    Outcome,
    Point,
    Report,
    Skip,
    experiment_named,
    experiments,
    machines_with,
    plan,
    run,
)
from hashbench.bench.readings import Reading, ReadingsFile, readings_path
from hashbench.bench.records import check_writable
from hashbench.bench.results import (
    FIGURES_FOLDER,
    ResultsFile,
    check_machine,
    experiment_names,
    machine_folders,
    rows_path,
    write_machine,
)
from hashbench.bench.tables import print_table, readings_table, rows_table
from hashbench.cli.exit_codes import CHECK_FAILED
from hashbench.hashing import selection
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, KERNELS, Device, Unavailable

results_option = click.option(
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
    help="Measure rows of this algorithm alone; readings are taken of both.",
)
@click.option("--again", is_flag=True, help="Measure points anew that have rows of this very commit.")
@click.option("--machine", "machine_name", help="Name of the machine's folder; after its main device unless given.")
@results_option
@click.pass_context
def bench(
    context: click.Context,
    names: Sequence[str],
    quick: bool,
    kernels: Sequence[str],
    ids: Sequence[str],
    algorithms: Sequence[str],
    again: bool,
    machine_name: str | None,
    results: Path,
) -> None:
    """Measure every kernel and device of this machine by each EXPERIMENT; by all of them where none is named.

    Each kernel's output is verified before it is timed. Rows go to RESULTS/<machine>/<experiment>.csv, readings of
    anything else to <experiment>.readings.csv, each as soon as it is measured, and the figures beside them; figures
    over all machines go to RESULTS/figures. An interrupted run goes on where it ended: points that have a row of the
    same commit, driver and framework are left as they are; readings are taken anew in every run. A folder that another
    machine's results are in is refused. Exit code 1: a kernel's output was wrong.
    """
    chosen = [experiment_named(name) for name in names or experiments()]
    found = selection.devices()
    wanted = _wanted(found, kernels, ids)
    folder = results / _machine_name(machine_name or machine.slug(found))
    description = machine.describe(found)
    check_machine(folder, description)
    check_writable(folder)
    files = {e.name: _files(e, folder) for e in chosen}  # all are read before anything is measured
    for rows, _ in files.values():
        comparison.check_comparable(rows.records)
    planned = {e.name: plan(e, wanted, algorithms or list(ALGORITHMS), quick=quick) for e in chosen}
    write_machine(folder, description)

    commit = machine.commit()
    reports = []
    for experiment in chosen:
        readings = experiment.readings(wanted, quick=quick)
        report = _run(experiment, planned[experiment.name], readings, files[experiment.name], commit, again)
        reports.append(report)
        _show(report, folder, experiment)
        if report.interrupted:
            kept = len(report.rows) + len(report.readings)
            click.echo(f"rows and readings measured before the interrupt, and kept: {kept}", err=True)
            raise KeyboardInterrupt
    for experiment, report in zip(chosen, reports, strict=True):
        if report.current or report.readings:
            _draw_overview(experiment, results)
    errors = [failure.error for report in reports for failure in report.failures]
    if any(isinstance(error, VerificationError) for error in errors):
        context.exit(CHECK_FAILED)
    if errors:
        raise errors[0]
    if not any(report.current or report.readings for report in reports):
        reasons = dict.fromkeys(f"{skip.what}: {skip.reason}" for report in reports for skip in report.skips)
        raise Unavailable(f"nothing was measured: {'; '.join(reasons) or 'no experiment has points for these devices'}")


@click.command()
@results_option
def figures(results: Path) -> None:
    """Draw every figure again, from the results alone."""
    folders = {folder: experiment_names(folder) for folder in machine_folders(results)}
    for folder, names in folders.items():
        for name in names:
            _draw(experiment_named(name), folder)
    for name in sorted({name for names in folders.values() for name in names}):
        _draw_overview(experiment_named(name), results)


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
    if name == FIGURES_FOLDER:
        raise ValueError(f"machine name {name!r} is not accepted: that folder has the figures over all machines")
    return name


def _files(experiment: Experiment, folder: Path) -> tuple[ResultsFile, ReadingsFile]:
    """An experiment's rows and readings in a machine's folder."""
    return ResultsFile(rows_path(folder, experiment.name)), ReadingsFile(readings_path(folder, experiment.name))


def _run(
    experiment: Experiment,
    planned: Sequence[Point | Skip],
    readings: Iterator[Reading | Skip],
    files: tuple[ResultsFile, ReadingsFile],
    commit: str,
    again: bool,
) -> Report:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(experiment.question, total=sum(isinstance(entry, Point) for entry in planned))
        done = count()

        def on_end(outcome: Outcome) -> None:
            if isinstance(outcome, Reading):
                progress.update(task, description=f"after {outcome}")
            _tell(outcome)

        return run(
            experiment,
            planned,
            readings,
            *files,
            commit,
            again,
            on_start=lambda point: progress.update(task, completed=next(done), description=str(point)),
            on_end=on_end,
        )


def _tell(outcome: Outcome) -> None:
    if isinstance(outcome, Skip):
        click.echo(f"skipped {outcome.what}: {outcome.reason}", err=True)
    elif isinstance(outcome, Failure):
        what = "wrong" if isinstance(outcome.error, VerificationError) else "failed"
        click.echo(f"{what}, so not measured: {outcome.what}: {_reason(outcome.error)}", err=True)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _show(report: Report, folder: Path, experiment: Experiment) -> None:
    """Prints what a run gave, and draws what its files hold."""
    if report.kept:
        points = "1 point has a row" if len(report.kept) == 1 else f"{len(report.kept):,} points have rows"
        click.echo(f"{experiment.name}: {points} of this commit; --again measures anew", err=True)
    if report.current:
        print_table(rows_table(report.current))
        click.echo(f"rows: {rows_path(folder, experiment.name)}")
    if report.readings:
        print_table(readings_table(report.readings))
        click.echo(f"readings: {readings_path(folder, experiment.name)}")
    if report.current or report.readings:
        _draw(experiment, folder)


def _draw(experiment: Experiment, folder: Path) -> None:
    """Draws an experiment's figure from its files in a machine's folder."""
    results, readings_file = _files(experiment, folder)
    rows, readings = results.records, readings_file.records
    comparison.check_comparable(rows)
    if rows or readings:
        for written in experiment.figure(rows, readings, folder / FIGURES_FOLDER / experiment.name):
            click.echo(f"figure: {written}")


def _draw_overview(experiment: Experiment, results: Path) -> None:
    """Draws an experiment's figure over all machines, where it has one and there are results of it."""
    if machines := machines_with(results, experiment.name):
        for written in experiment.overview(machines, results / FIGURES_FOLDER / experiment.name):
            click.echo(f"figure: {written}")
