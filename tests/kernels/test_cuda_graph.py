"""CUDA graphs, with a driver that only counts what it made and what it destroyed."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import pytest

from hashbench.kernels import cuda_graph
from hashbench.kernels.cuda_graph import CudaGraph


class Driver:
    """What of NVIDIA's driver a graph calls.

    Args:
        failing: the name of the function that fails, if any.

    Attributes:
        alive: the handles that were made and not destroyed.
        launched: the graphs that were launched, and on which stream.
        capturing: whether a stream is being captured.
    """

    def __init__(self, failing: str = "") -> None:
        self.failing, self.made = failing, 0
        self.alive: set[int] = set()
        self.launched: list[tuple[int, int]] = []
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
        elif name in ("cuStreamCreate", "cuGraphInstantiateWithFlags"):
            self._make(arguments[0])
        elif name in ("cuStreamDestroy_v2", "cuGraphDestroy", "cuGraphExecDestroy"):
            self.alive.discard(arguments[0].value or 0)
        else:
            assert name == "cuGraphLaunch"
            self.launched.append((arguments[0].value or 0, arguments[1].value or 0))

    def _make(self, reference: ctypes.c_void_p) -> None:
        self.made += 1
        self.alive.add(self.made)
        ctypes.cast(reference, ctypes.POINTER(ctypes.c_void_p))[0] = self.made


@pytest.fixture
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver(getattr(request, "param", ""))
    monkeypatch.setattr(cuda_graph, "_driver", lambda: driver)
    return driver


def test_what_was_captured_is_launched_on_other_streams(driver: Driver) -> None:
    captured = []
    graph = CudaGraph(lambda stream: captured.append((stream, driver.capturing)))
    assert captured == [(1, True)]
    graph.launch(77)
    graph.launch(78)
    assert driver.launched == [(3, 77), (3, 78)]


def test_only_the_graph_outlives_its_capture_and_nothing_the_graph(driver: Driver) -> None:
    graph = CudaGraph(lambda stream: None)
    assert driver.alive == {3}
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
    assert driver.alive <= {3}  # a driver that fails makes none
