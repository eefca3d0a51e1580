"""A model in GPU memory under watch: what is found, while it works and whatever becomes of its memory."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from sweeps import finish_sweeps

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
if not torch.cuda.is_available():
    pytest.skip("PyTorch finds no GPU of CUDA or ROCm here", allow_module_level=True)

from hashbench.kernels import kernel_class  # noqa: E402
from hashbench.torch import Monitor, Portion, manifest  # noqa: E402

pytestmark = pytest.mark.covers("torch-cuda")

WAYS: dict[str, dict[str, Any]] = {
    "short launches": {},
    "few multiprocessors": {"multiprocessors": 4},
    "carried": {"portion": Portion(4, 33)},
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options of a monitor: how it reads."""
    way = WAYS[request.param]
    if "portion" in way:
        needs_carrying()
    return way


def needs_carrying() -> None:
    """Skips the test where nothing can be carried."""
    if torch.version.hip or kernel_class("cupy").devices()[0].unavailable:
        pytest.skip("portions are carried on NVIDIA's GPUs, with CuPy")


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(1024, 1000) for _ in range(6)]
    module = torch.nn.Sequential(torch.nn.Embedding(3001, 513), *layers).cuda()
    module[3].weight = module[2].weight
    module.register_buffer("turned", torch.randn(300, 70, device="cuda").t())
    return module


def watch(model: Any, **options: Any) -> Monitor:
    return Monitor(model, manifest(model), **{"period": 0.2, "budget": 1.0, "order": random.Random(0), **options})


def carry_nothing(after: float) -> None:
    """In place of a monitor's portion."""


@contextmanager
def working(monitor: Monitor, way: dict[str, Any]) -> Iterator[None]:
    """A workload of another memory, which carries portions where the monitor is to be carried."""
    x, stream, graph, stop = (
        torch.randn(512, 512, device="cuda"),
        torch.cuda.Stream(),
        torch.cuda.CUDAGraph(),
        threading.Event(),
    )
    x @ x  # so that cuBLAS has its memory
    torch.cuda.synchronize()
    with (
        torch.cuda.graph(graph, stream=stream),
        monitor.carrying() if "portion" in way else nullcontext(carry_nothing) as carry,
    ):
        for after in (0.0, 2e-6, 0.0):
            carry(after)
            x @ x

    def steps() -> None:
        with torch.cuda.stream(stream):
            while not stop.is_set():
                graph.replay()
                stream.synchronize()

    thread = threading.Thread(target=steps)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_flipped_bit_is_found_while_the_gpu_works(model: Any, way: dict[str, Any]) -> None:
    drawn = random.Random(1)
    monitor = watch(model, **way)
    with working(monitor, way), monitor:
        for name, tensor in model.named_parameters():
            memory = tensor.data.view(torch.uint8).view(-1)
            byte = drawn.choice([0, len(memory) - 1, drawn.randrange(len(memory))])
            before = len(monitor.findings)
            memory[byte] ^= 1 << drawn.randrange(8)
            torch.cuda.synchronize()
            finish_sweeps(monitor, 2)
            (finding,) = monitor.findings[before:]
            assert finding.kind == "changed"
            assert finding.tensor == name
            assert finding.start <= byte < finding.stop
        assert monitor.status().unconfirmed == 0
        for place in monitor._watch.portions.values():
            assert not place.idle
            assert place.withdrawn <= 1  # before the first step


def test_while_the_workload_pauses_the_monitor_reads_nevertheless(model: Any) -> None:
    needs_carrying()
    way = WAYS["carried"]
    monitor = watch(model, **way)
    with working(monitor, way), monitor:
        finish_sweeps(monitor, 1)
    with monitor:
        finish_sweeps(monitor, 2)
        (place,) = monitor._watch.portions.values()
        assert place.idle
        model[1].bias.data[7] += 1
        finish_sweeps(monitor, 2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "1.bias")]


def test_a_capture_that_cannot_carry_says_why_and_the_next_one_can(model: Any) -> None:
    needs_carrying()
    x = torch.ones(8, device="cuda")
    with watch(model, **WAYS["carried"]) as monitor, pytest.raises(RuntimeError, match=r"call pause\(\) before"):
        capture(monitor, x)
    with pytest.raises(RuntimeError, match="the capture ended before"):
        capture_inside_out(monitor, x)
    graph = capture(monitor, x)
    x.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert x.sum().item() == 8


def capture(monitor: Monitor, x: Any) -> Any:
    graph = torch.cuda.CUDAGraph()
    # In the usual mode, the memory that the monitor's thread allocates would end the capture before it is refused.
    with torch.cuda.graph(graph, capture_error_mode="relaxed"), monitor.carrying() as portion:
        x.add_(1)  # before, since PyTorch warns of graphs that are empty
        portion()
    return graph


def capture_inside_out(monitor: Monitor, x: Any) -> None:
    with monitor.carrying() as portion, torch.cuda.graph(torch.cuda.CUDAGraph()):
        portion()
        x.add_(1)


def test_other_memory_is_found_too(model: Any) -> None:
    with watch(model) as monitor:
        finish_sweeps(monitor, 2)
        assert not monitor.findings
        model.turned[0, 0] += 1
        finish_sweeps(monitor, 2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "turned")]


def test_a_model_that_is_moved_freed_and_given_back_crashes_nothing(model: Any, way: dict[str, Any]) -> None:
    monitor = watch(model, **way)
    with working(monitor, way), monitor:
        finish_sweeps(monitor, 1)
        model.to("cpu")
        torch.cuda.empty_cache()
        finish_sweeps(monitor, 2)
        assert {one.kind for one in monitor.findings} == {"moved"}
        model.to("cuda")
        finish_sweeps(monitor, 2)
        for _ in range(20):
            model[4].weight.data = torch.randn(500, 1024, device="cuda")
            torch.cuda.empty_cache()
        finish_sweeps(monitor, 2)
        assert ("changed", "4.weight") in {(one.kind, one.tensor) for one in monitor.findings}
        monitor.pause()
        model.to("meta")
        gc.collect()
        torch.cuda.empty_cache()
        monitor.resume()
        threading.Event().wait(0.5)
        assert monitor.status().ended is None
        assert "gone" in monitor.status().findings
    assert torch.ones(3, device="cuda").sum().item() == 3  # the context is alive


def test_updates_are_lawful(model: Any, way: dict[str, Any]) -> None:
    monitor = watch(model, **way)
    with working(monitor, way), monitor:
        for _ in range(5):
            with monitor.updating(["1.weight", "2.weight"]):
                with torch.no_grad():
                    model[1].weight.mul_(1.5)
                    model[2].weight.add_(1)
                torch.cuda.synchronize()
            finish_sweeps(monitor, 1)
        assert not monitor.findings
