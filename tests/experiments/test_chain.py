"""The chain experiment: every link of a small model's chain, with and without bytes in its files, and the judge."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from claim_results import chain as chain_readings
from claim_results import reading
from drawings import check_legible
from matplotlib.figure import Figure

from hashbench.bench.experiment import Skip, run
from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS, Model, Tensor
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import ROWS
from hashbench.experiments import chain, in_place, loading
from hashbench.experiments.chain import (
    BESIDE,
    EVIDENCE,
    EXPERIMENT,
    IMPORT,
    IMPORTED,
    LINKS,
    SIGN,
    TOTAL,
)
from hashbench.experiments.storage import Storage
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import kernel_class
from hashbench.report.findings import Verdict

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed: install hashbench[trust]")

from hashbench.torch import places  # noqa: E402  # after what it needs is known to be there

ONE_CORE = kernel_class("hashlib").devices()[0]
TENSORS = (Tensor("a.weight", (77, 333), "F32"), Tensor("b", (333,), "BF16"), Tensor("c", (9,), "F32"))
SMALL_MODEL = Model("bert-base", "BERT base uncased", TENSORS)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 100 KB in two files, on one core; nothing is imported anew, and there is no public evidence."""
    for module in (chain, loading, in_place):
        monkeypatch.setattr(module, "MODELS", MODELS | {"bert-base": SMALL_MODEL})
    monkeypatch.setattr(loading, "SHARD_SIZE", 103_000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    kernel = kernel_class("hashlib")(ONE_CORE)
    monkeypatch.setattr(places, "place_of", lambda device, algorithm: places.HostMemory(kernel))
    monkeypatch.setattr(chain, "program_output", lambda arguments, timeout: "0.25\n")
    monkeypatch.delenv(chain.SAMPLES, raising=False)

    @contextmanager
    def here(nbytes: int) -> Iterator[Storage]:
        yield Storage(tmp_path, "memory")

    monkeypatch.setattr(chain, "in_memory", here)


def measured(tmp_path: Path) -> Any:
    files = ROWS.file(tmp_path / "chain.csv"), READINGS.file(tmp_path / "chain.readings.csv")
    return run(EXPERIMENT, [], EXPERIMENT.readings([ONE_CORE], quick=True), *files, "c0ffee")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("holes", [False, True])
def test_each_link_has_its_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holes: bool) -> None:
    if holes:
        monkeypatch.setattr(chain, "LARGEST_IN_FILES", 1)
    report = measured(tmp_path)
    assert report.failures == []
    assert [skip.what for skip in report.skips] == ["chain: public evidence"]
    assert READINGS.read(tmp_path / "chain.readings.csv") == report.readings
    assert len({reading.point for reading in report.readings}) == len(report.readings)
    of_links = {(r.subject, r.quantity): r for r in report.readings if r.subject in LINKS}
    assert of_links.keys() == {
        (link, quantity)
        for link in LINKS
        for quantity in (TOTAL, BESIDE)
        if not (holes and quantity == TOTAL and link in LINKS[:2])
    }
    assert {reading.storage for reading in of_links.values()} == {"holes in memory" if holes else "memory", ""}
    assert all(reading.median > 0 for key, reading in of_links.items() if key != ("attest", BESIDE))
    assert [(r.subject, r.median) for r in report.readings if r.quantity == IMPORT] == [(one, 0.25) for one in IMPORTED]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("holes", [False, True])
def test_what_does_not_fit_in_memory_is_not_attested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holes: bool
) -> None:
    monkeypatch.setattr(chain, "room", lambda kernel: 1)
    if holes:
        monkeypatch.setattr(chain, "LARGEST_IN_FILES", 1)
    report = measured(tmp_path)
    assert report.failures == []
    assert {reading.subject for reading in report.readings} & {*LINKS} == (set(LINKS[:2]) if holes else set())
    assert "do not fit" in report.skips[-1].reason


@pytest.mark.usefixtures("short")
def test_a_chain_that_proves_nothing_has_no_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SimpleNamespace(ok=False, lines=lambda: iter(["refused"]))
    monkeypatch.setattr("hashbench.trust.appraisal.appraise", lambda *arguments, **options: wrong)
    report = measured(tmp_path)
    (failure,) = report.failures
    assert isinstance(failure.error, VerificationError)
    assert "appraise" not in {reading.subject for reading in report.readings}


@pytest.mark.usefixtures("short")
def test_files_of_holes_have_the_places_of_files_with_bytes(tmp_path: Path) -> None:
    from hashbench.model.safetensors_header import read_header

    (tmp_path / "bytes").mkdir()
    (tmp_path / "holes").mkdir()
    filled = loading.write_model("bert-base", tmp_path / "bytes", kernel_class("hashlib")(ONE_CORE))
    holes = loading.write_model("bert-base", tmp_path / "holes", None)
    assert [read_header(path).tensors for path in holes] == [read_header(path).tensors for path in filled]
    assert [path.stat().st_size for path in holes] == [path.stat().st_size for path in filled]
    assert not any(holes[0].read_bytes()[-1000:])


def test_what_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "find_spec", lambda package: None if package == "dcap_qvl" else package)
    (skip,) = EXPERIMENT.readings([ONE_CORE], quick=True)
    assert isinstance(skip, Skip)
    assert "dcap_qvl is not installed" in skip.reason


@pytest.mark.parametrize(
    ("readings", "verdict"),
    [
        (chain_readings(0.01, 0.02), Verdict.SUPPORTED),
        (chain_readings(0.01, 0.04), Verdict.IN_PART),
        (chain_readings(0.01, None), Verdict.IN_PART),
        (chain_readings(0.01, 0.02) + chain_readings(0.03, 0.02, "llama-3.1-70b"), Verdict.NOT_SUPPORTED),
        ([], Verdict.NOT_MEASURED),
        ([replace(reading, device_kind="cpu") for reading in chain_readings(0.01, 0.02)], Verdict.NOT_MEASURED),
        ([reading for reading in chain_readings(0.01, 0.02) if reading.subject != SIGN], Verdict.NOT_MEASURED),
    ],
)
def test_all_links_together_are_judged(readings: list[Reading], verdict: Verdict) -> None:
    finding = EXPERIMENT.finding(Results.of([], readings))
    assert finding.verdict is verdict
    if verdict is Verdict.SUPPORTED:
        assert [check.answer for check in finding.checks] == [
            "0.040 s for Llama 3.1 8B on NVIDIA H200.",
            "0.080 s for Llama 3.1 8B on NVIDIA H200.",
        ]
        assert finding.table is not None
        assert finding.table.lines == (("NVIDIA H200", "Llama 3.1 8B", "10", "10", "10", "10", "40", "80"),)


def test_the_figure_has_a_bar_for_each_link(tmp_path: Path, figures: list[Figure]) -> None:
    readings = chain_readings(0.01, 0.02) + chain_readings(0.02, None, "llama-3.1-70b")
    readings += [reading(1.0, subject=what, quantity=IMPORT, unit="s", conditions="") for what in IMPORTED]
    written = EXPERIMENT.figure(Results.of([], readings), tmp_path / "chain")
    check_legible(figures[0])
    assert "Llama 3.1 70B: all links together take 80 ms beside hashing" in " ".join(figures[0].get_suptitle().split())
    with written[-1].open() as file:
        table = list(csv.DictReader(file))
    assert [line["name"] for line in table] == [*LINKS, *LINKS, *EVIDENCE, *IMPORTED]
    assert table[0]["text"] == "10; in all 3 s"
    assert EXPERIMENT.figure(Results.of(), tmp_path / "none") == []
