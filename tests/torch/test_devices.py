"""Streams and events are those of a device's own module: here of torch.cuda, with and without a GPU."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

from hashbench.kernels import Unavailable  # noqa: E402
from hashbench.torch.devices import all_done, indexed, on_stream, stream_on  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


def test_a_gpu_is_the_current_one_unless_it_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert indexed(torch.device("cuda")) == GPU
    assert indexed(torch.device("cuda", 0)) == torch.device("cuda", 0)
    assert indexed(CPU) is CPU
    with pytest.raises(
        Unavailable, match=r"^tensors on mps cannot be hashed in place: only those on cpu, cuda and xpu"
    ):
        indexed(torch.device("mps"))


def test_tensors_of_a_gpu_are_written_on_its_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    current: dict[Any, object] = {GPU: object()}
    monkeypatch.setattr(torch.cuda, "current_stream", current.__getitem__)
    assert stream_on(GPU, None) is current[GPU]
    assert stream_on(CPU, None) is None
    with pytest.raises(
        TypeError, match=r"^int is not accepted: the stream must be a torch\.cuda\.Stream or a torch\.x"
    ):
        stream_on(CPU, 1)


def test_threads_sleep_while_they_wait_for_a_stream_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[Any] = []
    stream: Any = SimpleNamespace(device=GPU)

    class Event:
        def __init__(self, **options: Any) -> None:
            did.append(options)
            self.record, self.synchronize = did.append, lambda: did.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    wait = all_done(stream)
    assert did == [{"blocking": True}, stream]
    wait()
    assert did[2:] == ["waited"]


def test_what_is_enqueued_goes_to_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[Any] = []

    @contextmanager
    def entered(stream: Any) -> Any:
        inside.append(stream)
        yield
        inside.pop()

    monkeypatch.setattr(torch.cuda, "stream", entered)
    stream: Any = SimpleNamespace(device=GPU)
    with on_stream(stream):
        assert inside == [stream]
    with on_stream(None):
        assert inside == []
