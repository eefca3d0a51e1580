"""The figures of the committed results are legible in one column of a paper."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from drawings import check_legible
from matplotlib.figure import Figure

from hashbench.bench.experiment import experiments
from hashbench.bench.frames import read_machine
from hashbench.bench.results import experiment_names, found_machine_folders

RESULTS = Path(__file__).parents[2] / "results"
MEASURED = [(folder, name) for folder in found_machine_folders(RESULTS) for name in experiment_names(folder)]


@pytest.mark.thorough
@pytest.mark.parametrize(("folder", "name"), MEASURED, ids=[f"{folder.name}-{name}" for folder, name in MEASURED])
def test_the_figures_of_a_machine_are_legible(folder: Path, name: str, tmp_path: Path, figures: list[Figure]) -> None:
    experiments()[name].figure(read_machine(folder, name), tmp_path / name)
    assert figures
    for figure in figures:
        check_legible(figure)


DRAW = """if True:
    import sys
    from pathlib import Path
    from hashbench.bench.experiment import experiment_named
    from hashbench.bench.frames import read_machine
    name = "cpu-speedup"
    experiment_named(name).figure(read_machine(Path(sys.argv[1]), name), Path(sys.argv[2]))
"""


@pytest.mark.thorough
def test_a_figure_is_the_same_whatever_the_order_of_hashes(tmp_path: Path) -> None:
    """Of a figure whose layout differed with the two seeds."""
    for seed in "01":
        program = [sys.executable, "-c", DRAW, str(RESULTS / "nvidia-h100-80gb-hbm3"), str(tmp_path / seed)]
        subprocess.run(program, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    for suffix in (".png", ".pdf", ".svg"):
        first, second = ((tmp_path / seed).with_suffix(suffix).read_bytes() for seed in "01")
        assert first == second


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.svg")), ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_picture_is_small(path: Path) -> None:
    assert path.stat().st_size <= 150_000
