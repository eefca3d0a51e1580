"""Selection of kernels: the default, and the reasons why a named one is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hashbench.hashing import selection
from hashbench.kernels import KERNELS, Device, Unavailable
from hashbench.kernels.hashlib_cpu import HashlibCpu


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes this machine one that has these devices."""

    def has(*devices: Device) -> None:
        found = {name: tuple(d for d in devices if d.kernel == name) for name in KERNELS}
        missing = {name: (Device(name, unavailable=f"no {name} here"),) for name in KERNELS}
        monkeypatch.setattr(selection, "devices_of", lambda name: found[name] or missing[name])

    return has


CPU = [
    Device("hashlib", "1-thread", kind="cpu"),
    Device("hashlib", "8-threads", kind="cpu"),
    Device("dpnp", "opencl:cpu:0", kind="cpu"),
    Device("opencl", "0:0", kind="cpu"),
    Device("numba-cpu", "8-threads", kind="cpu"),
]


def _best() -> tuple[str, str]:
    device = selection.available()[0]
    return device.kernel, device.id


def test_gpus_come_first_in_the_order_of_their_kernels(machine: Callable[..., None]) -> None:
    gpus = [Device(name, "0", kind="gpu") for name in ("opencl", "dpnp", "triton", "numba-cuda", "cupy")]
    for count in range(1, len(gpus) + 1):
        machine(*CPU, *gpus[:count])
        assert _best() == (gpus[count - 1].kernel, "0")


def test_the_first_gpu_and_the_most_threads_are_taken(machine: Callable[..., None]) -> None:
    machine(*CPU[:2])
    assert _best() == ("hashlib", "8-threads")
    machine(*CPU, Device("cupy", "0", kind="gpu"), Device("cupy", "1", kind="gpu"))
    assert _best() == ("cupy", "0")


def test_processors_own_instructions_go_before_hashlib(machine: Callable[..., None]) -> None:
    machine(*CPU)
    order = ["numba-cpu", "opencl", "dpnp", "hashlib", "hashlib"]
    assert [device.kernel for device in selection.available()] == order


def test_little_is_left_to_hashlib_and_starts_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = {"hashlib": tuple(HashlibCpu.devices())}
    monkeypatch.setattr(selection, "devices_of", alone.__getitem__)
    kernel = selection.choose(nbytes=selection.SMALL - 1)
    assert (kernel.name, kernel.device.id) == ("hashlib", alone["hashlib"][-1].id)


class Started:
    """Stands for a kernel that has started."""

    def __init__(self, device: Device, algorithm: str) -> None:
        self.device = device


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [(0, "hashlib"), (selection.SMALL - 1, "hashlib"), (selection.SMALL, "cupy"), (None, "cupy")],
)
def test_much_or_an_unknown_amount_is_not(
    machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch, nbytes: int | None, expected: str
) -> None:
    monkeypatch.setattr(selection, "kernel_class", lambda name: Started)
    machine(*CPU, Device("cupy", "0", kind="gpu"))
    assert selection.choose(nbytes=nbytes).device.kernel == expected


def test_what_is_named_is_taken_for_little_too(machine: Callable[..., None]) -> None:
    machine(*CPU)
    assert selection.choose("hashlib", nbytes=1).device.id == "8-threads"
    assert selection.choose(device="8-threads", kernel="hashlib", nbytes=1).device.id == "8-threads"


def test_a_device_that_cannot_be_used_is_passed_over(machine: Callable[..., None]) -> None:
    machine(*CPU, Device("cupy", "0", kind="gpu", unavailable="it is asleep"), Device("cupy", "1", kind="gpu"))
    assert _best() == ("cupy", "1")
    with pytest.raises(Unavailable, match="cupy is not available: it is asleep"):
        selection.choose("cupy", "0")


def test_names_that_do_not_exist_are_refused_with_those_that_do(machine: Callable[..., None]) -> None:
    machine(*CPU)
    with pytest.raises(selection.UsageError, match="unknown kernel 'md5': accepted are hashlib, numba-cpu, cupy, "):
        selection.choose("md5")
    with pytest.raises(selection.UsageError, match=r"unknown device '9': accepted are 1-thread, 8-threads$"):
        selection.choose("hashlib", "9")
    with pytest.raises(selection.UsageError, match=r"unknown device '9': accepted are 1-thread \(hashlib\), "):
        selection.choose(device="9")


def test_a_kernel_without_a_device_says_why(machine: Callable[..., None]) -> None:
    machine(*CPU)
    for device in (None, "0"):
        with pytest.raises(Unavailable, match=r"^cupy is not available: no cupy here$"):
            selection.choose("cupy", device)


def test_a_machine_without_any_device_says_why(machine: Callable[..., None]) -> None:
    machine()
    with pytest.raises(Unavailable, match="hashlib is not available: no hashlib here; numba-cpu is not available: no "):
        selection.choose()


def test_what_is_chosen_hashes() -> None:
    kernel = selection.choose("hashlib", "1-thread", "sha384")
    assert isinstance(kernel, HashlibCpu)
    assert (kernel.threads, kernel.algorithm.name) == (1, "sha384")
    with pytest.raises(ValueError, match="unknown algorithm 'md5': accepted are sha256, sha384"):
        selection.choose("hashlib", algorithm="md5")
