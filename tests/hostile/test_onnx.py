"""Attacks by ONNX models: each is refused in one line, in little time and memory, whatever the onnx package does."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx_tensors import external_entries
from protobuf import BYTES, GROUP, message, number, tag, varint

from hashbench.model import onnx as onnx_files
from hashbench.model.onnx import OnnxError, external_data

GRAPH, INITIALIZER, NODE, ATTRIBUTE, TENSOR, SUBGRAPH = 7, 5, 1, 5, 5, 6
DATA_LOCATION, EXTERNAL_DATA = 14, 13
EXTERNAL = number(DATA_LOCATION, 1)


def entry(key: str | bytes, value: str | bytes) -> bytes:
    return message(EXTERNAL_DATA, message(1, key), message(2, value))


def model(*fields: bytes) -> bytes:
    """A model of one initializer."""
    return message(GRAPH, message(INITIALIZER, *fields))


def at(location: str | bytes) -> bytes:
    return model(entry("location", location), EXTERNAL)


def nested(depth: int) -> bytes:
    graph = message(INITIALIZER, entry("location", "w"), EXTERNAL)
    for _ in range(depth):
        graph = message(NODE, message(ATTRIBUTE, message(SUBGRAPH, graph)))
    return message(GRAPH, graph)


W, OUTSIDE = entry("location", "w"), "is not a path within the model's folder"

# The file; why it is refused here; and the locations that the package's parser finds, or None
# if it refuses the file too.
CASES: dict[str, tuple[bytes, str, list[str | bytes] | None]] = {
    "an absolute path": (at("/etc/passwd"), OUTSIDE, ["/etc/passwd"]),
    "a path that leads out": (at("../w"), OUTSIDE, ["../w"]),
    "a path that leads out later": (at("a/../../w"), OUTSIDE, ["a/../../w"]),
    "a path that leads out on Windows": (at("a\\..\\..\\w"), OUTSIDE, ["a\\..\\..\\w"]),
    "a drive": (at("C:\\w"), OUTSIDE, ["C:\\w"]),
    "a path on a drive": (at("C:w"), OUTSIDE, ["C:w"]),
    "a share": (at("\\\\host\\share\\w"), OUTSIDE, ["\\\\host\\share\\w"]),
    "the folder itself": (at("."), OUTSIDE, ["."]),
    "an empty path": (at(""), OUTSIDE, [""]),
    "a NUL in a path": (at("a\0b"), OUTSIDE, ["a\0b"]),
    "no location": (model(entry("checksum", "location"), EXTERNAL), OUTSIDE, [""]),
    "a location that is not UTF-8": (at(b"\xff"), "is not UTF-8", [b"\xff"]),
    "two locations": (model(W, entry("location", "evil"), EXTERNAL), "has the key 'location' twice", ["evil"]),
    "two keys of one entry": (
        model(message(EXTERNAL_DATA, message(1, "offset"), message(1, "location"), message(2, "w")), EXTERNAL),
        "field 1 of a StringStringEntryProto occurs twice",
        ["w"],
    ),
    "two data locations": (model(W, EXTERNAL, number(DATA_LOCATION, 0)), "field 14 of a TensorProto occurs twice", []),
    "an unknown data location": (model(W, number(DATA_LOCATION, 2)), "data location is 2, not 0 or 1", []),
    "a graph in two halves": (
        model(W, EXTERNAL) + message(GRAPH, message(INITIALIZER, entry("location", "v"), EXTERNAL)),
        "field 7 of a ModelProto occurs twice",
        ["w", "v"],
    ),
    "a tensor in two halves": (
        message(GRAPH, message(NODE, message(ATTRIBUTE, message(TENSOR, W), message(TENSOR, EXTERNAL)))),
        "field 5 of a AttributeProto occurs twice",
        ["w"],
    ),
    "a negative offset": (model(W, entry("offset", "-1"), EXTERNAL), "the offset '-1'", ["w"]),
    "an offset of other digits": (model(W, entry("offset", "\u0661"), EXTERNAL), "is not an integer", ["w"]),
    "an offset of a million digits": (model(W, entry("offset", "9" * 60_000), EXTERNAL), "is not an integer", ["w"]),
    "a length beyond integers": (model(W, entry("length", str(1 << 53)), EXTERNAL), "is not an integer", ["w"]),
    "a long entry": (at("w" * 70_000), "up to 65536 are accepted", ["w" * 70_000]),
    "a field that ends after its message": (
        message(GRAPH, message(INITIALIZER, W), tag(INITIALIZER, BYTES) + b"\x7f"),
        "with 0 left",
        None,
    ),
    "a message that ends after the file": (tag(GRAPH, BYTES) + varint(100) + b"abc", "of 100 bytes, with 3 left", None),
    "a length of 2^64 - 1": (tag(GRAPH, BYTES) + varint((1 << 64) - 1), "with 0 left", None),
    "a number without end": (tag(GRAPH, BYTES) + b"\xff" * 20, "an invalid number", None),
    "a number that is cut off": (tag(GRAPH, BYTES) + b"\xff", "an invalid number", None),
    "field 0": (b"\x02\0", "an invalid field number", None),
    "a field number in too many bytes": (varint(GRAPH << 3 | BYTES, 6) + b"\0", "an invalid field number", None),
    "a group": (tag(100, GROUP) + tag(100, 4), "the wire type 3", []),
    "graphs too deep": (nested(40), "nests messages more than 100 deep", None),
}


def locations_by_the_package(data: bytes) -> list[str | bytes] | None:
    try:
        return [entries.get("location", "") for entries in external_entries(onnx.ModelProto.FromString(data))]
    except DecodeError:
        return None


@pytest.mark.parametrize(("data", "reason", "theirs"), CASES.values(), ids=CASES)
def test_a_hostile_model_is_refused(tmp_path: Path, data: bytes, reason: str, theirs: list[str | bytes] | None) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(OnnxError, match=reason) as caught:
        external_data(path)
    found = str(caught.value)
    assert found.startswith(f"{path} is not a valid ONNX model: ")
    assert "\n" not in found
    assert len(found) < 600
    assert locations_by_the_package(data) == theirs


def test_external_data_without_a_location_names_no_file() -> None:
    """A tensor that no loader can read: it is found only if the word occurs elsewhere in the tensor, as above."""
    data = model(entry("offset", "0"), EXTERNAL)
    assert external_data(io.BytesIO(data)) == ()
    assert locations_by_the_package(data) == [""]


def test_long_forms_of_numbers_hide_nothing() -> None:
    """A reader that knows only the shortest form of a field's number would take these for other fields."""
    hidden = varint(DATA_LOCATION << 3, 5) + varint(1, 10)
    data = varint(GRAPH << 3 | BYTES, 5) + message(GRAPH, message(INITIALIZER, W, hidden))[1:]
    assert [found.location for found in external_data(io.BytesIO(data))] == ["w"] == locations_by_the_package(data)


