"""C2PA sidecars of the file of a manifest, signed and read by the C2PA project's own library.

C2PA binds whole files, and reads them slowly: the one that is bound is the manifest, which has the roots of all others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from io import BytesIO
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.manifest import Manifest
from hashbench.model.strict_json import one_line, quoted
from hashbench.trust import keys
from hashbench.trust.manifest_facts import LABEL, facts
from hashbench.trust.trust_error import TrustError

MAX_SIZE = 4 << 20
"""The largest sidecar that is read, in bytes."""

_FORMAT = "application/octet-stream"  # whatever its content, all bytes of the file are bound
_ALGORITHMS = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
_CREATED = {
    "action": "c2pa.created",
    "digitalSourceType": "http://c2pa.org/digitalsourcetype/trainedAlgorithmicData",
}


def export(manifest: Manifest, name: str, key: ec.EllipticCurvePrivateKey, chain: Sequence[x509.Certificate]) -> bytes:
    """The C2PA sidecar of a manifest's file.

    Args:
        manifest: the file's content, whose bytes are `Manifest.text`.
        name: the file's name, without folders.
        key: signs.
        chain: the key's certificate, and those above it, in their order. C2PA accepts no certificate that issued itself
            as a signer's, and wants an extended key usage such as emailProtection.

    Raises:
        TrustError: the key or the chain is not accepted.
    """
    import c2pa

    if not chain or chain[0].public_key() != key.public_key():
        raise TrustError("the first certificate is not the key's")

    def sign(message: bytes) -> bytes:
        """The signature as COSE has it: r and s, of the curve's size each."""
        size = -(-key.curve.key_size // 8)
        return b"".join(number.to_bytes(size, "big") for number in decode_dss_signature(keys.sign(key, message)))

    claim = {
        "title": name,
        "format": "application/json",
        "claim_generator_info": [{"name": "hashbench", "version": version("hashbench")}],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [_CREATED]}},
            {"label": LABEL, "data": facts(manifest)},
        ],
    }
    pem = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in chain)
    try:
        algorithm = c2pa.C2paSigningAlg[_ALGORITHMS[key.curve.name]]
        with (
            c2pa.Context.from_dict(_settings()) as context,
            c2pa.Signer.from_callback(sign, algorithm, pem) as signer,
            c2pa.Builder(json.dumps(claim), context=context) as builder,
        ):
            builder.set_no_embed()
            return bytes(builder.sign(signer, _FORMAT, BytesIO(manifest.text()), BytesIO()))
    except c2pa.C2paError as error:
        raise TrustError(f"C2PA does not sign with this key and these certificates: {one_line(str(error))}") from None


def check(sidecar: bytes, manifest: Manifest, anchors: Sequence[x509.Certificate]) -> None:
    """Checks that a C2PA sidecar is trusted, and of a manifest's file.

    Args:
        sidecar: its content.
        manifest: the content of the manifest's file.
        anchors: the certificates of the authorities that are trusted.

    Raises:
        VerificationError: it is not.
        TrustError: the sidecar is none.
    """
    import c2pa

    if len(sidecar) > MAX_SIZE:
        raise TrustError(f"the sidecar has more than {MAX_SIZE} bytes")
    expected = facts(manifest)
    pem = "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in anchors)
    try:
        with (
            c2pa.Context.from_dict(_settings(pem)) as context,
            c2pa.Reader(_FORMAT, BytesIO(manifest.text()), manifest_data=sidecar, context=context) as reader,
        ):
            state = reader.get_validation_state()
            results: dict[str, Any] = reader.get_validation_results() or {}
            active = reader.get_active_manifest() if state == "Trusted" else None
    except c2pa.C2paError as error:
        raise TrustError(f"it is not a C2PA sidecar: {one_line(str(error))}") from None
    if state != "Trusted":
        failures = results.get("activeManifest", {}).get("failure", [])
        codes = ", ".join(sorted({one_line(str(failure.get("code"))) for failure in failures}))
        raise VerificationError(f"the C2PA sidecar is {quoted(state)}, not Trusted: {codes or 'no reason is given'}")
    found = [assertion["data"] for assertion in (active or {}).get("assertions", ()) if assertion["label"] == LABEL]
    if found != [expected]:
        raise VerificationError("the C2PA sidecar describes another root than the manifest has")


def _settings(anchors: str | None = None) -> dict[str, Any]:
    """The library's settings: nothing is fetched, and nobody trusted but the anchors."""
    trust = {} if anchors is None else {"trust_anchors": anchors}
    return {"trust": trust, "verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}}
