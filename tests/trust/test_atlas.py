"""Atlas manifests: their structure by Atlas's own rules, and every way to change one is noticed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

cbor2 = pytest.importorskip("cbor2")
pytest.importorskip("cryptography")

from command_line import in_process  # noqa: E402
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from signers import Signer  # noqa: E402

from hashbench.hashing.verification_error import VerificationError  # noqa: E402
from hashbench.model.manifest import FileEntry, Manifest  # noqa: E402
from hashbench.trust import atlas  # noqa: E402
from hashbench.trust.trust_error import TrustError  # noqa: E402

KEY = ec.generate_private_key(ec.SECP384R1())
MANIFEST = Manifest("sha256", 4096, (FileEntry("weights.bin", 5, bytes(32)),), ("*.tmp",))
OTHER = Manifest("sha256", 4096, (FileEntry("weights.bin", 5, bytes([1] * 32)),), ("*.tmp",))
AT = datetime(2026, 11, 26, 1, 2, 3, tzinfo=UTC)
EXPORTED = atlas.export(MANIFEST, "model.json", KEY, AT)

FIELDS = {
    "manifest": "claim_generator title instance_id ingredients claim created_at cross_references c2pa.claim.v2 "
    "is_active",
    "claim": "instance_id created_assertions ingredients signature claim_generator_info created_at",
    "ingredient": "title relationship dc:format document_id instance_id data linked_ingredient",
    "data": "url alg hash data_types linked_ingredient_url linked_ingredient_hash",
    "action": "action software_agent parameters digital_source_type instance_id",
}
"""The fields in the order in which Atlas 0.1 declares them."""

pytestmark = pytest.mark.covers("atlas")


def test_the_structure_is_that_of_atlas() -> None:
    document = json.loads(EXPORTED)
    (ingredient,) = document["ingredients"]
    (action,) = document["claim"]["created_assertions"][1]["Action"]["actions"]
    parts = (document, document["claim"], ingredient, ingredient["data"], action)
    assert [" ".join(part) for part in parts] == list(FIELDS.values())
    assert ingredient["data"]["alg"] == "sha384"
    assert ingredient["data"]["hash"] == hashlib.sha384(MANIFEST.text()).hexdigest()
    assert document["c2pa.claim.v2"] == document["claim"]
    assert document["claim"]["created_at"] == "2026-11-26T01:02:03Z"
    facts = document["claim"]["created_assertions"][2]["CustomAssertion"]
    assert facts["label"] == "org.hashbench.manifest"
    assert facts["data"]["root"] == json.loads(MANIFEST.text())["root"]


def test_the_signature_is_a_raw_one_of_the_claim_in_cbor() -> None:
    claim = json.loads(EXPORTED)["claim"]
    signature = base64.b64decode(claim["signature"])
    claim["signature"] = None
    facts = claim["created_assertions"][2]["CustomAssertion"]
    facts["data"] = dict(sorted(facts["data"].items()))
    KEY.public_key().verify(signature, cbor2.dumps(claim), ec.ECDSA(hashes.SHA384()))


def test_what_was_exported_is_accepted_in_any_order_of_fields() -> None:
    atlas.check(EXPORTED, MANIFEST, KEY.public_key())
    shuffled = json.dumps(json.loads(EXPORTED), sort_keys=True).encode()
    assert shuffled != EXPORTED
    atlas.check(shuffled, MANIFEST, KEY.public_key())


def test_another_key_is_refused() -> None:
    with pytest.raises(VerificationError, match="the signature is not valid"):
        atlas.check(EXPORTED, MANIFEST, ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(TrustError, match="secp256r1 is not accepted"):
        atlas.check(EXPORTED, MANIFEST, ec.generate_private_key(ec.SECP256R1()).public_key())
    with pytest.raises(TrustError, match="secp521r1 is not accepted"):
        atlas.export(MANIFEST, "model.json", ec.generate_private_key(ec.SECP521R1()), AT)


def test_another_file_is_refused() -> None:
    with pytest.raises(VerificationError, match="another SHA-384"):
        atlas.check(EXPORTED, OTHER, KEY.public_key())


def signed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The exported document, changed before it was signed."""
    document = json.loads(EXPORTED)
    claim = document["claim"]
    change(claim)
    signature = KEY.sign(cbor2.dumps(atlas._claim({**claim, "signature": None})), ec.ECDSA(hashes.SHA384()))
    claim["signature"] = base64.b64encode(signature).decode()
    document["c2pa.claim.v2"], document["ingredients"] = claim, claim["ingredients"]
    return json.dumps(document).encode()


def test_who_signs_something_else_about_the_file_is_not_believed() -> None:
    atlas.check(signed(lambda claim: None), MANIFEST, KEY.public_key())

    def other_root(claim: dict[str, Any]) -> None:
        claim["created_assertions"][2]["CustomAssertion"]["data"]["root"] = "00" * 32

    with pytest.raises(VerificationError, match="another root"):
        atlas.check(signed(other_root), MANIFEST, KEY.public_key())
    with pytest.raises(VerificationError, match="another root"):
        atlas.check(signed(lambda claim: claim["created_assertions"].pop()), MANIFEST, KEY.public_key())
    with pytest.raises(VerificationError, match="another SHA-384"):
        atlas.check(
            signed(lambda claim: claim["ingredients"].append(claim["ingredients"][0])), MANIFEST, KEY.public_key()
        )
    with pytest.raises(VerificationError, match="another SHA-384"):
        atlas.check(signed(lambda claim: claim["ingredients"].clear()), MANIFEST, KEY.public_key())


