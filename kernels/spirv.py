"""The device code in SPIR-V, compiled beforehand: drivers of Level Zero have no compiler of OpenCL C.

The programs lie beside the text that they were compiled from, with its digest. `spirv_recipe` makes them.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

from hashbench.kernels.contract import Algorithm, Unavailable
from hashbench.kernels.source import device_source

FOLDER = files("hashbench.kernels") / "device"
RECORD = "spirv.json"

_HEADER_WORDS = 5
_OP_EXECUTION_MODE, _OP_CAPABILITY = 16, 17
_MODE_LOCAL_SIZE, _MODE_SUBGROUP_SIZE = 17, 35
_CAPABILITY_SUBGROUP_DISPATCH = 58


class Record(NamedTuple):
    """What is recorded of a program.

    Attributes:
        text: SHA-256 of the text that it was compiled from, in hexadecimal digits like the next.
        program: SHA-256 of the program.
    """

    text: str
    program: str


def file_name(algorithm: Algorithm) -> str:
    """The name of the file with that algorithm's program."""
    return f"{algorithm.name}.spv.xz"


def text(algorithm: Algorithm) -> str:
    """The OpenCL C that the program of that algorithm is compiled from."""
    return (FOLDER / "opencl_types.h").read_text() + device_source(algorithm, "plain")


def record(algorithm: Algorithm) -> Record:
    """What is recorded of the program of that algorithm."""
    return Record(**json.loads((FOLDER / RECORD).read_text())[algorithm.name])


def program(algorithm: Algorithm, sub_group_size: int | None = None) -> bytes:
    """The program of that algorithm.

    Args:
        algorithm: the algorithm.
        sub_group_size: the number of work-items that all its kernels must run side by side; None leaves it to the
            driver.

    Raises:
        Unavailable: the program was compiled from another text than there is now.
    """
    if digest(text(algorithm).encode()) != record(algorithm).text:
        raise Unavailable(f"{file_name(algorithm)} was not made from the current device code: run `make spirv`")
    module = lzma.decompress((FOLDER / file_name(algorithm)).read_bytes())
    return module if sub_group_size is None else _with_sub_group_size(module, sub_group_size)


def digest(data: bytes) -> str:
    """As in a `Record`."""
    return hashlib.sha256(data).hexdigest()


def _with_sub_group_size(module: bytes, size: int) -> bytes:
    """The module as `__attribute__((intel_reqd_sub_group_size(size)))` on each kernel makes it."""
    words = struct.unpack(f"<{len(module) // 4}I", module)
    result = list(words[:_HEADER_WORDS])
    capable = False
    for instruction in _instructions(words):
        operation = instruction[0] & 0xFFFF
        if not capable and operation != _OP_CAPABILITY:
            result += _instruction(_OP_CAPABILITY, _CAPABILITY_SUBGROUP_DISPATCH)
            capable = True
        result += instruction
        if operation == _OP_EXECUTION_MODE and instruction[2] == _MODE_LOCAL_SIZE:
            result += _instruction(_OP_EXECUTION_MODE, instruction[1], _MODE_SUBGROUP_SIZE, size)
    return struct.pack(f"<{len(result)}I", *result)


def _instructions(words: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The instructions of a module. The first word of each has their number of words and the operation."""
    begin = _HEADER_WORDS
    while begin < len(words):
        end = begin + (words[begin] >> 16)
        yield words[begin:end]
        begin = end


def _instruction(operation: int, *operands: int) -> tuple[int, ...]:
    return (1 + len(operands)) << 16 | operation, *operands
