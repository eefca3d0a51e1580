"""The memory that a call takes beside its input, as a counter of the memory in use tells it."""

from __future__ import annotations

import sys
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from kernels_here import build, cases

from hashbench.bench import measurement
from hashbench.bench.inventories import Model, Tensor
from hashbench.experiments import device_memory
from hashbench.experiments.device_memory import peak_beside_input, peak_beside_model
from hashbench.kernels import Buffer, OutOfDeviceMemory, Unavailable, kernel_class
from hashbench.kernels.device_kernel import DeviceKernel
from hashbench.kernels.hashlib_cpu import HashlibCpu

KiB, MiB = 1 << 10, 1 << 20
ONE_CORE = kernel_class("hashlib").devices()[0]


@pytest.fixture(autouse=True)
def one_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "WORKING_SET", 1)


def test_digests_and_tables_are_counted_and_the_input_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    device_kernel = build(cases()[-1], "sha384")
    if not isinstance(device_kernel, DeviceKernel):
        pytest.skip("there is no kernel here that allocates memory of a device")
    taken = [0]
    allocate = device_kernel.allocate

    def counting(nbytes: int) -> Buffer:
        taken[0] += nbytes
        return allocate(nbytes)

    monkeypatch.setattr(device_kernel, "allocate", counting)
    peak = peak_beside_input(device_kernel, [MiB + 5, 300, 0], KiB, lambda: taken[0])
    digests = (1025 + 1 + 1) * device_kernel.algorithm.digest_size
    assert digests < peak < digests + 1000


def test_memory_that_is_not_counted_gives_no_peak() -> None:
    kernel = kernel_class("hashlib")(ONE_CORE)
    with pytest.raises(Unavailable, match=r"is not counted: 1,048,576 bytes were allocated, but 0 more are reported"):
        peak_beside_input(kernel, [MiB], KiB, lambda: 7)


def test_a_peak_below_the_drivers_step_is_none() -> None:
    kernel = kernel_class("hashlib")(ONE_CORE)
    levels = iter((0, MiB))
    with pytest.raises(Unavailable, match="did not grow: the call takes less than the driver"):
        peak_beside_input(kernel, [MiB], KiB, lambda: next(levels, MiB))


def test_a_peak_in_between_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    level, seen = [100], Event()

    def used() -> int:
        if level[0] == 900:
            seen.set()
        return level[0]

    with device_memory._Highest(used) as highest:
        level[0] = 900
        assert seen.wait(60)
        level[0] = 200
    assert highest.value == 900


def test_the_process_of_its_own_says_why_there_is_no_peak() -> None:
    # NVML is missing, or is there and does not count the host's memory.
    with pytest.raises(Unavailable, match=r"NVML is not available|is not counted"):
        peak_beside_model(ONE_CORE, "sha256", ["bert-base"], 4 * KiB)


def model(name: str, *sizes: int) -> Model:
    return Model(name, name, tuple(Tensor(str(i), (size,), "U8") for i, size in enumerate(sizes)))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What stands in for NVML with two GPUs, and the bytes in use that it tells of the second one."""
    in_use = [1000]
    fake: Any = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetNVMLVersion=lambda: "12.575",
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(used=in_use[0] if gpu else 50),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    models = [model("small", 100 * KiB, 7), model("middle", MiB, 64), model("large", 8 * MiB)]
    monkeypatch.setattr(device_memory, "MODELS", {one.name: one for one in models})
    monkeypatch.setattr(Tensor, "nbytes", property(lambda tensor: tensor.elements))
    return in_use


def peak(monkeypatch: pytest.MonkeyPatch, in_use: list[int], room: int, *names: str) -> device_memory.Peak:
    class Narrow(HashlibCpu):
        """With a pool, which holds what an allocation that failed had taken until then."""

        pool = 0

        def random(self, nbytes: int, seed: int) -> Buffer:
            if nbytes > room:
                in_use[0] += room
                self.pool += room
                raise OutOfDeviceMemory(self.device, nbytes)
            taken = max(0, nbytes - self.pool)
            self.pool -= nbytes - taken
            in_use[0] += taken
            return super().random(nbytes, seed)

        def trim(self) -> None:
            in_use[0] -= self.pool
            self.pool = 0

        def prepare(self, *arguments: Any) -> Any:
            in_use[0] += 4321
            return super().prepare(*arguments)

    monkeypatch.setattr(device_memory, "kernel_class", lambda name: Narrow)
    return device_memory._peak_in_this_process(ONE_CORE, "sha384", names, KiB)


def test_the_largest_model_that_fits_is_measured(monkeypatch: pytest.MonkeyPatch, nvml: list[int]) -> None:
    found = peak(monkeypatch, nvml, 2 * MiB, "small", "middle", "large")
    assert found == device_memory.Peak("middle", 4321, "NVML 12.575")
    assert peak(monkeypatch, nvml, 2 * MiB, "small").model == "small"


def test_where_no_model_fits_that_is_said(monkeypatch: pytest.MonkeyPatch, nvml: list[int]) -> None:
    with pytest.raises(Unavailable, match="none of small, large fits on"):
        peak(monkeypatch, nvml, 1 * KiB, "small", "large")
