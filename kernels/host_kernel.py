"""What the kernels of the host's own processor share: host memory, and threads."""

from __future__ import annotations

import os
import platform
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hashbench.kernels.arrays import contiguous_nbytes, host_bytes
from hashbench.kernels.contract import (
    SPLITMIX64_INCREMENT,
    Buffer,
    Bytes,
    Device,
    Kernel,
    OutOfDeviceMemory,
    Priority,
    Stage,
    check_random,
)

_NICENESS = 10
"""How much threads of low priority yield to others; Linux knows it for each thread."""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        try:
            import cpuinfo  # takes about a second: for operating systems without that file
        except ImportError:
            return platform.processor() or "CPU"
        return str(cpuinfo.get_cpu_info().get("brand_raw", "CPU"))


def splitmix64(seed: int, first: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """Words `first` to `first + count - 1` of the SplitMix64 sequence of `seed` (Steele, Lea, Flood: Fast
    Splittable Pseudorandom Number Generators, OOPSLA 2014): uint64, shape (count,)."""
    z = np.arange(first + 1, first + count + 1, dtype=np.uint64)
    z *= np.uint64(SPLITMIX64_INCREMENT)
    z += np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _yield_to_others() -> None:
    """Makes this thread one of low priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class _HostStage(Stage):
    def __init__(self, kernel: HostKernel, nbytes: int) -> None:
        self.buffer = kernel.allocate(nbytes)

    @property
    def host(self) -> Bytes:
        memory: Bytes = self.buffer.owner
        return memory

    def upload(self, nbytes: int) -> Buffer:
        return self.buffer[:nbytes]


class HostKernel(Kernel):
    """A kernel whose devices are one thread, and one thread per core. Device memory is host memory.

    Work that is started runs in the background, in the order in which it was started. Of the priorities "low" has an
    effect, on Linux.

    Attributes:
        threads: the number of threads that hash.
        background: runs what is started.
        workers: the threads that hash, if there are several.
    """

    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        self.threads = int(device.id.partition("-")[0])
        set_priority = _yield_to_others if priority == "low" else None
        self.background = ThreadPoolExecutor(1, initializer=set_priority)
        self.workers = ThreadPoolExecutor(self.threads, initializer=set_priority) if self.threads > 1 else None

    @classmethod
    def devices_of(cls, framework: str, driver: str) -> list[Device]:
        """The host's devices in a framework."""
        return [
            Device(
                kernel=cls.name,
                id=f"{threads}-thread" if threads == 1 else f"{threads}-threads",
                name=_processor(),
                vendor="host",
                kind="cpu",
                framework=framework,
                driver=driver,
            )
            for threads in sorted({1, _cores()})
        ]

    def free_memory(self) -> int:
        return psutil.virtual_memory().available

    def allocate(self, nbytes: int) -> Buffer:
        """Uninitialised host memory of `nbytes`.

        Raises:
            OutOfDeviceMemory: the host is out of memory.
        """
        try:
            return Buffer(np.empty(nbytes, dtype=np.uint8), 0, nbytes)
        except (MemoryError, ValueError):
            raise OutOfDeviceMemory(self.device, nbytes) from None

    def put(self, data: bytes | bytearray | memoryview | Bytes) -> Buffer:
        host = host_bytes(data)
        buffer = self.allocate(host.size)
        buffer.owner[:] = host
        return buffer

    def view(self, array: Any) -> Buffer:
        """The bytes of a NumPy array, or of any other array on the host with `__array_interface__`."""
        interface = getattr(array, "__array_interface__", None)
        if interface is None:
            raise TypeError(
                f"{type(array).__name__} is not accepted: {self.name} views arrays in host memory, such as NumPy's"
            )
        nbytes = contiguous_nbytes(interface["shape"], interface["strides"], interface["typestr"])
        return Buffer(np.asarray(array).reshape(-1).view(np.uint8), 0, nbytes)

    def random(self, nbytes: int, seed: int) -> Buffer:
        check_random(nbytes, seed)
        buffer = self.allocate(-(-nbytes // 8) * 8)
        words = buffer.owner.view(np.uint64)
        for first in range(0, words.size, 1 << 20):
            part = words[first : first + (1 << 20)]
            part[:] = splitmix64(seed, first, part.size)
        return buffer[:nbytes]

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        host[:] = bytes_of(buffer)

    def stage(self, nbytes: int) -> Stage:
        return _HostStage(self, nbytes)

    def refuse_stream(self, stream: Any) -> None:
        """Refuses all streams but None.

        Raises:
            TypeError: `stream` is not None.
        """
        if stream is not None:
            raise TypeError(f"{type(stream).__name__} is not accepted as a stream: {self.name} has none, only None is")


def bytes_of(buffer: Buffer) -> Bytes:
    """The bytes of a buffer of a `HostKernel`."""
    part: Bytes = buffer.owner[buffer.address : buffer.address + buffer.nbytes]
    return part
