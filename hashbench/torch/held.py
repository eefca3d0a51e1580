"""The tensors that a model computes with, by the names that files have for them.

Of a module these are the tensors that its `_parameters` and `_buffers` hold, for these are what its code reads. A state
dict need not have them: hooks may put anything into it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from hashbench.torch.tensors import PLAIN_TYPES, InMemory, TensorError, described, plain_tensors

Model: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]

Names: TypeAlias = Callable[[str], str] | str | None
"""How a model's names become a manifest's: by a function, or by removing a prefix."""

_TRANSPARENT = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer", "original_module"}
)
"""Components of names that wrappers add: torch.compile, FSDP, activation checkpoints; and PEFT around layers."""

_RESERVED = _TRANSPARENT - {"base_layer", "original_module"}
"""Those that PyTorch alone gives to children."""

_LEADING = ("module.", "base_model.model.")
"""What wrappers put in front of all names: DDP, DataParallel, AveragedModel; and PEFT."""

_MODULE_WRAPPERS = (
    torch.nn.parallel.DistributedDataParallel,
    torch.nn.DataParallel,
    torch.optim.swa_utils.AveragedModel,
)

_DATA = (int, float, complex, str, bytes, type(None))
"""Types of numbers and texts. They have no entry in a manifest."""


_Value = tuple[str, Any, str | None]
"""A name, the tensor, and why it is refused."""


@dataclass(frozen=True)
class Held:
    """What a model holds.

    Attributes:
        tensors: what can be hashed, by name.
        refused: why others cannot be, by name.
    """

    tensors: dict[str, InMemory]
    refused: dict[str, str]


def held(model: Model, names: Names = None, expected: Collection[str] = (), *, everything: bool = False) -> Held:
    """The tensors of a model.

    Args:
        model: a module, or tensors by name.
        names: how the model's names become the manifest's.
        expected: names of a manifest. A name that is not among them, but is without what wrappers add, is taken for
            that one; and non-persistent buffers and attributes count that are among them.
        everything: whether all buffers and attributes of modules count that are tensors.

    Raises:
        TypeError: `model` is neither, or a name is not a string.
        ValueError: `names` gives two tensors one name.
    """
    if isinstance(model, torch.nn.Module):
        module = _unwrapped(model)
        found = _described(_of_module(module), names)
        unfound = expected - found.tensors.keys() - found.refused.keys() if expected else ()
        if everything or unfound:
            more = _described(_attributes(module), names)
            if not everything:
                more = Held({name: more.tensors[name] for name in unfound if name in more.tensors}, {})
            found = Held(more.tensors | found.tensors, more.refused | found.refused)
    elif isinstance(model, Mapping):
        found = _described(_of_mapping(model), names)
    else:
        raise TypeError(f"{type(model).__name__} is not accepted: pass a module or a mapping of names to tensors")
    return _seen_through(found, expected) if expected else found


def values_of(model: Model) -> Iterator[_Value]:
    """What a model holds: the parameters and persistent buffers of a module, or the values of a mapping that are no
    numbers or texts; and why one is refused.

    Raises:
        TypeError: `model` is neither, or a name is not a string.
    """
    if isinstance(model, torch.nn.Module):
        return _of_module(_unwrapped(model))
    if isinstance(model, Mapping):
        return _of_mapping(model)
    raise TypeError(f"{type(model).__name__} is not accepted: pass a module or a mapping of names to tensors")


def matcher(patterns: Collection[str]) -> Callable[[str], bool]:
    """Whether a name matches one of several globs, as in the shell and case-sensitive; `*` also matches dots.

    Raises:
        TypeError: `patterns` is one string, or one of them is not a string.
    """
    if isinstance(patterns, str):
        raise TypeError(f"the string {patterns!r} is not accepted: pass a list of patterns")
    compiled = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or "(?!)")
    return lambda name: compiled.match(name) is not None


def inner_name(name: str) -> str:
    """A name without what wrappers add to it."""
    name = ".".join(part for part in name.split(".") if part not in _TRANSPARENT)
    while leading := next((prefix for prefix in _LEADING if name.startswith(prefix)), None):
        name = name.removeprefix(leading)
    return name


def _described(values: Iterable[_Value], names: Names) -> Held:
    """Describes tensors under the manifest's names.

    Raises:
        TypeError: a name is not a string.
        ValueError: two tensors have one name.
    """
    tensors: dict[str, InMemory] = {}
    problems: dict[str, str] = {}
    for given, tensor, refusal in values:
        name = given if names is None else _renamed(given, names)
        try:
            if refusal is not None:
                raise TensorError(name, refusal)
            for part, plain in ((name, tensor),) if type(tensor) in PLAIN_TYPES else plain_tensors(name, tensor):
                found = described(part, plain)
                if part in tensors:
                    raise ValueError(f"two tensors of the model have the name {part!r}")
                tensors[part] = found
        except TensorError as error:
            problems[name] = error.reason
    return Held(tensors, problems)


def _renamed(name: str, names: Names) -> str:
    if isinstance(names, str):
        return name.removeprefix(names)
    if not callable(names):
        raise TypeError(f"{names!r} is not accepted as names: pass a function, a prefix to remove, or None")
    renamed = names(name)
    if not isinstance(renamed, str):
        raise TypeError(f"names({name!r}) returned a {type(renamed).__name__}: it must return a string")
    return renamed


def _seen_through(found: Held, expected: Collection[str]) -> Held:
    """Gives tensors the names in a manifest that differ only in what wrappers add."""
    there = found.tensors.keys() | found.refused.keys()
    if there <= (known := expected if isinstance(expected, (set, frozenset)) else set(expected)):
        return found
    wanted: dict[str, str] = {}
    for name in expected:
        if name not in there:
            inner = inner_name(name)
            wanted[inner] = "" if inner in wanted else name  # where two could be meant, none is
    renamed: dict[str, str] = {}
    for name in sorted(there - known):
        if target := wanted.get(inner_name(name)):
            wanted[inner_name(name)] = ""  # each is meant once
            renamed[name] = target
    return Held(
        {renamed.get(name, name): tensor for name, tensor in found.tensors.items()},
        {renamed.get(name, name): refusal for name, refusal in found.refused.items()},
    )


def _of_mapping(state: Mapping[Any, Any]) -> Iterator[_Value]:
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"the tensor name {name!r} is not accepted: it must be a string")
        if type(value) in PLAIN_TYPES or isinstance(value, torch.Tensor) or not _is_data(name, value):
            yield name, value, None


def _is_data(name: str, value: Any) -> bool:
    """Whether it is one of the numbers and texts that modules put into state dicts, or comes from `get_extra_state`."""
    return isinstance(value, _DATA) or name.rpartition(".")[2] == "_extra_state"


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module that wrappers around the whole model call. They compute with no tensors of their own."""
    while True:
        below = _table(module, "_modules")
        if isinstance(module, _MODULE_WRAPPERS):
            module = below["module"]
        elif "_orig_mod" in below:
            module = below["_orig_mod"]
        else:
            return module


