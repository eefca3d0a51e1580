"""Signatures of models: made and verified here, and by the stock tool, in both directions."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
from authorities import CURVES, Issued, issue, private_pem, write_keys
from click.testing import CliRunner
from command_line import in_process
from model_folders import Files, index_of, safetensors_file, write

from hashbench.hashing.sources import ChangedWhileReadError
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import read_manifest
from hashbench.trust import verified_manifest
from hashbench.trust.bundles import Bundle, KeyVerifier
from hashbench.trust.keys import read_public_key
from hashbench.trust.signatures import SignedReport, verify_signed
from hashbench.trust.signing import MANIFEST_NAME, sign_model

MODEL: Files = {
    "config.json": b"{}",
    "empty.txt": b"",
    "code/model.py": b"print()",
    ".gitattributes": b"*.safetensors filter=lfs",
    "a.safetensors": safetensors_file({"one": b"1" * 100, "two": b"22"}),
    "b.safetensors": safetensors_file({"three": b"3" * 5000}),
    "model.safetensors.index.json": index_of({"a.safetensors": ["one", "two"], "b.safetensors": ["three"]}),
}


class Stock(NamedTuple):
    """What the stock tool answers."""

    returncode: int
    said: str


def stock(*arguments: object) -> Stock:
    """Runs the stock command line, in this process: it takes a second to start."""
    pytest.importorskip("model_signing", reason="model-signing is not installed: install hashbench[peers]")
    from model_signing._cli import main

    done = CliRunner().invoke(main, list(map(str, arguments)))
    return Stock(done.exit_code, done.output)


def sign(model: Path, key: Path, *options: object) -> None:
    done = in_process("sign", "--kernel", "hashlib", model, "--key", key, *map(str, options))
    assert done.returncode == 0, done.stderr.decode()


def verify(model: Path, *options: object) -> tuple[int, str]:
    """The exit code, and all that was printed."""
    done = in_process("verify", "--kernel", "hashlib", model, "--signature", model / "model.sig", *map(str, options))
    return done.returncode, (done.stdout + done.stderr).decode()


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys")


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """A model with its signature in its folder."""
    model = write(tmp_path / "model", MODEL)
    sign(model, keys[0])
    return model


def chain(tmp_path: Path, curve: str = "P-256") -> tuple[list[object], Path, Issued]:
    """The options that sign by a certificate, the file of the root, and the authority between."""
    root = issue("root", authority=True, curve=curve)
    between = issue("between", root, authority=True, path_length=0, curve=curve)
    leaf = issue("signer", between, curve=curve)
    (tmp_path / "leaf.pem").write_bytes(leaf.pem() + between.pem())
    (tmp_path / "root.pem").write_bytes(root.pem())
    (tmp_path / "leaf.key").write_bytes(private_pem(leaf.key))
    return [tmp_path / "leaf.key", "--certificate", tmp_path / "leaf.pem"], tmp_path / "root.pem", between


@pytest.mark.covers("model-signing")
@pytest.mark.parametrize("curve", CURVES)
def test_the_stock_tool_accepts_our_signature_by_a_key(tmp_path: Path, curve: str) -> None:
    private, public = write_keys(tmp_path / "keys", curve)
    model = write(tmp_path / "model", MODEL)
    sign(model, private)
    done = stock("verify", "key", model, "--signature", model / "model.sig", "--public_key", public)
    assert done.returncode == 0, done.said
    assert verify(model, "--public-key", public)[0] == 0
    (model / "code/model.py").write_bytes(b"evil()")
    assert stock("verify", "key", model, "--signature", model / "model.sig", "--public_key", public).returncode == 1


@pytest.mark.covers("model-signing")
@pytest.mark.parametrize("curve", [pytest.param(c, marks=[] if c == "P-384" else pytest.mark.thorough) for c in CURVES])
def test_the_stock_tool_accepts_our_signature_by_a_certificate(tmp_path: Path, curve: str) -> None:
    options, root, _ = chain(tmp_path, curve)
    model = write(tmp_path / "model", MODEL)
    sign(model, *options)  # type: ignore[arg-type]
    done = stock("verify", "certificate", model, "--signature", model / "model.sig", "--certificate_chain", root)
    assert done.returncode == 0, done.said
    code, said = verify(model, "--certificate-chain", root)
    assert code == 0, said
    assert "certificate of CN=signer" in said


@pytest.mark.covers("model-signing")
@pytest.mark.parametrize("curve", [pytest.param(c, marks=[] if c == "P-521" else pytest.mark.thorough) for c in CURVES])
def test_we_accept_the_stock_tools_signature_by_a_key(tmp_path: Path, curve: str) -> None:
    private, public = write_keys(tmp_path / "keys", curve)
    model = write(tmp_path / "model", MODEL)
    done = stock("sign", "key", model, "--private_key", private, "--signature", model / "model.sig")
    assert done.returncode == 0, done.said
    code, said = verify(model, "--public-key", public)
    assert code == 0, said
    assert "verified by SHA-256: 6 files" in said
    assert "not covered: .gitattributes\n" in said
    (model / "code/model.py").write_bytes(b"evil()")
    (model / "empty.txt").unlink()
    (model / "evil.py").write_bytes(b"")
    code, said = verify(model, "--public-key", public)
    assert code == 1
    assert said.splitlines()[:3] == ["differs: code/model.py", "missing: empty.txt", "extra: evil.py"]


@pytest.mark.covers("model-signing")
def test_we_accept_the_stock_tools_signature_by_a_certificate(tmp_path: Path) -> None:
    _, root, between = chain(tmp_path)
    leaf = issue("another", between)
    (tmp_path / "leaf.pem").write_bytes(leaf.pem())
    (tmp_path / "between.pem").write_bytes(between.pem())
    (tmp_path / "leaf.key").write_bytes(private_pem(leaf.key))
    model = write(tmp_path / "model", MODEL)
    done = stock(
        "sign", "certificate", model, "--private_key", tmp_path / "leaf.key", "--signing_certificate",
        tmp_path / "leaf.pem", "--certificate_chain", tmp_path / "between.pem", "--signature", model / "model.sig",
    )  # fmt: skip
    assert done.returncode == 0, done.said
    assert verify(model, "--certificate-chain", root)[0] == 0


@pytest.mark.covers("model-signing")
def test_we_accept_the_stock_tools_signature_of_one_file(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    write(tmp_path, {"weights.bin": b"weights"})
    model, signature = tmp_path / "weights.bin", tmp_path / "weights.sig"
    assert stock("sign", "key", model, "--private_key", keys[0], "--signature", signature).returncode == 0
    options = ("verify", "--signature", signature, "--public-key", keys[1], model)
    assert in_process(*options).returncode == 0
    model.write_bytes(b"Weights")
    done = in_process(*options)
    assert done.returncode == 1
    assert done.stdout == b"differs: .\n"


def test_a_verification_through_the_manifest_covers_every_byte(signed: Path, keys: tuple[Path, Path]) -> None:
    code, said = verify(signed, "--public-key", keys[1])
    assert code == 0, said
    root = read_manifest(signed / MANIFEST_NAME).root.hex()
    assert f"sha256 root {root}" in said
    assert "7 files with 3 tensors" in said
    assert verify(signed, "--public-key", keys[1], "--root", root)[0] == 0
    assert verify(signed, "--public-key", keys[1], "--root", "00" * 32)[0] == 1
    for name in MODEL:
        before = (signed / name).read_bytes()
        (signed / name).write_bytes(b"x" + before[1:])
        code, said = verify(signed, "--public-key", keys[1])
        assert code == 1, name
        assert "verified" not in said
        (signed / name).write_bytes(before)
    assert verify(signed, "--public-key", keys[1])[0] == 0


def test_another_manifest_than_the_signed_one_is_refused(signed: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    (signed / "config.json").write_bytes(b"[]")
    done = in_process("manifest", "--kernel", "hashlib", signed, "-o", signed / MANIFEST_NAME, "--ignore", "model.sig")
    assert done.returncode == 0, done.stderr
    code, said = verify(signed, "--public-key", keys[1])
    assert code == 1
    assert "is not the manifest that was signed" in said
    with pytest.raises(VerificationError, match=r"is not the manifest that was signed"):
        verified_manifest(signed / "model.sig", keys[1])


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path / "keys", "P-256", 1)
    code, said = verify(signed, "--public-key", other)
    assert code == 1
    assert "and the trusted one is" in said
    # The hint is a hint: without it, the signature itself decides.
    bundle = json.loads((signed / "model.sig").read_bytes())
    bundle["verificationMaterial"]["publicKey"] = {}
    (signed / "model.sig").write_text(json.dumps(bundle))
    code, said = verify(signed, "--public-key", other)
    assert code == 1
    assert "the signature is not valid" in said


def payload_of(signature: Path) -> Any:
    return json.loads(b64decode(json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]))


def test_a_statement_that_was_changed_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    bundle = json.loads((signed / "model.sig").read_bytes())
    statement = payload_of(signed / "model.sig")
    statement["predicate"]["serialization"]["ignore_paths"].append("code")
    bundle["dsseEnvelope"]["payload"] = b64encode(json.dumps(statement).encode()).decode()
    (signed / "model.sig").write_text(json.dumps(bundle))
    code, said = verify(signed, "--public-key", keys[1])
    assert code == 1
    assert "the signature is not valid" in said


def test_the_type_of_what_is_signed_is_under_the_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    bundle = json.loads((signed / "model.sig").read_bytes())
    bundle["dsseEnvelope"]["payloadType"] = "text/plain"
    (signed / "model.sig").write_text(json.dumps(bundle))
    assert verify(signed, "--public-key", keys[1])[0] == 1


def test_a_report_that_is_asserted_is_what_it_says(signed: Path, keys: tuple[Path, Path]) -> None:
    def report() -> SignedReport:
        return verify_signed(signed, signed / "model.sig", KeyVerifier(read_public_key(keys[1])), kernel="hashlib")

    assert report()
    (signed / "config.json").write_bytes(b"[]")
    assert not report()


def test_the_manifest_of_a_signature_is_for_models_in_memory(signed: Path, keys: tuple[Path, Path]) -> None:
    found = verified_manifest(signed / "model.sig", keys[1])
    assert [tensor.name for tensor in found.tensors] == ["one", "three", "two"]
    moved = signed.parent / "elsewhere.json"
    (signed / MANIFEST_NAME).rename(moved)
    with pytest.raises(VerificationError, match="is missing"):
        verified_manifest(signed / "model.sig", keys[1])
    code, said = verify(signed, "--public-key", keys[1])
    assert code == 1
    assert "is missing" in said
    with pytest.raises(VerificationError, match="does not say that"):
        verified_manifest(signed / "model.sig", keys[1], manifest=moved)
    moved.rename(signed / MANIFEST_NAME)
    away = signed.parent / "away.sig"
    (signed / "model.sig").rename(away)
    assert verified_manifest(away, keys[1], model=signed) == found


def test_a_manifest_of_a_part_does_not_pass_for_the_whole(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    """Both are signed, each under its own name."""
    model = write(tmp_path / "model", {"config.json": b"{}", "part/weights.bin": b"part"})
    manifest = model / "part" / MANIFEST_NAME
    assert in_process("manifest", "--kernel", "hashlib", model / "part", "-o", manifest).returncode == 0
    sign(model, keys[0])
    part = manifest.read_bytes()
    (model / MANIFEST_NAME).write_bytes(part)
    with pytest.raises(VerificationError, match="is not the manifest that was signed"):
        verified_manifest(model / "model.sig", keys[1])
    with pytest.raises(VerificationError, match="does not say that"):
        verified_manifest(model / "model.sig", keys[1], manifest=manifest)
    assert verify(model, "--public-key", keys[1])[0] == 1


def test_a_manifest_that_somebody_signed_unknowingly_vouches_for_nothing(
    tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    """Who signs a folder of somebody else's signs whatever is in it: here a manifest of other bytes than the files."""
    model = write(tmp_path / "model", MODEL)
    evil = write(tmp_path / "evil", {**MODEL, "code/model.py": b"evil()"})
    done = in_process("manifest", "--kernel", "hashlib", evil, "-o", model / MANIFEST_NAME, "--ignore", MANIFEST_NAME)
    assert done.returncode == 0, done.stderr
    answer = stock("sign", "key", model, "--private_key", keys[0], "--signature", model / "model.sig")
    assert answer.returncode == 0, answer.said
    code, said = verify(model, "--public-key", keys[1])
    assert code == 0, said
    assert "verified by SHA-256: 7 files" in said
    (model / "code/model.py").write_bytes(b"evil()")  # as its manifest says
    code, said = verify(model, "--public-key", keys[1])
    assert code == 1
    assert "differs: code/model.py" in said
    code, said = verify(model, model / MANIFEST_NAME, "--public-key", keys[1])
    assert code == 1
    assert "does not say that" in said
    with pytest.raises(VerificationError, match="names no manifest"):
        verified_manifest(model / "model.sig", keys[1])


