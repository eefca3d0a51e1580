"""A driver is shown to a loader only if nothing that it needs would be looked for in the working directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hollow_library import library

from hashbench.kernels import opencl_drivers
from hashbench.kernels.opencl_drivers import announced_to_opencl, announced_to_sycl

Register = Callable[[str, str], Path]

each_loader = pytest.mark.parametrize("announced", [announced_to_sycl, announced_to_opencl])


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Installs and registers a driver that needs a library, with a run path; nothing else is installed."""
    vendors, here = tmp_path / "vendors", tmp_path / "here"
    vendors.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(opencl_drivers, "_SYSTEM_VENDORS", vendors)
    monkeypatch.setattr(opencl_drivers, "_NVIDIA", "libnone-installed.so")
    monkeypatch.setattr(opencl_drivers, "_intel_cpu_runtime", list)
    for name in ("OCL_ICD_VENDORS", "OCL_ICD_FILENAMES"):
        monkeypatch.delenv(name, raising=False)

    def install(name: str, needed: str) -> Path:
        driver = tmp_path / f"{name}.so"
        driver.write_bytes(library([needed], "$ORIGIN::"))
        (vendors / f"{name}.icd").write_text(f"{driver}\n")
        return driver

    yield install
    assert "OCL_ICD_VENDORS" not in os.environ


def shown() -> list[str]:
    """The drivers that a loader finds in the present environment."""
    vendors = os.environ["OCL_ICD_VENDORS"]
    if vendors.endswith(".so"):
        return [vendors]
    return [icd.read_text().strip() for icd in sorted(Path(vendors).iterdir())]


@each_loader
def test_a_registered_driver_that_would_search_the_working_directory_is_hidden(
    announced: Callable[[], AbstractContextManager[list[str]]], register: Register, tmp_path: Path
) -> None:
    # A name of its own: what is loaded is not loaded again.
    name = f"lib-{hashlib.md5(bytes(tmp_path)).hexdigest()}.so"
    Path(name).write_bytes(library(name=name))
    register("bad", name)
    good = register("good", "libc.so.6")
    with announced() as refused:
        assert shown() == [str(good)]
    assert len(refused) == 1
    assert refused[0].startswith(f"bad.so: {name} cannot be loaded: ")
    assert str(Path(name).absolute()) not in Path("/proc/self/maps").read_text()


@each_loader
def test_without_any_usable_driver_none_is_shown(
    announced: Callable[[], AbstractContextManager[list[str]]], register: Register
) -> None:
    register("bad", "libnowhere.so")
    with announced() as refused:
        assert shown() == []
    assert len(refused) == 1


@each_loader
def test_a_driver_registered_by_its_name_that_cannot_be_loaded_is_told_and_hidden(
    announced: Callable[[], AbstractContextManager[list[str]]], register: Register, tmp_path: Path
) -> None:
    (tmp_path / "vendors" / "named.icd").write_text("libnowhere.so\n")
    good = register("other", "libc.so.6")
    with announced() as refused:
        assert shown() == [str(good)]
    assert len(refused) == 1
    assert refused[0].startswith("libnowhere.so cannot be loaded: ")


@each_loader
def test_a_driver_registered_by_its_name_is_not_looked_for_in_the_working_directory(
    announced: Callable[[], AbstractContextManager[list[str]]],
    register: Register,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "vendors" / "named.icd").write_text("libc.so.6\n")
    monkeypatch.setenv("LD_LIBRARY_PATH", ":/usr/lib")
    with announced() as refused:
        assert shown() == []
    assert len(refused) == 1
    assert refused[0].startswith("libc.so.6 is not loaded: LD_LIBRARY_PATH ")


def test_nvidias_driver_is_missed_only_where_it_is_registered(register: Register, tmp_path: Path) -> None:
    with announced_to_opencl() as refused:
        assert refused == []
    (tmp_path / "vendors" / "nvidia.icd").write_text("libnone-installed.so\n")
    with announced_to_opencl() as refused:
        assert len(refused) == 1


def test_sycls_loader_finds_registered_drivers_by_itself(register: Register) -> None:
    register("good", "libc.so.6")
    with announced_to_sycl() as refused:
        assert "OCL_ICD_VENDORS" not in os.environ
    assert refused == []


@each_loader
def test_what_the_user_sets_stays(
    announced: Callable[[], AbstractContextManager[list[str]]], register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("bad", "libnowhere.so")
    with monkeypatch.context() as user:
        user.setenv("OCL_ICD_VENDORS", "/vendors")
        with announced():
            assert os.environ["OCL_ICD_VENDORS"] == "/vendors"
        assert os.environ["OCL_ICD_VENDORS"] == "/vendors"
