"""The names of a model's tensors, over the layouts that libraries write."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.model.components import component_of, name_tensors
from hashbench.model.shard_index import weights_named_by

Layout = Mapping[str, list[str]]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"model.safetensors": ["a"]}, ["a"]),
        ({"anything.gguf": ["a"]}, ["a"]),
        (
            {"unet/diffusion_pytorch_model.safetensors": ["a"], "vae/diffusion_pytorch_model.bin": ["a"]},
            ["unet/a", "vae/a"],
        ),
        ({"model.safetensors": ["a"], "2_Dense/model.safetensors": ["a"]}, ["a", "2_Dense/a"]),
        ({"model.safetensors": ["a"], "pytorch_model.bin": ["a"]}, ["a", "pytorch_model.bin/a"]),
        ({"model.safetensors": ["a"], "model.fp16.safetensors": ["a"]}, ["a", "model.fp16.safetensors/a"]),
        ({"model.safetensors": ["a"], "optimizer.pt": ["b"]}, ["a", "optimizer.pt/b"]),
        ({"adapter_model.safetensors": ["a"], "training_args.bin": ["b"]}, ["a", "training_args.bin/b"]),
        ({"small.gguf": ["a"], "large.gguf": ["a"]}, ["small.gguf/a", "large.gguf/a"]),
        ({"pytorch_model.bin": ["a"], "stray.safetensors": ["a"]}, ["a", "stray.safetensors/a"]),
    ],
)
def test_files_by_themselves(files: Layout, names: list[str]) -> None:
    named = name_tensors(files, {})
    assert [named[file][name] for file in files for name in files[file]] == names


def test_an_index_and_its_shards_are_one_group() -> None:
    files = {
        "m-1.safetensors": ["a"],
        "m-2.safetensors": ["b"],
        "m.fp16-1.safetensors": ["a"],
        "other.safetensors": ["c"],
    }
    indexes = {
        "model.safetensors.index.json": {"a": "m-1.safetensors", "b": "m-2.safetensors"},
        "model.safetensors.index.fp16.json": {"a": "m.fp16-1.safetensors"},
    }
    assert name_tensors(files, indexes) == {
        "m-1.safetensors": {"a": "a"},
        "m-2.safetensors": {"b": "b"},
        "m.fp16-1.safetensors": {"a": "model.safetensors.index.fp16.json/a"},
        "other.safetensors": {"c": "other.safetensors/c"},
    }


def test_the_index_decides_which_of_two_tensors_has_the_plain_name() -> None:
    files = {"s-1.bin": ["a", "b"], "s-2.bin": ["a", "b"]}
    named = name_tensors(
        files,
        {"sub/pytorch_model.bin.index.json": {}, "pytorch_model.bin.index.json": {"a": "s-2.bin", "b": "s-1.bin"}},
    )
    assert named == {"s-1.bin": {"a": "s-1.bin/a", "b": "b"}, "s-2.bin": {"a": "a", "b": "s-2.bin/b"}}


def test_what_an_index_leaves_out_of_its_shards_is_named_too() -> None:
    named = name_tensors(
        {"s.safetensors": ["a", "extra"]}, {"model.safetensors.index.json": {"a": "s.safetensors", "gone": "t"}}
    )
    assert named == {"s.safetensors": {"a": "a", "extra": "extra"}}


def test_one_file_goes_before_an_index_of_the_same_weights() -> None:
    files = {"model.safetensors": ["a"], "shard.safetensors": ["a"]}
    named = name_tensors(files, {"model.safetensors.index.json": {"a": "shard.safetensors"}})
    assert named == {"model.safetensors": {"a": "a"}, "shard.safetensors": {"a": "model.safetensors.index.json/a"}}


def test_an_index_in_a_folder_names_files_of_that_folder() -> None:
    files = {"s.safetensors": ["a"], "unet/s.safetensors": ["a"]}
    named = name_tensors(files, {"unet/diffusion_pytorch_model.safetensors.index.json": {"a": "s.safetensors"}})
    assert named == {"s.safetensors": {"a": "a"}, "unet/s.safetensors": {"a": "unet/a"}}


def test_names_that_imitate_others_are_after_their_file() -> None:
    files = {"model.safetensors": ["unet/w", "config.json", "v"], "unet/model.safetensors": ["w"]}
    assert name_tensors(files, {}, ["config.json", *files]) == {
        "model.safetensors": {
            "unet/w": "model.safetensors/unet/w",
            "config.json": "model.safetensors/config.json",
            "v": "v",
        },
        "unet/model.safetensors": {"w": "unet/model.safetensors/w"},
    }
    # The second name gives way to the file's, and so the first is not unique either.
    files = {"b": ["x"], "x": ["b/x", "x"]}
    assert name_tensors(files, {}, files) == {"b": {"x": "b/x"}, "x": {"b/x": "x/b/x", "x": "x/x"}}


PATHS = st.sampled_from(["model.safetensors", "s-1.bin", "s-2.bin", "x/model.bin", "x/y.gguf", "x/s-1.bin"])
INDEXES = st.sampled_from(
    ["model.safetensors.index.json", "x/model.bin.index.json", "model.safetensors.index.fp16.json"]
)
NAMES = st.sampled_from(["a", "b", "x/a", "x/y.gguf/a", "s-1.bin", "model.safetensors.index.json/a"])


@given(
    st.dictionaries(PATHS, st.lists(NAMES, unique=True)),
    st.dictionaries(INDEXES, st.dictionaries(NAMES, st.sampled_from(["s-1.bin", "s-2.bin", "model.bin", "gone"]))),
)
def test_every_tensor_has_a_name_of_its_own(files: dict[str, list[str]], indexes: dict[str, dict[str, str]]) -> None:
    paths = {*files, *indexes}
    named = name_tensors(files, indexes, paths)
    assert {file: list(names) for file, names in named.items()} == files
    names = list(chain.from_iterable(names.values() for names in named.values()))
    assert len({*names, *paths}) == len(names) + len(paths)
    for file, names_in in named.items():
        for name in names_in.values():
            component = component_of(name, file, paths)
            assert name.startswith(f"{component}/" if component else "")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("model.safetensors.index.json", "model.safetensors"),
        ("model.safetensors.index.fp16.json", "model.fp16.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model.bin"),
        ("odd.index.json", "odd"),
        ("odd.index.v.json", "odd.v"),
        ("config.json", None),
        ("index.json", None),
        ("model.safetensors.index.json.bak", None),
    ],
)
def test_the_weights_that_an_index_is_of(name: str, weights: str | None) -> None:
    assert weights_named_by(name) == weights
