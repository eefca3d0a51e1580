"""What kernels have in common whose device memory is the host's: those that only tests have."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterable
from mmap import mmap
from typing import Any

import numpy as np
import psutil

from hashbench.kernels import Buffer, Bytes, Lane, OutOfDeviceMemory, Part, Stage
from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.device_kernel import DeviceKernel

_libc = ctypes.CDLL(None)
_libc.malloc.restype = ctypes.c_void_p
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.free.argtypes = [ctypes.c_void_p]


class _Memory:
    """Memory of the exact size, so that a sanitizer sees every access beyond it."""

    def __init__(self, nbytes: int) -> None:
        self.address = _libc.malloc(nbytes)
        if self.address is None:
            raise MemoryError
        weakref.finalize(self, _libc.free, self.address)


class _HostStage(Stage):
    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    @property
    def host(self) -> Bytes:
        return bytes_at(self.buffer)

    def upload(self, nbytes: int) -> Buffer:
        return self.buffer[:nbytes]


class HostLane(Lane):
    """A lane to memory of the host.

    Args:
        nbytes: bytes of the block.
        bytes_at: gives the bytes of a buffer.
    """

    def __init__(self, nbytes: int, bytes_at: Callable[[Buffer], Bytes]) -> None:
        self._host, self._bytes_at = _pages(nbytes), bytes_at
        super().__init__(self._host)

    def send(self, parts: Iterable[Part]) -> None:
        for start, nbytes, target, place in parts:
            self._bytes_at(target)[place : place + nbytes] = self._host[start : start + nbytes]
        self._host[:] = 0x5A  # what is sent is not used again


def _pages(nbytes: int) -> Bytes:
    return np.frombuffer(mmap(-1, nbytes), np.uint8)


def bytes_at(buffer: Buffer) -> Bytes:
    return np.ctypeslib.as_array((ctypes.c_uint8 * buffer.nbytes).from_address(buffer.address))


class HostMemoryKernel(DeviceKernel):
    """A kernel in the host's memory, without streams. It lacks `devices` and `launch`."""

    def free_memory(self) -> int:
        return psutil.virtual_memory().available

    def allocate(self, nbytes: int) -> Buffer:
        try:
            memory = _Memory(nbytes)
        except MemoryError:
            raise OutOfDeviceMemory(self.device, nbytes) from None
        return Buffer(memory, memory.address, nbytes)

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        bytes_at(buffer)[:] = data

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        host[:] = bytes_at(buffer)

    def view(self, array: Any) -> Buffer:
        interface = getattr(array, "__array_interface__", None)
        if interface is None:
            raise TypeError(f"{type(array).__name__} is not accepted: {self.name} views NumPy arrays")
        nbytes = contiguous_nbytes(interface["shape"], interface["strides"], interface["typestr"])
        return Buffer(array, interface["data"][0], nbytes)

    def stage(self, nbytes: int) -> Stage:
        return _HostStage(self.allocate(nbytes))

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        return [HostLane(nbytes, bytes_at) for _ in range(count)]

    def queue_for(self, stream: Any) -> None:
        if stream is not None:
            raise TypeError(f"{type(stream).__name__} is not accepted as a stream: the host has none, only None is")
