"""The in-place experiment: modules with the models' tensors, verdicts that must be right, and the figure."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawings import check_legible
from matplotlib.figure import Figure
from rows import READING, row

from hashbench.bench.experiment import Failure, Skip, run
from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import ROWS
from hashbench.experiments import in_place
from hashbench.experiments.in_place import (
    EXPERIMENT,
    HASHING,
    IN_PLACE,
    NAMED,
    SMALL,
    VERDICT,
    small_lengths,
)
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, Device, Unavailable, kernel_class

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

import hashbench.torch as hashed  # noqa: E402  # after what it needs is known to be there
from hashbench.torch import places  # noqa: E402

ONE_CORE = kernel_class("hashlib").devices()[0]
TENSORS = (Tensor("layer.1.weight", (77, 333), "F32"), Tensor("layer.1.bias", (333,), "BF16"), Tensor("w", (9,), "F32"))
SMALL_MODEL = Model("bert-base", "BERT base uncased", tuple(sorted(TENSORS, key=lambda tensor: tensor.name)))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 100 KB and 20 small tensors, on one core."""
    monkeypatch.setattr(in_place, "MODELS", MODELS | {"bert-base": SMALL_MODEL})
    monkeypatch.setattr(in_place, "SMALL_TENSORS", {"gpu": 10_000, "cpu": 20})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    kernel = kernel_class("hashlib")(ONE_CORE)
    monkeypatch.setattr(places, "place_of", lambda device, algorithm: places.HostMemory(kernel))


def outcomes(devices: Sequence[Device] = (ONE_CORE,)) -> tuple[list[Reading], list[Skip]]:
    found = list(EXPERIMENT.readings(devices, quick=True))
    return [o for o in found if isinstance(o, Reading)], [o for o in found if isinstance(o, Skip)]


# What is measured ----------------------------------------------------------------------------------------------------


def test_there_are_ten_thousand_small_tensors_of_4_to_256_kib_on_a_gpu() -> None:
    lengths = small_lengths("gpu")
    assert len(lengths) == 10_000
    assert 4096 <= min(lengths) < 5000
    assert 261_000 < max(lengths) <= 262_144
    assert small_lengths("gpu") == lengths


def test_points_are_the_small_tensors_and_one_buffer_of_the_same_bytes() -> None:
    device = Device("some", "0", "Some", kind="gpu")
    points = list(EXPERIMENT.points(device, quick=True))
    assert [(p.algorithm, len(p.lengths)) for p in points] == [(a, n) for a in ALGORITHMS for n in (1, 10_000)]
    assert len({point.nbytes for point in points}) == 1
    assert {(p.strategy, p.chunk_size) for p in points} == {("tree", 4096)}


def test_a_module_has_the_models_tensors_and_random_bytes() -> None:
    def filled() -> dict[str, Any]:
        module = in_place.module_of(SMALL_MODEL, torch.device("cpu"))
        in_place.fill_random(module, torch.device("cpu"))
        return dict(module.state_dict())

    state = filled()
    assert {(name, tuple(t.shape)) for name, t in state.items()} == {(t.name, t.shape) for t in SMALL_MODEL.tensors}
    assert sum(t.nbytes for t in state.values()) == SMALL_MODEL.nbytes
    data = state["layer.1.weight"].view(torch.uint8)
    assert len(data.unique()) == 256
    assert torch.equal(filled()["layer.1.weight"].view(torch.uint8), data)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_a_module(name: str) -> None:
    names = [entry for entry, _ in in_place.module_of(MODELS[name], torch.device("meta")).named_parameters()]
    assert sorted(names) == [tensor.name for tensor in MODELS[name].tensors]


def test_each_module_has_its_readings(tmp_path: Path) -> None:
    file = READINGS.file(tmp_path / "in-place.readings.csv")
    results = ROWS.file(tmp_path / "in-place.csv")
    report = run(EXPERIMENT, [], EXPERIMENT.readings([ONE_CORE], quick=True), results, file, "c0ffee")
    assert report.failures == []
    assert READINGS.read(file.path) == report.readings
    kinds = [(r.subject, r.quantity, r.repeats) for r in report.readings]
    quantities = [f"{name} seconds" for name in (VERDICT, NAMED)]
    assert kinds == [(subject, quantity, 3) for subject in (IN_PLACE, SMALL) for quantity in quantities]
    assert len({reading.point for reading in report.readings}) == len(report.readings)
    for reading in report.readings:
        assert (reading.unit, reading.algorithm, reading.device) == ("s", "sha256", ONE_CORE.id)
        assert torch.__version__ in reading.source
        assert "all bytes by hashlib" in reading.note
    assert report.readings[0].how == "hashlib, bert-base, 3 tensors, 0.000103 GB"


