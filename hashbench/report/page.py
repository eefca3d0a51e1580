"""The report: one page with every claim, its verdict and the numbers behind it, computed from the results alone.

The page is one file that fetches nothing. Its figures are embedded, and its content security policy allows only its own
style sheet and the script that sorts tables; without that script the page is still complete. Links to CSV files are
relative to the results folder, where the page belongs. The same results give the same bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from hashbench.bench import measurement, output_check
from hashbench.bench.frames import Results, read_experiment, together
from hashbench.bench.readings import READINGS
from hashbench.bench.records import LeftOut, ResultsError, Tell
from hashbench.bench.results import (
    MACHINE_FILE,
    ROWS,
    experiment_names,
    figures_folder,
    machine_folders,
    read_description,
)
from hashbench.bench.text_table import Columns, Table, number
from hashbench.limits import static_model
from hashbench.limits.gpus import gpus
from hashbench.report.claims import CLAIMS, Claim
from hashbench.report.drawn_svg import read_drawn
from hashbench.report.findings import Finding, Verdict, algorithm_title

Facts = Sequence[tuple[str, str]]
"""Names and values."""


@dataclass(frozen=True)
class Picture:
    """A figure embedded in the page.

    Attributes:
        source: the SVG, as a data URI.
        alt: the text for readers who do not see it.
        caption: the text below it.
        data: link to its numbers as CSV; "" without them.
    """

    source: str
    alt: str
    caption: str
    data: str


@dataclass(frozen=True)
class Section:
    """A claim and everything the page says about it; `sources` are links to its rows and readings."""

    claim: Claim
    finding: Finding
    pictures: Sequence[Picture]
    sources: Sequence[str]


@dataclass(frozen=True)
class Measured:
    """What one machine measured for one experiment. The links are empty where the file does not exist."""

    experiment: str
    rows: int
    rows_file: str
    readings: int
    readings_file: str
    dates: str
    commits: str


@dataclass(frozen=True)
class Machine:
    """One machine and what was measured on it."""

    name: str
    facts: Facts
    measured: Sequence[Measured]


def build(results: Path, left_out: LeftOut | None = None) -> str:
    """Returns the page as HTML.

    Args:
        results: the results folder, with the figures that `hashbench figures` drew.
        left_out: is told of files and folders that cannot be used. The page lists them.

    Raises:
        ResultsError: there are no results.
    """
    left_out = left_out or LeftOut()
    folders = machine_folders(results, left_out)
    names = sorted({name for folder in folders for name in experiment_names(folder, left_out)})
    measured = {name: read_experiment(results, name, left_out) for name in names}
    sections = [_section(claim, measured, results, left_out) for claim in CLAIMS]
    machines = [_machine(folder, measured, results, left_out) for folder in folders]
    predictions = _predictions(results / static_model.PREDICTIONS_FILE, together(measured.values()).rows, left_out)
    verdicts = Counter(section.finding.verdict for section in sections)
    every = together(measured.values())
    style, script = _own("report.css"), _own("report.js")
    return _template().render(
        zip=zip,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}",
        sections=sections,
        verdicts=[(verdict, verdicts[verdict]) for verdict in Verdict if verdicts[verdict]],
        machines=machines,
        left_out=left_out.lines,
        rows=len(every.rows),
        readings=len(every.readings),
        predictions=predictions,
        protocol=measurement,
        output_check=output_check,
        commits=sorted(set(every.rows["commit"])),
        commands=_commands(),
    )


@cache
def _template() -> Template:
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    ).from_string(_own("report.html"))


def _own(name: str) -> str:
    """The text of a file of this package."""
    return (files("hashbench.report") / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """A content security policy's name for an inline style sheet or script."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def _link(path: Path, results: Path) -> str:
    """A link from the results folder to a file in it; "" where there is no such file."""
    return quote(path.relative_to(results).as_posix()) if path.is_file() and not path.is_symlink() else ""


def _section(claim: Claim, measured: Mapping[str, Results], results: Path, tell: Tell) -> Section:
    finding = claim.finding(measured)
    if not claim.experiment:
        return Section(claim, finding, (), ())
    places = [results / name for name in finding.machines]
    paths = [form.path(place, claim.experiment) for place in places for form in (ROWS, READINGS)]
    sources = [link for link in (_link(path, results) for path in paths) if link]
    return Section(claim, finding, list(_pictures(claim, finding, results, tell)), sources)


def _pictures(claim: Claim, finding: Finding, results: Path, tell: Tell) -> Iterator[Picture]:
    """The experiment's figures over all machines; without one, those of each machine that the verdict rests on."""
    of_machines = [
        picture for name in finding.machines for picture in _pictures_in(results / name, claim, name, results, tell)
    ]
    yield from list(_pictures_in(results, claim, "all machines", results, tell)) or of_machines


def _pictures_in(folder: Path, claim: Claim, where: str, results: Path, tell: Tell) -> Iterator[Picture]:
    try:
        figures = figures_folder(folder)
    except ResultsError as problem:
        tell(problem)
        return
    for path in sorted([*figures.glob(f"{claim.experiment}.svg"), *figures.glob(f"{claim.experiment}_*.svg")]):
        try:
            drawn = read_drawn(path)
        except ResultsError as problem:
            tell(problem)
            continue
        part = path.stem.removeprefix(claim.experiment).replace("_", " ").strip()
        title = ", ".join(filter(None, (claim.name, where, part)))
        yield Picture(
            source=f"data:image/svg+xml;base64,{b64encode(drawn).decode()}",
            alt=f"Figure for {title}. {claim.shows} The numbers are in this claim's table.",
            caption=f"{title}. {claim.shows}",
            data=_link(path.with_suffix(".csv"), results),
        )


