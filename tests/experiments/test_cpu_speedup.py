"""The cpu-speedup experiment: its points, what programs make of a model's files, and ratios of the right pairs."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawings import check_legible, said
from matplotlib.figure import Figure
from rows import READING, row

from hashbench.bench import measurement
from hashbench.bench.experiment import Point, Skip
from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import cpu_speedup
from hashbench.experiments.cpu_speedup import EXPERIMENT
from hashbench.experiments.programs import PeerError, openssl_on
from hashbench.kernels import ALGORITHMS, Device, kernel_class

GPU = Device(kernel="cupy", id="0", name="NVIDIA H200", kind="gpu")
PROCESSOR = kernel_class("hashlib").devices()
SMALL = Model("bert-base", "BERT base uncased", (Tensor("a", (1000, 333), "F32"), Tensor("b", (7,), "F32")))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of little more than a megabyte, and one run."""
    monkeypatch.setattr(cpu_speedup, "MODELS", {"bert-base": SMALL})
    monkeypatch.setattr(cpu_speedup, "RUNS", 1)
    monkeypatch.setattr(measurement, "WORKING_SET", 1)
    monkeypatch.setattr(measurement, "WARMUP_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "BUDGET_SECONDS", 0.0)


# Points --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [True, False])
def test_points_of_a_gpu_are_whole_models(quick: bool) -> None:
    points = list(EXPERIMENT.points(GPU, quick=quick))
    names = ["bert-base", "llama-3.2-1b", "llama-3.1-8b", *([] if quick else ["llama-3.1-70b"])]
    assert [(p.algorithm, p.model) for p in points if isinstance(p, Point)] == [
        (a, n) for a in ALGORITHMS for n in names
    ]
    for point in points:
        assert isinstance(point, Point)
        assert point.lengths == tuple(tensor.nbytes for tensor in MODELS[point.model].tensors)
        assert (point.strategy, point.chunk_size) == ("tree", 4096)


def test_hashlib_with_threads_hashes_one_model_and_says_so() -> None:
    threads = replace(PROCESSOR[0], id="16-threads")
    outcomes = list(EXPERIMENT.points(threads, quick=False))
    assert {p.model for p in outcomes if isinstance(p, Point)} == {"bert-base"}
    assert [o.what for o in outcomes if isinstance(o, Skip)] == ["hashlib 16-threads: llama-3.2-1b"]
    one = list(EXPERIMENT.points(PROCESSOR[0], quick=False))
    assert {p.model for p in one if isinstance(p, Point)} == {"bert-base", "llama-3.2-1b"}
    assert len(one) == 4


# Readings ------------------------------------------------------------------------------------------------------------


def readings(devices: list[Device]) -> tuple[list[Reading], list[Skip]]:
    outcomes = list(EXPERIMENT.readings(devices, quick=True))
    return [o for o in outcomes if isinstance(o, Reading)], [o for o in outcomes if isinstance(o, Skip)]


@pytest.mark.usefixtures("small")
def test_every_program_hashes_the_models_files() -> None:
    found, skips = readings(PROCESSOR)
    cores = int(PROCESSOR[-1].id.partition("-")[0])
    trees = [(r.algorithm, r.model, r.workers) for r in found if r.subject == "hashlib"]
    workers = f"tree in {cores} process{'' if cores == 1 else 'es'}"
    assert trees == [(a, "bert-base", workers) for a in ALGORITHMS]
    assert all(r.unit == "GB/s" and r.quantity == "throughput" and r.median > 0 for r in found)
    assert len({r.point for r in found}) == len(found)
    openssl = {r.workers for r in found if r.subject == "OpenSSL"}
    missing = [skip for skip in skips if skip.what.startswith("OpenSSL")]
    assert len(openssl) == len(PROCESSOR) or len(missing) == 2 * len(PROCESSOR)
    assert "model-signing does not support sha384" in {skip.reason for skip in skips}


@pytest.mark.usefixtures("small")
def test_one_core_is_a_reading_where_hashlib_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_speedup, "_of_model", lambda *_: [])  # no programs, which take seconds
    found, _ = readings([GPU])
    one = [r for r in found if r.how == "bert-base, tree in this process"]
    assert [(r.subject, r.algorithm, r.device) for r in one] == [("hashlib", a, "1-thread") for a in ALGORITHMS]
    assert all(0 < r.q1 <= r.median <= r.q3 for r in one)
    drawn = cpu_speedup._bars(Results.of([row(kernel="cupy", model="bert-base")], one))
    assert set(drawn["reference_model"]) == {"bert-base"}


