"""CUDA streams, which frameworks pass to each other as handles: cudaStream_t, CUstream, hipStream_t."""

from __future__ import annotations

from typing import Any

from hashbench.kernels.contract import Priority

STREAM_PRIORITIES: dict[Priority, int] = {"low": 1, "normal": 0, "high": -5}
"""CUDA's numbers. The driver clamps them to the range of its device: down to -5 in CUDA, from -1 to 1 in HIP."""


def stream_handle(stream: Any) -> int:
    """The handle of a stream, which the caller keeps alive.

    Args:
        stream: a handle, or a stream of CuPy, PyTorch, Numba, or any other framework with `__cuda_stream__`.

    Raises:
        TypeError: it is neither.
        ValueError: a handle is negative.
    """
    if callable(protocol := getattr(stream, "__cuda_stream__", None)):
        _, handle = protocol()
    else:
        handle = getattr(stream, "cuda_stream", getattr(stream, "ptr", stream))  # PyTorch; CuPy before 14
    if isinstance(handle, bool) or not isinstance(handle, int):
        raise TypeError(
            f"{type(stream).__name__} is not accepted as a stream: accepted are CUDA streams of CuPy, PyTorch and "
            "Numba, objects with __cuda_stream__, and handles as integers"
        )
    if handle < 0:
        raise ValueError(f"{handle} is not accepted as a stream's handle: it must be zero or more")
    return handle
