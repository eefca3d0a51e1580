"""The commands `bench`, which measures, and `figures`, which draws the results."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
    Run,
    Skip,
    experiment_named,
    experiments,
    plan,
    run,
)
from hashbench.bench.frames import Results, read_experiment, read_machine
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.records import LeftOut, RecordsFile, ResultsError, Tell, check_writable, refuse
from hashbench.bench.results import (
    FIGURES_FOLDER,
    ROWS,
    Row,
    check_machine,
    experiment_names,
    figures_folder,
    machine_folders,
    write_machine,
)
from hashbench.bench.tables import readings_table, rows_table
from hashbench.bench.text_table import print_table
from hashbench.cli.exit_codes import CHECK_FAILED, UNUSABLE
from hashbench.cli.options import PATH
from hashbench.hashing import selection
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, KERNELS, Device, Unavailable

results_option = click.option(
    "--results",
    type=PATH,
    default=Path("results"),
    show_default=True,
    help="The folder of results, with one folder per machine.",
)


@click.command()
@click.argument("names", nargs=-1, metavar="[EXPERIMENT]...")
@click.option("--quick", is_flag=True, help="Measure the short form of each experiment.")
@click.option("--kernel", "kernels", multiple=True, help="Measure only this kernel. Repeatable.")
@click.option("--device", "ids", multiple=True, help="Measure only devices of this id. Repeatable.")
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(list(ALGORITHMS)),
    help="Measure rows of only this algorithm. Readings are taken of both.",
)
@click.option("--again", is_flag=True, help="Measure points again that have rows of this commit.")
@click.option("--machine", "machine_name", help="Name of the machine's folder.  [default: after its GPU or processor]")
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
    """Measure every kernel and device of this machine.

    Runs each EXPERIMENT, or all of them if none is named. The output of every kernel is checked against hashlib before
    it is timed.

    Rows go to RESULTS/<machine>/<experiment>.csv, readings to <experiment>.readings.csv, each as soon as it is
    measured, and figures to the folder figures beside them. Figures of all machines go to RESULTS/figures.

    An interrupted run can be resumed: points already measured at this commit, with the same driver and framework, are
    skipped. Readings are always taken again. A folder with results of another machine is refused.

    Exit codes: 0 measured; 1 the output of a kernel was wrong; 2 unusable arguments, or nothing could be measured.
    """
    chosen = [experiment_named(name) for name in names or experiments()]
    found = selection.devices()
    wanted = _wanted(found, kernels, ids)
    folder = results / _machine_name(machine_name or machine.slug(found))
    description = machine.describe(found)
    check_machine(folder, description)
    check_writable(folder)
    files = {e.name: _files(e, folder) for e in chosen}  # read all before anything is measured
    for rows, _ in files.values():
        comparison.check_comparable(Results.of(rows.records).rows)
    planned = {e.name: plan(e, wanted, algorithms or list(ALGORITHMS), quick=quick) for e in chosen}
    write_machine(folder, description)

    commit = machine.commit()
    runs = []
    for experiment in chosen:
        readings = experiment.readings(wanted, quick=quick)
        done = _run(experiment, planned[experiment.name], readings, files[experiment.name], commit, again)
        runs.append(done)
        _show(done, folder, experiment)
        if done.interrupted:
            kept = len(done.rows) + len(done.readings)
            click.echo(f"interrupted: {kept} rows and readings were measured and kept", err=True)
            raise KeyboardInterrupt
    left_out = LeftOut()  # of other machines
    for experiment, done in zip(chosen, runs, strict=True):
        if done.current or done.readings:
            _draw_overview(experiment.name, results, left_out)
    tell_left_out(left_out)
    errors = [failure.error for done in runs for failure in done.failures]
    if any(isinstance(error, VerificationError) for error in errors):
        context.exit(CHECK_FAILED)
    if errors:
        raise errors[0]
    if not any(done.current or done.readings for done in runs):
        reasons = dict.fromkeys(f"{skip.what}: {skip.reason}" for done in runs for skip in done.skips)
        raise Unavailable(f"nothing was measured: {'; '.join(reasons) or 'no experiment has points for these devices'}")


@click.command()
@results_option
@click.pass_context
def figures(context: click.Context, results: Path) -> None:
    """Draw all figures from the results.

    What cannot be used or drawn is left out, and named.

    Exit codes: 0 drawn; 1 digests of the same input differ; 2 unusable arguments, or something was left out.
    """
    left_out = LeftOut()
    wrong = False
    folders = {folder: experiment_names(folder, left_out) for folder in machine_folders(results, left_out)}
    drawings = [partial(_draw, name, folder, left_out) for folder, names in folders.items() for name in names]
    overviews = sorted({name for names in folders.values() for name in names})
    for draw in (*drawings, *(partial(_draw_overview, name, results, left_out) for name in overviews)):
        try:
            draw()
        except VerificationError as error:
            click.echo(str(error), err=True)
            wrong = True
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            left_out(ResultsError(f"{draw.args[1] / draw.args[0]}: no figure can be drawn: {error}"))
    tell_left_out(left_out)
    if wrong or left_out.lines:
        context.exit(CHECK_FAILED if wrong else UNUSABLE)


def tell_left_out(left_out: LeftOut) -> None:
    """Prints what could not be used."""
    for line in left_out.lines:
        click.echo(f"left out: {line}", err=True)


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
        raise ValueError(f"machine name {name!r} is not accepted: use letters, digits, '.', '_' and '-'")
    if name == FIGURES_FOLDER:
        raise ValueError(f"machine name {name!r} is not accepted: that folder holds the figures of all machines")
    return name


def _files(experiment: Experiment, folder: Path) -> tuple[RecordsFile[Row], RecordsFile[Reading]]:
    """The files of an experiment's rows and readings in a machine's folder."""
    return ROWS.file(ROWS.path(folder, experiment.name)), READINGS.file(READINGS.path(folder, experiment.name))


def _run(
    experiment: Experiment,
    planned: Sequence[Point | Skip],
    readings: Iterator[Reading | Skip],
    files: tuple[RecordsFile[Row], RecordsFile[Reading]],
    commit: str,
    again: bool,
) -> Run:
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
        what = "wrong output" if isinstance(outcome.error, VerificationError) else "failed"
        click.echo(f"{what}, not recorded: {outcome.what}: {_reason(outcome.error)}", err=True)


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _show(done: Run, folder: Path, experiment: Experiment) -> None:
    """Prints the results of a run, and draws the experiment's figure."""
    if done.kept:
        points = "1 point" if len(done.kept) == 1 else f"{len(done.kept):,} points"
        click.echo(f"{experiment.name}: skipped {points} already measured at this commit (see --again)", err=True)
    if done.current:
        print_table(rows_table(Results.of(done.current).rows))
        click.echo(f"rows: {ROWS.path(folder, experiment.name)}")
    if done.readings:
        print_table(readings_table(Results.of(readings=done.readings).readings))
        click.echo(f"readings: {READINGS.path(folder, experiment.name)}")
    if done.current or done.readings:
        _draw(experiment.name, folder, refuse)


def _draw(name: str, folder: Path, tell: Tell) -> None:
    """Draws an experiment's figure from its files in a machine's folder."""
    results = read_machine(folder, name, tell=tell)
    comparison.check_comparable(results.rows)
    _draw_with(experiment_named(name).figure, results, name, folder)


def _draw_overview(name: str, results: Path, tell: Tell) -> None:
    """Draws an experiment's figure of all machines, if it has one."""
    _draw_with(experiment_named(name).overview, read_experiment(results, name, tell), name, results)


def _draw_with(draw: Callable[[Results, Path], list[Path]], found: Results, name: str, folder: Path) -> None:
    if not found.empty:
        for written in draw(found, figures_folder(folder) / name):
            click.echo(f"figure: {written}")
