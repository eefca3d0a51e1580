"""What a library needs is loaded from absolute paths, whatever lies in the working directory."""

from __future__ import annotations

import ctypes
import hashlib
from pathlib import Path

import pytest
from hollow_library import library

from hashbench.kernels.shared_libraries import LibraryError, load_by_name, load_needed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A path for a driver, in a folder of its own."""
    path = tmp_path / "installed" / "libdriver.so"
    path.parent.mkdir()
    return path


def is_loaded(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("run_path", ["$ORIGIN::", "::${ORIGIN}", ":relative:$ORIGIN/../installed"])
def test_what_a_library_needs_is_loaded_from_its_folder(run_path: str, driver: Path, here: Path) -> None:
    # Names of their own: what is loaded is not loaded again.
    first, second = (f"lib-{hashlib.md5(bytes(driver)).hexdigest()}-{number}.so" for number in (1, 2))
    driver.write_bytes(library([first], run_path))
    (driver.parent / first).write_bytes(library([second], run_path, first))
    (driver.parent / second).write_bytes(library(name=second))
    for name in (first, second):
        (here / name).write_bytes(b"hostile")
    load_needed(driver)
    assert is_loaded(driver.with_name(first))
    assert is_loaded(driver.with_name(second))
    assert not is_loaded(driver)
    ctypes.CDLL(str(driver))


@pytest.mark.parametrize("run_path", [None, "", "::", ".", "relative:/nonexistent"])
def test_what_is_missing_is_not_taken_from_the_working_directory(
    run_path: str | None, driver: Path, here: Path
) -> None:
    driver.write_bytes(library(["libmissing-here.so"], run_path))
    (here / "relative").mkdir()
    for folder in (here, here / "relative"):
        (folder / "libmissing-here.so").write_bytes(library())
    with pytest.raises(LibraryError, match=r"^libmissing-here\.so cannot be loaded: .*No such file"):
        load_needed(driver)
    assert not is_loaded(here / "libmissing-here.so")


def test_a_library_that_would_be_looked_for_again_is_refused(driver: Path, here: Path) -> None:
    driver.write_bytes(library(["libnameless.so"], "$ORIGIN"))
    driver.with_name("libnameless.so").write_bytes(library(name="libother.so"))
    with pytest.raises(LibraryError, match=r"libnameless\.so is not named libnameless\.so inside"):
        load_needed(driver)


def test_a_needed_path_is_refused(driver: Path, here: Path) -> None:
    driver.write_bytes(library(["./libhostile.so"]))
    (here / "libhostile.so").write_bytes(library())
    with pytest.raises(LibraryError, match="is not the name of a library"):
        load_needed(driver)


def test_a_needed_library_that_is_broken_is_named(driver: Path, here: Path) -> None:
    driver.write_bytes(library(["libbroken-there.so"], "$ORIGIN"))
    driver.with_name("libbroken-there.so").write_bytes(b"not a library")
    with pytest.raises(LibraryError, match=r"/installed/libbroken-there\.so is not a shared library"):
        load_needed(driver)


def test_libraries_of_the_system_are_not_looked_for_in_the_working_directory(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("", "/usr/lib", "/usr/lib:/lib"):
        monkeypatch.setenv("LD_LIBRARY_PATH", path)
        load_by_name("libc.so.6")
    for path in (":/usr/lib", "/usr/lib:", "/usr/lib::/lib", "lib", "/usr/lib;"):
        monkeypatch.setenv("LD_LIBRARY_PATH", path)
        with pytest.raises(LibraryError, match="LD_LIBRARY_PATH"):
            load_by_name("libc.so.6")
        with monkeypatch.context() as root:
            root.chdir("/")
            load_by_name("libc.so.6")


def test_a_file_that_is_no_library_is_refused(driver: Path) -> None:
    with pytest.raises(LibraryError, match="cannot be read: No such file"):
        load_needed(driver)
    whole = library(["libc.so.6"], "$ORIGIN")
    for size in range(len(whole)):
        driver.write_bytes(whole[:size])
        with pytest.raises(LibraryError, match="is not a shared library"):
            load_needed(driver)
