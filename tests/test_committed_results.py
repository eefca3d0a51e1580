"""Every results file that is committed can be read and says where it comes from; tables and report are of its rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from drawings import keep_figures

from hashbench.bench.comparison import check_comparable, disagreements
from hashbench.bench.experiment import experiments
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS
from hashbench.bench.results import FIGURES_FOLDER, MACHINE_FILE, ROWS, machine_folders, rows_files
from hashbench.cli.bench import figures
from hashbench.limits.static_model import FORMAT
from hashbench.report.page import build

RESULTS = Path(__file__).parent.parent / "results"
MACHINES = sorted(path.parent for path in RESULTS.glob(f"*/{MACHINE_FILE}"))


def test_there_are_machines() -> None:
    assert len(MACHINES) >= 2
    assert machine_folders(RESULTS) == MACHINES


@pytest.mark.parametrize("machine", MACHINES, ids=lambda path: str(path.name))
def test_a_machines_files_are_whole(machine: Path) -> None:
    description = json.loads((machine / MACHINE_FILE).read_text())
    assert description["cpu"]["name"]
    measured: set[str] = set()
    for path in sorted(machine.glob("*.csv")):
        name = path.name.removesuffix(READINGS.suffix).removesuffix(".csv")
        assert name in experiments(), f"{path}: there is no such experiment"
        measured.add(name)
        if path.name.endswith(READINGS.suffix):
            for reading in READINGS.read(path):
                assert reading.experiment == name
                assert reading.commit
                assert "dirty" not in reading.commit
        else:
            rows = ROWS.read(path)
            check_comparable(Results.of(rows).rows)
            for row in rows:
                assert row.experiment == name
                assert row.commit
                assert "dirty" not in row.commit
    figures = {path.stem.partition("_")[0] for path in (machine / FIGURES_FOLDER).glob("*.png")}  # NAME or NAME_part
    assert measured <= figures, "each experiment has its figure"


def test_one_input_has_one_digest_everywhere() -> None:
    """Across all kernels, devices and machines."""
    rows = [row for machine in MACHINES for path in rows_files(machine) for row in ROWS.read(path)]
    assert disagreements(Results.of(rows).rows) == []


def test_predictions_are_whole() -> None:
    predictions = FORMAT.read(RESULTS / "predictions.csv")
    assert {prediction.algorithm for prediction in predictions} == {"sha256", "sha384"}
    assert not any("dirty" in prediction.commit for prediction in predictions)


def test_the_tables_of_the_figures_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_figures(monkeypatch)
    drawn = tmp_path / "results"
    shutil.copytree(RESULTS, drawn, ignore=shutil.ignore_patterns(FIGURES_FOLDER))
    done = CliRunner().invoke(figures, ["--results", str(drawn)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    committed, now = (
        {path.relative_to(top): path.read_text() for path in top.rglob(f"{FIGURES_FOLDER}/*.csv")}
        for top in (RESULTS, drawn)
    )
    assert now.keys() == committed.keys(), "draw the figures again"
    assert [str(path) for path in now if now[path] != committed[path]] == [], "draw the figures again"


def test_the_report_is_that_of_the_rows() -> None:
    committed = (RESULTS / "report.html").read_text()
    same = build(RESULTS) == committed  # pytest would show where megabytes differ
    assert same, "write the report again"
