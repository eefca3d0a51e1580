"""The throughput experiment: its points, and what its figures show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from drawings import check_legible
from matplotlib.figure import Figure
from rows import machine_rows

from hashbench.bench.frames import Results
from hashbench.experiments.throughput import EXPERIMENT
from hashbench.kernels import kernel_class


def test_the_short_form_is_part_of_the_full_one() -> None:
    for kind in ("gpu", "cpu"):
        device = replace(kernel_class("hashlib").devices()[0], kind=kind)
        quick = list(EXPERIMENT.points(device, quick=True))
        full = list(EXPERIMENT.points(device, quick=False))
        assert len(quick) == 4
        assert set(quick) < set(full)
        assert len(set(full)) == len(full)


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (5, 4), (16, 4)])
def test_any_part_of_a_sweep_draws(tmp_path: Path, figures: list[Figure], count: int, panels: int) -> None:
    written = EXPERIMENT.figure(Results.of(machine_rows()[:count]), tmp_path / "throughput")
    assert len(written[-1].read_text().splitlines()) == 1 + count
    check_legible(figures[0])
    assert len(figures[0].axes) == panels


def test_bars_are_on_a_logarithmic_axis_the_fastest_at_the_top(tmp_path: Path, figures: list[Figure]) -> None:
    EXPERIMENT.figure(Results.of(machine_rows()), tmp_path / "throughput")
    panel = figures[0].axes[0]
    assert panel.get_xscale() == "log"
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == ["hashlib, 1 thread", "hashlib, 2 threads", "opencl, GPU", "cupy, GPU"]
    assert {text.get_text() for text in panel.texts} == {"1", "2", "800", "900"}


def test_chunk_sizes_are_drawn_for_each_kind_of_device(tmp_path: Path, figures: list[Figure]) -> None:
    sizes = [replace(one, chunk_size=size) for one in machine_rows() for size in (1024, 4096, 65536)]
    drawn = EXPERIMENT.figure(Results.of(sizes), tmp_path / "throughput")
    assert [path.name for path in drawn if path.suffix == ".csv"] == [
        "throughput.csv",
        "throughput_by_chunk_size_gpu.csv",
        "throughput_by_chunk_size_cpu.csv",
    ]
    assert [len(path.read_text().splitlines()) for path in drawn if path.suffix == ".csv"] == [17, 25, 25]
    assert [len(figure.axes) for figure in figures] == [4, 4, 4]
    figures[1].draw_without_rendering()
