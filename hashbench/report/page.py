"""The report: one page with every claim, its verdict and what it rests on, made from the results alone.

It is one file that needs nothing else: figures are inside, there are no scripts, and nothing is fetched. The same
results give the same bytes.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from hashbench.bench import measurement, verification
from hashbench.bench.experiment import machines_with
from hashbench.bench.records import ResultsError
from hashbench.bench.results import FIGURES_FOLDER, MACHINE_FILE, Row, experiment_names, machine_folders
from hashbench.kernels import ALGORITHMS
from hashbench.kernels.source import VARIANTS
from hashbench.limits import static_model
from hashbench.limits.architectures import ISSUE
from hashbench.limits.gpus import gpus
from hashbench.report.claims import CLAIMS, Claim, Results
from hashbench.report.findings import Finding, Table, Verdict, number

TEMPLATE = "report.html"

Facts = Sequence[tuple[str, str]]
"""Names and values."""


@dataclass(frozen=True)
class Picture:
    """A figure inside the page.

    Attributes:
        source: the PNG, as a data URI.
        alt: what stands for it where it is not seen.
        caption: under it.
    """

    source: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A claim, and all that the page says of it."""

    claim: Claim
    finding: Finding
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Machine:
    """One machine, and what was measured on it: a line an experiment."""

    name: str
    facts: Facts
    measured: Table


def build(results: Path) -> str:
    """The page, as HTML.

    Args:
        results: the folder of results, with the figures that `hashbench figures` drew.

    Raises:
        ResultsError: there are no results, or a file cannot be used.
    """
    folders = machine_folders(results)
    names = sorted({name for folder in folders for name in experiment_names(folder)})
    measured = {name: machines_with(results, name) for name in names}
    sections = [_section(claim, measured, results) for claim in CLAIMS]
    verdicts = Counter(section.finding.verdict for section in sections)
    every = [machine for machines in measured.values() for machine in machines]
    rows = [row for machine in every for row in machine.rows]
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).from_string((files("hashbench.report") / TEMPLATE).read_text())
    return template.render(
        zip=zip,
        sections=sections,
        verdicts=[(verdict, verdicts[verdict]) for verdict in Verdict if verdicts[verdict]],
        machines=[_machine(folder, measured) for folder in folders],
        rows=len(rows),
        readings=sum(len(machine.readings) for machine in every),
        predictions=_predictions(results / static_model.PREDICTIONS_FILE, rows),
        protocol=measurement,
        verification=verification,
        commits=sorted({row.commit for row in rows}),
        commands=_commands(),
    )


def _section(claim: Claim, measured: Results, results: Path) -> Section:
    finding = claim.finding(measured)
    return Section(claim, finding, list(_pictures(claim, finding, results)) if claim.experiment else [])


def _pictures(claim: Claim, finding: Finding, results: Path) -> Iterator[Picture]:
    """The experiment's figures over all machines, or else those of each machine that the verdict rests on."""
    of_machines = [picture for name in finding.machines for picture in _pictures_in(results / name, claim, name)]
    yield from list(_pictures_in(results, claim, "all machines")) or of_machines


