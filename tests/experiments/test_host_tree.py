"""hashlib's trees in processes: the same roots as the reference's, whatever the file's length."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashbench.experiments.host_tree import PIECE_CHUNKS, HostTree, processes_of
from hashbench.kernels import ALGORITHMS, kernel_class
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

PIECE = PIECE_CHUNKS * 64
LENGTHS = (0, 1, 64, 65, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 65)


@pytest.fixture(scope="module", params=list(ALGORITHMS))
def host(request: pytest.FixtureRequest) -> Iterator[HostTree]:
    with HostTree(2, request.param, 64) as started:
        yield started


def test_roots_are_those_of_the_reference(host: HostTree, tmp_path: Path) -> None:
    paths = []
    for length in LENGTHS:
        paths.append(tmp_path / str(length))
        paths[-1].write_bytes(os.urandom(length))
    assert host.roots(paths) == [merkle_tree_hash(chunks_of(p.read_bytes(), 64), host.algorithm) for p in paths]


def test_nodes_are_the_roots_of_pieces(host: HostTree, tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = os.urandom(2 * PIECE + 5)
    path.write_bytes(data)
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    assert host.nodes([path]) == [[merkle_tree_hash(chunks_of(piece, 64), host.algorithm) for piece in pieces]]


def test_a_file_that_changed_has_another_root(host: HostTree, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PIECE))
    (before,) = host.roots([path])
    path.write_bytes(bytes(2 * PIECE - 1) + b"1")
    assert host.roots([path]) != [before]


def test_a_missing_file_is_an_error(host: HostTree, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        host.roots([tmp_path / "missing"])


def test_chunk_size_is_checked() -> None:
    with pytest.raises(ValueError, match="chunk size 100 is not accepted"):
        HostTree(1, "sha256", 100)


def test_processes_of_hashlibs_devices() -> None:
    assert processes_of(kernel_class("hashlib").devices()[0]) == 1
