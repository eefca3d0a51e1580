"""Describes a machine: its processor, memory, devices, drivers, and the versions of the software that measures.

A description does not identify the owner: it has no host name, no user name and no path.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cpuinfo
import psutil

import hashbench
from hashbench.kernels import Device

COMMIT_VARIABLE = "HASHBENCH_COMMIT"
"""The environment variable that gives the commit of code outside its repository."""

_PACKAGES = (
    "cuda-bench",
    "cuda-core",
    "cuda-python",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cupy-rocm-7-0",
    "dpctl",
    "dpnp",
    "intel-opencl-rt",
    "model-signing",
    "numba",
    "numba-cuda",
    "numpy",
    "nvidia-cuda-nvrtc",
    "pocl-binary-distribution",
    "pyopencl",
    "scipy",
    "torch",
    "triton",
)


def describe(devices: Sequence[Device]) -> dict[str, Any]:
    """Describes the machine with `devices`, as JSON values. Sizes are in bytes, clocks in MHz, power in watts."""
    return {
        "cpu": _cpu(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _nvidia_gpus(),
        "os": _operating_system(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "hashbench": commit(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "devices": [
            {
                "kernel": device.kernel,
                "id": device.id,
                "name": device.name,
                "vendor": device.vendor,
                "kind": device.kind,
                "framework": device.framework,
                "driver": device.driver,
            }
            for device in devices
            if device.unavailable is None
        ],
    }


def slug(devices: Sequence[Device]) -> str:
    """The name of the machine's folder, after its first GPU ("nvidia-h200"), else its processor and number of cores
    ("amd-epyc-9654-192-cores").

    Virtual machines hide which processor they run on: several generations are an "AMD EPYC". A processor without a
    number of its own is told apart by its family, model and stepping, as far as the system knows them
    ("amd-epyc-family-26-model-2-stepping-1-2-cores").
    """
    for device in devices:
        if device.unavailable is None and device.kind == "gpu":
            return _slug(device.name)
    name, cores = _cpu_name(), os.cpu_count() or 1
    if not re.search(r"\d", re.sub(r"[\d.]+ *[GM]Hz", "", name)):
        name += "".join(f" {part} {number}" for part, number in _generation().items() if number is not None)
    return _slug(f"{name} {cores} {'core' if cores == 1 else 'cores'}")


def commit() -> str:
    """The commit of the code: from the environment variable HASHBENCH_COMMIT; else from its repository, with "-dirty"
    if the code has uncommitted changes; else the package's version.
    """
    if named := os.environ.get(COMMIT_VARIABLE):
        return named
    root = Path(hashbench.__file__).resolve().parent.parent
    if (root / ".git").exists():
        found = _git(root, "rev-parse", "--short=10", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "hashbench", "kernels", "experiments", "pyproject.toml")
        if found is not None and changed is not None:
            return f"{found}-dirty" if changed else found
    return _version("hashbench") or "unknown"


def is_exact(commit: str) -> bool:
    """Whether `commit`, as returned by `commit()`, identifies one state of the code: not a version, and not dirty."""
    return re.fullmatch(r"[0-9a-f]{4,40}", commit) is not None


def cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """Bytes of each cache that the first core reads data through ("L1", "L2", "L3"); none where Linux does not say.

    /proc/cpuinfo gives one size alone, which is that of the L3 cache on some processors and of the L2 on others.
    """
    found = {}
    for entry in sorted(folder.glob("index*")):
        try:
            kind, level, size = ((entry / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and (kibibytes := re.fullmatch(r"(\d+)K", size)):
            found[f"L{level}"] = int(kibibytes[1]) << 10
    return found


def _git(root: Path, *arguments: str) -> str | None:
    """The output of git; None if git is missing or fails."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _slug(name: str) -> str:
    name = re.sub(r"\((?:r|tm|c)\)|\b(?:cpu|processor|graphics|\d+-core)\b|@", " ", name.lower())
    return re.sub(r"[^a-z0-9.]+", "-", name).strip("-.")


@cache
def _cpu_info() -> dict[str, Any]:
    return dict(cpuinfo.get_cpu_info())  # takes a second


def _cpu_name() -> str:
    return str(_cpu_info().get("brand_raw") or platform.machine() or "cpu")


def _generation() -> dict[str, int | None]:
    """What tells processors of one name apart; None where the system does not say."""
    known = _cpu_info()
    return {part: known.get(part) for part in ("family", "model", "stepping")}


def _cpu() -> dict[str, Any]:
    known = _cpu_info()
    features = set(known.get("flags", ()))
    return {
        "name": _cpu_name(),
        **_generation(),
        "architecture": platform.machine(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "cache_bytes": cache_bytes() or None,
        "sha_instructions": sorted(features & {"sha_ni", "sha512", "sha1", "sha2"}),
        "vector_instructions": sorted(features & {"avx2", "avx512f", "avx512bw", "sve", "sve2", "asimd"}),
    }


def _operating_system() -> str:
    # The release may carry a builder's name after its number.
    release = re.match(r"[\d.]*", platform.release())
    kernel = f"{platform.system()} {release.group() if release else ''}".strip()
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def _nvidia_gpus() -> list[dict[str, Any]]:
    """NVML's description of each GPU; none if nvidia-ml-py or a driver is missing."""
    try:
        pynvml: Any = import_module("pynvml")
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [_nvidia_gpu(pynvml, handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _nvidia_gpu(nvml: Any, gpu: Any) -> dict[str, Any]:
    def ask(question: Any, *arguments: Any) -> Any:
        try:
            return question(*arguments)
        except nvml.NVMLError:  # many boards and virtual machines do not report some values
            return None

    memory = ask(nvml.nvmlDeviceGetMemoryInfo, gpu)
    power = ask(nvml.nvmlDeviceGetEnforcedPowerLimit, gpu)
    return {
        "name": ask(nvml.nvmlDeviceGetName, gpu),
        "driver": ask(nvml.nvmlSystemGetDriverVersion),
        "cuda_driver": ask(nvml.nvmlSystemGetCudaDriverVersion),
        "compute_capability": ask(nvml.nvmlDeviceGetCudaComputeCapability, gpu),
        "memory_bytes": memory and memory.total,
        "sm_clock": ask(nvml.nvmlDeviceGetClockInfo, gpu, nvml.NVML_CLOCK_SM),
        "sm_clock_max": ask(nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_SM),
        "memory_clock_max": ask(nvml.nvmlDeviceGetMaxClockInfo, gpu, nvml.NVML_CLOCK_MEM),
        "power_limit": power and power / 1000,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
