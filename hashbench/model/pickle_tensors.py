r"""Finds the tensors that a PyTorch checkpoint's pickle describes, without unpickling it.

A pickle is a program that builds objects. This module runs a small part of that language, on values of its own: the
instructions that `torch.save` writes for protocol 2, and of all functions only those that `torch.load` allows with
`weights_only`. Nothing of PyTorch is called, and no tensor is made: the result says which tensors there are, by name,
and where in which storage they are.

What could make a loader see other tensors than are found here is refused: attributes of containers and tensors, keys
that are set twice, storages that are described in two ways. Time and memory are proportional to the pickle, whatever
is in it: the numbers of instructions, of values and of names are limited.

A tensor's name is the path to it from the outermost object:

- A key that is text is written as it is, with "/" between it and the key before, so that the names of a plain state
  dict are its keys.
- An integer, which is a key or a place in a list or tuple, is written in brackets: `optimizer/state[0]/exp_avg`.
- In keys, "/", "[" and backslashes have a backslash in front, and an empty key is written as `\e`. So different paths
  have different names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from hashbench.model.strict_json import quoted

MAX_SIZE = 32 << 20
"""Bytes of the largest accepted pickle."""

_MAX_INSTRUCTIONS = 1 << 23  # some 40 for each tensor
_MAX_MADE = 1 << 21  # containers, results of calls and memoized values; some 20 for each tensor
_MAX_VALUES = 1 << 20  # in the result, where a value in two places counts twice
_MAX_NESTING = 64  # of containers in the result
_MAX_LETTERS = 64 << 20  # of all names, where one long key may be part of every name
_MAX_DIMENSIONS = 64  # PyTorch's own limit for what it computes with
_MAX_GLOBAL = 200  # bytes of a global's name

_SURROGATE = re.compile("[\ud800-\udfff]")
_SPECIAL = re.compile(r"[\\/\[]")
_STORAGE_KEY = re.compile(r"[0-9]{1,20}", re.ASCII)
_LOCATION = re.compile(r"(?!meta\b)[a-z0-9_]{1,32}(:[0-9]{1,4})?", re.ASCII)


class PickleError(ValueError):
    """A pickle is not accepted; the message says why, without the file's name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes that tensors are views of.

    Attributes:
        key: Its name in the archive, without the folder.
        dtype: The dtype of its elements, as in `str(tensor.dtype)`.
        numel: The number of its elements.
    """

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A view of a storage, as the pickle describes it; nothing is checked but types and signs.

    Attributes:
        storage: What it is a view of.
        dtype: Its dtype, as in `str(tensor.dtype)`.
        offset: Where in the storage it begins, in elements.
        shape: Its shape.
        stride: For each dimension, the elements in the storage from one index to the next.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class PickledTensors:
    """What a pickle describes.

    Attributes:
        tensors: The tensors, by name.
        others: The names of values that are not tensors.
        storages: The storages in the order in which the pickle first has them.
    """

    tensors: dict[str, PickledTensor]
    others: tuple[str, ...]
    storages: tuple[Storage, ...]


def read_pickle(data: bytes) -> PickledTensors:
    """Finds the tensors in a pickle.

    Args:
        data: The pickle, such as an archive's `data.pkl`.

    Returns:
        The tensors, and what else there is.

    Raises:
        PickleError: It is not a valid pickle; it has instructions, functions or attributes that plain tensors do not
            need; it is beyond the limits here; or it has a tensor that is not a view of one storage's plain bytes: one
            that is sparse, quantized, nested, conjugated, of a subclass, or without bytes.
    """
    if len(data) > MAX_SIZE:
        raise PickleError(f"its pickle has {len(data)} bytes; up to {MAX_SIZE} are accepted")
    machine = _Machine(data)
    return _named(machine.run(), machine)


class _Plain:
    """Any value that is not looked into: a float, bytes, a device, a set."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """A tensor that is not accepted."""

    why: str


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True, slots=True)
class _Dtype:
    name: str


class _Ordered(dict[str, Any]):
    """An OrderedDict.

    Attributes:
        metadata: Its attribute `_metadata`, which a module's state_dict has.
    """

    __slots__ = ("metadata",)

    def __init__(self) -> None:
        self.metadata: Any = None


@dataclass(frozen=True, slots=True)
class _Function:
    name: str
    call: Callable[[_Machine, tuple[Any, ...]], Any]


_PLAIN = _Plain()


class _Machine:
    """Runs the instructions of a pickle.

    A dict or Counter is a dict, an OrderedDict an `_Ordered`; their keys are written as in names. Lists, tuples, texts,
    booleans, None, and integers of up to 64 bits are themselves. All else that is not a tensor, a storage, a type or a
    function is `_PLAIN`.

    Attributes:
        storages: The storages, by key.
        hooks: The backward hooks of tensors, which must be empty at the end.
    """

    def __init__(self, data: bytes) -> None:
        self.storages: dict[str, Storage] = {}
        self.hooks: list[_Ordered] = []
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._keys: dict[str, str] = {}
        self._left = _MAX_MADE

    def run(self) -> Any:
        """Runs all instructions.

        Returns:
            The outermost object.
        """
        data, instructions = self._data, self._INSTRUCTIONS
        try:
            for _ in range(_MAX_INSTRUCTIONS):
                code = data[self._at]
                self._at += 1
                if code == _STOP:
                    break
                instructions[code](self)
            else:
                raise PickleError(f"its pickle has more than {_MAX_INSTRUCTIONS} instructions")
        except IndexError:
            raise PickleError(
                f"its pickle is not valid: at byte {self._at} it ends, or uses what is not there"
            ) from None
        except KeyError:
            raise PickleError(
                f"its pickle has the byte {data[self._at - 1]:#x} at {self._at - 1}, which is not an instruction that "
                "PyTorch writes for weights"
            ) from None
        if self._at != len(data) or self._below or len(self._stack) != 1:
            raise PickleError("its pickle has more than one object, or bytes after its end")
        if any(self.hooks):
            raise PickleError("its pickle gives a tensor backward hooks")
        return self._stack[0]

    def spend(self, count: int = 1) -> None:
        """Counts what is made, as each value takes memory."""
        self._left -= count
        if self._left < 0:
            raise PickleError(f"its pickle makes more than {_MAX_MADE} values")

    # Arguments of instructions

    def _take(self, nbytes: int) -> bytes:
        begin, self._at = self._at, self._at + nbytes
        if self._at > len(self._data):
            raise IndexError
        return self._data[begin : self._at]

    def _unsigned(self, nbytes: int) -> int:
        return int.from_bytes(self._take(nbytes), "little")

    # Instructions, which are named as in the standard library's pickle module

    def _proto(self) -> None:
        if self._at != 1 or self._unsigned(1) != 2:
            raise PickleError("its pickle is not of protocol 2, which torch.save writes")

    def _none(self) -> None:
        self._stack.append(None)

    def _true(self) -> None:
        self._stack.append(True)

    def _false(self) -> None:
        self._stack.append(False)

    def _binint(self) -> None:
        self._stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def _binint1(self) -> None:
        self._stack.append(self._unsigned(1))

    def _binint2(self) -> None:
        self._stack.append(self._unsigned(2))

    def _long1(self) -> None:
        digits = self._take(self._unsigned(1))
        self._stack.append(int.from_bytes(digits, "little", signed=True) if len(digits) <= 8 else _PLAIN)

    def _binfloat(self) -> None:
        self._take(8)
        self._stack.append(_PLAIN)

    def _binunicode(self) -> None:
        try:
            self._stack.append(self._take(self._unsigned(4)).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            raise PickleError("its pickle has a text that is not UTF-8") from None

    def _binput(self) -> None:
        self._memoize(self._unsigned(1))

    def _long_binput(self) -> None:
        self._memoize(self._unsigned(4))

    def _memoize(self, number: int) -> None:
        self.spend()
        self._memo[number] = self._stack[-1]

    def _binget(self) -> None:
        self._recall(self._unsigned(1))

    def _long_binget(self) -> None:
        self._recall(self._unsigned(4))

    def _recall(self, number: int) -> None:
        if number not in self._memo:
            raise IndexError
        self._stack.append(self._memo[number])

    def _empty_list(self) -> None:
        self.spend()
        self._stack.append([])

    def _empty_dict(self) -> None:
        self.spend()
        self._stack.append({})

    def _empty_tuple(self) -> None:
        self._stack.append(())

    def _mark(self) -> None:
        self.spend()
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self) -> None:
        items = self._since_mark()  # which changes the stack that they are put on
        self._stack.append(tuple(items))

    def _tuple1(self) -> None:
        self.spend()
        self._stack[-1] = (self._stack[-1],)

    def _tuple2(self) -> None:
        self.spend()
        last = self._stack.pop()
        self._stack[-1] = (self._stack[-1], last)

    def _tuple3(self) -> None:
        self.spend()
        last, middle = self._stack.pop(), self._stack.pop()
        self._stack[-1] = (self._stack[-1], middle, last)

    def _append(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise PickleError("its pickle appends to what is not a list")
        target.extend(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise PickleError("its pickle sets items of what is not a dict")
        if len(items) % 2:
            raise IndexError
        for place in range(0, len(items), 2):
            key = self._key(items[place])
            if key in target:
                raise PickleError(f"its pickle sets the key {quoted(items[place])} twice")
            target[key] = items[place + 1]

    def _key(self, key: Any) -> str:
        """A key as it is written in names. As a text it has a hash that no attacker can choose."""
        if type(key) is int:
            return f"[{key}]"
        if type(key) is not str:
            raise PickleError("it has a key that is neither text nor an integer of up to 64 bits")
        written = self._keys.get(key)
        if written is None:
            if not key.isascii() and _SURROGATE.search(key):
                raise PickleError(f"it has a key that is not valid Unicode: {quoted(key)}")
            written = self._keys[key] = _SPECIAL.sub(r"\\\g<0>", key) or r"\e"
        return written

    def _global(self) -> None:
        begin = self._at
        middle = self._data.find(b"\n", begin, begin + _MAX_GLOBAL)
        end = self._data.find(b"\n", middle + 1, begin + _MAX_GLOBAL)
        if middle < 0 or end < 0:
            raise PickleError("its pickle has a global without a name, or with one that is too long")
        self._at = end + 1
        module, name = self._data[begin:middle], self._data[middle + 1 : end]
        path = (b"builtins" if module == b"__builtin__" else module) + b"." + name
        if path not in _GLOBALS:
            text = path.decode("ascii", "backslashreplace")
            raise PickleError(f"its pickle needs {quoted(text)}, which plain tensors do not need")
        self._stack.append(_GLOBALS[path])

    def _reduce(self) -> None:
        self.spend()
        arguments = self._stack.pop()
        function = self._stack[-1]
        if type(function) is not _Function:
            raise PickleError("its pickle calls something that plain tensors do not need to be called")
        if type(arguments) is not tuple:
            raise PickleError(f"its pickle calls {function.name} with arguments that are not a tuple")
        self._stack[-1] = function.call(self, arguments)

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is not _Ordered or type(state) is not dict or state.keys() != {"_metadata"}:
            raise PickleError(
                "its pickle sets attributes: accepted is _metadata of an OrderedDict, as a module's state_dict has it"
            )
        target.metadata = state["_metadata"]

    def _binpersid(self) -> None:
        self.spend()
        described = self._stack.pop()
        match described:
            case ("storage", _StorageType(dtype), str(key), str(location), int(numel)) if (
                type(described) is tuple and type(numel) is int and numel >= 0 and _STORAGE_KEY.fullmatch(key)
            ):
                pass
            case _:
                raise PickleError("its pickle has a storage that is not described as torch.save does it")
        if not _LOCATION.fullmatch(location):
            raise PickleError(f"its storage {quoted(key)} is on the device {quoted(location)}, which has no bytes here")
        storage = Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            raise PickleError(f"its pickle describes the storage {quoted(key)} in two ways")
        self._stack.append(storage)

    _INSTRUCTIONS: ClassVar[dict[int, Callable[[_Machine], None]]] = {
        code[0]: run
        for code, run in (
            (b"\x80", _proto),
            (b"N", _none),
            (b"\x88", _true),
            (b"\x89", _false),
            (b"J", _binint),
            (b"K", _binint1),
            (b"M", _binint2),
            (b"\x8a", _long1),
            (b"G", _binfloat),
            (b"X", _binunicode),
            (b"q", _binput),
            (b"r", _long_binput),
            (b"h", _binget),
            (b"j", _long_binget),
            (b"]", _empty_list),
            (b"}", _empty_dict),
            (b")", _empty_tuple),
            (b"(", _mark),
            (b"t", _tuple),
            (b"\x85", _tuple1),
            (b"\x86", _tuple2),
            (b"\x87", _tuple3),
            (b"a", _append),
            (b"e", _appends),
            (b"s", _setitem),
            (b"u", _setitems),
            (b"c", _global),
            (b"R", _reduce),
            (b"b", _build),
            (b"Q", _binpersid),
        )
    }


_STOP = ord(".")


# Functions that a pickle may call. Each takes the arguments as a tuple of any values.


def _ordered_dict(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    if arguments:
        raise PickleError("its pickle makes an OrderedDict with arguments, which torch.save does not write")
    return _Ordered()


def _counter(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case ():
            return {}
        case (dict(items),):
            machine.spend(len(items))
            return dict(items)
    raise PickleError("its pickle makes a Counter of what is not a dict")


def _set(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (list(items),):
            machine.spend(len(items))
            if all(_is_atom(item) for item in items):
                return _PLAIN
    raise PickleError("its pickle makes a set of what is not a list of plain values")


def _size(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (tuple(lengths),):
            return lengths
    raise PickleError("its pickle makes a torch.Size of what is not a tuple")


def _plain(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    if len(arguments) > 3 or not all(_is_atom(argument) for argument in arguments):
        raise PickleError("its pickle makes a number, bytes, a device or a layout of what is not plain values")
    return _PLAIN


def _bytes(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case () | (_Plain(),) | (str(), "latin1" | "latin-1"):
            return _PLAIN
    raise PickleError("its pickle makes bytes of what is not a text and latin1")


def _is_atom(value: Any) -> bool:
    return value is None or value is _PLAIN or type(value) in (bool, int, str, _Dtype)


def _rebuild_tensor(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (Storage() as storage, offset, shape, stride):
            return _view(storage, storage.dtype, offset, shape, stride)
    raise PickleError(_NOT_A_TENSOR)


def _rebuild_tensor_v2(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (Storage() as storage, offset, shape, stride, bool(), hooks, *metadata) if len(metadata) <= 1:
            machine.hooks.append(_no_hooks(hooks))
            return _view(storage, storage.dtype, offset, shape, stride, *metadata)
    raise PickleError(_NOT_A_TENSOR)


def _rebuild_tensor_v3(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (Storage() as storage, offset, shape, stride, bool(), hooks, _Dtype(dtype), *metadata) if (
            len(metadata) <= 1
        ):
            machine.hooks.append(_no_hooks(hooks))
            return _view(storage, dtype, offset, shape, stride, *metadata)
    raise PickleError(_NOT_A_TENSOR)


def _rebuild_parameter(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (PickledTensor() | _Refused() as tensor, bool(), hooks):
            machine.hooks.append(_no_hooks(hooks))
            return tensor
    raise PickleError(_NOT_A_TENSOR)


def _rebuild_parameter_with_state(machine: _Machine, arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (*tensor, state):
            found = _rebuild_parameter(machine, tuple(tensor))
            return _Refused("has attributes of its own") if state else found
    raise PickleError(_NOT_A_TENSOR)


def _view(storage: Storage, dtype: str, offset: Any, shape: Any, stride: Any, metadata: Any = None) -> Any:
    if metadata:
        return _Refused("is conjugated or negated when it is read: save it with resolve_conj() or resolve_neg()")
    if type(offset) is not int or type(shape) is not tuple or type(stride) is not tuple:
        raise PickleError(_NOT_A_TENSOR)
    if len(shape) > _MAX_DIMENSIONS:
        return _Refused(f"has more than {_MAX_DIMENSIONS} dimensions")
    if len(shape) != len(stride) or any(type(number) is not int or number < 0 for number in (offset, *shape, *stride)):
        return _Refused("has a negative length, stride or offset, or not a stride for each dimension")
    return PickledTensor(storage, dtype, offset, shape, stride)


_NOT_A_TENSOR = "its pickle has a tensor or parameter that is not described as torch.save does it"


def _no_hooks(hooks: Any) -> _Ordered:
    if hooks is None:
        return _Ordered()
    if type(hooks) is not _Ordered:
        raise PickleError("its pickle gives a tensor backward hooks")
    return hooks


def _refused(why: str) -> Callable[[_Machine, tuple[Any, ...]], Any]:
    return lambda machine, arguments: _Refused(why)


_FUNCTIONS = {
    "collections.OrderedDict": _ordered_dict,
    "collections.Counter": _counter,
    "builtins.set": _set,
    "builtins.complex": _plain,
    "builtins.bytearray": _bytes,
    "_codecs.encode": _bytes,
    "torch.Size": _size,
    "torch.device": _plain,
    "torch.serialization._get_layout": _plain,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter_with_state,
    "torch._utils._rebuild_qtensor": _refused("is quantized"),
    "torch._utils._rebuild_sparse_tensor": _refused("is sparse"),
    "torch._utils._rebuild_nested_tensor": _refused("is nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _refused("has no bytes: it is on the device meta"),
    "torch._utils._rebuild_wrapper_subclass": _refused("wraps other tensors"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _refused("is converted when it is read"),
    "torch._utils._rebuild_device_tensor_from_numpy": _refused("is converted when it is read"),
    "torch._tensor._rebuild_from_type_v2": _refused("is of a subclass, or has attributes of its own"),
}

_STORAGES = {
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Float": "float32",
    "Double": "float64",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "qint8",
    "QInt32": "qint32",
    "QUInt8": "quint8",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}

_DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "bfloat16"),
    *("float32", "float64", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2"),
    *("float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "qint8", "quint8", "qint32", "quint4x2", "quint2x4"),
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in range(1, 8)),
]

_OTHERS = (  # arguments of tensors that are refused
    "torch.Tensor",
    "torch._tensor.Tensor",
    "torch.nn.parameter.Parameter",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.per_channel_affine",
    "torch.per_channel_symmetric",
    "torch.per_channel_affine_float_qparams",
)


def _globals() -> Iterable[tuple[str, Any]]:
    yield from ((name, _Function(name, call)) for name, call in _FUNCTIONS.items())
    yield from ((f"torch.{name}Storage", _StorageType(f"torch.{dtype}")) for name, dtype in _STORAGES.items())
    yield "torch.storage.UntypedStorage", _StorageType("torch.uint8")
    yield from ((f"torch.{name}", _Dtype(f"torch.{name}")) for name in _DTYPES)
    yield from ((name, _PLAIN) for name in _OTHERS)


_GLOBALS = {name.encode(): value for name, value in _globals()}


def _named(result: Any, machine: _Machine) -> PickledTensors:
    """The tensors and other values in the outermost object, by name."""
    tensors: dict[str, PickledTensor] = {}
    others: list[str] = []
    metadata: list[Any] = []
    values, letters = 1, 0
    pending: list[tuple[str, int, Any]] = [("", 0, result)]
    while pending:
        name, depth, value = pending.pop()
        inner: Iterable[tuple[str, Any]]
        if isinstance(value, dict):
            inner = value.items()
            if type(value) is _Ordered:
                metadata.append(value.metadata)
        elif type(value) in (list, tuple):
            inner = ((f"[{place}]", item) for place, item in enumerate(value))
        elif type(value) is PickledTensor:
            tensors[name] = value
            continue
        elif type(value) is _Refused:
            raise PickleError(f"the tensor {quoted(name)} {value.why}: it is not accepted")
        elif type(value) is Storage:
            raise PickleError(f"{quoted(name)} is a storage and not a tensor: it is not accepted")
        else:
            others.append(name)
            continue
        values += len(value)
        if depth == _MAX_NESTING or values > _MAX_VALUES:
            raise PickleError(f"it has more than {_MAX_VALUES} values, or nests them more than {_MAX_NESTING} deep")
        children = []
        for key, item in inner:
            child = name + key if key.startswith("[") or not depth else f"{name}/{key}"
            letters += len(child)
            if letters > _MAX_LETTERS:
                raise PickleError(f"it has names of more than {_MAX_LETTERS} letters in all")
            children.append((child, depth + 1, item))
        pending += reversed(children)
    _check_plain(metadata)
    return PickledTensors(tensors, tuple(others), tuple(machine.storages.values()))


def _check_plain(pending: list[Any]) -> None:
    """Checks that there are no tensors in values that are not part of the result."""
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, (PickledTensor, _Refused, Storage)):
            raise PickleError("it has tensors in the attribute _metadata of an OrderedDict")
        if isinstance(value, dict):
            pending += value.values()
            if type(value) is _Ordered:
                pending.append(value.metadata)
        elif type(value) in (list, tuple):
            pending += value
