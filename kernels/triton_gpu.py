"""Triton, for whoever has PyTorch and nothing else: memory, streams and events are PyTorch's."""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from hashbench.kernels import programs
from hashbench.kernels.arrays import contiguous_nbytes
from hashbench.kernels.caches import private_folder
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
    Unavailable,
    blocks_of,
)
from hashbench.kernels.cuda_graph import CudaGraph
from hashbench.kernels.cuda_streams import STREAM_PRIORITIES, stream_handle
from hashbench.kernels.device_kernel import DeviceKernel, Launch
from hashbench.kernels.fips180 import constants
from hashbench.kernels.layout import GROUP_SIZE, TILE_LEVELS
from hashbench.kernels.working_directory import outside_working_directory

_SOURCES = ("triton_tree.py", "layout.py", "fips180.py")

_OLDEST = (3, 5)
"""Triton's first version in whose cache programs are told apart by the constants of their modules."""

_REDUCTIONS = {"hash_level": 1, "reduce_tiles": TILE_LEVELS}
"""The launches that are one function here, and the levels that each goes up."""

_REGISTERS = {
    "sha256": {"hash_chunks": 72, "hash_chunks_early": 96, "reduce": 80},
    "sha384": {"hash_chunks_early": 168, "reduce": 128},
}
"""The most registers, on NVIDIA's GPUs. With these, about as many groups fit on a multiprocessor as of CUDA C's. Left
alone, the compiler takes fewer, so that it loads late and waits for results."""

_PARSING = Lock()
"""Held while a function is parsed, which Python's lock lets one thread do at a time anyway: Python 3.11 counts how deep
it is in a parse for all threads together, and fails at times if a second one parses meanwhile."""

_DLPACK_TYPES = {"cuda": (2, 10), "xpu": (14,)}  # kDLCUDA, kDLROCM; kDLOneAPI


@cache
def program(algorithm: Algorithm, backend: str, architecture: int) -> ModuleType:
    """The device code for one algorithm, one of Triton's backends, and one architecture (90 for sm_90, or 0)."""
    return programs.load(
        _SOURCES,
        *(algorithm.name, backend, architecture),
        SHA=int(algorithm.name.removeprefix("sha")),
        BACKEND=backend,
        ARCHITECTURE=architecture,
    )


def compiled(algorithm: Algorithm, target: Any) -> dict[str, Any]:
    """The kernels for one of Triton's targets, by name. They are compiled at the same time."""
    import triton

    code = program(algorithm, target.backend, target.arch if target.backend == "cuda" else 0)
    common = {"num_warps": GROUP_SIZE // target.warp_size, "enable_fp_fusion": False}
    if target.backend == "hip":
        common["waves_per_eu"] = 4  # or LLVM takes so many registers that only two waves fit

    class Source(triton.compiler.ASTSource):  # type: ignore[misc]  # Triton has no types
        def hash(self) -> Any:
            with _PARSING:
                return super().hash()

        def make_ir(self, *arguments: Any) -> Any:
            with _PARSING:
                return super().make_ir(*arguments)

    def one(name: str) -> Any:
        function = getattr(code, name)
        options = common
        registers = _REGISTERS[algorithm.name].get(name) if target.backend == "cuda" else None
        if registers is not None and name == "hash_chunks" and target.arch >= 120:
            registers = None  # it takes as many by itself, but with the bound some versions spill
        if registers is not None:
            options = common | {"maxnreg": registers}
        source = Source(function, dict(zip(function.arg_names, code.SIGNATURES[name], strict=True)))
        return triton.compile(source, target=target, options=options)

    with ThreadPoolExecutor() as pool:
        return dict(zip(code.SIGNATURES, pool.map(one, code.SIGNATURES), strict=True))


def round_constants(algorithm: Algorithm) -> Bytes:
    """The constants K of FIPS 180-4 as they lie in memory."""
    words = constants(algorithm.name)
    return np.array(words.k, np.uint32 if words.word_bits == 32 else np.uint64).view(np.uint8)


def call_of(launch: Launch, constants: Buffer) -> tuple[str, list[int]]:
    """The name of the function for a launch, and its arguments.

    Args:
        launch: the launch.
        constants: the bytes of `round_constants` on the device.
    """
    name = launch.function
    arguments = [a.address if isinstance(a, Buffer) else int(a) for a in launch.arguments]
    if name.startswith("hash_chunks"):
        return name, [*arguments, constants.address]
    if name in _REDUCTIONS:
        return "reduce", [*arguments[:4], _REDUCTIONS[name], *arguments[4:], constants.address]
    return name, arguments


@contextmanager
def private_cache() -> Iterator[None]:
    """Makes Triton keep its cache where nobody else writes, since it loads libraries from there.

    Without such a folder, all is compiled again in each process.
    """
    from triton import knobs

    with tempfile.TemporaryDirectory(prefix="hashbench-") as temporary, knobs.cache.scope():
        folder = private_folder("hashbench", "triton")
        try:
            if folder is not None:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            folder = None
        writable = folder is not None and os.access(folder, os.W_OK)
        knobs.cache.dir = str(folder) if writable else temporary
        yield


def _host_tensor(array: Bytes) -> Any:
    """The memory of an array as a tensor. PyTorch warns of arrays that cannot be written to."""
    import torch

    if array.nbytes == 0:  # which PyTorch refuses
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer((ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data), dtype=torch.uint8)


class _Memory:
    """Memory at an address, as PyTorch takes it from another framework without a copy."""

    def __init__(self, owner: Any, address: int, nbytes: int) -> None:
        self._owner = owner
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }


