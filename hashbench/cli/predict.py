"""The command `predict`: the throughput of GPUs, from their machine code alone."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import click
import pandas as pd
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hashbench.bench import machine
from hashbench.bench.frames import Line, Results, together
from hashbench.bench.records import check_writable
from hashbench.bench.results import ROWS, found_machine_folders, rows_files
from hashbench.bench.tables import print_table, text_table
from hashbench.cli.options import PATH
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.kernels.source import VARIANTS
from hashbench.limits import static_model
from hashbench.limits.architectures import UnplacedError
from hashbench.limits.gpus import GPU, gpu_named, gpus
from hashbench.limits.machine_code import CompileError, StructureError
from hashbench.limits.static_model import FORMAT, Prediction


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
    help="Predict only for this variant of the device code. Repeatable.",
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

    found = _predictions(wanted, algorithms or list(ALGORITHMS), variants or list(VARIANTS))
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
    numbers = {
        "instructions": [str(p.instructions) for p in predictions],
        **{
            name: ["" if (limit := getattr(p, column)) is None else str(limit) for p in predictions]
            for name, column in _LIMITS.items()
        },
        "predicted": ["" if p.predicted_gb_per_s is None else f"{p.predicted_gb_per_s:.4g}" for p in predictions],
        "range": [_range(p) for p in predictions],
    }
    columns = {
        "GPU": [p.gpu for p in predictions],
        "architecture": [f"{p.architecture} {p.target}" for p in predictions],
        "algorithm": [p.algorithm for p in predictions],
        "variant": [p.variant for p in predictions],
        **numbers,
        "bound by": [p.bound for p in predictions],
    }
    return text_table(
        columns, numbers, "predicted, not measured: GB/s of whole message blocks, and the limit of each part"
    )


_LIMITS = {
    "ALU": "alu_gb_per_s",
    "FMA": "fma_gb_per_s",
    "FP64": "fp64_gb_per_s",
    "issue": "issue_gb_per_s",
    "memory": "memory_gb_per_s",
}


def _range(prediction: Prediction) -> str:
    if prediction.spread is None:
        return ""
    low, _, high = prediction.spread
    return "" if low == high else f"{low:.4g} .. {high:.4g}"


def _checks_table(checked: Sequence[tuple[Prediction, Line]]) -> Table:
    numbers = {
        "predicted GB/s": [f"{prediction.predicted_gb_per_s:.4g}" for prediction, _ in checked],
        "measured GB/s": [f"{row.gb_per_s:.4g}" for _, row in checked],
        "error": [f"{100 * static_model.error(*pair):+.1f} %" for pair in checked],
        "measured at": [row.commit for _, row in checked],
    }
    facts = {
        "GPU": [prediction.gpu for prediction, _ in checked],
        "algorithm": [prediction.algorithm for prediction, _ in checked],
        "variant": [prediction.variant for prediction, _ in checked],
    }
    title = "checked: predicted against measured, batched, 4 KiB chunks"
    return text_table({**facts, **numbers}, numbers, title)