@pytest.mark.usefixtures("small")
def test_what_is_missing_or_wrong_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cpu_speedup, "merkle_tree_hash", lambda chunks, algorithm: b"another")
    found, skips = readings(PROCESSOR)
    assert {r.subject for r in found} <= {"model-signing"}
    missing = [skip.reason for skip in skips if skip.what.startswith("OpenSSL")]
    assert missing == ["openssl is not installed"] * 2 * len(PROCESSOR)
    wrong = [skip.reason for skip in skips if skip.what.startswith("hashlib")]
    assert len(wrong) == 2
    assert all("differ from hashlib's, so it was not measured" in reason for reason in wrong)


def test_no_room_for_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = Model("bert-base", "Huge", (Tensor("a", (1 << 58,), "F32"),))
    monkeypatch.setattr(cpu_speedup, "MODELS", {"bert-base": huge})
    found, skips = readings(PROCESSOR)
    assert found == []
    assert ["has room for 1048576TiB" in skip.reason for skip in skips] == [True]


@pytest.mark.parametrize("processes", [1, 3, 9])
def test_openssl_hashes_each_file_once(tmp_path: Path, processes: int) -> None:
    for number in range(5):
        (tmp_path / f"part {number}").write_bytes(b"abc")
    try:
        found = openssl_on(tmp_path, "sha256", processes).digests()
    except PeerError as error:
        pytest.skip(f"OpenSSL: {error}")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4's example
    assert found == {f"part {number}": abc for number in range(5)}


# The figure ----------------------------------------------------------------------------------------------------------


def of_model(kernel: str, seconds: float, model: str = "bert-base", **changes: Any) -> Row:
    return row(seconds, kernel=kernel, model=model, bytes=MODELS[model].nbytes, **changes)


def one_core(seconds: float, model: str = "bert-base", **changes: Any) -> Row:
    where = {"device": "1-thread", "device_name": "Some Xeon", "device_kind": "cpu"}
    return of_model("hashlib", seconds, model, **where, **changes)


def program(rate: float, workers: str, subject: str = "OpenSSL") -> Reading:
    return replace(
        READING,
        subject=subject,
        quantity="throughput",
        unit="GB/s",
        algorithm="sha256",
        model="bert-base",
        workers=workers,
        files=32,
        conditions="",
        storage="memory",
        device="16-threads",
        device_name="Some Xeon",
        device_kind="cpu",
        median=rate,
        q1=0.9 * rate,
        q3=1.1 * rate,
    )


def speedups(rows: list[Row], readings: list[Reading]) -> dict[str, float]:
    """The speed-up of each bar, by its label."""
    bars = cpu_speedup._bars(Results.of(rows, readings))
    return dict(zip(bars["label"], bars["speedup"], strict=True))


