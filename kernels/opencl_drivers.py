"""Finds OpenCL drivers that are installed but not registered.

A loader finds drivers through .icd files. Two are commonly missing: the wheel `intel-opencl-rt` (Intel's runtime for
CPUs) installs one with a path that does not exist, and containers with NVIDIA's driver often have only its library.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

_SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
_NVIDIA = "libnvidia-opencl.so.1"


def _intel_cpu_runtime() -> list[str]:
    library = Path(sys.prefix, "lib", "libintelocl.so")
    return [str(library)] if library.exists() else []


def _nvidia_driver() -> list[str]:
    try:
        ctypes.CDLL(_NVIDIA)
    except OSError:
        return []
    return [_NVIDIA]


@cache
def announce_to_sycl() -> None:
    """Makes SYCL's loader find Intel's runtime, in addition to the drivers registered on the system.

    NVIDIA's driver is left out: SYCL needs unified shared memory, which it does not offer through OpenCL.
    """
    if libraries := _intel_cpu_runtime():
        os.environ.setdefault("OCL_ICD_FILENAMES", libraries[0])


@cache
def announce_to_opencl() -> None:
    """Makes pyopencl's loader find these drivers, in addition to those registered on the system.

    It does nothing if the user has set OCL_ICD_VENDORS.
    """
    if "OCL_ICD_VENDORS" in os.environ:
        return
    registered = list(_SYSTEM_VENDORS.glob("*.icd")) if _SYSTEM_VENDORS.is_dir() else []
    known = {Path(icd.read_text().strip()).name for icd in registered}
    missing = [library for library in _intel_cpu_runtime() + _nvidia_driver() if Path(library).name not in known]
    if not missing:
        return
    vendors = Path(tempfile.mkdtemp(prefix="hashbench-opencl-"))
    for icd in registered:
        shutil.copy(icd, vendors)
    for library in missing:
        (vendors / f"{Path(library).name}.icd").write_text(f"{library}\n")
    os.environ["OCL_ICD_VENDORS"] = str(vendors)
