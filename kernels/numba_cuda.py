"""CUDA kernels in Python, compiled at run time by Numba; memory, streams and events from the CUDA driver."""

from __future__ import annotations

import ctypes
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np

from hashbench.kernels import programs
from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.contract import (
    Algorithm,
    Buffer,
    Bytes,
    Device,
    Lane,
    OutOfDeviceMemory,
    Part,
    Priority,
    Stage,
    blocks_of,
)
from hashbench.kernels.cuda_streams import STREAM_PRIORITIES, stream_handle
from hashbench.kernels.device_kernel import Argument, DeviceKernel, Launch
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.source import VARIANTS, blocks
from hashbench.kernels.working_directory import outside_working_directory

_READS = ".numba_config.yaml"
"""What Numba reads in the working directory, and may take a driver or a folder of pickles from."""

_SOURCES = ("numba_tree.py", "numba_dialect.py", "layout.py", "fips180.py")


@cache
def program(algorithm: Algorithm, variant: str, architecture: int) -> ModuleType:
    """The device code for one algorithm, variant and architecture (90 for sm_90), as a module of its own."""
    return programs.load(
        _SOURCES,
        *(algorithm.name, variant, architecture),
        **VARIANTS[variant],
        **blocks(algorithm, variant),
        SHA=int(algorithm.name.removeprefix("sha")),
        ARCHITECTURE=architecture,
    )


class _DriverError(RuntimeError):
    """A call of the CUDA driver failed.

    Attributes:
        code: the driver's error code.
    """

    def __init__(self, function: str, code: Any) -> None:
        super().__init__(f"{function}: {code.name}")
        self.code = code


def _driver() -> Any:
    from cuda.bindings import driver

    return driver


def _call(function: str, *arguments: Any) -> Any:
    """Calls a function of the CUDA driver and returns its result, if any.

    Raises:
        _DriverError: the call failed.
    """
    code, *values = getattr(_driver(), function)(*arguments)
    if code:
        raise _DriverError(function, code)
    return values[0] if values else None


def _release_with(owner: Any, gpu: Any, function: str, handle: Any) -> None:
    """Releases `handle` when `owner` is collected, on any thread. At exit the process releases everything."""

    def release() -> None:
        with gpu:
            _call(function, handle)

    weakref.finalize(owner, release).atexit = False


class _Memory:
    """Device memory, freed with this object."""

    def __init__(self, gpu: Any, nbytes: int) -> None:
        with gpu:
            self.address = int(_call("cuMemAlloc", nbytes))
        _release_with(self, gpu, "cuMemFree", self.address)


def _page_locked(gpu: Any, nbytes: int) -> Bytes:
    with gpu:
        address = int(_call("cuMemHostAlloc", nbytes, 0))
    memory = (ctypes.c_uint8 * nbytes).from_address(address)
    _release_with(memory, gpu, "cuMemFreeHost", address)
    return np.frombuffer(memoryview(memory), dtype=np.uint8)


class _Stream:
    """A stream that does not wait for the default stream, so that it overlaps with other work on the device."""

    def __init__(self, gpu: Any, priority: Priority = "normal") -> None:
        flags = _driver().CUstream_flags.CU_STREAM_NON_BLOCKING
        with gpu:
            self.handle = _call("cuStreamCreateWithPriority", flags, STREAM_PRIORITIES[priority])
        _release_with(self, gpu, "cuStreamDestroy", self.handle)

    def start_to_device(self, address: int, data: Bytes) -> None:
        _call("cuMemcpyHtoDAsync", address, data.ctypes.data, data.nbytes, self.handle)

    def to_device(self, address: int, data: Bytes) -> None:
        self.start_to_device(address, data)
        self.finish()

    def to_host(self, data: Bytes, address: int) -> None:
        _call("cuMemcpyDtoHAsync", data.ctypes.data, address, data.nbytes, self.handle)
        self.finish()

    def finish(self) -> None:
        _call("cuStreamSynchronize", self.handle)


