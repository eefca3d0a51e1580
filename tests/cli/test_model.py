"""`hashbench manifest` and `hashbench verify` as their users see them: output, exit codes and one-line errors."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

import hashbench
from hashbench.cli import main as cli
from hashbench.hashing import selection
from hashbench.hashing.hasher import Hasher
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model import disk
from hashbench.model.contents import read_contents
from hashbench.model.manifest import Manifest, TensorEntry, parse_manifest, read_manifest

TENSORS: dict[str, npt.NDArray[Any]] = {
    "layers.0.weight": np.arange(30_000, dtype=np.float32).reshape(100, 300),
    "layers.0.bias": np.arange(3, dtype=np.float16),
    "layers.1.weight": np.arange(5_000, dtype=np.int64),
    "empty": np.empty((0, 7), np.uint8),
    "scalar": np.array(1.5),
}
FILES = {"config.json": b"{}", "sub/vocabulary.txt": bytes(range(256)) * 100, ".hidden": b""}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs a command with hashlib: its exit code, output and errors."""

    def call(command: str, *arguments: str | Path, kernel: str = "hashlib") -> tuple[int, str, str]:
        code = cli.run([command, "--kernel", kernel, *map(str, arguments)])
        output, errors = capsysbinary.readouterr()
        return code, output.decode(), errors.decode()

    return call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "folder"
    for name, data in FILES.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top


def write_shards(folder: Path) -> dict[str, str]:
    """The model in two shards with an index; returns each tensor's shard."""
    folder.mkdir()
    shard_of = {name: f"model-{place % 2}.safetensors" for place, name in enumerate(TENSORS)}
    for shard in set(shard_of.values()):
        save_file({name: TENSORS[name] for name in TENSORS if shard_of[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of}))
    return shard_of


def flip(path: Path, place: int) -> None:
    """Flips a bit of a file; a negative place counts from its end."""
    data = bytearray(path.read_bytes())
    data[place] ^= 8
    path.write_bytes(data)


def the_error(result: tuple[int, str, str]) -> str:
    """The one line of an unusable call."""
    code, output, errors = result
    assert (code, output) == (2, ""), errors
    (line,) = errors.splitlines()
    assert line.startswith("hashbench: ")
    return line.removeprefix("hashbench: ")


# Manifests


FASTEST = selection.available()[0].kernel
OF_FASTEST = (pytest.mark.covers(FASTEST), pytest.mark.xdist_group(FASTEST))


@pytest.mark.parametrize("name", ["hashlib", pytest.param(FASTEST, marks=OF_FASTEST)])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_a_tensor_has_the_root_of_its_bytes(run: Run, model: Path, name: str, algorithm: str) -> None:
    path = model.with_name("manifest")
    options = ("--algorithm", algorithm, "--chunk-size", "1KiB")
    code, output, errors = run("manifest", model, "-o", path, *options, kernel=name)
    assert (code, errors) == (0, "")
    written = read_manifest(path)
    size = model.stat().st_size
    assert output == f"1 file with 5 tensors, {size:,} bytes, {algorithm} root {written.root.hex()}\n"
    assert (written.algorithm, written.chunk_size) == (algorithm, 1024)
    wanted = {key: tensor.tobytes() for key, tensor in TENSORS.items()} | {model.name: model.read_bytes()[:-160_014]}
    assert {entry.name: entry.root for entry in written.entries} == {
        key: merkle_tree_hash(chunks_of(data, 1024), algorithm) for key, data in wanted.items()
    }
    code, output, errors = run("verify", model, path, kernel=name)
    assert (code, errors) == (0, "")
    assert output == f"verified: 1 file with 5 tensors, {size:,} bytes, {algorithm} root {written.root.hex()}\n"


def test_a_manifest_goes_to_standard_output_unless_told_otherwise(run: Run, model: Path) -> None:
    path = model.with_name("manifest")
    code, summary, _ = run("manifest", model, "-o", path)
    assert code == 0
    for arguments in ((), ("-o", "-")):
        assert run("manifest", model, *arguments) == (0, path.read_text(), summary)


def tensors_of(text: str) -> dict[str, TensorEntry]:
    """The tensors of a manifest, by name."""
    return {tensor.name: tensor for tensor in parse_manifest(text.encode()).tensors}


