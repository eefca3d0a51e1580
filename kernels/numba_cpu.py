"""SHA-2 on the host's processor without the interpreter's lock, compiled by Numba at run time for that very processor.

Each thread hashes several messages at once: in the processor's own instructions for SHA-2, which take too long for one
message alone to use them fully, or with one message in each element of its vectors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from time import perf_counter
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from hashbench.kernels import programs
from hashbench.kernels.contract import Algorithm, Buffer, Device, Priority, Strategy, Work, check_call
from hashbench.kernels.host_kernel import HostKernel, bytes_of
from hashbench.kernels.layout import lay_out
from hashbench.kernels.working_directory import outside_working_directory

if TYPE_CHECKING:
    from hashbench.kernels.sha2_llvm import Method

_READS = ".numba_config.yaml"
"""What Numba reads in the working directory, and may take a folder of compiled code from."""

_SOURCES = ("numba_lanes.py", "sha2_llvm.py", "fips180.py")

_PART_BYTES = 1 << 18  # at least, for another thread: a few times of what handing it over costs
_PARTS_PER_THREAD = 4
_TILE_LEVELS = 8
"""Levels of a tree that one thread computes alone over its chunks, unless that makes too few parts. The few nodes above
are computed at the end."""


@cache
def program(algorithm: Algorithm, method: Method) -> ModuleType:
    """The code for one algorithm and one way to compress blocks."""
    sha = int(algorithm.name.removeprefix("sha"))
    return programs.load(_SOURCES, algorithm.name, method.name, method.lanes, SHA=sha, METHOD=method)


@cache
def _processor() -> tuple[str, frozenset[str]]:
    """LLVM's name of the processor, and of what it has that Numba compiles for; nothing where there is no Numba."""
    try:
        from numba.core.registry import cpu_target
    except ImportError:  # rows that were measured elsewhere name a default variant too
        return "", frozenset()

    _, processor, features = cpu_target.target_context.codegen().magic_tuple()
    return processor, frozenset(name[1:] for name in features.split(",") if name.startswith("+"))


