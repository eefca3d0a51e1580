"""The batched-vs-tree experiment: what the tree costs over chunk sizes, and how long a small tensor takes."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import check_legible, said
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from rows import row

from hashbench.bench import measurement
from hashbench.bench.experiment import plan, run
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS
from hashbench.bench.results import ROWS, Row
from hashbench.experiments import batched_vs_tree
from hashbench.experiments.batched_vs_tree import EXPERIMENT
from hashbench.kernels import ALGORITHMS, Device, kernel_class

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
CHUNK_SIZES = [256 * 4**i for i in range(7)]
TENSORS = [4 * KiB, 64 * KiB, MiB, 16 * MiB]
TENSOR_CHUNK_SIZES = [256, KiB, 4 * KiB, 16 * KiB]
H200, XEON = "NVIDIA H200", "Intel(R) Xeon(R) Processor"
COLUMNS = 3


@pytest.mark.parametrize(
    ("quick", "chunk_sizes", "tensor_chunk_sizes"),
    [(False, CHUNK_SIZES, TENSOR_CHUNK_SIZES), (True, [KiB, 4 * KiB, 64 * KiB], [4 * KiB])],
)
@pytest.mark.parametrize(("kind", "size"), [("gpu", 8 * GiB), ("cpu", 128 * MiB)])
def test_points_are_three_strategies_over_chunk_sizes_and_small_trees(
    kind: Any, size: int, quick: bool, chunk_sizes: list[int], tensor_chunk_sizes: list[int]
) -> None:
    device = Device("some", "0", "Some", kind=kind)
    points = list(EXPERIMENT.points(device, quick=quick))
    large = Counter(
        (algorithm, strategy, size, chunk_size)
        for algorithm in ALGORITHMS
        for strategy in ("batched", "leaves", "tree")
        for chunk_size in chunk_sizes
    )
    small = Counter(
        (algorithm, "tree", tensor, chunk_size)
        for algorithm in ALGORITHMS
        for tensor in TENSORS
        for chunk_size in tensor_chunk_sizes
    )
    assert Counter((p.algorithm, p.strategy, p.nbytes, p.chunk_size) for p in points) == large + small
    assert {(p.device, len(p.lengths), p.variant) for p in points} == {(device, 1, None)}


def test_every_point_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched_vs_tree, "SIZE", {"gpu": 2 * MiB, "cpu": 2 * MiB})
    monkeypatch.setattr(batched_vs_tree, "TENSORS", (4 * KiB, 64 * KiB))
    monkeypatch.setattr(measurement, "WORKING_SET", 1)
    monkeypatch.setattr(measurement, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "BUDGET_SECONDS", 0.0)
    done = run(
        EXPERIMENT,
        plan(EXPERIMENT, kernel_class("hashlib").devices()[:1], list(ALGORITHMS), quick=True),
        iter(()),
        ROWS.file(tmp_path / "batched-vs-tree.csv"),
        READINGS.file(tmp_path / "batched-vs-tree.readings.csv"),
        "c0ffee",
    )
    assert len(done.rows) == len(done.outcomes) == 2 * (3 * 3 + 2)
    assert {r.verified for r in done.rows} == {"all"}
    assert len(EXPERIMENT.figure(Results.of(done.rows), tmp_path / "batched-vs-tree")) == 4


def lane(kernel: str, device: str, speed: float, kind: str = "gpu", **changes: Any) -> Iterator[Row]:
    """What one kernel on one device gives: leaves cost 1 %, the tree 512 bytes a chunk, and it is best at 64 KiB."""
    size = {"gpu": 8 * GiB, "cpu": 128 * MiB}[kind]
    for algorithm, of_speed in zip(ALGORITHMS, (speed, speed / 2), strict=True):
        facts: dict[str, Any] = {"kernel": kernel, "device": device, "device_kind": kind, "algorithm": algorithm}
        facts |= {"device_name": H200 if kind == "gpu" else XEON, **changes}
        for chunk_size in CHUNK_SIZES:
            seconds = 1e-9 * size / of_speed * (1 if chunk_size <= 64 * KiB else 1.5)
            for strategy, cost in (("batched", 0.0), ("leaves", 0.01), ("tree", 512 / chunk_size)):
                timed = seconds * (1 + cost)
                yield row(timed, 0.002, strategy=strategy, bytes=size, chunk_size=chunk_size, **facts)
        for tensor in TENSORS:
            for chunk_size in TENSOR_CHUNK_SIZES:
                seconds = 1e-9 * (chunk_size + tensor / 1000)
                wall = {
                    f"wall_seconds_{name}": seconds + n * 1e-6 for name, n in (("median", 10), ("q1", 9), ("q3", 14))
                }
                yield row(seconds, bytes=tensor, chunk_size=chunk_size, **facts, **wall)


def gpu() -> list[Row]:
    return [*lane("numba-cuda", "0", 900.0), *lane("cupy", "0", 950.0)]


def cpu() -> list[Row]:
    return [*lane("hashlib", "1-thread", 0.9, "cpu"), *lane("dpnp", "opencl:cpu:0", 2.5, "cpu")]


def drawn(figures: list[Figure], rows: list[Row], path: Path) -> Figure:
    """The only figure that the experiment draws."""
    EXPERIMENT.figure(Results.of(rows), path / "batched-vs-tree")
    (figure,) = figures
    return figure


def lines(panel: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each line of a panel, by its name in the legend."""
    found = {}
    for bars in panel.containers:
        assert isinstance(bars, ErrorbarContainer)
        data, *_ = bars.lines
        found[str(bars.get_label())] = [(x, y) for x, y in np.asarray(data.get_xydata()).tolist()]
    return found