def test_a_tensor_is_the_same_in_every_format(run: Run, model: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    sharded, path = tmp_path / "sharded", tmp_path / "model.pt"
    shard_of = write_shards(sharded)
    torch.save({name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()} | {"step": 7}, path)
    wanted = tensors_of(run("manifest", model)[1])
    assert wanted.keys() == TENSORS.keys()
    for other in (sharded, sharded / "model.safetensors.index.json", path):
        assert tensors_of(run("manifest", other)[1]) == wanted
    flip(sharded / shard_of["layers.1.weight"], -1)
    assert tensors_of(run("manifest", sharded)[1]) != wanted


def test_tensors_alone_are_verified_in_any_format(run: Run, model: Path, tmp_path: Path) -> None:
    sharded, manifest = tmp_path / "sharded", tmp_path / "manifest"
    shard_of = write_shards(sharded)
    code, output, _ = run("manifest", model, "-o", manifest, "--only-tensors")
    assert (code, output[:25]) == (0, "5 tensors, 160,014 bytes,")
    for place in (model, sharded):
        assert run("verify", place, manifest)[:2] == (0, f"verified, tensors only: {output}")
    weights = sharded / shard_of["layers.1.weight"]
    flip(weights, weights.read_bytes().index(TENSORS["layers.1.weight"].tobytes()))
    assert run("verify", sharded, manifest)[:2] == (1, "differs: layers.1.weight: other bytes\n")
    (sharded / shard_of["layers.1.weight"]).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    code, output, errors = run("verify", sharded, manifest)
    assert code == 1
    assert "missing: layers.1.weight" in output.splitlines()
    assert "not covered: it is a Git LFS pointer" in errors
    for path in sharded.iterdir():
        path.write_text("{}")
    code, output, errors = run("verify", sharded, manifest)
    assert (code, output) == (1, "")
    assert "the manifest is of tensors alone, and no file of " in errors
    assert "has no tensors: there is nothing to hash" in the_error(run("manifest", sharded, "--only-tensors"))


def test_any_folder_has_an_entry_for_each_file(run: Run, folder: Path) -> None:
    path = folder.with_name("manifest")
    code, output, _ = run("manifest", folder, "-o", path)
    assert code == 0
    assert output.startswith(f"3 files, {sum(map(len, FILES.values())):,} bytes, sha256 root ")
    assert {entry.name: entry.root for entry in read_manifest(path).entries} == {
        name: merkle_tree_hash(chunks_of(data, 4096), "sha256") for name, data in FILES.items()
    }
    assert run("verify", folder, path)[:2] == (0, f"verified: {output}")


def test_what_is_left_out_is_recorded_and_printed(run: Run, folder: Path) -> None:
    path = folder.with_name("manifest")
    (folder / ".git").mkdir()
    for name in (".git/HEAD", ".DS_Store", "notes[1].txt", "sub/notes.txt"):
        (folder / name).write_text("x")
    code, output, errors = run("manifest", folder, "-o", path, "--ignore", "notes*.txt")
    assert (code, errors) == (0, "excluded: '.DS_Store', '.git', 'notes[1].txt', 'sub/notes.txt'\n")
    manifest = read_manifest(path)
    assert manifest.exclusions == (".DS_Store", ".cache/huggingface", ".git", "notes*.txt")
    assert [file.path for file in manifest.files] == sorted(FILES)
    assert run("verify", folder, path) == (0, f"verified: {output}", errors)
    assert "the pattern '../x' is not accepted" in the_error(run("manifest", folder, "--ignore", "../x"))


@pytest.mark.parametrize("extra", ["fail", "warn", "ignore"])
def test_files_that_the_manifest_does_not_list(run: Run, folder: Path, extra: str) -> None:
    path = folder.with_name("manifest")
    output = run("manifest", folder, "-o", path)[1]
    (folder / "pytorch_model.bin").write_bytes(b"evil")
    wanted = {
        "fail": (1, "extra: pytorch_model.bin\n", ""),
        "warn": (0, f"verified: {output}extra, ignored: pytorch_model.bin\n", ""),
        "ignore": (0, f"verified: {output}", ""),
    }
    assert run("verify", folder, path, "--extra", extra) == wanted[extra]
    (folder / "config.json").unlink()
    assert run("verify", folder, path, "--extra", extra)[0] == 1


def test_a_manifest_may_lie_in_its_folder(run: Run, folder: Path) -> None:
    outside, inside = folder.with_name("manifest"), folder / "sub" / "a[1]"
    for path in (outside, inside, inside):
        assert run("manifest", folder, "-o", path)[0] == 0
    assert read_manifest(inside).entries == read_manifest(outside).entries
    assert "/sub/a[[]1]" in read_manifest(inside).exclusions
    assert run("verify", folder, inside)[0] == 0
    assert run("verify", folder, outside)[:2] == (1, "extra: sub/a[1]\n")
    outside.write_bytes(inside.read_bytes())
    assert run("verify", folder, outside)[0] == 0


def test_an_older_manifest_in_the_folder_stays_left_out(run: Run, folder: Path) -> None:
    old, new = folder / "sub" / "manifest", folder.with_name("new")
    run("manifest", folder, "-o", old)
    before = old.read_bytes()
    assert run("manifest", folder, "--update", old, "-o", new)[0] == 0
    assert new.read_bytes() == before
    flip(folder / "config.json", 0)
    arguments = ("--update", folder / "sub" / ".." / "sub" / "manifest", "--changed", "config.json")
    assert run("manifest", folder, "-o", old, *arguments)[0] == 0
    assert run("verify", folder, old)[0] == 0
    stranger = folder / "stranger"
    stranger.write_bytes(before)
    assert the_error(run("manifest", folder, "--update", stranger)).startswith(
        f"{stranger} would be a file of the model: "
    )


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_a_command_prints_to_a_file_in_the_model_is_left_out(folder: Path, stream: str) -> None:
    place = folder / "sub" / "m.json"
    command = [sys.executable, "-P", "-m", "hashbench", "manifest", "--kernel", "hashlib", "."]
    with place.open("wb") as file:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: file}
        done = subprocess.run(command, cwd=folder, check=True, **streams)
    manifest = parse_manifest(place.read_bytes() if stream == "stdout" else done.stdout)
    assert "/sub/m.json" in manifest.exclusions
    assert {file.path for file in manifest.files} == FILES.keys()


