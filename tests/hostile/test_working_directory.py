"""The working directory is a stranger's model: nothing in it runs, and nothing is written into it.

Not even where there is no home, no cache and no temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import in_own_process

from hashbench.hashing import selection
from hashbench.kernels import KERNELS, Unavailable, working_directory
from hashbench.kernels.working_directory import outside_working_directory
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

DATA = bytes(range(256)) * 100

INTEL_SETTINGS = b"""\
CL_CONFIG_USER_LOGGER = IB
CL_CONFIG_DUMP_BIN = True
"""
"""Makes Intel's OpenCL driver write its log as it starts, and what it compiles, to names that may be links."""

NO_FOLDERS = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR", "NUMBA_CACHE_DIR"), "/proc/none")
"""So that all is compiled again too."""

RAISES = b"raise SystemExit('the working directory ran')\n"

HOSTILE = {
    "a library that Intel's OpenCL driver needs": ("librt.so.1", b"not a library"),
    "a library that it looks for as it starts": ("libittnotify.so", b"not a library"),
    "its settings": ("cl.cfg", INTEL_SETTINGS),
    "what PoCL's linker looks for": ("libgcc_s.so.1", b"not a library"),
    "Numba's settings": (".numba_config.yaml", b"enable_cudasim: 1\n"),
}


def uses(kernel: str) -> pytest.MarkDecorator:
    """Skips a test where that kernel has no device."""
    missing = next((d.unavailable for d in selection.devices() if d.kernel == kernel), None)
    return pytest.mark.skipif(missing is not None, reason=f"{kernel}: {missing}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with everything hostile."""
    for name, content in HOSTILE.values():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "model.bin").write_bytes(DATA)
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def environment(**changed: str) -> dict[str, str]:
    """This process's environment, in which Python may import from the working directory."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"} | changed


def listed(folder: Path) -> dict[str, str | None]:
    """Why each kernel's first device is unavailable, as `hashbench devices` lists them in a folder."""
    done = in_own_process("devices", "--json", cwd=folder, env=environment(**NO_FOLDERS))
    assert done.returncode == 0, done.stderr.decode()
    return {device["kernel"]: device["unavailable"] for device in reversed(json.loads(done.stdout))}


# Frameworks and drivers


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("opencl", marks=[uses("opencl"), pytest.mark.covers("opencl")]),
        pytest.param("dpnp", marks=[uses("dpnp"), pytest.mark.thorough]),  # by the same driver
    ],
)
def test_a_kernel_takes_nothing_from_the_working_directory_and_needs_no_other(name: str, folder: Path) -> None:
    before = names(folder)
    done = in_own_process("hash", "--kernel", name, "model.bin", cwd=folder, env=environment(**NO_FOLDERS))
    assert done.returncode == 0, done.stderr.decode()
    assert b"hashbench" not in done.stderr  # NVIDIA's compiler counts its warnings there
    assert done.stdout == f"{merkle_tree_hash(chunks_of(DATA, 4096), 'sha256').hex()}  model.bin\n".encode()
    assert names(folder) == before


def test_no_kernel_is_available_or_missing_because_of_the_working_directory(folder: Path) -> None:
    assert listed(folder) == {name: selection.devices_of(name)[0].unavailable for name in KERNELS}


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="Matplotlib is not installed")
def test_figures_are_not_drawn_as_the_working_directory_says(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 7\n")
    program = (
        "from hashbench.bench.experiment import experiments; experiments(); "
        "import matplotlib; print(matplotlib.rcParams['figure.dpi'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.split() == [b"100.0"]


# Python


@pytest.mark.parametrize(
    "names", [("click", "numpy", "rich"), sorted(sys.stdlib_module_names)], ids=["libraries", "standard"]
)
def test_the_command_imports_nothing_from_the_working_directory(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / f"{name}.py").write_bytes(RAISES)
    (tmp_path / "data").write_bytes(DATA)
    done = in_own_process("hash", "--kernel", "hashlib", "data", cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr.decode()


def test_programs_that_the_command_starts_import_nothing_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_bytes(RAISES)
    program = (
        "import subprocess, sys, hashbench.cli.main as cli\n"
        "cli.run = lambda arguments: subprocess.run([sys.executable, '-c', 'import json']).returncode\n"
        "cli.main()"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment(), check=False)
    assert done.returncode == 0


# The thread outside


def test_a_call_runs_outside_while_the_caller_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    running, seen = threading.Event(), threading.Event()

    @outside_working_directory()
    def where() -> tuple[str, str]:
        running.set()
        assert seen.wait(10)
        inherited = []
        thread = threading.Thread(target=lambda: inherited.append(os.getcwd()))  # noqa: PTH109
        thread.start()
        thread.join()
        return os.getcwd(), inherited[0]  # noqa: PTH109

    def look() -> None:
        assert running.wait(10)
        others.append(Path.cwd())
        seen.set()

    others: list[Path] = []
    watcher = threading.Thread(target=look)
    watcher.start()
    assert where() == ("/", "/")
    watcher.join()
    assert others == [tmp_path]
    assert Path.cwd() == tmp_path


def test_a_call_returns_and_raises_as_it_would_inside() -> None:
    @outside_working_directory()
    def divide(a: int, b: int = 1) -> tuple[float, threading.Thread]:
        return a / b, threading.current_thread()

    @outside_working_directory()
    def nested() -> bool:
        return divide(1)[1] is threading.current_thread()

    assert divide(6, b=3)[0] == 2
    with pytest.raises(ZeroDivisionError):
        divide(1, 0)
    assert nested()


@pytest.fixture
def no_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sandbox that does not allow unshare."""
    monkeypatch.setattr(working_directory, "_enter_root", lambda: False)


@pytest.mark.usefixtures("no_own_directory")
def test_where_the_directory_cannot_be_kept_away_it_must_be_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    @outside_working_directory("cl.cfg", "include")
    def where() -> str:
        return os.getcwd()  # noqa: PTH109

    assert where() == str(tmp_path)
    (tmp_path / "cl.cfg").symlink_to("missing")  # a driver may write through it
    with pytest.raises(Unavailable, match=r"the working directory .* has cl\.cfg"):
        where()


@pytest.mark.usefixtures("no_own_directory")
def test_a_kernel_that_would_read_the_directory_is_unavailable_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cl.cfg").touch()
    selection.devices_of.cache_clear()
    try:
        found = {device.kernel: device.unavailable for device in selection.devices()}
    finally:
        selection.devices_of.cache_clear()
    assert found["hashlib"] is None
    assert "has cl.cfg" in str(found["opencl"])
    assert "has cl.cfg" in str(found["dpnp"])
