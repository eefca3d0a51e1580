"""What hashing costs a workload: the decoder, how its steps are counted, and what is concluded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from claim_results import MachineResults, results_of
from claim_results import beside as beside_results
from cupy_on_host import CupyOnHost, cupy_on_host
from drawings import check_legible, said
from matplotlib.figure import Figure

from hashbench.bench.experiment import Skip
from hashbench.bench.frames import Results, together
from hashbench.bench.inventories import MODELS
from hashbench.bench.sweeps import CHUNK_SIZE, MiB
from hashbench.experiments import beside
from hashbench.experiments.beside import DECODE_8, DECODE_64, EXPERIMENT, Bench, Hashing, Schedule
from hashbench.experiments.decoder import SMALLER, Decoder, Steps
from hashbench.kernels import Device
from hashbench.kernels.portions import Portions
from hashbench.report.findings import Verdict

GPU = Device("cupy", "0", "NVIDIA H100", "NVIDIA", "gpu", "cupy 14", "CUDA 13.0")


def results(points: Sequence[tuple[str, float, float, float]], workload: str = DECODE_64, gpu: str = "H200") -> Results:
    """What schedules verify, and which shares they cost."""
    machine = beside_results(*points, workload=workload)
    readings = [replace(one, device_name=gpu) for one in machine.readings]
    return results_of([MachineResults(gpu, [], readings)])


@pytest.mark.parametrize(
    ("points", "passed"),
    [
        ([("a", 14, 0.0099, 0.0199), ("b", 50, 0.0299, 0.5)], [True, True, True]),
        ([("a", 13.8, 0.002, 0.001), ("b", 49.5, 0.02, 0.5)], [True, True, True]),  # within the margin of a rate
        ([("a", 13, 0.001, 0.001), ("b", 55, 0.02, 0.03)], [False, False, True]),  # 13 are not 14
        ([("a", 20, 0.005, 0.03), ("b", 20, 0.006, 0.01)], [True, False, False]),  # the same schedule, and none does 50
        ([("a", 14, 0.0101, 0.01), ("b", 60, 0.031, 0.5)], [False, True, False]),
        ([("a", 2, 0.0, 0.0)], [False, False]),
    ],
)
def test_the_verdict_follows_from_the_rule(
    points: Sequence[tuple[str, float, float, float]], passed: Sequence[bool]
) -> None:
    finding = EXPERIMENT.finding(results(points))
    assert [check.passed for check in finding.checks] == passed
    assert finding.verdict is (
        Verdict.SUPPORTED if all(passed) else Verdict.IN_PART if any(passed) else Verdict.NOT_SUPPORTED
    )
    assert finding.table is not None


def test_only_batches_of_64_decide_and_the_worst_gpu() -> None:
    good = [("a", 50, 0.001, 0.001)]
    assert EXPERIMENT.finding(results(good, DECODE_8)).verdict is Verdict.NOT_MEASURED
    finding = EXPERIMENT.finding(together([results(good), results([("a", 50, 0.5, 0.5)], gpu="H100")]))
    assert not any(check.passed for check in finding.checks)
    assert "H100" in finding.checks[0].answer


def test_the_figure_shows_every_point(figures: list[Figure], tmp_path: Path) -> None:
    names = [schedule.name for schedule in beside.SCHEDULES[DECODE_64]]
    assert len(set(names)) == len(names)
    points = [(name, 5.0 + 3 * place, 0.001 * place**1.5, 0.01) for place, name in enumerate(names)]
    EXPERIMENT.figure(together([results(points), results(points[:5], DECODE_8)]), tmp_path / "beside")
    (figure,) = figures
    check_legible(figure)
    assert "GB/s verified beside a decoder cost" in said(figure)
    assert [len(panel.get_lines()) for panel in figure.axes] == [len(names) + 1 + len(beside.GOALS), 5 + 1]


def test_without_a_gpu_or_a_package_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    (skip,) = EXPERIMENT.readings([Device("cupy", unavailable="none")], quick=True)
    assert isinstance(skip, Skip)
    monkeypatch.setattr(beside, "find_spec", lambda name: None)
    (skip,) = EXPERIMENT.readings([GPU], quick=True)
    assert isinstance(skip, Skip)
    assert "install hashbench[torch,beside]" in skip.reason


class Counted:
    """A work that takes a millisecond."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    def start(self) -> None:
        self.started += 1

    def wait(self) -> float:
        sleep(0.001)
        self.ended += 1
        return 0.001


@pytest.mark.parametrize("rate", [None, 5e8])
def test_hashing_keeps_its_rate_and_waits_for_all(rate: float | None) -> None:
    works: list[Any] = [Counted(), Counted(), Counted()]
    with Hashing(works, 10**7, rate) as hashing:
        sleep(0.5)
        speed = hashing.speed()
    assert all(work.started == work.ended > 2 for work in works)
    assert 0.3 <= speed <= (0.6 if rate else 10.0)  # 10 MB every 20 ms, or at most every millisecond