def test_a_manifest_from_standard_input(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = run("manifest", folder)[1]

    def typed(data: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data.encode())))

    typed(text)
    assert run("verify", folder, "-")[0] == 0
    typed(text)
    assert run("manifest", folder, "--update", "-")[1] == text
    typed(text[1:])
    assert "standard input is not a valid manifest: not valid JSON" in the_error(run("verify", folder, "-"))


def test_verdicts_as_json_follow_their_schema(run: Run, folder: Path, model: Path) -> None:
    schema = json.loads(files("hashbench.model").joinpath("verdict.schema.json").read_text())
    jsonschema_rs.meta.validate(schema)

    def verdict(*arguments: Path | str) -> tuple[int, dict[str, Any]]:
        code, output, _ = run("verify", "--json", *arguments)
        found = json.loads(output)
        jsonschema_rs.validate(schema, found)
        return code, found

    manifest, sidecar = folder.with_name("manifest"), folder.with_name("leaves")
    code, output, _ = run("manifest", folder, "-o", manifest, "--leaves", sidecar, "--json")
    told = json.loads(output)
    assert (code, told["root"], told["files"], told["notes"]) == (0, read_manifest(manifest).root.hex(), 3, [])
    code, good = verdict(folder, manifest)
    assert (code, good["verified"], good["root"], good["files"]) == (0, True, told["root"], 3)
    (folder / "config.json").write_bytes(b"[]")
    (folder / ".hidden").unlink()
    (folder / "evil").touch()
    code, bad = verdict(folder, manifest, "--leaves", sidecar)
    assert (code, bad["verified"], bad["missing"], bad["extra"]) == (1, False, [".hidden"], ["evil"])
    size = {"size": 2}
    assert bad["differs"] == [{"name": "config.json", "expected": size, "found": size, "chunks": [[0, 1]]}]
    assert bad["counts"] == {"differs": 1, "missing": 1, "extra": 1, "ignored": 0, "unreadable": 0}
    code, failed = verdict(model, manifest, "--root", "00" * 32)
    assert (code, failed["verified"]) == (1, False)
    assert "is not trusted" in failed["problems"][0]


