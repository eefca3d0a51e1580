"""What documents in the formats of others say of a manifest, so that it can be read without the manifest's file."""

from __future__ import annotations

from typing import Any

from hashbench.model.manifest import Manifest
from hashbench.model.verdict import described

LABEL = "org.hashbench.manifest"
"""The label of the assertion that holds the facts."""


def facts(manifest: Manifest) -> dict[str, Any]:
    """The content of the assertion."""
    return {**described(manifest), "root": manifest.root.hex()}
