"""Dtypes of tensors, and the size of a tensor.

Dtypes have safetensors' names. Those that only GGUF has, ggml's quantized types, have ggml's names with `GGML_` in
front: their elements are stored in blocks along the last dimension. Elements smaller than a byte are packed, and a
tensor of them fills whole bytes.
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
"""Bits per element of each dtype of safetensors 0.8."""

GGML_BLOCKS = {
    "GGML_Q1_0": (128, 18),
    "GGML_Q2_K": (256, 84),
    "GGML_Q3_K": (256, 110),
    "GGML_Q4_0": (32, 18),
    "GGML_Q4_1": (32, 20),
    "GGML_Q4_K": (256, 144),
    "GGML_Q5_0": (32, 22),
    "GGML_Q5_1": (32, 24),
    "GGML_Q5_K": (256, 176),
    "GGML_Q6_K": (256, 210),
    "GGML_Q8_0": (32, 34),
    "GGML_Q8_1": (32, 40),
    "GGML_Q8_K": (256, 292),
    "GGML_IQ1_M": (256, 56),
    "GGML_IQ1_S": (256, 50),
    "GGML_IQ2_S": (256, 82),
    "GGML_IQ2_XS": (256, 74),
    "GGML_IQ2_XXS": (256, 66),
    "GGML_IQ3_S": (256, 110),
    "GGML_IQ3_XXS": (256, 98),
    "GGML_IQ4_NL": (32, 18),
    "GGML_IQ4_XS": (256, 136),
    "GGML_TQ1_0": (256, 54),
    "GGML_TQ2_0": (256, 66),
    "GGML_MXFP4": (32, 17),
    "GGML_NVFP4": (64, 36),
}
"""Elements and bytes of a block of each dtype that only GGUF has."""

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
"""The name here of each of PyTorch's dtypes that safetensors has, by PyTorch's name."""

_MAX_BITS = 1 << 63


def tensor_nbytes(dtype: str, shape: Sequence[int]) -> int:
    """The number of bytes of a tensor, row-major, without padding.

    Args:
        dtype: A key of `DTYPE_BITS` or `GGML_BLOCKS`.
        shape: Its shape, of no negative lengths.

    Raises:
        ValueError: The dtype is unknown; the tensor has more than 2^60 bytes, or not a whole number of them; or the
            last dimension is not a multiple of the dtype's block.
    """
    if (bits := DTYPE_BITS.get(dtype)) is None:
        if dtype not in GGML_BLOCKS:
            known = ", ".join([*DTYPE_BITS, *GGML_BLOCKS])
            raise ValueError(f"the dtype {dtype[:40]!r} is unknown: accepted are {known}")
        elements, nbytes = GGML_BLOCKS[dtype]
        if not shape or shape[-1] % elements:
            raise ValueError(f"{dtype} stores blocks of {elements}, and the last dimension is not a multiple of that")
        shape = (*shape[:-1], shape[-1] // elements)
        bits = 8 * nbytes
    for length in shape:
        bits *= length
        if bits > _MAX_BITS:  # inside the loop: the product of a long shape would be a long number
            raise ValueError("the shape has more than 2^60 bytes")
    if bits % 8:
        raise ValueError(f"{bits} bits are not a whole number of bytes")
    return bits // 8


def torch_description(dtype: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """Translates the dtype and shape of one of PyTorch's tensors to safetensors'.

    The shape changes where PyTorch counts a pair of packed elements as one element.

    Args:
        dtype: `str(tensor.dtype)`.
        shape: The tensor's shape.

    Raises:
        ValueError: safetensors has no such dtype, or the tensor is a single pair without dimensions.
    """
    name = dtype.removeprefix("torch.")
    if name not in TORCH_NAMES:
        raise ValueError(f"safetensors does not store {dtype}: accepted are {', '.join(TORCH_NAMES)}")
    if name.endswith("_x2"):
        if not shape:
            raise ValueError(f"safetensors does not store {dtype} without dimensions: one of it is two elements")
        return TORCH_NAMES[name], (*shape[:-1], 2 * shape[-1])
    return TORCH_NAMES[name], tuple(shape)
