"""The command `predict`: what GPUs that are not at hand would hash, from the machine code alone."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hashbench.bench import machine
from hashbench.bench.records import check_writable
from hashbench.bench.results import Row, found_machine_folders, read_rows, rows_files
from hashbench.bench.tables import print_table
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import ALGORITHMS
from hashbench.kernels.source import VARIANTS
from hashbench.limits import static_model
from hashbench.limits.architectures import UnplacedError
from hashbench.limits.disassembly import CompileError, StructureError
from hashbench.limits.gpus import GPU, gpu_named, gpus
from hashbench.limits.static_model import FORMAT, Prediction

"""Beside the folders of machines: what is predicted was measured on none."""


@click.command()
@click.option("--gpu", "names", multiple=True, help="Predict for this GPU alone; may be given again.")
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(list(ALGORITHMS)),
    help="Predict for this algorithm alone.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    help="Predict for this variant of the device code alone; may be given again.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="The folder of results, whose rows check the predictions.",
)
def predict(names: Sequence[str], algorithms: Sequence[str], variants: Sequence[str], results: Path) -> None:
    """Predict the throughput of GPUs from the machine code that is compiled for them, without running it.

    The predictions go to RESULTS/predictions.csv, and those that rows of RESULTS check are shown with their error.
    NVRTC and nvdisasm are needed, no GPU.
    """
    wanted = [gpu_named(name) for name in names] or list(gpus().values())
    check_writable(results)
    path = results / static_model.PREDICTIONS_FILE
    rows = _rows(results)
    partial = names or algorithms or variants
    kept = {p.point: p for p in FORMAT.read(path)} if partial and path.exists() else {}

    found = _predictions(wanted, algorithms or list(ALGORITHMS), variants or list(VARIANTS))
    if not found:
        raise ValueError("there is nothing to predict: no code of the wanted variants compiles and is understood")
    records = kept | {prediction.point: prediction for prediction in found}
    for prediction in found:
        FORMAT.check(prediction)
    write_atomically(path, FORMAT.text(records.values()))

    print_table(_table(found))
    checked = list(static_model.checks(found, gpus(), rows))
    if checked:
        print_table(_checks_table(checked))
    click.echo(f"predictions: {path}")


def _predictions(wanted: Sequence[GPU], algorithms: Sequence[str], variants: Sequence[str]) -> list[Prediction]:
    commit = machine.commit()
    found = []
    refused: dict[str, list[str]] = defaultdict(list)
    cases = list(product(wanted, algorithms, variants))
    quiet = not sys.stderr.isatty()
    for gpu, algorithm, variant in track(cases, "compile", console=Console(stderr=True), transient=True, disable=quiet):
        try:
            found.append(static_model.predict(gpu, ALGORITHMS[algorithm], variant, commit))
        except (CompileError, StructureError, UnplacedError) as error:
            refused[f"{algorithm} {variant}: {error}"].append(gpu.name)
    for what, on in refused.items():
        click.echo(f"not predicted {what} ({', '.join(on)})", err=True)
    return found


def _rows(results: Path) -> list[Row]:
    return [row for folder in found_machine_folders(results) for file in rows_files(folder) for row in read_rows(file)]


def _table(predictions: Sequence[Prediction]) -> Table:
    table = Table(
        title="predicted, not measured: GB/s of whole message blocks, limits of each part",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
    )
    for name in ("GPU", "architecture", "algorithm", "variant"):
        table.add_column(name)
    for name in ("instructions", "ALU", "FMA", "FP64", "issue", "memory", "predicted", "range"):
        table.add_column(name, justify="right")
    table.add_column("bound by")
    for p in predictions:
        of_each = (p.alu_gb_per_s, p.fma_gb_per_s, p.fp64_gb_per_s, p.issue_gb_per_s, p.memory_gb_per_s)
        exact = p.predicted_low == p.predicted_high
        table.add_row(
            p.gpu,
            f"{p.architecture} {p.compute_capability}",
            p.algorithm,
            p.variant,
            str(p.instructions),
            *("" if limit is None else str(limit) for limit in of_each),
            f"{p.predicted_gb_per_s:.4g}",
            "" if exact else f"{p.predicted_low:.4g} .. {p.predicted_high:.4g}",
            p.bound,
        )
    return table


def _checks_table(checked: Sequence[tuple[Prediction, Row]]) -> Table:
    table = Table(
        title=f"checked: predicted against measured by {static_model.KERNEL}, batched, 4 KiB chunks",
        box=box.SIMPLE_HEAD,
        header_style="bold",
        pad_edge=False,
    )
    for name in ("GPU", "algorithm", "variant"):
        table.add_column(name)
    for name in ("predicted GB/s", "measured GB/s", "error", "measured at"):
        table.add_column(name, justify="right")
    for prediction, row in checked:
        table.add_row(
            prediction.gpu,
            prediction.algorithm,
            prediction.variant,
            f"{prediction.predicted_gb_per_s:.4g}",
            f"{row.gb_per_s:.4g}",
            f"{100 * static_model.error(prediction, row):+.1f} %",
            row.commit,
        )
    return table
