"""No stock loader gets other tensors than were verified, whatever was done to a model's files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf_files import Tensor, gguf_file
from gguf_files import header as gguf_header
from hypothesis import given
from hypothesis import strategies as st
from model_folders import index_of, safetensors_file, write
from profiles import examples
from pytorch_files import archive, checkpoint, pickled, stock_loads, tensor
from safetensors.numpy import load_file

import hashbench
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import Manifest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

pytestmark = pytest.mark.covers("torch")

DATA = hashlib.shake_128(b"weights").digest(200)
FILES = {
    "1.safetensors": safetensors_file({"a": DATA[:70], "b": DATA[70:71]}),
    "2.safetensors": safetensors_file({"c": DATA[71:], "d": b""}),
    "model.safetensors.index.json": index_of({"1.safetensors": ["a", "b"], "2.safetensors": ["c", "d"]}),
    "model.gguf": gguf_file(gguf_header([Tensor("g", (16,), 24), Tensor("h", (8,), 24, 32)]), DATA[:40]),
    "model.pt": archive(checkpoint(pickled(t=tensor(), turned=tensor(shape=(2, 2), stride=(1, 2))))),
    "config.json": b'{"layers":2}',
}
Loaded = Mapping[str, object]


def by_stock_loaders(folder: Path) -> dict[str, Loaded]:
    """What each stock loader gets from each file that it accepts."""
    loaded: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".safetensors":
                loaded[path.name] = {name: (a.dtype, a.shape, a.tobytes()) for name, a in load_file(path).items()}
            elif path.suffix == ".gguf":
                reader = gguf.GGUFReader(path)
                loaded[path.name] = {
                    t.name: (t.tensor_type, t.shape.tolist(), t.data.tobytes()) for t in reader.tensors
                }
        except Exception:  # whatever a loader raises, it got nothing
            continue
        if path.suffix == ".pt":
            loaded |= {f"{path.name}, {way}": found for way, found in stock_loads(path).items() if found is not None}
    return loaded


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Manifest, Manifest, dict[str, Loaded]]:
    """A good model, a folder for bad ones, the good one's manifests, and what loaders get from it."""
    good = write(tmp_path_factory.mktemp("loaders") / "good", FILES)
    whole = hashbench.manifest(good, kernel="hashlib")
    alone = hashbench.manifest(good, kernel="hashlib", only_tensors=True)
    loaded = by_stock_loaders(good)
    assert len(loaded) >= 4
    return good, good.with_name("bad"), whole, alone, loaded


@st.composite
def damages(draw: st.DrawFn) -> dict[str, bytes]:
    """The files, some of them changed, exchanged, renamed, removed or added."""
    files = dict(FILES)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        data, other = files[name], draw(st.sampled_from(sorted(files)))
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 8)))
        match draw(st.sampled_from(["splice", "flip", "exchange", "rename", "remove", "append", "copy"])):
            case "splice":
                files[name] = data[:start] + draw(st.binary(max_size=8)) + data[stop:]
            case "flip" if start < len(data):
                files[name] = data[:start] + bytes([data[start] ^ 1 << draw(st.integers(0, 7))]) + data[start + 1 :]
            case "exchange":
                files[name], files[other] = files[other], data
            case "rename":
                files[draw(st.sampled_from(["Model.safetensors", "pytorch_model.bin", "x.pt"]))] = files.pop(name)
            case "remove" if len(files) > 1:
                del files[name]
            case "append":
                files[name] = data + data[start:stop]
            case "copy":
                files[f"{start}.safetensors"] = data
    return files


@examples(60)
@given(files=damages())
def test_a_folder_is_verified_only_if_every_byte_is_the_same(folders: Any, files: dict[str, bytes]) -> None:
    _, bad, whole, alone, loaded = folders
    shutil.rmtree(bad, ignore_errors=True)
    write(bad, files)
    assert hashbench.verify(bad, whole, kernel="hashlib").ok == (files == FILES)
    try:
        verified = hashbench.verify(bad, alone, kernel="hashlib").ok
    except VerificationError:
        return
    if verified:  # by their names, wherever they are: shards may be exchanged
        expected = [item for tensors in loaded.values() for item in tensors.items()]
        for place, tensors in by_stock_loaders(bad).items():
            assert all(item in expected for item in tensors.items()), place
