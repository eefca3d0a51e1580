"""Indexes that say which file of a sharded model holds each tensor, as transformers and diffusers write them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from hashbench.model.opened import opened
from hashbench.model.strict_json import StrictJsonError, loads, quoted

MAX_SIZE = 100_000_000
"""Bytes of the largest index that is read."""

_NAME = re.compile(r"(?P<weights>.+)\.index(?:\.(?P<variant>[^./]+))?\.json")
_MAX_DEPTH = 8  # index and weight map need two; the index's metadata may be anything


class ShardIndexError(ValueError):
    """A file is not an index; the message names it and says why."""


def weights_named_by(name: str) -> str | None:
    """The name that the weights would have in one file: "model.safetensors" for "model.safetensors.index.json".

    Args:
        name: a file's name, without its folder.

    Returns:
        That name, with the variant's if the index has one ("model.fp16.safetensors"); None if no index has such a name.
    """
    found = _NAME.fullmatch(name)
    if not found:
        return None
    weights, variant = found["weights"], found["variant"]
    if variant is None:
        return weights
    stem, dot, suffix = weights.rpartition(".")
    return f"{stem}.{variant}.{suffix}" if dot else f"{weights}.{variant}"


def beside(index: str, name: str) -> str:
    """The path of a file that an index names, where the index has a path relative to the model's folder."""
    folder, slash, _ = index.rpartition("/")
    return folder + slash + name


def read_index(path: str | os.PathLike[str]) -> Mapping[str, str]:
    """The name of the file, in the index's folder, that holds each tensor.

    Raises:
        OSError: it cannot be read.
        ShardIndexError: it is larger than `MAX_SIZE`, not strict JSON, or has no "weight_map" from names of tensors to
            plain names of files.
    """
    path = Path(path)
    with opened(path) as (file, status):
        assert status is not None
        text = file.read(min(status.st_size, MAX_SIZE) + 1)
    if len(text) > MAX_SIZE:
        raise ShardIndexError(f"{path} is not an index: it has more than {MAX_SIZE} bytes")
    try:
        content = loads(text, max_depth=_MAX_DEPTH, floats=True)  # some writers count bytes as floats
    except StrictJsonError as error:
        raise ShardIndexError(f"{path} is not an index: {error}") from None
    file_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(file_of, dict) or not all(isinstance(name, str) for name in file_of.values()):
        raise ShardIndexError(f'{path} is not an index: it has no "weight_map" from tensors to files')
    for name in set(file_of.values()):
        if name in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(name):
            raise ShardIndexError(f"{path} is not an index: {quoted(name)} is not a plain file name")
    return file_of
