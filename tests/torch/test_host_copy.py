"""Host memory that is given back while a monitor reads it: that is told, and does not end the process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

import hashbench.torch.memory as memory  # noqa: E402  # after what it needs is known to be there
from hashbench.torch import Monitor, manifest  # noqa: E402
from hashbench.torch.host_copy import HostCopy, can_copy  # noqa: E402

PROGRAM = """
import json, os, random, sys
import torch
import hashbench.torch.memory as memory
from hashbench.torch.modules import manifest
from hashbench.torch.watch import Watch

def mapped():
    with open(sys.argv[1], "wb") as file:
        file.truncate(4 << 20)
    return torch.from_file(sys.argv[1], shared=False, size=1 << 20, dtype=torch.float32)

def freed(tensor):
    tensor.untyped_storage().resize_(0)

CASES = {  # the first two so large that the allocator unmaps what is freed
    "contiguous": (lambda: torch.ones(9 << 20), freed),
    "turned": (lambda: torch.ones(3 << 10, 3 << 10).t(), freed),
    "mapped": (mapped, lambda tensor: os.truncate(sys.argv[1], 0)),
}
hold = memory._hold
for case, (make, give_back) in CASES.items():
    tensor, found = make(), []
    watched = {case: tensor, "small": torch.ones(3)}
    expected = manifest({case: make().clone(), "small": torch.ones(3)}, chunk_size=1 << 16)
    watch = Watch(watched, expected, None, (), 10.0, random.Random(0), 0.0, found.append)

    def held_and_given_back(ranges):
        held = hold(ranges)
        give_back(tensor)
        return held

    memory._hold, now = held_and_given_back, 0.0
    while now < 50:
        watch.step(now)
        now += watch.wait(now) + 1e-3
    memory._hold = hold
    print(json.dumps([[one.kind, one.tensor] for one in found]), flush=True)
"""


def test_memory_that_is_given_back_while_it_is_read_is_gone(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "file")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == [[["gone", case]] for case in ("contiguous", "turned", "mapped")]


def test_ranges_are_copied_one_behind_another() -> None:
    data = np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)
    copy = HostCopy(4096)
    for _ in range(2):
        assert copy.take([data[7:3007], data[:0], data[4001:4901]])
        assert copy.data[:3900].tobytes() == data[7:3007].tobytes() + data[4001:4901].tobytes()
        data += 1


@pytest.mark.parametrize("reason", ["not permitted", "memfd_create"])
def test_where_no_copy_is_possible_memory_is_read_in_place_and_that_is_told(
    reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def forbidden(name: str) -> int:
        raise PermissionError("not permitted")

    if reason == "not permitted":
        monkeypatch.setattr("os.memfd_create", forbidden)
    else:  # as outside Linux
        monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr(memory, "can_copy", can_copy.__wrapped__)
    state: dict[str, Any] = {"flat": torch.ones(100), "turned": torch.ones(3, 4).t()}
    monitor = Monitor(state, manifest({name: tensor.clone() for name, tensor in state.items()}))
    assert "read in place, since the system makes no file in memory (" in caplog.text
    assert reason in caplog.text
    for name, tensor in state.items():
        tensor[0] = 2
        with caplog.at_level(logging.CRITICAL), pytest.raises(ZeroDivisionError), monitor.updating([name]):
            raise ZeroDivisionError
    assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "flat"), ("changed", "turned")]


def test_a_tensor_that_is_resized_before_it_is_gathered_in_place_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "can_copy", lambda: False)  # as on a GPU
    tensor = torch.ones(30, 40).t()
    tensor.untyped_storage().resize_(0)
    with pytest.raises(memory.Elsewhere):
        memory._Gathering("sha256", 64).root(tensor)
