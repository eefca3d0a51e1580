"""The kernel `dpnp` from the program that ships compiled, on devices that also take OpenCL C: as Level Zero gets it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hashbench.kernels import Device
from hashbench.kernels.dpnp_sycl import DpnpSycl, from_spirv


class DpnpSpirv(DpnpSycl):
    """It leaves the size of sub-groups to the driver."""

    name = "dpnp-spirv"

    @classmethod
    def devices(cls) -> list[Device]:
        return [replace(device, kernel=cls.name) for device in super().devices()]

    def program(self) -> Any:
        return from_spirv(self.device.id, self.algorithm)
