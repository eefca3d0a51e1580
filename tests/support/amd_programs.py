"""The device code, compiled for AMD's GPUs without one: as assembly to count, as code objects to execute."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from build_cache import cached, cached_text

from hashbench.kernels import ALGORITHMS, Unavailable
from hashbench.kernels.source import device_source
from hashbench.limits import amd_assembly

_HIP = Path(__file__).with_name("hip_without_rocm.h")


def source(algorithm: str) -> str:
    """The device code in the variant for GPUs without PTX, as OpenCL C."""
    return amd_assembly.opencl_source(ALGORITHMS[algorithm], "plain")


def assembly(source: str, target: str) -> str:
    """An OpenCL C program, compiled for an architecture.

    Raises:
        Unavailable: there is no compiler for it.
    """
    compiler = amd_assembly.compiler_for(target)
    return cached_text(
        "amd-assembly", compiler.name, target, source, make=lambda: amd_assembly.compile_program(source, target)
    )


def hip_assembly(algorithm: str, target: str) -> str:
    """The device code in the variant of CuPy on ROCm, compiled as HIP.

    Raises:
        Unavailable: there is no compiler for `target`.
    """
    compiler = amd_assembly.compiler_for(target)
    program = _HIP.read_text() + device_source(ALGORITHMS[algorithm], "early")
    options = ("-x", "hip", "--offload-device-only", f"--offload-arch={target}", "-nogpuinc", "-nogpulib", "-O3")

    def make() -> str:
        with tempfile.TemporaryDirectory(prefix="hashbench-hip-") as folder:
            Path(folder, "program.hip").write_text(program)
            command = [*compiler.command, *options, "program.hip", "-S", "-o", "program.s"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return Path(folder, "program.s").read_text()

    return cached_text("hip-assembly", compiler.name, *options, program, make=make)


def code_object(source: str, target: str) -> bytes:
    """An OpenCL C program, compiled and linked for an architecture.

    Raises:
        Unavailable: there is no compiler for it, or no linker.
    """
    compiler = amd_assembly.compiler_for(target)

    def make() -> bytes:
        with tempfile.TemporaryDirectory(prefix="hashbench-amd-") as folder:
            Path(folder, "program.o").write_bytes(amd_assembly.compile_object(source, target))
            command = [*_linker(compiler, target), "program.o", "-o", "program.co"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"{compiler.name} does not link: {' '.join(done.stderr.split())}")
            return Path(folder, "program.co").read_bytes()

    return cached("amd-code-object", compiler.name, target, source, make=make)


def _linker(compiler: amd_assembly.Compiler, target: str) -> list[str]:
    """The linker of a compiler: zig is both, other clangs find theirs."""
    if Path(compiler.command[0]).name == "zig":
        return [compiler.command[0], "ld.lld", "-shared"]
    return [*compiler.command, "--target=amdgcn-amd-amdhsa", "-nogpulib", f"-mcpu={target}"]
