"""Hashes edge cases with a CUDA kernel on the GPU, to be run under NVIDIA's compute-sanitizer:

compute-sanitizer --tool memcheck --error-exitcode 1 python tests/support/compute_sanitizer.py cupy
compute-sanitizer --tool racecheck --error-exitcode 1 python tests/support/compute_sanitizer.py numba-cuda
compute-sanitizer --tool synccheck --error-exitcode 1 python tests/support/compute_sanitizer.py cupy paired
"""

from __future__ import annotations

import sys

from sanitized import check_messages, check_random, check_trees

from hashbench.kernels import ALGORITHMS, kernel_class


def main(name: str, *variants: str) -> None:
    """Runs every algorithm in those variants, or in all, on the first GPU."""
    cls = kernel_class(name)
    device = next((device for device in cls.devices() if device.kind == "gpu"), None)
    if device is None:
        sys.exit(f"{name} finds no GPU here")
    if name == "cupy":
        import cupy

        cupy.cuda.set_allocator(None)  # each buffer an allocation of its own, so that the sanitizer knows its end
    for algorithm in ALGORITHMS:
        for variant in variants or cls.variants:
            kernel = cls(device, algorithm, variant)
            for check in (check_messages, check_trees, check_random):
                check(kernel)
            print(f"{name}, {variant}, {algorithm}: every digest is right")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: compute_sanitizer.py KERNEL [VARIANT]..., as cupy or numba-cuda")
    main(*sys.argv[1:])