UNSIGNED = {("claim_generator",), ("title",), ("instance_id",), ("created_at",), ("is_active",)}
"""What Atlas signs nowhere, and nothing rests on."""


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values that are neither objects nor lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, item in items for leaf in leaves(item, (*path, key))]
    return [path]


@given(st.sampled_from(leaves(json.loads(EXPORTED))), st.sampled_from([None, "", "x", 0, True, [], {}]))
def test_any_changed_value_is_noticed(path: tuple[str | int, ...], value: Any) -> None:
    document = json.loads(EXPORTED)
    place = document
    for step in path[:-1]:
        place = place[step]
    if place[path[-1]] == value:
        return
    place[path[-1]] = value
    try:
        atlas.check(json.dumps(document).encode(), MANIFEST, KEY.public_key())
    except (VerificationError, TrustError):
        return
    assert path in UNSIGNED


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"{}", b'{"claim": {}}', b"\xff", b"[" * 100_000, EXPORTED[:-3], b" " * (2 << 20)],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_atlas_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(TrustError):
        atlas.check(text, MANIFEST, KEY.public_key())


@given(st.binary(max_size=40), st.integers(0, len(EXPORTED)), st.integers(0, 40))
def test_damage_is_refused_in_one_line(junk: bytes, start: int, removed: int) -> None:
    damaged = EXPORTED[:start] + junk + EXPORTED[start + removed :]
    try:
        atlas.check(damaged, MANIFEST, KEY.public_key())
    except (VerificationError, TrustError) as error:
        refusal = str(error)
    else:
        refusal = ""
        before, after = json.loads(EXPORTED), json.loads(damaged)
        assert all(after[name] == before[name] for name in ("claim", "c2pa.claim.v2", "ingredients"))
    assert "\n" not in refusal


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Signer(ec.SECP384R1()).write(tmp_path)
    Path("model.json").write_bytes(MANIFEST.text())
    done = in_process("export", "--format", "atlas", "--key", "key.pem", "-o", "model.atlas", "model.json")
    assert (done.returncode, done.stderr) == (0, b"")
    check = ["check-export", "--format", "atlas", "model.atlas", "model.json", "--public-key", "key.pub"]
    assert in_process(*check).stdout == b"verified: model.atlas is signed, and of model.json\n"
    again = in_process("export", "--format", "atlas", "--key", "key.pem", "-q", "-o", "model.atlas", "model.json")
    assert (again.returncode, again.stdout) == (0, b"")
    Path("model.json").write_bytes(OTHER.text())
    assert in_process(*check).returncode == 1
    Path("other").write_bytes(b"mine")
    refused = in_process("export", "--format", "atlas", "--key", "key.pem", "-o", "other", "model.json")
    assert refused.returncode == 2
    assert b"it is not overwritten" in refused.stderr
    assert Path("other").read_bytes() == b"mine"
    for given_ in (["--format", "atlas"], ["--format", "c2pa", "--public-key", "key.pub"]):
        assert in_process("check-export", *given_, "model.atlas", "model.json").returncode == 2


def test_names_that_are_no_text_and_extras_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Signer(ec.SECP384R1()).write(tmp_path)
    name = os.fsdecode(b"a\xff\n")
    Path(name).write_bytes(MANIFEST.text())
    export = ["export", "--format", "atlas", "--key", "key.pem", "-o", "model.atlas", name]
    assert in_process(*export).returncode == 0
    assert json.loads(Path("model.atlas").read_text())["title"] == r"a\udcff\n"
    monkeypatch.setitem(sys.modules, "cbor2", None)
    done = in_process(*export)
    assert done.returncode == 2
    assert done.stderr == b"hashbench: cbor2 is not installed: install hashbench[atlas]\n"


@pytest.mark.parametrize("content", [b"", b"{}", MANIFEST.text()[:-1], b" " * 100])
def test_what_is_no_manifest_is_not_exported(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Signer(ec.SECP384R1()).write(tmp_path)
    Path("model.json").write_bytes(content)
    done = in_process("export", "--format", "atlas", "--key", "key.pem", "-o", "model.atlas", "model.json")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not Path("model.atlas").exists()


RUST = Path(__file__).parent / "atlas_structures"


@pytest.mark.thorough  # to compile serde takes half a minute
@pytest.mark.covers("atlas-in-rust")
def test_rust_reads_it_and_encodes_the_same_claim(tmp_path: Path) -> None:
    """Atlas's structures with serde, its CBOR by serde_cbor: what it would check the signature of."""
    cargo, crates = shutil.which("cargo"), Path("/usr/share/cargo/registry")
    if cargo is None or not list(crates.glob("serde_cbor-0.11*")):
        pytest.skip("no cargo, or none of Debian's librust-serde-derive-dev, -serde-json-dev and -serde-cbor-dev")
    project = tmp_path / "project"
    shutil.copytree(RUST, project)
    (project / ".cargo").mkdir()
    (project / ".cargo" / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "system"\n[source.system]\ndirectory = "{crates}"\n'
    )
    environment = {**os.environ, "CARGO_TARGET_DIR": str(tmp_path / "target")}
    subprocess.run([cargo, "build", "--offline", "--quiet"], cwd=project, env=environment, check=True)
    binary = tmp_path / "target" / "debug" / "atlas-structures"
    encoded = subprocess.run([binary], input=EXPORTED, capture_output=True, check=True).stdout
    signature = base64.b64decode(json.loads(EXPORTED)["claim"]["signature"])
    KEY.public_key().verify(signature, encoded, ec.ECDSA(hashes.SHA384()))
    missing = json.loads(EXPORTED)
    del missing["claim"]["created_at"]
    assert subprocess.run([binary], input=json.dumps(missing).encode(), capture_output=True).returncode != 0
