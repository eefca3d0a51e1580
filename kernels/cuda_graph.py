"""Launches that NVIDIA's driver repeats as one graph, and times.

PyTorch's graphs, events and contexts take 30 us of a processor's time around each run, as long as a small tree takes a
GPU.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile


class CudaGraph:
    """What a function enqueues on a stream, to be launched again and again, on any streams of the device.

    Args:
        submit: is passed a stream's handle, enqueues there, and does nothing else with the device, which is the current
            one.

    Raises:
        RuntimeError: the driver cannot capture or build the graph.
    """

    def __init__(self, submit: Callable[[int], None]) -> None:
        stream, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._context, self._executable, self._start, self._end = (ctypes.c_void_p() for _ in range(4))
        _call("cuCtxGetCurrent", ctypes.byref(self._context))
        _call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        try:
            _call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)
            try:
                submit(stream.value or 0)
            finally:
                _call("cuStreamEndCapture", stream, ctypes.byref(graph))
            self._make("cuGraphInstantiateWithFlags", "cuGraphExecDestroy", self._executable, graph, ctypes.c_uint64(0))
            for event in (self._start, self._end):
                self._make("cuEventCreate", "cuEventDestroy_v2", event, 0)
        finally:
            if graph:
                _call("cuGraphDestroy", graph)
            _call("cuStreamDestroy_v2", stream)

    def _make(self, name: str, destroy: str, handle: ctypes.c_void_p, *arguments: Any) -> None:
        """Makes what lives as long as the graph."""
        _call(name, ctypes.byref(handle), *arguments)
        weakref.finalize(self, getattr(_driver(), destroy), handle).atexit = False

    def launch(self, stream: int) -> Callable[[], float]:
        """Enqueues it on the stream with this handle. One launch must have ended before the next.

        Returns:
            What waits for the end, and returns the seconds that the device took.

        Raises:
            RuntimeError: the driver cannot.
        """
        queue = ctypes.c_void_p(stream)
        with self._current():
            _call("cuEventRecord", self._start, queue)
            _call("cuGraphLaunch", self._executable, queue)
            _call("cuEventRecord", self._end, queue)
        return self._finish

    def _finish(self) -> float:
        milliseconds = ctypes.c_float()
        with self._current():
            _call("cuEventSynchronize", self._end)
            _call("cuEventElapsedTime", ctypes.byref(milliseconds), self._start, self._end)
        return 1e-3 * milliseconds.value

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Makes the graph's context the thread's, which may have another one, or none yet."""
        _call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


def _call(name: str, *arguments: Any) -> None:
    if status := getattr(_driver(), name)(*arguments):
        raise RuntimeError(f"{name} failed with status {status} of the driver")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")
