"""The model-sizes experiment: every model's trees, and the memory beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawings import check_legible, said
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rows import READING, row

from hashbench.bench import measurement
from hashbench.bench.experiment import Point, Skip, plan, run
from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import ROWS, Row
from hashbench.experiments import model_sizes
from hashbench.experiments.device_memory import Peak
from hashbench.experiments.model_sizes import EXPERIMENT, PEAK_MEMORY
from hashbench.kernels import ALGORITHMS, Device, Unavailable, kernel_class

KiB, GiB = 1 << 10, 1 << 30
H200, XEON = "NVIDIA H200", "Intel(R) Xeon(R) Processor"
GPU = Device("cupy", "0", H200, "NVIDIA", "gpu")
CPU = Device("hashlib", "1-thread", XEON, "host", "cpu")


def points(device: Device, *, quick: bool) -> list[Point]:
    return [entry for entry in EXPERIMENT.points(device, quick=quick) if isinstance(entry, Point)]


def skips(device: Device, *, quick: bool) -> list[Skip]:
    return [entry for entry in EXPERIMENT.points(device, quick=quick) if isinstance(entry, Skip)]


def test_a_gpu_gets_every_model_and_the_large_ones_in_larger_chunks_too() -> None:
    found = [(p.model, p.algorithm, p.chunk_size) for p in points(GPU, quick=False)]
    large = {"qwen2.5-32b", "mixtral-8x7b", "llama-3.1-70b", "llama-3.1-405b"}
    assert len(found) == len(set(found))
    assert set(found) == {(name, algorithm, 4 * KiB) for name in MODELS for algorithm in ALGORITHMS} | {
        (name, algorithm, 16 * KiB) for name in large for algorithm in ALGORITHMS
    }
    assert skips(GPU, quick=False) == []
    assert {p.model for p in points(GPU, quick=True)} == {"bert-base", "llama-3.2-1b", "llama-3.1-8b"}


def test_a_point_is_the_tree_of_each_tensor() -> None:
    for point in points(GPU, quick=False):
        assert (point.device, point.strategy, point.variant) == (GPU, "tree", None)
        assert point.lengths == tuple(tensor.nbytes for tensor in MODELS[point.model].tensors)
        assert point.nbytes == MODELS[point.model].nbytes


def test_a_cpu_gets_the_small_models_and_is_told_of_the_others() -> None:
    assert {p.model for p in points(CPU, quick=False)} == {"bert-base", "gpt-2", "llama-3.2-1b"}
    (left_out,) = skips(CPU, quick=False)
    for name, model in MODELS.items():
        assert (model.title in left_out.what) == (name not in {"bert-base", "gpt-2", "llama-3.2-1b"})
    assert "minutes" in left_out.reason
    assert {p.model for p in points(CPU, quick=True)} == {"bert-base"}
    assert skips(CPU, quick=True) == []


def test_rows_say_which_model_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Model("bert-base", "Tiny", tuple(Tensor(str(i), (n,), "BF16") for i, n in enumerate((5000, 1, 70_000))))
    monkeypatch.setattr(model_sizes, "MODELS", {tiny.name: tiny})
    monkeypatch.setattr(measurement, "WORKING_SET", 1)
    monkeypatch.setattr(measurement, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "BUDGET_SECONDS", 0.0)
    done = run(
        EXPERIMENT,
        plan(EXPERIMENT, kernel_class("hashlib").devices()[:1], list(ALGORITHMS), quick=False),
        iter(()),
        ROWS.file(tmp_path / "model-sizes.csv"),
        READINGS.file(tmp_path / "model-sizes.readings.csv"),
        "c0ffee",
    )
    assert [outcome for outcome in done.outcomes if not isinstance(outcome, Row)] == []
    assert [(r.model, r.algorithm, r.bytes, r.segments, r.verified) for r in done.rows] == [
        ("bert-base", algorithm, 150_002, 3, "all") for algorithm in ALGORITHMS
    ]
    assert EXPERIMENT.figure(Results.of(done.rows), tmp_path / "model-sizes")


# Memory --------------------------------------------------------------------------------------------------------------


def test_the_peak_is_read_for_each_gpu_and_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peak(device: Device, algorithm: str, models: Any, chunk_size: int) -> Peak:
        asked.append((device.kernel, algorithm, tuple(models), chunk_size))
        if device.kernel == "dpnp":
            raise Unavailable("NVML does not see it")
        if device.kernel == "opencl":
            raise RuntimeError("the driver is gone")
        return Peak("llama-3.1-70b", 1_234_500_000, "NVML 12.575")

    monkeypatch.setattr(model_sizes, "peak_beside_model", peak)
    broken = Device("opencl", "0:0", H200, "NVIDIA", "gpu")
    other = Device("dpnp", "gpu:0", "Intel Max", "Intel", "gpu")
    gone = Device("numba-cuda", unavailable="no driver")
    taken = EXPERIMENT.readings([CPU, gone, broken, GPU, other], quick=False)
    for _ in ALGORITHMS:
        with pytest.raises(RuntimeError, match="the driver is gone"):
            next(taken)
    found = list(taken)  # what one GPU broke does not keep the others from being read
    of_cupy = [one for one in found if isinstance(one, Reading)]
    assert [(one.algorithm, one.subject) for one in of_cupy] == [(algorithm, "cupy") for algorithm in ALGORITHMS]
    assert [one.median for one in of_cupy] == pytest.approx([1.2345, 1.2345])
    for one in of_cupy:
        READINGS.check(replace(one, experiment="model-sizes", commit="c0ffee", date="now"))
        assert (one.quantity, one.unit, one.device_name) == ("peak device memory beside the input", "GB", H200)
        assert one.how == "llama-3.1-70b, chunks of 4KiB"
    assert found[2:] == [
        Skip(f"dpnp gpu:0: {algorithm} peak device memory beside the input", "NVML does not see it")
        for algorithm in ALGORITHMS
    ]
    assert {models for _, _, models, _ in asked} == {tuple(MODELS)}


def test_the_short_form_reads_the_peak_of_its_own_models(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peak(device: Device, algorithm: str, models: tuple[str, ...], chunk_size: int) -> Peak:
        asked.append(models)
        return Peak(models[0], 1, "NVML")

    monkeypatch.setattr(model_sizes, "peak_beside_model", peak)
    assert len(list(EXPERIMENT.readings([GPU], quick=True))) == 2
    assert asked == [("bert-base", "llama-3.2-1b", "llama-3.1-8b")] * 2


def test_rows_of_no_model_are_not_drawn(tmp_path: Path) -> None:
    assert EXPERIMENT.figure(Results.of([row()]), tmp_path / "x") == []


# The figure ----------------------------------------------------------------------------------------------------------


def lane(kernel: str, device: str, speed: float, kind: str = "gpu", **changes: Any) -> Iterator[Row]:
    """What one kernel on one device gives: 20 microseconds of wall-clock over the device's."""
    for algorithm, of_speed in zip(ALGORITHMS, (speed, speed / 2), strict=True):
        for model in MODELS.values():
            if model.nbytes > (150e9 if kind == "gpu" else 4 * GiB):
                continue
            for chunk_size in (4 * KiB, 16 * KiB)[: 1 + (model.nbytes > 50 * GiB)]:
                seconds = 1e-9 * model.nbytes / of_speed
                wall = {
                    f"wall_seconds_{name}": seconds + n * 1e-6 for name, n in (("median", 20), ("q1", 19), ("q3", 23))
                }
                facts: dict[str, Any] = {"kernel": kernel, "device": device, "device_kind": kind, "model": model.name}
                facts |= {"device_name": H200 if kind == "gpu" else XEON, "algorithm": algorithm}
                facts |= {"bytes": model.nbytes, "segments": len(model.tensors), "chunk_size": chunk_size}
                yield row(seconds, **facts, **wall, **changes)