def test_what_is_not_signed_is_extra_whatever_the_manifest_excludes(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    model = write(tmp_path / "model", MODEL)
    manifest = model / MANIFEST_NAME
    done = in_process("manifest", "--kernel", "hashlib", model, "-o", manifest, "--ignore", "*.log")
    assert done.returncode == 0, done.stderr
    sign(model, keys[0], "--manifest", manifest)
    assert verify(model, "--public-key", keys[1])[0] == 0
    (model / "evil.log").write_bytes(b"")
    code, said = verify(model, "--public-key", keys[1])
    assert code == 1
    assert "extra: evil.log" in said


def test_what_tools_leave_in_a_copy_is_told_and_not_covered(signed: Path, keys: tuple[Path, Path]) -> None:
    write(signed, {".cache/huggingface/x.metadata": b"", ".git/config": b"", ".DS_Store": b""})
    code, said = verify(signed, "--public-key", keys[1])
    assert code == 0, said
    assert "not covered: .DS_Store, .cache/huggingface, .git\n" in said
    done = stock("verify", "key", signed, "--signature", signed / "model.sig", "--public_key", keys[1])
    assert done.returncode == 0, done.said


@pytest.mark.parametrize("extra", ["warn", "ignore"])
def test_extra_files_may_be_accepted(signed: Path, keys: tuple[Path, Path], extra: str) -> None:
    (signed / "notes.txt").write_bytes(b"")
    assert verify(signed, "--public-key", keys[1])[0] == 1
    code, said = verify(signed, "--public-key", keys[1], "--extra", extra)
    assert code == 0, said
    assert ("extra, ignored: notes.txt" in said) == (extra == "warn")


def test_links_count_as_files_and_never_lead_out(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    cache = write(tmp_path / "models--x", {f"blobs/{number}": data for number, data in enumerate(MODEL.values())})
    model = cache / "snapshots" / "main"
    for number, name in enumerate(MODEL):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).symlink_to(cache / "blobs" / str(number))
    sign(model, keys[0])
    assert payload_of(model / "model.sig")["predicate"]["serialization"]["allow_symlinks"] is True
    assert verify(model, "--public-key", keys[1])[0] == 0
    options = ("verify", "key", model, "--signature", model / "model.sig", "--public_key", keys[1])
    assert stock(*options).returncode == 1  # unless it is told to
    done = stock(*options, "--allow_symlinks")
    assert done.returncode == 0, done.said
    outside = write(tmp_path / "outside", {"config.json": MODEL["config.json"]}) / "config.json"
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(outside)
    assert stock(*options, "--allow_symlinks").returncode == 0
    code, said = verify(model, "--public-key", keys[1])
    assert code == 1
    assert "leads out of the folder" in said


@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_file_that_changes_meanwhile_is_told_and_nothing_is_signed(
    tmp_path: Path, keys: tuple[Path, Path], with_manifest: bool
) -> None:
    model = write(tmp_path / "model", MODEL)
    if with_manifest:
        sign(model, keys[0])
        (model / "model.sig").unlink()

    def change(done: int, total: int | None) -> None:
        if done == total:
            (model / "code/model.py").write_bytes(b"evil()!")

    def refuse(_: bytes) -> Bundle:
        raise AssertionError

    named = model / MANIFEST_NAME if with_manifest else None
    with pytest.raises(ChangedWhileReadError, match=r"code/model\.py: the file was changed while it was read"):
        sign_model(model, refuse, model / "model.sig", manifest_path=named, kernel="hashlib", progress=change)
    assert not (model / "model.sig").exists()


def test_a_model_is_signed_only_if_it_is_what_its_manifest_says(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    model = write(tmp_path / "model", MODEL)
    manifest = model / "mine.json"
    assert in_process("manifest", "--kernel", "hashlib", model, "-o", manifest).returncode == 0
    sign(model, keys[0], "--manifest", manifest)
    code, said = verify(model, "--public-key", keys[1])
    assert code == 0
    assert "with 3 tensors" in said
    code, said = verify(model, manifest, "--public-key", keys[1])
    assert code == 0
    assert "with 3 tensors" in said
    assert verified_manifest(model / "model.sig", keys[1], manifest=manifest) == read_manifest(manifest)
    (model / "config.json").write_bytes(b"[]")
    done = in_process("sign", model, "--kernel", "hashlib", "--key", keys[0], "--manifest", manifest)
    assert done.returncode == 1
    assert b"the model is not what" in done.stderr
    assert in_process("sign", model, "--key", keys[0], "--manifest", tmp_path / "other").returncode == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs whom to trust"),
        (["--public-key", "k", "--certificate-chain", "c"], "needs whom to trust"),
        (["--identity", "a@b"], "needed together"),
        (["--public-key", "k", "--fetch-trust-root"], "are for --identity"),
    ],
)
def test_whom_to_trust_is_said_once(signed: Path, options: list[str], message: str) -> None:
    code, said = verify(signed, *options)
    assert code == 2
    assert message in said


