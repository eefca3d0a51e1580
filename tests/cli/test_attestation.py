"""attest and appraise, as they are used: on a simulated platform, and where there is none."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from authorities import key_of, write_keys
from command_line import in_process
from model_folders import safetensors_file, write

from hashbench.model.manifest import read_manifest
from hashbench.trust import tsm
from hashbench.trust.dsse import envelope_of
from hashbench.trust.evidence import QUOTE, STATEMENT
from hashbench.trust.simulated import Domain
from hashbench.trust.statements import SVR, parse_statement

NONCE = "00112233445566778899aabbccddeeff"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write(tmp_path / "model", {"model.safetensors": safetensors_file({"w": b"1234"}), "config.json": b"{}"})
    done = in_process("manifest", "--kernel", "hashlib", folder, "-o", tmp_path / "model.json")
    assert done.returncode == 0
    return folder


def attest(model: Path, *options: str | Path, code: int = 0) -> Path:
    folder = model.parent
    done = in_process(
        "attest", "--manifest", folder / "model.json", "--nonce", NONCE, "-o", folder / "evidence", "--provider",
        "simulated", "--platform", folder / "platform", *options,
    )  # fmt: skip
    assert done.returncode == code, done.stderr.decode()
    return folder / "evidence"


def write_policy(folder: Path, **parts: Any) -> Path:
    manifest = hashlib.sha256((folder / "model.json").read_bytes()).hexdigest()
    asked = {
        "kind": "hashbench-policy",
        "version": 1,
        "model": {"manifests": [manifest]},
        "tdx": {"mr_td": [Domain().mr_td.hex()]},
        **parts,
    }
    (folder / "policy.json").write_text(json.dumps(asked))
    return folder / "policy.json"


def appraise(evidence: Path, *options: str | Path, nonce: str = NONCE, simulated: bool = True) -> tuple[int, str]:
    folder = evidence.parent
    root: list[str | Path] = ["--simulated-root", folder / "platform" / "root.pem"] if simulated else []
    done = in_process("appraise", evidence, "--nonce", nonce, "--policy", folder / "policy.json", *root, *options)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_model_on_disk_is_attested_and_appraised(model: Path, tmp_path: Path) -> None:
    evidence = attest(model, "--model", model)
    write_policy(tmp_path)
    code, said = appraise(evidence)
    assert code == 0, said
    assert "passed: verdict: verified in disk" in said
    assert "on a simulated platform, which proves nothing" in said
    code, said = appraise(evidence, simulated=False)
    assert code == 1
    assert "failed: quote" in said
    code, said = appraise(evidence, nonce="ff" * 16)
    assert code == 1
    assert "failed: nonce" in said
    code, said = appraise(evidence, "--at", "2020-01-01T00:00:00Z")
    assert code == 1
    code, said = appraise(evidence, "--json")
    assert json.loads(said)["accepted"] is True


def test_a_model_that_differs_is_attested_as_such(model: Path, tmp_path: Path) -> None:
    (model / "config.json").write_bytes(b"[]")
    evidence = attest(model, "--model", model, code=1)
    write_policy(tmp_path)
    code, said = appraise(evidence)
    assert code == 1
    assert "failed: verdict: the model is not what the manifest says" in said


def test_a_model_in_memory_is_attested(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    (tmp_path / "the_model.py").write_text(
        "import torch\ndef right():\n    return {'w': torch.tensor(list(b'1234'), dtype=torch.uint8)}\n"
        "def wrong():\n    return {'w': torch.zeros(4, dtype=torch.uint8)}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    evidence = attest(model, "--module", "the_model:right")
    write_policy(tmp_path, verified_in=["host memory"])
    assert appraise(evidence)[0] == 0
    evidence = attest(model, "--module", "the_model:wrong", code=1)
    assert appraise(evidence)[0] == 1
    for unknown in ("the_model:none", "no_such_module:x", "the_model"):
        attest(model, "--module", unknown, code=2)
    sys.modules.pop("the_model", None)


def test_what_nobody_hashed_is_refused(model: Path, tmp_path: Path) -> None:
    evidence = attest(model)
    write_policy(tmp_path)
    code, said = appraise(evidence)
    assert code == 1
    assert "failed: verdict: the model was not hashed" in said


def test_a_result_for_others(model: Path, tmp_path: Path) -> None:
    evidence = attest(model, "--model", model)
    write_policy(tmp_path)
    private, _ = write_keys(tmp_path / "keys")
    assert appraise(evidence, "--svr", tmp_path / "plain.json")[0] == 0
    assert appraise(evidence, "--svr", tmp_path / "signed.json", "--svr-key", private)[0] == 0
    plain = parse_statement((tmp_path / "plain.json").read_bytes(), SVR)
    envelope = envelope_of(json.loads((tmp_path / "signed.json").read_bytes()))
    signed = parse_statement(envelope.checked(key_of("P-256", 0).public_key()), SVR)
    assert signed.predicate["properties"] == plain.predicate["properties"]
    assert "HASHBENCH_SIMULATED_NONCE" in plain.predicate["properties"]


def test_a_signed_model_is_appraised_by_its_signer(model: Path, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "keys")
    done = in_process("sign", model, "--kernel", "hashlib", "--key", private)
    assert done.returncode == 0, done.stderr
    (tmp_path / "model.json").write_bytes((model / "hashbench.manifest.json").read_bytes())
    evidence = attest(model, "--model", model, "--signature", model / "model.sig")
    write_policy(tmp_path, model={"signers": [public.read_text()]})
    code, said = appraise(evidence)
    assert code == 0, said
    assert "passed: signer" in said


def test_where_there_is_no_platform(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsm, "REPORTS", tmp_path / "none")
    done = in_process("attest", "--manifest", tmp_path / "model.json", "--nonce", NONCE, "-o", tmp_path / "evidence")
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"no platform here attests" in done.stderr
    assert not (tmp_path / "evidence").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--nonce", "00"],
        ["--nonce", "x"],
        ["--model", "m", "--module", "a:b"],
        ["--component", "unet"],
        ["--extend-register"],
        ["--collateral", "c"],
        ["--provider", "tdx"],
        ["--pccs", "https://example.com"],
    ],
)
def test_calls_that_are_not_usable(model: Path, options: list[str]) -> None:
    attest(model, *options, code=2)


def test_a_folder_that_is_no_attestation(model: Path, tmp_path: Path) -> None:
    write_policy(tmp_path)
    (tmp_path / "platform").mkdir()
    code, said = appraise(tmp_path, simulated=False)
    assert code == 2
    assert STATEMENT in said
    evidence = attest(model, "--model", model)
    (evidence / QUOTE).write_bytes(bytes((1 << 16) + 1))
    code, said = appraise(evidence, simulated=False)
    assert code == 2
    assert "more than" in said
    (evidence / QUOTE).unlink()
    (evidence / QUOTE).symlink_to(tmp_path / "model.json")
    assert appraise(evidence, simulated=False)[0] == 2


def test_an_older_attestation_is_replaced(model: Path) -> None:
    evidence = attest(model, "--model", model)
    write(evidence, {"gpu.json": b"[]", "notes.txt": b""})
    attest(model, "--model", model)
    assert sorted(path.name for path in evidence.iterdir()) == [
        "notes.txt", STATEMENT, "tdx.collateral.json", QUOTE,
    ]  # fmt: skip


@pytest.mark.parametrize("names", [["model.sig"], ["gpu.json", "notes.txt"]])
def test_a_folder_of_something_else_is_left_alone(model: Path, names: list[str]) -> None:
    write(model.parent / "evidence", dict.fromkeys(names, b"mine"))
    evidence = attest(model, "--model", model, code=2)
    assert sorted(path.name for path in evidence.iterdir()) == names


def test_a_result_overwrites_nothing_else(model: Path, tmp_path: Path) -> None:
    evidence = attest(model, "--model", model)
    write_policy(tmp_path)
    private, _ = write_keys(tmp_path / "keys")
    result = tmp_path / "result.json"
    for options in ((), ("--svr-key", private), ()):
        assert appraise(evidence, "--svr", result, *options)[0] == 0
    before = (tmp_path / "model.json").read_bytes()
    code, said = appraise(evidence, "--svr", tmp_path / "model.json")
    assert (code, (tmp_path / "model.json").read_bytes()) == (2, before)
    assert "is not a verification result: it is not overwritten" in said


def test_a_component_does_not_pass_for_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    parts = {
        f"{name}/diffusion_pytorch_model.safetensors": safetensors_file({"w": b"1234"}) for name in ("unet", "vae")
    }
    model = write(tmp_path / "model", parts)
    assert in_process("manifest", "--kernel", "hashlib", model, "-o", tmp_path / "model.json").returncode == 0
    write(
        tmp_path,
        {
            "a_unet.py": b"import torch\nfrom types import SimpleNamespace as N\n"
            b"class Unet(torch.nn.Module):\n"
            b"    def state_dict(self):\n        return {'w': N(device=N(type='cuda'))}\n"
            b"def made():\n    unet = Unet()\n"
            b"    unet.register_buffer('w', torch.tensor(list(b'1234'), dtype=torch.uint8))\n    return unet\n"
        },
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    evidence = attest(model, "--module", "a_unet:made", "--component", "unet")
    write_policy(tmp_path)
    code, said = appraise(evidence)
    assert code == 1
    assert "failed: verdict: verified is the component 'unet' alone" in said
    write_policy(tmp_path, components=["", "unet"], verified_in=["host memory"])
    code, said = appraise(evidence)
    assert code == 0, said
    assert "passed: verdict: verified in host memory: the component 'unet'" in said  # whatever its state dict says
    sys.modules.pop("a_unet", None)


def test_the_manifest_that_is_attested_is_the_file(model: Path, tmp_path: Path) -> None:
    evidence = attest(model, "--model", model)
    subject = json.loads((evidence / STATEMENT).read_bytes())["subject"][0]
    assert subject["digest"]["sha256"] == hashlib.sha256((tmp_path / "model.json").read_bytes()).hexdigest()
    assert read_manifest(tmp_path / "model.json").root.hex() in (evidence / STATEMENT).read_text()
