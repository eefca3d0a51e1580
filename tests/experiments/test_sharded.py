"""The experiment `sharded`: which models are measured in which layouts, and the figure."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drawings import check_legible
from matplotlib.figure import Figure
from rows import READING

from hashbench.bench.experiment import Skip
from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS
from hashbench.bench.readings import Reading
from hashbench.experiments import sharded
from hashbench.experiments.sharded import EXPERIMENT, NAMED, ONE_PROCESS, PROCESSES, SENT, THROUGHPUT, VERDICT
from hashbench.experiments.sharded_ranks import FSDP, TP, Answer, Ranks, sharded_dimension
from hashbench.kernels import Device, kernel_class

NO_TORCH = "PyTorch is not installed: install hashbench[torch]"


def test_layouts_shard_what_they_shard() -> None:
    tensors = {tensor.name: tensor for tensor in MODELS["llama-3.1-70b"].tensors}
    moved = [tensor.nbytes for tensor in tensors.values() if sharded_dimension(tensor, TP) == 1]
    assert 0.33 < sum(moved) / MODELS["llama-3.1-70b"].nbytes < 0.35
    assert sharded_dimension(tensors["model.norm.weight"], TP) is None
    assert all(sharded_dimension(tensor, FSDP) == 0 for tensor in tensors.values())


def test_the_largest_models_that_fit_are_measured() -> None:
    cases = [(case.ranks, case.model, case.layout) for case in sharded._cases("gpu", [1, 2, 4], 80 * 10**9, False)]
    assert cases == [
        (1, "qwen2.5-32b", FSDP),
        (2, "qwen2.5-32b", FSDP),
        (2, "llama-3.1-70b", FSDP),
        (2, "llama-3.1-70b", TP),
        (4, "qwen2.5-32b", FSDP),
        (4, "llama-3.1-70b", FSDP),
        (4, "llama-3.1-70b", TP),
    ]


def test_files_are_verified_by_one_process_and_by_a_process_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    monkeypatch.setattr(sharded, "FILE_BYTES", {"gpu": 100_000})
    monkeypatch.setattr(sharded, "LINKS", {"gpu": 3})
    monkeypatch.setattr(sharded, "FILE_RUNS", 2)
    device = kernel_class("hashlib").devices()[0]
    pool = Ranks(2, "cpu")
    try:
        found = [one for one in sharded._files(pool, [device, device], quick=False) if isinstance(one, Reading)]
    finally:
        pool.close()
    assert [(one.workers, one.subject) for one in found] == [
        (workers, subject) for workers in ("1 GPU", "2 GPUs") for subject in (ONE_PROCESS, PROCESSES)
    ]
    assert all(one.repeats == 2 and one.median > 0 for one in found)


@pytest.mark.parametrize("asked", [True, False])
def test_a_reading_names_the_kernel_that_hashed(asked: bool) -> None:
    """Ranks take PyTorch's kernel for their device, whatever was asked for."""
    pytest.importorskip("torch", reason=NO_TORCH)
    case = next(sharded._cases("cpu", [1], 0, True))
    answer = Answer("00" * 32, "opencl 0:0", [1.5], [1.25])
    pool: Any = SimpleNamespace(measure=lambda _: [answer])
    devices = [Device("numba-cpu", "1-thread", "Some EPYC", kind="cpu", framework="numba 0")]
    if asked:
        devices.append(Device("opencl", "0:0", "Some EPYC", kind="cpu", framework="pyopencl 0"))
    found = list(sharded._of_case(pool, "cpu", devices, case))
    if asked:
        readings = [reading for reading in found if isinstance(reading, Reading)]
        assert [(r.kernel, r.device, r.median) for r in readings] == [("opencl", "0:0", 1.5), ("opencl", "0:0", 1.25)]
        assert all("pyopencl 0" in reading.source for reading in readings)
    else:
        (skip,) = found
        assert isinstance(skip, Skip)
        assert skip.reason == "opencl hashed, which was not asked for"


def test_the_slowest_rank_counts() -> None:
    assert sharded._slowest([[1.0, 4.0], [3.0, 2.0]]) == [3.0, 4.0]


def test_the_figure_says_how_soon_the_verdict_is_there(tmp_path: Path, figures: list[Figure]) -> None:
    one = replace(READING, kernel="cupy", unit="s", quantity=f"{VERDICT} seconds", q1=0.04, q3=0.09)
    readings = [
        replace(one, model=model, subject=f"{layout} layout", workers=f"{ranks} GPUs", median=0.16 / ranks)
        for ranks in (2, 4)
        for model in ("qwen2.5-32b", "llama-3.1-70b")
        for layout in (FSDP, TP)
    ]
    readings.append(replace(one, quantity=f"{NAMED} seconds", model="llama-3.1-70b"))
    readings.append(replace(one, quantity=SENT, unit="GB", model="llama-3.1-70b"))
    for count in (1, 2):
        files = replace(one, quantity=THROUGHPUT, unit="GB/s", workers=f"{count} GPUs", conditions="32")
        files = replace(files, median=30.0 * count, q1=29.0 * count, q3=31.0 * count)
        readings += [replace(files, subject=subject) for subject in (ONE_PROCESS, PROCESSES)]
    written = EXPERIMENT.figure(Results.of([], readings), tmp_path / "sharded")
    check_legible(figures[0])
    assert "Llama 3.1 70B (141 GB) over 4 GPUs: 0.04 s" in " ".join(figures[0].get_suptitle().split())
    with written[-1].open() as file:
        table = [(line["of"], line["workers"]) for line in csv.DictReader(file)]
    assert sorted(table) == sorted(set(table))
    assert [of for of, _ in table[:8]] == sorted(of for of, _ in table[:8])
    assert table[8:] == [
        (of, f"{count} GPUs") for of in (f"F{PROCESSES[1:]}", f"F{ONE_PROCESS[1:]}") for count in (1, 2)
    ]
    assert EXPERIMENT.figure(Results.of(), tmp_path / "none") == []
