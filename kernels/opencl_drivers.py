"""Finds OpenCL drivers that are installed but not registered, and shows the loaders those that can be loaded safely.

A loader finds drivers through .icd files. Two are commonly missing: the wheel `intel-opencl-rt` (Intel's runtime for
CPUs) installs one with a path that does not exist, and containers with NVIDIA's driver often have only its library.
Intel's run path has empty parts, which mean the working directory: what a driver needs is loaded before the driver.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hashbench.kernels.shared_libraries import LibraryError, load_by_name, load_needed

READS = ("cl.cfg", "include", "modules.idx")
"""What drivers and their compilers read in the working directory: Intel's settings, headers, an index of modules."""

_SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
_NVIDIA = "libnvidia-opencl.so.1"


class Loaded(NamedTuple):
    """A framework whose loader has seen the drivers.

    Attributes:
        module: the framework.
        refused: why drivers are left out that are installed.
    """

    module: Any
    refused: Sequence[str]


@contextmanager
def announced_to_sycl() -> Iterator[list[str]]:
    """Shows Intel's runtime to SYCL's loader, in addition to the drivers registered on the system.

    NVIDIA's driver is left out: SYCL needs unified shared memory, which it does not offer through OpenCL.

    Yields:
        Why drivers are left out that are installed. The loader reads the environment when platforms are first listed.
    """
    usable, refused = _checked([str(library) for library in _intel_cpu_runtime()])
    with environment("OCL_ICD_FILENAMES", ":".join(usable)):
        yield refused


@contextmanager
def announced_to_opencl() -> Iterator[list[str]]:
    """Shows pyopencl's loader these drivers and those registered on the system, unless OCL_ICD_VENDORS is set.

    Yields:
        Why drivers are left out that are installed. The loader reads the environment when platforms are first listed.
    """
    if "OCL_ICD_VENDORS" in os.environ:
        yield []
        return
    registered = [icd.read_text().strip() for icd in sorted(_SYSTEM_VENDORS.glob("*.icd"))]
    names = {Path(library).name for library in registered}
    missing = [library for library in [*map(str, _intel_cpu_runtime()), _NVIDIA] if Path(library).name not in names]
    usable, refused = _checked([*registered, *missing])
    if len(usable) == 1:  # the loader takes one library by its name, which needs no folder
        with environment("OCL_ICD_VENDORS", usable[0]):
            yield refused
        return
    with tempfile.TemporaryDirectory(prefix="hashbench-opencl-") as vendors:
        for number, library in enumerate(usable):
            Path(vendors, f"{number}.icd").write_text(f"{library}\n")
        with environment("OCL_ICD_VENDORS", vendors if usable or refused else ""):
            yield refused


def _intel_cpu_runtime() -> list[Path]:
    library = Path(sys.prefix, "lib", "libintelocl.so")
    return [library] if library.exists() else []


def _checked(libraries: list[str]) -> tuple[list[str], list[str]]:
    """The libraries whose needs are loaded, and why others cannot be used; those not installed are left out."""
    usable, refused = [], []
    for library in libraries:
        try:
            if os.path.isabs(library):  # noqa: PTH117
                load_needed(Path(library))
            else:
                load_by_name(library)
        except LibraryError as error:
            if os.path.isabs(library):  # noqa: PTH117
                refused.append(f"{Path(library).name}: {error}")
        else:
            usable.append(library)
    return usable, refused


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable, unless it is set or the value is empty, and removes it afterwards."""
    if name in os.environ or not value:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
