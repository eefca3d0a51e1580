"""Compiles the device code to SPIR-V, with the clang that the package `ziglang` brings: `make spirv`.

The same version of it makes the same bytes on every machine.
"""

from __future__ import annotations

import json
import lzma
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hashbench.kernels import spirv
from hashbench.kernels.contract import ALGORITHMS, Algorithm

ZIGLANG = "0.17.1"
"""The version of ziglang that the programs are made with, as the extra `spirv` names it."""

_OPTIONS = (
    # The oldest version with sub-group sizes that the compiler writes: drivers of GPUs from 2022 promise this one.
    "-triple=spirv64v1.2-unknown-unknown",
    "-xcl",
    "-cl-std=CL1.2",
    "-D__OPENCL_VERSION__=120",
    "-fdeclare-opencl-builtins",
    "-O2",
    "-discard-value-names",
    "-emit-obj",
)


class CompilerMissing(Exception):
    """The compiler that makes the shipped bytes is not installed; the message says which one that is."""


def compiled(algorithm: Algorithm, *options: str) -> bytes:
    """The program of that algorithm, compiled now.

    Args:
        algorithm: the algorithm.
        options: more options of the compiler.

    Raises:
        CompilerMissing: there is no ziglang, or another version.
        subprocess.CalledProcessError: the text does not compile; the compiler has said why.
    """
    with tempfile.TemporaryDirectory(prefix="hashbench-spirv-") as folder:
        source = Path(folder, "program.cl")
        source.write_text(spirv.text(algorithm))
        program = source.with_suffix(".spv")
        subprocess.run([*clang(), *_OPTIONS, *options, "-o", program, source], check=True)
        return program.read_bytes()


def clang() -> list[str]:
    """The compiler's command.

    Raises:
        CompilerMissing: there is no ziglang, or another version.
    """
    try:
        found = version("ziglang")
    except PackageNotFoundError:
        found = "none"
    if found != ZIGLANG:
        raise CompilerMissing(f"ziglang {ZIGLANG} is needed, and here is {found}: install hashbench[spirv]")
    import ziglang

    return [str(Path(ziglang.__file__).with_name("zig")), "clang", "-cc1"]


def main() -> None:
    """Writes the programs of both algorithms and what is recorded of them."""
    folder = Path(str(spirv.FOLDER))
    records = {}
    for algorithm in ALGORITHMS.values():
        program = compiled(algorithm)
        (folder / spirv.file_name(algorithm)).write_bytes(lzma.compress(program, preset=9 | lzma.PRESET_EXTREME))
        record = spirv.Record(spirv.digest(spirv.text(algorithm).encode()), spirv.digest(program))
        records[algorithm.name] = record._asdict()
    (folder / spirv.RECORD).write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
