"""SVG files as the experiments draw them, and nothing else that SVG can be.

An SVG file may hold scripts, links, animations and whole HTML pages. A page shows it as an image, where browsers run
none of that; but a reader may open it by itself. So a file is accepted only if it has no element or attribute that
`hashbench figures` does not write, and refers to nothing outside itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.parsers.expat import ExpatError, ParserCreate

from hashbench.bench.records import ResultsError, check_text, read_file
from hashbench.model.strict_json import quoted

LARGEST = 300_000
"""Bytes of the largest file that is accepted: twice what a figure may have."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_RDF, _DC, _CC = (
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "http://purl.org/dc/elements/1.1/",
    "http://creativecommons.org/ns#",
)

_ELEMENTS = {
    *(f"{_SVG} {name}" for name in ("svg", "metadata", "defs", "style", "g", "path", "use", "text", "tspan")),
    *(f"{_SVG} {name}" for name in ("rect", "clipPath", "pattern")),
    *(f"{_RDF} RDF", f"{_CC} Work", f"{_DC} type", f"{_DC} format"),
}
_ATTRIBUTES = {
    *("id", "style", "x", "y", "width", "height", "d", "transform", "clip-path", "fill", "type", "viewBox", "version"),
    *("patternUnits", f"{_XLINK} href", f"{_RDF} resource"),
}
_RESOURCE = "http://purl.org/dc/dcmitype/StillImage"

_OUTSIDE = re.compile(r"url\((?!#[\w.-]+\))|[@\\]|/\*", re.IGNORECASE)
"""What refers to something else in CSS, or could hide that it does."""


def read_drawn(path: Path) -> bytes:
    """The content of a figure's SVG file.

    Raises:
        ResultsError: it is not a file as `hashbench figures` draws it, or cannot be read.
    """
    check_text("the name of a figure", path.name)
    content = read_file(path, LARGEST)
    try:
        _check(content)
    except (ExpatError, ValueError) as error:  # ValueError also for unknown encodings
        raise ResultsError(f"{path} is not a figure that `hashbench figures` drew: {error}") from None
    return content


def _check(content: bytes) -> None:
    """Checks an SVG file.

    Raises:
        ExpatError: it is not XML.
        ValueError: it has something that figures have not.
    """
    parser = ParserCreate(encoding="utf-8", namespace_separator=" ")
    path: list[str] = []

    def begin(name: str, attributes: Mapping[str, str]) -> None:
        if name not in _ELEMENTS or (not path and name != f"{_SVG} svg"):
            raise ValueError(f"it has the element {quoted(name)}")
        path.append(name)
        for attribute, value in attributes.items():
            inside = value.startswith("#") if attribute == f"{_XLINK} href" else not _OUTSIDE.search(value)
            if attribute not in _ATTRIBUTES or not inside or (attribute.endswith("resource") and value != _RESOURCE):
                raise ValueError(f"it has the attribute {quoted(attribute)} with the value {quoted(value)}")

    def text(data: str) -> None:
        if path[-1] == f"{_SVG} style" and _OUTSIDE.search(data):
            raise ValueError(f"it has the style {quoted(data)}")

    def doctype(name: str, system: str | None, public: str | None, has_internal_subset: int) -> None:
        if has_internal_subset:
            raise ValueError("it has declarations of its own")

    def instruction(target: str, data: str) -> None:
        raise ValueError(f"it has the processing instruction {quoted(target)}")

    parser.buffer_text = True
    parser.StartElementHandler = begin
    parser.EndElementHandler = lambda name: path.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    parser.ProcessingInstructionHandler = instruction
    parser.Parse(content, True)
