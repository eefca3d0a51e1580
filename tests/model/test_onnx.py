"""External data of ONNX models: found wherever the onnx package's own parser finds it."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from onnx_tensors import external_entries

from hashbench.model import onnx as onnx_files
from hashbench.model.onnx import ExternalData, OnnxError, external_data


def read(model: onnx.ModelProto | bytes) -> tuple[ExternalData, ...]:
    return external_data(io.BytesIO(model if isinstance(model, bytes) else model.SerializeToString()))


def external(location: str, offset: int | None = None, length: int | None = None) -> TensorProto:
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [2], b"\0" * 8, raw=True)
    external_data_helper.set_external_data(tensor, location, offset, length)
    tensor.ClearField("raw_data")
    return tensor


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[9])


def model_of_everything() -> onnx.ModelProto:
    """A model with external data in every place that a model has for tensors."""
    inner = helper.make_graph([], "inner", [], [], initializer=[external("if")])
    deeper = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)], "deeper", [], [])
    attributes = [
        helper.make_attribute("value", external("attribute")),
        helper.make_attribute("values", [external("attributes.0"), external("attributes.1")]),
        helper.make_attribute("body", deeper),
        helper.make_attribute("branches", [inner, deeper]),
        helper.make_attribute("sparse", sparse(external("sparse.values"), external("sparse.indices"))),
        helper.make_attribute("more", [sparse(external("more.values"), external("more.indices"))]),
        helper.make_attribute("axes", list(range(1000))),
        helper.make_attribute("scales", [0.5] * 1000),
        helper.make_attribute("text", ["a", "b" * 300]),
    ]
    node = onnx.NodeProto(op_type="Op", input=["x"], output=["y"], attribute=attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        initializer=[external("weights.bin", 4096, 8), numpy_helper.from_array(np.arange(5000.0), "stored")],
        sparse_initializer=[sparse(external("graph.values"), external("graph.indices"))],
    )
    model = helper.make_model(graph)
    model.functions.append(
        onnx.FunctionProto(name="f", node=[node], attribute_proto=[helper.make_attribute("a", external("default"))])
    )
    model.training_info.append(onnx.TrainingInfoProto(initialization=inner, algorithm=graph))
    return model


def theirs(model: onnx.ModelProto) -> Counter[tuple[Any, ...]]:
    return Counter(
        (entries["location"], int(entries.get("offset", 0)), entries.get("length"))
        for entries in external_entries(model)
        if "location" in entries
    )


def ours(found: tuple[ExternalData, ...]) -> Counter[tuple[Any, ...]]:
    return Counter((at.location, at.offset, None if at.length is None else str(at.length)) for at in found)


def test_external_data_is_found_in_every_place() -> None:
    model = model_of_everything()
    found = read(model)
    assert {at.location for at in found} >= {
        "weights.bin",
        "if",
        "attribute",
        "attributes.1",
        "more.indices",
        "default",
    }
    assert ExternalData("weights.bin", 4096, 8) in found
    assert ours(found) == theirs(model)


def test_every_field_that_leads_to_a_tensor_is_followed() -> None:
    """The table of fields is that of the package's descriptors."""
    messages = {onnx.ModelProto.DESCRIPTOR.name: onnx.ModelProto.DESCRIPTOR}
    for _ in range(10):
        messages |= {f.message_type.name: f.message_type for m in messages.values() for f in m.fields if f.message_type}
    leading = {"TensorProto"}
    for _ in range(10):
        leading |= {
            name
            for name, m in messages.items()
            if any(f.message_type and f.message_type.name in leading for f in m.fields)
        }
    fields = {
        (name, f)
        for name in leading
        for f in messages[name].fields
        if f.message_type and f.message_type.name in leading
    }
    assert {(name, f.number, f.message_type.name) for name, f in fields} == {
        (name, number, inner) for name, table in onnx_files._FIELDS.items() for number, inner in table.items()
    }
    assert {(name, f.number) for name, f in fields if not f.is_repeated} == onnx_files._ONCE


