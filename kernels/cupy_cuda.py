"""CUDA C, through CuPy: compiled at run time by NVRTC, or by hipRTC where CuPy is built for ROCm."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path
from threading import Lock, local
from typing import Any

import numpy as np

from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.caches import is_private
from hashbench.kernels.contract import (
    Buffer,
    Bytes,
    Device,
    Lane,
    OutOfDeviceMemory,
    Part,
    PartsInTurn,
    Priority,
    Stage,
    blocks_of,
)
from hashbench.kernels.cuda_streams import STREAM_PRIORITIES, stream_handle
from hashbench.kernels.device_kernel import Argument, DeviceKernel, Launch
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.read_and_copy import ReadAndCopy
from hashbench.kernels.source import VARIANTS, device_source, functions
from hashbench.kernels.working_directory import outside_working_directory

_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation and hipErrorOutOfMemory, which CuPy does not name."""

_IN_MEMORY = "CUPY_CACHE_IN_MEMORY"
_changing = Lock()  # who changes the environment


def built(cupy: Any, code: str) -> Any:
    """The module of a program, compiled for the current device, or from CuPy's cache on disk if that is private."""
    module = cupy.RawModule(code=code)
    with _private_cache():
        module.compile()
    return module


@contextmanager
def _private_cache() -> Iterator[None]:
    """Makes CuPy compile in memory if others can write to its cache on disk: it runs the machine code there."""
    if is_private(Path(os.environ.get("CUPY_CACHE_DIR", "~/.cupy/kernel_cache"))):
        yield
        return
    with _changing:
        before = os.environ.get(_IN_MEMORY)
        os.environ[_IN_MEMORY] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_IN_MEMORY]
            else:
                os.environ[_IN_MEMORY] = before


def _argument(argument: Argument) -> Any:
    return np.uint64(argument.address) if isinstance(argument, Buffer) else argument


class _PinnedStage(Stage):
    """Page-locked host memory, copied on its own stream, so that copies overlap with hashing."""

    def __init__(self, kernel: CupyCuda, nbytes: int) -> None:
        self._kernel = kernel
        self.buffer = kernel.allocate(nbytes)
        with kernel.cuda_device:
            self._stream = kernel.cupy.cuda.Stream(non_blocking=True)

    @cached_property
    def host(self) -> Bytes:
        return self._kernel.page_locked(self.buffer.nbytes)

    def upload(self, nbytes: int) -> Buffer:
        with self._kernel.cuda_device:
            self.buffer.owner.copy_from_host_async(self.host.ctypes.data, nbytes, self._stream)
            self._stream.synchronize()
        return self.buffer[:nbytes]


class _StreamLane(Lane):
    """A page-locked block, copied on a stream of its own. The two calls give way to other Python threads while they
    wait for the driver; what does not, as setting the device, is done once a thread."""

    _thread = local()

    def __init__(self, kernel: CupyCuda, block: Bytes) -> None:
        super().__init__(block)
        self._address = block.ctypes.data
        self._device, self._runtime = kernel.cuda_device, kernel.cupy.cuda.runtime
        self._read_and_copy = None if self._runtime.is_hip else _read_and_copy()
        with self._device:
            self._stream = kernel.cupy.cuda.Stream(non_blocking=True)

    def send(self, parts: Iterable[Part]) -> None:
        self._use_device()
        copy, kind, stream = self._runtime.memcpyAsync, self._runtime.memcpyHostToDevice, self._stream.ptr
        for start, nbytes, target, place in parts:
            copy(target.address + place, self._address + start, nbytes, kind, stream)
        self._runtime.streamSynchronize(stream)

    def bring(self, file: int, offset: int, target: Buffer) -> int:
        if self._read_and_copy is None:
            return super().bring(file, offset, target)
        self._use_device()
        return self._read_and_copy(
            file, offset, target.nbytes, self._address, self.block.nbytes, target.address, self._stream.ptr
        )

    def bring_in_turn(self, parts: PartsInTurn) -> int | None:
        if self._read_and_copy is None:
            return super().bring_in_turn(parts)
        self._use_device()
        return self._read_and_copy.in_turn(parts, self._address, self._stream.ptr)

    def _use_device(self) -> None:
        if getattr(self._thread, "device", None) != self._device.id:
            self._device.use()  # a copy needs none, but would make a context on the first
            self._thread.device = self._device.id


