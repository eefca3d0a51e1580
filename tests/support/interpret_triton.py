"""Runs Triton's device code on the host: TRITON_INTERPRET=1 python interpret_triton.py ALGORITHM [--thorough]

It is a program, which `test_triton` starts, since Triton chooses its interpreter when a function is defined. The
interpreter takes a second for a block of a message, in however many lanes, so that the edges lie side by side.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import triton.language as tl
from boundaries import LENGTHS, painted, split_mix_64
from folding import check_fold
from host_memory import HostMemoryKernel
from reference import check, expected
from triton.runtime.interpreter import TensorHandle

from hashbench.kernels import STRATEGIES, Device, Strategy
from hashbench.kernels.device_kernel import Launch
from hashbench.kernels.triton_gpu import call_of, program, round_constants

FOLDED = [*((1, gap) for gap in (1, 0, 1, 0, 1, 1, 16, 0)), *((1, 0),) * 8, (2, 7)]
"""Leaves of segments at every alignment, whose words take several groups; and gaps before them."""

TYPES = {"u32": (np.uint32, tl.uint32), "u64": (np.uint64, tl.uint64)}


def scalar(value: int, name: str) -> Any:
    """An argument of that type: the interpreter would choose the type by the value."""
    numpy_type, triton_type = TYPES[name]
    return tl.tensor(TensorHandle(np.array([value], numpy_type), triton_type), triton_type)


class Interpreted(HostMemoryKernel):
    """The launches and device code of `TritonGpu`, in the form without inline assembly, over the host's memory."""

    name = "triton"
    tabled = True

    def __init__(self, algorithm: str) -> None:
        super().__init__(Device(self.name), algorithm)
        self._code = program(self.algorithm, "interpreter", 0)
        self._constants = self.put(round_constants(self.algorithm))

    @classmethod
    def devices(cls) -> list[Device]:
        return [Device(cls.name)]

    def launch(self, launches: Sequence[Launch], queue: None) -> Callable[[], float]:
        for launch in launches:
            name, arguments = call_of(launch, self._constants)
            typed = [scalar(*one) for one in zip(arguments, self._code.SIGNATURES[name], strict=True)]
            getattr(self._code, name)[launch.groups, 1, 1](*typed)
        return lambda: 0.0

    def check(self, strategy: Strategy, pieces: Sequence[tuple[int, int]], chunk_size: int | None) -> int:
        """Checks the digests of segments of one buffer, given as (start, length)."""
        content = painted(max(start + length for start, length in pieces))
        buffer, parts = self.put(content), [slice(start, start + length) for start, length in pieces]
        messages = [content[part].tobytes() for part in parts]
        check(self, strategy, [buffer[part] for part in parts], messages, chunk_size)
        return len(expected(self, strategy, messages, chunk_size))

    def check_random(self) -> int:
        """Checks what is generated on the device."""
        assert bytes(self.get(self.random(77, 2**64 - 5))) == split_mix_64(10, 2**64 - 5).tobytes()[:77]
        return 1


def edges(longest: int) -> list[tuple[int, int]]:
    """Segments of every length at which the code takes another path, at several alignments."""
    starts = itertools.cycle((0, 1, 2, 3, 4, 16, 15))
    lengths = [length for length in LENGTHS if length <= longest]
    return [(-(-longest // 16 + 2) * 16 * row + next(starts), length) for row, length in enumerate(lengths)]


def main(algorithm: str, thorough: bool) -> None:
    """Prints the number of digests that were right."""
    warnings.simplefilter("ignore", RuntimeWarning)  # words wrap
    kernel = Interpreted(algorithm)
    right = kernel.check_random()
    block = kernel.algorithm.block_size
    right += kernel.check("batched", edges(block + 2), None)
    right += kernel.check("tree", [(16, 2 * block)], block)  # full and aligned chunks
    right += check_fold(kernel, FOLDED)
    if thorough:
        right += kernel.check("batched", edges(600), None)
        right += check_fold(kernel, [*FOLDED, (257, 3)])
        right += kernel.check("tree", [(5, 64 * 2 + 1), (16, 0)], 64)
        for strategy in STRATEGIES:
            right += kernel.check(strategy, [(0, 3 * 192 + 17), (1024, 2 * 192), (1504, 0), (1503, 193)], 192)
            right += kernel.check(strategy, [(16, 256 * 130)], 256)
        # trees of several launches, and of a launch a level
        right += kernel.check("tree", [(0, 64 * 9), (5, 64 * 257), (0, 0), (64, 64 * 256 + 1)], 64)
        right += kernel.check("tree", [(64 * first, 64 * (first % 4)) for first in range(300)], 64)
    print(f"{right} digests are right")


if __name__ == "__main__":
    main(sys.argv[1], "--thorough" in sys.argv)
