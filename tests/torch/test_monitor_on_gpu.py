"""A model in GPU memory under watch: what is found, while it works and whatever becomes of its memory."""

from __future__ import annotations

import gc
import random
import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
if not torch.cuda.is_available():
    pytest.skip("PyTorch finds no GPU of CUDA or ROCm here", allow_module_level=True)

from hashbench.torch import Monitor, manifest  # noqa: E402

pytestmark = pytest.mark.covers("torch-cuda")


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


def sweeps(monitor: Monitor, count: int) -> None:
    end, pause = monitor.status().sweeps + count, threading.Event()
    for _ in range(4000):
        if monitor.status().sweeps >= end or monitor.status().ended:
            return
        pause.wait(0.005)
    raise AssertionError("the sweeps do not end")


@pytest.mark.parametrize("multiprocessors", [None, 4])
def test_a_flipped_bit_is_found_while_the_model_works(model: Any, multiprocessors: int | None) -> None:
    drawn = random.Random(1)
    data = torch.randn(64, 1024, device="cuda")
    with watch(model, multiprocessors=multiprocessors) as monitor:
        for name, tensor in model.named_parameters():
            for _ in range(50):
                model[5](data)
            memory = tensor.data.view(torch.uint8).view(-1)
            byte = drawn.choice([0, len(memory) - 1, drawn.randrange(len(memory))])
            before = len(monitor.findings)
            memory[byte] ^= 1 << drawn.randrange(8)
            torch.cuda.synchronize()
            sweeps(monitor, 2)
            (finding,) = monitor.findings[before:]
            assert finding.kind == "changed"
            assert finding.tensor == name
            assert finding.start <= byte < finding.stop
        assert monitor.status().unconfirmed == 0


def test_other_memory_is_found_too(model: Any) -> None:
    with watch(model) as monitor:
        sweeps(monitor, 2)
        assert not monitor.findings
        model.turned[0, 0] += 1
        sweeps(monitor, 2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "turned")]


def test_a_model_that_is_moved_freed_and_given_back_crashes_nothing(model: Any) -> None:
    with watch(model) as monitor:
        sweeps(monitor, 1)
        model.to("cpu")
        torch.cuda.empty_cache()
        sweeps(monitor, 2)
        assert {one.kind for one in monitor.findings} == {"moved"}
        model.to("cuda")
        sweeps(monitor, 2)
        for _ in range(20):
            model[4].weight.data = torch.randn(500, 1024, device="cuda")
            torch.cuda.empty_cache()
        sweeps(monitor, 2)
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


def test_updates_are_lawful(model: Any) -> None:
    with watch(model) as monitor:
        for _ in range(5):
            with monitor.updating(["1.weight", "2.weight"]):
                with torch.no_grad():
                    model[1].weight.mul_(1.5)
                    model[2].weight.add_(1)
                torch.cuda.synchronize()
            sweeps(monitor, 1)
        assert not monitor.findings
