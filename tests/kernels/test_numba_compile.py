"""Numba's device code, compiled for NVIDIA's architectures without a GPU: everything stays in registers.

Each kernel is compiled to PTX once for each architecture whose code differs, and assembled for others too, since PTX is
forward compatible.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distributions, files
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from build_cache import cached_text
from kernel_sources import module_sources

from hashbench.kernels import ALGORITHMS
from hashbench.kernels.numba_cuda import NumbaCuda, program
from hashbench.kernels.source import functions

cuda = pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")

ASSEMBLED_FOR = {
    "sha256": {
        (7, 5): ("sm_75",),  # without loads that prefetch
        (8, 6): ("sm_86", "sm_89", "sm_90", "sm_100", "sm_120"),
    },
    "sha384": {
        (7, 5): ("sm_75",),
        (8, 6): ("sm_86", "sm_89", "sm_120"),  # with a slow double-precision pipe
        (9, 0): ("sm_90", "sm_100"),  # with a fast one; the same as sm_80
    },
}
NOTHING_SPILLED = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"

CHANGED = {
    "sliced": {
        *("hash_chunks", "hash_chunks_early", "hash_chunks_paired", "hash_chunks_sliced", "hash_level"),
        *("reduce_tiles", "gather_leaves", "gather_roots", "fill_random"),
    },
    "tabled": set(),
    "held": {"hash_chunks_early"},
    "early": {"hash_chunks", "hash_chunks_early", "hash_level", "reduce_tiles"},
    "rotated": set(),
    "paired": {"hash_chunks", "hash_chunks_paired"},
    "prefetched": set(),
    "balanced": {"hash_chunks"},
    "plain": {"hash_chunks", "hash_level", "reduce_tiles"},
}
"""The kernels of each variant that are not the same in a variant before."""


def find_ptxas() -> str | None:
    """NVIDIA's assembler: of the package, or else of an installed toolkit."""
    try:
        return next(str(f.locate()) for f in files("nvidia-cuda-nvcc") or [] if f.name == "ptxas")
    except (PackageNotFoundError, StopIteration):
        return shutil.which("ptxas")


PTXAS = find_ptxas()


@cache
def toolchain() -> str:
    """The versions of everything that compiles, in whichever packages it is here."""
    packages = {f"{d.name} {d.version}" for d in distributions() if re.match("numba|llvmlite|nvidia|cuda", d.name)}
    assembler = subprocess.run([str(PTXAS), "--version"], capture_output=True, text=True, check=True).stdout
    return "\n".join([*sorted(packages), assembler])


def ptx_of(algorithm: str, variant: str, capability: tuple[int, int], name: str) -> str:
    """The PTX of one kernel, compiled as it is when it runs."""

    def make() -> str:
        from numba import types

        code = program(ALGORITHMS[algorithm], variant, 10 * capability[0] + capability[1])
        kernel = getattr(code, name)
        ptx, _ = cuda.compile(
            kernel.py_func,
            types.void(*code.SIGNATURES[name]),
            device=False,
            abi="numba",
            cc=capability,
            launch_bounds=kernel.targetoptions["launch_bounds"],
        )
        return str(ptx)

    sources = module_sources(
        "numba_tree.py", "numba_dialect.py", "numba_cuda.py", "layout.py", "fips180.py", "source.py"
    )
    return cached_text("numba-ptx", toolchain(), algorithm, variant, str(capability), name, *sources, make=make)


def assembled(ptx: str, architecture: str, folder: Path) -> str:
    """What the assembler reports about one kernel."""

    def make() -> str:
        path = folder / "kernel.ptx"
        path.write_text(ptx)
        command = [str(PTXAS), "-v", f"-arch={architecture}", str(path), "-o", str(path.with_suffix(".cubin"))]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{architecture}: {ran.stderr}"
        return ran.stdout + ran.stderr

    return cached_text("ptxas", toolchain(), architecture, ptx, make=make)


IN_SHORT = {
    "sha256": {"hash_chunks", "hash_chunks_sliced", "reduce_tiles", "gather_leaves", "fill_random"},
    "sha384": {"hash_chunks", "hash_chunks_early", "hash_chunks_paired", "hash_level", "gather_roots"},
}
"""Of each kernel one algorithm, and both of the one that hashes most."""


def programs() -> Iterator[object]:
    """Every kernel of every variant for every architecture.

    The short form has `IN_SHORT` of "sliced", which needs the most registers, for sm_90.
    """
    for algorithm, architectures in ASSEMBLED_FOR.items():
        for variant, (capability, assembled_for) in product(NumbaCuda.variants, architectures.items()):
            for name in sorted(CHANGED[variant].intersection(functions(ALGORITHMS[algorithm], variant))):
                for architecture in assembled_for:
                    short = variant == "sliced" and architecture == "sm_90" and name in IN_SHORT[algorithm]
                    yield pytest.param(
                        *(algorithm, variant, capability, name, architecture),
                        id=f"{algorithm}-{variant}-{name}-{architecture}",
                        # One process compiles what the kernels have in common.
                        marks=[
                            pytest.mark.xdist_group(f"numba-cuda-{algorithm}"),
                            *([] if short else [pytest.mark.thorough]),
                        ],
                    )


@pytest.mark.skipif(PTXAS is None, reason="there is no ptxas: install hashbench[cuda-compilers]")
@pytest.mark.covers("numba-cuda-compile")
@pytest.mark.parametrize(("algorithm", "variant", "capability", "name", "architecture"), list(programs()))
def test_registers_hold_everything(
    algorithm: str,
    variant: str,
    capability: tuple[int, int],
    name: str,
    architecture: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Numba asks the device for its architecture even if it does not use it.
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=(7, 5)))
    ptx = ptx_of(algorithm, variant, capability, name)
    assert ".local" not in ptx, "it uses local memory"
    assert "call" not in ptx, "it calls a function that was not inlined"
    assert not re.search(r"cvt\.\S*f64", ptx), (
        "it converts to float64, as Numba does with uint64 beside a signed number"
    )
    report = assembled(ptx, architecture, tmp_path)
    assert len(re.findall(r"bytes stack frame", report)) == 1, report
    assert NOTHING_SPILLED in report, report


def test_every_kernel_is_compiled() -> None:
    for algorithm, variant in product(ALGORITHMS.values(), NumbaCuda.variants):
        code = program(algorithm, variant, 90)
        assert set(code.SIGNATURES) == set(functions(algorithm, variant))
    assert set(program(ALGORITHMS["sha256"], "sliced", 90).SIGNATURES) == CHANGED["sliced"]


def test_programs_are_kept_apart_on_disk() -> None:
    choices = list(product(ALGORITHMS.values(), NumbaCuda.variants, (75, 90)))
    names = {program(*choice).hash_chunks.py_func.__qualname__ for choice in choices}
    assert len(names) == len(choices)
