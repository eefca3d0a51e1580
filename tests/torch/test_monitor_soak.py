"""A monitor that runs for long keeps neither memory nor file handles.

`make test-thorough` runs it for a minute; HASHBENCH_SOAK_SECONDS=3600 makes it an hour.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import random
from collections.abc import Iterator
from itertools import count
from time import monotonic, sleep
from typing import Any

import psutil
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
client = pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: install hashbench[watch]")

from hashbench.torch import Monitor, manifest  # noqa: E402  # after what it needs is known to be there

GROWTH = 4 << 20
"""Bytes by which the process may grow after its first tenth."""


def kept(process: psutil.Process) -> tuple[int, int]:
    """The bytes and the handles of a process, without what allocators keep of memory that they were given back.

    That is 2 to 12 MB here, since tensors of a megabyte come and go.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return process.memory_info().rss, process.num_fds()


def events(model: Any, monitor: Monitor, drawn: random.Random) -> Iterator[int]:
    """Everything that happens to a model in service, again and again; yields how many findings it makes."""
    layer = model[drawn.randrange(len(model))]
    with (
        torch.no_grad(),
        monitor.updating([name for name, tensor in model.named_parameters() if tensor is layer.weight]),
    ):
        layer.weight.mul_(-1)
    yield 0
    monitor.pause()
    layer.weight.data = layer.weight.data.clone()
    monitor.resume()
    yield 1
    memory = layer.bias.data.view(torch.uint8)
    byte = drawn.randrange(len(memory))
    memory[byte] ^= 1
    yield 1
    memory[byte] ^= 1
    yield 0
    model.register_buffer("more", torch.ones(10))
    yield 1
    del model.more
    yield 0


@pytest.mark.thorough
def test_nothing_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "hashbench.torch.monitor")  # pytest would keep every record
    seconds = float(os.environ.get("HASHBENCH_SOAK_SECONDS", "60"))
    drawn = random.Random(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 1000 + 100 * size) for size in range(8)))
    registry = client.CollectorRegistry()
    process = psutil.Process()
    begin = monotonic()
    sizes: list[tuple[int, int]] = []
    expected = 0
    with Monitor(model, manifest(model), period=0.05, budget=0.5, registry=registry) as monitor:
        for _ in count():
            for made in events(model, monitor, drawn):
                expected += made
                end = monitor.status().sweeps + 3
                while monitor.status().sweeps < end:
                    assert monitor.status().ended is None
                    sleep(0.01)
            client.generate_latest(registry)
            assert sum(monitor.status().findings.values()) == expected
            if monotonic() - begin > 0.1 * seconds:
                sizes.append(kept(process))
            if monotonic() - begin > seconds and len(sizes) > 1:
                break
    first, last = sizes[0], sizes[-1]
    print(f"{monitor.status().sweeps} sweeps, {expected} findings, bytes and handles: {first}, {last}")
    assert last[0] - first[0] < GROWTH
    assert last[1] <= first[1]
