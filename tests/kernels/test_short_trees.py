"""Roots of many short trees from their leaves are those that the kernel itself computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cupy_here import ON_HIP

from hashbench.kernels import Unavailable
from hashbench.kernels.short_trees import MOST_LEAVES, ShortTrees, leaves_of


@pytest.mark.covers("cupy")
def test_roots_are_those_of_the_kernel(cupy_kernel: Any) -> None:
    data = cupy_kernel.random(MOST_LEAVES * 64 + 64, 5)
    segments = [data[offset : offset + 64 * count - 5] for count in range(1, MOST_LEAVES + 1) for offset in (0, 3)]
    leaves = cupy_kernel.prepare("leaves", segments, 64)
    leaves.run()
    runs = list(leaves_of(leaves.result(), map(len, segments), 64, cupy_kernel.algorithm))
    work = ShortTrees(cupy_kernel).prepare(runs)
    for _ in range(2):
        assert work.run() > 0
        np.testing.assert_array_equal(work.digests(), cupy_kernel.tree(segments, 64))
    assert ShortTrees(cupy_kernel).prepare([]).run() == 0.0


@pytest.mark.covers("cupy")
def test_what_is_not_accepted(cupy_kernel: Any) -> None:
    size = cupy_kernel.algorithm.digest_size
    digests = cupy_kernel.random((MOST_LEAVES + 1) * size, 5)
    for refused in (digests, digests[:0], digests[: size - 1]):
        with pytest.raises(ValueError, match="no leaf or more than 256"):
            ShortTrees(cupy_kernel).prepare([digests[:size], refused])


def test_other_vendors_are_refused() -> None:
    with pytest.raises(Unavailable, match="NVIDIA"):
        ShortTrees(ON_HIP)
