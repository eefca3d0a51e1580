"""AMD's machine code without AMD's GPUs: tinygrad's emulator executes code objects in the host's memory.

The emulator is in tinygrad's repository alone, not in its package. HASHBENCH_TINYGRAD is the path of a clone of it. It
executes every instruction of every wave, one wave after another: it finds wrong instructions, not races, and has no
clock.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import re
import shlex
import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from build_cache import cached_file
from host_memory import HostMemoryKernel

from hashbench.kernels import Buffer, Device, Unavailable
from hashbench.kernels.device_kernel import Argument, Launch
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.limits import amd_assembly

VARIABLE = "HASHBENCH_TINYGRAD"

EMULATED = {"gfx942": "cdna", "gfx950": "cdna", "gfx1100": "rdna3", "gfx1201": "rdna4"}
"""The architectures that the emulator knows, with its names for them."""

_DESCRIPTOR = struct.Struct("<III4xq20xIIIHH4x")
"""A kernel's descriptor, 64 bytes: https://llvm.org/docs/AMDGPUUsage.html#code-object-v3-kernel-descriptor"""

_HIDDEN = struct.Struct("<3I3H3H16x3QH")
"""The first of the arguments after the explicit ones: groups, size of a group, size of the last one, the first thread,
dimensions: https://llvm.org/docs/AMDGPUUsage.html#code-object-v5-metadata"""
_HIDDEN_BYTES = 256

_INVALIDATION = {
    "rdna3": re.compile(rb"\x00\x00\xac\xe0....", re.DOTALL),  # buffer_gl0_inv
    "rdna4": re.compile(rb"\x7c\xc0\x0a\xee........", re.DOTALL),  # global_inv
}
"""What empties caches, which the emulator neither has nor decodes."""
_NO_OPERATION = bytes.fromhex("000080bf")  # s_nop 0, in little-endian order

_LDS_GRANULE = 512
_LDS_SHIFT = 15
"""Where the second resource register has a group's local memory, in granules; drivers fill it in at the launch."""


