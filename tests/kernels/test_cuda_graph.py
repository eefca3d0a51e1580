"""CUDA graphs, with a driver that only counts what it made and what it destroyed."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import pytest

from hashbench.kernels import cuda_graph
from hashbench.kernels.cuda_graph import CudaGraph

CONTEXT = 1000


class Driver:
    """What of NVIDIA's driver a graph calls.

    Args:
        failing: the name of the function that fails, if any.

    Attributes:
        alive: the handles that were made and not destroyed.
        calls: what was enqueued or waited for: a function and its handles.
        contexts: those that were made current in turn.
        capturing: whether a stream is being captured.
    """

    def __init__(self, failing: str = "") -> None:
        self.failing, self.made = failing, 0
        self.alive: set[int] = set()
        self.calls: list[tuple[str | int, ...]] = []
        self.contexts: list[int] = []
        self.capturing = False

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: ctypes.c_void_p) -> int:
            self._do(name, *arguments)
            return 700 if name == self.failing else 0

        return call

    def _do(self, name: str, *arguments: ctypes.c_void_p) -> None:
        if name == "cuStreamBeginCapture_v2":
            self.capturing = True
        elif name == "cuStreamEndCapture":
            assert self.capturing
            self.capturing = False
            self._make(arguments[1])
        elif name == "cuCtxGetCurrent":
            _set(arguments[0], CONTEXT)
        elif name in ("cuStreamCreate", "cuGraphInstantiateWithFlags", "cuEventCreate"):
            self._make(arguments[0])
        elif name in ("cuStreamDestroy_v2", "cuGraphDestroy", "cuGraphExecDestroy", "cuEventDestroy_v2"):
            self.alive.remove(arguments[0].value or 0)
        elif name == "cuCtxPushCurrent_v2":
            self.contexts.append(arguments[0].value or 0)
        elif name == "cuCtxPopCurrent_v2":
            self.contexts.pop()
        elif name == "cuEventElapsedTime":
            ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_float))[0] = 1.5
        else:
            assert name in ("cuEventRecord", "cuGraphLaunch", "cuEventSynchronize")
            assert self.contexts == [CONTEXT]
            self.calls.append((name, *(argument.value or 0 for argument in arguments)))

    def _make(self, reference: ctypes.c_void_p) -> None:
        self.made += 1
        self.alive.add(self.made)
        _set(reference, self.made)


def _set(reference: ctypes.c_void_p, handle: int) -> None:
    ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))[0] = handle


@pytest.fixture
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(getattr(request, "param", ""))
    monkeypatch.setattr(cuda_graph, "_driver", lambda: driver)
    return driver


def test_what_was_captured_is_launched_on_other_streams_and_timed(driver: Driver) -> None:
    captured = []
    graph = CudaGraph(lambda stream: captured.append((stream, driver.capturing)))
    assert captured == [(1, True)]
    for stream in (77, 78):
        finish = graph.launch(stream)
        assert driver.calls == [
            ("cuEventRecord", 4, stream),
            ("cuGraphLaunch", 3, stream),
            ("cuEventRecord", 5, stream),
        ]
        driver.calls.clear()
        assert finish() == pytest.approx(1.5e-3)
        assert driver.calls == [("cuEventSynchronize", 5)]
        driver.calls.clear()
    assert not driver.contexts


def test_nothing_outlives_the_graph(driver: Driver) -> None:
    graph = CudaGraph(lambda stream: None)
    assert driver.alive == {3, 4, 5}
    del graph
    gc.collect()
    assert not driver.alive


def test_a_capture_that_fails_ends(driver: Driver) -> None:
    def submit(stream: int) -> None:
        raise ValueError("no such function")

    with pytest.raises(ValueError, match="no such function"):
        CudaGraph(submit)
    assert not driver.capturing
    assert not driver.alive


@pytest.mark.parametrize("driver", ["cuGraphInstantiateWithFlags"], indirect=True)
def test_the_driver_says_no(driver: Driver) -> None:
    with pytest.raises(RuntimeError, match="cuGraphInstantiateWithFlags failed with status 700"):
        CudaGraph(lambda stream: None)
    assert driver.alive == {3}  # which a driver that fails does not make


@pytest.mark.parametrize("driver", ["cuGraphLaunch"], indirect=True)
def test_a_launch_that_fails_leaves_the_context(driver: Driver) -> None:
    with pytest.raises(RuntimeError, match="cuGraphLaunch failed with status 700"):
        CudaGraph(lambda stream: None).launch(77)
    assert not driver.contexts
