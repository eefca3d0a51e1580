"""The loading experiment: models written as their authors cut them, loaders that load the same, and the figure."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from drawings import check_legible
from matplotlib.figure import Figure

from hashbench.bench.experiment import Skip, run
from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import ROWS
from hashbench.experiments import loading
from hashbench.experiments.loading import EXPERIMENT, FIRST, HASHBENCH, SECONDS, THEN_HASHED, UNVERIFIED, VERIFIED
from hashbench.experiments.storage import Storage, StorageUnavailable
from hashbench.kernels import Device, kernel_class
from hashbench.model.safetensors_header import read_header

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from hashbench.torch import places  # noqa: E402  # after what it needs is known to be there

ONE_CORE = kernel_class("hashlib").devices()[0]
TENSORS = (Tensor("a.weight", (77, 333), "F32"), Tensor("b", (333,), "BF16"), Tensor("c", (9,), "F32"))
SMALL_MODEL = Model("bert-base", "BERT base uncased", TENSORS)


@pytest.fixture(autouse=True)
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 100 KB in two files, in one folder, on one core."""
    monkeypatch.setattr(loading, "MODELS", MODELS | {"bert-base": SMALL_MODEL})
    monkeypatch.setattr(loading, "SHARD_SIZE", 103_000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    kernel = kernel_class("hashlib")(ONE_CORE)
    monkeypatch.setattr(places, "place_of", lambda device, algorithm: places.HostMemory(kernel))

    @contextmanager
    def here(nbytes: int) -> Iterator[Storage]:
        folder = tmp_path / "model"
        folder.mkdir()
        yield Storage(folder, "memory")

    @contextmanager
    def nowhere(nbytes: int) -> Iterator[Storage]:
        raise StorageUnavailable("there is no disk")
        yield

    monkeypatch.setattr(loading, "in_memory", here)
    monkeypatch.setattr(loading, "on_disk", nowhere)


def outcomes() -> tuple[list[Reading], list[Skip]]:
    found = list(EXPERIMENT.readings([ONE_CORE], quick=True))
    return [o for o in found if isinstance(o, Reading)], [o for o in found if isinstance(o, Skip)]


def test_a_model_is_written_in_files_with_an_index(tmp_path: Path) -> None:
    paths = loading.write_model("bert-base", tmp_path, kernel_class("hashlib")(ONE_CORE))
    assert [path.name for path in paths] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    found = [tensor for path in paths for tensor in read_header(path).tensors]
    assert {(t.name, t.shape, t.dtype) for t in found} == {(t.name, t.shape, t.dtype) for t in TENSORS}
    assert len(set(paths[0].read_bytes())) == 256


def test_each_loader_has_its_readings(tmp_path: Path) -> None:
    file = READINGS.file(tmp_path / "loading.readings.csv")
    results = ROWS.file(tmp_path / "loading.csv")
    report = run(EXPERIMENT, [], EXPERIMENT.readings([ONE_CORE], quick=True), results, file, "c0ffee")
    assert report.failures == []
    assert READINGS.read(file.path) == report.readings
    assert len({reading.point for reading in report.readings}) == len(report.readings)
    subjects = [HASHBENCH, "load_file with pread", THEN_HASHED]
    kinds = [(r.subject, r.quantity, r.repeats) for r in report.readings if r.subject in subjects]
    assert kinds == [(s, quantity, n) for s in subjects for quantity, n in ((FIRST, 1), (SECONDS, loading.RUNS))]
    verified = {reading.subject for reading in report.readings if reading.conditions == VERIFIED}
    assert verified == {HASHBENCH, THEN_HASHED}


def test_what_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runai_model_streamer", None)
    _, skips = outcomes()
    assert "runai-model-streamer cannot be imported" in skips[0].reason
    assert skips[-1] == Skip("loading: hashlib 1-thread, bert-base", "there is no disk")
    monkeypatch.setitem(sys.modules, "torch", None)
    readings, (skip,) = outcomes()
    assert readings == []
    assert "PyTorch cannot be imported" in skip.reason


def test_a_loader_that_loads_something_else_has_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loading._load_file

    def wrong(*arguments: Any, **options: Any) -> Any:
        loaded = dict(original(*arguments, **options))
        loaded["b"] = loaded["b"] + 1
        return loaded

    monkeypatch.setattr(loading, "_load_file", wrong)
    files = READINGS.file(tmp_path / "loading.readings.csv"), ROWS.file(tmp_path / "loading.csv")
    report = run(EXPERIMENT, [], EXPERIMENT.readings([ONE_CORE], quick=True), files[1], files[0], "c0ffee")
    (failure,) = report.failures
    assert "load_file with pread loaded another model" in str(failure.error)
    loaded = {reading.subject for reading in report.readings}
    assert HASHBENCH in loaded
    assert not loaded & {"load_file with pread", THEN_HASHED}


def made_up() -> list[Reading]:
    gpu = Device("cupy", "0", "Some GPU", kind="gpu")
    return [
        Reading.of(
            [seconds, 1.1 * seconds],
            gpu,
            subject=subject,
            quantity=quantity,
            unit="s",
            model=model,
            conditions=conditions,
            storage="memory",
            source="some 1",
        )
        for model in ("llama-3.2-1b", "llama-3.1-8b")
        for subject, seconds, conditions in (
            (HASHBENCH, 0.5, VERIFIED),
            ("fastsafetensors", 0.6, UNVERIFIED),
            ("safetensors load_file", 3.0, UNVERIFIED),
        )
        for quantity in (FIRST, SECONDS)
    ]


def test_the_figure_has_a_bar_for_each_loader(tmp_path: Path, figures: list[Figure]) -> None:
    written = EXPERIMENT.figure(Results.of([], made_up()), tmp_path / "loading")
    assert [path.name for path in written] == ["loading.png", "loading.pdf", "loading.svg", "loading.csv"]
    with written[-1].open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["model"], line["subject"]) for line in lines][:2] == [
        ("llama-3.1-8b", HASHBENCH),
        ("llama-3.1-8b", "fastsafetensors"),
    ]
    assert len(lines) == 6
    check_legible(figures[0])
    assert EXPERIMENT.figure(Results.of(), tmp_path / "none") == []
