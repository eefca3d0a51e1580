"""DSSE: envelopes that sign a payload together with its type (Dead Simple Signing Envelope, version 1)."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from hashbench.hashing.verification_error import VerificationError
from hashbench.model.strict_json import quoted
from hashbench.trust.keys import check_signature, hint_of, sign
from hashbench.trust.trust_error import TrustError

IN_TOTO = "application/vnd.in-toto+json"
"""The type of payloads that are in-toto statements."""


@dataclass(frozen=True)
class Envelope:
    """A signed payload.

    Attributes:
        payload: what is signed; not to be interpreted before its signature is checked.
        payload_type: what it is.
        signature: in DER.
        keyid: names the key of the signature, as a hint alone.
    """

    payload: bytes
    payload_type: str
    signature: bytes
    keyid: str = ""

    def fields(self) -> dict[str, Any]:
        """Its JSON."""
        return {
            "payload": b64encode(self.payload).decode(),
            "payloadType": self.payload_type,
            "signatures": [{"keyid": self.keyid, "sig": b64encode(self.signature).decode()}],
        }

    def checked(self, key: ec.EllipticCurvePublicKey) -> bytes:
        """The payload, an in-toto statement, after its signature and type are checked.

        Raises:
            VerificationError: the signature is not valid, or the payload is of another type.
        """
        check_signature(key, self.signature, pae(self.payload_type, self.payload))
        if self.payload_type != IN_TOTO:
            raise VerificationError(f"what is signed is of the type {quoted(self.payload_type)}, not {IN_TOTO}")
        return self.payload


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding of a payload and its type."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def signed(payload: bytes, key: ec.EllipticCurvePrivateKey, keyid: str | None = None) -> Envelope:
    """An envelope with an in-toto statement.

    Args:
        payload: the statement.
        key: signs it.
        keyid: names the key; None takes the hint of its public key.
    """
    signature = sign(key, pae(IN_TOTO, payload))
    return Envelope(payload, IN_TOTO, signature, hint_of(key.public_key()) if keyid is None else keyid)


def envelope_of(fields: Mapping[str, Any]) -> Envelope:
    """The envelope of a JSON document that follows the schema.

    Raises:
        TrustError: a part is not base64, or it has another number of signatures than one: which of them would count is
            for nobody to guess.
    """
    if len(fields["signatures"]) != 1:
        raise TrustError(f"the envelope has {len(fields['signatures'])} signatures; accepted is one")
    (signature,) = fields["signatures"]
    return Envelope(
        from_base64(fields["payload"], "the payload"),
        fields["payloadType"],
        from_base64(signature["sig"], "the signature"),
        signature.get("keyid") or "",
    )


def from_base64(text: str, name: str) -> bytes:
    """The bytes of a base64 text; `name` is for the error.

    Raises:
        TrustError: it is not base64.
    """
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise TrustError(f"{name} is not base64") from None