def _pictures_in(folder: Path, claim: Claim, where: str) -> Iterator[Picture]:
    figures = folder / FIGURES_FOLDER
    for path in [figures / f"{claim.experiment}.png", *sorted(figures.glob(f"{claim.experiment}_*.png"))]:
        if not path.exists():
            continue
        part = path.stem.removeprefix(claim.experiment).replace("_", " ").strip()
        title = ", ".join(filter(None, (claim.name, where, part)))
        yield Picture(
            source=f"data:image/png;base64,{b64encode(_read(path)).decode()}",
            alt=f"Figure of {title}. {claim.shows} The numbers are in the table of this claim.",
            caption=f"{title}. {claim.shows}",
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from None


# Machines ------------------------------------------------------------------------------------------------------------


def _machine(folder: Path, measured: Results) -> Machine:
    lines = [
        (
            name,
            f"{len(machine.rows):,}",
            f"{len(machine.readings):,}",
            _dates([*(row.date for row in machine.rows), *(reading.date for reading in machine.readings)]),
            ", ".join(sorted({*(row.commit for row in machine.rows), *(r.commit for r in machine.readings)})),
        )
        for name, machines in measured.items()
        for machine in machines
        if machine.name == folder.name
    ]
    columns = ("experiment", "rows", "readings", "measured on", "code at commit")
    facts = _facts(_description(folder / MACHINE_FILE))
    return Machine(folder.name, facts, Table(columns, frozenset(("rows", "readings")), tuple(lines)))


def _description(path: Path) -> Mapping[str, Any]:
    text = _read(path)
    try:
        description = json.loads(text)
    except ValueError:
        raise ResultsError(f"{path} is no JSON; accepted is what `hashbench bench` writes") from None
    if not isinstance(description, dict):
        raise ResultsError(f"{path} is no JSON object; accepted is what `hashbench bench` writes")
    return description


def _facts(description: Mapping[str, Any]) -> Facts:
    """What a reader wants to know of a machine; what its description does not have is left out."""
    cpu = description.get("cpu", {})
    facts = [
        ("processor", cpu.get("name")),
        ("cores", _cores(cpu)),
        ("SHA instructions", ", ".join(cpu.get("sha_instructions", ())) or "none"),
        ("memory", _gigabytes(description.get("memory_bytes"))),
        *(fact for gpu in description.get("gpus", ()) for fact in _gpu_facts(gpu)),
        ("system", description.get("os")),
        ("Python", description.get("python")),
        ("packages", ", ".join(f"{name} {version}" for name, version in description.get("packages", {}).items())),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _cores(cpu: Mapping[str, Any]) -> str | None:
    physical, logical = cpu.get("physical_cores"), cpu.get("logical_cores")
    if not physical or physical == logical:
        return str(logical) if logical else None
    return f"{physical}, of {logical} threads"


def _gpu_facts(gpu: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "GPU", gpu.get("name")
    yield "GPU memory", _gigabytes(gpu.get("memory_bytes"))
    yield "GPU driver", gpu.get("driver")
    capability = gpu.get("compute_capability")
    yield "compute capability", ".".join(map(str, capability)) if capability else None
    for name, key, unit in (
        ("highest clock of multiprocessors", "sm_clock_max", "MHz"),
        ("highest clock of memory", "memory_clock_max", "MHz"),
        ("power limit", "power_limit", "W"),
    ):
        yield name, f"{gpu[key]:g} {unit}" if gpu.get(key) else None


def _gigabytes(nbytes: int | None) -> str | None:
    return f"{number(1e-9 * nbytes)} GB" if nbytes else None


def _dates(dates: Iterable[str]) -> str:
    days = sorted({date.partition("T")[0] for date in dates})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


# Predictions ---------------------------------------------------------------------------------------------------------


def _predictions(path: Path, rows: Sequence[Row]) -> Table | None:
    """What is predicted of the device code's default variant, and the rows that check it, in columns apart; None where
    nothing is predicted."""
    if not path.exists():
        return None
    default, known = next(iter(VARIANTS)), gpus()
    found = [p for p in static_model.FORMAT.read(path) if p.variant == default and p.gpu in known]
    checks = {prediction.point: row for prediction, row in static_model.checks(found, known, rows)}
    lines = [
        (
            prediction.gpu,
            prediction.architecture,
            ALGORITHMS[prediction.algorithm].title,
            prediction.variant,
            number(prediction.predicted_gb_per_s),
            _bound(prediction.bound),
            number(row.gb_per_s) if row else "",
            f"{static_model.error(prediction, row):+.1%}" if row else "",
        )
        for prediction in found
        for row in [checks.get(prediction.point)]
    ]
    columns = ("GPU", "architecture", "algorithm", "variant", _PREDICTED, "bound by", _MEASURED, _ERROR)
    return Table(columns, frozenset((_PREDICTED, _MEASURED, _ERROR)), tuple(lines)) if lines else None


def _bound(name: str) -> str:
    return name if name in (ISSUE, static_model.MEMORY) else name.upper()


_PREDICTED, _MEASURED, _ERROR = "predicted, GB/s", "measured, GB/s", "prediction's error"


# Reproduction --------------------------------------------------------------------------------------------------------


def _commands() -> list[str]:
    """The command for each claim's experiment, and those that draw and write."""
    names = [claim.experiment for claim in CLAIMS if claim.experiment]
    return [*(f"hashbench bench {name}" for name in names), "hashbench figures", "hashbench report"]
