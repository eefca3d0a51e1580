"""The device code that CUDA C, HIP, OpenCL C and SYCL share, as one program text."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from hashbench.kernels.contract import Algorithm
from hashbench.kernels.layout import GROUP_SIZE, GROUP_SIZE_LOG2

_PARTS = ("dialect.h", "sha2.h", "message.h", "tree.h", "random.h")

FUNCTIONS = ("hash_chunks", "reduce_tiles", "gather_roots", "fill_random")
"""What of it is launched."""


@cache
def device_source(algorithm: Algorithm, balanced: bool) -> str:
    """The text of every kernel for one algorithm. `balanced` moves additions to the multiply-add pipe, where the
    compiler understands PTX."""
    macros = {
        "SHA": int(algorithm.name.removeprefix("sha")),
        "BALANCED": int(balanced),
        "GROUP_SIZE": GROUP_SIZE,
        "GROUP_SIZE_LOG2": GROUP_SIZE_LOG2,
    }
    folder = files("hashbench.kernels") / "device"
    lines = [f"#define {name} {value}\n" for name, value in macros.items()]
    for part in _PARTS:
        lines += [f'#line 1 "{part}"\n', (folder / part).read_text()]
    return "".join(lines)