def test_the_fastest_kernel_is_drawn_over_chunk_sizes(figures: list[Figure], tmp_path: Path) -> None:
    figure = drawn(figures, gpu(), tmp_path)
    speed = figure.axes[0]
    of = lines(speed)
    assert list(of) == ["batched", "leaves", "tree"]
    for points in of.values():
        assert [size for size, _ in points] == CHUNK_SIZES
    assert of["batched"][0][1] == pytest.approx(950)
    assert of["tree"][0][1] == pytest.approx(950 / 3)
    assert speed.texts[0].get_text() == "tree's best: 943 GB/s\nin 64KiB chunks"
    assert said(figure).endswith(f"8GiB in one buffer, and trees of small tensors: cupy, GPU: {H200}")
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert [title.partition(",")[0] for title in titles] == ["SHA-256", "SHA-384"] * 3
    check_legible(figure)


def test_the_cost_is_what_the_tree_adds_to_batched(figures: list[Figure], tmp_path: Path) -> None:
    figure = drawn(figures, gpu(), tmp_path)
    cost = figure.axes[2]
    of = lines(cost)
    assert list(of) == ["leaves", "tree"]
    assert [value for _, value in of["tree"]] == pytest.approx([100 * 512 / size for size in CHUNK_SIZES])
    assert [value for _, value in of["leaves"]] == pytest.approx([1.0] * len(CHUNK_SIZES))
    assert [text.get_text() for text in cost.texts] == ["0.8% where it is\nfastest, at 64KiB"]


def test_the_latency_of_small_tensors_is_the_walls(figures: list[Figure], tmp_path: Path) -> None:
    figure = drawn(figures, gpu(), tmp_path)
    latency = figure.axes[4]
    of = lines(latency)
    assert list(of) == [f"tree, {size} chunks" for size in ("256B", "1KiB", "4KiB", "16KiB")]
    expected = [10 + 1e-3 * (256 + tensor / 1000) for tensor in TENSORS]
    assert [micros for _, micros in of["tree, 256B chunks"]] == pytest.approx(expected)
    assert (latency.get_xscale(), latency.get_yscale()) == ("log", "log")


def test_each_kind_of_device_has_its_figure(figures: list[Figure], tmp_path: Path) -> None:
    written = EXPERIMENT.figure(Results.of(cpu() + gpu()), tmp_path / "batched-vs-tree")
    devices = [said(figure).partition(" tensors: ")[2] for figure in figures]
    assert devices == [f"cupy, GPU: {H200}", f"dpnp, CPU: {XEON}"]
    assert [path.stem for path in written if path.suffix == ".csv"] == ["batched-vs-tree", "batched-vs-tree_cpu"]
    alone = EXPERIMENT.figure(Results.of(cpu()), tmp_path / "alone")
    assert [path.name for path in alone] == ["alone.png", "alone.pdf", "alone.svg", "alone.csv"]


def test_a_kernel_with_fewer_points_is_not_drawn_for_being_faster(figures: list[Figure], tmp_path: Path) -> None:
    few = [r for r in lane("cupy", "0", 990.0, variant="older") if r.chunk_size == 4 * KiB]
    figure = drawn(figures, gpu() + few, tmp_path)
    assert lines(figure.axes[0])["batched"][0][1] == pytest.approx(950)


@pytest.mark.parametrize("part", [slice(0, 1), slice(2, 3), slice(21, 22)], ids=["batched", "tree", "tensor"])
def test_one_row_draws(tmp_path: Path, part: slice) -> None:
    assert len(EXPERIMENT.figure(Results.of([*lane("cupy", "0", 950.0)][part]), tmp_path / "one")) == 4


def test_without_rows_nothing_is_drawn(tmp_path: Path) -> None:
    assert EXPERIMENT.figure(Results.of(), tmp_path / "none") == []


def test_the_table_has_every_kernel(tmp_path: Path) -> None:
    with EXPERIMENT.figure(Results.of(gpu()), tmp_path / "batched-vs-tree")[-1].open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == len(gpu())
    for line in cells:
        over = {"batched": 1.0, "leaves": 1.01, "tree": 1 + 512 / int(line["chunk_size"])}[line["strategy"]]
        small = int(line["bytes"]) in TENSORS
        assert (
            line["seconds_over_batched"] == ""
            if small
            else float(line["seconds_over_batched"]) == pytest.approx(over, abs=1e-4)
        )