@cache
def emulator() -> Any:
    """The emulator's module.

    Raises:
        Unavailable: it is not here.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise Unavailable(f"{VARIABLE} is not set: it is the path of a clone of github.com/tinygrad/tinygrad")
    if not Path(folder, "test", "mockgpu", "amd", "emu.py").is_file():
        raise Unavailable(f"{VARIABLE} is {folder}, where there is no clone of github.com/tinygrad/tinygrad")
    compiler = _compiler()
    hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "test"}
    sys.path.insert(0, folder)  # before Python's own package `test`
    try:
        with patch.dict(os.environ, CC=compiler):
            module = importlib.import_module("test.mockgpu.amd.emu")
            importlib.import_module("tinygrad.helpers").getenv("CC", "clang")  # which it keeps
    except ImportError as error:
        raise Unavailable(f"{VARIABLE} has no emulator of this version's kind ({error})") from None
    finally:
        sys.path.remove(folder)
        sys.modules.update(hidden)
    _teach_program_counter(module)
    _teach_swaps_of_lanes(module)
    return module


def _compiler() -> str:
    """The program that the emulator compiles with, a clang: ziglang's is a command of two words.

    Raises:
        Unavailable: there is none.
    """
    found = amd_assembly.compilers()
    if not found:
        raise Unavailable("the emulator needs a clang: install hashbench[amd-compilers]")
    command = shlex.join(found[0].command)
    script = cached_file("clang", command, make=lambda: f'#!/bin/sh\nexec {command} "$@"\n'.encode())
    script.chmod(0o755)
    return str(script)


def _teach_swaps_of_lanes(module: Any) -> None:
    """Corrects row_bcast of DPP, which is the lane before a row or before two, and adds row_xmask: with these CDNA and
    RDNA reduce a wave."""
    usual, integer = module._dpp16_ctrl, module.dtypes.int
    in_place = 0xE4  # quad_perm:[0,1,2,3]

    def control(lane: Any, dpp: int, *rest: Any) -> tuple[Any, Any, Any]:
        broadcast, mask = {0x142: 15, 0x143: 31}.get(dpp), dpp - 0x160 if 0x160 <= dpp < 0x170 else None
        source, enabled, valid = usual(lane, dpp if broadcast is None and mask is None else in_place, *rest)
        number = lane.cast(integer)
        if mask is not None:
            source = number ^ module._c(mask, integer)
        if broadcast is not None:
            source = (number & module._c(~broadcast, integer)) - module._c(1, integer)
            valid = number >= module._c(broadcast + 1, integer)
        return source, enabled, valid

    module._dpp16_ctrl = control


def _teach_program_counter(module: Any) -> None:
    """Adds s_getpc_b64, with which programs find their constants: the address of the instruction after it."""

    def handler(usual: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def handle(instruction: Any, context: Any) -> Any:
            if instruction.op.name != "S_GETPC_B64":
                return usual(instruction, context)
            register, advance = context.inst_field(type(instruction).sdst), context.inc_pc()
            lower, upper = module._split64(context.rpc() + module._c(context.inst_size, module.dtypes.uint64))
            stores = context.wsgpr_dyn(register, lower), context.wsgpr_dyn(register + module._c(1), upper)
            return module.UOp.sink(*stores, *advance)

        return handle

    for kind, usual in module._INST_HANDLERS.items():
        if kind.__name__ == "SOP1":
            module._INST_HANDLERS[kind] = handler(usual)


def unavailable() -> str | None:
    """Why nothing can be emulated here; None if it can."""
    try:
        emulator()
    except Unavailable as error:
        return str(error)
    return None


class CodeObject:
    """A linked code object, loaded where it can be executed.

    Args:
        elf: its bytes.
        architecture: one of `EMULATED`.
    """

    def __init__(self, elf: bytes, architecture: str) -> None:
        self._emulator = emulator()
        self._architecture = EMULATED[architecture]
        image, sections, relocations = importlib.import_module("tinygrad.runtime.support.elf").elf_loader(elf)
        if relocations:
            raise ValueError(f"the code object has {len(relocations)} relocations, none of which is supported")
        self._memory = mmap.mmap(-1, len(image))
        self._memory[:] = bytes(image)
        if invalidation := _INVALIDATION.get(self._architecture):
            (code,) = (section for section in sections if section.name == ".text")
            start, end = code.header.sh_addr, code.header.sh_addr + len(code.content)
            self._memory[start:end] = invalidation.sub(lambda found: len(found[0]) // 4 * _NO_OPERATION, code.content)
        self._origin = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        (names,) = (section.content for section in sections if section.name == ".dynstr")
        (symbols,) = (section.content for section in sections if section.name == ".dynsym")
        self._symbols = {
            names[name : names.index(0, name)].decode(): value
            for name, _, _, _, value, _ in struct.iter_unpack("<IBBHQQ", symbols)
        }

    def launch(self, function: str, groups: int, threads: int, arguments: Sequence[Any], local_bytes: int = 0) -> None:
        """Executes one launch to its end.

        Args:
            function: the name of the kernel.
            groups: its groups.
            threads: the threads of a group.
            arguments: ctypes values, addresses as `c_uint64`.
            local_bytes: local memory of a group, beside what the code object says.
        """
        place = self._origin + self._symbols[f"{function}.kd"]
        local, scratch, nbytes, entry, _, _, resources, properties, _ = _DESCRIPTOR.unpack(
            ctypes.string_at(place, _DESCRIPTOR.size)
        )
        packed = type(
            "Arguments", (ctypes.Structure,), {"_fields_": [(f"_{i}", type(a)) for i, a in enumerate(arguments)]}
        )
        content = bytes(packed(*(a.value for a in arguments)))
        content += bytes(-len(content) % 8)
        content += _HIDDEN.pack(groups, 1, 1, threads, 1, 1, 0, 0, 0, 0, 0, 0, 1).ljust(_HIDDEN_BYTES, b"\0")
        kernarg = ctypes.create_string_buffer(content, max(nbytes, len(content)))
        self._emulator.run_asm(
            place + entry,
            len(self._memory),
            *(groups, 1, 1),
            *(threads, 1, 1),
            ctypes.addressof(kernarg),
            resources | -(-(local + local_bytes) // _LDS_GRANULE) << _LDS_SHIFT,
            scratch,
            self._architecture,
            list(_user_registers(properties, ctypes.addressof(kernarg))),
        )


def _user_registers(properties: int, kernarg: int) -> Sequence[int]:
    """The scalar registers that a driver sets, in the order of the bits that ask for them."""
    registers: list[int] = []
    for bit, count in enumerate((4, 2, 2, 2, 2, 2, 1)):
        if properties >> bit & 1:
            registers += [kernarg & 0xFFFFFFFF, kernarg >> 32] if bit == 3 else [0] * count
    return registers


class AmdEmulated(HostMemoryKernel):
    """The device code, compiled for one of AMD's architectures, as one more kernel.

    Args:
        device: as in `Kernel`.
        algorithm: as in `Kernel`.
        code: the device code of that algorithm in the variant "plain".
    """

    name = "amd-emulated"

    def __init__(self, device: Device, algorithm: str, code: CodeObject) -> None:
        super().__init__(device, algorithm)
        self._code = code

    @classmethod
    def devices(cls) -> list[Device]:
        reason = unavailable()
        return [
            Device(cls.name, architecture, architecture, "AMD", "gpu", "tinygrad", "emulator", reason)
            for architecture in EMULATED
        ]

    def launch(self, launches: Sequence[Launch], queue: None) -> Callable[[], float]:
        for launch in launches:
            self._code.launch(launch.function, launch.groups, GROUP_SIZE, [*map(_value, launch.arguments)])
        return lambda: 0.0


def _value(argument: Argument) -> Any:
    """An argument with its width."""
    if isinstance(argument, Buffer):
        return ctypes.c_uint64(argument.address)
    return np.ctypeslib.as_ctypes_type(argument.dtype)(int(argument))
