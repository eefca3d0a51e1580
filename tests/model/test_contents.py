"""What a model on disk consists of: every byte of every file, in tensors as their own libraries read them."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import hashbench
from hashbench.hashing.sources import FileParts, FileRange
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model.contents import Contents, ModelError, Part, read_contents
from hashbench.model.exclusions import Exclusions
from hashbench.model.manifest import FileEntry, TensorEntry, parse_manifest

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "b": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.weight": np.ones((2, 2), np.float16),
    "a.10": np.array(7, np.int64),
    "a.9": np.empty((0, 5), np.uint8),
    "é": np.array([True, False]),
}
WANTED = {
    "a.10": ("I64", (), ARRAYS["a.10"].tobytes()),
    "a.9": ("U8", (0, 5), b""),
    "a.weight": ("F16", (2, 2), ARRAYS["a.weight"].tobytes()),
    "b": ("F32", (3, 4), ARRAYS["b"].tobytes()),
    "é": ("BOOL", (2,), b"\x01\x00"),
}
SHARDS = {"model-1.safetensors": ["b", "é"], "model-2.safetensors": ["a.10", "a.9", "a.weight"]}
WEIGHT_MAP = {name: shard for shard, names in SHARDS.items() for name in names}


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def bytes_of(part: Part) -> bytes:
    source = part.source
    if isinstance(source, np.ndarray):
        assert source.dtype == np.uint8
        assert source.ndim == 1
        return source.tobytes()
    assert isinstance(source, (FileRange, FileParts))
    data = source.path.read_bytes()
    parts = source.parts if isinstance(source, FileParts) else ((source.offset, source.nbytes),)
    return b"".join(data[offset : offset + nbytes] for offset, nbytes in parts)


def contents_of(path: Path) -> Contents:
    """The contents, of which every byte of every file is in one part."""
    contents = read_contents(path, Exclusions(()))
    for part in contents.parts:
        if isinstance(part.entry, FileEntry):
            data = contents.files[part.entry.path].path.read_bytes()
            ranges = [
                (one.entry.offset, one.entry.nbytes)
                for one in contents.parts
                if isinstance(one.entry, TensorEntry)
                if one.entry.file == part.entry.path and one.entry.offset is not None
            ]
            rest = bytearray(data)
            for offset, nbytes in sorted(set(ranges), reverse=True):
                assert offset is not None
                del rest[offset : offset + nbytes]
            assert bytes_of(part) == rest
            assert part.entry.nbytes == len(data)
            assert part.entry.hashed == len(rest)
    assert {part.entry.name for part in contents.parts if isinstance(part.entry, FileEntry)} == contents.files.keys()
    return contents


def tensors_of(contents: Contents) -> Mapping[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        part.entry.name: (part.entry.dtype, part.entry.shape, bytes_of(part))
        for part in contents.parts
        if isinstance(part.entry, TensorEntry)
    }


def write_shards(folder: Path, weight_map: dict[str, Any] = WEIGHT_MAP, **fields: Any) -> Path:
    """A model in two shards with an index; returns the index."""
    for shard, names in SHARDS.items():
        save_file({name: ARRAYS[name] for name in names}, folder / shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map, **fields}))
    return index


def test_a_safetensors_file_by_itself_and_in_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path)
    for model in (path, tmp_path):
        contents = contents_of(model)
        assert tensors_of(contents) == WANTED
        assert (list(contents.files), contents.notes, contents.problems) == (["model.safetensors"], (), ())


def test_an_index_has_its_shards_and_a_folder_everything(tmp_path: Path) -> None:
    index = write_shards(tmp_path, metadata={"total_size": 1.5e3})
    (tmp_path / "config.json").write_text("{}")
    save_file({"stray": ARRAYS["b"]}, tmp_path / "stray.safetensors")
    contents = contents_of(index)
    assert tensors_of(contents) == WANTED
    assert contents.files.keys() == {index.name, *SHARDS}
    assert contents.notes == (
        "only the index and the files that it names are covered: name the folder to cover configuration and code",
    )
    contents = contents_of(tmp_path)
    assert tensors_of(contents) == {**WANTED, "stray.safetensors/stray": WANTED["b"]}
    assert contents.files.keys() == {index.name, "config.json", "stray.safetensors", *SHARDS}
    assert (contents.notes, contents.problems) == ((), ())


def test_a_snapshot_in_a_cache_of_hugging_face(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_shards(blobs)
    for number, path in enumerate(list(blobs.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    for model in (snapshot, snapshot / "model.safetensors.index.json"):
        assert tensors_of(contents_of(model)) == WANTED
        assert contents_of(model).problems == ()


@pytest.mark.parametrize(
    ("weight_map", "note"),
    [
        (WEIGHT_MAP | {"more": "model-1.safetensors"}, "lists tensors that are not where it says: 'more'"),
        (WEIGHT_MAP | {"b": "model-2.safetensors"}, "lists tensors that are not where it says: 'b'"),
        (
            {name: shard for name, shard in WEIGHT_MAP.items() if name != "é"},
            "does not list all tensors of its files; covered too: 'é'",
        ),
    ],
)
def test_an_index_that_is_not_its_shards_is_noted(tmp_path: Path, weight_map: dict[str, str], note: str) -> None:
    write_shards(tmp_path, weight_map)
    contents = contents_of(tmp_path)
    assert tensors_of(contents) == WANTED
    assert contents.notes[0] == f"'model.safetensors.index.json' {note}"


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"weight_map":[]}', b'{"weight_map":{"a":1}}', b'{"weight_map":{"a":"../b"}}', b"\xff"]
)
def test_an_index_that_is_none_is_a_plain_file_with_a_note(tmp_path: Path, text: bytes) -> None:
    index = write_shards(tmp_path)
    index.write_bytes(text)
    for model in (index, tmp_path):
        contents = contents_of(model)
        assert contents.notes[0].startswith("'model.safetensors.index.json': hashed as a plain file: ")
        assert "\n" not in contents.notes[0]
    assert {name.partition("/")[2] for name in tensors_of(contents)} == WANTED.keys()


def test_a_shard_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "model-2.safetensors").unlink()
    for model in (tmp_path, index):
        contents = contents_of(model)
        assert contents.problems == (
            "'model.safetensors.index.json' names 'model-2.safetensors', and there is no such file",
        )
        assert tensors_of(contents) == {name: WANTED[name] for name in ("b", "é")}
        with pytest.raises(ModelError, match="and there is no such file"):
            hashbench.manifest(model)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_an_index_leaves_every_byte_covered(tmp_path: Path, data: st.DataObject) -> None:
    index = write_shards(tmp_path)
    text = bytearray(index.read_bytes())
    start = data.draw(st.integers(0, len(text)))
    text[start : start + data.draw(st.integers(0, 4))] = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"/", b"../"])
    )
    index.write_bytes(text)
    assert sorted(tensors_of(contents_of(tmp_path)).values()) == sorted(WANTED.values())
    assert contents_of(index).files.keys() <= {index.name, *SHARDS}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n", "it is a Git LFS pointer, "),
        (b"<!DOCTYPE html><html>Not found</html>", "it is an HTML page"),
        (b"weights", ""),
        (b"", ""),
    ],
)
@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.gguf", "model.pt", "pytorch_model.bin", "x.ckpt", "x.PTH"]
)
def test_what_is_not_what_its_name_promises_is_a_plain_file(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    contents = contents_of(tmp_path)
    assert [part.entry for part in contents.parts] == [FileEntry(name, len(content), b"")]
    (note,) = contents.notes
    assert note.startswith(f"'{name}': hashed as a plain file: {why}")
    assert "\n" not in note
    alone = read_contents(tmp_path, Exclusions(()), only_tensors=True)
    assert alone.parts == ()
    assert alone.notes == (note.replace("hashed as a plain file", "not covered"),)


@pytest.mark.parametrize("place", ["folder", "index"])
def test_of_tensors_alone_nothing_is_said_to_be_covered_that_is_not(tmp_path: Path, place: str) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "model-2.safetensors").write_bytes(b"no tensors")
    notes: list[str] = []
    model = index if place == "index" else tmp_path
    manifest = hashbench.manifest(model, kernel="hashlib", only_tensors=True, notes=notes)
    assert {tensor.name for tensor in manifest.tensors} == {"b", "é"}
    assert manifest.files == ()
    (note,) = notes
    assert note.startswith("'model-2.safetensors': not covered: ")


def test_a_name_decides_the_format_and_not_what_a_link_leads_to(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "weights")
    (tmp_path / "model.safetensors").symlink_to("weights")
    contents = contents_of(tmp_path)
    assert tensors_of(contents) == WANTED
    assert [part.entry.name for part in contents.parts if isinstance(part.source, FileRange)][-1] == "weights"


@pytest.mark.covers("torch")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".PT"])
def test_a_pytorch_checkpoint_has_the_tensors_of_its_safetensors_file(tmp_path: Path, torch: Any, suffix: str) -> None:
    from safetensors.torch import save_file as save_torch

    from hashbench.model.dtypes import TORCH_NAMES

    generator = torch.Generator().manual_seed(5)
    state = {
        name: torch.randint(0, 2, (3, 16), dtype=torch.uint8, generator=generator).view(getattr(torch, name))
        for name in TORCH_NAMES
        if hasattr(torch, name)
    }
    state |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "parameter": torch.nn.Parameter(torch.ones(2))}
    torch.save(state, tmp_path / f"model{suffix}")
    save_torch({name: value.detach() for name, value in state.items()}, tmp_path / "model.safetensors")
    wanted = tensors_of(contents_of(tmp_path / "model.safetensors"))
    assert len(wanted) == len(state)
    assert tensors_of(contents_of(tmp_path / f"model{suffix}")) == wanted


@pytest.mark.covers("torch")
def test_views_of_one_storage_are_tensors_of_which_each_byte_is_in_one_range(tmp_path: Path, torch: Any) -> None:
    rows = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    path = tmp_path / "model.pt"
    torch.save({"rows": rows, "tied": rows, "part": rows[1], "first": rows[0], "turned": rows.T, "epoch": 3}, path)
    contents = contents_of(path)
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert tensors_of(contents) == {
        "rows": ("F32", (2, 3), data.tobytes()),
        "tied": ("F32", (2, 3), data.tobytes()),
        "part": ("F32", (3,), data[1].tobytes()),
        "first": ("F32", (3,), data[0].tobytes()),
        "turned": ("F32", (3, 2), data.T.tobytes()),
    }
    entries = {part.entry.name: part.entry for part in contents.parts if isinstance(part.entry, TensorEntry)}
    assert entries["rows"].offset == entries["tied"].offset is not None
    assert [entries[name].offset for name in ("part", "first", "turned")] == [None] * 3
    made = hashbench.manifest(path, kernel="hashlib")
    assert made.by_name["turned"].root == merkle_tree_hash(chunks_of(data.T.tobytes(), 4096), "sha256")
    assert hashbench.verify(path, made, kernel="hashlib").ok


@pytest.mark.covers("torch")
def test_a_checkpoint_that_is_not_plain_tensors_is_a_plain_file(tmp_path: Path, torch: Any) -> None:
    for value, new, why in (
        (torch.eye(3).to_sparse(), True, "the tensor 'x' is sparse"),
        (
            torch.ones(2),
            False,
            "the format of before PyTorch 1.6 is not read: load it and save it again",
        ),
    ):
        torch.save({"x": value}, tmp_path / "model.pt", _use_new_zipfile_serialization=new)
        contents = contents_of(tmp_path)
        assert tensors_of(contents) == {}
        assert why in contents.notes[0]


class Payload:
    """What a pickle would run if it were let."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._target),)