def test_a_field_of_another_wire_type_is_unknown_as_to_the_package() -> None:
    as_bytes, as_fixed = message(DATA_LOCATION, b"\1"), tag(DATA_LOCATION, 5) + bytes([1, 0, 0, 0])
    for data in (model(W, as_bytes), model(W, as_fixed), model(EXTERNAL, number(EXTERNAL_DATA, 1), W)):
        assert [found.location for found in external_data(io.BytesIO(data))] == locations_by_the_package(data)


def test_numbers_are_skipped_without_skipping_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the place in the buffer at which a run of numbers ends."""
    monkeypatch.setattr(onnx_files, "_BUFFER", 128)
    for count in range(200):
        ints = message(
            GRAPH, message(NODE, message(ATTRIBUTE, number(8, 1 << 40) * count, message(TENSOR, W, EXTERNAL)))
        )
        assert [found.location for found in external_data(io.BytesIO(ints))] == ["w"]


def test_ten_million_numbers_are_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "MAX_STEPS", 1000)
    numbers = number(8, 5) * 5_000_000 + (tag(7, 5) + b"abcd") * 1_000_000
    forest = message(GRAPH, message(NODE, message(ATTRIBUTE, numbers, message(TENSOR, W, EXTERNAL))))
    assert [found.location for found in external_data(io.BytesIO(forest))] == ["w"]


def test_a_model_of_nothing_but_empty_fields_is_refused_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "MAX_STEPS", 10_000)
    data = io.BytesIO(message(GRAPH, message(INITIALIZER) * 5_000_000, message(INITIALIZER, W)))
    tracemalloc.start()
    try:
        with pytest.raises(OnnxError, match="more than 10000 fields"):
            external_data(data)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_sparse_model_of_a_tebibyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = tag(9, BYTES) + varint(1 << 40)
    tensor = tag(INITIALIZER, BYTES) + varint(len(weights) + (1 << 40))
    graph = tag(GRAPH, BYTES) + varint(len(tensor + weights) + (1 << 40))
    with path.open("wb") as file:
        file.write(graph + tensor + weights)
        file.truncate(file.tell() + (1 << 40))
    assert external_data(path) == ()
