"""The source of the device code that CUDA C, HIP, OpenCL C and SYCL share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import accumulate
from operator import or_

from hashbench.kernels.contract import Algorithm, Device
from hashbench.kernels.layout import GROUP_SIZE, GROUP_SIZE_LOG2

_PARTS = ("dialect.h", "sha2.h", "message.h", "tree.h", "random.h")

_LATER = ("BALANCED", "PREFETCHED", "PAIRED", "ROTATED", "EARLY", "HELD", "QUEUED", "REORDERED", "TABLED", "SLICED")

_STEPS = {
    "bytewise": {"BYTEWISE": 1, "ROLLED": 1, **dict.fromkeys(_LATER, 0)},
    "unrolled": {"BYTEWISE": 0, "ROLLED": 0},
    "plain": {"ROLLED": 1},
    "balanced": {"BALANCED": 1},
    "prefetched": {"PREFETCHED": 1},
    "paired": {"PAIRED": 1},
    "rotated": {"ROTATED": 1},
    "early": {"EARLY": 1},
    "held": {"HELD": 1},
    "queued": {"QUEUED": 1},
    "reordered": {"REORDERED": 1},
    "tabled": {"TABLED": 1},
    "sliced": {"SLICED": 1},
}

VARIANTS = dict(reversed([*zip(_STEPS, accumulate(_STEPS.values(), or_), strict=True)]))
"""The named versions of the device code and their macros in `kernels/device`. Each adds one step to the next.

- "sliced": in calls of large chunks that are no multiple of what fits the GPU, SHA-256's chunks are divided into slices
  that are;
- "tabled": blocks with at most one unknown byte, those of padding and the second block of a node, are compressed with
  message schedules from tables;
- "reordered": SHA-256's message schedule adds in another order;
- "queued": where two threads share a chunk, their rounds are a loop. In CUDA C, from sm_80 on, the schedule is one too,
  and its blocks are copied to shared memory long before they are needed;
- "held": SHA-256's loads of "early" stay where they are, since the compiler cannot delay them;
- "early": in calls of fewer chunks than fill the GPU, each block is loaded while the one before it is compressed;
- "rotated": three of SHA-384's ten rotations run on the multiply-add pipe, before sm_120;
- "paired": two threads per chunk in calls of few chunks;
- "prefetched": messages are read as read-only data (ld.global.nc), and each read makes the L2 cache fetch the 256 bytes
  around it;
- "balanced": SHA-256's additions run on the multiply-add pipe, and half of SHA-384's shifts on the double-precision
  pipe, if that is as fast as the others;
- "plain": the compiler chooses the pipes. SHA-384's rounds are a loop over 16 rounds, SHA-256's are unrolled;
- "unrolled": all rounds unrolled, the latest 16 words of the message schedule in registers, 16 bytes per read;
- "bytewise": reads single bytes and keeps the whole message schedule in an array: FIPS 180-4 as it is written.

Without PTX, "balanced", "prefetched", "rotated", "held" and "reordered" change nothing.
"""

_OPTIONAL = {"hash_chunks_paired": "PAIRED", "hash_chunks_early": "EARLY", "hash_chunks_sliced": "SLICED"}
"""Device functions that not all variants have, and their macros."""


BLOCKS = {
    "hash_chunks": "CHUNK_BLOCKS",
    "hash_chunks_sliced": "CHUNK_BLOCKS",
    "hash_chunks_early": "EARLY_BLOCKS",
    "hash_chunks_paired": "PAIRED_BLOCKS",
    "hash_level": "NODE_BLOCKS",
    "reduce_tiles": "NODE_BLOCKS",
}
"""The names of what `blocks` says of device functions that need many registers."""


def blocks(algorithm: Algorithm, variant: str) -> dict[str, int]:
    """How many blocks (groups of threads) must fit the registers of a multiprocessor of NVIDIA's.

    With too many, threads spill; with too few, the compiler saves registers nevertheless, by delaying loads.
    """
    if algorithm.name == "sha256":
        return {"CHUNK_BLOCKS": 7, "EARLY_BLOCKS": 5, "PAIRED_BLOCKS": 3, "NODE_BLOCKS": 7}
    chunk = 4 if VARIANTS[variant]["ROTATED"] else 3
    return {"CHUNK_BLOCKS": chunk, "EARLY_BLOCKS": 3, "PAIRED_BLOCKS": 3, "NODE_BLOCKS": 3}


def functions(algorithm: Algorithm, variant: str) -> tuple[str, ...]:
    """The device functions that are launched in that variant. SHA-384 gains nothing from slices."""
    macros = VARIANTS[variant] | ({"SLICED": 0} if algorithm.name == "sha384" else {})
    optional = (name for name, macro in _OPTIONAL.items() if macros[macro])
    return ("hash_chunks", *optional, "gather_leaves", "hash_level", "reduce_tiles", "gather_roots", "fill_random")


@cache
def device_source(algorithm: Algorithm, variant: str) -> str:
    """The program for one algorithm, in one of `VARIANTS`."""
    macros = {
        "SHA": int(algorithm.name.removeprefix("sha")),
        "GROUP_SIZE": GROUP_SIZE,
        "GROUP_SIZE_LOG2": GROUP_SIZE_LOG2,
        **VARIANTS[variant],
        **blocks(algorithm, variant),
    }
    folder = files("hashbench.kernels") / "device"
    lines = [f"#define {name} {value}\n" for name, value in macros.items()]
    for part in _PARTS:
        lines += [f'#line 1 "{part}"\n', (folder / part).read_text()]
    return "".join(lines)


_HALF_AS_MANY_THREADS = "-cl-intel-256-GRF-per-thread"
"""With twice the registers, on the GPUs whose hardware threads have 16 work-items or more."""


def intel_gpu_options(algorithm: Algorithm, sizes: Sequence[int]) -> list[str]:
    """The options of Intel's OpenCL compiler with which all words of a block are in registers.

    Args:
        algorithm: what to compile.
        sizes: the numbers of work-items that a hardware thread of the GPU can have. With fewer, each has more
            registers.
    """
    size = min(sizes)
    more = [_HALF_AS_MANY_THREADS] if algorithm.name == "sha384" and size >= 16 else []
    return [f"-DSUB_GROUP_SIZE={size}", *more]


def opencl_options(device: Device, algorithm: Algorithm, sizes: Sequence[int]) -> list[str]:
    """The options of an OpenCL compiler that a device needs.

    Args:
        device: the device to compile for.
        algorithm: what to compile.
        sizes: as in `intel_gpu_options`; empty if the device does not tell.
    """
    intel_gpu = device.kind == "gpu" and "Intel" in device.vendor
    return intel_gpu_options(algorithm, sizes) if intel_gpu and sizes else []
