"""The JSON documents that this package writes for others to check: each has a version and a schema, and is read
strictly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import jsonschema_rs

from hashbench.model.strict_json import StrictJsonError, loads, one_line, quoted

T = TypeVar("T")


class DocumentError(ValueError):
    """A text is no document of its kind; the message says why."""


def parse_document(data: bytes, kind: str, *, version: int, max_size: int, max_depth: int) -> Any:
    """The content of a document that follows `<kind>.schema.json`.

    Args:
        data: its text.
        kind: what it is, as its schema's file and the errors call it.
        version: the one that is accepted.
        max_size: bytes that are accepted at most.
        max_depth: levels of nesting that are accepted at most.

    Raises:
        DocumentError: it is larger; it is no strict JSON; or it is of another version, or does not follow the schema.
    """
    if len(data) > max_size:
        raise DocumentError(f"it is no {kind}: more than {max_size} bytes")
    try:
        document = loads(data, max_depth=max_depth)
    except StrictJsonError as error:
        raise DocumentError(f"it is no {kind}: {error}") from None
    if isinstance(document, dict) and document.get("version", version) != version:
        raise DocumentError(f"its version is {quoted(document['version'])}; accepted is {version}")
    try:
        _validator(kind).validate(document)
    except jsonschema_rs.ValidationError as wrong:  # the first alone: there may be millions
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in wrong.instance_path)
        raise DocumentError(f"it does not follow the schema at ${place}: {one_line(wrong.message)}") from None
    return document


def read_document(
    path: str | os.PathLike[str], kind: str, parse: Callable[[bytes], T], error: type[ValueError], max_size: int
) -> T:
    """What `parse` makes of a file.

    Raises:
        OSError: it cannot be read.
        error: `parse` raised it; the message names the file.
    """
    with Path(path).open("rb") as file:
        data = file.read(max_size + 1)
    try:
        return parse(data)
    except error as wrong:
        raise error(f"{os.fspath(path)} cannot be used as a {kind}: {wrong}") from None


@cache
def _validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    schema = json.loads(files("hashbench.model").joinpath(f"{kind}.schema.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema)
