"""SYCL, through dpctl: kernels in OpenCL C or SPIR-V over dpnp and USM arrays, SYCL queues and events.

It runs on any x86 CPU through Intel's OpenCL runtime. It is written for Intel's GPUs too, through OpenCL and Level
Zero, and has not run on one yet.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import psutil

from hashbench.kernels import opencl_drivers, spirv
from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.contract import Algorithm, Buffer, Bytes, Device, OutOfDeviceMemory, Priority, Stage
from hashbench.kernels.device_kernel import Argument, DeviceKernel, Launch
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.source import device_source, functions, intel_gpu_options, opencl_options
from hashbench.kernels.working_directory import outside_working_directory

_ALIGNMENT = 256

_BACKENDS = ("level_zero", "opencl")
"""SYCL's backends that programs are built for, the one that dpnp's arrays use first."""

_WHOLE_ADDRESSES = "-cl-intel-greater-than-4GB-buffer-required"
"""The option of Intel's compiler for GPUs with which buffers may be that large."""

_IN_LEVEL_ZERO = {
    _WHOLE_ADDRESSES: "-ze-opt-greater-than-4GB-buffer-required",
    "-cl-intel-256-GRF-per-thread": "-ze-opt-large-register-file",
}
"""The names of its options there."""


@contextmanager
def _programs_started_as_before() -> Iterator[None]:
    """Keeps how Python starts programs: dpctl makes it copy the process first, which takes 40 ms for one of 1 GB."""
    before = {name: getattr(subprocess, name) for name in ("_USE_POSIX_SPAWN", "_USE_VFORK")}
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(subprocess, name, value)


@cache
def _load() -> opencl_drivers.Loaded:
    with opencl_drivers.announced_to_sycl() as refused, _programs_started_as_before():
        import dpctl
        import dpctl.memory
        import dpctl.program

        dpctl.get_devices()
    return opencl_drivers.Loaded(dpctl, refused)


def _framework() -> str:
    names = []
    for package in ("dpctl", "dpnp"):
        try:
            names.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(names)


def _argument(argument: Argument) -> Any:
    if isinstance(argument, Buffer):
        return argument.owner
    return np.ctypeslib.as_ctypes_type(argument.dtype)(int(argument))


@cache
def _compiled(device_id: str, source: str, options: str) -> Any:
    """OpenCL C, compiled for the context that all queues of a device share: for a CPU that takes seconds."""
    dpctl = _load().module
    return dpctl.program.create_program_from_source(dpctl.SyclQueue(device_id), source, options)


@cache
def from_spirv(device_id: str, algorithm: Algorithm, sub_group_size: int | None = None, options: str = "") -> Any:
    """The program that ships compiled, for the same context: Level Zero takes no OpenCL C."""
    dpctl = _load().module
    module = spirv.program(algorithm, sub_group_size)
    return dpctl.program.create_program_from_spirv(dpctl.SyclQueue(device_id), module, options)


def level_zero_options(algorithm: Algorithm, sizes: Sequence[int]) -> str:
    """The options that Level Zero needs for a program in SPIR-V; arguments as of `intel_gpu_options`."""
    options = [*intel_gpu_options(algorithm, sizes), _WHOLE_ADDRESSES]
    return " ".join(_IN_LEVEL_ZERO[option] for option in options if option in _IN_LEVEL_ZERO)


def _describe(device: Any) -> Device:
    return Device(
        kernel=DpnpSycl.name,
        id=device.filter_string,
        name=device.name.strip(),
        vendor=device.vendor,
        kind="gpu" if device.is_gpu else "cpu",
        framework=_framework(),
        driver=f"{device.sycl_platform.name} {device.driver_version}",
        unavailable=None if device.has_aspect_usm_device_allocations else "it has no unified shared memory",
        remark="not yet run on a GPU" if device.is_gpu else "",
    )


class _Range:
    """Part of an allocation, in the form in which SYCL frameworks pass arrays to each other."""

    def __init__(self, buffer: Buffer, queue: Any) -> None:
        self._owner = buffer.owner
        self.__sycl_usm_array_interface__ = {
            "data": (buffer.address, False),
            "shape": (buffer.nbytes,),
            "strides": None,
            "typestr": "|u1",
            "version": 1,
            "syclobj": queue,
            "offset": 0,
        }


class _SharedStage(Stage):
    """USM that both host and device access: nothing is copied."""

    def __init__(self, kernel: DpnpSycl, nbytes: int) -> None:
        dpctl = _load().module
        memory = dpctl.memory.MemoryUSMShared(nbytes, queue=kernel.queue)
        self.buffer = Buffer(memory, memory._pointer, nbytes)

    @cached_property
    def host(self) -> Bytes:
        return np.frombuffer(self.buffer.owner, dtype=np.uint8)

    def upload(self, nbytes: int) -> Buffer:
        return self.buffer[:nbytes]


class _CopyStage(Stage):
    """Host USM, which the device's copy engine reads at full speed, and device USM."""

    def __init__(self, kernel: DpnpSycl, nbytes: int) -> None:
        self._queue = kernel.queue
        self._memory = _load().module.memory.MemoryUSMHost(nbytes, queue=self._queue)
        self.buffer = kernel.allocate(nbytes)

    @cached_property
    def host(self) -> Bytes:
        return np.frombuffer(self._memory, dtype=np.uint8)

    def upload(self, nbytes: int) -> Buffer:
        self._queue.memcpy(self.buffer.owner, self._memory, nbytes)
        return self.buffer[:nbytes]


