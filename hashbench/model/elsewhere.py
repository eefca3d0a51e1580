"""What a model's files refer to and that is not among them: a manifest does not cover it, and loaders may take it.

Configurations name code of other repositories, adapters their base model, ONNX models the files with their data, one of
several GGUF files the others, and Git LFS pointers the files that they stand for. This is for messages: libraries have
more ways to refer to things than these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from hashbench.hashing.opening import read_regular
from hashbench.model.folder import ListedFile
from hashbench.model.onnx import OnnxError, external_data
from hashbench.model.recognition import GIT_LFS_POINTER, recognise
from hashbench.model.shard_index import beside
from hashbench.model.strict_json import StrictJsonError, loads, quoted

_MAX_POINTER = 1024  # bytes of a Git LFS pointer, by its specification
_MAX_CONFIG = 4 << 20  # bytes of a configuration that is read
_MAX_VALUES = 1 << 18
_MAX_DEPTH = 64
_SHOWN = 8  # names in one line
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
_MODULES = "modules.json"  # of sentence-transformers: a list of a model's modules
_REPOSITORY = "--"  # ends the name of a repository in front of a class, as transformers has it


def named_elsewhere(file: ListedFile, files: Collection[str]) -> Iterator[str]:
    """What a file refers to that is not among the model's files, a line each.

    Args:
        file: the file.
        files: the paths of all files of the model.

    Raises:
        OSError: it cannot be read.
    """
    if file.status.st_size <= _MAX_POINTER and recognise(file.path) == GIT_LFS_POINTER:
        yield f"not covered: what {quoted(file.name)} stands for: it is {GIT_LFS_POINTER}"
    elif file.name.endswith("config.json"):
        yield from _of_configuration(file.name, file.path)
    elif file.name.rpartition("/")[2] == _MODULES:
        yield from _of_modules(file.name, file.path)
    elif file.name.lower().endswith(".onnx"):
        yield from _of_onnx(file.name, file.path, files)
    elif split := _SPLIT.fullmatch(file.name):
        yield from _of_split(file.name, split, files)


def whole_cache(files: Collection[str]) -> str | None:
    """What is to be said if files are those of a repository in a Hugging Face cache, with all its revisions."""
    inside = {name.partition("/")[0] for name in files}
    if inside >= {"blobs", "snapshots"}:
        return "this is a repository in a Hugging Face cache, with all its revisions: name the folder of a snapshot"
    return None


def _of_configuration(name: str, path: Path) -> Iterator[str]:
    content = _parsed(path, b'"auto_map"', b'"base_model_name_or_path"')
    if not isinstance(content, dict):
        return
    yield from _of_classes(name, content.get("auto_map"))
    base = content.get("base_model_name_or_path")
    if name.rpartition("/")[2] == "adapter_config.json" and base and isinstance(base, str):
        yield f"not covered: {quoted(base)}, the base model of the adapter of {quoted(name)}"


def _of_modules(name: str, path: Path) -> Iterator[str]:
    content = _parsed(path, b'"type"')
    if isinstance(content, list):
        yield from _of_classes(name, [module.get("type") for module in content if isinstance(module, dict)])


def _parsed(path: Path, *keys: bytes) -> Any:
    """The content of a file of JSON; None if it is none, or has none of these keys."""
    data = read_regular(path, _MAX_CONFIG)
    if any(key in data for key in keys):
        with suppress(StrictJsonError):
            return loads(data, max_depth=_MAX_DEPTH, floats=True, max_values=_MAX_VALUES)
    return None


def _of_classes(name: str, classes: Any) -> Iterator[str]:
    if names := sorted(set(_repositories(classes))):
        yield f"not covered: the code of {_enumerated(names)}, which {quoted(name)} names"


def _repositories(classes: Any) -> Iterator[str]:
    """The repositories of classes that a configuration names: one, or a list or an object of such."""
    if isinstance(classes, str) and _REPOSITORY in classes:
        yield classes.partition(_REPOSITORY)[0]
    elif isinstance(classes, (list, dict)):
        for named in classes.values() if isinstance(classes, dict) else classes:
            yield from _repositories(named)


def _of_onnx(name: str, path: Path, files: Collection[str]) -> Iterator[str]:
    try:
        locations = {data.location for data in external_data(path)}
    except OnnxError as error:
        yield f"not known to be covered: the data that {quoted(name)} keeps in other files: {error}"
        return
    if absent := sorted(location for location in locations if beside(name, location) not in files):
        yield f"not covered: {_enumerated(absent)}, where {quoted(name)} keeps data"


def _of_split(name: str, split: re.Match[str], files: Collection[str]) -> Iterator[str]:
    def of_number(number: int) -> str:
        return f"{split['stem']}-{number:05}-of-{split['count']}.gguf"

    if of_number(int(split["number"]) - 1) in files:  # which tells of the others
        return
    others = map(of_number, range(1, int(split["count"]) + 1))
    if absent := list(islice((other for other in others if other not in files), _SHOWN + 1)):
        yield f"not covered: {_enumerated(absent)}, other parts of {quoted(name)}"


def _enumerated(names: list[str]) -> str:
    return ", ".join(map(quoted, names[:_SHOWN])) + (" and more" if len(names) > _SHOWN else "")
