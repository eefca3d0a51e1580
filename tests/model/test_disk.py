"""The Python API of models on disk: arguments, results and errors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

import hashbench
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Kernel
from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model.manifest import Entry, FileEntry, TensorEntry
from hashbench.model.safetensors_header import read_header
from hashbench.model.sidecar import SidecarError

TENSORS: dict[str, npt.NDArray[Any]] = {"a": np.arange(5000, dtype=np.float32), "b": np.arange(7, dtype=np.int16)}
DTYPES = {"a": "F32", "b": "I16"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    return path


@pytest.fixture
def sha384() -> Kernel:
    return HashlibCpu(HashlibCpu.devices()[0], "sha384")


def entries(model: Path, chunk_size: int, algorithm: str) -> tuple[Entry, ...]:
    """What the manifest of the model has."""

    def root(data: bytes) -> bytes:
        return merkle_tree_hash(chunks_of(data, chunk_size), algorithm)

    frame = model.stat().st_size - sum(array.nbytes for array in TENSORS.values())
    return (
        *(TensorEntry(name, DTYPES[name], a.shape, a.nbytes, root(a.tobytes())) for name, a in TENSORS.items()),
        FileEntry(model.name, model.stat().st_size, root(model.read_bytes()[:frame]), frame),
    )


def test_a_manifest_has_the_roots_of_the_model(model: Path, sha384: Kernel) -> None:
    found = hashbench.manifest(model)
    assert (found.algorithm, found.chunk_size, found.entries) == ("sha256", 4096, entries(model, 4096, "sha256"))
    assert [(tensor.file, tensor.offset) for tensor in found.tensors] == [
        (model.name, tensor.offset) for tensor in read_header(model).tensors
    ]
    assert hashbench.manifest(str(model), kernel="hashlib", device="1-thread") == found
    found = hashbench.manifest(model, algorithm="sha384", chunk_size=128, kernel=sha384)
    assert (found.algorithm, found.chunk_size, found.entries) == ("sha384", 128, entries(model, 128, "sha384"))
    alone = hashbench.manifest(model, only_tensors=True)
    assert alone.entries == entries(model, 4096, "sha256")[:-1]
    assert {(tensor.file, tensor.offset) for tensor in alone.tensors} == {(None, None)}


def test_a_model_is_verified_against_a_manifest_or_its_file(model: Path, sha384: Kernel) -> None:
    expected = hashbench.manifest(model, algorithm="sha384", kernel=sha384)
    path = model.with_name("manifest.json")
    path.write_bytes(expected.text())
    for root in (None, expected.root, expected.root.hex(), expected.root.hex().upper()):
        assert hashbench.verify(model, expected, root=root, kernel=sha384).ok
        assert hashbench.verify(model, path, root=root, kernel=sha384).ok
    save_file(TENSORS | {"b": TENSORS["b"] + 1}, model)
    report = hashbench.verify(model, str(path), kernel=sha384)
    assert not report.ok
    assert (report.differs, report.damaged, report.damage) == (("b",), frozenset("b"), {})


def test_another_root_is_not_trusted(model: Path) -> None:
    expected = hashbench.manifest(model)
    path = model.with_name("manifest.json")
    path.write_bytes(expected.text())
    for root in (bytes(32), "00" * 32, "", b""):
        with pytest.raises(VerificationError, match="the manifest is not trusted: its root is "):
            hashbench.verify(model, expected, root=root)
        with pytest.raises(VerificationError, match=f"{path} is not trusted: its root is {expected.root.hex()}, not "):
            hashbench.verify(model, path, root=root)
    with pytest.raises(ValueError, match="the root 'xyz' is not accepted: write hexadecimal digits"):
        hashbench.verify(model, expected, root="xyz")


def test_what_is_ignored_in_a_folder_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    path = tmp_path / "manifest.json"
    (tmp_path / "notes").touch()
    notes: list[str] = []
    expected = hashbench.manifest(tmp_path, ignore=["notes"], notes=notes)
    assert ([one.name for one in expected.entries], notes) == (["config.json"], ["excluded: 'notes'"])
    assert expected.exclusions == (".DS_Store", ".cache/huggingface", ".git", "notes")
    path.write_bytes(expected.text())
    assert hashbench.verify(tmp_path, path).ok
    (tmp_path / "more").touch()
    assert hashbench.verify(tmp_path, path).extra == ("more",)
    assert hashbench.verify(tmp_path, expected).extra == ("manifest.json", "more")
    report = hashbench.verify(tmp_path, expected, extra="warn")
    assert (report.ok, report.ignored) == (True, ("manifest.json", "more"))
    with pytest.raises(ValueError, match="'no' is not accepted for extra files: accepted are fail, warn, ignore"):
        hashbench.verify(tmp_path, expected, extra=cast(Any, "no"))


def test_an_older_manifest_spares_what_did_not_change(model: Path) -> None:
    older = hashbench.manifest(model, algorithm="sha384", chunk_size=64)
    hashed: list[int | None] = []

    def progress(done: int, total: int | None) -> None:
        hashed.append(total)

    assert hashbench.manifest(model, older=older, progress=progress) == older
    assert hashbench.manifest(model, older=older, changed=["b"], progress=progress) == older
    assert set(hashed) == {0, TENSORS["b"].nbytes}
    with pytest.raises(ValueError, match="the older manifest's chunk size is 64, not 4096"):
        hashbench.manifest(model, older=older, chunk_size=4096)
    with pytest.raises(ValueError, match="the older manifest's algorithm is sha384, not sha256"):
        hashbench.manifest(model, older=older, algorithm="sha256")
    with pytest.raises(ValueError, match="the model has no tensor or file 'c' that could have changed"):
        hashbench.manifest(model, older=older, changed=["c"])
    with pytest.raises(ValueError, match="changed names need an older manifest"):
        hashbench.manifest(model, changed=["b"])
    with pytest.raises(ValueError, match="there can be no older manifest"):
        hashbench.manifest(model, older=older, leaves=model.with_name("leaves"))


def test_leaf_hashes_locate_damage(model: Path) -> None:
    leaves = model.with_name("leaves")
    expected = hashbench.manifest(model, leaves=leaves)
    changed = TENSORS["a"].copy()
    changed[[0, 1024, 4999]] += 1
    save_file(TENSORS | {"a": changed}, model)
    report = hashbench.verify(model, expected, leaves=leaves)
    assert report.damage == {"a": (range(2), range(4, 5))}
    os.truncate(leaves, 100)
    report = hashbench.verify(model, expected, leaves=leaves)
    assert (report.differs, dict(report.damage)) == (("a",), {})
    (problem,) = report.problems
    assert problem.startswith("cannot tell which chunks differ: ")
    assert str(report).splitlines() == ["differs: a: other bytes", problem]


def test_leaf_hashes_are_no_file_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    expected = hashbench.manifest(tmp_path)
    for path in (tmp_path / "leaves", tmp_path / ".." / tmp_path.name / "leaves"):
        with pytest.raises(SidecarError, match="would be a file of the model"):
            hashbench.manifest(tmp_path, leaves=path)
        with pytest.raises(SidecarError, match="would be a file of the model"):
            hashbench.verify(tmp_path, expected, leaves=path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_model_that_is_not_valid_is_not_verified(model: Path) -> None:
    expected = hashbench.manifest(model)
    os.truncate(model, 100)
    report = hashbench.verify(model, expected)
    assert (report.ok, report.differs) == (False, (model.name,))
    with pytest.raises(VerificationError, match=r"no file of .* has tensors that can be read"):
        hashbench.verify(model, expected.of_component(""))


def test_a_kernel_of_another_algorithm_is_refused(model: Path, sha384: Kernel) -> None:
    expected = hashbench.manifest(model)
    for call in (hashbench.manifest, lambda path, **options: hashbench.verify(path, expected, **options)):
        with pytest.raises(ValueError, match="the kernel is hashlib for sha384 on 1-thread, not for sha256"):
            call(model, kernel=sha384)
