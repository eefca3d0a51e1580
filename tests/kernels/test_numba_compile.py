"""Numba's device code, compiled for NVIDIA's architectures without a GPU: everything stays in registers.

To save time it is compiled to PTX once for each architecture whose code differs, and assembled for those beside it: PTX
is forward compatible.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, files
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

from hashbench.kernels import ALGORITHMS
from hashbench.kernels.numba_cuda import NumbaCuda, program

cuda = pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")

ASSEMBLED_FOR = {
    (7, 5): ("sm_75",),  # no reads that prefetch
    (8, 6): ("sm_86", "sm_89", "sm_120"),  # no double precision to speak of
    (9, 0): ("sm_90", "sm_100"),  # both; as on sm_80
}
NOTHING_SPILLED = "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"


def find_ptxas() -> str | None:
    """NVIDIA's assembler: of the package, or else of an installed toolkit."""
    try:
        return next(str(f.locate()) for f in files("nvidia-cuda-nvcc") or [] if f.name == "ptxas")
    except (PackageNotFoundError, StopIteration):
        return shutil.which("ptxas")


PTXAS = find_ptxas()


def compiled(algorithm: str, variant: str, capability: tuple[int, int]) -> dict[str, str]:
    """The PTX of every kernel, by name, as the kernels are compiled when they run."""
    from numba import types

    code = program(ALGORITHMS[algorithm], variant, 10 * capability[0] + capability[1])
    return {
        name: cuda.compile(
            getattr(code, name).py_func,
            types.void(*arguments),
            device=False,
            abi="numba",
            cc=capability,
            launch_bounds=getattr(code, name).targetoptions["launch_bounds"],
        )[0]
        for name, arguments in code.SIGNATURES.items()
    }


def assembled(ptx: Path, architecture: str) -> str:
    """What the assembler tells of one kernel."""
    assert PTXAS is not None
    command = [PTXAS, "-v", f"-arch={architecture}", str(ptx), "-o", str(ptx.with_suffix(f".{architecture}"))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{ptx.stem} for {architecture}: {ran.stderr}"
    return ran.stdout + ran.stderr


@pytest.mark.skipif(PTXAS is None, reason="there is no ptxas: install hashbench[cuda-compilers]")
@pytest.mark.covers("numba-cuda-compile")
@pytest.mark.parametrize("variant", [name for name in NumbaCuda.variants if name != "prefetched"])  # all in "paired"
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_registers_hold_everything(
    algorithm: str, variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Numba asks the device at hand for its architecture even where the answer is not used.
    monkeypatch.setattr("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=(7, 5)))
    jobs: list[tuple[Path, str]] = []
    for capability, architectures in ASSEMBLED_FOR.items():
        for name, ptx in compiled(algorithm, variant, capability).items():
            assert ".local" not in ptx, f"{name} uses local memory"
            assert "call" not in ptx, f"{name} calls a function that was not inlined"
            assert not re.search(r"cvt\.\S*f64", ptx), (
                f"{name} converts to float64, as Numba does with uint64 beside a signed number"
            )
            path = tmp_path / f"{name}_{capability[0]}.ptx"
            path.write_text(ptx)
            jobs += product([path], architectures)
    with ThreadPoolExecutor() as pool:
        for (path, architecture), report in zip(jobs, pool.map(lambda job: assembled(*job), jobs), strict=True):
            functions = re.findall(r"bytes stack frame", report)
            assert len(functions) == 1, report
            assert NOTHING_SPILLED in report, f"{path.stem} for {architecture}: {report}"


def test_programs_are_kept_apart_on_disk() -> None:
    choices = list(product(ALGORITHMS.values(), NumbaCuda.variants, (75, 90)))
    names = {program(*choice).hash_chunks.py_func.__qualname__ for choice in choices}
    assert len(names) == len(choices)
