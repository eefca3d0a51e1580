"""PyTorch checkpoints: the tensors are those that torch.load finds, without PyTorch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_files import archive, checkpoint, described, our_tensors, pickled, stock_loads, storage, tensor

from hashbench.hashing.sources import FileRange, change
from hashbench.model import pytorch_checkpoint
from hashbench.model.dtypes import TORCH_NAMES
from hashbench.model.pickle_tensors import read_pickle
from hashbench.model.pytorch_checkpoint import NotAPyTorchArchive, PyTorchError, read_checkpoint


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def check_as_pytorch_loads_it(path: Path) -> None:
    ours = our_tensors(path)
    for way, theirs in stock_loads(path).items():
        assert ours == theirs, way


@pytest.mark.covers("torch")
def test_every_dtype(tmp_path: Path, torch: Any) -> None:
    generator = torch.Generator().manual_seed(5)
    values = torch.randint(0, 2, (3, 16), dtype=torch.uint8, generator=generator)
    dtypes = {name: getattr(torch, name) for name in TORCH_NAMES if hasattr(torch, name)}
    content = {name: values.clone().view(dtype) for name, dtype in dtypes.items()}
    content |= {f"{name} transposed": tensor.T for name, tensor in content.items()}
    path = tmp_path / "model.pt"
    torch.save(content, path)
    check_as_pytorch_loads_it(path)
    assert {tensor.dtype for tensor in read_checkpoint(path).tensors} == {TORCH_NAMES[name] for name in dtypes}


@pytest.mark.covers("torch")
def test_a_module_and_its_optimizer(tmp_path: Path, torch: Any) -> None:
    model = torch.nn.TransformerEncoderLayer(8, 2, 16)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 3, 8)).sum().backward()
    optimizer.step()
    path = tmp_path / "model.pt"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    check_as_pytorch_loads_it(path)
    assert "epoch" in read_checkpoint(path).others
    torch.save(model.state_dict(), path)
    check_as_pytorch_loads_it(path)
    assert {tensor.name for tensor in read_checkpoint(path).tensors} == model.state_dict().keys()


KEYS = st.text("ab./[\\é", max_size=3) | st.integers(-3, 1 << 40)


@st.composite
def views(draw: st.DrawFn) -> Any:
    """A tensor, which may be any view of another one."""
    import torch

    dtype = draw(st.sampled_from([torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.float8_e5m2]))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    seed = draw(st.integers(0, 1000))
    base = torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    for _ in range(draw(st.integers(0, 2)) if shape else 0):
        dimension = draw(st.integers(0, base.ndim - 1))
        match draw(st.sampled_from(["swap", "cut", "step"])):
            case "swap":
                base = base.transpose(0, dimension)
            case "cut":
                begin = draw(st.integers(0, base.shape[dimension]))
                base = base.narrow(dimension, begin, base.shape[dimension] - begin)
            case _:
                base = base[(slice(None),) * dimension + (slice(None, None, 2),)]
    return torch.nn.Parameter(base) if dtype == torch.float32 and draw(st.booleans()) else base


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """What a checkpoint may consist of; a value may stand in several places."""
    shared = draw(st.lists(views(), min_size=1, max_size=3))
    leaves = views() | st.sampled_from(shared) | st.none() | st.integers() | st.text(max_size=2) | st.floats()
    return draw(st.recursive(leaves, containers, max_leaves=8))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists, dicts = st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)
    return lists | lists.map(tuple) | dicts | dicts.map(OrderedDict)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(content=contents())
def test_any_checkpoint_is_read_as_pytorch_loads_it(tmp_path: Path, torch: Any, content: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    ours = our_tensors(path)
    assert ours == described(content)
    assert all(ours == theirs for theirs in stock_loads(path).values())


@pytest.mark.covers("torch")
def test_contiguous_tensors_are_ranges_of_the_file(tmp_path: Path, torch: Any) -> None:
    rows = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    path = tmp_path / "model.pt"
    torch.save({"rows": rows, "second": rows[1], "tied": rows, "transposed": rows.T, "again": rows.T}, path)
    found = {tensor.name: tensor.source for tensor in read_checkpoint(path).tensors}
    sources = [found[name] for name in ("rows", "second", "tied")]
    assert all(isinstance(source, FileRange) for source in sources)
    assert sources[0] == sources[2]
    status = read_checkpoint(path).status
    assert change(status, path.stat()) is None
    assert not isinstance(found["transposed"], FileRange)
    assert found["transposed"].tobytes() == rows.T.contiguous().numpy().tobytes()


@pytest.mark.covers("torch")
def test_an_empty_view_may_begin_anywhere(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save([torch.empty(0, 3).T[1:], torch.ones(4)[4:]], path)
    check_as_pytorch_loads_it(path)
    assert [tensor.source.nbytes for tensor in read_checkpoint(path).tensors] == [0, 0]


@pytest.mark.covers("torch")
def test_tied_tensors_are_gathered_once(tmp_path: Path, torch: Any) -> None:
    tied = torch.ones(100, 100).T
    path = tmp_path / "model.pt"
    torch.save({str(place): tied for place in range(100)}, path)
    found = read_checkpoint(path).tensors
    assert len({id(tensor.source) for tensor in found}) == 1


def test_large_tensors_that_are_not_contiguous_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive(checkpoint(pickled(a=tensor(shape=(2, 2), stride=(1, 2)), b=tensor(stride=(0,))))))
    assert our_tensors(path)["a"][2] == np.array([0, 2, 1, 3], np.float32).tobytes()
    assert len(read_checkpoint(path, max_gathered=32).tensors) == 2
    with pytest.raises(PyTorchError, match="the tensor 'a' and others are not contiguous, and together larger than"):
        read_checkpoint(path, max_gathered=31)


def test_pytorch_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive(checkpoint(pickled(a=tensor()))))
    code = """if True:
        import sys
        from hashbench.model.pytorch_checkpoint import read_checkpoint
        print(read_checkpoint(sys.argv[1]).tensors[0].name, "torch" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "a False\n"


Make = Callable[[Any], Any]
REFUSED: dict[str, tuple[Make, str]] = {
    "meta": (lambda torch: torch.zeros(3, device="meta"), "has no bytes: it is on the device meta"),
    "sparse": (lambda torch: torch.eye(3).to_sparse(), "is sparse"),
    "compressed": (lambda torch: torch.eye(3).to_sparse_csr(), "is sparse"),
    "quantized": (lambda torch: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8), "is quantized"),
    "nested": (lambda torch: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is nested"),
    "conjugated": (lambda torch: torch.ones(2, dtype=torch.complex64).conj(), "is conjugated or negated"),
    "with attributes": (lambda torch: with_attribute(torch.ones(2)), "is of a subclass, or has attributes of its own"),
    "a parameter with attributes": (
        lambda torch: with_attribute(torch.nn.Parameter(torch.ones(2))),
        "has attributes of its own",
    ),
    "complex128": (lambda torch: torch.zeros(2, dtype=torch.complex128), r"does not store torch\.complex128"),
    "expanded": (lambda torch: torch.zeros(1).expand(1 << 40), "and others are not contiguous, and together larger"),
}


def with_attribute(tensor: Any) -> Any:
    tensor.data_format = "x"
    return tensor


@pytest.mark.covers("torch")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_a_tensor_that_is_not_plain_bytes_is_refused_by_name(tmp_path: Path, torch: Any, make: Make, why: str) -> None:
    path = tmp_path / "model.pt"
    torch.save({"x": {"y": make(torch)}}, path)
    with pytest.raises(PyTorchError, match=f"the tensor 'x/y' .*{why}"):
        read_checkpoint(path)


@pytest.mark.covers("torch")
def test_another_kind_of_file_is_told_apart(tmp_path: Path, torch: Any) -> None:
    path = tmp_path / "model.pt"
    torch.save({"x": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(NotAPyTorchArchive, match=r"model\.pt is not .*: load it and save it again$"):
        read_checkpoint(path)
    path.write_bytes(archive(checkpoint(pickled(a=tensor(storage(numel=5))))))
    with pytest.raises(PyTorchError, match="has 20 bytes, and its record has 16") as caught:
        read_checkpoint(path)
    assert not isinstance(caught.value, NotAPyTorchArchive)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_checkpoint(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="Not a regular file"):
        read_checkpoint(tmp_path / "fifo")


def test_a_file_that_shrinks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive(checkpoint(pickled(a=tensor(shape=(2, 2), stride=(1, 2))))))

    def read_and_shrink(data: bytes) -> Any:
        os.truncate(path, 200)
        return read_pickle(data)

    monkeypatch.setattr(pytorch_checkpoint, "read_pickle", read_and_shrink)
    with pytest.raises(PyTorchError, match="the file became shorter while it was read"):
        read_checkpoint(path)