# Machines ------------------------------------------------------------------------------------------------------------


def _machine(folder: Path, measured: Mapping[str, Results], results: Path, tell: Tell) -> Machine:
    lines = [
        Measured(
            experiment=name,
            rows=len(rows),
            rows_file=_link(ROWS.path(folder, name), results),
            readings=len(readings),
            readings_file=_link(READINGS.path(folder, name), results),
            dates=_dates([*rows["date"], *readings["date"]]),
            commits=", ".join(sorted({*rows["commit"], *readings["commit"]})),
        )
        for name, found in measured.items()
        for rows, readings in [[part[part["machine"] == folder.name] for part in (found.rows, found.readings)]]
        if len(rows) or len(readings)
    ]
    try:
        facts = _facts(read_description(folder))
    except ResultsError as problem:
        tell(problem)
        facts = []
    except (ArithmeticError, AttributeError, TypeError, ValueError):  # of a value of a kind that is not expected there
        tell(ResultsError(f"{folder / MACHINE_FILE} is not a machine's description, as `hashbench bench` writes it"))
        facts = []
    return Machine(folder.name, facts, lines)


def _facts(description: Mapping[str, Any]) -> Facts:
    """What a reader wants to know about a machine, leaving out what its description lacks."""
    cpu = description.get("cpu", {})
    facts = [
        ("processor", _processor(cpu)),
        ("cores", _cores(cpu)),
        ("SHA instructions", ", ".join(cpu.get("sha_instructions", ())) or "none"),
        ("vector instructions", ", ".join(cpu.get("vector_instructions", ())) or "none"),
        ("memory", _gigabytes(description.get("memory_bytes"))),
        *(fact for gpu in description.get("gpus", ()) for fact in _gpu_facts(gpu)),
        ("system", description.get("os")),
        ("Python", description.get("python")),
        ("packages", ", ".join(f"{name} {version}" for name, version in description.get("packages", {}).items())),
    ]
    return [(name, str(value)) for name, value in facts if value]


def _processor(cpu: Mapping[str, Any]) -> str | None:
    """Its name, and what tells it from others of that name."""
    parts = [f"{part} {cpu[part]}" for part in ("family", "model", "stepping") if cpu.get(part) is not None]
    name = cpu.get("name")
    return f"{name} ({', '.join(parts)})" if name and parts else name


def _cores(cpu: Mapping[str, Any]) -> str | None:
    physical, logical = cpu.get("physical_cores"), cpu.get("logical_cores")
    if not physical or physical == logical:
        return str(logical) if logical else None
    return f"{physical} ({logical} threads)"


def _gpu_facts(gpu: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "GPU", gpu.get("name")
    yield "GPU memory", _gigabytes(gpu.get("memory_bytes"))
    yield "GPU driver", gpu.get("driver")
    capability = gpu.get("compute_capability")
    yield "compute capability", ".".join(map(str, capability)) if capability else None
    for name, key, unit in (
        ("maximum SM clock", "sm_clock_max", "MHz"),
        ("maximum memory clock", "memory_clock_max", "MHz"),
        ("power limit", "power_limit", "W"),
    ):
        yield name, f"{gpu[key]:g} {unit}" if gpu.get(key) else None


def _gigabytes(nbytes: int | None) -> str | None:
    return f"{number(1e-9 * nbytes)} GB" if nbytes else None


def _dates(dates: Iterable[str]) -> str:
    days = sorted({date.partition("T")[0] for date in dates})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


# Predictions ---------------------------------------------------------------------------------------------------------


def _predictions(path: Path, rows: pd.DataFrame, tell: Tell) -> Table | None:
    """The predictions for the default variant, and in separate columns the rows that check them; None without any."""
    try:
        predictions = static_model.FORMAT.file(path).records
    except ResultsError as problem:
        tell(problem)
        return None
    known = gpus()
    found = [p for p in predictions if p.gpu in known and p.variant == static_model.toolchain(known[p.gpu]).variants[0]]
    checks = {
        prediction.point: {"measured": row.gb_per_s, "error": static_model.error(prediction, row)}
        for prediction, row in static_model.checks(found, known, rows)
    }
    unchecked = dict.fromkeys(("measured", "error"))
    shown = [
        SimpleNamespace(of=prediction, **checks.get(prediction.point, unchecked))
        for prediction in found
        if prediction.predicted_gb_per_s is not None
    ]
    columns: Columns = {
        "GPU": "of.gpu",
        "architecture": "of.architecture",
        "algorithm": lambda line: algorithm_title(line.of),
        "variant": "of.variant",
        "predicted, GB/s": ("of.predicted_gb_per_s", number),
        "bound by": "of.bound",
        "measured, GB/s": ("measured", number),
        "prediction error": ("error", "{:+.1%}".format),
    }
    return Table.of(shown, columns) if shown else None


# Reproduction --------------------------------------------------------------------------------------------------------


def _commands() -> list[str]:
    """The command for each claim's experiment, then those that draw the figures and write the page."""
    names = [claim.experiment for claim in CLAIMS if claim.experiment]
    return [*(f"hashbench bench {name}" for name in names), "hashbench figures", "hashbench report"]