def test_quiet_commands_print_what_is_wrong_alone(run: Run, folder: Path) -> None:
    manifest = folder.with_name("manifest")
    (folder / ".git").mkdir()
    assert run("manifest", folder, "-o", manifest, "-q") == (0, "", "")
    assert run("verify", folder, manifest, "--quiet") == (0, "", "")
    (folder / "evil").touch()
    assert run("verify", folder, manifest, "--quiet") == (1, "extra: evil\n", "")
    assert "--json needs -o" in the_error(run("manifest", folder, "--json"))


# Updates


def test_an_update_hashes_what_is_named_and_what_is_new(run: Run, model: Path) -> None:
    old, new = model.with_name("old"), model.with_name("new")
    run("manifest", model, "-o", old, "--chunk-size", "64", "--algorithm", "sha384")
    changed = {name: tensor.copy() for name, tensor in TENSORS.items() if name != "scalar"}
    changed["layers.0.weight"][3, 3] = -1
    changed["layers.0.bias"] = changed["layers.0.bias"].view(np.uint16)
    changed["more"] = np.ones(5)
    save_file(changed, model)

    code, output, _ = run("manifest", model, "-o", new, "--update", old, "--changed", "layers.0.weight")
    assert code == 0
    assert output.splitlines()[1] == f"hashed 4, taken from {old} 2"
    anew = model.with_name("anew")
    run("manifest", model, "-o", anew, "--chunk-size", "64", "--algorithm", "sha384")
    assert new.read_bytes() == anew.read_bytes()

    changed["layers.1.weight"][0] = -1  # is taken at its old word, because nobody named it
    save_file(changed, model)
    assert run("manifest", model, "-o", new, "--update", new)[1].splitlines()[1] == f"hashed 0, taken from {new} 6"
    assert new.read_bytes() == anew.read_bytes()
    code, output, _ = run("verify", model, new)
    assert (code, output) == (1, "differs: layers.1.weight: other bytes\n")


def test_an_update_that_is_misused_is_refused(run: Run, model: Path) -> None:
    old = model.with_name("old")
    run("manifest", model, "-o", old)
    for arguments, error in (
        (("--changed", "empty"), "--changed can only be used with --update"),
        (
            ("--update", old, "--changed", "nothing"),
            "the model has no tensor or file 'nothing' that could",
        ),
        (("--update", old, "--leaves", model.with_name("leaves")), "--leaves cannot be used with --update"),
        (("--update", old, "--algorithm", "sha384"), "the older manifest's algorithm is sha256, not sha384"),
        (("--update", old, "--chunk-size", "8KiB"), "the older manifest's chunk size is 4096, not 8192"),
        (("--update", model), "is not a valid manifest"),
    ):
        assert error in the_error(run("manifest", model, *arguments))


# Verification


@pytest.mark.parametrize("leaves", [False, True])
def test_damage_is_reported_and_with_leaf_hashes_its_place(run: Run, model: Path, leaves: bool) -> None:
    manifest, sidecar = model.with_name("manifest"), model.with_name("leaves")
    assert run("manifest", model, "-o", manifest, "--leaves", sidecar)[0] == 0
    options = ("--leaves", sidecar) if leaves else ()
    assert run("verify", model, manifest, *options)[0] == 0

    changed = {name: tensor.copy() for name, tensor in TENSORS.items()}
    for place in (1023, 1024, 20_000, 29_999):
        changed["layers.0.weight"].reshape(-1)[place] += 1
    changed["more"] = changed.pop("scalar").view(np.int64)  # of the same size, so that all others stay where they are
    save_file(changed, model)
    places = " in 4 of 30 chunks: 0-1 [0:8192], 19 [77824:81920], 29 [118784:120000]" if leaves else ""
    header = " in 1 of 1 chunks: 0 [0:SIZE]".replace("SIZE", str(model.stat().st_size - 160_014)) if leaves else ""
    code, output, errors = run("verify", model, manifest, *options)
    assert (code, errors) == (1, "")
    assert output.splitlines() == [
        f"differs: layers.0.weight: other bytes{places}",
        f"differs: model.safetensors: other bytes{header or ' outside its tensors'}",
    ]
    save_file({**changed, "last": np.zeros(3)}, model)
    code, output, errors = run("verify", model, manifest, *options)
    assert (code, errors) == (1, "")
    sizes = f"size {model.stat().st_size}, not {read_manifest(manifest).files[0].nbytes}"
    assert output == f"differs: model.safetensors: {sizes}; not hashed, with 5 tensors\n"


