"""The end-to-end experiment: three ways, one root, every stage a reading; a wrong root is never a reading."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import check_legible, said
from matplotlib.figure import Figure
from rows import READING

from hashbench.bench.experiment import Failure, Skip, run
from hashbench.bench.frames import Results
from hashbench.bench.inventories import Model, Tensor
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import ROWS
from hashbench.experiments import end_to_end
from hashbench.experiments.end_to_end import (
    COPIED_BACK,
    COPYING_ALONE,
    EXPERIMENT,
    FROM_FILE,
    IN_PLACE,
    READING_ALONE,
    STAGES,
    TOTAL,
    WHOLE,
)
from hashbench.experiments.host_tree import HostTree
from hashbench.experiments.storage import Storage, StorageUnavailable, in_memory
from hashbench.hashing.hasher import Hasher
from hashbench.hashing.sources import FileRange
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Buffer, Bytes, Device, Kernel, Stage, kernel_class
from hashbench.kernels.hashlib_cpu import HashlibCpu

PROCESSOR = kernel_class("hashlib").devices()
ONE_CORE = PROCESSOR[0]
SMALL = Model("bert-base", "BERT base uncased", (Tensor("a", (777, 333), "F32"),))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of about a megabyte, and few runs."""
    monkeypatch.setattr(end_to_end, "MODELS", {"bert-base": SMALL})
    monkeypatch.setattr(end_to_end, "RUNS", 2)
    monkeypatch.setattr(end_to_end, "IN_PLACE_RUNS", 2)


