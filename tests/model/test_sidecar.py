"""Sidecars: their content, atomic writing, and strict reading."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from hashbench.hashing.hasher import Hasher
from hashbench.hashing.sources import FileRange
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, leaf_hash
from hashbench.model.manifest import FileEntry, Manifest
from hashbench.model.sidecar import SidecarError, SidecarWriter, is_sidecar, opened_sidecar

CHUNK_SIZE = 128
FILES = {"a": b"", "b\n": b"x", "sub/c": hashlib.shake_128(b"c").digest(10_000), "é": bytes(CHUNK_SIZE)}


def write(folder: Path, path: Path, algorithm: str = "sha256") -> Manifest:
    """Writes files and the sidecar of their manifest, in pieces of two chunks."""
    sources = [FileRange(folder / str(number), 0, len(data)) for number, data in enumerate(FILES.values())]
    for source, data in zip(sources, FILES.values(), strict=True):
        source.path.write_bytes(data)
    hasher = Hasher(HashlibCpu(HashlibCpu.devices()[0], algorithm), CHUNK_SIZE, 2 * CHUNK_SIZE)
    sizes = [(name, len(data)) for name, data in FILES.items()]
    with SidecarWriter(path, sizes, algorithm, CHUNK_SIZE) as writer:
        roots = hasher.roots(sources, on_leaves=writer.add)
        entries = [FileEntry(name, size, root) for (name, size), root in zip(sizes, roots, strict=True)]
        manifest = Manifest(algorithm, CHUNK_SIZE, tuple(entries))
        writer.finish(manifest.root)
    return manifest


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_it_is_a_safetensors_file_of_all_leaf_hashes(algorithm: str, tmp_path: Path) -> None:
    path = tmp_path / "leaves"
    manifest = write(tmp_path, path, algorithm)
    with safe_open(path, "np") as file:
        assert file.metadata() == {"algorithm": algorithm, "chunk_size": "128", "root": manifest.root.hex()}
    tensors = load_file(path)
    assert tensors.keys() == FILES.keys()
    with opened_sidecar(path, manifest) as sidecar:
        for name, data in FILES.items():
            expected = [leaf_hash(chunk, algorithm) for chunk in chunks_of(data, CHUNK_SIZE)]
            assert list(map(bytes, tensors[name])) == expected
            sidecar.check(name)
            assert list(map(bytes, sidecar.leaves(name))) == expected
            assert list(map(bytes, sidecar.leaves(name, 1, 3))) == expected[1:4]
            assert sidecar.leaves(name).shape == (len(expected), hashlib.new(algorithm).digest_size)
    assert is_sidecar(path)


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_that_is_not_finished_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "leaves"
    path.write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt), SidecarWriter(path, [("a", 100)], "sha256", 64):
        raise KeyboardInterrupt
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot be written: No such file or directory: '.*nowhere/leaves'"):
        SidecarWriter(tmp_path / "nowhere" / "leaves", [("a", 100)], "sha256", 64)
    (tmp_path / "folder").mkdir()
    with (
        SidecarWriter(tmp_path / "folder", [], "sha256", 64) as writer,
        pytest.raises(OSError, match=r"cannot be written: Is a directory: '.*folder'"),
    ):
        writer.finish(bytes(32))
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


def test_a_name_that_safetensors_keeps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="__metadata__ cannot have leaf hashes"):
        SidecarWriter(tmp_path / "leaves", [("__metadata__", 100)], "sha256", 64)
    assert list(tmp_path.iterdir()) == []


def test_damaged_leaf_hashes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "leaves"
    manifest = write(tmp_path, path)
    with path.open("r+b") as file:
        file.seek(-40, 2)  # the last leaf but one: the last of sub/c
        byte = file.read(1)
        file.seek(-40, 2)
        file.write(bytes([byte[0] ^ 1]))
    with opened_sidecar(path, manifest) as sidecar:
        sidecar.check("é")
        with pytest.raises(SidecarError, match="leaves is damaged: the leaf hashes of 'sub/c' do not have its root"):
            sidecar.check("sub/c")


def open_and_close(path: Path, manifest: Manifest) -> None:
    with opened_sidecar(path, manifest):
        pass


def test_what_is_not_the_manifests_sidecar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "leaves"
    manifest = write(tmp_path, path)
    other = Manifest("sha256", CHUNK_SIZE, manifest.entries[:1])
    with pytest.raises(SidecarError, match="not the sidecar of this manifest: its metadata has another root, or none"):
        open_and_close(path, other)

    metadata = {"root": manifest.root.hex()}
    tensors = load_file(path)
    for changed in (
        {"sub/c": tensors["sub/c"][:-1]},
        {"sub/c": tensors["sub/c"].view(np.int8)},
        {"sub/c": tensors["sub/c"].reshape(-1)},
        {"more": tensors["sub/c"]},
    ):
        save_file(tensors | changed, path, metadata)
        (name,) = changed
        with pytest.raises(SidecarError, match=f"'{name}' is missing, extra or of another shape"):
            open_and_close(path, manifest)
    del tensors["sub/c"]
    save_file(tensors, path, metadata)
    with pytest.raises(SidecarError, match="'sub/c' is missing, extra or of another shape"):
        open_and_close(path, manifest)

    save_file(tensors, path)
    assert not is_sidecar(path)
    path.write_bytes(b"no safetensors file")
    assert not is_sidecar(path)
    with pytest.raises(ValueError, match="not a valid safetensors file"):
        open_and_close(path, manifest)