def table(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


def test_speedups_are_over_the_same_model_and_algorithm(tmp_path: Path) -> None:
    rows = [
        of_model("cupy", 0.001),
        of_model("cupy", 0.01, algorithm="sha384"),
        one_core(0.5),
        one_core(0.8, algorithm="sha384"),
        one_core(4.0, "llama-3.2-1b"),
        of_model("cupy", 0.004, "llama-3.2-1b"),
    ]
    EXPERIMENT.figure(Results.of(rows), tmp_path / "x")
    found = {(line["kernel"], line["model"], line["algorithm"]): line for line in table(tmp_path / "x")}
    assert float(found["cupy", "bert-base", "sha256"]["speedup"]) == pytest.approx(500)
    assert float(found["cupy", "bert-base", "sha384"]["speedup"]) == pytest.approx(80)
    assert float(found["cupy", "llama-3.2-1b", "sha256"]["speedup"]) == pytest.approx(1000)
    line = found["cupy", "bert-base", "sha256"]  # quartiles 5 % of the seconds away: the farthest apart
    assert float(line["speedup_q1"]) == pytest.approx(500 * 0.95 / 1.05, rel=1e-5)
    assert float(line["speedup_q3"]) == pytest.approx(500 * 1.05 / 0.95, rel=1e-5)
    assert line["reference_model"] == "bert-base"


def test_a_model_that_hashlib_did_not_hash_is_over_its_rate_on_the_largest(tmp_path: Path) -> None:
    rows = [one_core(0.5), one_core(2.0, "llama-3.2-1b"), of_model("cupy", 0.02, "llama-3.1-8b")]
    EXPERIMENT.figure(Results.of(rows), tmp_path / "x")
    (line,) = [line for line in table(tmp_path / "x") if line["kernel"] == "cupy"]
    assert line["reference_model"] == "llama-3.2-1b"
    rate = MODELS["llama-3.1-8b"].nbytes / 0.02 / (MODELS["llama-3.2-1b"].nbytes / 2.0)
    assert float(line["speedup"]) == pytest.approx(rate, rel=1e-6)


def test_a_row_of_one_core_goes_before_a_reading_of_it() -> None:
    reading = program(9.0, "tree in 1 process", "hashlib")
    rate = one_core(0.5).gb_per_s
    for date in ("2025-01-01T00:00:00Z", "2027-01-01T00:00:00Z"):
        found = speedups([one_core(0.5)], [replace(reading, date=date)])
        assert found["hashlib tree in 1 process"] == pytest.approx(9.0 / rate)


def test_the_reading_taken_as_a_row_goes_before_that_of_a_process_apart() -> None:
    for places in ((0, 1), (1, 0)):
        pair = (program(9.0, "tree in this process", "hashlib"), program(4.0, "tree in 1 process", "hashlib"))
        dated = [replace(pair[place], date=f"202{i}-01-01T00:00:00Z") for i, place in enumerate(places)]
        found = speedups([], [*dated, program(90.0, "16 processes")])
        assert found["OpenSSL, 16 processes"] == pytest.approx(10)
    found = speedups([], [program(4.0, "tree in 1 process", "hashlib"), program(8.0, "16 processes")])
    assert found["OpenSSL, 16 processes"] == pytest.approx(2)


def test_rows_of_no_model_are_left_out() -> None:
    assert list(speedups([one_core(0.5), row(0.1, kernel="cupy")], [])) == ["hashlib, 1 thread"]


def test_nothing_is_drawn_without_hashlib_on_one_core(tmp_path: Path) -> None:
    assert EXPERIMENT.figure(Results.of([of_model("cupy", 0.1)], [program(9, "1 process")]), tmp_path / "x") == []


def test_figure_tells_what_each_bar_is(figures: list[Figure]) -> None:
    rows = [of_model("cupy", 0.001), one_core(0.5), of_model("cupy", 0.02, "llama-3.1-8b")]
    EXPERIMENT.figure(
        Results.of(rows, [program(12, "16 processes"), program(6, "default threads", "model-signing")]), Path("x")
    )
    first, second = figures[0].axes
    labels = [text.get_text() for text in first.get_yticklabels()]
    assert labels == [
        "cupy, GPU",
        "OpenSSL, 16 processes",
        "model-signing, default threads",
        "hashlib, 1 thread",
    ]
    low, high = first.get_ylim()
    assert low > high  # the first is at the top
    assert first.get_xscale() == "log"
    assert "500\u00d7" in {text.get_text() for text in first.texts}
    assert second.get_title(loc="left") == "Llama 3.1 8B, SHA-256"
    note = figures[0].legends[0].get_title().get_text()
    assert " ".join(note.split()) == "Llama 3.1 8B: over hashlib's rate on BERT base uncased"
    assert "NVIDIA H200" in said(figures[0])
    assert "Some Xeon" in said(figures[0])
    check_legible(figures[0])
