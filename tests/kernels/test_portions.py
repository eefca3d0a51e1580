"""Roots that a workload carries in portions are those that the kernel itself computes, whatever the workload does."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from cupy_here import ON_HIP
from cupy_on_host import cupy_on_host

from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.kernels.portions import MOST_CHUNKS, Portions

CHUNK_SIZES = (64, 192, 4096)


class Carrier:
    """A workload that carries portions without end, while it is a context."""

    def __init__(self, place: Portions, *, captured: bool = False) -> None:
        self._place, self._stop = place, threading.Event()
        cupy = place.kernel.cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._graph: Any = None
        if captured:
            with self._stream:
                self._stream.begin_capture()
                for _ in range(3):
                    place.carry(self._stream)
                place.join(self._stream)
                self._graph = self._stream.end_capture()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._graph is None:
                self._place.carry(self._stream)
                self._place.join(self._stream)
            else:
                self._graph.launch(self._stream)
            self._stream.synchronize()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def some_segments(kernel: Any, chunk_size: int) -> list[Any]:
    data = kernel.random(MOST_CHUNKS * chunk_size + 64, 5)
    lengths = [
        0,
        1,
        63,
        64,
        chunk_size - 1,
        chunk_size,
        chunk_size + 1,
        2 * chunk_size,
        127 * chunk_size + 5,
        100 * chunk_size,
    ]
    lengths += [31 * chunk_size, 33 * chunk_size - 1, 64 * chunk_size + 1, MOST_CHUNKS * chunk_size]
    return [data[offset : offset + length] for length in lengths for offset in (0, 3)]


@pytest.mark.covers("cupy")
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 7, None])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_roots_are_those_of_the_kernel(cupy_kernel: Any, chunk_size: int, blocks: int, captured: bool) -> None:
    place = Portions(cupy_kernel, chunk_size, 8, blocks, patience=30.0)
    segments = some_segments(cupy_kernel, chunk_size)
    parts: list[list[Any]] = [segments, segments[3:9], [], segments[::-1]]
    expected = [cupy_kernel.tree(part, chunk_size) for part in parts]
    works = [place.prepare(part, chunk_size) for part in parts]
    with Carrier(place, captured=captured):
        for _ in range(2):
            works[0].start()
            for work, following, right in zip(works, [*works[1:], works[0]], expected, strict=True):
                if following is not works[0]:
                    following.start()  # two are under way
                assert work.wait() > 0
                np.testing.assert_array_equal(work.digests(), right)
    assert place.withdrawn == 0


@pytest.mark.covers("cupy")
def test_without_a_workload_the_kernel_itself_hashes(cupy_kernel: Any) -> None:
    place = Portions(cupy_kernel, 64, 16, 2, patience=0.01)
    segments = some_segments(cupy_kernel, 64)
    work = place.prepare(segments, 64)
    for _ in range(2):
        work.run()
        np.testing.assert_array_equal(work.digests(), cupy_kernel.tree(segments, 64))
    assert place.withdrawn == 2


@pytest.mark.covers("cupy")
def test_what_is_taken_back_is_not_read_again_and_the_next_is_right(cupy_kernel: Any) -> None:
    place = Portions(cupy_kernel, 4096, 16, 1, patience=0.0)
    segments = some_segments(cupy_kernel, 4096)
    expected = cupy_kernel.tree(segments, 4096)
    works = [place.prepare(segments, 4096) for _ in range(2)]
    with Carrier(place, captured=True):
        for _ in range(20):  # each is taken back somewhere
            for work in works:
                work.start()
            for work in works:
                work.wait()
                np.testing.assert_array_equal(work.digests(), expected)
        assert place.withdrawn
        place.patience, place.withdrawn = 30.0, 0
        works[0].run()
        np.testing.assert_array_equal(works[0].digests(), expected)
    assert place.withdrawn == 0


@pytest.mark.covers("cuda-source-on-host")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_source_on_the_host_too(algorithm: str) -> None:
    kernel = cupy_on_host(algorithm)
    data = kernel.random(200 * 192, 5)
    segments = [data[3:3], data[1 : 1 + MOST_CHUNKS * 192], data[: 65 * 192 - 5], data[3 : 3 + 193]]
    expected = kernel.tree(segments, 192)
    for blocks in (1, 2, None):
        place = Portions(kernel, 192, 2, blocks, patience=30.0)
        works = [place.prepare(segments, 192), place.prepare(segments[2:], 192)]
        with Carrier(place):
            for work in works:
                work.start()
            for work, right in zip(works, (expected, expected[2:]), strict=True):
                work.wait()
                np.testing.assert_array_equal(work.digests(), right)
        assert (place.withdrawn, place.idle) == (0, False)


@pytest.mark.covers("cuda-source-on-host")
def test_an_idle_workload_is_waited_for_in_vain_and_noticed_when_it_works_again() -> None:
    kernel = cupy_on_host("sha256")
    segments = [kernel.random(200, 5)]
    place = Portions(kernel, 64, 1, 1, patience=0.01)
    work = place.prepare(segments, 64)
    work.start()
    place.carry(None)  # decides that the next hashes
    place.carry(None)  # the first of two portions
    work.wait()
    np.testing.assert_array_equal(work.digests(), kernel.tree(segments, 64))
    assert (place.withdrawn, place.idle) == (1, True)
    place.carry(None)
    assert not place.idle
    place.patience = 30.0
    work.start()
    for _ in range(1 + 4 * 2):  # a round has two portions
        place.carry(None)
    work.wait()
    np.testing.assert_array_equal(work.digests(), kernel.tree(segments, 64))
    assert place.withdrawn == 1


@pytest.mark.covers("cupy")
def test_what_is_not_accepted(cupy_kernel: Any) -> None:
    place = Portions(cupy_kernel, 64, 2, 8)
    data = cupy_kernel.random(MOST_CHUNKS * 64 + 1, 5)
    with pytest.raises(ValueError, match="more than 128 chunks"):
        place.prepare([data], 64)
    with pytest.raises(ValueError, match="accepted are up to"):
        place.prepare([data[:64]], 128)
    with pytest.raises(ValueError, match="accepted are up to"):
        place.prepare([data[:64]] * (place.capacity + 1), 64)
    for chunk_size, groups, blocks in ((100, 2, 8), (64, 2, 0), (64, 0, 2)):
        with pytest.raises(ValueError, match=r"multiple of 64|are not accepted"):
            Portions(cupy_kernel, chunk_size, groups, blocks)


def test_other_vendors_are_refused() -> None:
    with pytest.raises(Unavailable, match="NVIDIA"):
        Portions(ON_HIP, 64, 2, 8)
