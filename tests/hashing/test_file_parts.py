"""Parts of a file are hashed as the bytes that they join."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from boundaries import painted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hashbench.hashing.hasher import Hasher
from hashbench.hashing.sources import ChangedWhileReadError, FileParts, FileRange, Source
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

SIZE = 5000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parts") / "file"
    path.write_bytes(painted(SIZE).tobytes())
    return path


def hasher(piece_size: int = 256) -> Hasher:
    return Hasher(HashlibCpu(HashlibCpu.devices()[0]), 64, piece_size)


PARTS = st.lists(
    st.integers(0, SIZE).flatmap(lambda start: st.tuples(st.just(start), st.integers(0, SIZE - start))), max_size=8
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PARTS, st.sampled_from([64, 256, 1024, 1 << 20]))
def test_the_root_is_that_of_the_joined_bytes(file: Path, parts: list[tuple[int, int]], piece_size: int) -> None:
    data = file.read_bytes()
    joined = b"".join(data[offset : offset + nbytes] for offset, nbytes in parts)
    joining = FileParts(file, tuple(parts))
    assert joining.nbytes == len(joined)
    sources: list[Source] = [joining, FileRange(file, 3, 1000), FileParts(file, ((0, SIZE),))]
    contents = [joined, data[3:1003], data]
    assert hasher(piece_size).roots(sources) == [merkle_tree_hash(chunks_of(c, 64), "sha256") for c in contents]


def test_plain_digests(file: Path) -> None:
    data = file.read_bytes()
    (found,) = hasher().digests([FileParts(file, ((4990, 10), (0, 100)))])
    joined = data[4990:] + data[:100]
    assert found.hashes.tobytes() == hashlib.sha256(joined[:64]).digest() + hashlib.sha256(joined[64:]).digest()


def test_no_parts_are_no_bytes(file: Path) -> None:
    assert hasher().roots([FileParts(file, ())]) == [hashlib.sha256().digest()]


def test_a_file_that_changed_is_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    status = path.stat()
    path.write_bytes(b"after!")
    import os

    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    with pytest.raises(ChangedWhileReadError, match="was changed"):
        hasher().roots([FileParts(path, ((0, 1), (3, 2)), status)])