def _of_module(module: torch.nn.Module, path: str = "") -> Iterator[_Value]:
    """The parameters and persistent buffers of a module and those below, as they are in its memory."""
    own, kind = module.__dict__, type(module)
    transient = _table(module, "_non_persistent_buffers_set")
    flat = dict(zip(own["_flat_weights_names"], own["_flat_weights"], strict=True)) if "_flat_weights" in own else {}
    for table in ("_parameters", "_buffers"):
        for name, tensor in _table(module, table).items():
            if tensor is None or name in transient:
                continue
            refusal = None
            if name in own or hasattr(kind, name):
                refusal = "an attribute of the same name hides it, so that the module's code reads another value"
            elif flat and flat.get(name, tensor) is not tensor:
                refusal = "the module computes with another tensor, in _flat_weights: assign the parameter anew"
            elif "_hf_hook" in own and tensor.is_meta:
                refusal = (
                    "accelerate offloads it, and loads it only while it is used: verify the model's files, or load "
                    "the model without offloading"
                )
            yield path + name, tensor, refusal
    if ".quantized." in kind.__module__:
        for name, value in own.items():
            if isinstance(value, torch.ScriptObject):
                refusal = "its weights are packed for a quantised kernel, in an object that shows only copies of them"
                yield path + name, value, f"{refusal}: verify before quantising"
    if kind.get_extra_state is not torch.nn.Module.get_extra_state:
        state = module.get_extra_state()
        if isinstance(state, torch.Tensor):
            yield f"{path}_extra_state", state, None
    for name, below in _table(module, "_modules").items():
        if below is not None:
            yield from _of_module(below, path if name in _RESERVED else f"{path}{name}.")


def _attributes(module: torch.nn.Module, path: str = "") -> Iterator[_Value]:
    """The tensors of a module and those below that no state dict has: non-persistent buffers, and attributes."""
    buffers = _table(module, "_buffers")
    for name in _table(module, "_non_persistent_buffers_set"):
        if (tensor := buffers.get(name)) is not None:
            yield path + name, tensor, None
    for name, value in module.__dict__.items():
        if isinstance(value, torch.Tensor):
            yield path + name, value, None
    for name, below in _table(module, "_modules").items():
        if below is not None:
            yield from _attributes(below, path if name in _RESERVED else f"{path}{name}.")


def _table(module: torch.nn.Module, name: str) -> Any:
    """One of a module's tables: what the module's own lookup reads. A compiled TorchScript module computes them."""
    own = module.__dict__
    return own[name] if name in own else getattr(module, name)