def gpu() -> list[Row]:
    return [*lane("cupy", "0", 920.0), *lane("numba-cuda", "0", 880.0), *lane("opencl", "0:0", 900.0)]


def cpu() -> list[Row]:
    return [*lane("hashlib", "1-thread", 0.9, "cpu"), *lane("dpnp", "opencl:cpu:0", 11.0, "cpu")]


def peaks() -> list[Reading]:
    of = replace(READING, quantity=PEAK_MEMORY, unit="GB", conditions="chunks of 4KiB")
    return [
        replace(of, subject="cupy", algorithm="sha256", median=0.13, model="llama-3.1-8b"),
        replace(of, subject="cupy", algorithm="sha256", median=1.11, model="llama-3.1-70b"),
        replace(of, subject="numba-cuda", algorithm="sha256", median=1.12, model="llama-3.1-70b"),
    ]


def drawn(figures: list[Figure], rows: list[Row], readings: list[Reading]) -> Figure:
    """The figure that the experiment draws."""
    figures.clear()
    EXPERIMENT.figure(Results.of(rows, readings), Path("model-sizes"))
    (one,) = figures
    return one


def names(panel: Axes) -> list[str]:
    return [label.get_text() for label in panel.get_xticklabels()]


def test_each_model_is_named_and_each_algorithm_has_its_panels(figures: list[Figure]) -> None:
    figure = drawn(figures, gpu(), peaks())
    speed, other_speed, seconds, other_seconds = figure.axes
    assert [panel.get_title(loc="left") for panel in (speed, other_speed)] == ["SHA-256", "SHA-384"]
    assert names(seconds) == names(other_seconds)
    assert names(seconds)[0] == "BERT base uncased, 0.438 GB"
    assert names(seconds)[-1] == "Llama 3.1 70B, 141 GB"
    assert len(names(seconds)) == 7
    assert [panel.get_yscale() for panel in figure.axes] == ["linear", "linear", "log", "log"]
    assert [panel.get_xscale() for panel in figure.axes] == ["log"] * 4
    assert said(figure).endswith(f"in one call, chunks of 4KiB and 16KiB: {H200}")


