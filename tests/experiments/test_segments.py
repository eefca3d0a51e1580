"""The segments experiment: the same bytes in one buffer and in segments, and one segment alone."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawings import check_legible, said
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import row

from hashbench.bench.frames import Results
from hashbench.bench.results import Row
from hashbench.experiments.segments import EXPERIMENT
from hashbench.kernels import ALGORITHMS, Device

MiB = 1 << 20
COLUMNS = 2
H200, XEON = "NVIDIA H200", "Intel(R) Xeon(R) Processor"


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize(("kind", "count"), [("gpu", 1000), ("cpu", 100)])
def test_points_are_the_same_bytes_in_one_and_in_many_and_one_alone(kind: Any, count: int, quick: bool) -> None:
    device = Device("some", "0", "Some", kind=kind)
    points = list(EXPERIMENT.points(device, quick=quick))
    assert Counter((p.algorithm, p.lengths) for p in points) == Counter(
        (algorithm, lengths) for algorithm in ALGORITHMS for lengths in ((count * MiB,), (MiB,) * count, (MiB,))
    )
    assert {(p.device, p.strategy, p.chunk_size, p.variant) for p in points} == {(device, "tree", 4096, None)}


def lane(kernel: str, device: str, speed: float, kind: str = "gpu", **changes: Any) -> Iterator[Row]:
    """What one kernel on one device gives: segments cost 5 %, and a single one takes 150 and 200 microseconds."""
    count = {"gpu": 1000, "cpu": 100}[kind]
    for algorithm, of_speed in zip(ALGORITHMS, (speed, speed / 2), strict=True):
        facts = {
            "kernel": kernel,
            "device": device,
            "device_kind": kind,
            "device_name": H200 if kind == "gpu" else XEON,
            "algorithm": algorithm,
            **changes,
        }
        nbytes = count * MiB
        yield row(1e-9 * nbytes / of_speed, bytes=nbytes, **facts)
        yield row(1e-9 * nbytes / (0.95 * of_speed), bytes=nbytes, segments=count, **facts)
        wall = {f"wall_seconds_{name}": n * 1e-6 for name, n in (("median", 200), ("q1", 190), ("q3", 230))}
        yield row(150e-6, bytes=MiB, **facts, **wall)


def gpu() -> list[Row]:
    """Of a machine with one GPU."""
    kernels = (("cupy", "0", 868.0), ("numba-cuda", "0", 850.0), ("opencl", "0:0", 861.0))
    return [one for kernel in kernels for one in lane(*kernel)]


def cpu() -> list[Row]:
    """Of a machine with one CPU and two OpenCL drivers."""
    kernels = (
        ("hashlib", "1-thread", 1.02),
        ("hashlib", "128-threads", 81.0),
        ("dpnp", "opencl:cpu:0", 2.9),
        ("opencl", "0:0", 2.7),
        ("opencl", "1:0", 1.7),
    )
    return [one for kernel in kernels for one in lane(*kernel, kind="cpu")]


def drawn(figures: list[Figure], rows: list[Row]) -> Figure:
    """The figure that the experiment draws."""
    figures.clear()
    EXPERIMENT.figure(Results.of(rows), Path("segments"))
    (one,) = figures
    return one


def texts(panel: Axes) -> list[str]:
    return [text.get_text() for text in panel.texts]


def lanes(panel: Axes) -> list[str]:
    return [label.get_text() for label in panel.get_yticklabels()]


def test_a_gpu_gets_two_panels_an_algorithm(figures: list[Figure]) -> None:
    figure = drawn(figures, gpu())
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert [title.partition(":")[0] for title in titles] == ["SHA-256", "SHA-256", "SHA-384", "SHA-384"]
    assert lanes(figure.axes[0]) == ["numba-cuda 0", "opencl 0:0", "cupy 0"]  # the fastest is the highest
    speeds, seconds = figure.axes[:COLUMNS]
    assert texts(speeds)[-2:] == ["868", "825 (95.0%)"]
    assert texts(seconds) == ["150", "200"] * 3
    assert [panel.get_xscale() for panel in figure.axes] == ["linear"] * 4
    assert said(figure) == (
        "1,000 segments: 95.0% of the speed of one buffer, by cupy "
        f"Trees over segments of 1MiB (1,000 on the GPU) in chunks of 4KiB: {H200}"
    )


def test_kernels_far_apart_get_a_logarithmic_axis(figures: list[Figure]) -> None:
    figure = drawn(figures, gpu() + cpu())
    assert [panel.get_xscale() for panel in figure.axes] == ["log", "linear"] * 2
    assert "1,000 on the GPU, 100 on the CPU" in said(figure)
    assert f"{H200} and {XEON}" in said(figure)
    assert lanes(figure.axes[0])[-1] == "cupy 0"
    assert lanes(figure.axes[0])[0] == "hashlib 1-thread"
    assert "logarithmic" in figure.axes[2].get_xlabel()


@pytest.mark.parametrize("rows", [gpu(), cpu(), gpu() + cpu()], ids=["gpu", "cpu", "both"])
def test_it_is_legible(figures: list[Figure], rows: list[Row]) -> None:
    check_legible(drawn(figures, rows))


def test_of_each_shape_the_newest_row_is_drawn(figures: list[Figure]) -> None:
    old = [*lane("cupy", "0", 500.0, variant="older", date="2025-01-01T00:00:00Z")]
    half = [replace(r, bytes=500 * MiB) for r in old if r.bytes > MiB and r.segments == 1]  # what fitted that day
    for rows in (old + half + gpu(), gpu() + half + old):
        speeds = drawn(figures, rows).axes[0]
        assert texts(speeds)[-2:] == ["868", "825 (95.0%)"]
        assert len(lanes(speeds)) == 3


@pytest.mark.parametrize("missing", range(3))
def test_a_shape_may_be_missing(figures: list[Figure], missing: int) -> None:
    rows = [r for i, r in enumerate(lane("cupy", "0", 868.0)) if i % 3 != missing]
    speeds, seconds = drawn(figures, rows).axes[:COLUMNS]
    assert texts(speeds) == [["825"], ["868"], ["868", "825 (95.0%)"]][missing]
    assert texts(seconds) == [["150", "200"], ["150", "200"], []][missing]


def test_a_single_row_draws(tmp_path: Path) -> None:
    for i, one in enumerate(lane("cupy", "0", 868.0)):
        written = EXPERIMENT.figure(Results.of([one]), tmp_path / str(i))
        assert [path.suffix for path in written] == [".png", ".pdf", ".svg", ".csv"]


def test_without_rows_nothing_is_drawn(tmp_path: Path) -> None:
    assert EXPERIMENT.figure(Results.of(), tmp_path / "segments") == []


def test_the_table_has_every_shape(tmp_path: Path) -> None:
    with EXPERIMENT.figure(Results.of(gpu()), tmp_path / "segments")[-1].open() as file:
        lines = list(csv.DictReader(file))
    assert Counter(line["shape"] for line in lines) == {"one buffer": 6, "many segments": 6, "one segment": 6}
    alone = next(line for line in lines if line["shape"] == "one segment")
    assert [float(alone[f"{name}seconds_median"]) for name in ("", "wall_")] == pytest.approx([150e-6, 200e-6])
