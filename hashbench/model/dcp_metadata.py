"""Reads the `.metadata` of a folder of torch.distributed.checkpoint, without unpickling it.

It is a pickle of a few data classes. This module runs the few instructions that such a pickle needs, on values of its
own: a class is its name, and an object its name and its attributes. Nothing is imported or called. Time and memory are
proportional to the pickle.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from hashbench.model.strict_json import quoted

MAX_SIZE = 64 << 20
"""Bytes of the largest accepted file: some 200 for each box of a tensor."""

_MAX_INSTRUCTIONS = 1 << 24
_MAX_DIMENSIONS = 64

_MODULE = "torch.distributed.checkpoint."
_OBJECTS = {
    f"{_MODULE}metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    },
    f"{_MODULE}filesystem": {"_StorageInfo"},
}
"""The classes whose objects are accepted, by module."""

_PLAIN_CALLS = {
    ("torch.serialization", "_get_layout"),
    (f"{_MODULE}metadata", "_MEM_FORMAT_ENCODING"),
    ("pathlib", "PosixPath"),  # where it was saved
    ("pathlib", "WindowsPath"),
}
"""What is called for values that are not looked at."""


class DcpError(ValueError):
    """A checkpoint's metadata is not accepted; the message says why."""


class SavedBox(NamedTuple):
    """A box of a tensor, and where it is saved.

    Attributes:
        offsets: the index of its first element along each dimension.
        shape: its shape.
        file: the file's path, relative to the folder.
        start: where its archive begins in the file.
        nbytes: the archive's size.
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int


@dataclass(frozen=True)
class SavedTensor:
    """A tensor of a checkpoint.

    Attributes:
        name: its name.
        dtype: its dtype, as in `str(tensor.dtype)`.
        shape: its shape as a whole.
        boxes: what it consists of.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[SavedBox, ...]


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


class _Object:
    """An object of an accepted class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state: Any = {}

    def get(self, name: str, kind: type) -> Any:
        """An attribute of a type.

        Raises:
            DcpError: there is none.
        """
        value = self.state.get(name) if isinstance(self.state, dict) else None
        if type(value) is not kind:
            raise DcpError(f"a {self.kind} has no {name} that is a {kind.__name__}")
        return value


class _Mark:
    """Where the arguments of an instruction begin."""


class _Index(NamedTuple):
    """What identifies a box: the tensor's name, and where the box begins in it; None where it is not a tensor's."""

    name: str
    offsets: tuple[int, ...] | None


def read_metadata(data: bytes) -> list[SavedTensor]:
    """The tensors of a checkpoint, by its `.metadata`.

    Raises:
        DcpError: it is not such a pickle, has an instruction or a class that it does not need, or does not say where
            every box of a tensor is.
    """
    if len(data) > MAX_SIZE:
        raise DcpError(f"it has {len(data)} bytes; up to {MAX_SIZE} are accepted")
    try:
        top = _run(data)
        if not isinstance(top, _Object) or top.kind != "Metadata":
            raise DcpError("it is not a Metadata of torch.distributed.checkpoint")
        return list(_tensors(top))
    except (AttributeError, IndexError, KeyError, TypeError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, DcpError):
            raise
        raise DcpError(f"it is not a valid pickle of a checkpoint's metadata ({type(error).__name__})") from None


def _run(data: bytes) -> Any:
    """The value that a pickle describes."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for operation, argument, _ in islice(pickletools.genops(data), _MAX_INSTRUCTIONS):
        name = operation.name
        if name == "STOP":
            return stack.pop()
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("PROTO", "FRAME"):
            continue
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](stack)
        else:
            raise DcpError(f"its pickle has the instruction {name}, which such metadata does not need")
    raise DcpError("its pickle has no end, or too many instructions")


def _since_mark(stack: list[Any]) -> list[Any]:
    at = len(stack) - 1
    while not isinstance(stack[at], _Mark):
        at -= 1
        if at < 0:
            raise DcpError("its pickle is not valid: a mark is missing")
    items = stack[at + 1 :]
    del stack[at:]
    return items


