"""Roots of many short trees in one launch, from the digests of their leaves, on an NVIDIA GPU.

It stands beside the contract, for hashing beside a workload, which each launch delays: leaves are hashed in short
launches, one after another, and the trees over all of them in one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from hashbench.kernels.beyond import build
from hashbench.kernels.contract import Algorithm, Buffer, Work
from hashbench.kernels.cupy_cuda import CupyCuda
from hashbench.kernels.layout import GROUP_SIZE

MOST_LEAVES = 2 * GROUP_SIZE
"""Leaves of a tree, which one group keeps in its shared memory."""


def leaves_of(digests: Buffer, lengths: Iterable[int], chunk_size: int, algorithm: Algorithm) -> Iterator[Buffer]:
    """What a work with the strategy "leaves" has computed, by segment: `lengths` are the segments'."""
    first = 0
    for length in lengths:
        end = first + -(-length // chunk_size) * algorithm.digest_size
        yield digests[first:end]
        first = end


class ShortTrees:
    """Reduces trees on a GPU.

    Args:
        kernel: hashes there.

    Raises:
        Unavailable: the GPU is not one of NVIDIA's.
    """

    def __init__(self, kernel: CupyCuda) -> None:
        (self.function,) = build(kernel, "short_trees.h", "reduce_short_trees")
        self.kernel = kernel

    def prepare(self, leaves: Sequence[Buffer]) -> Work:
        """Prepares the roots over digests of leaves.

        Args:
            leaves: the digests of each tree's leaves, as `leaves_of` gives them. The caller keeps them alive.

        Raises:
            ValueError: a tree has no leaf, or more than `MOST_LEAVES`.
            OutOfDeviceMemory: as for `Kernel.prepare`.
        """
        counts = [len(each) // self.kernel.algorithm.digest_size for each in leaves]
        if any(not 1 <= count <= MOST_LEAVES for count in counts):
            raise ValueError(f"a tree has no leaf or more than {MOST_LEAVES}, which is not accepted")
        return _Trees(self, [each.address for each in leaves], counts)


class _Trees(Work):
    def __init__(self, trees: ShortTrees, addresses: Sequence[int], counts: Sequence[int]) -> None:
        kernel = trees.kernel
        super().__init__(kernel)
        self._cupy_kernel, self._function, self._count = kernel, trees.function, len(counts)
        table = np.array([*zip(addresses, counts, strict=True)], dtype=np.uint64)
        self._table = kernel.put(table.view(np.uint8).reshape(-1))
        self._schedules = kernel.schedules(1 + 2 * kernel.algorithm.digest_size)
        size = len(counts) * kernel.algorithm.digest_size
        self._roots = kernel.allocate(max(1, size))[:size]

    def enqueue(self, stream: Any) -> Callable[[], float]:
        if not self._count:
            return lambda: 0.0
        arguments = *(np.uint64(each.address) for each in (self._table, self._schedules, self._roots)), np.uint32(1)
        return self._cupy_kernel.timed(
            lambda: self._function((self._count,), (GROUP_SIZE,), arguments),
            self._cupy_kernel.queue_for(stream),
            sleeping=True,
        )

    def output(self) -> Buffer:
        return self._roots
