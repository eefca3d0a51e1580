"""Selection of a kernel and its device: by name, or the fastest that this machine has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import cache

from hashbench.kernels import KERNELS, Device, Kernel, Unavailable, algorithm_named, kernel_class

FASTEST_FIRST = {
    "gpu": ("cupy", "numba-cuda", "triton", "dpnp", "opencl"),
    # numba-cpu is twice as fast as hashlib with SHA instructions, and faster than opencl with AVX-512. It compiles in
    # 2 s once. hashlib waits for Python between small chunks, most of all with many threads.
    "cpu": ("numba-cpu", "opencl", "dpnp", "hashlib"),
}
"""Kernels by expected throughput on each kind of device; any GPU goes before any CPU. Kernels not listed come last."""


class FallbackWarning(UserWarning):
    """The fastest kernel cannot be used, so that another one was chosen."""


SMALL = 640 << 20
"""Bytes that hashlib hashes before any other framework has started and hashed them.

By the wall-clock time of `hashbench hash` with warm caches, hashlib is the fastest for 512 MB and none is for 1 GB. The
lines cross at 660 MB for cupy and 720 MB for numba-cpu (an H100 and 16 cores of its host), and at 640 MB for opencl
(two cores of an AMD EPYC); numba-cuda follows at 1.3 GB."""


class UsageError(ValueError):
    """A name is unknown; the message lists the accepted ones."""


def devices() -> list[Device]:
    """Every device of every kernel, including unavailable ones, in the registry's order."""
    return [device for name in KERNELS for device in devices_of(name)]


def available() -> list[Device]:
    """Every available device, the one expected to be the fastest first."""
    return list(_by_preference(tuple(KERNELS)))


def choose(
    kernel: str | None = None, device: str | None = None, algorithm: str = "sha256", nbytes: int | None = None
) -> Kernel:
    """The kernel to hash with.

    Args:
        kernel: its name; None takes the fastest available.
        device: a device id, as `hashbench devices` lists them; None takes the fastest available.
        algorithm: "sha256" or "sha384".
        nbytes: how much there is to hash, if it is known. If nothing is named, fewer bytes than SMALL are left to
            hashlib, and no other framework is started.

    Raises:
        UsageError: the kernel or device is unknown.
        ValueError: the algorithm is unknown.
        Unavailable: the framework is missing, or the device cannot be used.

    Warns:
        FallbackWarning: neither kernel nor device was named, and a faster kernel than the returned one failed to start.
    """
    if kernel is not None and kernel not in KERNELS:
        raise UsageError(f"unknown kernel {kernel!r}: accepted are {', '.join(KERNELS)}")
    if kernel is None and device is None and nbytes is not None and nbytes < SMALL:
        kernel = "hashlib"
    names = tuple(KERNELS) if kernel is None else (kernel,)
    algorithm_named(algorithm)
    lost = []
    for found in _by_preference(names):
        if device not in (None, found.id):
            continue
        try:
            chosen = kernel_class(found.kernel)(found, algorithm)
        except Exception as error:  # a compiler or a driver that does not work here, though it is installed
            if kernel is not None or device is not None:
                raise
            lost.append(f"{found.kernel} on {found.id} cannot be used ({type(error).__name__}: {error})")
            continue
        for reason in lost:
            warnings.warn(f"{reason}: {found.kernel} on {found.id} is used instead", FallbackWarning, stacklevel=2)
        return chosen
    raise Unavailable("; ".join(lost)) if lost else _refusal(names, device)


def kernel_for(kernel: Kernel | str | None, device: str | None, algorithm: str, nbytes: int | None = None) -> Kernel:
    """`kernel` itself if it is one, or else what `choose` gives.

    Raises:
        ValueError: the kernel is for another algorithm or device.
        UsageError, Unavailable: as for `choose`.
    """
    if not isinstance(kernel, Kernel):
        return choose(kernel, device, algorithm, nbytes)
    if kernel.algorithm.name != algorithm_named(algorithm).name or device not in (None, kernel.device.id):
        wanted = algorithm if device is None else f"{algorithm} on {device}"
        raise ValueError(
            f"the kernel is {kernel.name} for {kernel.algorithm.name} on {kernel.device.id}, not for {wanted}"
        )
    return kernel


@cache
def devices_of(name: str) -> tuple[Device, ...]:
    """Every device of one kernel. A framework that is there but broken has one that is unavailable, with the reason."""
    try:
        return tuple(kernel_class(name).devices())
    except Unavailable as error:
        return (Device(name, unavailable=str(error)),)
    except Exception as error:  # whatever a framework raises that does not fit the others installed
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return (Device(name, unavailable=f"its framework is broken ({reason}): install it again"),)


def _by_preference(names: Sequence[str]) -> Iterator[Device]:
    """The available devices of these kernels, the one expected to be the fastest first; imports frameworks lazily."""
    for kind, order in FASTEST_FIRST.items():
        for name in sorted(names, key=lambda n: order.index(n) if n in order else len(order)):
            usable = [d for d in devices_of(name) if d.unavailable is None and d.kind == kind]
            yield from reversed(usable) if kind == "cpu" else usable  # a CPU with more threads is listed later


def _refusal(names: Sequence[str], device: str | None) -> Exception:
    """Why none of these kernels has `device`, or any device if it is None."""
    listed = [found for name in names for found in devices_of(name)]
    unusable = [d for d in listed if d.unavailable is not None]
    accepted = [d.id if len(names) == 1 else f"{d.id} ({d.kernel})" for d in listed if d.unavailable is None]
    named = [d for d in unusable if device in (None, d.id)]
    if named or not accepted:
        return Unavailable("; ".join(f"{d.kernel} is not available: {d.unavailable}" for d in named or unusable))
    return UsageError(f"unknown device {device!r}: accepted are {', '.join(accepted)}")