@pytest.mark.covers("torch")
@pytest.mark.parametrize("how", ["torch", "before-1.6", "pickle", "archive"])
def test_nothing_that_a_checkpoint_holds_is_executed(tmp_path: Path, torch: Any, how: str) -> None:
    path, target = tmp_path / "model.bin", tmp_path / "executed"
    content = {"a": torch.ones(2), "b": Payload(target)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content["b"]))
    elif how == "archive":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("model/data.pkl", pickle.dumps(content["b"], protocol=2))
            file.writestr("model/version", "3")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    assert "hashed as a plain file: " in contents_of(tmp_path).notes[0]
    assert hashbench.verify(tmp_path, hashbench.manifest(tmp_path, kernel="hashlib"), kernel="hashlib").ok
    assert not target.exists()


def test_memory_for_views_is_bounded_over_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_files import archive, checkpoint, pickled, tensor

    for name in ("1.pt", "2.pt", "3.pt"):
        (tmp_path / name).write_bytes(archive(checkpoint(pickled(t=tensor(shape=(2, 2), stride=(1, 2))))))
    monkeypatch.setattr("hashbench.model.contents.MAX_GATHERED", 40)
    contents = contents_of(tmp_path)
    assert tensors_of(contents).keys() == {"1.pt/t", "2.pt/t"}
    assert "larger than the file or 8 bytes: save them with contiguous()" in contents.notes[0]