@pytest.mark.parametrize("piece_size", [4096, 16384, 1 << 20])
def test_damage_is_located_however_the_tensor_is_cut(
    run: Run, model: Path, piece_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "Hasher", lambda kernel, chunk_size: Hasher(kernel, chunk_size, piece_size))
    manifest, sidecar = model.with_name("manifest"), model.with_name("leaves")
    run("manifest", model, "-o", manifest, "--leaves", sidecar)
    changed = {name: tensor.copy() for name, tensor in TENSORS.items()}
    changed["layers.1.weight"][512 * 5] += 1
    save_file(changed, model)
    code, output, _ = run("verify", model, manifest, "--leaves", sidecar)
    assert (code, output) == (1, "differs: layers.1.weight: other bytes in 1 of 10 chunks: 5 [20480:24576]\n")


def test_files_that_differ_are_reported(run: Run, folder: Path) -> None:
    manifest, sidecar = folder.with_name("manifest"), folder.with_name("leaves")
    run("manifest", folder, "-o", manifest, "--leaves", sidecar)
    (folder / "config.json").write_bytes(b"{ }")
    flip(folder / "sub/vocabulary.txt", 5000)
    (folder / ".hidden").unlink()
    (folder / "new\nline").touch()
    code, output, _ = run("verify", folder, manifest, "--leaves", sidecar)
    assert code == 1
    assert output.splitlines() == [
        "differs: config.json: size 3, not 2; not hashed",
        "differs: sub/vocabulary.txt: other bytes in 1 of 7 chunks: 1 [4096:8192]",
        "missing: .hidden",
        r'extra: "new\nline"',
    ]


def test_leaf_hashes_that_cannot_be_used_are_refused(run: Run, model: Path) -> None:
    manifest, sidecar = model.with_name("manifest"), model.with_name("leaves")
    run("manifest", model, "-o", manifest, "--leaves", sidecar)
    for unusable in (model, "missing"):
        assert run("verify", model, manifest, "--leaves", unusable)[0] == 0  # nothing of it was needed

    for name, leaves in load_file(sidecar).items():
        if name == "layers.1.weight":
            place = sidecar.read_bytes().index(leaves.tobytes())
    flip(sidecar, place)
    assert run("verify", model, manifest, "--leaves", sidecar)[0] == 0  # nothing of it was needed
    flip(model, model.read_bytes().index(TENSORS["layers.1.weight"].tobytes()))
    # The verdict comes first, and does not hang on what would locate the damage.
    for unusable, error in (
        (sidecar, f"{sidecar} is damaged: the leaf hashes of 'layers.1.weight' do not have its root"),
        (model, f"{model} is not the sidecar of this manifest: its metadata has another root, or none"),
        (manifest, f"{manifest} is not a valid safetensors file: "),
        (model.parent, "Is a directory"),
        ("missing", "No such file or directory: 'missing'"),
    ):
        code, output, errors = run("verify", model, manifest, "--leaves", unusable)
        assert (code, output) == (1, "differs: layers.1.weight: other bytes\n")
        assert errors.startswith("hashbench: cannot tell which chunks differ: ")
        assert error in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize("how", ["truncated", "missing", "folder"])
def test_other_shards_are_verified_where_one_cannot_be_read(run: Run, tmp_path: Path, how: str) -> None:
    folder, manifest = tmp_path / "sharded", tmp_path / "manifest"
    shard_of = write_shards(folder)
    run("manifest", folder, "-o", manifest)
    shard = folder / shard_of["layers.0.weight"]
    size = shard.stat().st_size
    tensors = f"with {sum(place == shard.name for place in shard_of.values())} tensors"
    if how == "truncated":
        os.truncate(shard, 1000)
        line = f"differs: {shard.name}: size 1000, not {size}; not hashed, {tensors}"
        code, _, errors = run("manifest", folder)
        assert code == 0
        assert errors.startswith(f"'{shard.name}': hashed as a plain file: {shard} is not a valid safetensors file: ")
    else:
        shard.unlink()
        if how == "folder":
            shard.mkdir()
        line = f"missing: {shard.name}, {tensors}"
        error = the_error(run("manifest", folder))
        assert f"'model.safetensors.index.json' names '{shard.name}', and there is no such file" in error
    other = folder / shard_of["layers.0.bias"]
    flip(other, other.read_bytes().index(TENSORS["layers.0.bias"].tobytes()))
    code, output, errors = run("verify", folder, manifest)
    assert (code, errors) == (1, "")
    assert output.splitlines() == ["differs: layers.0.bias: other bytes", line]


