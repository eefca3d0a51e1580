"""What tests of CUDA kernels beside the contract share: CuPy's kernel here, and one on a GPU of another vendor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hashbench.kernels import ALGORITHMS, kernel_class

ON_HIP: Any = SimpleNamespace(cupy=SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(is_hip=True))))
"""As much of CuPy's kernel on an AMD GPU as says that it is one."""


@pytest.fixture(params=ALGORITHMS)
def cupy_kernel(request: pytest.FixtureRequest) -> Any:
    """CuPy's kernel on the first GPU, beside other work there."""
    kernel_type = kernel_class("cupy")
    device = kernel_type.devices()[0]
    if device.unavailable is not None:
        pytest.skip(f"cupy: {device.unavailable}")
    return kernel_type(device, request.param, priority="low")
