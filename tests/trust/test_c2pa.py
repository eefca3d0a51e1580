"""C2PA sidecars: trusted by C2PA's own reader with the anchor, and with nothing else."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import pytest

pytest.importorskip("c2pa")
pytest.importorskip("cryptography")

import c2pa as library
from command_line import in_process
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from signers import Signer

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import FileEntry, Manifest
from hashbench.trust import c2pa
from hashbench.trust.trust_error import TrustError

SIGNER = Signer(ec.SECP384R1())
MANIFEST = Manifest("sha256", 4096, (FileEntry("weights.bin", 5, bytes(32)),))
OTHER = Manifest("sha256", 4096, (FileEntry("weights.bin", 5, bytes([1] * 32)),))
SIDECAR = c2pa.export(MANIFEST, "model.json", SIGNER.key, [SIGNER.certificate])

pytestmark = pytest.mark.covers("c2pa")


def test_the_librarys_own_reader_trusts_it() -> None:
    anchor = SIGNER.anchor.public_bytes(Encoding.PEM).decode()
    context = library.Context.from_dict({"trust": {"trust_anchors": anchor}, "verify": {"verify_trust": True}})
    source = BytesIO(MANIFEST.text())
    with library.Reader("application/octet-stream", source, manifest_data=SIDECAR, context=context) as reader:
        assert reader.get_validation_state() == "Trusted"
        active = reader.get_active_manifest()
    facts = next(found["data"] for found in active["assertions"] if found["label"] == "org.hashbench.manifest")
    assert facts["root"] == json.loads(MANIFEST.text())["root"]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve(curve: ec.EllipticCurve) -> None:
    signer = Signer(curve)
    sidecar = c2pa.export(MANIFEST, "model.json", signer.key, [signer.certificate])
    c2pa.check(sidecar, MANIFEST, [signer.anchor])
    with pytest.raises(VerificationError, match=r"'Valid', not Trusted: signingCredential.untrusted"):
        c2pa.check(sidecar, MANIFEST, [SIGNER.anchor])


def test_another_file_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"assertion.dataHash.mismatch"):
        c2pa.check(SIDECAR, OTHER, [SIGNER.anchor])


def test_a_certificate_that_is_not_the_keys_is_refused() -> None:
    with pytest.raises(TrustError, match="the first certificate is not the key's"):
        c2pa.export(MANIFEST, "model.json", SIGNER.key, [SIGNER.anchor])
    with pytest.raises(TrustError, match="the first certificate is not the key's"):
        c2pa.export(MANIFEST, "model.json", SIGNER.key, [])


@pytest.mark.parametrize(
    "sidecar",
    [b"", b"x", SIDECAR[:100], SIDECAR[:-1], bytes(5 << 20)],
    ids=["empty", "a byte", "its beginning", "without its last byte", "zeros"],
)
def test_what_is_no_sidecar_is_refused(sidecar: bytes) -> None:
    with pytest.raises((TrustError, VerificationError)) as error:
        c2pa.check(sidecar, MANIFEST, [SIGNER.anchor])
    assert "\n" not in str(error.value)


@settings(max_examples=40)
@given(st.integers(0, len(SIDECAR) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_in_one_line_or_padding(place: int, mask: int) -> None:
    damaged = bytearray(SIDECAR)
    damaged[place] ^= mask
    refusal = ""
    try:
        c2pa.check(bytes(damaged), MANIFEST, [SIGNER.anchor])
    except (TrustError, VerificationError) as error:
        refusal = str(error)
    assert "\n" not in refusal


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SIGNER.write(tmp_path)
    Path("model.json").write_bytes(MANIFEST.text())
    export = ["export", "--format", "c2pa", "--key", "key.pem", "-o", "model.c2pa", "model.json"]
    done = in_process(*export, "--certificate", "chain.pem")
    assert (done.returncode, done.stderr) == (0, b"")
    check = ["check-export", "--format", "c2pa", "model.c2pa", "model.json", "--anchor"]
    assert in_process(*check, "anchor.pem").stdout == b"verified: model.c2pa is signed, and of model.json\n"
    untrusted = in_process(*check, "chain.pem")
    assert untrusted.returncode == 1
    assert len(untrusted.stderr.splitlines()) == 1
    assert in_process(*export, "--certificate", "chain.pem", "-q").returncode == 0
    assert in_process(*export).returncode == 2
    assert in_process(*export, "--certificate", "anchor.pem").returncode == 2
