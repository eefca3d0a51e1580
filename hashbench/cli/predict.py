"""The command `predict`: the throughput of GPUs, from their machine code alone."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import click
import pandas as pd
from rich.console import Console
from rich.progress import track

from hashbench.bench import machine
from hashbench.bench.frames import Line, Results, together
from hashbench.bench.records import check_writable
from hashbench.bench.results import ROWS, found_machine_folders, rows_files
from hashbench.bench.text_table import Columns, Table, print_table
from hashbench.cli.options import PATH
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.kernels.source import VARIANTS
from hashbench.limits import static_model
from hashbench.limits.architectures import UnplacedError
from hashbench.limits.gpus import GPU, gpu_named, gpus
from hashbench.limits.machine_code import CompileError, StructureError
from hashbench.limits.static_model import FORMAT, Prediction

_BY_DEFAULT = [variant for variant in VARIANTS if variant != "bytewise"]


@click.command()
@click.option("--gpu", "names", multiple=True, help="Predict only for this GPU. Repeatable.")
@click.option(
    "--algorithm",
    "algorithms",
    multiple=True,
    type=click.Choice(list(ALGORITHMS)),
    help="Predict only for this algorithm. Repeatable.",
)
@click.option(
    "--variant",
    "variants",
    multiple=True,
    type=click.Choice(list(VARIANTS)),
    help="Predict only for this variant of the device code. Repeatable. By default all but bytewise, which reads "
    "single bytes and cannot be counted.",
)
@click.option(
    "--results",
    type=PATH,
    default=Path("results"),
    show_default=True,
    help="The folder of results. Its rows check the predictions.",
)
def predict(names: Sequence[str], algorithms: Sequence[str], variants: Sequence[str], results: Path) -> None:
    """Predict the throughput of GPUs without running them.

    The device code is compiled for each GPU, and its instructions are counted. Predictions go to
    RESULTS/predictions.csv; those that a row of RESULTS checks are shown with their error. Requires no GPU, but the
    compilers of its vendor: NVRTC and nvdisasm, a clang for AMD's, or Intel's ocloc.
    """
    wanted = [gpu_named(name) for name in names] or list(gpus().values())
    check_writable(results)
    path = results / static_model.PREDICTIONS_FILE
    rows = _rows(results)
    partial = names or algorithms or variants
    kept = {p.point: p for p in FORMAT.read(path)} if partial and path.exists() else {}

    found = _predictions(wanted, algorithms or list(ALGORITHMS), variants or _BY_DEFAULT)
    if not found:
        raise ValueError("nothing was predicted: see the reasons above")
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
    cases = [
        (gpu, algorithm, variant)
        for gpu, algorithm, variant in product(wanted, algorithms, variants)
        if variant in static_model.toolchain(gpu).variants
    ]
    for gpu in wanted:
        if not set(variants) & set(own := static_model.toolchain(gpu).variants):
            refused[f"any of those variants: the different ones there are {', '.join(own)}"].append(gpu.name)
    quiet = not sys.stderr.isatty()
    for gpu, algorithm, variant in track(cases, "compile", console=Console(stderr=True), transient=True, disable=quiet):
        try:
            found.append(static_model.predict(gpu, ALGORITHMS[algorithm], variant, commit))
        except (CompileError, StructureError, UnplacedError) as error:
            refused[f"{algorithm} {variant}: {error}"].append(gpu.name)
        except Unavailable as error:
            refused[f"for {gpu.target}: {error}"].append(gpu.name)
    for what, on in refused.items():
        click.echo(f"not predicted {what} ({', '.join(dict.fromkeys(on))})", err=True)
    return found


def _rows(results: Path) -> pd.DataFrame:
    files = (file for folder in found_machine_folders(results) for file in rows_files(folder))
    return together(Results.of(ROWS.read(file)) for file in files).rows


def _table(predictions: Sequence[Prediction]) -> Table:
    columns: Columns = {
        "GPU": "gpu",
        "architecture": lambda prediction: f"{prediction.architecture} {prediction.target}",
        "algorithm": "algorithm",
        "variant": "variant",
        "instructions": ("instructions", str),
        **{name: (f"{name.lower()}_gb_per_s", str) for name in ("ALU", "FMA", "FP64", "issue", "memory")},
        "predicted": ("predicted_gb_per_s", "{:.4g}".format),
        "range": ("predicted_low", "predicted_high", _range),
        "bound by": "bound",
    }
    title = "predicted, not measured: GB/s of whole message blocks, and the limit of each part"
    return Table.of(predictions, columns, title)


def _range(low: float, high: float) -> str:
    return "" if low == high else f"{low:.4g} .. {high:.4g}"


def _checks_table(checked: Sequence[tuple[Prediction, Line]]) -> Table:
    columns: Columns = {
        "GPU": "prediction.gpu",
        "algorithm": "prediction.algorithm",
        "variant": "prediction.variant",
        "predicted GB/s": ("prediction.predicted_gb_per_s", "{:.4g}".format),
        "measured GB/s": ("row.gb_per_s", "{:.4g}".format),
        "error": ("error", lambda share: f"{100 * share:+.1f} %"),
        "measured at": ("row.commit", str),
    }
    pairs = [SimpleNamespace(prediction=one, row=row, error=static_model.error(one, row)) for one, row in checked]
    return Table.of(pairs, columns, "checked: predicted against measured, batched, 4 KiB chunks")
