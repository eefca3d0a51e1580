"""Models on disk: their parts are what their own libraries read, and invalid models are refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
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
from hashbench.hashing.sources import FileRange, change
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model.checkpoints import CheckpointError, OpenModel, Part, open_model
from hashbench.model.disk import NotHashedWarning
from hashbench.model.manifest import FileEntry, TensorEntry, parse_manifest
from hashbench.model.safetensors_header import SafetensorsError

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "b": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a.weight": np.ones((2, 2), np.float16),
    "a.10": np.array(7, np.int64),
    "a.9": np.empty((0, 5), np.uint8),
    "é": np.array([True, False]),
}
Described = dict[str, tuple[str | None, tuple[int, ...] | None, bytes]]

WANTED = {
    "a.10": ("I64", (), ARRAYS["a.10"].tobytes()),
    "a.9": ("U8", (0, 5), b""),
    "a.weight": ("F16", (2, 2), ARRAYS["a.weight"].tobytes()),
    "b": ("F32", (3, 4), ARRAYS["b"].tobytes()),
    "é": ("BOOL", (2,), b"\x01\x00"),
}


def bytes_of(part: Part) -> bytes:
    if not isinstance(part.source, FileRange):
        assert part.source.dtype == np.uint8
        assert part.source.ndim == 1
        return part.source.tobytes()
    with part.source.path.open("rb") as file:
        file.seek(part.source.offset)
        return file.read(part.source.nbytes)


def described(model: OpenModel) -> Described:
    """The parts by name, in their order, with their bytes."""
    names = [part.name for part in model.parts]
    assert names == sorted(set(names))
    found = {part.name: (part.dtype, part.shape, bytes_of(part)) for part in model.parts}
    assert [part.nbytes for part in model.parts] == [len(data) for _, _, data in found.values()]
    return found


def refused(path: Path, error: type[ValueError] = CheckpointError) -> str:
    """The line with which a model is refused; it names a file."""
    with pytest.raises(error) as caught:
        open_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path.parent) in message
    assert len(message) < 1000
    return message


def write_shards(folder: Path, weight_map: dict[str, Any] | None = None, **fields: Any) -> Path:
    """A model in two shards with an index; returns the index."""
    shards = {"model-1.safetensors": ["b", "é"], "model-2.safetensors": ["a.10", "a.9", "a.weight"]}
    for shard, names in shards.items():
        save_file({name: ARRAYS[name] for name in names}, folder / shard)
    if weight_map is None:
        weight_map = {name: shard for shard, names in shards.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map, **fields}))
    return index


def test_a_safetensors_file_has_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(ARRAYS, path)
    model = open_model(path)
    assert described(model) == WANTED
    assert open_model(str(path)).parts[0].entry(b"r") == TensorEntry("a.10", "I64", (), 8, b"r")
    assert model.ignored == ()


def test_a_folder_with_one_safetensors_file_has_its_tensors(tmp_path: Path) -> None:
    save_file(ARRAYS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert described(open_model(tmp_path)) == WANTED


def test_a_folder_with_an_index_has_the_tensors_of_its_shards(tmp_path: Path) -> None:
    index = write_shards(tmp_path, metadata={"total_size": 1.5e11, "quantization": {"bits": [4]}})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub.safetensors").mkdir()
    assert described(open_model(tmp_path)) == described(open_model(index)) == WANTED


def test_weights_beside_those_of_an_index_are_not_passed_over(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    save_file({"other": ARRAYS["b"]}, tmp_path / "Consolidated.SafeTensors")
    reason = "has weights that its index does not list ('Consolidated.SafeTensors'): name the index or one file"
    assert reason in refused(tmp_path).replace('"', "'")
    assert described(open_model(index)) == WANTED


def test_shards_may_be_links_as_in_a_download_cache(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    snapshot.mkdir()
    blobs.mkdir()
    write_shards(snapshot)
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(f"../blobs/{path.name}")
    assert described(open_model(snapshot)) == WANTED


def test_two_indexes_are_one_too_many(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    (tmp_path / "model.fp16.safetensors.index.json").write_bytes(index.read_bytes())
    message = refused(tmp_path)
    assert "model.fp16.safetensors.index.json" in message
    assert "name one of them" in message
    assert described(open_model(index)) == WANTED


@pytest.mark.parametrize(
    "shard",
    [
        "",
        ".",
        "..",
        "../model-1.safetensors",
        "./model-1.safetensors",
        "/model-1.safetensors",
        "sub/model-1.safetensors",
        "model-1.safetensors/",
        "model-1.safetensors\0",
        "..\\model-1.safetensors",
    ],
)
def test_a_shard_that_is_no_plain_name_is_refused(tmp_path: Path, shard: str) -> None:
    (tmp_path / "sub").mkdir()
    index = write_shards(tmp_path / "sub", {"b": shard})
    save_file({"b": ARRAYS["b"]}, tmp_path / "model-1.safetensors")
    assert "it must be the name of a file beside it" in refused(index)


@pytest.mark.parametrize(
    ("weight_map", "reason"),
    [
        ({"b": "model-1.safetensors"}, "has the tensor 'é' that model.safetensors.index.json does not list for it"),
        (
            {"b": "model-1.safetensors", "é": "model-1.safetensors", "c": "model-1.safetensors"},
            "model-1.safetensors lacks the tensor 'c' that model.safetensors.index.json lists for it",
        ),
        ({"b": "model-3.safetensors"}, "lists the shard 'model-3.safetensors', but there is no such file"),
        ({"b": "x" * 300}, "lists the shard 'xxx.*File name too long|but there is no such file"),
        ({"b": "."}, "it must be the name of a file beside it"),
        ({"b": 1}, "weight_map must map each tensor's name to a shard"),
        (["b"], "weight_map must map"),
        (1, "weight_map must map"),
    ],
)
def test_an_index_that_is_not_its_shards_is_refused(tmp_path: Path, weight_map: Any, reason: str) -> None:
    index = write_shards(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=reason):
        open_model(index)
    refused(tmp_path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[]", "weight_map must map"),
        (b'{"weight_map":{"a":"x","a":"y"}}', "occurs twice"),
        (b'{"weight_map":{},"metadata":' + b"[" * 100_000, "nest more than 8 deep"),
        (b'{"weight_map":{"a":"\\ud800"}}', "unpaired surrogate"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(data)
    message = refused(index)
    assert message.startswith(f"{index} is not a valid index: ")
    assert reason in message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_index_is_refused_or_names_the_same(tmp_path: Path, data: st.DataObject) -> None:
    index = write_shards(tmp_path)
    text = bytearray(index.read_bytes())
    start = data.draw(st.integers(0, len(text)))
    text[start : start + data.draw(st.integers(0, 4))] = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"/", b"../"])
    )
    index.write_bytes(text)
    try:
        model = open_model(index)
    except CheckpointError:
        refused(index)
    else:
        assert described(model) == WANTED


def test_a_damaged_shard_is_reported_by_its_name(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "model-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert str(shard) in refused(tmp_path, SafetensorsError)


def test_shards_that_cannot_be_read_can_be_told_and_passed_over(tmp_path: Path) -> None:
    index = write_shards(tmp_path)
    shard = tmp_path / "model-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    for path in (tmp_path, index):
        model = open_model(path, tolerant=True)
        assert described(model) == {name: WANTED[name] for name in ("b", "é")}
        assert model.problems == (refused(tmp_path, SafetensorsError),)
    shard.unlink()
    model = open_model(index, tolerant=True)
    assert described(model) == {name: WANTED[name] for name in ("b", "é")}
    assert model.problems == (refused(index),)
    save_file({"a.9": ARRAYS["a.9"], "more": ARRAYS["b"]}, shard)
    model = open_model(index, tolerant=True)
    assert [part.name for part in model.parts] == ["a.9", "b", "more", "é"]
    assert model.problems == (
        f"{shard} lacks the tensor 'a.10' that {index.name} lists for it",
        f"{shard} lacks the tensor 'a.weight' that {index.name} lists for it",
        f"{shard} has the tensor 'more' that {index.name} does not list for it",
    )


@pytest.mark.covers("torch")
def test_what_was_looked_at_is_known_when_it_is_hashed(tmp_path: Path, torch: Any) -> None:
    index = write_shards(tmp_path)
    save_file(ARRAYS, tmp_path / "model.safetensors")
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    (tmp_path / "file").write_bytes(b"")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(folder)
    for path, watched in (
        (index, [index]),
        (tmp_path / "model.safetensors", []),
        (tmp_path / "model.pt", [tmp_path / "model.pt"]),
        (tmp_path / "file", []),
        (folder, []),
    ):
        model = open_model(path)
        assert [part.path for part in model.watched] == watched
        looked_at = [part.source for part in model.parts if isinstance(part.source, FileRange)]
        assert looked_at
        for source in (*looked_at, *model.watched):
            assert source.status is not None
            assert change(source.status, source.path.stat()) is None


def write_folder(folder: Path) -> Described:
    """Writes a folder of files; returns its expected parts."""
    content = {
        "model.gguf": b"weights",
        "empty": b"",
        ".hidden/.config": b"x",
        "sub/deep/er.bin": b"no pickle",
        "é": b"y",
    }
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: (None, None, data) for name, data in content.items()}


def test_any_other_folder_has_every_file(tmp_path: Path) -> None:
    wanted = write_folder(tmp_path)
    model = open_model(tmp_path)
    assert described(model) == wanted
    assert model.parts[-1].entry(b"r") == FileEntry("é", 1, b"r")


def test_a_folder_with_several_safetensors_files_and_no_index_has_files(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(ARRAYS, tmp_path / name)
    assert [(part.name, part.dtype) for part in open_model(tmp_path).parts] == [
        ("a.safetensors", None),
        ("b.safetensors", None),
    ]


def test_files_can_be_left_out_of_a_folder(tmp_path: Path) -> None:
    wanted = write_folder(tmp_path)
    manifest = tmp_path / "sub" / "model.manifest.json"
    manifest.write_text("{}")
    assert described(open_model(tmp_path, exclude=[manifest, tmp_path / "nowhere"])) == wanted
    link = tmp_path / "link"
    link.symlink_to(manifest)
    assert described(open_model(tmp_path, exclude=[link])) == wanted
    assert set(described(open_model(tmp_path, exclude=[manifest]))) == {*wanted, "link"}
    assert set(described(open_model(tmp_path))) == {*wanted, "link", "sub/model.manifest.json"}


def test_a_link_within_the_folder_is_a_file(tmp_path: Path) -> None:
    wanted = write_folder(tmp_path)
    (tmp_path / "sub" / "link").symlink_to("../model.gguf")
    assert described(open_model(tmp_path)) == {**wanted, "sub/link": (None, None, b"weights")}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("../outside", "the link 'sub/link' leaves the folder"),
        ("/etc/hostname", "the link 'sub/link' (leaves the folder|is broken)"),
        ("../../outside", "the link 'sub/link' leaves the folder"),
        ("deep", "the link 'sub/link' leads to a folder"),
        ("..", "the link 'sub/link' leads to a folder"),
        ("nowhere", "the link 'sub/link' is broken"),
        ("link", "the link 'sub/link' is broken"),
    ],
)
def test_any_other_link_is_refused(tmp_path: Path, target: str, reason: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_folder(folder)
    (tmp_path / "outside").write_bytes(b"secret")
    if target == "../outside":  # by way of another link
        (folder / "outside").symlink_to("../outside")
        (folder / "sub" / "link").symlink_to(target)
        reason = f"{reason}|the link 'outside' leaves the folder"
    else:
        (folder / "sub" / "link").symlink_to(target)
    with pytest.raises(CheckpointError, match=reason):
        open_model(folder)


def test_a_folder_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    wanted = write_folder(folder)
    (tmp_path / "current").symlink_to("model")
    assert described(open_model(tmp_path / "current")) == wanted


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    assert "'pipe' is neither a file nor a folder" in refused(folder)
    assert "neither a file nor a folder" in refused(folder / "pipe")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"")
    assert "is not valid Unicode" in refused(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    assert "has no files" in refused(tmp_path / "model")


def test_any_other_file_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    assert described(open_model(path)) == {"model.gguf": (None, None, b"weights")}


def test_a_missing_model_is_reported_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_model(tmp_path / "nowhere")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.mark.covers("torch")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".PT"])
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
    wanted = described(open_model(tmp_path / "model.safetensors"))
    assert len(wanted) == len(state)
    assert described(open_model(tmp_path / f"model{suffix}")) == wanted


@pytest.mark.covers("torch")
def test_a_pytorch_checkpoint_has_the_tensors_within_it(tmp_path: Path, torch: Any) -> None:
    tied = torch.arange(4, dtype=torch.int16)
    rows = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    content = {
        "model": {"wte": tied, "lm_head": tied, "transposed": rows.T, "part": rows[1]},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(1)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 3,
        "nothing": {},
    }
    path = tmp_path / "model.pt"
    torch.save(content, path)
    model = open_model(path)
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    two = ("I16", (4,), np.arange(4, dtype=np.int16).tobytes())
    assert described(model) == {
        "model/lm_head": two,
        "model/part": ("F32", (3,), data[1].tobytes()),
        "model/transposed": ("F32", (3, 2), data.T.tobytes()),
        "model/wte": two,
        "optimizer/state[0]/exp_avg": ("F32", (1,), np.ones(1, np.float32).tobytes()),
    }
    assert model.ignored == ("epoch", "optimizer/param_groups[0]/lr", "optimizer/param_groups[0]/params[0]")


@pytest.mark.covers("torch")
def test_a_checkpoint_that_is_not_plain_tensors_is_refused(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save({"x": torch.eye(3).to_sparse()}, path)
    assert "the tensor 'x' is sparse" in refused(path)
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert "is not a PyTorch checkpoint in a zip archive" in refused(path)


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
    assert "PyTorch checkpoint" in refused(path)
    assert not target.exists()


def test_a_gguf_file_has_its_tensors(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    weights = np.arange(64, dtype=np.float32).reshape(2, 32)
    writer.add_tensor("plain", weights)
    writer.add_tensor("quantised", quantize(weights, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = hashbench.manifest(tmp_path / "model.gguf", kernel="hashlib")
    assert [(e.name, e.dtype, e.shape) for e in made.entries if isinstance(e, TensorEntry)] == [
        ("plain", "F32", (2, 32)),
        ("quantised", "GGML_Q8_0", (2, 32)),
    ]
    plain = merkle_tree_hash(chunks_of(weights.tobytes(), 4096), "sha256")
    assert made.by_name["plain"].root == plain
    assert parse_manifest(made.text()) == made
    assert hashbench.verify(tmp_path / "model.gguf", made, kernel="hashlib").ok


def test_a_gguf_file_that_cannot_be_read_is_a_plain_file_with_a_note(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    opened = open_model(path)
    assert [part.dtype for part in opened.parts] == [None]
    (note,) = opened.notes
    assert note.startswith("hashed as a plain file: ")
    with pytest.warns(NotHashedWarning, match="hashed as a plain file"):
        assert isinstance(hashbench.manifest(path, kernel="hashlib").entries[0], FileEntry)


def test_the_external_data_of_an_onnx_model_are_named_as_not_covered(tmp_path: Path) -> None:
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [64], bytes(256), raw=True)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "graph", [], [], [weights]))
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert open_model(path).notes == ("its data in 'weights.bin' are not covered: make the manifest of the folder",)
    assert open_model(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "an HTML page"),
    ],
)
def test_a_download_that_went_wrong_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"model.safetensors is {what}"):
        open_model(path)
