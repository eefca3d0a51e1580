"""Checkpoints that several ranks saved: one root a tensor, that of the unsharded file, and nothing is unpickled."""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import sharded_cases
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from safetensors.torch import save_file

import hashbench
from hashbench.experiments.rank_pool import RankPool
from hashbench.hashing.sources import ChangedWhileReadError
from hashbench.model.boxes import BoxError, FileBox, JoinedBoxes
from hashbench.model.contents import ModelError
from hashbench.model.dcp_metadata import DcpError, read_metadata
from hashbench.model.manifest import Manifest

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.covers("distributed")]


def tensors_of(path: Path) -> Manifest:
    return hashbench.manifest(path, only_tensors=True, chunk_size=128, kernel="hashlib")


@pytest.fixture
def unsharded(tmp_path: Path) -> Manifest:
    tensors = sharded_cases.network().state_dict()
    del tensors["head.weight"]  # as `save_parallel` does
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return tensors_of(tmp_path / "model.safetensors")


@pytest.mark.parametrize(("kind", "writer"), [("fsdp", "dcp"), ("tp", "dcp"), ("tp", "safetensors")])
def test_what_two_ranks_saved_is_the_unsharded_model(
    two_ranks: RankPool, tmp_path: Path, unsharded: Manifest, kind: str, writer: str
) -> None:
    folder = tmp_path / "saved"
    results = two_ranks.run(sharded_cases.save_parallel, kind, str(folder), writer)
    assert results == [None, None], results
    assert tensors_of(folder) == unsharded
    assert hashbench.verify(folder, unsharded, kernel="hashlib").ok


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["fsdp-tp", "hsdp"])
def test_what_four_ranks_saved_is_the_unsharded_model(
    four_ranks: RankPool, tmp_path: Path, unsharded: Manifest, kind: str
) -> None:
    folder = tmp_path / "saved"
    four_ranks.run(sharded_cases.save_parallel, kind, str(folder), "dcp")
    assert tensors_of(folder) == unsharded


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint that one process saved."""
    folder = tmp_path / "checkpoint"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch says that one process saves, and a later one what is deprecated
        state = {"a": torch.arange(24.0).reshape(6, 4), "n": 3, "b": torch.zeros(5)}
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def test_a_flipped_bit_is_found(saved: Path) -> None:
    expected = tensors_of(saved)
    (file,) = saved.glob("*.distcp")
    data = bytearray(file.read_bytes())
    place = data.index(torch.arange(24.0).numpy().tobytes())
    data[place + 5] ^= 1
    file.write_bytes(data)
    assert hashbench.verify(saved, expected, kernel="hashlib").differs == ("a",)


@pytest.mark.parametrize(
    ("name", "named"), [("model.safetensors", {"other", ".metadata/a", ".metadata/b"}), ("x.pt", {"a", "b"})]
)
def test_a_checkpoint_does_not_stand_for_other_weights_of_its_folder(saved: Path, name: str, named: set[str]) -> None:
    expected = tensors_of(saved)
    save_file({"other": torch.ones(2)}, saved / name)  # x.pt is no checkpoint, and no loader's default
    assert {tensor.name for tensor in tensors_of(saved).tensors} == named
    assert hashbench.verify(saved, expected, kernel="hashlib").ok == (name == "x.pt")


def test_all_bytes_of_a_checkpoint_are_covered_as_files(saved: Path) -> None:
    whole = hashbench.manifest(saved, kernel="hashlib")
    assert {entry.path for entry in whole.files} == {path.name for path in saved.iterdir()}
    assert not whole.tensors


def test_a_file_of_a_checkpoint_that_is_missing_or_cut_is_told(saved: Path) -> None:
    (file,) = saved.glob("*.distcp")
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(ModelError, match="bytes, not bytes"):
        tensors_of(saved)
    file.unlink()
    with pytest.raises(ModelError, match="which is not a file of the folder"):
        tensors_of(saved)


class Run:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return print, ("this must not run",)


def edited(saved: Path, edit: Callable[[Any], None]) -> bytes:
    """A checkpoint's metadata with a change."""
    metadata = pickle.loads((saved / ".metadata").read_bytes())
    edit(metadata)
    return pickle.dumps(metadata, protocol=4)