def test_a_gguf_file_has_its_tensors(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    weights = np.arange(64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("plain", weights)
    writer.add_tensor("quantised", quantize(weights, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [kind[:2] for kind in tensors_of(contents_of(tmp_path)).values()] == [
        ("F32", (2, 32)),
        ("GGML_Q8_0", (2, 32)),
    ]
    made = hashbench.manifest(tmp_path / "model.gguf", kernel="hashlib")
    assert made.by_name["plain"].root == merkle_tree_hash(chunks_of(weights.tobytes(), 4096), "sha256")
    assert parse_manifest(made.text()) == made
    assert hashbench.verify(tmp_path / "model.gguf", made, kernel="hashlib").ok


def test_the_external_data_of_an_onnx_model_are_covered_in_its_folder_alone(tmp_path: Path) -> None:
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [64], bytes(256), raw=True)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], [weights]))
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert contents_of(path).notes == (
        "only this file is covered: name the folder to cover all of the model",
        "not covered: 'weights.bin', where 'model.onnx' keeps data",
    )
    contents = contents_of(tmp_path)
    assert contents.files.keys() == {"model.onnx", "weights.bin"}
    assert [note for note in contents.notes if "not covered" in note] == []


def test_a_missing_or_empty_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        hashbench.manifest(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="has no bytes: there is nothing to hash"):
        hashbench.manifest(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ModelError, match="has no bytes: there is nothing to hash"):
        hashbench.manifest(tmp_path)
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(ModelError, match="has no tensors: there is nothing to hash"):
        hashbench.manifest(tmp_path, only_tensors=True)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ModelError, match="fifo is neither a file nor a folder"):
        hashbench.manifest(tmp_path / "fifo")
