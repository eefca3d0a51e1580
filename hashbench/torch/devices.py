"""The devices whose tensors can be hashed in place, and the streams of those that are GPUs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch

from hashbench.kernels import Unavailable

GPUS = {"cuda": "CUDA or ROCm", "xpu": "Intel's"}
"""The types of devices that are GPUs, and whose they are. Each is a module of PyTorch."""

Stream: TypeAlias = torch.cuda.Stream | torch.xpu.Stream
"""A stream of a GPU."""


def can_be_hashed(device: torch.device) -> bool:
    """Whether tensors on devices of that type can be hashed in place."""
    return device.type == "cpu" or device.type in GPUS


def indexed(device: torch.device) -> torch.device:
    """The device itself, or the current one where it is any GPU.

    Raises:
        Unavailable: tensors there cannot be hashed in place, or PyTorch finds no GPU.
    """
    if not can_be_hashed(device):
        raise Unavailable(f"tensors on {device} cannot be hashed in place: only those on cpu, cuda and xpu devices can")
    if device.type == "cpu":
        return device
    gpu = torch.get_device_module(device)
    if not gpu.is_available():
        raise Unavailable(f"{device} cannot be used: PyTorch finds no GPU of {GPUS[device.type]} here")
    return torch.device(device.type, gpu.current_device()) if device.index is None else device


def stream_on(device: torch.device, given: Stream | None) -> Stream | None:
    """The stream on which a device's tensors are written; None for the CPU.

    Raises:
        TypeError: what was given is not a stream.
    """
    if given is not None and not isinstance(given, Stream):
        raise TypeError(
            f"{type(given).__name__} is not accepted: the stream must be a torch.cuda.Stream or a torch.xpu.Stream"
        )
    if device.type == "cpu":
        return None
    if given is not None and given.device == device:
        return given
    return torch.get_device_module(device).current_stream(device)


def on_stream(stream: Stream | None) -> AbstractContextManager[Any]:
    """A context in which PyTorch enqueues what it does on a stream; None changes nothing."""
    return nullcontext() if stream is None else torch.get_device_module(stream.device).stream(stream)


def all_done(stream: Stream) -> Callable[[], object]:
    """Waits until all that was enqueued on a stream so far is done."""
    gpu = torch.get_device_module(stream.device)
    # Threads sleep while they wait for an event of CUDA's that blocks. Intel's have no such choice.
    event = gpu.Event(blocking=True) if stream.device.type == "cuda" else gpu.Event()
    event.record(stream)
    wait: Callable[[], object] = event.synchronize
    return wait