def another_file(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.relative_path = "../model.safetensors"


def fewer_boxes(metadata: Any) -> None:
    metadata.state_dict_metadata["a"].chunks.clear()


def box_twice(metadata: Any) -> None:
    chunks = metadata.state_dict_metadata["a"].chunks
    chunks.append(chunks[0])


def another_dtype(metadata: Any) -> None:
    metadata.state_dict_metadata["a"].properties.dtype = torch.int32


def larger(metadata: Any) -> None:
    metadata.state_dict_metadata["a"].size = torch.Size([1 << 40, 1 << 40])


def compressed(metadata: Any) -> None:
    for info in metadata.storage_data.values():
        info.transform_descriptors = ["zstd"]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (another_file, "which is not a file of the folder"),
        (fewer_boxes, "leave a gap at byte 0"),
        (box_twice, "overlap at byte"),
        (another_dtype, r"is said to be I32 \[6, 4\], but is F32 \[6, 4\] in its file"),
        (larger, "more than 2\\^60 bytes"),
        (compressed, "compressed or encrypted"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_metadata_that_does_not_fit_is_refused(saved: Path, edit: Callable[[Any], None], said: str) -> None:
    (saved / ".metadata").write_bytes(edited(saved, edit))
    with pytest.raises(ModelError, match=said):
        tensors_of(saved)


def test_nothing_of_the_metadata_is_run(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for hostile in (pickle.dumps(Run(), 4), edited(saved, lambda metadata: setattr(metadata, "planner_data", Run()))):
        (saved / ".metadata").write_bytes(hostile)
        with pytest.raises(ModelError, match=r"its pickle names 'builtins\.print'"):
            tensors_of(saved)
    assert not capsys.readouterr().out


def test_metadata_that_would_grow_without_end_is_refused() -> None:
    out = io.BytesIO()
    out.write(b"\x80\x04)\x94")
    for number in range(200):  # each tuple has the one before twice: to look at all of it would never end
        out.write(b"h%ch%c\x86\x94" % (number, number))
    out.write(b"}" + b"h\xc8" + b"K\x01s.")
    with pytest.raises(DcpError, match="a key that is neither text nor a box"):
        read_metadata(out.getvalue())


@given(position=st.integers(0, 1 << 16), value=st.integers(0, 255))
def test_any_byte_of_the_metadata_may_be_changed(position: int, value: int) -> None:
    if not DAMAGED:
        buffer = io.BytesIO()
        writer = pickle.Pickler(buffer, 4)
        writer.dump(
            dcp.Metadata(
                {
                    "a": dcp.TensorStorageMetadata(
                        dcp.metadata.TensorProperties(torch.float32),
                        torch.Size([2]),
                        [dcp.ChunkStorageMetadata(torch.Size([0]), torch.Size([2]))],
                    )
                }
            )
        )
        DAMAGED.append(buffer.getvalue())
    data = bytearray(DAMAGED[0])
    data[position % len(data)] = value
    with suppress(DcpError):  # and nothing else
        read_metadata(bytes(data))


DAMAGED: list[bytes] = []


@given(data=st.data())
def test_boxes_are_joined_in_the_order_of_the_elements(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 7), max_size=3)))
    whole = torch.arange(int(torch.Size(shape).numel()), dtype=torch.int32).reshape(shape)
    path = tmp_path_factory.mktemp("boxes") / "boxes"
    boxes, content = [], b""
    pieces = [(tuple(0 for _ in shape), whole)]
    for dimension in range(len(shape)):
        split = data.draw(st.integers(0, shape[dimension]))
        pieces = [
            (tuple(o + (start if d == dimension else 0) for d, o in enumerate(offsets)), part)
            for offsets, tensor in pieces
            for start, part in (
                (0, tensor.narrow(dimension, 0, split)),
                (split, tensor.narrow(dimension, split, shape[dimension] - split)),
            )
        ]
    for _, part in pieces:
        content += part.contiguous().numpy().tobytes()
    path.write_bytes(content)
    start = 0
    for offsets, part in pieces:
        boxes.append(FileBox(offsets, tuple(part.shape), path, start, path.stat()))
        start += 4 * part.numel()
    joined = JoinedBoxes(shape, 4, data.draw(st.permutations(boxes)))
    found = bytearray()
    while True:
        host = bytearray(data.draw(st.integers(1, 64)))
        count = joined.fill(memoryview(host))
        found += host[:count]
        if count < len(host):
            break
    assert bytes(found) == whole.numpy().tobytes()
    joined.check_unchanged()


def test_boxes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "boxes"
    path.write_bytes(bytes(16))
    box = FileBox((0,), (3,), path, 0, path.stat())
    for boxes, said in (
        ([box], "leave a gap at byte 12"),
        ([box, box._replace(offsets=(1,))], "overlap at byte 12"),
        ([box._replace(offsets=(2,))], "is not inside the shape"),
        ([box._replace(shape=(3, 1), offsets=(0, 0))], "is not inside the shape"),
    ):
        with pytest.raises(BoxError, match=said):
            JoinedBoxes((4,), 4, boxes)
    whole = JoinedBoxes((4,), 4, [box._replace(shape=(4,))])
    shutil.copy(path, tmp_path / "copy")
    (tmp_path / "copy").replace(path)
    with pytest.raises(ChangedWhileReadError):
        whole.fill(memoryview(bytearray(16)))