def test_steps_have_a_mean_and_a_p99() -> None:
    steps = Steps(tuple(float(value) for value in range(1, 201)))
    assert steps.mean == 100.5
    assert steps.p99 == 199.0
    assert Steps((3.0, 1.0)).p99 == 3.0


def test_the_decoder_decodes_at_the_end_of_its_context_every_time() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
    pytest.importorskip("transformers", reason="transformers is not installed: install hashbench[beside]")
    decoder = Decoder(SMALLER, torch.device("cpu"), compiled=False)
    seen: list[int] = []
    hook = decoder.model.model.register_forward_pre_hook(
        lambda module, args, options: seen.append(int(options["position_ids"][0, 0])), with_kwargs=True
    )
    step = decoder.decoding(3)
    for _ in range(3):
        step()
    assert seen == [511] * 3
    hook.remove()
    decoder.prefilling(16)()
    assert {weight.dtype for weight in decoder.model.parameters()} == {torch.bfloat16}


def test_pieces_are_the_weights_in_order() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
    model = SimpleNamespace(parameters=lambda: iter([torch.zeros(5 << 20, dtype=torch.uint8), torch.zeros(3 << 20)]))
    pieces = list(beside._pieces(model, 2 << 20))
    assert [sum(map(len, piece)) for piece in pieces] == [2 << 20] * 8
    assert max(len(part) for piece in pieces for part in piece) == beside.SLICE


def test_a_schedule_says_what_it_is() -> None:
    assert Schedule(multiprocessors=4, rate=14).name == "4 SMs, 56MiB at 14 GB/s"
    (carried,) = beside._carried(32, blocks=9, beside=["values", "down"], rate=14)
    assert carried.name == (
        "in the workload's graph, 32 groups, 9 blocks of chunks of 8KiB, beside values and down after 20 µs, at 14 GB/s"
    )
    assert carried.piece == 128 * MiB
    (carried,) = beside._carried(44, every=3, chunk_size=CHUNK_SIZE)
    assert carried.name == "in the workload's graph, 44 groups, beside down of one layer in 3 after 20 µs"


def test_whole_slices_are_those_of_the_weights() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
    model = SimpleNamespace(parameters=lambda: iter([torch.zeros(5 << 20, dtype=torch.uint8), torch.zeros(700 << 10)]))
    pieces = list(beside._whole_slices(model, 1 << 20, 2 << 20))
    assert [[len(part) for part in piece] for piece in pieces] == [[1 << 20] * 2] * 3


@dataclass(frozen=True)
class Weight:
    """Memory that nobody reads."""

    address: int
    nbytes: int

    def data_ptr(self) -> int:
        return self.address


def weights() -> Iterator[Weight]:
    """Those of the model that decodes, by their sizes."""
    address = 1 << 40
    for tensor in MODELS[beside.MODEL].tensors:
        yield Weight(address, tensor.nbytes)
        address += tensor.nbytes


CARRIED = {schedule for schedules in beside.SCHEDULES.values() for schedule in schedules if schedule.groups}


@pytest.mark.covers("cuda-source-on-host")
@pytest.mark.parametrize(
    "schedule", [pytest.param(schedule, id=schedule.name) for schedule in sorted(CARRIED, key=lambda one: one.name)]
)
def test_what_a_graph_carries_can_be_prepared(schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = cupy_on_host("sha256")
    monkeypatch.setattr(kernel, "tree", lambda segments, chunk_size: np.zeros((len(segments), 32), np.uint8))
    monkeypatch.setattr(Portions, "carry", lambda *_: None)  # which would run all groups on the host
    bench: Any = Bench.__new__(Bench)
    bench._kernel, bench._decoder, bench._portions = (
        kernel,
        SimpleNamespace(model=SimpleNamespace(parameters=weights)),
        {},
    )
    monkeypatch.setattr("hashbench.kernels.cupy_cuda.CupyCuda", CupyOnHost)
    place = bench._portions[schedule] = bench._place(schedule)
    works = bench._prepared(schedule)
    assert len(works) == beside.PIECES
    assert len(works[0].expected) <= place.capacity == 4 * schedule.groups
    assert schedule.piece == len(works[0].expected) * beside.CARRIED_CHUNKS * schedule.chunk_size


def test_a_window_is_long_enough_for_what_is_measured_in_it() -> None:
    rated = [one for schedules in beside.SCHEDULES.values() for one in schedules if one.rate]
    assert min(1e9 * one.rate * beside.SECONDS / one.piece for one in rated if one.rate) > 4


def test_some_layers_carry_portions() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
    layers = [torch.nn.ModuleDict({"down": torch.nn.Identity()}) for _ in range(5)]
    decoder: Any = Decoder.__new__(Decoder)
    decoder.model = SimpleNamespace(model=SimpleNamespace(layers=layers))
    under_way: list[int] = []
    carried: list[int] = []
    with decoder.calling(lambda: carried.append(under_way[-1]), ["down"], every=2):
        for place, layer in enumerate(layers):
            under_way.append(place)
            layer["down"](place)
    assert carried == [0, 2, 4]
