"""A verification's verdict as a JSON document, for programs; verdict.schema.json in this package describes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from hashbench.model.manifest import Entry, Manifest, TensorEntry
from hashbench.model.report import Report

KIND = "hashbench-verdict"
VERSION = 1
"""What the document is called in it, and its version."""

MAX_NAMES = 1000
"""Names of each kind that a verdict lists; it counts all."""


def verdict(report: Report) -> dict[str, Any]:
    """The verdict that a report comes to."""
    expected = report.expected
    damage = {name: [[run.start, run.stop] for run in runs] for name, runs in report.damage.items()}
    differs = [
        {
            "name": name,
            "expected": _described(expected.by_name[name]),
            "found": _described(report.found[name]),
            **({"chunks": damage[name]} if name in damage else {}),
        }
        for name in report.differs[:MAX_NAMES]
    ]
    return {
        **_about(report.ok),
        **described(expected),
        "root": (report.root or expected.root).hex(),
        "tensors_only": not expected.files,
        "counts": {
            "differs": len(report.differs),
            "missing": len(report.missing),
            "extra": len(report.extra),
            "ignored": len(report.ignored),
            "unreadable": len(report.unreadable),
        },
        "differs": differs,
        "missing": list(report.missing[:MAX_NAMES]),
        "extra": list(report.extra[:MAX_NAMES]),
        "ignored": list(report.ignored[:MAX_NAMES]),
        "unreadable": dict(islice(report.unreadable.items(), MAX_NAMES)),
        "notes": list(report.notes),
        "problems": list(report.problems),
    }


def described(manifest: Manifest) -> dict[str, Any]:
    """What a manifest describes, but for its root."""
    return {
        "algorithm": manifest.algorithm,
        "chunk_size": manifest.chunk_size,
        "files": len(manifest.files),
        "tensors": len(manifest.tensors),
        "exclusions": list(manifest.exclusions),
    }


def failure(problems: Sequence[str], kind: str = KIND) -> dict[str, Any]:
    """The verdict, of that kind, on a model of which nothing could be compared."""
    return {**_about(False), "kind": kind, "problems": list(problems)}


def _about(verified: bool) -> dict[str, Any]:
    return {"kind": KIND, "version": VERSION, "verified": verified}


def _described(entry: Entry) -> dict[str, Any]:
    """What of an entry is compared, but for its root: that of what was not hashed is not known."""
    if isinstance(entry, TensorEntry):
        return {"dtype": entry.dtype, "shape": list(entry.shape)}
    return {"size": entry.nbytes}
