"""Manifests and proofs that a command reads: from a file, or from standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from hashbench.model.documents import parse_named
from hashbench.model.manifest import MAX_SIZE, Manifest, ManifestError, parse_manifest, read_manifest
from hashbench.model.proofs import MAX_SIZE as MAX_PROOF_SIZE
from hashbench.model.proofs import Proof, ProofError, parse_proof, read_proof

STANDARD_INPUT = Path("-")
_NAME = "standard input"


def manifest_from(path: Path) -> Manifest:
    """The manifest in a file, or on standard input for "-".

    Raises:
        OSError: it cannot be read.
        ManifestError: it is not valid.
    """
    if path != STANDARD_INPUT:
        return read_manifest(path)
    return parse_named(sys.stdin.buffer.read(MAX_SIZE + 1), _NAME, "manifest", parse_manifest, ManifestError)


def proof_from(path: Path) -> Proof:
    """The proof in a file, or on standard input for "-".

    Raises:
        OSError: it cannot be read.
        ProofError: it is not valid.
    """
    if path != STANDARD_INPUT:
        return read_proof(path)
    return parse_named(sys.stdin.buffer.read(MAX_PROOF_SIZE + 1), _NAME, "proof", parse_proof, ProofError)
