"""The dtypes of tensors by their names in safetensors, and the size of a tensor.

Elements smaller than a byte are packed, and a tensor of them ends at a byte boundary.
"""

from __future__ import annotations

from collections.abc import Sequence

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of an element of each dtype that safetensors 0.8 knows."""

TORCH_NAMES = {
    "bool": "BOOL",
    "float4_e2m1fn_x2": "F4",
    "uint8": "U8",
    "int8": "I8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "complex64": "C64",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}
"""PyTorch's names of these dtypes, and theirs in safetensors."""

_MAX_BITS = 1 << 63


def tensor_nbytes(dtype: str, shape: Sequence[int]) -> int:
    """The size of a tensor in bytes, row-major, without padding.

    Raises:
        ValueError: the dtype is unknown, or the size is more than 2^60 bytes or not a whole number of bytes.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        raise ValueError(f"the dtype {dtype[:40]!r} is unknown: accepted are {', '.join(DTYPE_BITS)}")
    for length in shape:
        bits *= length
        if bits > _MAX_BITS:  # in the loop, before a long shape makes a long number
            raise ValueError("the tensor would have more than 2^60 bytes")
    if bits % 8:
        raise ValueError(f"{bits} bits are not a whole number of bytes")
    return bits // 8


def torch_description(dtype: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape that a PyTorch tensor has in safetensors.

    The shape differs if PyTorch counts a pair of packed elements as one.

    Args:
        dtype: `str(tensor.dtype)`.
        shape: the tensor's shape.

    Raises:
        ValueError: safetensors has no such dtype, or cannot express the shape, that of a single pair.
    """
    name = dtype.removeprefix("torch.")
    if name not in TORCH_NAMES:
        raise ValueError(f"safetensors does not store {dtype}: accepted are {', '.join(TORCH_NAMES)}")
    if name.endswith("_x2"):
        if not shape:
            raise ValueError(f"safetensors does not store {dtype} without dimensions: it is two elements")
        return TORCH_NAMES[name], (*shape[:-1], 2 * shape[-1])
    return TORCH_NAMES[name], tuple(shape)
