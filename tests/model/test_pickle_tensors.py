"""The scanner of PyTorch's pickles: what training saves is read; `tests/hostile` has what is refused."""

from __future__ import annotations

import io
import zipfile
from collections import Counter, OrderedDict
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples
from pytorch_files import ORDERED, called, items, named, number, pickled, storage, tensor, text

from hashbench.model import pickle_tensors
from hashbench.model.pickle_tensors import MAX_SIZE, PickledTensor, PickleError, Storage, read_pickle

TENSOR = PickledTensor(Storage("0", "torch.float32", 4), "torch.float32", 0, (4,), (1,))


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def saved(torch: Any, content: Any) -> bytes:
    """The pickle that PyTorch writes."""
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as archive:
        return archive.read("archive/data.pkl")


def names(data: bytes) -> list[str]:
    return sorted(read_pickle(data).tensors)


@pytest.mark.covers("torch")
def test_what_training_saves(torch: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999))
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    values = [torch.device("cuda:1"), torch.bfloat16, 1 << 70, 1j, {1, 2}, b"b", bytearray(b"c"), 0.5, None, True, "é"]
    found = read_pickle(
        saved(
            torch,
            {
                "model": model.state_dict(),
                "parameters": list(model.parameters()),
                "optimizer": optimizer.state_dict(),
                "float8": torch.zeros(3).to(torch.float8_e4m3fn),
                "counts": Counter({3: 1}),
                "size": torch.Size([1, 2]),
                "values": values,
            },
        )
    )
    weights = ["[0].weight", "[0].bias", "[1].weight", "[1].bias"]
    keys = [*(name[1] + name[3:] for name in weights), "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert sorted(found.tensors) == sorted(
        [
            *(f"model/{key}" for key in keys),
            *(f"parameters[{place}]" for place in range(4)),
            *(f"optimizer/state[{place}]/{kind}" for place in range(4) for kind in ("step", "exp_avg", "exp_avg_sq")),
            "float8",
        ]
    )
    assert found.tensors["parameters[0]"] == found.tensors["model/0.weight"]
    assert found.tensors["model/0.weight"].shape == (2, 3)
    assert found.tensors["float8"] == PickledTensor(
        found.tensors["float8"].storage, "torch.float8_e4m3fn", 0, (3,), (1,)
    )
    others = set(found.others)
    assert {f"values[{place}]" for place in range(len(values))} < others
    assert {"counts[3]", "size[0]", "size[1]", "optimizer/param_groups[0]/betas[1]"} < others
    assert {storage.key for storage in found.storages} == {tensor.storage.key for tensor in found.tensors.values()}


@pytest.mark.covers("torch")
def test_views_are_views(torch: Any) -> None:
    base = torch.arange(12, dtype=torch.int16).reshape(3, 4)
    tensors = read_pickle(saved(torch, [base, base.T, base[1:, 2], base.T])).tensors
    of = Storage("0", "torch.int16", 12)
    assert tensors == {
        "[0]": PickledTensor(of, "torch.int16", 0, (3, 4), (4, 1)),
        "[1]": PickledTensor(of, "torch.int16", 0, (4, 3), (1, 4)),
        "[2]": PickledTensor(of, "torch.int16", 6, (2,), (4,)),
        "[3]": PickledTensor(of, "torch.int16", 0, (4, 3), (1, 4)),
    }


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x80\2" + tensor() + b".", ""),
        (pickled(**{"layers.0.weight": tensor()}), "layers.0.weight"),
        (pickled(a=b"}" + items({"b": tensor()})), "a/b"),
        (pickled(**{"a/b": tensor()}), r"a\/b"),
        (pickled(a=b"]" + tensor() + b"a"), "a[0]"),
        (pickled(a=tensor() + b"\x85"), "a[0]"),
        (pickled(a=b"}" + number(0) + tensor() + b"s"), "a[0]"),
        (pickled(a=b"}" + number(-1) + tensor() + b"s"), "a[-1]"),
        (pickled(a=b"}" + text("0") + tensor() + b"s"), "a/0"),
        (pickled(**{"a[0]": tensor()}), r"a\[0]"),
        (pickled(**{"": tensor()}), r"\e"),
        (pickled(**{r"\e": tensor()}), r"\\e"),
        (pickled(**{"": b"}" + items({"": tensor()})}), r"\e/\e"),
        (pickled(**{"/": tensor()}), r"\/"),
    ],
)
def test_a_name_is_the_path(data: bytes, name: str) -> None:
    assert read_pickle(data).tensors == {name: TENSOR}


