"""Every results file that is committed can be read and says where it comes from; tables and report are of its rows."""

from __future__ import annotations

import json
import shutil
import subprocess
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

ROOT = Path(__file__).parent.parent


def committed() -> list[str]:
    """The paths of the results that are committed or staged; of all, if this is no checkout."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = b""
    names = listed.decode().split("\0")[:-1]
    return names or [str(path.relative_to(ROOT)) for path in ROOT.glob("results/**/*") if path.is_file()]


MACHINES = sorted(Path(name).parent.name for name in committed() if Path(name).name == MACHINE_FILE)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results that are committed or staged: what `make bench` wrote here since is nobody's claim."""
    folder = tmp_path_factory.mktemp("committed")
    export = ["git", "checkout-index", "-z", "--stdin", f"--prefix={folder}/"]
    try:
        subprocess.run(export, cwd=ROOT, input="\0".join(committed()).encode(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(ROOT / "results", folder / "results")
    return folder / "results"


def test_there_are_machines(results: Path) -> None:
    assert len(MACHINES) >= 2
    assert [path.name for path in machine_folders(results)] == MACHINES


@pytest.mark.parametrize("name", MACHINES)
def test_a_machines_files_are_whole(results: Path, name: str) -> None:
    machine = results / name
    description = json.loads((machine / MACHINE_FILE).read_text())
    assert description["cpu"]["name"]
    measured: set[str] = set()
    for path in sorted(machine.glob("*.csv")):
        experiment = path.name.removesuffix(READINGS.suffix).removesuffix(".csv")
        assert experiment in experiments(), f"{path}: there is no such experiment"
        measured.add(experiment)
        if path.name.endswith(READINGS.suffix):
            for reading in READINGS.read(path):
                assert reading.experiment == experiment
                assert reading.commit
                assert "dirty" not in reading.commit
        else:
            rows = ROWS.read(path)
            check_comparable(Results.of(rows).rows)
            for row in rows:
                assert row.experiment == experiment
                assert row.commit
                assert "dirty" not in row.commit
    figures = {path.stem.partition("_")[0] for path in (machine / FIGURES_FOLDER).glob("*.png")}  # NAME or NAME_part
    assert measured <= figures, "each experiment has its figure"


def test_one_input_has_one_digest_everywhere(results: Path) -> None:
    """Across all kernels, devices and machines."""
    rows = [row for machine in machine_folders(results) for path in rows_files(machine) for row in ROWS.read(path)]
    assert disagreements(Results.of(rows).rows) == []


def test_predictions_are_whole(results: Path) -> None:
    predictions = FORMAT.read(results / "predictions.csv")
    assert {prediction.algorithm for prediction in predictions} == {"sha256", "sha384"}
    assert not any("dirty" in prediction.commit for prediction in predictions)


def test_the_tables_of_the_figures_are_those_of_the_rows(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_figures(monkeypatch)
    drawn = tmp_path / "results"
    shutil.copytree(results, drawn, ignore=shutil.ignore_patterns(FIGURES_FOLDER))
    done = CliRunner().invoke(figures, ["--results", str(drawn)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    before, now = (
        {path.relative_to(top): path.read_text() for path in top.rglob(f"{FIGURES_FOLDER}/*.csv")}
        for top in (results, drawn)
    )
    assert now.keys() == before.keys(), "draw the figures again"
    assert [str(path) for path in now if now[path] != before[path]] == [], "draw the figures again"


def test_the_report_is_that_of_the_rows(results: Path) -> None:
    same = build(results) == (results / "report.html").read_text()  # pytest would show where megabytes differ
    assert same, "write the report again"
