"""A monitor whose reading the workload carries: as any other, whether the workload works, pauses, or is misused.

The kernels are CUDA's, compiled for the host: whoever carries a portion computes it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any

import pytest
from cupy_on_host import CupyOnHost, cupy_on_host
from sweeps import finish_sweeps

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

import hashbench.torch.memory as memory  # noqa: E402  # after what it needs is known to be there
import hashbench.torch.watch as watching  # noqa: E402
from hashbench.torch import Monitor, Portion, manifest  # noqa: E402

pytestmark = pytest.mark.covers("cuda-source-on-host")

CHUNK, SLICE = 64, 256


class Device:
    """What the current device and its current stream do, as PyTorch says."""

    capturing = False
    index: int | None = None


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Host memory passes for a GPU's, in slices so small that little memory has many."""
    if reason := CupyOnHost.devices()[0].unavailable:
        pytest.skip(reason)
    kernel, device = cupy_on_host("sha256"), Device()
    monkeypatch.setattr(watching, "SLICE_SIZE", SLICE)
    monkeypatch.setattr("hashbench.kernels.cupy_cuda.CupyCuda", CupyOnHost)
    monkeypatch.setattr(
        watching,
        "reader_for",
        lambda place, algorithm, *options: (
            memory._OnGpu(kernel, *options) if place.contiguous else memory._Gathering(algorithm, options[0])
        ),
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: device.index)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: device.capturing)
    return device


def model() -> Any:
    """More slices than a piece has, tied weights, a length that ends within a chunk, and an empty buffer."""
    torch.manual_seed(0)
    module = torch.nn.Module()
    module.embedding = torch.nn.Parameter(torch.randn(40, 8))
    module.head = module.embedding
    module.bias = torch.nn.Parameter(torch.randn(19))
    module.strided = torch.nn.Parameter(torch.randn(12, 9).t())
    module.register_buffer("none", torch.empty(0))
    module.register_buffer("freed", torch.empty(0).set_(torch.UntypedStorage(1200), 0, (300,)).fill_(1))
    return module


def watch(watched: Any, **options: Any) -> Monitor:
    given = {"period": 0.05, "budget": 1.0, "order": random.Random(0), "portion": Portion(1, 1, 30.0), **options}
    expected = manifest(deepcopy(watched), chunk_size=CHUNK)  # which looks at tensors through NumPy
    return Monitor(watched, expected, **given)


def bytes_of(tensor: Any) -> Any:
    return tensor.data.view(torch.uint8).numpy().reshape(-1)


@contextmanager
def working(monitor: Monitor) -> Iterator[None]:
    """A workload whose steps carry three portions each."""
    stop = threading.Event()

    def steps() -> None:
        while not stop.is_set():
            with monitor.carrying() as portion:
                for _ in range(3):
                    portion()

    thread = threading.Thread(target=steps)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def place_of(monitor: Monitor) -> Any:
    (place,) = monitor._watch.portions.values()
    return place


def test_what_the_workload_carries_is_read_as_usual() -> None:
    watched = model()
    monitor = watch(watched)
    with working(monitor), monitor:
        finish_sweeps(monitor, 2)
        assert not monitor.findings
        for name, byte in (("embedding", 2 * SLICE), ("bias", 19 * 4 - 1), ("strided", 5)):
            tensor = getattr(watched, name)
            bytes_of(tensor.t() if name == "strided" else tensor)[byte] ^= 2
            before = len(monitor.findings)
            finish_sweeps(monitor, 2)
            (finding,) = monitor.findings[before:]
            assert (finding.kind, finding.tensor) == ("changed", name)
            assert name == "strided" or finding.start <= byte < finding.stop <= finding.start + SLICE
        with monitor.updating(["bias"]):
            watched.bias.data += 1
        watched.bias.data = watched.bias.data.clone()
        finish_sweeps(monitor, 2)
        assert [(one.kind, one.tensor) for one in monitor.findings[3:]] == [("moved", "bias")]
        status = monitor.status()
        assert status.ended is None
        assert status.unconfirmed == 0
    place = place_of(monitor)
    assert place.withdrawn == 0
    assert not place.idle


def test_a_piece_has_no_more_slices_than_a_portion_hashes() -> None:
    watched = model()
    monitor = watch(watched)
    sizes = [len(piece.slices) for piece in monitor._watch._schedule]
    assert max(sizes) == place_of(monitor).capacity == 4


def test_while_the_workload_pauses_it_is_read_nevertheless() -> None:
    watched = model()
    with watch(watched, portion=Portion(1, 1, patience=0.01)) as monitor:
        finish_sweeps(monitor, 2)
        assert place_of(monitor).idle
        bytes_of(watched.embedding)[0] ^= 1
        finish_sweeps(monitor, 2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "embedding")]
        with working(monitor):
            for _ in range(1000):
                if not place_of(monitor).idle:
                    break
                threading.Event().wait(0.005)
            finish_sweeps(monitor, 1)
        assert len(monitor.findings) == 1


def test_a_paused_monitor_posts_nothing_and_a_closed_one_neither() -> None:
    watched = model()
    monitor = watch(watched)
    with working(monitor):
        for stop in (monitor.pause, monitor.close):
            monitor.start()
            finish_sweeps(monitor, 1)
            stop()
            place = place_of(monitor)
            assert not place._left(place._posted)
            watched.bias.data = watched.bias.data.clone()  # and the memory that it had is given back
            monitor.resume()
            monitor.close()
    assert "ended" not in (monitor.status().ended or "")


def test_memory_that_is_gone_is_told() -> None:
    watched = model()
    monitor = watch(watched)
    with working(monitor), monitor:
        watched.freed.untyped_storage().resize_(0)
        finish_sweeps(monitor, 2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("gone", "freed")]


def test_what_cannot_be_carried_is_refused_in_words(device: Device) -> None:
    watched = model()
    with pytest.raises(ValueError, match="not accepted together"):
        watch(watched, multiprocessors=4)
    for portion in (Portion(0, 1), Portion(1, 0)):
        with pytest.raises(ValueError, match="at least one of each"):
            watch(watched, portion=portion)
    with pytest.raises(RuntimeError, match="pass portion="), watch(watched, portion=None).carrying():
        pass
    monitor = watch(watched)
    with monitor.carrying() as carry:
        carry(1e-6)
    with pytest.raises(RuntimeError, match="called after its context"):
        carry()
    device.index = 7
    with pytest.raises(RuntimeError, match="nothing in portions on cuda:7"), monitor.carrying() as carry:
        carry()


def test_a_capture_needs_a_monitor_that_does_not_read_and_ends_after_carrying(device: Device) -> None:
    watched = model()
    monitor = watch(watched, portion=Portion(1, 1, 0.01))
    device.capturing = True
    with monitor:
        with pytest.raises(RuntimeError, match=r"call pause\(\) before"), monitor.carrying() as portion:
            portion()
        monitor.pause()
        with monitor.carrying() as portion:
            portion()
    carrying = monitor.carrying()
    carrying.__enter__()()
    device.capturing = False
    with pytest.raises(RuntimeError, match="the capture ended before"):
        carrying.__exit__(None, None, None)


def test_a_step_that_fails_leaves_the_next_as_it_was() -> None:
    watched = model()
    monitor = watch(watched)
    with suppress(ZeroDivisionError), monitor.carrying() as portion:
        portion()
        raise ZeroDivisionError
    place = place_of(monitor)
    assert not place._to_join
