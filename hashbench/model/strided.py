"""Tensors that are views of a file's bytes by any strides, and their bytes in row-major order.

Lengths and strides count elements, and no stride is negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hashbench.kernels import Bytes

_WINDOW = 16 << 20  # bytes that are read at a time, at most
_SMALL = 64 << 10  # bytes that are read at a time, however few of them are needed
_WASTE = 8  # bytes that are read for each one that is needed, at most, where more are read at a time

Read = Callable[[int, int], bytes]
"""Reads a range of a file, by offset and size."""


def is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether elements follow each other in row-major order, without gaps."""
    expected = 1
    for length, step in zip(reversed(shape), reversed(stride), strict=True):
        if length != 1 and step != expected:
            return 0 in shape
        expected *= length
    return True


def span(shape: Sequence[int], stride: Sequence[int]) -> int:
    """The number of elements from the first one to the last one in the file, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))


def gather(read: Read, offset: int, itemsize: int, shape: Sequence[int], stride: Sequence[int]) -> Bytes:
    """Reads a tensor's bytes to memory, in row-major order.

    Besides the result, it needs memory for one window of the file. Where elements lie close together they are read at
    once; where they are far apart, what is between them is not read.

    Args:
        read: Reads the file.
        offset: The offset of the first element in the file, in bytes.
        itemsize: Bytes of an element.
        shape: The lengths.
        stride: The strides.

    Returns:
        The bytes.
    """
    element = np.dtype(f"V{itemsize}")
    out = np.empty(math.prod(shape), element)
    kept = [dimension for dimension, length in enumerate(shape) if length != 1]  # NumPy has a limit on dimensions
    lengths, steps = [shape[dimension] for dimension in kept], [stride[dimension] * itemsize for dimension in kept]
    pending = [(out.reshape(lengths), offset)]
    while pending:
        part, begin = pending.pop()
        if not part.size:
            continue
        nbytes = itemsize + sum((length - 1) * step for length, step in zip(part.shape, steps, strict=True))
        if nbytes <= max(_SMALL, itemsize) or (nbytes <= _WINDOW and nbytes <= _WASTE * part.nbytes):
            part[...] = np.ndarray(part.shape, element, read(begin, nbytes), 0, steps)
            continue
        reach = [(length - 1) * step for length, step in zip(part.shape, steps, strict=True)]
        widest = reach.index(max(reach))
        half = part.shape[widest] // 2
        for first, last in ((0, half), (half, part.shape[widest])):
            index = (slice(None),) * widest + (slice(first, last),)
            pending.append((part[index], begin + first * steps[widest]))
    return out.view(np.uint8)
