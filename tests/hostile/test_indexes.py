"""Attacks by indexes: none hides a shard, names a file elsewhere, or ends the verification of the others."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from model_folders import index_of, safetensors_file, trust, write
from pytorch_files import archive, checkpoint, pickled, tensor

import hashbench
from hashbench.model.contents import read_contents
from hashbench.model.exclusions import Exclusions
from hashbench.model.manifest import read_manifest

ONE, TWO = safetensors_file({"a": b"1"}), safetensors_file({"b": b"2"})
PT = archive(checkpoint(pickled(a=tensor())))
INDEX = "model.safetensors.index.json"
SHARDED = {
    INDEX: index_of({"model-1.safetensors": ["a"], "model-2.safetensors": ["b"]}),
    "model-1.safetensors": ONE,
    "model-2.safetensors": TWO,
}


@pytest.mark.parametrize(
    ("index", "shard", "data"),
    [
        (INDEX, "m-1.safetensors", ONE),
        ("model.safetensors.index.fp16.json", "m.fp16-1.safetensors", ONE),
        ("diffusion_pytorch_model.safetensors.index.json", "m-1.safetensors", ONE),
        ("pytorch_model.bin.index.json", "m-1.bin", PT),
        ("pytorch_model.bin.index.fp16.json", "m.fp16-1.bin", PT),
        ("anything.index.json", "no.suffix", b"x"),
    ],
)
def test_every_variant_of_an_index_is_followed(tmp_path: Path, index: str, shard: str, data: bytes) -> None:
    folder = write(tmp_path / "model", {index: index_of({shard: ["a"]}), shard: data, "other": b"x"})
    manifest = trust(folder / index, path=tmp_path / "manifest")
    assert [file.path for file in read_manifest(manifest.path).files] == sorted([index, shard])
    assert manifest.verdict_on(folder / index).code == 0
    (folder / shard).write_bytes(b"evil")
    assert manifest.verdict_on(folder / index).names("differs") == [shard]
    (folder / shard).unlink()
    verdict = manifest.verdict_on(folder / index)
    assert verdict.code == 1
    assert verdict.errors == [f"hashbench: {index!r} names {shard!r}, and there is no such file"]


@pytest.mark.parametrize("place", ["folder", "index"])
def test_a_missing_shard_is_no_model(tmp_path: Path, place: str) -> None:
    folder = write(tmp_path / "model", SHARDED)
    (folder / "model-2.safetensors").unlink()
    path = folder if place == "folder" else folder / INDEX
    with pytest.raises(ValueError, match=r"names 'model-2\.safetensors', and there is no such file"):
        hashbench.manifest(path, kernel="hashlib")


@pytest.mark.parametrize("shard", ["../outside", "/etc/passwd", "sub/x", "a\\b", "..", "", "a\0b", 7, None, ["a"]])
def test_an_index_that_leads_elsewhere_is_a_plain_file(tmp_path: Path, shard: object) -> None:
    write(tmp_path, {"outside": ONE})
    files = {INDEX: json.dumps({"weight_map": {"a": shard}}).encode(), "model-1.safetensors": ONE}
    folder = write(tmp_path / "model", files)
    manifest = trust(folder)
    assert f"'{INDEX}': hashed as a plain file: " in manifest.notes
    assert manifest.verdict_on(folder).code == 0
    # alone, it is one file, and nothing that it names is read
    alone = trust(folder / INDEX, path=tmp_path / "alone")
    assert [file.path for file in read_manifest(alone.path).files] == [INDEX]


def test_a_shard_that_is_a_link_out_is_none(tmp_path: Path) -> None:
    write(tmp_path, {"outside": TWO})
    folder = write(tmp_path / "model", SHARDED)
    manifest = trust(folder / INDEX)
    (folder / "model-2.safetensors").unlink()
    (folder / "model-2.safetensors").symlink_to("../outside")
    verdict = manifest.verdict_on(folder / INDEX)
    assert (verdict.code, verdict.names("missing")) == (1, ["model-2.safetensors, with 1 tensor"])


def test_where_index_and_shards_differ_all_is_covered_and_told(tmp_path: Path) -> None:
    both = safetensors_file({"a": b"1", "more": b"3"})
    files = SHARDED | {
        INDEX: index_of({"model-1.safetensors": ["a", "b"], "model-2.safetensors": ["gone"]}),
        "model-1.safetensors": both,
    }
    folder = write(tmp_path / "model", files)
    manifest = trust(folder)
    assert f"'{INDEX}' lists tensors that are not where it says: 'b', 'gone'" in manifest.notes
    assert f"'{INDEX}' does not list all tensors of its files; covered too: 'b', 'more'" in manifest.notes
    assert {entry.name for entry in read_manifest(manifest.path).tensors} == {"a", "b", "more"}
    (folder / "model-1.safetensors").write_bytes(both[:-1] + b"4")
    assert manifest.verdict_on(folder).names("differs") == ["more"]


def test_the_index_decides_where_a_tensor_is(tmp_path: Path) -> None:
    files = {INDEX: index_of({"m-2.safetensors": ["a"]}), "m-1.safetensors": ONE, "m-2.safetensors": ONE}
    folder = write(tmp_path / "model", files)
    tensors = read_manifest(trust(folder).path).tensors
    assert {tensor.name: tensor.file for tensor in tensors} == {
        "a": "m-2.safetensors",
        "m-1.safetensors/a": "m-1.safetensors",
    }


def test_a_bad_shard_never_hides_another(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", SHARDED | {f"x-{place}.safetensors": ONE for place in range(3)})
    manifest = trust(folder)
    (folder / "model-1.safetensors").write_bytes(b"<html>")
    (folder / "model-2.safetensors").write_bytes(TWO[:-1] + b"x")
    (folder / "x-0.safetensors").unlink()
    (folder / "x-1.safetensors").write_bytes(ONE[:-1])
    verdict = manifest.verdict_on(folder)
    assert verdict.code == 1
    assert verdict.names("differs") == ["b", "model-1.safetensors", "x-1.safetensors"]
    assert verdict.names("missing") == ["x-0.safetensors, with 1 tensor"]


def test_an_index_that_was_changed_adds_and_hides_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", SHARDED | {"evil.safetensors": ONE})
    manifest = trust(folder / INDEX)
    for shards in (
        {"model-1.safetensors": ["a"]},
        {"model-1.safetensors": ["a"], "model-2.safetensors": ["b"], "evil.safetensors": ["c"]},
        {"evil.safetensors": ["a"], "model-2.safetensors": ["b"]},
    ):
        (folder / INDEX).write_bytes(index_of(shards))
        verdict = manifest.verdict_on(folder / INDEX)
        assert verdict.code == 1
        assert INDEX in verdict.names("differs")
    (folder / INDEX).write_bytes(b"{}")
    assert manifest.verdict_on(folder / INDEX).code == 1


def many(count: int) -> bytes:
    return index_of({f"absent-{place:07}.safetensors": [str(place)] for place in range(count)})


@pytest.mark.parametrize(
    "count", [20_000, pytest.param(1_000_000, marks=pytest.mark.thorough)], ids=["20,000", "a million"]
)
def test_absent_shards_take_little_memory_and_few_lines(tmp_path: Path, count: int) -> None:
    folder = write(tmp_path / "model", {"a": b"x"})
    manifest = trust(folder)
    write(folder, {INDEX: many(count)})
    size = (folder / INDEX).stat().st_size
    started = time.process_time()
    for path in (folder, folder / INDEX):
        tracemalloc.start()
        try:
            problems = read_contents(path, Exclusions(())).problems
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(problems) == 8
        assert peak < 16 * size + (1 << 20)
    assert time.process_time() - started < 1 + count / 10_000
    verdict = manifest.verdict_on(folder)
    assert (verdict.code, verdict.names("extra"), len(verdict.errors)) == (1, [INDEX], 0)
