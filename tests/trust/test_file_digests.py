"""Digests of whole files: those of hashlib, and of no file that changes meanwhile."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from model_folders import write

from hashbench.hashing.sources import ChangedWhileReadError
from hashbench.model.exclusions import Exclusions
from hashbench.model.folder import ListedFile, list_folder
from hashbench.trust.file_digests import file_digests


def listed(folder: Path) -> tuple[ListedFile, ...]:
    return list_folder(folder, Exclusions(())).files


def test_the_digests_are_those_of_hashlib(tmp_path: Path) -> None:
    sizes = [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20]
    write(tmp_path, {f"{number}": os.urandom(size) for number, size in enumerate(sizes)})
    files = listed(tmp_path)
    assert file_digests(files) == [hashlib.sha256(file.path.read_bytes()).digest() for file in files]
    assert file_digests([]) == []


@pytest.mark.parametrize("content", [b"", b"shorter", b"something longer", b"as long as"])
def test_a_file_that_is_not_what_was_listed_is_an_error(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, {"a": b"as long as", "b": bytes(1 << 20)})
    files = listed(tmp_path)
    os.utime(tmp_path / "a", ns=(0, 0))
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ChangedWhileReadError, match="a: the file"):
        file_digests(files)


def test_a_file_that_was_replaced_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"a": b"same", "b": b"same"})
    files = listed(tmp_path)
    (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises((ChangedWhileReadError, FileNotFoundError)):
        file_digests(files)
    (tmp_path / "a").unlink()
    os.mkfifo(tmp_path / "a")
    with pytest.raises(OSError, match="Not a regular file"):
        file_digests(files[:1])
