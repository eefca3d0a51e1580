"""Keyless signatures, with the sigstore package's verification imitated: a real one needs Sigstore's authority."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from authorities import key_of
from command_line import in_process
from model_folders import write

from hashbench.trust.bundles import by_key, parse_bundle
from hashbench.trust.dsse import IN_TOTO, signed
from hashbench.trust.keyless import MAX_SIZE, KeylessVerifier
from hashbench.trust.oms import SignedFiles
from hashbench.trust.trust_error import TrustError

pytest.importorskip("sigstore", reason="sigstore is not installed: install hashbench[keyless]")

IDENTITY, PROVIDER = "signer@example.com", "https://accounts.example.com"


class Imitation:
    """Verifies whatever is signed by one identity."""

    kind = IN_TOTO

    def __init__(self, *, trusted_root: object) -> None:
        assert trusted_root is not None

    def verify_dsse(self, bundle: bytes, policy: Any) -> tuple[str, bytes]:
        from sigstore.errors import VerificationError

        if (policy._identity, policy._issuer) != (IDENTITY, PROVIDER):
            raise VerificationError("another\nidentity")
        return self.kind, parse_bundle(bundle).envelope.payload


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A signed model, and an imitation of Sigstore."""
    import hashlib

    import sigstore.models
    import sigstore.verify
    import sigstore.verify.policy

    class Identity:
        def __init__(self, *, identity: str, issuer: str) -> None:
            self._identity, self._issuer = identity, issuer

    monkeypatch.setattr(sigstore.verify, "Verifier", Imitation)
    monkeypatch.setattr(sigstore.verify.policy, "Identity", Identity)
    monkeypatch.setattr(sigstore.models.Bundle, "from_json", lambda document: document)
    folder = write(tmp_path / "model", {"a": b"a"})
    files = SignedFiles("model", {"a": hashlib.sha256(b"a").digest()}, False, ("model.sig",))
    key = key_of("P-256", 0)
    (folder / "model.sig").write_bytes(by_key(signed(files.statement().text(), key), key.public_key()).text())
    return folder


def verify(model: Path, *options: str | Path) -> tuple[int, str]:
    done = in_process("verify", model, "--signature", model / "model.sig", *options)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_model_is_verified_by_an_identity(model: Path) -> None:
    code, said = verify(model, "--identity", IDENTITY, "--identity-provider", PROVIDER)
    assert code == 0, said
    assert f"signed by {IDENTITY} (by {PROVIDER})" in said
    (model / "a").write_bytes(b"b")
    assert verify(model, "--identity", IDENTITY, "--identity-provider", PROVIDER)[0] == 1


@pytest.mark.parametrize(("identity", "provider"), [("other", PROVIDER), (IDENTITY, "https://other.example.com")])
def test_another_identity_is_refused(model: Path, identity: str, provider: str) -> None:
    code, said = verify(model, "--identity", identity, "--identity-provider", provider)
    assert code == 1
    assert "another identity" in said
    assert said.count("\n") == 1


def test_another_type_of_payload_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Imitation, "kind", "text/plain")
    code, said = verify(model, "--identity", IDENTITY, "--identity-provider", PROVIDER)
    assert code == 1
    assert "of the type 'text/plain'" in said


def test_roots_of_a_file_are_bounded_and_valid(model: Path, tmp_path: Path) -> None:
    roots = tmp_path / "roots.json"
    bundle = parse_bundle((model / "model.sig").read_bytes())
    for content in (b"", b"[]", json.dumps({"mediaType": "x"}).encode(), bytes(MAX_SIZE + 1)):
        roots.write_bytes(content)
        with pytest.raises(TrustError):
            KeylessVerifier(IDENTITY, PROVIDER, roots).payload(bundle)


def test_the_package_is_named_if_it_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sigstore.errors", None)
    code, said = verify(model, "--identity", IDENTITY, "--identity-provider", PROVIDER)
    assert code == 2
    assert "install hashbench[keyless]" in said
