"""What is told of a model's files that refer to what is not among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gguf_files import Tensor, gguf_file, header
from model_folders import Files, write
from protobuf import message, number

from hashbench.model.contents import read_contents
from hashbench.model.exclusions import DEFAULT, Exclusions


def onnx_with_data(location: str) -> bytes:
    return message(7, message(5, message(13, message(1, "location"), message(2, location)) + number(14, 1)))


def config(**content: object) -> bytes:
    return json.dumps(content).encode()


GGUF = gguf_file(header([Tensor("w", (4,))]), b"good")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"

CASES: dict[str, tuple[Files, list[str]]] = {
    "code of other repositories": (
        {
            "config.json": config(auto_map={"AutoConfig": "org/code--configuration.C", "AutoModel": "own.Model"}),
            "modules.json": json.dumps([{"type": "sentence_transformers.Router"}, {"type": "org/m--own.M"}]).encode(),
            "old/tokenizer_config.json": config(auto_map=["org/old--tokenization.T", None]),
            "sub/tokenizer_config.json": config(auto_map={"AutoTokenizer": [None, "org/t--tokenization.T"]}),
        },
        [
            "not covered: the code of 'org/code', which 'config.json' names",
            "not covered: the code of 'org/m', which 'modules.json' names",
            "not covered: the code of 'org/old', which 'old/tokenizer_config.json' names",
            "not covered: the code of 'org/t', which 'sub/tokenizer_config.json' names",
        ],
    ),
    "an adapter": (
        {"adapter_config.json": config(base_model_name_or_path="org/base", r=8.5)},
        ["not covered: 'org/base', the base model of the adapter of 'adapter_config.json'"],
    ),
    "an ONNX model whose data are elsewhere": (
        {"onnx/model.onnx": onnx_with_data("a.bin"), "onnx/here.onnx": onnx_with_data("b.bin"), "onnx/b.bin": b"1"},
        ["not covered: 'a.bin', where 'onnx/model.onnx' keeps data"],
    ),
    "an ONNX model whose data are outside": (
        {"model.onnx": onnx_with_data("../a.bin")},
        ["not known to be covered: the data that 'model.onnx' keeps in other files: "],
    ),
    "some of several GGUF files": (
        {f"sub/{name}.gguf": GGUF for name in ("m-00002-of-00003", "m-00003-of-00003", "all-00001-of-00001")},
        ["not covered: 'sub/m-00001-of-00003.gguf', other parts of 'sub/m-00002-of-00003.gguf'"],
    ),
    "pointers": (
        {"spiece.model": POINTER, "config.json": POINTER},
        [
            f"not covered: what {name!r} stands for: it is a Git LFS pointer, not the file it stands for"
            for name in ("config.json", "spiece.model")
        ],
    ),
    "a whole cache": (
        {"blobs/1": b"1", "refs/main": b"1", "snapshots/1/config.json": b"{}"},
        ["this is a repository in a Hugging Face cache"],
    ),
    "nothing": (
        {
            "config.json": config(auto_map={"AutoModel": "modeling.Model"}, base_model_name_or_path="x"),
            "adapter_config.json": config(base_model_name_or_path=None),
            "a/config.json": b'["auto_map"]',
            "b/config.json": b'{"auto_map": ',
            "c/config.json": config(auto_map=[None, 1, "own.Model"]),
            "modules.json": config(type="org/x--own.Module"),
            "a/modules.json": b'[1, {"type": 2}, {"type": "own.Module"}, {}]',
            "b/modules.json": b'[{"type": "org/x--y"}',
        },
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_elsewhere_is_told(tmp_path: Path, case: str) -> None:
    files, expected = CASES[case]
    write(tmp_path, files)
    notes = [note for note in read_contents(tmp_path, Exclusions(DEFAULT)).notes if not note.startswith("'")]
    assert len(notes) == len(expected)
    assert all(note.startswith(said) for note, said in zip(notes, expected, strict=True))
