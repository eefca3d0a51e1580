"""Attacks on what a file is beside its tensors, and by manifests whose ranges are not those of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import Tensor, gguf_file, header, value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folders import safetensors_file, trust, write
from profiles import examples
from pytorch_files import archive, checkpoint, pickled, storage, tensor

import hashbench
from hashbench.model.manifest import (
    FileEntry,
    Manifest,
    ManifestError,
    TensorEntry,
    parse_manifest,
    read_manifest,
)
from hashbench.model.strict_json import MAX_INTEGER

T = tensor()
PLAIN = safetensors_file({"a": b"1", "b": b"23"})
ROOT = bytes(range(32))


def with_header(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The same safetensors file with another header."""
    size = int.from_bytes(data[:8], "little")
    header = change(data[8 : 8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


# Pairs of files that have the same tensors for us, and are not the same bytes.
PAIRS: dict[str, tuple[str, bytes, bytes]] = {
    "safetensors, padding": ("m.safetensors", PLAIN, with_header(PLAIN, lambda header: header + b" " * 8)),
    "safetensors, metadata": (
        "m.safetensors",
        PLAIN,
        with_header(PLAIN, lambda header: header.replace(b'{"a"', b'{"__metadata__":{"format":"pt"},"a"')),
    ),
    "PyTorch, another value": (
        "m.pt",
        archive(checkpoint(pickled(w=T, step=b"K\1"))),
        archive(checkpoint(pickled(w=T, step=b"K\2"))),
    ),
    "PyTorch, another record": (
        "m.pt",
        archive(checkpoint(pickled(w=T))),
        archive(checkpoint(pickled(w=T), None, **{"_data/serialization_id": b"1"})),
    ),
    "PyTorch, another folder": (
        "m.pt",
        archive(checkpoint(pickled(w=T))),
        archive(checkpoint(pickled(w=T)), folder="archivf"),
    ),
    "PyTorch, what no tensor has of a storage": (
        "m.pt",
        archive(checkpoint(pickled(w=tensor(shape=(2,))), {"0": bytes(16)})),
        archive(checkpoint(pickled(w=tensor(shape=(2,))), {"0": bytes(15) + b"1"})),
    ),
    "GGUF, metadata": (
        "m.gguf",
        gguf_file(header([Tensor("w", (4,))], [value("k", 0, b"1")]), b"good"),
        gguf_file(header([Tensor("w", (4,))], [value("k", 0, b"2")]), b"good"),
    ),
}


@pytest.mark.parametrize(("name", "one", "other"), PAIRS.values(), ids=PAIRS)
def test_equal_tensors_in_unequal_frames_never_share_a_root(
    tmp_path: Path, name: str, one: bytes, other: bytes
) -> None:
    first, second = (write(tmp_path / str(place), {name: data}) for place, data in enumerate((one, other)))
    manifest, changed = trust(first), trust(second)
    assert read_manifest(manifest.path).tensors
    of_tensors = [{tensor.name: tensor for tensor in read_manifest(one.path).tensors} for one in (manifest, changed)]
    assert of_tensors[0] == of_tensors[1]
    assert manifest.root != changed.root
    assert manifest.verdict_on(first).code == 0
    assert (manifest.verdict_on(second).code, manifest.verdict_on(second).names("differs")) == (1, [name])


# Views: any pickle of these shares one storage of 64 bytes.
OF = storage(numel=16)
VIEWS: dict[str, dict[str, bytes]] = {
    "overlapping": {"a": tensor(OF, 0, (8,)), "b": tensor(OF, 4, (8,)), "c": tensor(OF, 2, (2,))},
    "one in another": {"a": tensor(OF, 0, (16,)), "b": tensor(OF, 4, (4,)), "c": tensor(OF, 15, (1,))},
    "one place twice": {"a": tensor(OF, 0, (4, 4), (4, 1)), "b": tensor(OF, 0, (16,)), "c": tensor(OF, 0, (16,))},
    "strided": {"a": tensor(OF, 0, (4, 4), (1, 4)), "b": tensor(OF, 0, (8,), (2,)), "c": tensor(OF, 1, (8,), (2,))},
    "of stride 0": {"a": tensor(OF, 3, (4, 4), (0, 1)), "b": tensor(OF, 3, (100,), (0,))},
    "empty": {"a": tensor(OF, 0, (0,)), "b": tensor(OF, 16, (0,)), "c": tensor(OF, 0, (16, 0), (1, 1))},
    "empty among others": {"a": tensor(OF, 0, (8,)), "b": tensor(OF, 4, (0,)), "c": tensor(OF, 8, (8,))},
    "none of the last byte": {"a": tensor(OF, 0, (15,))},
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_any_byte_of_a_file_counts_however_tensors_share_it(tmp_path: Path, views: dict[str, bytes]) -> None:
    data = archive(checkpoint(pickled(**views), {"0": bytes(range(64))}))
    path = write(tmp_path, {"m.pt": data}) / "m.pt"
    manifest = hashbench.manifest(path, kernel="hashlib")
    assert {tensor.name for tensor in manifest.tensors} == views.keys()
    assert sum({t.offset: t.nbytes for t in manifest.tensors if t.offset and t.nbytes}.values()) + sum(
        file.frame_bytes or 0 for file in manifest.files
    ) == len(data)
    assert hashbench.verify(path, manifest, kernel="hashlib").ok
    storage_at = data.index(bytes(range(64)))
    for place in [*range(storage_at, storage_at + 64), *range(0, len(data), 61)]:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert not hashbench.verify(path, manifest, kernel="hashlib").ok, place


# Manifests that no file has


def held(name: str, offset: int | None, nbytes: int, file: str | None = "f") -> TensorEntry:
    return TensorEntry(name, "U8", (nbytes,), nbytes, ROOT, file, offset)


FORGED: dict[str, tuple[tuple[TensorEntry | FileEntry, ...], str]] = {
    "a gap": ((held("a", 0, 4), held("b", 8, 4), FileEntry("f", 12, ROOT, 0)), "frame has 0 bytes, but its tensors"),
    "a frame too large": ((held("a", 0, 4), FileEntry("f", 12, ROOT, 9)), "frame has 9 bytes, but its tensors leave 8"),
    "a frame too small": ((held("a", 0, 4), FileEntry("f", 12, ROOT, 7)), "frame has 7 bytes, but its tensors leave 8"),
    "a frame that is larger than its file": ((FileEntry("f", 12, ROOT, 13),), "frame has 13 bytes"),
    "an overlap": ((held("a", 0, 4), held("b", 3, 4), FileEntry("f", 12, ROOT, 5)), "tensors overlap at byte 3"),
    "one in another": ((held("a", 0, 8), held("b", 0, 4), FileEntry("f", 12, ROOT, 4)), "tensors overlap at byte 0"),
    "beyond the end": ((held("a", 8, 5), FileEntry("f", 12, ROOT, 8)), "a tensor ends at byte 13 of 12"),
    "empty beyond the end": ((held("a", 13, 0), FileEntry("f", 12, ROOT, 12)), "a tensor ends at byte 13 of 12"),
    "far beyond": ((held("a", MAX_INTEGER, 1), FileEntry("f", 12, ROOT, 12)), "a tensor ends at byte"),
    "a file that is not listed": ((held("a", 0, 4, "g"), FileEntry("f", 12, ROOT, 12)), "'g' is not a file with a fr"),
    "no file at all": ((held("a", 0, 4, "g"),), "'g' is not a file with a frame"),
    "a file without a frame": ((held("a", 0, 4), FileEntry("f", 12, ROOT)), "'f' is not a file with a frame"),
    "a tensor of no file": ((held("a", None, 4, None), FileEntry("f", 12, ROOT)), "names no file, but others do"),
    "an offset in no file": ((held("a", 0, 4, None),), "an offset but no file"),
    "a negative offset": ((held("a", -1, 4), FileEntry("f", 12, ROOT, 8)), "a number is not between 0 and"),
    "a negative frame": ((FileEntry("f", 12, ROOT, -1),), "a number is not between 0 and"),
    "a huge size": ((FileEntry("f", MAX_INTEGER + 1, ROOT),), "a number is not between 0 and"),
    "one name twice": ((held("f", 0, 4), FileEntry("f", 12, ROOT, 8)), "two entries have the name 'f'"),
    "a path that leads out": ((FileEntry("../f", 12, ROOT),), "not relative to the folder"),
}


@pytest.mark.parametrize(("entries", "reason"), FORGED.values(), ids=FORGED)
def test_a_manifest_that_no_file_has_is_refused(entries: tuple[TensorEntry | FileEntry, ...], reason: str) -> None:
    with pytest.raises(ManifestError, match=reason) as caught:
        Manifest("sha256", 4096, entries)
    assert "\n" not in str(caught.value)


FOLDER = {
    "config.json": b'{"x": 1}',
    "model.safetensors": PLAIN,
    "sub/model.bin": archive(checkpoint(pickled(w=T, v=tensor(offset=1, shape=(2,))))),
    "sub/model.gguf": gguf_file(header([Tensor("w", (4,))]), b"good"),
    "empty": b"",
}

numbers = st.one_of(st.integers(-1, 70), st.sampled_from([MAX_INTEGER, 1 << 64, None, True, 0.5, "1"]))


@st.composite
def changed(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """A manifest's document with fields changed, left out, or exchanged."""
    document = json.loads(json.dumps(document))
    if draw(st.integers(0, 9)) == 0:
        key = draw(st.sampled_from(sorted(document)))
        document[key] = draw(st.sampled_from([[], {}, 0, 2, "", "sha384", 64, ["*"], ["x"]]))
        return document
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["files", "tensors"]))
        entries = document[kind]
        if not entries:
            continue
        entry = draw(st.sampled_from(entries))
        match draw(st.sampled_from(["number", "drop", "swap", "double", "remove", "name"])):
            case "number":
                entry[draw(st.sampled_from(["bytes", "offset", "size", "frame_bytes"]))] = draw(numbers)
            case "drop":
                entry.pop(draw(st.sampled_from(sorted(entry))))
            case "swap":
                other = draw(st.sampled_from(entries))
                field = draw(st.sampled_from(sorted(entry.keys() & other.keys())))
                entry[field], other[field] = other[field], entry[field]
            case "double":
                entries.append(dict(entry))
            case "remove":
                entries.remove(entry)
            case _:
                entry[draw(st.sampled_from(["name", "path", "file"]))] = draw(
                    st.sampled_from(["a", "config.json", ".."])
                )
    return document


def canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode() + b"\n"


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_manifest_is_refused_or_has_another_root(tmp_path: Path, data: st.DataObject) -> None:
    """And if it has another, it leaves out no file that it does not say that it excludes."""
    if not (tmp_path / "empty").exists():
        write(tmp_path, FOLDER)
    good = hashbench.manifest(tmp_path, kernel="hashlib")
    document = data.draw(changed(json.loads(good.text())))
    if canonical(document) == good.text():
        return
    with pytest.raises(ManifestError) as caught:
        parse_manifest(canonical(document))
    assert "\n" not in str(caught.value)
    said = str(caught.value)
    if "its root is not the one of its entries, " in said:  # all else is in order: with its root, it is a manifest
        document["root"] = said.rpartition(" ")[2]
        try:
            forged = parse_manifest(canonical(document))
        except ManifestError:
            return  # not in canonical order
        assert forged.root != good.root
        if forged.files and forged.exclusions == good.exclusions:
            report = hashbench.verify(tmp_path, forged, kernel="hashlib")
            assert not report.ok or [file.path for file in forged.files] == sorted(FOLDER)


@settings(examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([name for name in FOLDER if FOLDER[name]]), st.data())
def test_any_changed_byte_of_a_folder_is_found(tmp_path: Path, name: str, data: st.DataObject) -> None:
    folder = tmp_path / "model"
    if not folder.exists():
        write(folder, FOLDER)
        (tmp_path / "manifest").write_bytes(hashbench.manifest(folder, kernel="hashlib").text())
    place = data.draw(st.integers(0, len(FOLDER[name]) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(FOLDER[name])
    changed[place] ^= 1 << bit
    (folder / name).write_bytes(changed)
    try:
        report = hashbench.verify(folder, tmp_path / "manifest", kernel="hashlib")
        assert not report.ok
        (told,) = report.differs
        entry = report.expected.by_name[told]
        assert name == (entry.file if isinstance(entry, TensorEntry) else entry.path)
    finally:
        (folder / name).write_bytes(FOLDER[name])
