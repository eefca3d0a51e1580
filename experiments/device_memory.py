"""How much extra memory of an NVIDIA GPU a tree over a model takes, at its peak.

NVIDIA's management library (NVML) reports the memory in use on each GPU, by every program and framework. Its sum over
all GPUs is sampled while the call is prepared, runs and returns its roots, and compared with the sum just before, when
the input was in place. So the difference includes the digests, the tables, the device code that is loaded with the
first launch, and what the driver allocates for launches, in the driver's allocation steps (2 MiB and more). It does not
include the framework's context. It does include what other programs allocate meanwhile, so a GPU in use gives too much.

Each call is measured in a process of its own. A framework's pool (CuPy's) keeps freed memory, so in a process that has
hashed before, a call would take memory from the pool that NVML has already counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from threading import Event, Thread
from typing import Any

from hashbench.bench.experiment import SEED
from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import make_inputs
from hashbench.kernels import Device, Kernel, OutOfDeviceMemory, Unavailable, kernel_class

SAMPLE_SECONDS = 0.001
"""Between two samples of the memory in use."""

SEEN = 0.9
"""The least share of the input that NVML must report as in use, for the samples after it to mean anything."""


@dataclass(frozen=True)
class Peak:
    """The peak of one call.

    Attributes:
        model: the name of the inventory that was hashed.
        nbytes: bytes in addition to the input.
        source: the program that counted them, and its version.
    """

    model: str
    nbytes: int
    source: str


def peak_beside_model(device: Device, algorithm: str, models: Sequence[str], chunk_size: int) -> Peak:
    """The peak for the largest of `models` that fits on `device`, with its default variant.

    Args:
        device: an available GPU.
        algorithm: "sha256" or "sha384".
        models: names in `MODELS`.
        chunk_size: bytes per chunk.

    Raises:
        Unavailable: NVML is missing or does not count this device's memory, or no model fits.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_peak_in_this_process, device, algorithm, tuple(models), chunk_size).result()


def _peak_in_this_process(device: Device, algorithm: str, models: Sequence[str], chunk_size: int) -> Peak:
    with _nvml() as nvml:
        gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]

        def used() -> int:
            return sum(int(nvml.nvmlDeviceGetMemoryInfo(gpu).used) for gpu in gpus)

        kernel = kernel_class(device.kernel)(device, algorithm)
        for model in sorted((MODELS[name] for name in models), key=lambda model: model.nbytes, reverse=True):
            with suppress(OutOfDeviceMemory):
                nbytes = peak_beside_input(kernel, [tensor.nbytes for tensor in model.tensors], chunk_size, used)
                return Peak(model.name, nbytes, f"NVML {nvml.nvmlSystemGetNVMLVersion()}")
            kernel.trim()  # a pool keeps the part of the model that did fit
    raise Unavailable(f"none of {', '.join(models)} fits on {device.name}")


def peak_beside_input(kernel: Kernel, lengths: Sequence[int], chunk_size: int, used: Callable[[], int]) -> int:
    """The bytes that a tree over segments takes in addition to them, at its peak.

    Args:
        kernel: the kernel, on a device whose memory `used` counts.
        lengths: bytes of each segment.
        chunk_size: bytes per chunk.
        used: returns the bytes in use. It is also called from another thread.

    Raises:
        OutOfDeviceMemory: the segments do not fit.
        Unavailable: `used` does not count this device's memory, or only in larger steps than the call allocates.
    """
    empty = used()
    inputs = make_inputs(kernel, lengths, SEED)
    filled = used()
    nbytes = len(inputs) * sum(lengths)
    if filled - empty < SEEN * nbytes:
        raise Unavailable(
            f"the memory of {kernel.device.name} is not counted: {nbytes:,} bytes were allocated, but "
            f"{filled - empty:,} more are reported as in use"
        )
    with _Highest(used) as highest:
        work = kernel.prepare("tree", inputs[0], chunk_size)
        work.run()
        work.digests()
    peak = highest.value - filled
    if peak <= 0:
        raise Unavailable(
            f"the memory in use on {kernel.device.name} did not grow: the call takes less than the "
            "driver's allocation step"
        )
    return peak


class _Highest:
    """The highest value of `used` from the beginning to the end of the context."""

    def __init__(self, used: Callable[[], int]) -> None:
        self._used = used
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self.value = 0

    def __enter__(self) -> _Highest:
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        self.value = max(self.value, self._used())


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        nvml: Any = import_module("pynvml")
    except ImportError as error:
        raise Unavailable(f"NVML is not available ({error}): install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Unavailable(f"NVML is not available: {error}") from None
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()
