"""Manifests and proofs that a command reads: from a file, or from standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from hashbench.model.manifest import MAX_SIZE, Manifest, ManifestError, parse_manifest, read_manifest
from hashbench.model.proofs import MAX_SIZE as MAX_PROOF_SIZE
from hashbench.model.proofs import Proof, ProofError, parse_proof, read_proof

STANDARD_INPUT = Path("-")


def manifest_from(path: Path) -> Manifest:
    """The manifest in a file, or on standard input for "-".

    Raises:
        OSError: it cannot be read.
        ManifestError: it is not valid.
    """
    if path != STANDARD_INPUT:
        return read_manifest(path)
    try:
        return parse_manifest(sys.stdin.buffer.read(MAX_SIZE + 1))
    except ManifestError as error:
        raise ManifestError(f"standard input is not a valid manifest: {error}") from None


def proof_from(path: Path) -> Proof:
    """The proof in a file, or on standard input for "-".

    Raises:
        OSError: it cannot be read.
        ProofError: it is not valid.
    """
    if path != STANDARD_INPUT:
        return read_proof(path)
    try:
        return parse_proof(sys.stdin.buffer.read(MAX_PROOF_SIZE + 1))
    except ProofError as error:
        raise ProofError(f"standard input is not a valid proof: {error}") from None
