"""Manifests of Atlas, IntelLabs' tool for the provenance of models, about the file of a manifest of this project.

An Atlas manifest is JSON. Its claim is signed: in CBOR, with the fields in the order in which Atlas declares them, and
null as signature. Atlas lists a model's files by their whole SHA-384; here, the one file is the manifest, which has the
roots of all others. Version 0.1 of Atlas does not check signatures, nor that what it compares with files was signed:
`check` does both.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import Manifest
from hashbench.model.strict_json import StrictJsonError, loads, quoted
from hashbench.trust import keys
from hashbench.trust.manifest_facts import LABEL, facts
from hashbench.trust.trust_error import TrustError

MAX_SIZE = 1 << 20
"""The largest Atlas manifest that is read, in bytes."""

_MAX_DEPTH = 32
_GENERATOR = "hashbench"
_ALGORITHM = "sha384"
_TYPE = "c2pa.types.model"


def export(manifest: Manifest, name: str, key: ec.EllipticCurvePrivateKey, at: datetime) -> bytes:
    """The Atlas manifest of a manifest's file.

    Args:
        manifest: the file's content, whose bytes are `Manifest.text`.
        name: the file's name, without folders.
        key: signs, on the curve P-384.
        at: when.

    Raises:
        TrustError: the key is of another curve.
    """
    import cbor2

    _check_curve(key.curve)
    created_at = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ingredient = {
        "title": name,
        "relationship": "componentOf",
        "dc:format": "application/json",
        "document_id": f"uuid:{uuid.uuid4()}",
        "instance_id": f"uuid:{uuid.uuid4()}",
        "data": {
            "url": f"file://{name}",
            "alg": _ALGORITHM,
            "hash": hashlib.new(_ALGORITHM, manifest.text()).hexdigest(),
            "data_types": [_TYPE],
            "linked_ingredient_url": None,
            "linked_ingredient_hash": None,
        },
        "linked_ingredient": None,
    }
    claim: dict[str, Any] = {
        "instance_id": f"urn:c2pa:{uuid.uuid4()}",
        "created_assertions": [
            {
                "CreativeWork": {
                    "@context": "http://schema.org/",
                    "@type": "Model",
                    "author": [{"@type": "Organization", "name": _GENERATOR}],
                }
            },
            {
                "Action": {
                    "actions": [
                        {
                            "action": "c2pa.created",
                            "software_agent": _GENERATOR,
                            "parameters": {"name": name},
                            "digital_source_type": None,
                            "instance_id": None,
                        }
                    ]
                }
            },
            {"CustomAssertion": {"label": LABEL, "data": facts(manifest)}},
        ],
        "ingredients": [ingredient],
        "signature": None,
        "claim_generator_info": _GENERATOR,
        "created_at": created_at,
    }
    signature = keys.sign(key, cbor2.dumps(_claim(claim)))
    claim["signature"] = base64.b64encode(signature).decode()
    document = {
        "claim_generator": _GENERATOR,
        "title": name,
        "instance_id": f"urn:c2pa:{uuid.uuid4()}",
        "ingredients": [ingredient],
        "claim": claim,
        "created_at": created_at,
        "cross_references": [],
        "c2pa.claim.v2": claim,
        "is_active": True,
    }
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def check(document: bytes, manifest: Manifest, key: ec.EllipticCurvePublicKey) -> None:
    """Checks that an Atlas manifest is signed, all that it says of files too, and that it is of a manifest's file.

    Args:
        document: the Atlas manifest.
        manifest: the content of the manifest's file.
        key: the public key of who is trusted to sign.

    Raises:
        VerificationError: the signature is not valid, what is not signed differs from what is, or the file is not the
            one that was signed.
        TrustError: the document is no Atlas manifest, or the key is of another curve.
    """
    import cbor2

    _check_curve(key.curve)
    if len(document) > MAX_SIZE:
        raise TrustError(f"the Atlas manifest has more than {MAX_SIZE} bytes")
    try:
        parsed = _manifest(loads(document, max_depth=_MAX_DEPTH))
        claim = parsed["claim"]
        signature = base64.b64decode(claim["signature"], validate=True)
        signed = cbor2.dumps({**claim, "signature": None})
    except (StrictJsonError, TypeError, ValueError, binascii.Error) as error:
        raise TrustError(f"it is not a signed Atlas manifest: {error}") from None
    keys.check_signature(key, signature, signed)
    # Atlas compares the outer ingredients with files, and they are outside of what is signed.
    if parsed["ingredients"] != claim["ingredients"] or parsed["c2pa.claim.v2"] != claim:
        raise VerificationError("the Atlas manifest's ingredients are not those of its signed claim")
    files = [ingredient["data"] for ingredient in claim["ingredients"]]
    found = {"alg": _ALGORITHM, "hash": hashlib.new(_ALGORITHM, manifest.text()).hexdigest()}
    if len(files) != 1 or {field: files[0][field] for field in found} != found:
        raise VerificationError("the Atlas manifest is not of this manifest's file: it has another SHA-384")
    described = [
        assertion["CustomAssertion"]["data"]
        for assertion in claim["created_assertions"]
        if "CustomAssertion" in assertion and assertion["CustomAssertion"]["label"] == LABEL
    ]
    if described != [facts(manifest)]:
        raise VerificationError("the Atlas manifest describes another root than the manifest has")


def _check_curve(curve: ec.EllipticCurve) -> None:
    if not isinstance(curve, ec.SECP384R1):
        raise TrustError(
            f"a key of the curve {curve.name} is not accepted: Atlas signs with SHA-384, name one of P-384"
        )


# The structures of Atlas: each value in the order in which its fields are declared, whatever their order in JSON.

_Parse = Callable[[Any], Any]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{quoted(value)} is not a string")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{quoted(value)} is not a boolean")
    return value


def _any(value: Any) -> Any:
    """A value of any structure; Atlas sorts the keys of its objects."""
    if isinstance(value, dict):
        return {key: _any(value[key]) for key in sorted(value, key=str.encode)}
    return [_any(item) for item in value] if isinstance(value, list) else value


def _optional(parse: _Parse) -> _Parse:
    return lambda value: None if value is None else parse(value)


def _list(parse: _Parse) -> _Parse:
    def parsed(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise TypeError(f"{quoted(value)} is not a list")
        return [parse(item) for item in value]

    return parsed


def _structure(fields: Mapping[str, _Parse]) -> _Parse:
    """An object with exactly these fields."""

    def parsed(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or value.keys() != fields.keys():
            raise TypeError(f"{quoted(value)} does not have exactly the fields {', '.join(fields)}")
        return {name: parse(value[name]) for name, parse in fields.items()}

    return parsed


def _one_of(variants: Mapping[str, _Parse]) -> _Parse:
    """An object with one of these fields."""

    def parsed(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= variants.keys():
            raise TypeError(f"{quoted(value)} is not one of {', '.join(variants)}")
        return {name: variants[name](content) for name, content in value.items()}

    return parsed


_ingredient = _structure(
    {
        "title": _text,
        "relationship": _text,
        "dc:format": _text,
        "document_id": _text,
        "instance_id": _text,
        "data": _structure(
            {
                "url": _text,
                "alg": _text,
                "hash": _text,
                "data_types": _list(_text),
                "linked_ingredient_url": _optional(_text),
                "linked_ingredient_hash": _optional(_text),
            }
        ),
        "linked_ingredient": _optional(_structure({"url": _text, "hash": _text, "media_type": _text})),
    }
)
_action = _structure(
    {
        "action": _text,
        "software_agent": _optional(_text),
        "parameters": _any,
        "digital_source_type": _optional(_text),
        "instance_id": _optional(_text),
    }
)
_assertion = _one_of(
    {
        "Action": _structure({"actions": _list(_action)}),
        "CreativeWork": _structure(
            {"@context": _text, "@type": _text, "author": _list(_structure({"@type": _text, "name": _text}))}
        ),
        "CustomAssertion": _structure({"label": _text, "data": _any}),
        "DoNotTrain": _structure({"reason": _text, "enforced": _boolean}),
    }
)
_claim = _structure(
    {
        "instance_id": _text,
        "created_assertions": _list(_assertion),
        "ingredients": _list(_ingredient),
        "signature": _optional(_text),
        "claim_generator_info": _text,
        "created_at": _text,
    }
)
_manifest = _structure(
    {
        "claim_generator": _text,
        "title": _text,
        "instance_id": _text,
        "ingredients": _list(_ingredient),
        "claim": _claim,
        "created_at": _text,
        "cross_references": _list(_any),
        "c2pa.claim.v2": _claim,
        "is_active": _boolean,
    }
)
