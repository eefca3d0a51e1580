"""Runs Numba's device code on the host: NUMBA_ENABLE_CUDASIM=1 python simulate_numba.py ALGORITHM [--thorough]

It is a program, which `test_numba_simulator` starts, since Numba chooses its simulator when it is imported. Every load
and store must be aligned and in memory of the kernel. A block has 4 threads here, a warp two, and 8 tiles are many, so
that a small tree takes all kinds of launches.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.cuda.simulator.kernel import BlockThread

from hashbench.kernels import layout

layout.GROUP_SIZE_LOG2, layout.GROUP_SIZE, layout.WARP_SIZE = 2, 4, 2
layout.TILE_LEVELS, layout.MANY_TILES = 3, 8

from boundaries import painted, split_mix_64  # noqa: E402

from hashbench.kernels import STRATEGIES, Buffer, Bytes, Device, Strategy, device_kernel, numba_dialect  # noqa: E402
from hashbench.kernels.device_kernel import Launch  # noqa: E402
from hashbench.kernels.numba_cuda import NumbaCuda, _argument, program  # noqa: E402
from hashbench.merkle.rfc9162 import chunks_of, leaf_hash, merkle_tree_hash, root_of  # noqa: E402

ALIGNMENT = 256
ARCHITECTURE = 90
FEW_CHUNKS = 50


def _is_alive(thread: threading.Thread) -> bool:
    """Lets the threads of a block run: the simulator asks in a loop, which takes half of the processor from them."""
    time.sleep(1e-5)
    return threading.Thread.is_alive(thread)


BlockThread.is_alive = _is_alive


class Simulated(NumbaCuda):
    """The launches and device code of `NumbaCuda`, over the host's memory."""

    def __init__(
        self,
        algorithm: str,
        variant: str = "sliced",
        *,
        paired_up_to: int = 0,
        early_up_to: int = 0,
        sliced: range = range(0),
    ) -> None:
        super(NumbaCuda, self).__init__(Device(self.name), algorithm, variant)
        code = program(self.algorithm, variant, ARCHITECTURE)
        self._functions = {name: getattr(code, name) for name in code.SIGNATURES}
        self._allocations: list[Buffer] = []
        self.paired_up_to, self.early_up_to, self.sliced = paired_up_to, early_up_to, sliced

    def _at(self, address: Any, c_type: Any) -> Any:
        first, size = int(address), ctypes.sizeof(c_type)
        assert first % size == 0, f"an access of {size} bytes at {first:#x}"
        assert any(b.address <= first and first + size <= b.address + b.nbytes for b in self._allocations), (
            f"an access of {size} bytes outside all memory"
        )
        return c_type.from_address(first)

    def allocate(self, nbytes: int) -> Buffer:
        memory = np.empty(nbytes + ALIGNMENT, np.uint8)
        buffer = Buffer(memory, -(-memory.ctypes.data // ALIGNMENT) * ALIGNMENT, nbytes)
        self._allocations.append(buffer)
        return buffer

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        ctypes.memmove(buffer.address, data.ctypes.data, buffer.nbytes)

    def get(self, buffer: Buffer) -> Bytes:
        return np.frombuffer(ctypes.string_at(buffer.address, buffer.nbytes), np.uint8)

    def queue_for(self, stream: Any) -> None:
        assert stream is None

    def launch(self, launches: Sequence[Launch], queue: None) -> Callable[[], float]:
        for launch in launches:
            arguments = [_argument(a) for a in launch.arguments]
            self._functions[launch.function][launch.groups, layout.GROUP_SIZE](*arguments)
        return lambda: 0.0

    def _watch(self) -> None:
        """Restricts the device code to the memory of the next call of this kernel."""
        self._schedules.clear()
        self._allocations = [Buffer(s, ctypes.addressof(s), ctypes.sizeof(s)) for s in numba_dialect.SHARED]
        numba_dialect._at = self._at

    def check(self, strategy: Strategy, pieces: Sequence[tuple[int, int]], chunk_size: int | None) -> int:
        """Checks the digests of segments of one buffer, given as (start, length), against hashlib and RFC 9162."""
        self._watch()
        content = painted(max((start + length for start, length in pieces), default=0)).tobytes()
        buffer = self.put(content)
        digests = self._hashed(strategy, [buffer[start : start + length] for start, length in pieces], chunk_size)
        name = self.algorithm.name
        messages = [content[start : start + length] for start, length in pieces]
        if strategy == "tree":
            assert chunk_size is not None
            expected = [merkle_tree_hash(chunks_of(message, chunk_size), name) for message in messages]
        else:
            chunks = [c for m in messages for c in (chunks_of(m, chunk_size) if chunk_size else [m])]
            expected = [
                leaf_hash(chunk, name) if strategy == "leaves" else hashlib.new(name, chunk).digest()
                for chunk in chunks
            ]
        assert [bytes(digest) for digest in digests] == expected, (strategy, pieces, chunk_size)
        return len(expected)

    def check_fold(self, pieces: Sequence[tuple[int, int]]) -> int:
        """Checks the roots of leaf hashes in one buffer: of segments given as (start, leaves)."""
        self._watch()
        size = self.algorithm.digest_size
        content = painted(max(start + size * leaves for start, leaves in pieces)).tobytes()
        buffer = self.put(content)
        roots = self.fold([buffer[start : start + size * leaves] for start, leaves in pieces])
        trees = [[content[start + size * i :][:size] for i in range(leaves)] for start, leaves in pieces]
        assert list(map(bytes, roots)) == [root_of(tree, self.algorithm.name) for tree in trees]
        return len(pieces)

    def check_random(self) -> int:
        self._watch()
        assert bytes(self.get(self.random(77, 2**64 - 5))) == split_mix_64(10, 2**64 - 5).tobytes()[:77]
        return 1


def main(algorithm: str, thorough: bool) -> None:
    """Prints the number of digests that were right."""
    warnings.simplefilter("ignore", RuntimeWarning)  # words wrap
    block = 64 if algorithm == "sha256" else 128
    padding = block // 8
    edges = [0, 1, 3, 4, 63, 64, 65, block - padding - 1, block - padding, block - 1, block, block + 1, 2 * block]
    kernel = Simulated(algorithm)
    paired, early = Simulated(algorithm, paired_up_to=FEW_CHUNKS), Simulated(algorithm, early_up_to=FEW_CHUNKS)
    right = kernel.check_random()
    # every edge at several alignments, among them all within a word, and on and off 16 bytes
    starts = itertools.cycle((0, 1, 2, 3, 4, 16, 15))
    for one in (kernel, early, paired):
        pieces = [(512 * row + next(starts), length) for row, length in enumerate(edges)]
        right += one.check("batched", pieces, None)
        right += one.check("tree", pieces, 256)
    # chunks of whole blocks, a partial one, and half blocks of SHA-384
    for one, strategy, chunk_size in itertools.product((early, paired), STRATEGIES, (128, 192)):
        right += one.check(strategy, [(0, 3 * 192 + 17), (1024, 2 * 192), (1504, 0), (1503, 193)], chunk_size)
    # chunks in three slices, the last one of one block, or shorter than the others
    device_kernel.SLICE_SIZE, device_kernel.FEWEST_SLICES = 128, 2
    sliced = Simulated(algorithm, sliced=range(FEW_CHUNKS if algorithm == "sha256" else 0))
    for strategy, chunk_size in itertools.product(STRATEGIES, (384, 448)):
        right += sliced.check(strategy, [(0, 5 * 448), (16, 384), (3, 448 + 17), (1, 3 * 448)], chunk_size)
    # trees of one launch and of several, whose tiles and segments overlap
    right += kernel.check("tree", [(64 * first, 64 * leaves) for first, leaves in ((0, 8), (2, 1), (3, 9), (0, 0))], 64)
    if algorithm == "sha256" or thorough:  # trees are the same with digests of other sizes
        for leaves in (57, 64, 65):
            right += kernel.check("tree", [(0, 64 * leaves)], 64)
        right += kernel.check("tree", [(64 * first, 64 * leaves) for first, leaves in ((0, 33), (5, 31), (9, 1))], 64)
    right += kernel.check_fold([(0, 1), (33, 9), (64, 2), (700, 65)])
    # the same code without additions on other pipes
    right += Simulated(algorithm, "plain").check("tree", [(5, 300)], 128)
    print(f"{right} digests are right")


if __name__ == "__main__":
    main(sys.argv[1], "--thorough" in sys.argv)
