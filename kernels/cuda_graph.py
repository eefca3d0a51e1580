"""Launches that NVIDIA's driver repeats as one graph, for frameworks whose own graphs take longer to launch."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


class CudaGraph:
    """What a function enqueues on a stream, to be launched any number of times, on any stream of the device.

    Args:
        submit: is passed a stream's handle, enqueues there, and does nothing else with the device, which is the current
            one.

    Raises:
        RuntimeError: the driver cannot capture or build the graph.
    """

    def __init__(self, submit: Callable[[int], None]) -> None:
        stream, graph, executable = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        try:
            _call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
            try:
                submit(stream.value or 0)
            finally:
                _call("cuStreamEndCapture", stream, ctypes.byref(graph))
            _call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        finally:
            if graph:
                _call("cuGraphDestroy", graph)
            _call("cuStreamDestroy_v2", stream)
        self._executable = executable
        weakref.finalize(self, _driver().cuGraphExecDestroy, executable).atexit = False

    def launch(self, stream: int) -> None:
        """Enqueues it on the stream with this handle.

        Raises:
            RuntimeError: the driver cannot.
        """
        _call("cuGraphLaunch", self._executable, ctypes.c_void_p(stream))


def _call(name: str, *arguments: Any) -> None:
    if status := getattr(_driver(), name)(*arguments):
        raise RuntimeError(f"{name} failed with status {status} of the driver")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