PATHS = st.lists(st.integers(-2, 2) | st.text(r"\/[]0e.a", max_size=3), min_size=1, max_size=4)


@examples(200)
@given(PATHS, PATHS)
def test_different_paths_have_different_names(one: list[int | str], other: list[int | str]) -> None:
    found = []
    for path in (one, other):
        value = tensor()
        for key in reversed(path):
            value = b"}" + (number(key) if isinstance(key, int) else text(key)) + value + b"s"
        found += names(b"\x80\2" + value + b".")
    assert (found[0] == found[1]) == (one == other)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (called("torch._utils._rebuild_sparse_tensor", b"N"), "is sparse"),
        (called("torch._utils._rebuild_qtensor", storage()), "is quantized"),
        (called("torch._utils._rebuild_nested_tensor", tensor()), "is nested"),
        (called("torch._utils._rebuild_meta_tensor_no_storage", b"N"), "has no bytes: it is on the device meta"),
        (called("torch._utils._rebuild_wrapper_subclass", b"N"), "wraps other tensors"),
        (called("torch._utils._rebuild_device_tensor_from_cpu_tensor", tensor()), "is converted when it is read"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_tensor_that_is_not_plain_is_refused_by_name(value: bytes, why: str, wrapped: bool) -> None:
    if wrapped:
        value = called("torch._utils._rebuild_parameter", value, b"\x88", ORDERED)
    with pytest.raises(PickleError, match=f"the tensor 'x/y' {why}: it is not accepted"):
        read_pickle(pickled(x=b"}" + items({"y": value})))


def test_arguments_of_old_versions_are_accepted() -> None:
    old = called("torch._utils._rebuild_tensor", storage(), number(0), b"(K\4t", b"(K\1t")
    bare = called("torch._utils._rebuild_tensor_v2", storage(), number(0), b"K\4\x85", b"K\1\x85", b"\x89", b"N", b"N")
    parameter = called("torch._utils._rebuild_parameter_with_state", tensor(), b"\x88", ORDERED, b"}")
    found = read_pickle(pickled(a=old, b=bare, c=tensor(storage(), 0, (4,), (1,), b"}"), d=parameter))
    assert found.tensors == dict.fromkeys("abcd", TENSOR)


@pytest.mark.covers("torch")
def test_a_dict_may_contain_itself(torch: Any) -> None:
    content: dict[str, Any] = OrderedDict()
    content["a"] = content
    with pytest.raises(PickleError, match="nests them more than 64 deep"):
        read_pickle(saved(torch, content))


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PickleError, match=f"has {MAX_SIZE + 1} bytes; up to {MAX_SIZE} are accepted"):
        read_pickle(bytes(MAX_SIZE + 1))
    data = pickled(**{f"{place:03}": tensor() for place in range(100)})
    assert len(names(data)) == 100
    for limit, enough, short, message in (
        ("_MAX_INSTRUCTIONS", 5000, 1000, "more than 1000 instructions"),
        ("_MAX_MADE", 1000, 100, "makes more than 100 values"),
        ("_MAX_VALUES", 101, 100, "more than 100 values"),
        ("_MAX_LETTERS", 300, 299, "names of more than 299 letters"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(pickle_tensors, limit, enough)
            assert len(names(data)) == 100
            patch.setattr(pickle_tensors, limit, short)
            with pytest.raises(PickleError, match=message):
                read_pickle(data)


@examples(300)
@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from([tensor(), named("torch.Size"), b"]q\0", b""]))
def test_any_bytes_are_read_or_refused(start: bytes, end: bytes, middle: bytes) -> None:
    for data in (start + middle + end, b"\x80\2}(" + start + middle + end + b"."):
        with suppress(PickleError):
            read_pickle(data)
