"""The JSON documents that this package writes and reads: each has a version and a schema, and is read strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from hashbench.hashing.opening import read_regular
from hashbench.model.strict_json import MAX_VALUES, StrictJsonError, loads, one_line, quoted

if TYPE_CHECKING:
    import jsonschema_rs

T = TypeVar("T")


class DocumentError(ValueError):
    """A text is not a document of its kind; the message says why."""


def parse_document(
    data: bytes,
    kind: str,
    *,
    version: int | None,
    max_size: int,
    max_depth: int,
    max_values: int = MAX_VALUES,
    floats: bool = False,
    package: str = "hashbench.model",
) -> Any:
    """Parses a document and validates it against `<kind>.schema.json`.

    Args:
        data: its text.
        kind: the kind of document, as its schema's file and the errors call it.
        version: the accepted version; None for documents of others, which have none.
        max_size: the most bytes accepted.
        max_depth: the deepest nesting accepted.
        max_values: the most values accepted.
        floats: whether numbers with a fraction or an exponent are accepted.
        package: the one that has the schema.

    Raises:
        DocumentError: it is larger, not strict JSON, of another version, or does not follow the schema.
    """
    import jsonschema_rs  # slow to import, and hashing without a manifest does not need it

    if len(data) > max_size:
        raise DocumentError(f"it has more than {max_size} bytes")
    try:
        document = loads(data, max_depth=max_depth, floats=floats, max_values=max_values)
    except StrictJsonError as error:
        raise DocumentError(str(error)) from None
    if version is not None and isinstance(document, dict) and document.get("version", version) != version:
        raise DocumentError(f"its version is {quoted(document['version'])}; accepted is {version}")
    try:
        _validator(kind, package).validate(document)
    except jsonschema_rs.ValidationError as error:  # only the first: there may be millions
        place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        raise DocumentError(f"it does not follow the schema at ${place}: {one_line(error.message)}") from None
    return document


def read_document(
    path: str | os.PathLike[str], kind: str, parse: Callable[[bytes], T], error: type[ValueError], max_size: int
) -> T:
    """Parses a file.

    Args:
        path: the file.
        kind: the kind of document, for the error.
        parse: parses the file's content.
        error: what `parse` raises.
        max_size: the most bytes accepted.

    Raises:
        OSError: it cannot be read.
        error: `parse` raised it; the message names the file.
    """
    return parse_named(read_regular(path, max_size + 1), os.fspath(path), kind, parse, error)


def parse_named(data: bytes, name: str, kind: str, parse: Callable[[bytes], T], error: type[ValueError]) -> T:
    """Parses a document; otherwise as `read_document`.

    Args:
        data: its text.
        name: where it comes from, for the error.
        kind: the kind of document, for the error.
        parse: parses it.
        error: what `parse` raises.
    """
    try:
        return parse(data)
    except error as reason:
        raise error(f"{name} is not a valid {kind}: {reason}") from None


@cache
def _validator(kind: str, package: str) -> jsonschema_rs.Draft202012Validator:
    import jsonschema_rs

    schema = json.loads(files(package).joinpath(f"{kind}.schema.json").read_text())
    return jsonschema_rs.Draft202012Validator(schema)
