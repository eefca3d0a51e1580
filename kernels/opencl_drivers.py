"""Finds OpenCL drivers that are installed but not registered, and shows the loaders those that can be loaded safely.

A loader finds drivers through .icd files. Two are commonly missing: the wheel `intel-opencl-rt` (Intel's runtime for
CPUs) installs one with a path that does not exist, and containers with NVIDIA's driver often have only its library.
Intel's run path has empty parts, which mean the working directory: what a driver needs is loaded before the driver,
whoever registered it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hashbench.kernels.shared_libraries import LibraryError, load_by_name, load_needed

READS = ("cl.cfg", "include", "modules.idx", "libgcc_s.so.1")
"""What drivers and their compilers read in the working directory: Intel's settings, headers, an index of modules, and
what the linker that PoCL starts takes for the library of that name."""

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
    usable, refused = _checked(_intel_cpu_runtime())
    registered, others_refused = _checked(_registered())
    with ExitStack() as stack:
        stack.enter_context(environment("OCL_ICD_FILENAMES", ":".join(usable)))
        if others_refused:
            stack.enter_context(_vendors(registered))
        yield [*refused, *others_refused]


@contextmanager
def announced_to_opencl() -> Iterator[list[str]]:
    """Shows pyopencl's loader these drivers and those registered on the system, unless OCL_ICD_VENDORS is set.

    Yields:
        Why drivers are left out that are installed. The loader reads the environment when platforms are first listed.
    """
    if "OCL_ICD_VENDORS" in os.environ:
        yield []
        return
    registered = _registered()
    names = {Path(library).name for library in registered}
    usable, refused = _checked([*registered, *(path for path in _intel_cpu_runtime() if Path(path).name not in names)])
    if _NVIDIA not in names:
        usable += _checked([_NVIDIA])[0]  # nobody said that it is installed, so it is not missed
    if len(usable) == 1:  # the loader takes one library by its name, which needs no folder
        with environment("OCL_ICD_VENDORS", usable[0]):
            yield refused
    elif usable or refused:
        with _vendors(usable):
            yield refused
    else:
        yield []


@contextmanager
def _vendors(libraries: Sequence[str]) -> Iterator[None]:
    """Makes these the drivers that are registered."""
    with tempfile.TemporaryDirectory(prefix="hashbench-opencl-") as folder:
        for number, library in enumerate(libraries):
            Path(folder, f"{number:03}.icd").write_text(f"{library}\n")
        with environment("OCL_ICD_VENDORS", folder):
            yield


def _registered() -> list[str]:
    return [icd.read_text().strip() for icd in sorted(_SYSTEM_VENDORS.glob("*.icd"))]


def _intel_cpu_runtime() -> list[str]:
    library = Path(sys.prefix, "lib", "libintelocl.so")
    return [str(library)] if library.exists() else []


def _checked(libraries: Sequence[str]) -> tuple[list[str], list[str]]:
    """The libraries whose needs are loaded, and why others cannot be used."""
    usable, refused = [], []
    for library in libraries:
        try:
            if os.path.isabs(library):  # noqa: PTH117
                load_needed(Path(library))
            else:
                load_by_name(library)
        except LibraryError as error:
            # What is loaded by its name is named in the error.
            refused.append(f"{Path(library).name}: {error}" if os.path.isabs(library) else str(error))  # noqa: PTH117
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
