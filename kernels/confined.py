"""Roots of short segments on a few multiprocessors of an NVIDIA GPU, for hashing beside a workload on the others.

It stands beside the contract: what it prepares is a `Work`, but it accepts only segments of up to `MOST_CHUNKS` chunks.
A call is one launch, and needs no device memory but for its table and the roots.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hashbench.kernels.beyond import build
from hashbench.kernels.contract import Buffer, Work, check_call
from hashbench.kernels.cupy_cuda import CupyCuda
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.short_trees import MOST_LEAVES
from hashbench.kernels.source import blocks

MOST_CHUNKS = MOST_LEAVES
"""Chunks of a segment."""

_SHARE = 8
"""The multiprocessors of a part of a GPU are a multiple of this number, from compute capability 9.0 on."""

_MULTIPROCESSORS, _DEFAULT_STREAM, _NON_BLOCKING = 1, 1, 1  # CU_DEV_RESOURCE_TYPE_SM and flags of cuda.h


class Confined:
    """A few multiprocessors of a GPU. Nothing keeps other work from them: they are those that were idle.

    Where the driver can divide a GPU (green contexts, from CUDA 12.4 on), they are always among the same ones.

    Args:
        kernel: hashes on the GPU.
        multiprocessors: how many, an even number.

    Attributes:
        divided: whether the driver divides the GPU.

    Raises:
        ValueError: the number of multiprocessors is not accepted.
        Unavailable: the GPU is not one of NVIDIA's.
    """

    def __init__(self, kernel: CupyCuda, multiprocessors: int = 2) -> None:
        (self.function,) = build(kernel, "confined.h", "hash_confined")
        self.all = int(kernel.cuda_device.attributes["MultiProcessorCount"])
        if multiprocessors % 2 or not 0 < multiprocessors <= self.all:
            raise ValueError(
                f"{multiprocessors!r} multiprocessors are not accepted: pass an even number up to {self.all}"
            )
        self.kernel, self.pairs = kernel, multiprocessors // 2
        with kernel.cuda_device:
            part = _stream_of_a_part(kernel.cuda_device.id, -(-multiprocessors // _SHARE) * _SHARE)
        self.divided = part is not None
        self.stream = kernel.queue_for(part)

    def prepare(self, segments: Sequence[Buffer], chunk_size: int) -> Work:
        """Prepares the roots of segments, which the caller keeps alive.

        Raises:
            TypeError, ValueError: as for `Kernel.prepare`, or a segment has more chunks than `MOST_CHUNKS`.
            OutOfDeviceMemory: as for `Kernel.prepare`.
        """
        check_call("tree", segments, chunk_size)
        if any(segment.nbytes > MOST_CHUNKS * chunk_size for segment in segments):
            raise ValueError(f"a segment has more than {MOST_CHUNKS} chunks, which is not accepted")
        return _ConfinedWork(self, segments, chunk_size)


class _ConfinedWork(Work):
    def __init__(self, place: Confined, segments: Sequence[Buffer], chunk_size: int) -> None:
        kernel = place.kernel
        super().__init__(kernel)
        self._place, self._count = place, len(segments)
        table = np.array([(segment.address, segment.nbytes) for segment in segments], dtype=np.uint64)
        self._table = kernel.put(table.view(np.uint8).reshape(-1))
        self._control = kernel.allocate(4 * (1 + place.pairs))
        size = kernel.algorithm.digest_size
        self._roots = kernel.allocate(max(1, len(segments) * size))[: len(segments) * size]
        of_padding, of_nodes = self._schedules = kernel.schedules(chunk_size + 1), kernel.schedules(1 + 2 * size)
        self._arguments = (
            np.uint64(self._table.address),
            np.uint32(len(segments)),
            np.uint64(chunk_size),
            np.uint64(of_padding.address),
            np.uint64(of_nodes.address),
            np.uint64(self._control.address),
            np.uint32(place.pairs),
            np.uint64(self._roots.address),
            np.uint32(1),
        )

    def enqueue(self, stream: Any) -> Callable[[], float]:
        place, kernel = self._place, self._place.kernel
        if not self._count:
            return lambda: 0.0
        queue = place.stream if stream is None else kernel.queue_for(stream)
        # Enough groups to fill the GPU, so that some come to every multiprocessor that is idle.
        groups = place.all * blocks(kernel.algorithm, kernel.variant)["NODE_BLOCKS"]

        def submit() -> None:
            self._control.owner.memset_async(0, self._control.nbytes, queue)
            place.function((groups,), (GROUP_SIZE,), self._arguments)

        return kernel.timed(submit, queue, sleeping=True)

    def output(self) -> Buffer:
        return self._roots


class _Resource(ctypes.Structure):
    """CUdevResource of cuda.h, of multiprocessors."""

    _fields_ = (("type", ctypes.c_int), ("padding", ctypes.c_ubyte * 92), ("content", ctypes.c_ubyte * 48))


def _stream_of_a_part(device: int, multiprocessors: int) -> int | None:
    """A stream, of the lowest priority, of a part of a GPU with that many multiprocessors; None where there is none.

    The part and the stream stay until the process ends.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        whole, part, others = _Resource(), _Resource(), _Resource()
        count, description = ctypes.c_uint(1), ctypes.c_void_p()
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        at = ctypes.byref
        failed = (
            driver.cuDeviceGetDevResource(device, at(whole), _MULTIPROCESSORS)
            or driver.cuDevSmResourceSplitByCount(at(part), at(count), at(whole), at(others), 0, multiprocessors)
            or driver.cuDevResourceGenerateDesc(at(description), at(part), 1)
            or driver.cuGreenCtxCreate(at(context), description, device, _DEFAULT_STREAM)
            or driver.cuGreenCtxStreamCreate(at(stream), context, _NON_BLOCKING, 0)
        )
    except (OSError, AttributeError):  # no such driver, or an older one
        return None
    return None if failed else stream.value