class DpnpSycl(DeviceKernel):
    """SHA-2 in SYCL, on every device that it reaches through Level Zero or OpenCL. Its queues have no priorities."""

    name = "dpnp"

    @outside_working_directory(*opencl_drivers.READS)
    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        self.queue = _load().module.SyclQueue(device.id, property=("in_order", "enable_profiling"))
        program = self.program()
        self._functions = {name: program.get_sycl_kernel(name) for name in functions(self.algorithm, "plain")}

    @classmethod
    @outside_working_directory(*opencl_drivers.READS)
    def devices(cls) -> list[Device]:
        try:
            dpctl, refused = _load()
        except ImportError as error:
            reason = f"dpctl cannot be imported ({error}): install hashbench[sycl]"
            return [Device(cls.name, unavailable=reason)]
        usable = [device for device in dpctl.get_devices() if device.backend.name in _BACKENDS]
        usable.sort(key=lambda device: _BACKENDS.index(device.backend.name))
        reason = "SYCL finds no device of Level Zero or OpenCL: install a GPU driver, or hashbench[sycl] for the CPU"
        unavailable = Device(cls.name, framework=_framework(), unavailable="; ".join([reason, *refused]))
        return [_describe(device) for device in usable] or [unavailable]

    def program(self) -> Any:
        """The device code, built for the device."""
        sizes = self.queue.sycl_device.sub_group_sizes
        if self.queue.backend.name == "level_zero":
            return from_spirv(self.device.id, self.algorithm, min(sizes), level_zero_options(self.algorithm, sizes))
        options = opencl_options(self.device, self.algorithm, sizes)
        if options:
            options.append(_WHOLE_ADDRESSES)
        return _compiled(self.device.id, device_source(self.algorithm, "plain"), " ".join(options))

    def free_memory(self) -> int:
        device = self.queue.sycl_device
        if device.is_cpu:
            return psutil.virtual_memory().available
        return int(device.global_mem_size)

    def largest_buffer(self) -> int:
        device = self.queue.sycl_device
        return self.free_memory() if device.is_cpu else min(self.free_memory(), int(device.max_mem_alloc_size))

    def allocate(self, nbytes: int) -> Buffer:
        dpctl = _load().module
        try:
            memory = dpctl.memory.MemoryUSMDevice(nbytes, alignment=_ALIGNMENT, queue=self.queue)
        except (dpctl.memory.USMAllocationError, MemoryError):
            raise OutOfDeviceMemory(self.device, nbytes) from None
        return Buffer(memory, memory._pointer, nbytes)

    def origin(self, buffer: Buffer) -> Buffer:
        return replace(buffer, address=buffer.owner._pointer)

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        self.queue.memcpy(self._memory(buffer), data, buffer.nbytes)

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        self.queue.memcpy(host, self._memory(buffer), buffer.nbytes)

    def view(self, array: Any) -> Buffer:
        interface = getattr(array, "__sycl_usm_array_interface__", None)
        if interface is None:
            raise TypeError(
                f"{type(array).__name__} is not accepted: {self.name} views arrays with __sycl_usm_array_interface__"
            )
        nbytes = contiguous_nbytes(interface["shape"], interface["strides"], interface["typestr"], in_items=True)
        memory = _load().module.memory.as_usm_memory(array)
        if memory.sycl_context != self.queue.sycl_context:
            raise ValueError(f"the array is on {memory.sycl_device.name}, not on {self.device.name} ({self.device.id})")
        memory.sycl_queue.wait()  # it may still write the array
        return Buffer(memory, memory._pointer, nbytes)

    def stage(self, nbytes: int) -> Stage:
        try:
            return _SharedStage(self, nbytes) if self.queue.sycl_device.is_cpu else _CopyStage(self, nbytes)
        except _load().module.memory.USMAllocationError:
            raise OutOfDeviceMemory(self.device, nbytes) from None

    def queue_for(self, stream: Any) -> Any:
        if stream is None:
            return self.queue
        if not isinstance(stream, _load().module.SyclQueue):
            raise TypeError(f"{type(stream).__name__} is not accepted as a stream: {self.name} takes a dpctl.SyclQueue")
        if stream.sycl_context != self.queue.sycl_context:
            raise ValueError("the queue belongs to another SYCL context: create it with the context of this kernel")
        if not stream.is_in_order:
            raise ValueError('the queue is out of order: create it with the property "in_order"')
        if not stream.has_enable_profiling:
            raise ValueError('the queue does not measure time: create it with the property "enable_profiling"')
        return stream

    def launch(self, launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        events = [
            queue.submit_async(
                self._functions[launch.function],
                [_argument(a) for a in launch.arguments],
                [launch.groups * GROUP_SIZE],
                [GROUP_SIZE],
            )
            for launch in launches
        ]

        def finish() -> float:
            events[-1].wait()
            return 1e-9 * float(events[-1].profiling_info_end - events[0].profiling_info_start)

        return finish

    def _memory(self, buffer: Buffer) -> Any:
        return _load().module.memory.as_usm_memory(_Range(buffer, self.queue))