def method_of(variant: str, algorithm: Algorithm, processor: str, features: frozenset[str]) -> Method:
    """How a variant compresses on a processor with those features, by LLVM's names. It needs none but them."""
    from hashbench.kernels import sha2_llvm

    x86_instructions = {"sha", "sse4.1", "ssse3"} <= features
    if variant == "instructions":
        if algorithm.name == "sha256" and x86_instructions:
            return sha2_llvm.x86_sha(1, 2, 4)
        if ("sha2" if algorithm.name == "sha256" else "sha3") in features:  # LLVM's "sha3" includes SHA-512
            return sha2_llvm.armv8_sha(1, 2, 4)
    if variant != "scalar":
        word_bytes = algorithm.block_size // 16
        if {"avx512f", "avx512bw"} <= features:
            return sha2_llvm.avx512(algorithm, instructions=x86_instructions, zen5=processor == "znver5")
        if "avx2" in features:
            return sha2_llvm.vectors(32 // word_bytes)
        if {"ssse3", "neon"} & features:
            return sha2_llvm.vectors(16 // word_bytes)
    return sha2_llvm.scalar()


class NumbaCpu(HostKernel):
    """SHA-2 compiled by Numba when a kernel is first built, and later loaded from Numba's cache on disk.

    The variants are the processor's own instructions, its vectors, and plain code. Where a processor has no
    instructions for an algorithm, the first is the same as the second; where it has no vectors, as the third. Vectors
    of 512 bits leave up to four messages to the instructions.
    """

    name = "numba-cpu"
    variants = ("instructions", "vectors", "scalar")

    @outside_working_directory(_READS)
    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        code = program(self.algorithm, method_of(self.variant, self.algorithm, *_processor()))
        self.memory_bytes: int = code.MEMORY_BYTES
        self.hash_slots: Callable[..., None] = code.hash_slots
        code.hash_slots.compile(code.SIGNATURE)

    @classmethod
    def default_variant(cls, device: Device) -> str:
        """Vectors of 512 bits are faster than SHA instructions, of Intel and of AMD; narrower ones are not."""
        return "vectors" if "avx512bw" in _processor()[1] else "instructions"

    @classmethod
    @outside_working_directory(_READS)
    def devices(cls) -> list[Device]:
        if sys.byteorder != "little":
            return [Device(cls.name, unavailable="it is written for little-endian processors")]
        try:
            framework = f"numba {version('numba')}"
            import llvmlite
            import numba  # noqa: F401
        except (ImportError, PackageNotFoundError) as error:
            return [Device(cls.name, unavailable=f"Numba cannot be imported ({error}): install hashbench[numba]")]
        return cls.devices_of(framework, f"llvmlite {llvmlite.__version__}")

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        return _NumbaWork(self, strategy, segments, chunk_size)

    def folding(self, segments: Sequence[Buffer]) -> Work:
        return _NumbaWork(self, "tree", segments, self.algorithm.digest_size, of_leaves=True)


class _NumbaWork(Work):
    def __init__(
        self,
        kernel: NumbaCpu,
        strategy: Strategy,
        segments: Sequence[Buffer],
        chunk_size: int | None,
        *,
        of_leaves: bool = False,
    ) -> None:
        super().__init__(kernel)
        self._kernel = kernel
        self._of_leaves = of_leaves
        self._segments = segments  # keeps the memory alive
        layout = lay_out(strategy, list(map(_address, segments)), [s.nbytes for s in segments], chunk_size)
        self._table = np.append(layout.table[: 3 * layout.segments], np.uint64(layout.slots)).view(np.int64)
        addresses, lengths, self._firsts = np.split(self._table, [layout.segments, 2 * layout.segments])
        self._tree = layout.tree
        counts = np.diff(self._firsts)
        self._levels = int(counts.max() - 1).bit_length() if layout.tree and layout.segments else 0
        self._within = self._levels  # as many levels are computed in each part alone
        self._cuts = self._cut(lengths, counts)
        size = kernel.algorithm.digest_size
        self._digests = kernel.allocate(layout.slots * size)
        self._results = kernel.allocate(layout.results * size) if layout.tree else self._digests
        tables = (_address_of(numbers) for numbers in (addresses, lengths, self._firsts))
        self._arguments = (*tables, layout.chunk_size, layout.tagged, _address(self._digests))

    def enqueue(self, stream: Any) -> Callable[[], float]:
        self._kernel.refuse_stream(stream)
        return self._kernel.background.submit(self._hash).result

    def output(self) -> Buffer:
        return self._results

    def _cut(self, lengths: Any, counts: Any) -> list[int]:
        """The slots at which parts for the threads begin, and the number of slots.

        Parts take the same time, as far as that can be without cutting chunks, and tiles of a tree: the chunks below
        a node of the highest level that a part computes.
        """
        costs = lengths + counts * 2.0 * self._kernel.algorithm.block_size
        before = np.append(0.0, np.cumsum(costs))
        parts = min(self._kernel.threads * _PARTS_PER_THREAD, int(before[-1]) // _PART_BYTES)
        if self._kernel.threads == 1 or parts < 2:
            return [0, int(self._firsts[-1])]
        wanted = before[-1] * np.arange(1, parts) / parts
        segment = np.searchsorted(before, wanted, side="right") - 1
        slots = ((wanted - before[segment]) / costs[segment] * counts[segment]).astype(np.int64)
        if self._tree:
            of_a_part = max(1, int(counts.sum()) // parts)
            self._within = min(self._levels, _TILE_LEVELS, of_a_part.bit_length() - 1)
            slots -= slots % (1 << self._within)
        return sorted({0, *(self._firsts[segment] + slots).tolist(), int(self._firsts[-1])})

    def _hash(self) -> float:
        begin = perf_counter()
        if self._of_leaves and self._segments:
            np.concatenate(list(map(bytes_of, self._segments)), out=self._digests.owner)
        if len(self._cuts) > 1:
            parts = pairwise(self._cuts)
            run = map if self._kernel.workers is None or len(self._cuts) == 2 else self._kernel.workers.map
            for _ in run(lambda part: self._hash_part(part[0], part[1], int(self._of_leaves), self._within), parts):
                pass
            if self._levels > self._within:
                self._hash_part(0, self._cuts[-1], self._within + 1, self._levels)
            if self._tree:
                size = self._kernel.algorithm.digest_size
                digests, results = (buffer.owner.reshape(-1, size) for buffer in (self._digests, self._results))
                np.take(digests, self._firsts[:-1], axis=0, out=results)
        return perf_counter() - begin

    def _hash_part(self, begin: int, end: int, lowest: int, highest: int) -> None:
        segment = int(np.searchsorted(self._firsts, begin, side="right")) - 1
        memory = np.empty(self._kernel.memory_bytes, np.uint8)
        self._kernel.hash_slots(*self._arguments, segment, begin, end, lowest, highest, _address_of(memory))


def _address(buffer: Buffer) -> int:
    return _address_of(buffer.owner) + buffer.address


def _address_of(array: Any) -> int:
    return int(array.__array_interface__["data"][0])
