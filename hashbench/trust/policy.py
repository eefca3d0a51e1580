"""Policies: what an appraisal asks. `policy.schema.json` in this package describes them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hashbench.model.documents import DocumentError, parse_document, read_document
from hashbench.trust.trust_error import TrustError

VERSION = 1
MAX_SIZE = 1 << 20
"""The largest policy that is read, in bytes."""

_MAX_DEPTH = 5
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Policy:
    """What is asked.

    Attributes:
        digest: the SHA-256 of its file.
        model: which model.
        verified_in: where it must have been verified; None for anywhere.
        components: which components may be all that was verified; "" is the model's own tensors.
        max_age_seconds: how old the statement may be.
        tdx: of a quote of Intel TDX; None if such a platform is not accepted.
        snp: of a report of AMD SEV-SNP, likewise.
        gpu: of evidence of GPUs.
    """

    digest: bytes
    model: Mapping[str, Any]
    verified_in: tuple[str, ...] | None
    components: tuple[str, ...]
    max_age_seconds: int | None
    tdx: Mapping[str, Any] | None
    snp: Mapping[str, Any] | None
    gpu: Mapping[str, Any]


def parse_policy(data: bytes) -> Policy:
    """Parses a policy.

    Raises:
        TrustError: it is not strict JSON, or does not follow the schema.
    """
    try:
        document = parse_document(
            data, "policy", version=VERSION, max_size=MAX_SIZE, max_depth=_MAX_DEPTH, package="hashbench.trust"
        )
    except DocumentError as error:
        raise TrustError(str(error)) from None
    verified_in = document.get("verified_in")
    return Policy(
        hashlib.sha256(data).digest(),
        document["model"],
        None if verified_in is None else tuple(verified_in),
        tuple(document.get("components", ("",))),
        document.get("max_age_seconds"),
        document.get("tdx"),
        document.get("snp"),
        document.get("gpu", _NOTHING),
    )


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """Reads a policy from a file.

    Raises:
        OSError: it cannot be read.
        TrustError: it is not valid; the message names the file.
    """
    return read_document(path, "policy", parse_policy, TrustError, MAX_SIZE)
