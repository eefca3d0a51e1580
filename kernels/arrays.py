"""Arrays of other frameworks as plain bytes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from hashbench.kernels.contract import Bytes

_FIXED_KINDS = "biufcV"


def host_bytes(data: Any) -> Bytes:
    """The bytes of a contiguous bytes-like object as a uint8 array, without a copy.

    Raises:
        TypeError: `data` is not such an object.
    """
    try:
        view = memoryview(data)
        if np.asarray(view).dtype.hasobject:
            raise TypeError("its items are references")
        return np.frombuffer(view, dtype=np.uint8) if view.nbytes else np.empty(0, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise TypeError(
            f"{type(data).__name__} is not accepted: data must be a contiguous bytes-like object ({error})"
        ) from None


def contiguous_nbytes(shape: Sequence[int], strides: Sequence[int] | None, typestr: str, in_items: bool = False) -> int:
    """The size in bytes of a row-major array, from the fields of an array interface.

    Args:
        shape: the number of items along each axis.
        strides: the step along each axis; None if the array is contiguous.
        typestr: the dtype, as in NumPy's array interface.
        in_items: whether strides count items, as in SYCL's interface, instead of bytes.

    Raises:
        TypeError: items of that dtype have no fixed size in bytes.
        ValueError: the array is not contiguous.
    """
    dtype = np.dtype(typestr)
    if dtype.kind not in _FIXED_KINDS or dtype.hasobject:
        raise TypeError(f"dtype {dtype} is not accepted: the array's items must be numbers, booleans or raw bytes")
    size = prod(shape)
    if strides is not None and size > 1:
        step = 1 if in_items else dtype.itemsize
        for length, stride in zip(reversed(shape), reversed(strides), strict=True):
            if length > 1 and stride != step:
                raise ValueError(
                    f"an array of shape {tuple(shape)} and strides {tuple(strides)} is not contiguous: "
                    "only row-major arrays without gaps are accepted"
                )
            step *= length
    return size * dtype.itemsize