@pytest.fixture(autouse=True)
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whatever temporary files lie on here, with a cache that is left when asked."""

    @contextmanager
    def on_disk(nbytes: int) -> Iterator[Storage]:
        yield Storage(tmp_path, "a disk (ext4)")

    monkeypatch.setattr(end_to_end, "on_disk", on_disk)
    monkeypatch.setattr(end_to_end, "leave_page_cache", lambda path: path.exists())


def outcomes(devices: Sequence[Device] = (ONE_CORE,)) -> tuple[list[Reading], list[Skip]]:
    found = list(EXPERIMENT.readings(devices, quick=True))
    return [o for o in found if isinstance(o, Reading)], [o for o in found if isinstance(o, Skip)]


def stages(readings: Sequence[Reading], subject: str, *how: str) -> dict[str, Reading]:
    """The readings of one way, by stage."""
    wanted = (subject, ", ".join(("hashlib", "bert-base", *how)))
    return {r.quantity.removesuffix(" seconds"): r for r in readings if (r.subject, r.how) == wanted}


# The ways ------------------------------------------------------------------------------------------------------------


def test_every_way_is_split_into_its_stages() -> None:
    readings, skips = outcomes()
    cores = int(PROCESSOR[-1].id.partition("-")[0])
    noise = {"reduce"} if any("within the spread" in skip.reason for skip in skips) else set()
    ways: dict[tuple[str, ...], set[str]] = {
        (IN_PLACE,): {"hash", "reduce", WHOLE},
        **{
            (COPIED_BACK, f"hashlib in {cores} processes", memory): {"copy", "hash", "reduce", WHOLE}
            for memory in ("page-locked", "pageable")
        },
        **{
            (FROM_FILE, place, memory): {*STAGES, WHOLE}
            for place in ("memory", "a disk (ext4) with a cold cache")
            for memory in ("page-locked", "pageable")
        },
        **{
            (FROM_FILE, place, "overlapped"): {READING_ALONE, COPYING_ALONE, WHOLE}
            for place in ("memory", "a disk (ext4) with a cold cache")
        },
    }
    for way, expected in ways.items():
        found = stages(readings, *way)
        assert expected - noise <= set(found) <= expected, way
        for reading in found.values():
            assert (reading.unit, reading.algorithm, reading.repeats) == ("s", "sha256", 2)
            assert (reading.device, reading.device_name) == (ONE_CORE.id, ONE_CORE.name)
        if len(found) > 1:
            parts = [found[name].q1 for name in ("read", "copy") if name in found]
            assert sum(parts) <= found[WHOLE].q3
    assert len({reading.point for reading in readings}) == len(readings)


def test_a_copy_back_goes_to_a_stage_and_to_memory_that_was_touched_before(monkeypatch: pytest.MonkeyPatch) -> None:
    stages_made: list[Stage] = []
    targets: list[Bytes] = []
    stage, get_into = HashlibCpu.stage, HashlibCpu.get_into

    def made(self: HashlibCpu, nbytes: int) -> Stage:
        stages_made.append(stage(self, nbytes))
        return stages_made[-1]

    def watched(self: HashlibCpu, buffer: Buffer, host: Bytes) -> None:
        if host.nbytes == buffer.nbytes == 1 << 20 and (not targets or targets[-1] is not host):
            assert (host == 1).all()
            targets.append(host)
        get_into(self, buffer, host)

    small = Model("bert-base", "", (Tensor("a", (1 << 18,), "F32"),))
    monkeypatch.setattr(end_to_end, "MODELS", {small.name: small})
    kernel = HashlibCpu(ONE_CORE)
    buffer = kernel.random(1 << 20, 1)
    monkeypatch.setattr(HashlibCpu, "stage", made)
    with in_memory(1 << 20) as where:
        path = where.folder / "model"
        path.write_bytes(bytes(1 << 20))
        monkeypatch.setattr(HashlibCpu, "get_into", watched)
        model = end_to_end._Model("bert-base", kernel, kernel.tree([buffer], 4096).tobytes())
        found = [one for one in end_to_end._copied_back(model, buffer, path) if isinstance(one, Reading)]
    assert [one.memory for one in found if one.quantity == TOTAL] == ["page-locked", "pageable"]
    assert [host is stages_made[0].host for host in targets] == [True, False]


def test_reading_alone_is_reading_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it must not")

    path = tmp_path / "model"
    path.write_bytes(bytes(range(256)) * 100)
    stages_made: list[Stage] = []
    stage = HashlibCpu.stage

    def made(self: HashlibCpu, nbytes: int) -> Stage:
        stages_made.append(stage(self, nbytes))
        monkeypatch.setattr(stages_made[-1], "upload", refuse)
        return stages_made[-1]

    monkeypatch.setattr(HashlibCpu, "stage", made)
    monkeypatch.setattr(HashlibCpu, "tree", refuse)
    reader: Any = end_to_end._Reader(HashlibCpu(ONE_CORE))
    assert Hasher(reader, 4096).roots([FileRange(path, 0, 25_600)]) == [bytes(32)]
    assert stages_made[0].host[:25_600].tobytes() == path.read_bytes()


def test_a_run_saves_each_reading(tmp_path: Path) -> None:
    file = READINGS.file(tmp_path / "end-to-end.readings.csv")
    results = ROWS.file(tmp_path / "end-to-end.csv")
    report = run(EXPERIMENT, [], EXPERIMENT.readings([ONE_CORE], quick=True), results, file, "c0ffee")
    assert report.failures == []
    assert READINGS.read(file.path) == report.readings
    assert report.readings


def test_one_device_of_each_kind_the_fastest_expected() -> None:
    gpus = [Device(kernel=name, id="0", kind="gpu") for name in ("opencl", "cupy", "numba-cuda")]
    broken = replace(gpus[1], id="1", unavailable="it is broken")
    assert end_to_end._one_of_each_kind([broken, *gpus, *PROCESSOR]) == [gpus[1], ONE_CORE]
    assert end_to_end._one_of_each_kind([broken]) == []


def test_devices_that_are_left_out_are_named() -> None:
    twin = replace(ONE_CORE, id="3-threads")
    _, skips = outcomes([ONE_CORE, twin])
    assert skips[0] == Skip(
        "end-to-end: hashlib 3-threads", "one of each kind is measured: --kernel and --device choose"
    )


# What goes wrong -----------------------------------------------------------------------------------------------------


def failed(tmp_path: Path) -> tuple[list[str], list[Failure]]:
    """The subjects and the failures of a run."""
    report = run(
        EXPERIMENT,
        [],
        EXPERIMENT.readings([ONE_CORE], quick=True),
        ROWS.file(tmp_path / "x.csv"),
        READINGS.file(tmp_path / "x.readings.csv"),
        "c0ffee",
    )
    return [r.subject for r in report.readings], report.failures


def test_a_kernel_that_is_wrong_gives_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(HashlibCpu):
        def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Any:
            return super().tree(segments, chunk_size) ^ 1

    monkeypatch.setattr(end_to_end, "kernel_class", lambda name: Wrong)
    subjects, (failure,) = failed(tmp_path)
    assert isinstance(failure.error, VerificationError)
    assert subjects == []


def test_a_copy_that_changes_a_byte_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = HashlibCpu.put

    def changed(self: Kernel, data: Any) -> Buffer:
        copied = np.array(data)
        copied[-1] ^= 1
        return put(self, copied)  # type: ignore[arg-type]

    monkeypatch.setattr(HashlibCpu, "put", changed)
    subjects, (failure,) = failed(tmp_path)
    assert isinstance(failure.error, VerificationError)
    assert "bert-base: file to verdict gave the root" in str(failure.error)
    assert set(subjects) == {IN_PLACE, COPIED_BACK, FROM_FILE}  # page-locked memory went before


def test_a_host_that_folds_wrongly_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostTree, "fold", lambda self, nodes: [bytes(32)])
    subjects, (failure,) = failed(tmp_path)
    assert f"copied back gave the root {'00' * 32}, not " in str(failure.error)
    assert set(subjects) == {IN_PLACE}


def test_a_file_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"123")
    with pytest.raises(OSError, match="model ended after 3 bytes of 4"):
        end_to_end._read(tmp_path / "model", np.empty(4, np.uint8))


def test_a_model_that_does_not_fit_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = Model("bert-base", "Huge", (Tensor("a", (10**15,), "F32"),))
    monkeypatch.setattr(end_to_end, "MODELS", {"bert-base": huge})
    readings, (skip,) = outcomes()
    assert readings == []
    assert skip.what == "end-to-end: hashlib 1-thread, bert-base"
    assert "2.2 times its 4000000.00 GB do not fit in the device's free memory of " in skip.reason


def test_without_storage_in_memory_the_model_is_still_hashed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(nbytes: int) -> Any:
        raise StorageUnavailable("memory-backed storage is full")

    monkeypatch.setattr(end_to_end, "in_memory", full)
    readings, skips = outcomes()
    assert {r.subject for r in readings} == {IN_PLACE}
    assert skips[-1].reason == "memory-backed storage is full"


def test_without_a_cold_cache_there_is_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "leave_page_cache", lambda path: False)
    readings, skips = outcomes()
    assert not any("disk" in r.storage for r in readings)
    assert skips[-1].what == "end-to-end: hashlib 1-thread, bert-base from a disk"
    assert skips[-1].reason.startswith("the system keeps temporary files in memory")


def test_a_large_model_is_not_read_from_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "LARGEST_ON_DISK", SMALL.nbytes - 1)
    readings, skips = outcomes()
    assert not any("disk" in r.storage for r in readings)
    assert "are read from one" in skips[-1].reason


def test_a_reduction_within_the_noise_is_no_reading() -> None:
    kernel = kernel_class("hashlib")(ONE_CORE, "sha256")
    model = end_to_end._Model("bert-base", kernel, b"")
    found = list(model.readings(IN_PLACE, {"hash": [1.0, 2.0], "reduce": [-1.0, 0.5]}))
    assert [type(one) for one in found] == [Reading, Skip]
    assert isinstance(found[1], Skip)
    assert found[1].what == "in place: reduce seconds (hashlib, bert-base)"


# The figure ----------------------------------------------------------------------------------------------------------


def made_up(kernel: str = "cupy", kind: str = "gpu", model: str = "bert-base") -> list[Reading]:
    """Readings of three ways."""
    found = []
    for subject, memory, seconds in (
        (IN_PLACE, "", {"hash": 0.8, "reduce": 0.1, WHOLE: 1.0}),
        (FROM_FILE, "pageable", {"read": 2.0, "copy": 3.0, "hash": 0.8, "reduce": 0.1, WHOLE: 6.0}),
        (FROM_FILE, "overlapped", {READING_ALONE: 1.5, COPYING_ALONE: 2.25, WHOLE: 2.5}),
    ):
        for stage, value in seconds.items():
            found.append(
                replace(
                    READING,
                    subject=subject,
                    quantity=f"{stage} seconds",
                    unit="s",
                    kernel=kernel,
                    model=model,
                    conditions="",
                    storage="memory" if memory else "",
                    memory=memory,
                    device_kind=kind,
                    median=value,
                    q1=0.9 * value,
                    q3=1.1 * value,
                )
            )
    return found


def test_bars_are_stacked_to_the_total(figures: list[Figure]) -> None:
    EXPERIMENT.figure(Results.of(readings=made_up()), Path("x"))
    (panel,) = figures[0].axes
    labels = [text.get_text() for text in panel.get_yticklabels()]
    assert labels == ["no copy", "pageable", "overlapped"]
    ends: dict[float, float] = {}
    for bar in panel.patches:
        place = bar.get_y() + bar.get_height() / 2  # type: ignore[attr-defined]
        ends[round(place)] = max(ends.get(round(place), 0), bar.get_x() + bar.get_width())  # type: ignore[attr-defined]
    assert ends == pytest.approx({1: 1.0, 3: 6.0, 4: 2.5})
    assert {text.get_text() for text in panel.texts} == {"in place", "1 s", "file to verdict: memory", "6 s", "2.5 s"}
    width = end_to_end._BOUND["linewidth"]
    bounds = [np.asarray(line.get_xydata()).tolist() for line in panel.lines if line.get_linewidth() == width]
    ((low, high),) = bounds  # on the overlapped way alone
    assert low[0] == high[0] == 2.25  # the slower one
    assert panel.get_title(loc="left") == "BERT base uncased, 0.00 GB"
    assert "cupy on NVIDIA H200" in said(figures[0])
    looks = {(p.get_facecolor(), p.get_hatch()) for p in figures[0].legends[0].get_patches()}
    assert len(looks) == len(end_to_end._LOOKS)
    check_legible(figures[0])


def test_a_gpus_figure_has_the_experiments_name(tmp_path: Path) -> None:
    written = EXPERIMENT.figure(Results.of(readings=[*made_up("dpnp", "cpu"), *made_up()]), tmp_path / "end-to-end")
    assert sorted(path.name for path in written) == sorted(
        f"end-to-end{kernel}.{suffix}" for kernel in ("", "_dpnp") for suffix in ("png", "pdf", "svg", "csv")
    )
    with (tmp_path / "end-to-end.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert {line["kernel"] for line in lines} == {"cupy"}
    columns = ("way", "how", "read_seconds", "reading_alone_seconds", "copying_alone_seconds", "total_seconds")
    assert [tuple(line[column] for column in columns) for line in lines] == [
        (IN_PLACE, "", "", "", "", "1.0"),
        (FROM_FILE, "memory, pageable", "2.0", "", "", "6.0"),
        (FROM_FILE, "memory, overlapped", "", "1.5", "2.25", "2.5"),
    ]


def test_ways_without_a_total_are_left_out() -> None:
    assert EXPERIMENT.figure(Results.of(readings=[r for r in made_up() if r.quantity != TOTAL]), Path("x")) == []
