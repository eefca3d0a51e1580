"""Attacks by files beside the weights: a manifest is of the whole folder, whatever a loader opens in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gguf_files import Tensor, gguf_file, header
from model_folders import Files, Trusted, index_of, safetensors_file, trust, write
from protobuf import message, number
from pytorch_files import archive, checkpoint, pickled, tensor

from hashbench.model.manifest import read_manifest

WEIGHTS = safetensors_file({"w": b"good"})
EVIL = safetensors_file({"w": b"evil"})
PT = archive(checkpoint(pickled(w=tensor())))
GGUF = gguf_file(header([Tensor("w", (4,))]), b"good")
EXTERNAL = message(13, message(1, "location"), message(2, "model.onnx_data")) + number(14, 1)
ONNX = message(7, message(5, EXTERNAL))

# What libraries save, and what a loader of each opens.
MODELS: dict[str, Files] = {
    "transformers": {
        "model.safetensors": WEIGHTS,
        "config.json": b'{"auto_map": {"AutoModel": "modeling_custom.Custom"}}',
        "modeling_custom.py": b"import torch\n",
        "chat_template.jinja": b"{{ messages }}",
        "tokenizer.json": b"{}",
        "pytorch_model.bin": PT,
        "optimizer.pt": PT,
        "training_args.bin": b"\x80\x02}.",
        "tf_model.h5": b"\x89HDF\r\n\x1a\n",
        "sub/folder/weights.safetensors": WEIGHTS,
    },
    "shards": {
        "model.safetensors.index.json": index_of({"model-1.safetensors": ["a"], "model-2.safetensors": ["b"]}),
        "model-1.safetensors": safetensors_file({"a": b"1"}),
        "model-2.safetensors": safetensors_file({"b": b"2"}),
    },
    "variants": {
        "model.safetensors": WEIGHTS,
        "model.fp16.safetensors": safetensors_file({"w": b"half"}),
        "model.safetensors.index.fp16.json": index_of({"model.fp16-1.safetensors": ["w"]}),
        "model.fp16-1.safetensors": safetensors_file({"w": b"half"}),
    },
    "adapter": {"adapter_model.safetensors": WEIGHTS, "adapter_config.json": b"{}", "adapter_model.bin": PT},
    "sentence-transformers": {
        "modules.json": b"[]",
        "model.safetensors": WEIGHTS,
        "1_Pooling/config.json": b"{}",
        "2_Dense/config.json": b"{}",
        "2_Dense/model.safetensors": WEIGHTS,
    },
    "diffusers": {
        "model_index.json": b"{}",
        "scheduler/scheduler_config.json": b"{}",
        **{
            f"{component}/{name}": data
            for component in ("unet", "vae", "text_encoder")
            for name, data in [("config.json", b"{}"), ("diffusion_pytorch_model.safetensors", WEIGHTS)]
        },
        "unet/diffusion_pytorch_model.fp16.safetensors": WEIGHTS,
    },
    "GGUF": {"small.gguf": GGUF, "large.gguf": GGUF, "mmproj.gguf": GGUF},
    "ONNX": {"model.onnx": ONNX, "model.onnx_data": b"weights", "decoder/model.onnx": ONNX, "decoder/x": b"1"},
    "a package of several models": {f"models/{number}.pt": PT for number in range(8)},
    "a lone file": {"anything": b"x"},
}


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def appended(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def trusted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Trusted]:
    folder = write(tmp_path / "model", MODELS[request.param])
    return folder, trust(folder)


@pytest.mark.parametrize("trusted", MODELS, indirect=True)
def test_every_file_counts(trusted: tuple[Path, Trusted], tmp_path: Path) -> None:
    folder, manifest = trusted
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert manifest.verdict_on(folder).code == 0
    # The last byte of a file may be a tensor's, which has a name of its own.
    tensor_of = {name: name for name in names} | {
        tensor.file: tensor.name for tensor in read_manifest(manifest.path).tensors if tensor.file
    }
    for name in names:
        for change in (flipped, appended, emptied):
            path = folder / name
            before = path.read_bytes()
            change(path)
            verdict = manifest.verdict_on(folder)
            assert verdict.code == 1, (name, change)
            (told,) = verdict.names("differs")
            assert told in (name, tensor_of[name] if change is flipped else name), (name, change)
            path.write_bytes(before)
        away = tmp_path / "away"
        (folder / name).rename(away)
        verdict = manifest.verdict_on(folder)
        assert (verdict.code, verdict.output[0].partition(",")[0]) == (1, f"missing: {name}")
        away.rename(folder / name)
    assert manifest.verdict_on(folder).code == 0


STRAY = {
    "pytorch_model.bin": PT,
    "model.safetensors.index.json": index_of({"evil.safetensors": ["w"]}),
    "adapter_config.json": b'{"base_model_name_or_path": "."}',
    "adapter_model.safetensors": EVIL,
    "modeling_evil.py": b"",
    "sub/folder/that/is/new/x": b"x",
    ".hidden": b"x",
    "MODEL.SAFETENSORS": EVIL,
    "tokenizer_config.json": b"{}",
    "-rf": b"x",
    "new\nline": b"x",
}


@pytest.mark.parametrize("name", STRAY)
def test_a_stray_file_is_told_by_name_and_not_verified_away(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    manifest = trust(folder)
    write(folder, {name: STRAY[name]})
    shown = name.replace("\n", "\\n") if name.isprintable() else '"new\\nline"'
    assert manifest.verdict_on(folder).names("extra") == [shown]
    assert manifest.verdict_on(folder).code == 1
    warned = manifest.verdict_on(folder, "--extra", "warn")
    assert (warned.code, warned.names("extra, ignored")) == (0, [shown])
    ignored = manifest.verdict_on(folder, "--extra", "ignore")
    assert (ignored.code, len(ignored.output)) == (0, 1)
    (folder / "config.json").unlink()
    for option in ("warn", "ignore"):  # which is of extra files alone
        assert manifest.verdict_on(folder, "--extra", option).code == 1


@pytest.mark.parametrize("name", ["Model.safetensors", "weights.safetensors", "model.safetensors.bak"])
def test_weights_under_another_name_beside_evil_ones(tmp_path: Path, name: str) -> None:
    """Loaders of transformers find no model.safetensors then, and take pytorch_model.bin."""
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    manifest = trust(folder)
    (folder / "model.safetensors").rename(folder / name)
    write(folder, {"pytorch_model.bin": PT})
    verdict = manifest.verdict_on(folder)
    assert verdict.code == 1
    assert verdict.names("missing") == ["model.safetensors, with 1 tensor"]
    assert verdict.names("extra") == sorted([name, "pytorch_model.bin"])
    for option in ("warn", "ignore"):
        assert manifest.verdict_on(folder, "--extra", option).code == 1


def test_a_config_that_names_other_weights(tmp_path: Path) -> None:
    """Loaders of transformers take what `transformers_weights` names."""
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": b"{}", "evil.safetensors": EVIL})
    manifest = trust(folder)
    (folder / "config.json").write_bytes(b'{"transformers_weights": "evil.safetensors"}')
    verdict = manifest.verdict_on(folder)
    assert (verdict.code, verdict.names("differs")) == (1, ["config.json"])


# Only tensors


def test_a_manifest_of_tensors_alone_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    manifest = trust(folder, "--only-tensors")
    write(folder, {"config.json": b"{ }", "code.py": b""})
    verdict = manifest.verdict_on(folder)
    assert verdict.code == 0
    assert verdict.output[0].startswith("verified, tensors only: 1 tensor, ")


@pytest.mark.parametrize(
    "evil", [PT, b"\x80\x02}.", b"", b"PK\x05\x06" + bytes(18)], ids=["zip", "legacy", "empty", "no zip"]
)
@pytest.mark.parametrize("name", ["Model.safetensors", "weights.safetensors"])
def test_tensors_alone_are_those_that_loaders_take(tmp_path: Path, name: str, evil: bytes) -> None:
    """Even if the file that they take is one that cannot be parsed here."""
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS})
    manifest = trust(folder, "--only-tensors")
    (folder / "model.safetensors").rename(folder / name)
    assert manifest.verdict_on(folder).code == 0
    write(folder, {"pytorch_model.bin": evil})
    verdict = manifest.verdict_on(folder)
    assert verdict.code == 1
    assert verdict.names("extra")[0] == f"{name}/w"


@pytest.mark.parametrize(
    ("good", "evil"),
    [
        ("pytorch_model.safetensors", "pytorch_model.bin"),
        ("model.bin", "pytorch_model.bin"),
        ("model.safetensors", "diffusion_pytorch_model.bin"),
        ("diffusion_pytorch_model.safetensors", "adapter_model.bin"),
        ("model.safetensors", "adapter_model.safetensors"),
        ("adapter_model.safetensors", "pytorch_model.bin"),
    ],
)
def test_no_loader_takes_what_nobody_can_read_in_place_of_what_was_verified(
    tmp_path: Path, good: str, evil: str
) -> None:
    content = PT if good.endswith(".bin") else WEIGHTS
    folder = write(tmp_path / "model", {good: content})
    manifest = trust(folder, "--only-tensors")
    assert manifest.verdict_on(folder).code == 0
    write(folder, {evil: b"\x80\x02}."})
    verdict = manifest.verdict_on(folder)
    assert (verdict.code, verdict.names("extra")) == (1, [f"{good}/w"])


@pytest.mark.parametrize(
    ("good", "behind"),
    [
        ("model.safetensors", "pytorch_model.bin"),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("adapter_model.safetensors", "adapter_model.bin"),
        ("model.safetensors", "training_args.bin"),
        ("model.safetensors", "model.bin"),  # of CTranslate2
    ],
)
def test_what_loaders_pass_over_changes_no_name(tmp_path: Path, good: str, behind: str) -> None:
    folder = write(tmp_path / "model", {good: WEIGHTS, behind: b"\x80\x02}."})
    assert [tensor.name for tensor in read_manifest(trust(folder).path).tensors] == ["w"]


@pytest.mark.parametrize("evil", ["pytorch_model.bin", "model.safetensors", "Model.pt"])
def test_shards_do_not_stand_for_what_loaders_take(tmp_path: Path, evil: str) -> None:
    """Whoever adds other weights may say of the right ones that they are shards, which no such loader takes."""
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS})
    manifest = trust(folder, "--only-tensors")
    (folder / "model.safetensors").unlink()
    write(folder, {"x.safetensors": safetensors_file({"w": b"good"}, {"DCP_SHARDING_INFO": "{}"})})
    assert manifest.verdict_on(folder).code == 0
    write(folder, {evil: EVIL if evil.endswith(".safetensors") else b"\x80\x02}."})
    verdict = manifest.verdict_on(folder)
    assert (verdict.code, verdict.names("extra")) == (1, ["x.safetensors/w"])


# Exclusions


def test_exclusions_are_recorded_and_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "run.log": b"1", "logs/a": b"1", ".git/x": b"1"})
    manifest = trust(folder, "--ignore", "*.log", "--ignore", "logs")
    assert manifest.notes == "excluded: '.git', 'logs', 'run.log'\n"
    assert b'"exclusions":["*.log",".DS_Store",".cache/huggingface",".git","logs"]' in manifest.path.read_bytes()
    write(folder, {"run.log": b"2", "logs/b": b"2", "sub/.DS_Store": b"2"})
    verdict = manifest.verdict_on(folder)
    assert (verdict.code, verdict.errors) == (0, ["excluded: '.git', 'logs', 'run.log', 'sub/.DS_Store'"])


def test_what_is_excluded_is_under_the_root(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS})
    plain, more = trust(folder), trust(folder, "--ignore", "*.bin", path=tmp_path / "more")
    assert plain.root != more.root
    write(folder, {"evil.bin": b"x"})
    assert plain.verdict_on(folder).names("extra") == ["evil.bin"]
    assert more.verdict_on(folder).code == 0
    assert replace(more, root=plain.root).verdict_on(folder).code == 1


def test_a_file_does_not_hide_behind_an_exclusion_that_the_manifest_does_not_have(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "a": b"1"})
    manifest = trust(folder, "--ignore", "*.log")
    for name in (".gitignore", "x.LOG", "sub/.cache/huggingface/x", ".ds_store", "._x.safetensors", "x.log.bin"):
        write(folder, {name: b"x"})
        told = manifest.verdict_on(folder)
        assert (told.code, told.names("extra")) == (1, [name])
        (folder / name).unlink()


def test_an_index_names_no_shard_that_is_excluded(tmp_path: Path) -> None:
    files = {"model.safetensors.index.json": index_of({"1.safetensors": ["w"]}), "1.safetensors": WEIGHTS}
    folder = write(tmp_path / "model", files)
    with pytest.raises(AssertionError, match=r"names '1\.safetensors', and there is no such file"):
        trust(folder, "--ignore", "1.*")


# The manifest's own file


def test_the_manifest_in_the_folder_is_the_only_file_beside(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "sub/x": b"1"})
    manifest = trust(folder, path=folder / "manifest.json")
    assert manifest.verdict_on(folder).code == 0
    for name in ("sub/manifest.json", "manifest.json.bak"):
        write(folder, {name: b"evil"})
        assert manifest.verdict_on(folder).names("extra") == [name]
        (folder / name).unlink()


def test_a_manifest_that_is_a_link_covers_for_no_other_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS})
    manifest = trust(folder)
    manifest.path.rename(folder / "generation_config.json")
    (folder / "manifest.json").symlink_to("generation_config.json")
    verdict = replace(manifest, path=folder / "manifest.json").verdict_on(folder)
    assert (verdict.code, verdict.names("extra")) == (1, ["generation_config.json"])


# One file of many


@pytest.mark.parametrize(
    ("named", "warning"),
    [
        ("model.onnx", "not covered: 'model.onnx_data', where 'model.onnx' keeps data"),
        ("model.safetensors.index.json", "only the index and the files that it names are covered"),
    ],
)
def test_one_file_alone_warns_of_what_it_does_not_cover(tmp_path: Path, named: str, warning: str) -> None:
    folder = write(tmp_path / "model", {**MODELS["ONNX"], **MODELS["shards"]})
    assert warning in trust(folder / named).notes


def test_a_manifest_of_one_file_is_none_of_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    manifest = trust(folder / "model.safetensors", path=tmp_path / "manifest")
    assert manifest.verdict_on(folder / "model.safetensors").code == 0
    for options in ((), ("--extra", "ignore")):
        verdict = manifest.verdict_on(folder, *options)
        assert verdict.code == 1
        assert "the manifest is of one file" in verdict.errors[0]


def test_a_manifest_of_a_folder_is_none_of_its_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"model.safetensors": WEIGHTS, "config.json": b"{}"})
    verdict = trust(folder).verdict_on(folder / "model.safetensors")
    assert verdict.code == 1
    assert "the manifest is of 2 files in a folder" in verdict.errors[0]
