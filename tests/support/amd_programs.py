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


def assembly(source: str, target: str) -> str:
    """A program of `amd_assembly.opencl_source`, compiled for an architecture.

    Raises:
        Unavailable: there is no compiler for it.
    """
    compiler = amd_assembly.compiler_for(target)
    return cached_text(
        "amd-assembly", compiler.name, target, source, make=lambda: amd_assembly.compile_program(source, target)
    )


def source(algorithm: str) -> str:
    """The device code in its variant for AMD's GPUs."""
    return amd_assembly.opencl_source(ALGORITHMS[algorithm], "plain")


def hip_assembly(algorithm: str, target: str) -> str:
    """The same as HIP, in the variant of CuPy on ROCm.

    Raises:
        Unavailable: there is no compiler for it.
    """
    compiler = amd_assembly.compiler_for(target)
    program = _HIP.read_text() + device_source(ALGORITHMS[algorithm], "early")
    options = ("--offload-device-only", f"--offload-arch={target}", "-nogpuinc", "-nogpulib", "-O3")

    def make() -> str:
        with tempfile.TemporaryDirectory(prefix="hashbench-hip-") as folder:
            Path(folder, "program.hip").write_text(program)
            command = [*compiler.command, *options, "-x", "hip", "program.hip", "-S", "-o", "program.s"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return Path(folder, "program.s").read_text()

    return cached_text("hip-assembly", compiler.name, *options, program, make=make)


def code_object(source: str, target: str) -> bytes:
    """The same as a code object.

    Raises:
        Unavailable: there is no compiler for it, or no linker.
    """
    compiler = amd_assembly.compiler_for(target)

    def make() -> bytes:
        with tempfile.TemporaryDirectory(prefix="hashbench-amd-") as folder:
            compiled, linked = Path(folder, "program.o"), Path(folder, "program.co")
            compiled.write_bytes(amd_assembly.compile_object(source, target))
            # ziglang has clang and the linker in one program; other clangs find the linker beside themselves.
            inside = Path(compiler.command[0]).name == "zig"
            linker = (compiler.command[0], "ld.lld", "-shared") if inside else (*compiler.command, f"-mcpu={target}")
            options = () if inside else ("--target=amdgcn-amd-amdhsa", "-nogpulib")
            try:
                subprocess.run(
                    [*linker, *options, str(compiled), "-o", str(linked)], check=True, capture_output=True, text=True
                )
            except subprocess.CalledProcessError as error:
                raise Unavailable(f"{compiler.name} does not link: {' '.join(error.stderr.split())}") from None
            return linked.read_bytes()

    return cached("amd-code-object", compiler.name, target, source, make=make)
