"""Hashes edge cases with a CUDA kernel on the GPU, to be watched by NVIDIA's compute-sanitizer:

compute-sanitizer --tool memcheck --error-exitcode 1 python tests/compute_sanitizer.py cupy
compute-sanitizer --tool racecheck --error-exitcode 1 python tests/compute_sanitizer.py cupy
"""

from __future__ import annotations

import sys

from sanitized import check_messages, check_random, check_trees

from hashbench.kernels import ALGORITHMS, kernel_class


def main(name: str) -> None:
    """Every algorithm in the kernel's first variant and in "plain", on the first GPU."""
    cls = kernel_class(name)
    device = next(device for device in cls.devices() if device.kind == "gpu")
    if name == "cupy":
        import cupy

        cupy.cuda.set_allocator(None)  # each buffer an allocation of its own, whose end the sanitizer knows
    for algorithm in ALGORITHMS:
        for variant in (cls.variants[0], "plain"):
            kernel = cls(device, algorithm, variant)
            for check in (check_messages, check_trees, check_random):
                check(kernel)
            print(f"{name}, {variant}, {algorithm}: every digest is right")


if __name__ == "__main__":
    main(sys.argv[1])
