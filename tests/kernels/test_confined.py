"""Roots on a few multiprocessors are those that the kernel itself computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cupy_here import ON_HIP

from hashbench.kernels import Unavailable
from hashbench.kernels.confined import MOST_CHUNKS, Confined

CHUNK_SIZES = (64, 192, 4096)


@pytest.mark.covers("cupy")
@pytest.mark.parametrize("multiprocessors", [2, 4, 8, 132])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_roots_are_those_of_the_kernel(cupy_kernel: Any, multiprocessors: int, chunk_size: int) -> None:
    try:
        place = Confined(cupy_kernel, multiprocessors)
    except ValueError:
        pytest.skip("the GPU has fewer multiprocessors")
    data = cupy_kernel.random(MOST_CHUNKS * chunk_size + 64, 5)
    lengths = [0, 1, 63, 64, chunk_size - 1, chunk_size, chunk_size + 1, 2 * chunk_size, 127 * chunk_size + 5]
    lengths += [128 * chunk_size, 129 * chunk_size, 255 * chunk_size + 1, MOST_CHUNKS * chunk_size]
    segments = [data[offset : offset + length] for length in lengths for offset in (0, 3)] * 3
    work = place.prepare(segments, chunk_size)
    expected = cupy_kernel.tree(segments, chunk_size)
    for _ in range(3):
        assert work.run() > 0
        np.testing.assert_array_equal(work.digests(), expected)
    assert place.prepare([], chunk_size).run() == 0.0


@pytest.mark.covers("cupy")
def test_what_is_not_accepted(cupy_kernel: Any) -> None:
    place = Confined(cupy_kernel)
    data = cupy_kernel.random(MOST_CHUNKS * 64 + 1, 5)
    with pytest.raises(ValueError, match="more than 256 chunks"):
        place.prepare([data], 64)
    with pytest.raises(ValueError, match="multiple of 64"):
        place.prepare([data], 100)
    for count in (0, -2, 3, 10_000):
        with pytest.raises(ValueError, match="even number"):
            Confined(cupy_kernel, count)


def test_other_vendors_are_refused() -> None:
    with pytest.raises(Unavailable, match="NVIDIA"):
        Confined(ON_HIP)
