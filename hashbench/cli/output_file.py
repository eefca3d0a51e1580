"""Checks of output files before a long computation starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click

from hashbench.model.manifest import ManifestError, read_manifest


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest."""
    try:
        read_manifest(path)
    except ManifestError:
        return False
    return True


def check_output(path: Path, kind: str, is_of_kind: Callable[[Path], bool], source: Path | None = None) -> None:
    """Checks that a file can be written, and that it overwrites nothing but an older file of its kind.

    Args:
        path: the file.
        kind: its kind, for the error.
        is_of_kind: whether an existing file is of that kind.
        source: what is read meanwhile, and is not overwritten even if it is of that kind.

    Raises:
        UsageError: the file cannot be written, or would overwrite something else.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not path.is_file()):
        raise click.UsageError(f"{path} cannot be written: name a file in a writable folder")
    if not path.exists():
        return
    if not is_of_kind(path):
        raise click.UsageError(f"{path} exists and is not a {kind}: it is not overwritten")
    if source and source.exists() and path.samefile(source):
        raise click.UsageError(f"{path} is what is read: it is not overwritten")