def test_a_manifest_of_one_file_is_not_of_its_folder(run: Run, tmp_path: Path) -> None:
    folder, manifest = tmp_path / "sharded", tmp_path / "manifest"
    shard_of = write_shards(folder)
    good = folder / shard_of["layers.0.weight"]
    run("manifest", good, "-o", manifest)
    assert run("verify", good, manifest)[0] == 0
    code, output, errors = run("verify", folder, manifest)
    advice = f"verify '{good.name}' in {folder}, or make one of the folder"
    assert (code, errors) == (1, f"hashbench: the manifest is of one file: {advice}\n")
    assert all(line.startswith("extra: ") for line in output.splitlines())
    run("manifest", folder, "-o", manifest)
    code, output, errors = run("verify", good, manifest)
    assert (code, output) == (1, "")
    assert errors == f"hashbench: the manifest is of 3 files in a folder, and {good} is one file\n"


def test_a_model_that_is_not_valid_is_not_what_its_manifest_says(run: Run, model: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    run("manifest", model, "-o", manifest)
    size = model.stat().st_size
    os.truncate(model, 1000)
    line = f"differs: model.safetensors: size 1000, not {size}; not hashed, with 5 tensors\n"
    assert run("verify", model, manifest) == (1, line, "")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{")
    code, output, errors = run("verify", index, manifest)
    assert (code, errors) == (1, "")
    assert output.startswith("differs: model.safetensors: size 1, not ")


def test_a_manifest_is_checked_against_the_root_that_is_trusted(run: Run, model: Path) -> None:
    manifest = model.with_name("manifest")
    run("manifest", model, "-o", manifest)
    root = read_manifest(manifest).root.hex()
    for trusted in (root, root.upper()):
        assert run("verify", model, manifest, "--root", trusted)[0] == 0
    for other in (root[:-1] + "f0"[root[-1] == "f"], root[:-2]):
        error = f"hashbench: {manifest} is not trusted: its root is {root}, not {other}\n"
        assert run("verify", model, manifest, "--root", other) == (1, "", error)
    assert "'xyz' is not a root: write hexadecimal digits" in the_error(run("verify", model, manifest, "--root", "xyz"))


# What is the same, and what changes


def test_tied_tensors_and_linked_files_are_hashed_once(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    hashed: list[int] = []
    roots = Hasher.roots

    def counted(hasher: Hasher, sources: Any, *arguments: Any) -> list[bytes]:
        hashed.append(sum(source.nbytes for source in sources))
        return roots(hasher, sources, *arguments)

    monkeypatch.setattr(Hasher, "roots", counted)
    tied = torch.arange(10_000)
    torch.save({"wte": tied, "lm_head": tied, "half": tied[:5000], "other": tied.clone()}, tmp_path / "model.pt")
    (folder / "link").symlink_to("sub/vocabulary.txt")
    for model, once, name, same in (
        (tmp_path / "model.pt", 200_000 + (tmp_path / "model.pt").stat().st_size - 160_000, "wte", "lm_head"),
        (folder, sum(map(len, FILES.values())), "link", "sub/vocabulary.txt"),
    ):
        manifest, sidecar = tmp_path / "manifest", tmp_path / "leaves"
        assert run("manifest", model, "-o", manifest, "--leaves", sidecar)[0] == 0
        assert hashed == [once]
        entries = {entry.name: entry for entry in read_manifest(manifest).entries}
        assert entries[name].root == entries[same].root
        leaves = load_file(sidecar)
        assert leaves[name].tobytes() == leaves[same].tobytes()
        assert len(leaves[name]) == -(-entries[name].nbytes // 4096)
        assert run("verify", model, manifest)[0] == 0
        hashed.clear()


@pytest.mark.parametrize("what", ["model.safetensors", "empty.safetensors", "index", "checkpoint"])
def test_a_model_that_changes_after_it_was_opened_is_refused(
    run: Run, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / what
    if what == "index":
        write_shards(tmp_path / "sharded")
        path = tmp_path / "sharded" / "model.safetensors.index.json"
    elif what == "checkpoint":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        path = tmp_path / "model.pt"
        torch.save({"a": torch.ones(3)}, path)
    else:
        save_file({"empty": TENSORS["empty"]} if what.startswith("empty") else TENSORS, path)

    def changing(*arguments: Any, **keywords: Any) -> Any:
        contents = read_contents(*arguments, **keywords)
        path.with_name("other").write_bytes(path.read_bytes())
        path.with_name("other").replace(path)
        return contents

    assert run("manifest", path)[0] == 0
    monkeypatch.setattr(disk, "read_contents", changing)
    assert the_error(run("manifest", path)) == f"{path}: the file was replaced while it was read"


# What is refused, and how it is written


def test_what_is_not_usable_is_one_line(run: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest"
    run("manifest", model, "-o", manifest)
    missing = tmp_path / "missing"
    assert the_error(run("manifest", missing)) == f"{missing}: No such file or directory"
    assert the_error(run("verify", missing, manifest)) == f"{missing}: No such file or directory"
    assert the_error(run("verify", model, missing)) == f"{missing}: No such file or directory"
    assert "is not a valid manifest" in the_error(run("verify", model, folder / "config.json"))
    assert "chunk size 100 is not accepted" in the_error(run("manifest", model, "--chunk-size", "100"))
    assert "unknown device 'gpu:99'" in the_error(run("verify", model, manifest, "--device", "gpu:99"))
    flip(manifest, manifest.read_bytes().index(b'"root"') + 10)
    assert "is not a valid manifest" in the_error(run("verify", model, manifest))
    os.truncate(model, 0)
    assert the_error(run("manifest", model)) == f"{model} has no bytes: there is nothing to hash"


def test_nothing_of_the_model_is_overwritten(run: Run, model: Path, folder: Path, tmp_path: Path) -> None:
    before = model.read_bytes()
    for output, kind in (("-o", "manifest"), ("--leaves", "file of leaf hashes")):
        error = the_error(run("manifest", model, output, model))
        assert error.startswith(f"{model} exists and is not a {kind}: it is not overwritten")
        assert "cannot be written" in the_error(run("manifest", model, output, tmp_path))
        assert "cannot be written" in the_error(run("manifest", model, output, tmp_path / "nowhere" / "file"))
    assert "it is not overwritten" in the_error(run("manifest", folder, "-o", folder / "config.json"))
    assert "it must be outside" in the_error(run("manifest", folder, "--leaves", folder / "leaves"))
    both = tmp_path / "both"
    other_way = tmp_path / "folder" / ".." / "both"
    for leaves in (both, other_way):
        assert "cannot be both" in the_error(run("manifest", model, "-o", both, "--leaves", leaves))
    like_a_sidecar = tmp_path / "like.safetensors"
    save_file(TENSORS, like_a_sidecar, metadata={"root": "any", "algorithm": "sha256", "chunk_size": "4096"})
    assert "it is not overwritten" in the_error(run("manifest", like_a_sidecar, "--leaves", like_a_sidecar))
    like_a_sidecar.unlink()
    assert model.read_bytes() == before
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == FILES.keys()
    assert sorted(tmp_path.iterdir()) == [folder, model]


def test_nothing_beside_the_model_is_overwritten(run: Run, model: Path, tmp_path: Path) -> None:
    snapshot, other, sidecar = tmp_path / "snapshot", tmp_path / "other", tmp_path / "sidecar"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(f"../{model.name}")
    for path in (other, snapshot / "config.json"):
        path.write_text("{}")
        assert "it is not overwritten" in the_error(run("manifest", snapshot / "model.safetensors", "-o", path))
        assert path.read_text() == "{}"
    assert run("manifest", model, "--leaves", sidecar)[0] == 0
    before = sidecar.read_bytes()
    assert run("manifest", model, "--leaves", sidecar)[0] == 0  # an older one is
    assert "it is not overwritten" in the_error(run("manifest", sidecar, "--leaves", sidecar))  # if not the model too
    assert sidecar.read_bytes() == before


def test_nothing_hides_in_a_folder_beside_its_manifest(run: Run, folder: Path) -> None:
    manifest = folder / "manifest.json"
    assert run("manifest", folder, "-o", manifest)[0] == 0
    (folder / "modeling.py").symlink_to(manifest.name)
    assert run("verify", folder, manifest)[:2] == (1, "extra: modeling.py\n")
    (folder / "modeling.py").unlink()
    (folder / "modeling.py").write_text("import os")
    assert run("verify", folder, manifest)[:2] == (1, "extra: modeling.py\n")
    code, output, error = run("verify", folder, manifest, "--leaves", folder / "modeling.py")
    assert (code, output) == (2, "")
    assert "it must be outside" in error


def test_an_index_that_does_not_place_tensors_where_they_are_is_reported(run: Run, tmp_path: Path) -> None:
    shards, manifest = tmp_path / "shards", tmp_path / "manifest.json"
    shard_of = write_shards(shards)
    assert run("manifest", shards, "-o", manifest)[0] == 0
    index = shards / "model.safetensors.index.json"
    first = "scalar"
    second = next(name for name in TENSORS if shard_of[name] != shard_of[first])
    swapped = shard_of | {first: shard_of[second], second: shard_of[first]}
    without = {name: shard for name, shard in shard_of.items() if name != first}
    assert shard_of[first] != shard_of[second]
    for weight_map, said in (
        (swapped, "lists tensors that are not where it says: 'layers.0.bias', 'scalar'"),
        (without, "does not list all tensors of its files; covered too: 'scalar'"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        code, output, _ = run("verify", shards, manifest)
        assert code == 1
        assert output.startswith("differs: model.safetensors.index.json: ")
        code, text, errors = run("manifest", shards)
        assert code == 0
        assert f"'model.safetensors.index.json' {said}\n" in errors
        assert {"scalar", "layers.0.bias"} <= tensors_of(text).keys()


def test_a_manifest_that_fails_leaves_no_file(run: Run, folder: Path) -> None:
    (folder / "sub/vocabulary.txt").write_bytes(bytes(1 << 20))
    code = """if True:
        import os, sys
        from hashbench.cli import main as cli
        from hashbench.hashing.hasher import Hasher
        roots = Hasher.roots
        def shrinking(hasher, sources, *arguments):
            os.truncate(sys.argv[2] + "/sub/vocabulary.txt", 1000)
            return roots(hasher, sources, *arguments)
        Hasher.roots = shrinking
        sys.exit(cli.run(sys.argv[1:]))
    """
    outputs = [folder.with_name(name) for name in ("manifest", "leaves")]
    arguments = ["manifest", str(folder), "--kernel", "hashlib", "-o", str(outputs[0]), "--leaves", str(outputs[1])]
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    error = f"hashbench: {folder.resolve()}/sub/vocabulary.txt: the file shrank while it was read\n"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", error)
    assert list(folder.parent.iterdir()) == [folder]


def test_one_bar_shows_how_far_it_is(model: Path) -> None:
    manifest = model.with_name("manifest")
    command = [sys.executable, "-m", "hashbench", "manifest", "--kernel", "hashlib", str(model), "-o", str(manifest)]
    terminal, end = pty.openpty()
    with os.fdopen(terminal, "rb", buffering=0) as shown:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=end, check=True)
        os.close(end)
        text = shown.read(1 << 16)
    assert b"model.safetensors" in text
    assert b"160.4/160.4 kB" in text


@pytest.mark.parametrize("command", ["manifest", "verify"])
def test_help_is_good(command: str, run: Run) -> None:
    code, output, errors = run(command, "--help")
    assert (code, errors) == (0, "")
    assert f"Usage: hashbench {command}" in output


@pytest.mark.parametrize(
    "arguments", [["manifest", ""], ["verify", "", "m"], ["verify", "m", ""], ["verify", "m", "m", "--signature", ""]]
)
def test_an_empty_path_is_not_the_working_directory(run: Run, arguments: list[str]) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert "an empty path is not accepted" in errors


def test_an_empty_path_is_no_model() -> None:
    expected = Manifest("sha256", 4096, ())
    for call in (lambda: hashbench.manifest(""), lambda: hashbench.verify("", expected)):
        with pytest.raises(FileNotFoundError, match="No such file or directory: ''"):
            call()