def test_options_of_signatures_need_one(signed: Path, keys: tuple[Path, Path]) -> None:
    done = in_process("verify", signed, signed / MANIFEST_NAME, "--public-key", keys[1])
    assert done.returncode == 2
    assert in_process("verify", signed).returncode == 2


def test_nothing_but_an_older_signature_is_overwritten(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    model = write(tmp_path / "model", MODEL)
    sign(model, keys[0])
    sign(model, keys[0])
    (model / "model.sig").write_bytes(b"{}")
    done = in_process("sign", model, "--key", keys[0])
    assert done.returncode == 2
    assert b"is not a signature" in done.stderr


def test_verdicts_are_json_too(signed: Path, keys: tuple[Path, Path]) -> None:
    schema = json.loads((files("hashbench.trust") / "signature-verdict.schema.json").read_text())
    jsonschema_rs.meta.validate(schema)

    def verdict(key: Path) -> tuple[int, dict[str, Any]]:
        done = in_process(
            "verify", "--kernel", "hashlib", signed, "--signature", signed / "model.sig", "--public-key", key, "--json"
        )
        found = json.loads(done.stdout)
        jsonschema_rs.validate(schema, found)
        return done.returncode, found

    code, found = verdict(keys[1])
    assert code == 0
    assert found["verified"] is True
    assert found["manifest"]["verified"] is True
    assert found["not_covered"] == []
    (signed / "x").write_bytes(b"")
    code, found = verdict(keys[1])
    assert (code, found["verified"]) == (1, False)
    assert found["manifest"]["extra"] == ["x"]
    code, found = verdict(write_keys(signed.parent / "others", number=1)[1])
    assert (code, found["verified"], len(found["problems"])) == (1, False, 1)


def test_a_key_of_a_certificate_must_be_its_own(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    options, _, _ = chain(tmp_path)
    model = write(tmp_path / "model", MODEL)
    done = in_process("sign", model, "--key", keys[0], *map(str, options[1:]))
    assert done.returncode == 2
    assert b"is not of the key" in done.stderr