def test_a_model_that_the_package_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = [numpy_helper.from_array(np.full(1000, n, np.float32), f"w{n}") for n in range(3)]
    model = helper.make_model(helper.make_graph([], "g", [], [], initializer=weights))
    onnx.save_model(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    data = (tmp_path / "model.onnx.data").read_bytes()
    found = external_data(path)
    assert {at.location for at in found} == {"model.onnx.data"}
    for at, tensor in zip(found, weights, strict=True):
        assert data[at.offset : at.offset + (at.length or 0)] == tensor.raw_data


def test_a_model_without_external_data_has_none() -> None:
    weights = [numpy_helper.from_array(np.zeros(10), "w")]
    assert read(helper.make_model(helper.make_graph([], "g", [], [], initializer=weights))) == ()


def test_data_that_is_no_longer_external_is_none() -> None:
    tensor = external("weights.bin")
    tensor.data_location = TensorProto.DEFAULT
    assert read(helper.make_model(helper.make_graph([], "g", [], [], initializer=[tensor]))) == ()


@pytest.mark.parametrize(
    ("location", "path"), [("./w", "w"), ("a//b", "a/b"), ("a/./b", "a/b"), ("onnx::1", "onnx::1")]
)
def test_a_location_is_the_shortest_path(location: str, path: str) -> None:
    (found,) = read(helper.make_model(helper.make_graph([], "g", [], [], initializer=[external(location)])))
    assert found.location == path


def test_large_fields_are_skipped_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    big = numpy_helper.from_array(np.zeros(5 << 20, np.uint8), "big")
    graph = helper.make_graph([], "g", [], [], initializer=[big, external("w")])
    path.write_bytes(helper.make_model(graph).SerializeToString())

    class Counting(io.BufferedReader):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            Counting.taken += len(data)
            return data

    with Counting(io.FileIO(path)) as stream:
        assert [at.location for at in external_data(stream)] == ["w"]
    assert Counting.taken <= 2 << 20


WIRE = st.sampled_from([b"\x70\1", b"\x70\0", b"\x6a\2\n\0", b"\x2a\0", b"\x3a\0", b"\xf0\0\1", b"\x0b", b"\x70\x81\0"])


@given(st.data())
def test_a_damaged_model_is_refused_or_reads_as_the_package_reads_it(draw: st.DataObject) -> None:
    tensors = [external("w", 7, 8), numpy_helper.from_array(np.zeros(3), "v"), external("x")]
    nodes = [helper.make_node("Op", ["a"], ["b"], value=external("y"), axes=[1, 2])]
    damaged = bytearray(
        helper.make_model(helper.make_graph(nodes, "g", [], [], initializer=tensors)).SerializeToString()
    )
    how = draw.draw(st.sampled_from(["flip", "set", "truncate", "insert"]))
    place = draw.draw(st.integers(0, len(damaged) - 1))
    if how == "flip":
        damaged[place] ^= 1 << draw.draw(st.integers(0, 7))
    elif how == "set":
        damaged[place] = draw.draw(st.integers(0, 255))
    elif how == "truncate":
        del damaged[place:]
    else:
        damaged[place:place] = draw.draw(WIRE)
    check(bytes(damaged))


@given(
    st.lists(st.integers(0, 7).map(lambda n: b"\x3a\x2a\x0a\x70\x6a\x72\x01\x02"[n : n + 1]), max_size=60).map(b"".join)
)
def test_any_bytes_are_refused_or_read_as_the_package_reads_them(data: bytes) -> None:
    check(data)


def check(data: bytes) -> None:
    """Checks that a model is refused, or read as the package reads it, or that the package cannot read it at all.

    A tensor whose external data has no location, which no loader can read, may go unnoticed.
    """
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        model = None
    with contextlib.suppress(OnnxError):
        found = read(data)
        assert model is None or ours(found) == theirs(model)
