"""OpenCL, through pyopencl: the same device code as CUDA and SYCL, on NVIDIA, AMD, Intel and CPU drivers."""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import psutil

from hashbench.kernels import opencl_drivers, program_cache
from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.contract import (
    Buffer,
    Bytes,
    Device,
    Lane,
    OutOfDeviceMemory,
    Part,
    Priority,
    Stage,
    Strategy,
    Work,
    blocks_of,
    check_call,
)
from hashbench.kernels.device_kernel import Argument, DeviceKernel, Launch
from hashbench.kernels.layout import GROUP_SIZE, digest_count
from hashbench.kernels.opencl_drivers import environment
from hashbench.kernels.source import BLOCKS, VARIANTS, blocks, device_source, opencl_options
from hashbench.kernels.working_directory import outside_working_directory

_QUEUE_PRIORITY = 0x1096
_QUEUE_PRIORITIES: dict[Priority, int] = {"low": 4, "normal": 2, "high": 1}
"""CL_QUEUE_PRIORITY_KHR and its values, of the extension cl_khr_priority_hints."""

_SUB_GROUP_SIZES = 0x4108
"""CL_DEVICE_SUB_GROUP_SIZES_INTEL, of the extension cl_intel_required_subgroup_size, which pyopencl does not know."""


@cache
def _load() -> opencl_drivers.Loaded:
    # PyOpenCL's own cache holds pickles, waits up to minutes for a lock that a killed process left, and fails where
    # it cannot be written. Programs are kept by `program_cache` instead.
    with environment("PYOPENCL_NO_CACHE", "1"), opencl_drivers.announced_to_opencl() as refused:
        import pyopencl

        with suppress(pyopencl.Error):  # of a machine without platforms, which `devices` reports
            pyopencl.get_platforms()
    return opencl_drivers.Loaded(pyopencl, refused)


_ENTRY = re.compile(rb"\.entry (\w+)\([^)]*\)\s*\.reqntid[^\n]*")
"""The head of a kernel in PTX, up to the directives that bound its registers."""


