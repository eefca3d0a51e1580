"""A scan of a PyTorch checkpoint's pickle before PyTorch loads it: a few bytes must not ask for much memory.

PyTorch's unpickler of weights runs no code from the file, but it allocates a bytearray or tensor of any size that a
number says, and it reuses values, so that nested pairs of one value become a name of any length. The scan builds no
values, only an outline of what is passed to what.
"""

from __future__ import annotations

from itertools import chain, islice
from pickletools import genops
from typing import Any

MAX_SIZE = 8 << 20
"""The largest pickle that is accepted, in bytes: some 40,000 tensors."""

_MAX_PASSED = 1 << 22  # arguments and keys in total, including the values within them
_MAX_NESTING = 64  # of arguments and keys: code that hashes or reads them recurses

# What a checkpoint of tensors and plain containers and values calls. None of them allocates more than it is given.
_CALLED = {
    "builtins complex",
    "builtins set",
    "collections Counter",
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_meta_tensor_no_storage",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_parameter_with_state",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
}
_FROM_CONTAINERS = {"builtins set", "collections Counter", "collections OrderedDict"}
"""Of these, those that take only a container: of a string they would make a value for each character."""

for _names in (_CALLED, _FROM_CONTAINERS):
    _names |= {name.replace("builtins", "__builtin__") for name in _names}  # as protocol 2 writes it

_ATOMS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINSTRING"),
}


def check_pickle(data: bytes) -> None:
    """Checks that loading a pickle takes memory proportional to its size and `_MAX_PASSED` at most.

    Raises:
        ValueError: it may take more, or has instructions that PyTorch does not write for weights.
        Exception: it is not a valid pickle; anything may be raised.
    """
    if len(data) > MAX_SIZE:
        raise ValueError(f"its pickle has {len(data)} bytes; up to {MAX_SIZE} are accepted")
    left = _MAX_PASSED

    def pass_on(value: Any) -> None:
        nonlocal left
        level = [value]
        for _ in range(_MAX_NESTING):
            left -= len(level)
            if left < 0:
                raise ValueError(f"its pickle passes on more than {_MAX_PASSED} values")
            # No more than are left, since one list may be in another many times.
            level = list(islice(chain.from_iterable(inner for inner in level if isinstance(inner, list)), left + 1))
        if level:
            raise ValueError(f"its pickle nests what it passes on more than {_MAX_NESTING} deep")

    # A container is represented by the list of its items, the result of a call by the list of its arguments, a class or
    # function by its name, and anything else by None.
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in genops(data):
        name = opcode.name
        if name in _ATOMS:
            stack.append(None)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(argument)
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE"):
            stack.append([])
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(items)
            else:
                if name == "SETITEMS":
                    pass_on(items[::2])
                stack[-1].extend(items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [stack[-count:]]
        elif name == "APPEND":
            item = stack.pop()
            stack[-1].append(item)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            pass_on(key)
            stack[-1].extend((key, value))
        elif name == "REDUCE":
            given, called = stack.pop(), stack.pop()
            if not isinstance(called, str) or called not in _CALLED:
                what = called.replace(" ", ".")[:200] if isinstance(called, str) else "something other than a function"
                raise ValueError(f"its pickle calls {what}, which plain tensors do not need")
            if called in _FROM_CONTAINERS and not all(isinstance(part, list) for part in given):
                raise ValueError(f"its pickle makes a {called.split()[-1]} of something other than a container")
            pass_on(given)
            stack.append([given])
        elif name == "BUILD":
            state = stack.pop()
            pass_on(state)
            stack[-1].append(state)
        elif name == "BINPERSID":
            if any(isinstance(part, list) for part in stack.pop()):  # the storage's name is written out
                raise ValueError("its pickle has a storage that is not described by a name, a type and a number")
            stack.append(None)
        elif name not in ("PROTO", "STOP"):
            raise ValueError(f"its pickle has the instruction {name}, which PyTorch does not write for weights")