class _PinnedStage(Stage):
    """Page-locked host memory, copied on its own stream, so that copies overlap with hashing."""

    def __init__(self, kernel: TritonGpu, nbytes: int) -> None:
        self._kernel = kernel
        self.buffer = kernel.allocate(nbytes)
        self._stream = kernel.gpu.Stream(device=kernel.place)

    @cached_property
    def host(self) -> Bytes:
        return self._kernel.page_locked(self.buffer.nbytes)

    def upload(self, nbytes: int) -> Buffer:
        uploaded = self.buffer[:nbytes]
        self._kernel.start_upload(self.host[:nbytes], uploaded, self._stream)
        self._stream.synchronize()
        return uploaded


class _StreamLane(Lane):
    """A page-locked block, copied on a stream of its own."""

    def __init__(self, kernel: TritonGpu, block: Bytes) -> None:
        super().__init__(block)
        self._host, self._kernel, self._stream = block, kernel, kernel.gpu.Stream(device=kernel.place)

    def send(self, parts: Iterable[Part]) -> None:
        for start, nbytes, target, place in parts:
            data = self._host[start : start + nbytes]
            self._kernel.start_upload(data, target[place : place + nbytes], self._stream)
        self._stream.synchronize()


class TritonGpu(DeviceKernel):
    """SHA-2 in Triton, compiled when a kernel is first built, and later loaded from a cache on disk.

    Attributes:
        torch: PyTorch.
        gpu: its module for this device: torch.cuda, also for AMD's GPUs, or torch.xpu.
        place: the device.
    """

    name = "triton"
    tabled = True

    @outside_working_directory()
    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, priority: Priority = "normal"
    ) -> None:
        super().__init__(device, algorithm, variant, priority)
        import torch
        import triton

        self.torch: Any = torch
        self.gpu: Any = _gpu_module()
        self.place = torch.device(self.gpu.__name__.rpartition(".")[2], int(device.id))
        self._stream = self.gpu.Stream(device=self.place, priority=STREAM_PRIORITIES[priority])
        try:
            with self.gpu.device(self.place), private_cache():
                self._functions = compiled(self.algorithm, triton.runtime.driver.active.get_current_target())
                for function in self._functions.values():
                    function._init_handles()
        except Exception as error:  # no C compiler, no headers of Python, a GPU that Triton does not know
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise Unavailable(f"Triton's compiler does not work here ({reason})") from error
        if device.vendor == "NVIDIA":
            properties = self.gpu.get_device_properties(self.place)
            self.adapt_to_nvidia(properties.multi_processor_count, self._functions)
        self._round_constants = self.put(round_constants(self.algorithm))

    @classmethod
    @outside_working_directory()
    def devices(cls) -> list[Device]:
        missing = [name for name in ("torch", "triton") if find_spec(name) is None]
        if missing:
            reason = f"{' and '.join(missing)} cannot be imported (not installed): install hashbench[triton]"
            return [Device(cls.name, unavailable=reason)]
        if _is_for_cpus():
            return [Device(cls.name, unavailable="PyTorch is installed for CPUs alone: install hashbench[triton]")]
        try:
            import torch
            import triton
            from triton import knobs
        except ImportError as error:
            reason = f"PyTorch or Triton cannot be imported ({error}): install hashbench[triton]"
            return [Device(cls.name, unavailable=reason)]
        framework = f"triton {triton.__version__}, torch {torch.__version__}"
        if tuple(map(int, re.findall(r"\d+", triton.__version__)[:2])) < _OLDEST:
            reason = f"triton {triton.__version__} is too old: install hashbench[triton]"
            return [Device(cls.name, framework=framework, unavailable=reason)]
        if knobs.runtime.interpret:
            reason = "Triton runs its interpreter: unset TRITON_INTERPRET"
            return [Device(cls.name, framework=framework, unavailable=reason)]
        gpu = _gpu_module()
        if gpu is None:
            return [Device(cls.name, framework=framework, unavailable="PyTorch sees no GPU")]
        found = []
        for ordinal in range(gpu.device_count()):
            properties = gpu.get_device_properties(ordinal)
            vendor, driver = _vendor_and_driver(properties)
            found.append(Device(cls.name, str(ordinal), properties.name, vendor, "gpu", framework, driver))
        return found

    def free_memory(self) -> int:
        free, _ = self.gpu.mem_get_info(self.place)
        return int(free + self.gpu.memory_reserved(self.place) - self.gpu.memory_allocated(self.place))

    def trim(self) -> None:
        self.gpu.empty_cache()

    def allocate(self, nbytes: int) -> Buffer:
        with self.gpu.stream(self._stream):
            try:
                memory = self.torch.empty(nbytes, dtype=self.torch.uint8, device=self.place)
            except self.torch.OutOfMemoryError:
                raise OutOfDeviceMemory(self.device, nbytes) from None
        return Buffer(memory, memory.data_ptr(), nbytes)

    def page_locked(self, nbytes: int) -> Bytes:
        """Host memory that the device copies fast."""
        try:
            memory: Bytes = self.torch.empty(nbytes, dtype=self.torch.uint8, pin_memory=True).numpy()
        except RuntimeError as error:
            if "out of memory" not in str(error):
                raise
            raise OutOfDeviceMemory(self.device, nbytes) from None
        return memory

    def start_upload(self, data: Bytes, buffer: Buffer, stream: Any) -> None:
        """Starts to copy host memory to the device, on a stream."""
        with self.gpu.stream(stream):
            self._tensor(buffer).copy_(_host_tensor(data), non_blocking=True)

    def upload(self, data: Bytes, buffer: Buffer) -> None:
        self.start_upload(data, buffer, self._stream)
        self._stream.synchronize()

    def get_into(self, buffer: Buffer, host: Bytes) -> None:
        with self.gpu.stream(self._stream):
            _host_tensor(host).copy_(self._tensor(buffer), non_blocking=True)
        self._stream.synchronize()

    def _tensor(self, buffer: Buffer) -> Any:
        """The bytes of a buffer, whose owner is a tensor of any dtype."""
        storage = buffer.owner.untyped_storage()
        empty = self.torch.empty(0, dtype=self.torch.uint8, device=self.place)
        return empty.set_(storage, buffer.address - storage.data_ptr(), (buffer.nbytes,), (1,))

    def view(self, array: Any) -> Buffer:
        """The bytes of a tensor, or of an array with `__cuda_array_interface__` or DLPack."""
        tensor = self._as_tensor(array)
        if tensor.device != self.place:
            raise ValueError(f"the array is on {tensor.device}, not on {self.device.id} ({self.device.name})")
        nbytes = contiguous_nbytes(tuple(tensor.shape), tensor.stride(), f"|V{tensor.itemsize}", in_items=True)
        return Buffer(tensor, tensor.data_ptr(), nbytes)

    def _as_tensor(self, array: Any) -> Any:
        """An array on a device like this one as a tensor, once what is written to it is there."""
        if isinstance(array, self.torch.Tensor) and array.device.type == self.place.type:
            self.gpu.synchronize(array.device)  # the stream that writes the tensor is unknown
            return array.detach()
        interface = getattr(array, "__cuda_array_interface__", None)
        if interface is not None and self.place.type == "cuda":
            nbytes = contiguous_nbytes(interface["shape"], interface.get("strides"), interface["typestr"])
            if nbytes == 0:
                return self.torch.empty(0, dtype=self.torch.uint8, device=self.place)
            tensor = self.torch.as_tensor(_Memory(array, interface["data"][0], nbytes))
            if stream := interface.get("stream"):
                self.gpu.ExternalStream(stream, tensor.device).synchronize()
            elif interface.get("version", 0) < 3:
                self.gpu.synchronize(tensor.device)
            return tensor
        if hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] in _DLPACK_TYPES[self.place.type]:
            with self.gpu.stream(self._stream):  # which DLPack makes wait for what is written
                tensor = self.torch.from_dlpack(array)
            self._stream.synchronize()
            return tensor
        raise TypeError(
            f"{type(array).__name__} is not accepted: {self.name} views tensors in GPU memory, and arrays there with "
            "__cuda_array_interface__ or DLPack"
        )

    def stage(self, nbytes: int) -> Stage:
        return _PinnedStage(self, nbytes)

    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        return [_StreamLane(self, block) for block in blocks_of(self.page_locked(count * nbytes), count)]

    def queue_for(self, stream: Any) -> Any:
        if stream is None:
            return self._stream
        if isinstance(stream, self.gpu.Stream):
            return stream
        return self.gpu.ExternalStream(stream_handle(stream), self.place)

    def launch(self, launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        return self._timed(lambda: self._submit(launches, self._handle(queue)), queue)

    def series(self, launches: Sequence[Launch]) -> Callable[[Any], Callable[[], float]]:
        """As one CUDA graph from the second time on, as in `CupyCuda`; a single launch too, since a graph is launched
        faster than a function."""
        if self.device.vendor != "NVIDIA":
            return super().series(launches)
        graphs: list[CudaGraph] = []

        def enqueue(queue: Any) -> Callable[[], float]:
            if graphs:
                return graphs[0].launch(self._handle(queue))
            finish = self.launch(launches, queue)
            with self.gpu.device(self.place):
                graphs.append(CudaGraph(lambda stream: self._submit(launches, stream)))
            return finish

        return enqueue

    def _handle(self, queue: Any) -> int:
        return int(queue.cuda_stream if self.place.type == "cuda" else queue.sycl_queue)

    def _submit(self, launches: Sequence[Launch], handle: int) -> None:
        for launch in launches:
            name, arguments = call_of(launch, self._round_constants)
            self._functions[name][launch.groups, 1, 1](*arguments, stream=handle)

    def _timed(self, submit: Callable[[], None], queue: Any) -> Callable[[], float]:
        start, end = (self.gpu.Event(enable_timing=True) for _ in range(2))
        with self.gpu.stream(queue):
            start.record(queue)
            submit()
            end.record(queue)

        def finish() -> float:
            end.synchronize()
            return 1e-3 * float(start.elapsed_time(end))

        return finish


def _is_for_cpus() -> bool:
    """Whether PyTorch's version says so, since it takes seconds to import."""
    try:
        return version("torch").endswith("+cpu")
    except PackageNotFoundError:  # built from source
        return False


def _gpu_module() -> Any:
    """PyTorch's module for the GPUs here; None if it sees none."""
    import torch

    modules = (getattr(torch, name, None) for name in ("cuda", "xpu"))
    return next((module for module in modules if module is not None and module.is_available()), None)


def _vendor_and_driver(properties: Any) -> tuple[str, str]:
    import torch

    if hasattr(properties, "driver_version"):
        return "Intel", f"Level Zero {properties.driver_version}"
    if torch.version.hip:
        return "AMD", f"HIP {torch.version.hip}"
    number = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))  # which PyTorch has loaded
    return "NVIDIA", f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