class _Event:
    """A timestamp in a stream."""

    def __init__(self, gpu: Any) -> None:
        with gpu:
            self.handle = _call("cuEventCreate", _driver().CUevent_flags.CU_EVENT_DEFAULT)
        _release_with(self, gpu, "cuEventDestroy", self.handle)


class _PinnedStage(Stage):
    """Page-locked host memory, copied on its own stream, so that copies overlap with hashing."""

    def __init__(self, kernel: NumbaCuda, nbytes: int) -> None:
        self._kernel = kernel
        self._stream = _Stream(kernel.gpu)
        self.buffer = kernel.allocate(nbytes)

    @cached_property
    def host(self) -> Bytes:
        return self._kernel.page_locked(self.buffer.nbytes)

    def upload(self, nbytes: int) -> Buffer:
        with self._kernel.gpu:
            self._stream.to_device(self.buffer.address, self.host[:nbytes])
        return self.buffer[:nbytes]


class _StreamLane(Lane):
    """A page-locked block, copied on a stream of its own."""

    def __init__(self, kernel: NumbaCuda, block: Bytes) -> None:
        super().__init__(block)
        self._host, self._gpu = block, kernel.gpu
        self._stream = _Stream(self._gpu)

    def send(self, parts: Iterable[Part]) -> None:
        with self._gpu:
            for start, nbytes, target, place in parts:
                self._stream.start_to_device(target.address + place, self._host[start : start + nbytes])
            self._stream.finish()


def _argument(argument: Argument) -> Any:
    return np.uint64(argument.address) if isinstance(argument, Buffer) else argument


