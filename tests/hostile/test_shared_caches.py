"""A cache that others can write to holds their code: frameworks neither read nor fill it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hashbench.kernels.cupy_cuda import built


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder that every user may write to."""
    path = tmp_path / "shared"
    path.mkdir()
    path.chmod(0o777)
    return path


def printed(program: str, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, check=True, text=True).stdout


OPENCL = """
from hashbench.kernels.opencl import OpenCL
OpenCL.devices()
import pyopencl
print(pyopencl._PYOPENCL_NO_CACHE)
"""


def test_pyopencl_does_not_use_its_cache_of_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyopencl", reason="pyopencl is not installed")
    monkeypatch.delenv("PYOPENCL_NO_CACHE", raising=False)
    assert printed(OPENCL, {}, monkeypatch) == "True\n"


NUMBA = """
from hashbench.kernels import algorithm_named
from hashbench.kernels.numba_cuda import program
code = program(algorithm_named("sha256"), "plain", 90)
print({getattr(code, name).stats.cache_path for name in code.SIGNATURES} == {None})
"""


def test_numba_caches_in_a_private_folder_alone(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")
    private = shared.parent / "private"
    private.mkdir(mode=0o700)
    for folder, unused in (private, "False\n"), (shared, "True\n"):
        assert printed(NUMBA, {"NUMBA_CACHE_DIR": str(folder)}, monkeypatch) == unused


TRITON = """
import os
from triton import knobs
from hashbench.kernels.triton_gpu import private_cache
before = knobs.cache.dir
with private_cache():
    print(knobs.cache.dir.startswith(os.environ["XDG_CACHE_HOME"]))
assert knobs.cache.dir == before
"""


def test_triton_caches_in_a_private_folder_alone(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    private = shared.parent / "private"
    private.mkdir(mode=0o700)
    for folder, used in (private, "True\n"), (shared, "False\n"):
        assert printed(TRITON, {"XDG_CACHE_HOME": str(folder)}, monkeypatch) == used


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_cupy_caches_in_a_private_folder_alone(
    shared: Path, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = shared.parent / "private"
    private.mkdir(mode=0o700)
    variable = "CUPY_CACHE_IN_MEMORY"

    def set_or_unset(name: str, value: str | None) -> None:
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    def meanwhile() -> str | None:
        """The variable as CuPy has it when it compiles."""
        seen: list[str | None] = []
        module = SimpleNamespace(compile=lambda: seen.append(os.environ.get(variable)))
        assert built(SimpleNamespace(RawModule=lambda code: module), "code") is module
        assert os.environ.get(variable) == before
        return seen.pop()

    set_or_unset(variable, before)
    for folder, found in (str(private), before), (str(shared), "1"), ("relative", "1"), ("", "1"):
        set_or_unset("CUPY_CACHE_DIR", folder)
        assert meanwhile() == found
    set_or_unset("CUPY_CACHE_DIR", None)
    for home, found in (private, before), (shared, "1"):
        set_or_unset("HOME", str(home))
        assert meanwhile() == found
