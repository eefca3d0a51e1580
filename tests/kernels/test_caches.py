"""Which folders of caches are trusted: those that nobody else can write to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hashbench.kernels.caches import is_private, private_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    return path


def test_a_folder_of_the_user_is_private(folder: Path) -> None:
    assert is_private(folder)
    folder.chmod(0o755)
    assert is_private(folder)


def test_a_folder_that_others_may_write_to_is_not(folder: Path) -> None:
    folder.chmod(0o777)
    assert not is_private(folder)


def test_a_folder_of_a_shared_group_is_not(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the superuser may give a folder to another group")
    os.chown(folder, -1, 65533)
    folder.chmod(0o770)
    assert not is_private(folder)


def test_a_folder_of_another_user_is_not(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the superuser may give a folder away")
    os.chown(folder, 65533, -1)
    assert not is_private(folder)


def test_a_folder_that_others_may_replace_is_not(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir(mode=0o700)
    folder.chmod(0o777)
    assert not is_private(inner)
    folder.chmod(0o1777)
    assert is_private(inner)


def test_a_folder_in_one_of_another_user_or_a_shared_group_is_not(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the superuser may give a folder away")
    inner = folder / "inner"
    inner.mkdir(mode=0o700)
    for user, group, mode in (65533, -1, 0o755), (65533, -1, 0o1777), (0, 65533, 0o775):
        os.chown(folder, user, group)
        folder.chmod(mode)
        assert not is_private(inner)
    folder.chmod(0o1775)
    assert is_private(inner)


def test_a_missing_folder_is_as_the_one_in_which_it_would_be_made(folder: Path) -> None:
    assert is_private(folder / "not" / "there")
    folder.chmod(0o1777)
    assert not is_private(folder / "not" / "there")


def test_links_are_followed_and_dangling_ones_are_not_trusted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    assert is_private(tmp_path / "link")
    folder.chmod(0o777)
    assert not is_private(tmp_path / "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    assert not is_private(tmp_path / "dangling")


def test_a_relative_folder_is_not_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert not is_private(Path("cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert private_folder("pyopencl") is None


def test_a_folder_of_the_users_cache_is_given_if_it_is_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    assert private_folder("pyopencl") == folder / "pyopencl"
    assert private_folder("pytools") == folder / "pytools"
    (folder / "pytools").mkdir()
    (folder / "pytools").chmod(0o777)
    assert private_folder("pytools") is None