class NumbaCuda(DeviceKernel):
    """SHA-2 in Python, compiled by Numba when a kernel is first built, and later loaded from Numba's cache on disk."""

    name = "numba-cuda"
    variants = ("sliced", "tabled", "held", "early", "rotated", "paired", "prefetched", "balanced", "plain")

    @outside_working_directory(_READS)
    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        from numba import cuda

        self.gpu: Any = cuda.gpus[int(device.id)]
        self._stream = _Stream(self.gpu, priority)
        self._queues: dict[int, tuple[Any, Any]] = {}
        self._events: list[tuple[_Event, _Event]] = []  # of runs that have ended, to be used again
        major, minor = self.gpu.compute_capability
        code = program(self.algorithm, self.variant, 10 * major + minor)
        self._functions = {name: getattr(code, name) for name in code.SIGNATURES}
        with self.gpu:
            for name, types in code.SIGNATURES.items():
                self._functions[name].compile(types)
        self.adapt_to_nvidia(self.gpu.MULTIPROCESSOR_COUNT)

    @classmethod
    @outside_working_directory(_READS)
    def devices(cls) -> list[Device]:
        try:
            framework = f"numba-cuda {version('numba-cuda')}"
            from numba import config, cuda
            from numba.cuda.cudadrv import nvvm
        except (ImportError, PackageNotFoundError) as error:
            reason = f"numba-cuda cannot be imported ({error}): install hashbench[cuda12] or [cuda13]"
            return [Device(cls.name, unavailable=reason)]
        if config.ENABLE_CUDASIM:
            reason = "Numba runs its CUDA simulator: unset NUMBA_ENABLE_CUDASIM"
            return [Device(cls.name, framework=framework, unavailable=reason)]
        if not nvvm.is_available():
            reason = "Numba finds no compiler (libNVVM): install hashbench[cuda12] or [cuda13]"
            return [Device(cls.name, framework=framework, unavailable=reason)]
        try:
            count = len(cuda.gpus)
            driver = _call("cuDriverGetVersion")
        except (cuda.CudaSupportError, _DriverError) as error:
            reason = f"no usable driver: {' '.join(str(error).split()).strip(' :')}"
            return [Device(cls.name, framework=framework, unavailable=reason)]
        if count == 0:
            return [Device(cls.name, framework=framework, unavailable="the driver finds no GPU")]
        return [
            Device(
                kernel=cls.name,
                id=str(ordinal),
                name=cuda.gpus[ordinal].name,
                vendor="NVIDIA",
                kind="gpu",
                framework=framework,
                driver=f"CUDA {driver // 1000}.{driver % 1000 // 10}",
            )
            for ordinal in range(count)
        ]

    def free_memory(self) -> int:
        with self.gpu:
            code, free, _ = _driver().cuMemGetInfo()
            if code:
                raise _DriverError("cuMemGetInfo", code)
            return int(free)

    def allocate(self, nbytes: int) -> Buffer:
        with self._refusing(nbytes):
            memory = _Memory(self.gpu, nbytes)
        return Buffer(memory, memory.address, nbytes)

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        with self.gpu:
            self._stream.to_device(buffer.address, data)

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        with self.gpu:
            self._stream.to_host(host, buffer.address)

    def view(self, array: Any) -> Buffer:
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is None:
            raise TypeError(
                f"{type(array).__name__} is not accepted: {self.name} views arrays in GPU memory with "
                "__cuda_array_interface__"
            )
        nbytes = contiguous_nbytes(interface["shape"], interface.get("strides"), interface["typestr"])
        address = interface["data"][0]
        with self.gpu:
            if nbytes:
                self._check_is_mine(address)
            if stream := interface.get("stream"):
                _call("cuStreamSynchronize", stream)
            elif interface["version"] < 3:
                _call("cuCtxSynchronize")  # the stream that writes the array is unknown
        return Buffer(array, address, nbytes)

    def page_locked(self, nbytes: int) -> Bytes:
        """Host memory that the device copies fast."""
        with self._refusing(nbytes):
            return _page_locked(self.gpu, nbytes)

    def stage(self, nbytes: int) -> Stage:
        return _PinnedStage(self, nbytes)

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        return [_StreamLane(self, block) for block in blocks_of(self.page_locked(count * nbytes), count)]

    def queue_for(self, stream: Any) -> Any:
        from numba import cuda

        handle = int(self._stream.handle) if stream is None else stream_handle(stream)
        # Numba prepares a launch anew for every stream object that it has not seen.
        if handle not in self._queues:
            with self.gpu:
                self._queues[handle] = _driver().CUstream(handle), cuda.external_stream(handle)
        return self._queues[handle]

    def launch(self, launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        stream, launch_stream = queue
        start, end = self._events.pop() if self._events else (_Event(self.gpu), _Event(self.gpu))
        with self.gpu:
            with warnings.catch_warnings():  # Numba warns of small grids
                warnings.filterwarnings("ignore", message=".*low occupancy")
                prepared = [
                    (
                        self._functions[launch.function][launch.groups, GROUP_SIZE, launch_stream],
                        [_argument(a) for a in launch.arguments],
                    )
                    for launch in launches
                ]
            _call("cuEventRecord", start.handle, stream)
            for function, arguments in prepared:
                function(*arguments)
            _call("cuEventRecord", end.handle, stream)

        def finish() -> float:
            with self.gpu:
                _call("cuEventSynchronize", end.handle)
                seconds = 1e-3 * float(_call("cuEventElapsedTime", start.handle, end.handle))
            self._events.append((start, end))
            return seconds

        return finish

    @contextmanager
    def _refusing(self, nbytes: int) -> Iterator[None]:
        """Raises OutOfDeviceMemory if the driver cannot allocate `nbytes`."""
        try:
            yield
        except OverflowError:
            raise OutOfDeviceMemory(self.device, nbytes) from None
        except _DriverError as error:
            if error.code != _driver().CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise
            raise OutOfDeviceMemory(self.device, nbytes) from None

    def _check_is_mine(self, address: int) -> None:
        attribute = _driver().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        try:
            ordinal = _call("cuPointerGetAttribute", attribute, address)
        except _DriverError as error:
            raise ValueError(f"the array is not in memory that CUDA knows ({error})") from None
        if ordinal != int(self.device.id):
            raise ValueError(f"the array is on device {ordinal}, not on {self.device.id} ({self.device.name})")
