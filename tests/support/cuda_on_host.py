"""The CUDA C source as one more kernel, compiled by a C++ compiler: slow, but it runs anywhere."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Container, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from build_cache import cached_file
from host_memory import HostMemoryKernel

from hashbench.kernels import Algorithm, Buffer, Device
from hashbench.kernels.device_kernel import Launch
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.source import device_source, functions

_COMPILER = "g++"
_SHIM = Path(__file__).with_suffix(".hpp")
_WITH_BARRIERS = frozenset({"hash_chunks_paired", "reduce_tiles"})
_ERRORS = {
    1: "there is no such kernel",
    2: "the threads of a block met different numbers of barriers",
    3: "it has barriers: its threads must run at the same time",
}


def host_source(algorithm: Algorithm, variant: str) -> str:
    """The device code of one algorithm as a C++ program."""
    return host_program(device_source(algorithm, variant), functions(algorithm, variant), _WITH_BARRIERS)


def host_program(source: str, kernels: Iterable[str], with_barriers: Container[str]) -> str:
    """Device code as a C++ program."""
    listed = " ".join(f"CUDA_ON_HOST_{'TOGETHER' if name in with_barriers else 'ALONE'}({name})" for name in kernels)
    return f"{_SHIM.read_text()}\n{source}\nCUDA_ON_HOST_KERNELS({listed})\n"


def compiled(source: str, options: Sequence[str] = ("-O2",)) -> Path:
    """A C++ program as a shared library."""

    def build() -> bytes:
        with tempfile.TemporaryDirectory(prefix="hashbench-cuda-on-host-") as folder:
            program, library = Path(folder, "program.cpp"), Path(folder, "library.so")
            program.write_text(source)
            subprocess.run([*command, str(program), "-o", str(library)], check=True)
            return library.read_bytes()

    # Like CUDA's compilers, which let pointers of other types read memory.
    dialect = ["-std=c++20", "-pthread", "-fno-strict-aliasing"]
    command = [_COMPILER, *dialect, *options, "-shared", "-fPIC"]
    return cached_file("host-library", compiler_version(), *command, source, make=build)


@cache
def compiler_version() -> str:
    """The first line that the compiler prints of itself."""
    return subprocess.run([_COMPILER, "--version"], capture_output=True, text=True, check=True).stdout


def launch(
    library: ctypes.CDLL, function: str, groups: int, arguments: Iterable[Any], threads: int = GROUP_SIZE
) -> None:
    """Launches a function of a library that `compiled` returned. The arguments are NumPy's scalars."""
    values = [np.ctypeslib.as_ctypes_type(a.dtype)(int(a)) for a in arguments]  # of its own width
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    if status := library.launch(function.encode(), threads, ctypes.c_ulong(groups), pointers):
        raise RuntimeError(f"{function}: {_ERRORS[status]}")


class CudaOnHost(HostMemoryKernel):
    """The CUDA C source on the host's processor.

    Args:
        device: as in `Kernel`.
        algorithm: as in `Kernel`.
        variant: as in `Kernel`.
        library: what `compiled` returned; None compiles it.
    """

    name = "cuda-source-on-host"
    variants = ("sliced", "tabled", "queued", "early", "paired", "plain", "bytewise")  # others are the same without PTX

    def __init__(
        self, device: Device, algorithm: str = "sha256", variant: str | None = None, library: Path | None = None
    ) -> None:
        super().__init__(device, algorithm, variant)
        self.paired_up_to = 1 << 14 if self.variant == "paired" else 0
        self.early_up_to = 1 << 14 if self.variant == "early" else 0
        self.sliced = range(1 << 14 if "hash_chunks_sliced" in functions(self.algorithm, self.variant) else 0)
        self._library = ctypes.CDLL(str(library or compiled(host_source(self.algorithm, self.variant))))

    @classmethod
    def devices(cls) -> list[Device]:
        reason = None if shutil.which(_COMPILER) else f"{_COMPILER} is not installed"
        return [
            Device(
                kernel=cls.name,
                id="host",
                name="host",
                vendor="host",
                kind="cpu",
                framework="C++20",
                driver=_COMPILER,
                unavailable=reason,
            )
        ]

    def launch(self, launches: Sequence[Launch], queue: None) -> Callable[[], float]:
        for one in launches:
            arguments = (np.uint64(a.address) if isinstance(a, Buffer) else a for a in one.arguments)
            launch(self._library, one.function, one.groups, arguments)
        return lambda: 0.0
