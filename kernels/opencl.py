"""OpenCL, through pyopencl: the device code of SYCL and CUDA on NVIDIA, AMD, Intel and CPU drivers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psutil

from hashbench.kernels import opencl_drivers
from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.contract import Buffer, Bytes, Device, OutOfDeviceMemory, Stage, Strategy, Work, check_call
from hashbench.kernels.device_kernel import Argument, DeviceKernel, Launch, half_of_the_schedulers
from hashbench.kernels.layout import GROUP_SIZE, digest_count
from hashbench.kernels.source import device_source


def _pyopencl() -> Any:
    opencl_drivers.announce_to_opencl()
    import pyopencl

    return pyopencl


def _argument(argument: Argument) -> Any:
    return argument.owner if isinstance(argument, Buffer) else argument


class _MappedStage(Stage):
    """Memory that the driver lets the host write to: page-locked beside a GPU, the device's own on a CPU."""

    def __init__(self, kernel: OpenCL, nbytes: int) -> None:
        cl = _pyopencl()
        self._cl = cl
        self._queue = cl.CommandQueue(kernel.context)
        host = kernel.allocate_with(cl.mem_flags.READ_WRITE | cl.mem_flags.ALLOC_HOST_PTR, nbytes)
        self.host, _ = cl.enqueue_map_buffer(
            self._queue, host.owner, cl.map_flags.READ | cl.map_flags.WRITE, 0, (nbytes,), np.uint8
        )
        self._buffer = kernel.allocate(nbytes)

    def upload(self, nbytes: int) -> Buffer:
        self._cl.enqueue_copy(self._queue, self._buffer.owner, self.host[:nbytes], is_blocking=True)
        return self._buffer[:nbytes]


class OpenCL(DeviceKernel):
    """SHA-2 in OpenCL C.

    A launch reaches one memory object, so segments of several buffers take one series of launches each buffer.
    The variants above "plain" differ from it on NVIDIA's devices alone.
    """

    name = "opencl"
    variants = ("paired", "prefetched", "balanced", "plain")

    def __init__(self, device: Device, algorithm: str = "sha256", variant: str | None = None) -> None:
        super().__init__(device, algorithm, variant)
        cl = _pyopencl()
        self._cl = cl
        self._device = dict(_enumerate(cl))[device.id]
        self.context = cl.Context([self._device])
        self._queue = cl.CommandQueue(self.context, properties=cl.command_queue_properties.PROFILING_ENABLE)
        source = device_source(self.algorithm, self.variant)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)  # Intel's and NVIDIA's compilers report success
            program = cl.Program(self.context, source).build(options=["-cl-std=CL1.2", *self._architecture()])
        self._functions = {kernel.function_name: kernel for kernel in program.all_kernels()}
        if self.variant == "paired" and "NVIDIA" in device.vendor:
            self.paired_up_to = half_of_the_schedulers(self._device.max_compute_units)

    @classmethod
    def devices(cls) -> list[Device]:
        try:
            cl = _pyopencl()
        except ImportError as error:
            return [Device(cls.name, unavailable=f"pyopencl cannot be imported ({error}): install hashbench[opencl]")]
        framework = f"pyopencl {cl.VERSION_TEXT}"
        try:
            found = [
                Device(
                    kernel=cls.name,
                    id=identifier,
                    name=device.name.strip(),
                    vendor=device.vendor,
                    kind="cpu" if device.type & cl.device_type.CPU else "gpu",
                    framework=framework,
                    driver=f"{device.platform.name} {device.driver_version}",
                    unavailable=None if device.compiler_available else "its driver has no compiler",
                )
                for identifier, device in _enumerate(cl)
            ]
        except cl.Error as error:
            return [Device(cls.name, framework=framework, unavailable=f"no OpenCL platform: {error}")]
        reason = "no OpenCL device: install a GPU driver with OpenCL, or intel-opencl-rt for the CPU"
        return found or [Device(cls.name, framework=framework, unavailable=reason)]

    @classmethod
    def default_variant(cls, device: Device) -> str:
        """The first on NVIDIA's devices, and "plain" elsewhere, where the others are the same."""
        return cls.variants[0] if "NVIDIA" in device.vendor else "plain"

    def free_memory(self) -> int:
        """OpenCL does not tell what is free: of a GPU, this is all the memory that it has."""
        if self.device.kind == "cpu":
            return psutil.virtual_memory().available
        return int(self._device.global_mem_size)

    def largest_buffer(self) -> int:
        return int(min(self.free_memory(), self._device.max_mem_alloc_size))

    def allocate(self, nbytes: int) -> Buffer:
        return self.allocate_with(self._cl.mem_flags.READ_WRITE, nbytes)

    def _architecture(self) -> list[str]:
        """The compiler's option that tells the device code which of NVIDIA's architectures it is for."""
        if "NVIDIA" not in self.device.vendor:
            return []
        major, minor = self._device.compute_capability_major_nv, self._device.compute_capability_minor_nv
        return [f"-DARCHITECTURE={10 * major + minor}"]

    def allocate_with(self, flags: int, nbytes: int) -> Buffer:
        """As `allocate`, with memory flags of OpenCL."""
        try:
            memory = self._cl.Buffer(self.context, flags, nbytes)
            # Memory is taken at first use: a use that moves nothing makes a refusal come here.
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
        """The bytes of a pyopencl array or buffer of the same context, once what an array's queue writes is there."""
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

    def prepare(self, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> Work:
        check_call(strategy, segments, chunk_size)
        if len({id(s.owner) for s in segments}) < 2:
            return super().prepare(strategy, segments, chunk_size)
        return _SeveralBuffers(self, strategy, segments, chunk_size)

    def execute(self, launches: Sequence[Launch]) -> float:
        events = [
            self._functions[launch.function](
                self._queue, (launch.groups * GROUP_SIZE,), (GROUP_SIZE,), *map(_argument, launch.arguments)
            )
            for launch in launches
        ]
        events[-1].wait()
        return 1e-9 * float(events[-1].profile.end - events[0].profile.start)


class _SeveralBuffers(Work):
    """A call over segments of several memory objects: one work each, and the digests in the segments' order."""

    def __init__(self, kernel: OpenCL, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None) -> None:
        groups: dict[int, list[int]] = {}
        for position, segment in enumerate(segments):
            groups.setdefault(id(segment.owner), []).append(position)
        self._positions = list(groups.values())
        self._works = [kernel.prepare(strategy, [segments[p] for p in group], chunk_size) for group in groups.values()]
        self._rows = [digest_count(strategy, segment.nbytes, chunk_size) for segment in segments]

    def run(self) -> float:
        return sum(work.run() for work in self._works)

    def digests(self) -> Bytes:
        parts: list[Bytes] = [np.empty(0, np.uint8)] * len(self._rows)
        for positions, work in zip(self._positions, self._works, strict=True):
            rows = [self._rows[p] for p in positions]
            for position, part in zip(positions, np.split(work.digests(), np.cumsum(rows)[:-1]), strict=True):
                parts[position] = part
        return np.concatenate(parts)


def _enumerate(cl: Any) -> list[tuple[str, Any]]:
    """Every device with what names it: its platform's number and its own, as pyopencl's PYOPENCL_CTX has them."""
    return [
        (f"{p}:{d}", device)
        for p, platform in enumerate(cl.get_platforms())
        for d, device in enumerate(platform.get_devices())
    ]
