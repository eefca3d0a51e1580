"""What every kernel reports about its devices."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest
from kernels_here import CLASSES, devices

from hashbench.kernels import Device, Kernel


def parameters() -> Sequence[object]:
    """Every device. An unavailable one is skipped; it leaves its kernel covered if the kernel has another."""
    found = []
    for cls, device in devices():
        works = [d for c, d in devices() if c is cls and d.unavailable is None]
        marks = [pytest.mark.covers(cls.name)] if device in works or not works else []
        if device.unavailable is not None:
            marks.append(pytest.mark.skip(reason=f"{cls.name}: {device.unavailable}"))
        found.append(pytest.param(cls, device, id=f"{cls.name}-{device.id or 'none'}", marks=marks))
    return found


@pytest.mark.parametrize(("cls", "device"), parameters())
def test_an_available_device_is_described(cls: type[Kernel], device: Device) -> None:
    assert device.kernel == cls.name
    assert device.kind in ("cpu", "gpu")
    for word in (device.id, device.name, device.vendor, device.framework, device.driver):
        assert word
        assert word == word.strip()
        assert "\n" not in word


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.name)
def test_a_kernel_lists_its_devices(cls: type[Kernel]) -> None:
    found = cls.devices()
    assert found
    assert len({device.id for device in found}) == len(found)
    for device in found:
        assert device.kernel == cls.name
        if device.unavailable is not None:
            assert device.unavailable.strip()
            assert "\n" not in device.unavailable


def test_frameworks_leave_how_programs_are_started() -> None:
    assert devices()
    assert getattr(subprocess, "_USE_VFORK")  # noqa: B009  # a constant for mypy