def test_speeds_and_wall_clock_seconds_are_drawn_with_their_spread(figures: list[Figure]) -> None:
    rows = [r for r in lane("cupy", "0", 900.0) if r.chunk_size == 4 * KiB and r.algorithm == "sha256"]
    speed, seconds = drawn(figures, rows, []).axes
    for panel, expected in ((speed, [900.0] * 7), (seconds, [r.wall_seconds_median for r in rows])):
        (container,) = panel.containers
        line, _, (bars,) = container.lines  # type: ignore[attr-defined]
        assert list(line.get_xdata()) == [r.bytes for r in rows]
        assert list(line.get_ydata()) == pytest.approx(expected)
        ends = [path.vertices[:, 1] for path in bars.get_paths()]
        assert all(low < middle < high for (low, high), middle in zip(ends, expected, strict=True))


def test_the_peak_of_the_largest_model_is_told(figures: list[Figure]) -> None:
    _, _, seconds, other_seconds = drawn(figures, gpu(), peaks()).axes
    (told,) = (text.get_text() for text in seconds.texts)
    assert " ".join(told.split()) == (
        "peak device memory beside the input: cupy 1.11 GB, Llama 3.1 70B, chunks of 4KiB; "
        "numba-cuda 1.12 GB, Llama 3.1 70B, chunks of 4KiB"
    )
    assert list(other_seconds.texts) == []


@pytest.mark.parametrize("rows", [gpu(), cpu(), gpu() + cpu()], ids=["gpu", "cpu", "both"])
def test_it_is_legible(figures: list[Figure], rows: list[Row]) -> None:
    figure = drawn(figures, rows, peaks())
    check_legible(figure)
    linear = figure.axes[0].get_yscale() == "linear"
    assert linear == ({r.device_kind for r in rows} == {"gpu"})


def test_the_table_has_every_model(tmp_path: Path) -> None:
    first = EXPERIMENT.figure(Results.of(gpu() + cpu(), peaks()), tmp_path / "model-sizes")
    assert [path.name for path in first] == ["model-sizes.png", "model-sizes.pdf", "model-sizes.svg", "model-sizes.csv"]
    with first[-1].open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(gpu() + cpu())
    assert {line["model"] for line in lines} == set(MODELS) - {"llama-3.1-405b"}


def test_a_single_row_draws_and_without_rows_nothing_is_drawn(tmp_path: Path) -> None:
    assert len(EXPERIMENT.figure(Results.of(gpu()[:1]), tmp_path / "model-sizes")) == 4
    assert EXPERIMENT.figure(Results.of(readings=peaks()), tmp_path / "none") == []
