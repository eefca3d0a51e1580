"""`hashbench prove` and `hashbench check-proof`: proofs, verdicts and one-line errors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from hashbench.cli.main import run
from hashbench.hashing import selection
from hashbench.model.manifest import read_manifest
from hashbench.model.proofs import read_proof

HASHLIB = ("--kernel", "hashlib")
WEIGHTS: dict[str, npt.NDArray[Any]] = {
    "embedding": np.frombuffer(hashlib.shake_128(b"embedding").digest(40_000), np.uint8)
    .view(np.float16)
    .reshape(40, 500),
    "layer.0.weight": np.arange(5000, dtype=np.float32),
    "layer.0.bias": np.zeros(0, np.float32),
    "scale": np.ones((), np.float64),
}
FASTEST = selection.available()[0].kernel


class Shell:
    """The command line, and a model of two shards with its manifest and the hashes of its chunks."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str], algorithm: str = "sha256") -> None:
        self._capfd = capfd
        self.folder = folder
        self.model = folder / "model"
        self.model.mkdir()
        self.manifest = folder / "manifest.json"
        self.leaves = folder / "leaves.safetensors"
        self.proof = folder / "proof.json"
        shards = {"1.safetensors": ["embedding", "layer.0.bias"], "2.safetensors": ["layer.0.weight", "scale"]}
        for shard, names in shards.items():
            save_file({name: WEIGHTS[name] for name in names}, self.model / shard)
        index = {"metadata": {}, "weight_map": {name: shard for shard, names in shards.items() for name in names}}
        (self.model / "model.safetensors.index.json").write_text(json.dumps(index))
        written = self("manifest", self.model, "-o", self.manifest, "--leaves", self.leaves, "--algorithm", algorithm)
        assert written[0] == 0, written
        self.root = read_manifest(self.manifest).root.hex()

    def __call__(self, *arguments: Any) -> tuple[int, str, str]:
        """Runs a command with hashlib unless it names one: exit code, output, errors."""
        named = "--kernel" in arguments
        code = run([*map(str, arguments), *(() if named else HASHLIB)])
        return code, *self._capfd.readouterr()

    def prove(self, name: str, *arguments: Any) -> None:
        assert self("prove", self.manifest, name, "-o", self.proof, *arguments) == (0, "", "")

    def check(self, *data: Any, root: str = "") -> tuple[int, str, str]:
        return self("check-proof", self.proof, "--root", root or self.root, *data)

    def write(self, data: bytes | bytearray) -> Path:
        path = self.folder / "data"
        path.write_bytes(data)
        return path


@pytest.fixture
def shell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capfd)


def test_a_record_is_proven(shell: Shell) -> None:
    for name in WEIGHTS:
        shell.prove(name)
        assert shell.check() == (0, f"proven: the record of tensor '{name}'; no data were checked\n", "")
        assert shell.check(root=shell.root.upper())[0] == 0