def test_other_devices_are_left_alone() -> None:
    assert outcomes([replace(ONE_CORE, id="3-threads")]) == ([], [])


def test_a_gpu_without_a_kernel_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(device: Any, algorithm: str) -> Any:
        raise Unavailable("cupy is not available: it is not")

    monkeypatch.setattr(places, "place_of", none)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    _, skips = outcomes()
    assert skips[0] == Skip("in-place: PyTorch's cuda:0", "cupy is not available: it is not")


def test_without_pytorch_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    readings, (skip,) = outcomes()
    assert readings == []
    assert "PyTorch cannot be imported" in skip.reason


def test_a_model_that_does_not_fit_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = Model("bert-base", "Huge", (Tensor("a", (10**15,), "F32"),))
    monkeypatch.setattr(in_place, "MODELS", {"bert-base": huge})
    readings, (skip,) = outcomes()
    assert {reading.subject for reading in readings} == {SMALL}
    assert skip.what == "in-place: hashlib 1-thread, bert-base"
    assert skip.reason.startswith("its 4000000.00 GB do not fit")


# What goes wrong -----------------------------------------------------------------------------------------------------


def failures(tmp_path: Path) -> list[Failure]:
    readings = EXPERIMENT.readings([ONE_CORE], quick=True)
    files = ROWS.file(tmp_path / "x.csv"), READINGS.file(tmp_path / "x.readings.csv")
    return run(EXPERIMENT, [], readings, *files, "c0ffee").failures


def test_a_root_that_is_not_hashlibs_gives_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = hashed.manifest

    def wrong(*arguments: Any, **options: Any) -> Any:
        found = manifest(*arguments, **options)
        first = replace(found.entries[0], root=bytes(32))
        return replace(found, entries=(first, *found.entries[1:]))

    monkeypatch.setattr(hashed, "manifest", wrong)
    for failure in failures(tmp_path):
        assert isinstance(failure.error, VerificationError)
    assert len(failures(tmp_path)) == 2


def test_a_flip_that_is_not_found_gives_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[int, Any] = {}
    verify = hashed.verify

    def blind(module: Any, expected: Any) -> Any:
        return kept.setdefault(id(expected), verify(module, expected))

    monkeypatch.setattr(hashed, "verify", blind)
    found = failures(tmp_path)
    assert [str(failure.error).partition(" should")[0] for failure in found] == ["layer.1.bias", "small.00000"]


# The figure ----------------------------------------------------------------------------------------------------------


def made_up() -> tuple[list[Any], list[Reading]]:
    rows = [row(experiment="in-place", kernel="cupy", segments=n, algorithm=a) for n in (1, 10_000) for a in ALGORITHMS]
    readings = [
        replace(
            READING,
            subject=IN_PLACE,
            quantity=f"{quantity} seconds",
            unit="s",
            kernel="cupy",
            model="llama-3.1-70b",
            conditions="723 tensors, 141 GB",
            median=value,
            q1=0.9 * value,
            q3=1.1 * value,
        )
        for quantity, value in ((VERDICT, 0.17), (HASHING, 0.15), (NAMED, 0.18))
    ]
    return rows, readings


def test_the_figure_shows_seconds_and_throughput(tmp_path: Path, figures: list[Figure]) -> None:
    rows, readings = made_up()
    written = EXPERIMENT.figure(Results.of(rows, readings), tmp_path / "in-place")
    assert [path.name for path in written] == ["in-place.png", "in-place.pdf", "in-place.svg", "in-place.csv"]
    with written[-1].open() as file:
        lines = list(csv.DictReader(file))
    assert [line["unit"] for line in lines] == ["seconds"] * 3 + ["GB/s"] * 4
    assert lines[0]["what"] == "Llama 3.1 70B, cupy: call to verdict"
    assert lines[-1]["what"] == "SHA-384, cupy 0:0: 10,000 small tensors"
    check_legible(figures[0])


@pytest.mark.parametrize("part", [0, 1])
def test_rows_or_readings_alone_are_drawn(tmp_path: Path, part: int) -> None:
    rows, readings = made_up()
    assert (
        len(EXPERIMENT.figure(Results.of(rows if part else [], [] if part else readings), tmp_path / "in-place")) == 4
    )
    assert EXPERIMENT.figure(Results.of(), tmp_path / "none") == []
