"""The CUDA source compiled for the host, with as much of CuPy as kernels beyond the contract use.

Streams, events and launches do at once what they are told: so whoever calls `Portions.carry` is the workload.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

from cuda_on_host import CudaOnHost, compiled, host_program, launch

_KERNEL = re.compile(r"^(?:KERNEL|extern \"C\" __global__ void __launch_bounds__)\(.*\)\s+(\w+)\(", re.MULTILINE)


class _Pinned(bytearray):
    """Memory with an address."""

    @property
    def ptr(self) -> int:
        return ctypes.addressof((ctypes.c_char * len(self)).from_buffer(self))


class _Stream(nullcontext[None]):
    def __init__(self, **options: Any) -> None:
        super().__init__()

    def wait_event(self, event: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Module:
    """Functions that are launched like CuPy's."""

    def __init__(self, code: str) -> None:
        beyond = code[code.index('#line 1 "short_tree.h"') :]
        kernels = _KERNEL.findall(beyond)
        self._library = ctypes.CDLL(str(compiled(host_program(code, kernels, with_barriers=kernels))))

    def compile(self) -> None:
        pass

    def get_function(self, name: str) -> Callable[[Sequence[int], Sequence[int], Sequence[Any]], None]:
        return lambda groups, threads, arguments: launch(self._library, name, groups[0], arguments, threads[0])


def _event(**options: Any) -> Any:
    return SimpleNamespace(record=lambda stream: None)


class CupyOnHost(CudaOnHost):
    """A kernel that passes for CuPy's."""

    cupy = SimpleNamespace(
        RawModule=_Module,
        cuda=SimpleNamespace(
            Event=_event,
            Stream=_Stream,
            alloc_pinned_memory=_Pinned,
            runtime=SimpleNamespace(is_hip=False),
        ),
    )
    cuda_device = nullcontext()

    def queue_for(self, stream: Any) -> Any:
        return _Stream()

    def timed(self, submit: Callable[[], None], queue: Any, *, sleeping: bool = False) -> Callable[[], float]:
        submit()
        return lambda: 1e-6


def cupy_on_host(algorithm: str) -> Any:
    """That kernel."""
    (device,) = CupyOnHost.devices()
    return CupyOnHost(device, algorithm)