def sub_group_sizes(device: Any) -> list[int]:
    """The numbers of work-items that the compiler of a pyopencl device can put into a hardware thread, if it says."""
    if "cl_intel_required_subgroup_size" not in device.extensions.split():
        return []
    get_device_info = ctypes.CDLL(_load().module._cl.__file__).clGetDeviceInfo
    sizes, nbytes = (ctypes.c_size_t * 16)(), ctypes.c_size_t()
    handle, room = ctypes.c_void_p(device.int_ptr), ctypes.c_size_t(ctypes.sizeof(sizes))
    if get_device_info(handle, _SUB_GROUP_SIZES, room, sizes, ctypes.byref(nbytes)):
        return []
    return sizes[: nbytes.value // ctypes.sizeof(ctypes.c_size_t)]


def _argument(argument: Argument) -> Any:
    return argument.owner if isinstance(argument, Buffer) else argument


class _MappedStage(Stage):
    """Driver memory mapped for the host to write to: page-locked with a GPU, the device's own on a CPU."""

    def __init__(self, kernel: OpenCL, nbytes: int) -> None:
        self._cl, self._kernel = _load().module, kernel
        self._queue = self._cl.CommandQueue(kernel.context)
        self.buffer = kernel.allocate(nbytes)

    @cached_property
    def host(self) -> Bytes:
        return self._kernel.mapped(self._queue, self.buffer.nbytes)

    def upload(self, nbytes: int) -> Buffer:
        self._cl.enqueue_copy(self._queue, self.buffer.owner, self.host[:nbytes], is_blocking=True)
        return self.buffer[:nbytes]


class _QueueLane(Lane):
    """A mapped block, copied in a queue of its own."""

    def __init__(self, kernel: OpenCL, block: Bytes) -> None:
        super().__init__(block)
        self._cl, self._host = _load().module, block
        self._queue = self._cl.CommandQueue(kernel.context)

    def send(self, parts: Iterable[Part]) -> None:
        for start, nbytes, target, place in parts:
            data, offset = self._host[start : start + nbytes], target.address + place
            self._cl.enqueue_copy(self._queue, target.owner, data, dst_offset=offset, is_blocking=False)
        self._queue.finish()


class OpenCL(DeviceKernel):
    """SHA-2 in OpenCL C.

    A launch reaches one memory object, so segments in several buffers take one series of launches per buffer.
    The variants above "plain" are made for NVIDIA's devices.
    """

    name = "opencl"
    variants = tuple(name for name in VARIANTS if name not in ("unrolled", "bytewise"))

    @outside_working_directory(*opencl_drivers.READS)
    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        cl = _load().module
        self._cl = cl
        self._device = dict(_enumerate(cl))[device.id]
        self.context = cl.Context([self._device])
        self._queue = cl.CommandQueue(self.context, properties=self._queue_properties())
        source = device_source(self.algorithm, self.variant)
        program = self._program(source, ["-cl-std=CL1.2", *self._architecture(), *self._registers()])
        self._functions = {kernel.function_name: kernel for kernel in program.all_kernels()}
        if "NVIDIA" in device.vendor:
            self.adapt_to_nvidia(self._device.max_compute_units)

    def _program(self, source: str, options: list[str]) -> Any:
        """The program, compiled by this driver for this device now or in an earlier process."""
        cl, platform = self._cl, self._device.platform
        about = (platform.name, platform.version, self._device.name, self._device.driver_version, self._device.version)
        key = program_cache.program_key(("opencl", *about, *options, source))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)  # Intel's and NVIDIA's compilers report success
            if binary := program_cache.load(key):
                with suppress(cl.Error):  # of a driver that takes no such program any more
                    return cl.Program(self.context, [self._device], [binary]).build(options=options)
            program = cl.Program(self.context, source).build(options=options)
            (binary,) = program.get_info(cl.program_info.BINARIES)
            bounded = self._bounded(binary)
            if bounded != binary:
                binary = bounded
                program = cl.Program(self.context, [self._device], [binary]).build(options=options)
        program_cache.store(key, binary)
        return program

    def _bounded(self, ptx: bytes) -> bytes:
        """NVIDIA's PTX with the number of blocks that must fit a multiprocessor, for which OpenCL C has no words."""
        numbers = blocks(self.algorithm, self.variant)

        def bound(found: re.Match[bytes]) -> bytes:
            name = BLOCKS.get(found[1].decode())
            return found[0] + (f"\n.minnctapersm {numbers[name]}".encode() if name else b"")

        return _ENTRY.sub(bound, ptx)

    @classmethod
    @outside_working_directory(*opencl_drivers.READS)
    def devices(cls) -> list[Device]:
        try:
            cl, refused = _load()
        except ImportError as error:
            return [Device(cls.name, unavailable=f"pyopencl cannot be imported ({error}): install hashbench[opencl]")]
        framework = f"pyopencl {cl.VERSION_TEXT}"
        try:
            found = [
                Device(
                    kernel=cls.name,
                    id=identifier,
                    name=_name(device),
                    vendor=device.vendor,
                    kind="cpu" if device.type & cl.device_type.CPU else "gpu",
                    framework=framework,
                    driver=f"{device.platform.name} {device.driver_version}",
                    unavailable=None if device.compiler_available else "its driver has no compiler",
                )
                for identifier, device in _enumerate(cl)
            ]
        except cl.Error as error:
            found, reason = [], f"no OpenCL platform: {error}"
        else:
            reason = "no OpenCL device: install a GPU driver with OpenCL, or hashbench[opencl] for the CPU"
        return found or [Device(cls.name, framework=framework, unavailable="; ".join([reason, *refused]))]

    @classmethod
    def default_variant(cls, device: Device) -> str:
        """The first on NVIDIA's devices, which the others above "plain" are made for, and "plain" elsewhere."""
        return cls.variants[0] if "NVIDIA" in device.vendor else "plain"

    def free_memory(self) -> int:
        """On a GPU this is the total memory: OpenCL does not report how much of it is free."""
        if self.device.kind == "cpu":
            return psutil.virtual_memory().available
        return int(self._device.global_mem_size)

    def largest_buffer(self) -> int:
        return int(min(self.free_memory(), self._device.max_mem_alloc_size))

    def allocate(self, nbytes: int) -> Buffer:
        return self.allocate_with(self._cl.mem_flags.READ_WRITE, nbytes)

    def _architecture(self) -> list[str]:
        """The compiler option that defines the architecture of NVIDIA's devices in the device code."""
        if "NVIDIA" not in self.device.vendor:
            return []
        major, minor = self._device.compute_capability_major_nv, self._device.compute_capability_minor_nv
        return [f"-DARCHITECTURE={10 * major + minor}"]

    def _registers(self) -> list[str]:
        """The compiler options with which an Intel GPU has enough registers for a work-item."""
        return opencl_options(self.device, self.algorithm, sub_group_sizes(self._device))

    def allocate_with(self, flags: int, nbytes: int) -> Buffer:
        """Like `allocate`, with OpenCL memory flags."""
        try:
            memory = self._cl.Buffer(self.context, flags, nbytes)
            # Drivers allocate at first use: a use that moves nothing makes a failure show here.
            self._cl.enqueue_migrate_mem_objects(
                self._queue, [memory], flags=self._cl.mem_migration_flags.CONTENT_UNDEFINED
            ).wait()
        except (self._cl.MemoryError, self._cl.LogicError, self._cl.RuntimeError):
            raise OutOfDeviceMemory(self.device, nbytes) from None
        return Buffer(memory, 0, nbytes)

    def origin(self, buffer: Buffer) -> Buffer:
        return replace(buffer, address=0)

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        self._cl.enqueue_copy(self._queue, buffer.owner, data, dst_offset=buffer.address, is_blocking=True)

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        self._cl.enqueue_copy(self._queue, host, buffer.owner, src_offset=buffer.address, is_blocking=True)

    def view(self, array: Any) -> Buffer:
        """The bytes of a pyopencl array or buffer of the same context, once the array's queue has written them."""
        if isinstance(array, self._cl.Buffer):
            memory, address, nbytes = array, 0, array.size
        elif hasattr(array, "base_data") and isinstance(array.base_data, self._cl.Buffer):
            nbytes = contiguous_nbytes(array.shape, array.strides, array.dtype.str)
            memory, address = array.base_data, array.offset
            if array.queue is not None:
                array.queue.finish()
        else:
            raise TypeError(f"{type(array).__name__} is not accepted: {self.name} views pyopencl arrays and buffers")
        if self._device not in memory.context.devices or memory.context != self.context:
            raise ValueError(
                f"the array belongs to another OpenCL context: create it with the context of this kernel "
                f"({self.device.name})"
            )
        return Buffer(memory, address, nbytes)

    def stage(self, nbytes: int) -> Stage:
        return _MappedStage(self, nbytes)

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        queue = self._cl.CommandQueue(self.context)
        return [_QueueLane(self, block) for block in blocks_of(self.mapped(queue, count * nbytes), count)]

    def mapped(self, queue: Any, nbytes: int) -> Bytes:
        """Memory of the driver, for the host to write to."""
        flags = self._cl.mem_flags
        memory = self.allocate_with(flags.READ_WRITE | flags.ALLOC_HOST_PTR, nbytes)
        access = self._cl.map_flags.READ | self._cl.map_flags.WRITE
        host: Bytes
        host, _ = self._cl.enqueue_map_buffer(queue, memory.owner, access, 0, (nbytes,), np.uint8)
        return host

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        if len({id(s.owner) for s in segments}) < 2:
            return super().prepare(strategy, segments, chunk_size)
        return _SeveralBuffers(
            self,
            segments,
            [digest_count(strategy, segment.nbytes, chunk_size) for segment in segments],
            lambda of_one: self.prepare(strategy, of_one, chunk_size),
        )

    def folding(self, segments: Sequence[Buffer]) -> Work:
        if len({id(s.owner) for s in segments}) < 2:
            return super().folding(segments)
        return _SeveralBuffers(self, segments, [1] * len(segments), self.folding)

    def queue_for(self, stream: Any) -> Any:
        if stream is None:
            return self._queue
        cl = self._cl
        if not isinstance(stream, cl.CommandQueue):
            raise TypeError(
                f"{type(stream).__name__} is not accepted as a stream: {self.name} takes a pyopencl.CommandQueue"
            )
        if stream.context != self.context:
            raise ValueError("the queue belongs to another OpenCL context: create it with the context of this kernel")
        if stream.properties & cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE:
            raise ValueError("the queue is out of order: create it without OUT_OF_ORDER_EXEC_MODE_ENABLE")
        if not stream.properties & cl.command_queue_properties.PROFILING_ENABLE:
            raise ValueError("the queue does not measure time: create it with PROFILING_ENABLE")
        return stream

    def launch(self, launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        events = [
            self._functions[launch.function](
                queue, (launch.groups * GROUP_SIZE,), (GROUP_SIZE,), *map(_argument, launch.arguments)
            )
            for launch in launches
        ]
        queue.flush()  # a driver may hold commands back until someone waits for them

        def finish() -> float:
            events[-1].wait()
            return 1e-9 * float(events[-1].profile.end - events[0].profile.start)

        return finish

    def copy(self, source: Buffer, target: Buffer, queue: Any) -> Any:
        """Enqueues a copy on the device of `source` to `target`, of the same size, and returns its event."""
        return self._cl.enqueue_copy(
            queue,
            target.owner,
            source.owner,
            byte_count=source.nbytes,
            src_offset=source.address,
            dst_offset=target.address,
        )

    def _queue_properties(self) -> Any:
        profiling = self._cl.command_queue_properties.PROFILING_ENABLE
        if self.priority == "normal" or "cl_khr_priority_hints" not in self._device.extensions.split():
            return profiling
        return [self._cl.command_queue_info.PROPERTIES, profiling, _QUEUE_PRIORITY, _QUEUE_PRIORITIES[self.priority]]


class _SeveralBuffers(Work):
    """A call over segments in several memory objects: one work per object, and the digests in the segments' order.

    Args:
        kernel: the kernel that prepares it.
        segments: as for `Kernel.prepare`.
        counts: the digests of each.
        prepare: prepares a call over segments in one memory object.
    """

    def __init__(
        self,
        kernel: OpenCL,
        segments: Sequence[Buffer],
        counts: Sequence[int],
        prepare: Callable[[Sequence[Buffer]], Work],
    ) -> None:
        super().__init__(kernel)
        self._kernel = kernel
        groups: dict[int, list[int]] = {}
        for position, segment in enumerate(segments):
            groups.setdefault(id(segment.owner), []).append(position)
        self._positions = list(groups.values())
        self._works = [prepare([segments[p] for p in group]) for group in groups.values()]
        self._sizes = [kernel.algorithm.digest_size * count for count in counts]
        self._results = kernel.allocate(max(1, sum(self._sizes)))[: sum(self._sizes)]

    def enqueue(self, stream: Any) -> Callable[[], float]:
        self._queue = self._kernel.queue_for(stream)
        finishes = [work.enqueue(stream) for work in self._works]
        return lambda: sum(finish() for finish in finishes)

    def output(self) -> Buffer:
        """Gathers the digests of the works, which are in memory objects of their own, and waits for it."""
        ends = np.cumsum(self._sizes).tolist()
        copies = []
        for positions, work in zip(self._positions, self._works, strict=True):
            source, begin = work.output(), 0
            for position in positions:
                nbytes = self._sizes[position]
                if nbytes:
                    target = self._results[ends[position] - nbytes : ends[position]]
                    copies.append(self._kernel.copy(source[begin : begin + nbytes], target, self._queue))
                begin += nbytes
        if copies:
            copies[-1].wait()
        return self._results


def _name(device: Any) -> str:
    """The name of a device. AMD's drivers name the architecture as such, and the GPU in an extension."""
    named = device.board_name_amd if "cl_amd_device_attribute_query" in device.extensions.split() else device.name
    return str(named).strip()


def _enumerate(cl: Any) -> list[tuple[str, Any]]:
    """Every device with its identifier: the numbers of platform and device, as in pyopencl's PYOPENCL_CTX."""
    return [
        (f"{p}:{d}", device)
        for p, platform in enumerate(cl.get_platforms())
        for d, device in enumerate(platform.get_devices())
    ]