def test_the_bytes_of_every_tensor_are_proven(shell: Shell) -> None:
    for name, weights in WEIGHTS.items():
        shell.prove(name)
        proven = (0, f"proven: tensor '{name}', {weights.nbytes:,} bytes\n", "")
        assert shell.check(shell.write(weights.tobytes())) == proven
        found = [shell.check(shard) for shard in sorted(shell.model.glob("*.safetensors"))]
        if weights.nbytes:
            assert sorted(code for code, *_ in found) == [0, 1]
        assert proven in found


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_a_chunk_is_proven(algorithm: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shell = Shell(tmp_path, capfd, algorithm)
    data = WEIGHTS["embedding"].tobytes()
    for index in range(10):
        shell.prove("embedding", "--chunk", index, "--model", shell.model)
        text = shell.proof.read_bytes()
        shell.prove("embedding", "--chunk", index, "--leaves", shell.leaves)
        assert shell.proof.read_bytes() == text
        start, end = index * 4096, min(index * 4096 + 4096, 40_000)
        proven = (0, f"proven: chunk {index} [{start}:{end}] of tensor 'embedding', {end - start:,} bytes\n", "")
        assert shell.check(shell.write(data[start:end])) == proven
        assert shell.check(shell.write(data)) == proven
        assert shell.check(shell.model / "1.safetensors") == proven


def test_a_file_of_a_folder_is_proven(shell: Shell) -> None:
    (shell.model / "tokens.txt").write_bytes(WEIGHTS["embedding"].tobytes())
    assert shell("manifest", shell.model, "-o", shell.manifest)[0] == 0
    shell.root = read_manifest(shell.manifest).root.hex()
    shell.prove("tokens.txt", "--chunk", "1", "--model", shell.model)
    data = (shell.model / "tokens.txt").read_bytes()
    line = "proven: chunk 1 [4096:8192] of file 'tokens.txt', 4,096 bytes\n"
    assert shell.check(shell.model / "tokens.txt") == (0, line, "")
    assert shell.check(shell.write(data[4096:8192])) == (0, line, "")
    code, output, error = shell.check(shell.write(data[:8192]))
    assert (code, output) == (1, "")
    assert error.endswith("data has 8192 bytes, but chunk 1 [4096:8192] of file 'tokens.txt' has 4096\n")


def test_the_rest_of_a_file_with_tensors_is_proven(shell: Shell) -> None:
    shell.prove("1.safetensors", "--chunk", "0", "--model", shell.model)
    header = (shell.model / "1.safetensors").read_bytes()[:-40_000]
    line = f"proven: chunk 0 [0:{len(header)}] of frame of '1.safetensors', {len(header):,} bytes\n"
    assert shell.check(shell.write(header)) == (0, line, "")


@pytest.mark.covers(FASTEST)
@pytest.mark.xdist_group(FASTEST)
def test_another_kernel_proves_the_same(shell: Shell) -> None:
    shell.prove("embedding", "--chunk", 7, "--leaves", shell.leaves)
    text = shell.proof.read_bytes()
    shell.prove("embedding", "--chunk", 7, "--model", shell.model, "--kernel", FASTEST)
    assert shell.proof.read_bytes() == text
    assert shell.check(shell.model / "1.safetensors", "--kernel", FASTEST)[0] == 0
    shell.prove("embedding")
    assert shell.check(shell.model / "1.safetensors", "--kernel", FASTEST)[0] == 0


def test_other_bytes_are_not_proven(shell: Shell) -> None:
    data = bytearray(WEIGHTS["embedding"].tobytes())
    shard = shell.model / "1.safetensors"
    for bit in (0, 8 * 4095, 8 * 4096 + 7, 8 * len(data) - 1):
        data[bit // 8] ^= 1 << bit % 8
        shell.prove("embedding")
        differs = (1, "", "hashbench: the data are not tensor 'embedding'\n")
        assert shell.check(shell.write(data)) == differs
        kept = shard.read_bytes()
        shard.write_bytes(kept.replace(WEIGHTS["embedding"].tobytes(), bytes(data)))
        assert shell.check(shard) == differs
        chunk = bit // 8 // 4096
        for index in range(3):
            shell.prove("embedding", "--chunk", index, "--leaves", shell.leaves)
            assert shell.check(shard)[0] == (index == chunk)
            refused = shell("prove", shell.manifest, "embedding", "--chunk", index, "--model", shell.model)
            assert refused == (1, "", "hashbench: the chunks are not those of tensor 'embedding' in the manifest\n")
        shard.write_bytes(kept)
        data[bit // 8] ^= 1 << bit % 8


def test_another_chunk_is_not_proven(shell: Shell) -> None:
    data = WEIGHTS["embedding"].tobytes()
    shell.prove("embedding", "--chunk", 1, "--leaves", shell.leaves)
    for start in (0, 2 * 4096, 8 * 4096):
        assert shell.check(shell.write(data[start : start + 4096]))[0] == 1


def test_another_model_is_not_that_of_the_root(shell: Shell) -> None:
    shell.prove("scale")
    other = hashlib.sha256().hexdigest()
    failed = (1, "", f"hashbench: the record of tensor 'scale' does not lead to the root {other}\n")
    assert shell.check(root=other) == failed
    assert shell.check(shell.model / "2.safetensors", root=other) == failed
    shard = shell.model / "1.safetensors"
    save_file({"embedding": WEIGHTS["scale"]}, shard)
    wanted = f"hashbench: {shell.model} has no tensor 'embedding' of the kind and size in the manifest\n"
    assert shell("prove", shell.manifest, "embedding", "--chunk", 0, "--model", shell.model) == (1, "", wanted)
    wanted = f"hashbench: the manifest is of 3 files in a folder, and {shard} is one file\n"
    assert shell("prove", shell.manifest, "embedding", "--chunk", 0, "--model", shard) == (1, "", wanted)


def test_a_verdict_as_json_and_quietly(shell: Shell) -> None:
    shell.prove("scale")
    code, output, _ = shell.check(shell.model / "2.safetensors", "--json")
    record = read_proof(shell.proof).entry.fields()
    assert (code, json.loads(output)) == (0, {"proven": True, "record": record, "data": True, "start": 0, "bytes": 8})
    assert shell.check("--quiet") == (0, "", "")


def test_standard_output_takes_the_proof(shell: Shell) -> None:
    shell.prove("scale")
    assert shell("prove", shell.manifest, "scale") == (0, shell.proof.read_text(), "")
    assert read_proof(shell.proof).entry.name == "scale"


def test_a_proof_that_cannot_be_made_leaves_the_file_as_it_was(shell: Shell) -> None:
    shell.prove("scale")
    before = shell.proof.read_text()
    for name, arguments, reason in (
        ("x", (), "the manifest has no tensor or file 'x'"),
        ("embedding", ("--chunk", 10, "--leaves", shell.leaves), "tensor 'embedding' has no chunk 10: it has 10, "),
        ("layer.0.bias", ("--chunk", 0, "--model", shell.model), "tensor 'layer.0.bias' has no chunk 0: it has 0"),
    ):
        code, output, error = shell("prove", shell.manifest, name, "-o", shell.proof, *arguments)
        assert (code, output, len(error.splitlines())) == (2, "", 1)
        assert error.startswith(f"hashbench: {reason}")
        assert shell.proof.read_text() == before


def test_only_a_proof_is_overwritten(shell: Shell) -> None:
    shard = shell.model / "1.safetensors"
    before = shard.read_bytes()
    code, output, error = shell("prove", shell.manifest, "scale", "-o", shard)
    assert (code, output, error.count("\n")) == (2, "", 1)
    assert f"{shard} exists and is not a proof" in error
    assert shard.read_bytes() == before


def test_what_is_not_usable_is_reported_on_one_line(shell: Shell) -> None:
    shell.prove("scale")
    damaged = shell.folder / "damaged.json"
    damaged.write_bytes(shell.proof.read_bytes().replace(b"F64", b"F63"))
    missing = shell.folder / "missing"
    root = ("--root", shell.root)
    chunk = ("prove", shell.manifest, "embedding", "--chunk", 0)
    for arguments, reason in (
        (("prove", missing, "scale"), "missing: No such file or directory"),
        (("prove", shell.proof, "scale"), "is not a valid manifest"),
        (("prove", shell.manifest, "scale", "-o", missing / "x"), "cannot be written"),
        (chunk, "--chunk needs either --model or --leaves"),
        ((*chunk, "--model", shell.model, "--leaves", shell.leaves), "--chunk needs either --model or --leaves"),
        (("prove", shell.manifest, "scale", "--model", shell.model), "cannot be used without it"),
        (("prove", shell.manifest, "embedding", "--chunk", -1, "--model", shell.model), "--chunk"),
        ((*chunk, "--leaves", shell.model / "1.safetensors"), "is not the sidecar of this manifest"),
        (("check-proof", shell.proof), "Missing option '--root'"),
        (("check-proof", shell.proof, "--root", "xyz"), "'xyz' is not a root"),
        (
            ("check-proof", shell.proof, "--root", "00" * 48),
            "--root has 48 bytes, but the proof's algorithm sha256",
        ),
        (("check-proof", missing, *root), "missing: No such file or directory"),
        (("check-proof", damaged, *root), "is not a valid proof: its record is not accepted: the dtype 'F63'"),
        (("check-proof", shell.proof, *root, missing), "missing: No such file or directory"),
        (("check-proof", shell.proof, *root, shell.folder), "is not a regular file"),
    ):
        code, output, error = shell(*arguments)
        assert (code, output) == (2, ""), (arguments, error)
        assert len(error.splitlines()) == 1
        assert reason in error
