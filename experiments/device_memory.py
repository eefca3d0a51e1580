"""How much memory of an NVIDIA GPU a tree over a model takes beside the model itself, at its peak.

NVIDIA's management library (NVML) says how much memory each GPU has handed out, to whomever and by whatever framework.
Its sum over all GPUs is read while the call is prepared, runs and gives its roots, and set against the sum just before,
when the input was in place. So the difference holds the digests, the tables, the device code that is loaded with the
first launch and the memory that the driver takes for launches, in the steps in which the driver gives memory out (2 MiB
and more); it does not hold the framework's context. It holds what other programs take meanwhile, so a GPU in use gives
too much.

Each call is measured in a process of its own. A framework's pool (CuPy's) keeps what is freed, so in a process that has
hashed before a call would take memory from the pool that NVML counted already.
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
"""Between two looks at the memory in use."""

SEEN = 0.9
"""The share of the input that must show as memory in use, for what comes after it to mean anything."""


@dataclass(frozen=True)
class Peak:
    """What one call took.

    Attributes:
        model: the name of the inventory that was hashed.
        nbytes: bytes beside the input, at the peak.
        source: what counted them, and its version.
    """

    model: str
    nbytes: int
    source: str


def peak_beside_model(device: Device, algorithm: str, models: Sequence[str], chunk_size: int) -> Peak:
    """The peak over the largest of `models` that fits on `device`, with its default variant.

    Args:
        device: a GPU, available.
        algorithm: "sha256" or "sha384".
        models: names in `MODELS`.
        chunk_size: bytes of a chunk.

    Raises:
        Unavailable: NVML cannot be had or does not see this device's memory, or no model fits.
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
            kernel.trim()  # a pool keeps what there was of a model until there was no room for the rest
    raise Unavailable(f"none of {', '.join(models)} fits on {device.name}")


def peak_beside_input(kernel: Kernel, lengths: Sequence[int], chunk_size: int, used: Callable[[], int]) -> int:
    """The bytes that a tree over segments of `lengths` bytes takes beside them, at its peak.

    Args:
        kernel: of a device whose memory `used` counts.
        lengths: bytes of each segment.
        chunk_size: bytes of a chunk.
        used: gives the bytes in use; it is called from another thread too.

    Raises:
        OutOfDeviceMemory: it does not fit.
        Unavailable: `used` does not count this device's memory, or not in steps as small as the call's.
    """
    empty = used()
    inputs = make_inputs(kernel, lengths, SEED)
    filled = used()
    nbytes = len(inputs) * sum(lengths)
    if filled - empty < SEEN * nbytes:
        raise Unavailable(
            f"the memory of {kernel.device.name} is not counted: {nbytes:,} bytes were put there, and "
            f"{filled - empty:,} more showed as in use"
        )
    with _Highest(used) as highest:
        work = kernel.prepare("tree", inputs[0], chunk_size)
        work.run()
        work.digests()
    peak = highest.value - filled
    if peak <= 0:
        raise Unavailable(
            f"the memory in use on {kernel.device.name} did not grow: the call takes less than the step in which the "
            "driver gives memory out"
        )
    return peak


class _Highest:
    """The highest of what `used` gives, from the beginning to the end of the context, both included."""

    def __init__(self, used: Callable[[], int]) -> None:
        self._used = used
        self._ended = Event()
        self._thread = Thread(target=self._watch, daemon=True)
        self.value = 0

    def __enter__(self) -> _Highest:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        self.value = max(self.value, self._used())


@contextmanager
def _nvml() -> Iterator[Any]:
    try:
        nvml: Any = import_module("pynvml")
    except ImportError as error:
        raise Unavailable(f"NVML cannot be reached ({error}): install nvidia-ml-py") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise Unavailable(f"NVML cannot be reached: {error}") from None
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()
