"""Compiled programs are kept where nobody else can write, and anything else on disk is not taken for one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hashbench.kernels import program_cache

KEY = program_cache.program_key(["a", "b"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hashbench" / "programs"


def test_names_of_programs_are_injective() -> None:
    texts = (["a", "b"], ["ab"], ["", "ab"], ["b", "a"], ["a", "b", ""])
    assert len({program_cache.program_key(parts) for parts in texts}) == len(texts)


def test_what_is_stored_is_loaded(folder: Path) -> None:
    assert program_cache.load(KEY) is None
    for program in (b"program", b"", b"another"):
        program_cache.store(KEY, program)
        assert program_cache.load(KEY) == program
    assert os.listdir(folder) == [KEY]  # noqa: PTH208
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["short", "flipped", "empty", "link", "pipe", "folder"])
def test_what_is_no_program_is_not_loaded(folder: Path, damage: str) -> None:
    program_cache.store(KEY, b"program")
    path = folder / KEY
    data = bytearray(path.read_bytes())
    path.unlink()
    if damage == "link":
        (folder / "other").write_bytes(data)
        path.symlink_to("other")
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "folder":
        path.mkdir()
    else:
        data[3] ^= 1
        path.write_bytes({"short": bytes(data[:-1]), "flipped": bytes(data), "empty": b""}[damage])
    assert program_cache.load(KEY) is None


def test_a_folder_of_others_is_not_used(folder: Path) -> None:
    program_cache.store(KEY, b"program")
    folder.chmod(0o777)
    assert program_cache.load(KEY) is None
    program_cache.store(KEY, b"another")
    folder.chmod(0o700)
    assert program_cache.load(KEY) == b"program"


@pytest.mark.parametrize("home", ["/proc/none", "relative", "~nobody-of-this-name"])
def test_where_nothing_can_be_kept_nothing_fails(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    program_cache.store(KEY, b"program")
    assert program_cache.load(KEY) is None