@cache
def _read_and_copy() -> ReadAndCopy | None:
    """The loop of NVIDIA's driver; None where it cannot be compiled."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        functions = driver.cuMemcpyHtoDAsync_v2, driver.cuStreamSynchronize
        return ReadAndCopy(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions))
    except Exception:  # without llvmlite, or with one that is broken; Python's own loop does the same
        return None


class _Handle:
    """A stream as the CUDA stream protocol passes it between frameworks."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


class CupyCuda(DeviceKernel):
    """SHA-2 in CUDA C."""

    name = "cupy"
    variants = tuple(VARIANTS)

    @outside_working_directory()
    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        import cupy

        self.cupy: Any = cupy
        self.cuda_device = cupy.cuda.Device(int(device.id))
        source = self.source()
        with self.cuda_device:
            self._stream = self._own_stream()
            module = built(cupy, source)
            self._functions = {name: module.get_function(name) for name in functions(self.algorithm, self.variant)}
        if not cupy.cuda.runtime.is_hip:
            self.adapt_to_nvidia(self.cuda_device.attributes["MultiProcessorCount"])

    def source(self) -> str:
        """The program text."""
        return device_source(self.algorithm, self.variant)

    @classmethod
    @outside_working_directory()
    def devices(cls) -> list[Device]:
        try:
            import cupy
        except ImportError as error:
            reason = f"CuPy cannot be imported ({error}): install hashbench[cuda12], [cuda13] or [rocm]"
            return [Device(cls.name, unavailable=reason)]
        runtime = cupy.cuda.runtime
        framework = f"cupy {cupy.__version__}"
        try:
            count = runtime.getDeviceCount()
        except runtime.CUDARuntimeError as error:
            return [Device(cls.name, framework=framework, unavailable=f"no usable driver: {error}")]
        if count == 0:
            return [Device(cls.name, framework=framework, unavailable="the driver finds no GPU")]
        vendor, platform = ("AMD", "HIP") if runtime.is_hip else ("NVIDIA", "CUDA")
        driver = runtime.driverGetVersion()
        return [
            Device(
                kernel=cls.name,
                id=str(ordinal),
                name=runtime.getDeviceProperties(ordinal)["name"].decode(),
                vendor=vendor,
                kind="gpu",
                framework=framework,
                driver=f"{platform} {driver}" if runtime.is_hip else f"CUDA {driver // 1000}.{driver % 1000 // 10}",
            )
            for ordinal in range(count)
        ]

    def free_memory(self) -> int:
        with self.cuda_device:
            free, _ = self.cupy.cuda.runtime.memGetInfo()
            return int(free + self.cupy.get_default_memory_pool().free_bytes())

    def trim(self) -> None:
        with self.cuda_device:
            self.cupy.get_default_memory_pool().free_all_blocks()

    def allocate(self, nbytes: int) -> Buffer:
        with self.cuda_device, self._stream:
            try:
                memory = self.cupy.cuda.alloc(nbytes)
            except (self.cupy.cuda.memory.OutOfMemoryError, OverflowError):
                raise OutOfDeviceMemory(self.device, nbytes) from None
        return Buffer(memory, memory.ptr, nbytes)

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        runtime = self.cupy.cuda.runtime
        with self.cuda_device:
            runtime.memcpyAsync(
                buffer.address, data.ctypes.data, buffer.nbytes, runtime.memcpyHostToDevice, self._stream.ptr
            )
            self._stream.synchronize()

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        runtime = self.cupy.cuda.runtime
        with self.cuda_device:
            runtime.memcpyAsync(
                host.ctypes.data, buffer.address, buffer.nbytes, runtime.memcpyDeviceToHost, self._stream.ptr
            )
            self._stream.synchronize()

    def view(self, array: Any) -> Buffer:
        """The bytes of an array with `__cuda_array_interface__`, or with DLPack (CuPy on ROCm)."""
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            if not hasattr(array, "__dlpack_device__") or not self._is_mine(array.__dlpack_device__()):
                raise TypeError(
                    f"{type(array).__name__} is not accepted: {self.name} views arrays in GPU memory with "
                    "__cuda_array_interface__ or DLPack"
                )
            array = self.cupy.from_dlpack(array)
            interface = array.__cuda_array_interface__
        nbytes = contiguous_nbytes(interface["shape"], interface.get("strides"), interface["typestr"])
        address = interface["data"][0]
        if nbytes:
            ordinal = self.cupy.cuda.runtime.pointerGetAttributes(address).device
            if ordinal != self.cuda_device.id:
                raise ValueError(f"the array is on device {ordinal}, not on {self.device.id} ({self.device.name})")
        with self.cuda_device:
            if stream := interface.get("stream"):  # a handle; 1 and 2 are CUDA's default streams
                self.cupy.cuda.runtime.streamSynchronize(stream)
            elif interface.get("version", 0) < 3:
                self.cuda_device.synchronize()  # the stream that writes the array is unknown
        return Buffer(array, address, nbytes)

    def page_locked(self, nbytes: int) -> Bytes:
        """Host memory that the device copies fast."""
        try:
            with self.cuda_device:
                memory = self.cupy.cuda.alloc_pinned_memory(nbytes)
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            if error.status != _OUT_OF_MEMORY:
                raise
            raise OutOfDeviceMemory(self.device, nbytes) from None
        return np.frombuffer(memory, dtype=np.uint8, count=nbytes)

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        return [_StreamLane(self, block) for block in blocks_of(self.page_locked(count * nbytes), count)]

    def stage(self, nbytes: int) -> Stage:
        return _PinnedStage(self, nbytes)

    def queue_for(self, stream: Any) -> Any:
        if stream is None:
            return self._stream
        handle = stream_handle(stream)
        with self.cuda_device:
            if not hasattr(self.cupy.cuda.Stream, "from_external"):  # before CuPy 14
                return self.cupy.cuda.ExternalStream(handle, int(self.device.id))
            return self.cupy.cuda.Stream.from_external(_Handle(handle))

    def launch(self, launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        return self.timed(lambda: self._submit(launches), queue)

    def series(self, launches: Sequence[Launch]) -> Callable[[Any], Callable[[], float]]:
        """As one CUDA graph from the second time on, since there are pauses between launches, and a graph takes longer
        to build than to launch."""
        if len(launches) == 1 or self.cupy.cuda.runtime.is_hip:
            return super().series(launches)
        graphs: list[Any] = []

        def enqueue(queue: Any) -> Callable[[], float]:
            if graphs:
                return self.timed(lambda: graphs[0].launch(queue), queue)
            finish = self.launch(launches, queue)
            graphs.append(self._graph(launches))
            return finish

        return enqueue

    def _graph(self, launches: Sequence[Launch]) -> Any:
        with self.cuda_device, self.cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            self._submit(launches)
            return stream.end_capture()

    def _submit(self, launches: Sequence[Launch]) -> None:
        """Enqueues `launches` on the current stream."""
        for launch in launches:
            self._functions[launch.function](
                (launch.groups,), (GROUP_SIZE,), tuple(_argument(a) for a in launch.arguments)
            )

    def timed(self, submit: Callable[[], None], queue: Any, *, sleeping: bool = False) -> Callable[[], float]:
        """Calls `submit`, which enqueues work on the current stream.

        Args:
            submit: what to call.
            queue: becomes the current stream meanwhile.
            sleeping: whether the thread that waits sleeps. By default the driver waits in a loop.

        Returns:
            What waits for the end of the work, and returns its seconds by the device's clock.
        """
        with self.cuda_device, queue:
            start, end = self.cupy.cuda.Event(block=sleeping), self.cupy.cuda.Event(block=sleeping)
            start.record(queue)
            submit()
            end.record(queue)

        def finish() -> float:
            with self.cuda_device:
                end.synchronize()
                return 1e-3 * float(self.cupy.cuda.get_elapsed_time(start, end))

        return finish

    def _own_stream(self) -> Any:
        try:
            return self.cupy.cuda.Stream(non_blocking=True, priority=STREAM_PRIORITIES[self.priority])
        except TypeError:  # before CuPy 14
            return self.cupy.cuda.Stream(non_blocking=True)

    @staticmethod
    def _is_mine(dlpack_device: tuple[int, int]) -> bool:
        return dlpack_device[0] in (2, 10)  # kDLCUDA, kDLROCM
