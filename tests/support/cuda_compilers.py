"""NVIDIA's compilers, through the cache of builds: NVRTC and nvdisasm as `hashbench.limits.disassembly` calls them."""

from __future__ import annotations

import pytest
from build_cache import cached, cached_text

from hashbench.limits import disassembly
from hashbench.limits.disassembly import Program

_compile_program = disassembly.compile_program
_disassemble = disassembly.disassemble


def compile_program(source: str, architecture: int) -> Program:
    """Like `disassembly.compile_program`, cached."""

    def make() -> bytes:
        program = _compile_program(source, architecture)
        return program.log.encode() + b"\0" + program.cubin

    log, _, cubin = cached("program", disassembly.toolchain(), str(architecture), source, make=make).partition(b"\0")
    return Program(cubin, log.decode())


def disassemble(cubin: bytes) -> str:
    """Like `disassembly.disassemble`, cached."""
    return cached_text("listing", disassembly.toolchain(), cubin, make=lambda: _disassemble(cubin))


@pytest.fixture(scope="session", autouse=True)
def _compilers_through_the_cache() -> None:
    """Puts the cache between all code that is tested and the compilers."""
    disassembly.compile_program = compile_program
    disassembly.disassemble = disassemble