def _global(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    if type(name) is not str or type(module) is not str:
        raise DcpError("its pickle is not valid: a class has no name")
    known = name in _OBJECTS.get(module, ()) or (module, name) in _PLAIN_CALLS
    if not known and not (module == "torch" and name.isidentifier()):
        raise DcpError(f"its pickle names {quoted(f'{module}.{name}')}, which such metadata does not need")
    stack.append(_Global(module, name))


def _new(stack: list[Any]) -> None:
    arguments, kind = stack.pop(), stack.pop()
    if arguments != () or kind.name not in _OBJECTS.get(kind.module, ()):
        raise DcpError("its pickle makes an object that such metadata does not need")
    stack.append(_Object(kind.name))


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    if function == _Global("torch", "Size"):
        (size,) = arguments
        stack.append(_size(size))
    elif (function.module, function.name) in _PLAIN_CALLS:
        stack.append(None)
    elif function.name in _OBJECTS.get(function.module, ()):
        stack.append(_Object(function.name))
    else:
        raise DcpError(f"its pickle calls {quoted(f'{function.module}.{function.name}')}")


def _size(size: Any) -> tuple[int, ...]:
    if type(size) is not tuple or len(size) > _MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in size):
        raise DcpError("a size is not a tuple of numbers")
    return size


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    if not isinstance(stack[-1], _Object) or stack[-1].state:
        raise DcpError("its pickle sets attributes of something that is not a new object")
    if type(state) is tuple and len(state) == 2 and state[0] is None:  # attributes in slots
        state = state[1]
    stack[-1].state = state


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise DcpError("its pickle sets items of something that is not a dictionary")
    for key, value in zip(items[::2], items[1::2], strict=True):
        key = _index(key) if isinstance(key, _Object) else key
        if type(key) not in (str, _Index):  # hashing or showing another may take for ever
            raise DcpError("its pickle has a key that is neither text nor a box of a tensor")
        if key in target:
            raise DcpError(f"its pickle sets {quoted(str(key))} twice")
        target[key] = value


def _index(found: _Object) -> _Index:
    offsets = found.state.get("offset")
    return _Index(found.get("fqn", str), None if offsets is None else _size(offsets))


def _tensors(top: _Object) -> Iterator[SavedTensor]:
    places: dict[_Index, Any] = top.get("storage_data", dict)
    for name, saved in top.get("state_dict_metadata", dict).items():
        if not isinstance(name, str) or not isinstance(saved, _Object):
            raise DcpError("it has something that is neither a tensor nor bytes")
        if saved.kind != "TensorStorageMetadata":
            continue
        properties = saved.get("properties", _Object).state
        dtype = properties[0] if type(properties) is tuple and properties else None
        if not isinstance(dtype, _Global):
            raise DcpError(f"the tensor {quoted(name)} has no dtype")
        boxes = []
        for chunk in saved.get("chunks", list):
            offsets, shape = chunk.get("offsets", tuple), chunk.get("sizes", tuple)
            if (place := places.get(_Index(name, offsets))) is None:
                raise DcpError(f"it does not say where the box at {list(offsets)} of the tensor {quoted(name)} is")
            if place.state.get("transform_descriptors"):
                raise DcpError(f"the tensor {quoted(name)} is compressed or encrypted: its bytes are not in the file")
            numbers = place.get("offset", int), place.get("length", int)
            boxes.append(SavedBox(offsets, shape, place.get("relative_path", str), *numbers))
        yield SavedTensor(name, f"torch.{dtype.name}", saved.get("size", tuple), tuple(boxes))


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
}
_INSTRUCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "APPEND": lambda stack: _append(stack, [stack.pop()]),
    "APPENDS": lambda stack: _append(stack, _since_mark(stack)),
    "BUILD": _build,
    "EMPTY_DICT": lambda stack: stack.append({}),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "MARK": lambda stack: stack.append(_Mark()),
    "NEWOBJ": _new,
    "REDUCE": _reduce,
    "SETITEM": lambda stack: _set_item(stack),
    "SETITEMS": lambda stack: _set_items_since_mark(stack),
    "STACK_GLOBAL": _global,
    "TUPLE": lambda stack: stack.append(tuple(_since_mark(stack))),
    "TUPLE1": lambda stack: _tuple(stack, 1),
    "TUPLE2": lambda stack: _tuple(stack, 2),
    "TUPLE3": lambda stack: _tuple(stack, 3),
}


def _append(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is not list:
        raise DcpError("its pickle appends to something that is not a list")
    stack[-1].extend(items)


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _set_items(stack[-1], [key, value])


def _set_items_since_mark(stack: list[Any]) -> None:
    items = _since_mark(stack)
    _set_items(stack[-1], items)


def _tuple(stack: list[Any], count: int) -> None:
    if len(stack) < count:
        raise DcpError("its pickle is not valid: a value is missing")
    stack[-count:] = [tuple(stack[-count:])]
