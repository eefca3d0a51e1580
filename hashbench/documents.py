"""The JSON documents that this package writes for others to check: each has a version and a schema, and is read
strictly.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema

from hashbench.strict_json import StrictJsonError, loads, quoted


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
    for wrong in _validator(kind).iter_errors(document):  # the first alone: there may be millions
        raise DocumentError(f"it does not follow the schema at {wrong.json_path[:200]}: {wrong.message[:200]}")
    return document


@cache
def _validator(kind: str) -> jsonschema.protocols.Validator:
    return jsonschema.Draft202012Validator(json.loads(files("hashbench").joinpath(f"{kind}.schema.json").read_text()))
