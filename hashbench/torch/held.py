"""The tensors that a model computes with, by the names that files have for them.

Of a module these are the tensors that its `_parameters` and `_buffers` hold, for these are what its code reads. A state
dict need not have them: hooks may put anything into it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import getattr_static, isdatadescriptor
from typing import Any, TypeAlias

import torch
from torch.optim.swa_utils import AveragedModel

from hashbench.model.strict_json import quoted
from hashbench.torch.tensors import PLAIN_TYPES, InMemory, TensorError, described, plain_tensors

Model: TypeAlias = torch.nn.Module | Mapping[str, torch.Tensor]

Names: TypeAlias = Callable[[str], str] | str | None
"""How a model's names become a manifest's: by a function, or by removing a prefix."""

_TRANSPARENT = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer", "original_module"}
)
"""Components of names that wrappers add: torch.compile, FSDP, activation checkpoints; and PEFT around layers."""

_RESERVED = _TRANSPARENT - {"base_layer", "original_module"}
"""Those that PyTorch alone gives to children. Names of modules are without them."""

_LEADING = ("module.", "base_model.model.", "base_model.")
"""What wrappers put in front of all names: DDP, DataParallel, AveragedModel; and PEFT, for adapters and for prompts."""

_MODULE_WRAPPERS = (
    torch.nn.parallel.DistributedDataParallel,
    torch.nn.DataParallel,
    AveragedModel,
)
"""Wrappers around a whole model, whose child is `module`. Names are without that, too."""

_TABLES = ("_parameters", "_buffers", "_modules")
"""A module's tables, in the order in which it looks for a name; before them come attributes."""

_DATA = (int, float, complex, str, bytes, type(None), torch.dtype)
"""Types of numbers, texts and dtypes. They have no entry in a manifest."""

_PACKED = "_packed_params._packed_params"
"""What a state dict has for the weights of a quantised layer, beside its `scale` and `zero_point`."""

_IS_PACKED = (
    "the weights are packed for a quantised kernel, in an object that shows only copies of them: verify before "
    "quantising"
)

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
        found = _described(_of_module(model), names)
        unfound = expected - found.tensors.keys() - found.refused.keys() if expected else ()
        if everything or unfound:
            more = _described(_attributes(model), names)
            if not everything:
                more = Held(
                    {name: more.tensors[name] for name in unfound if name in more.tensors},
                    {name: more.refused[name] for name in unfound if name in more.refused},
                )
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
        return _of_module(model)
    if isinstance(model, Mapping):
        return _of_mapping(model)
    raise TypeError(f"{type(model).__name__} is not accepted: pass a module or a mapping of names to tensors")


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a name matches one of several globs, as in the shell and case-sensitive; `*` also matches dots.

    Raises:
        TypeError: `patterns` is one string, or one of them is not a string.
    """
    if isinstance(patterns, str):
        raise TypeError(f"the string {patterns!r} is not accepted: pass a list of patterns")
    compiled = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or "(?!)")
    return lambda name: compiled.match(name) is not None


def inner_names(name: str) -> Iterator[str]:
    """A name without what wrappers add to it. There are two where `model` may be PEFT's or the model's own."""
    name = ".".join(part for part in name.split(".") if part not in _TRANSPARENT)
    leading = [prefix for prefix in _LEADING if name.startswith(prefix)]
    for prefix in leading:
        yield from inner_names(name.removeprefix(prefix))
    if not leading:
        yield name


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
            for inner in inner_names(name):
                wanted[inner] = "" if inner in wanted else name  # where two could be meant, none is
    renamed: dict[str, str] = {}
    for name in sorted(there - known):
        if target := next(filter(None, map(wanted.get, inner_names(name))), None):
            wanted |= dict.fromkeys(inner_names(target), "")  # each is meant once
            renamed[name] = target
    return Held(
        {renamed.get(name, name): tensor for name, tensor in found.tensors.items()},
        {renamed.get(name, name): refusal for name, refusal in found.refused.items()},
    )


def _of_mapping(state: Mapping[Any, Any]) -> Iterator[_Value]:
    packed = {
        f"{name.removesuffix(_PACKED)}{part}"
        for name, value in state.items()
        if type(value) is tuple and str(name).endswith(_PACKED)
        for part in (_PACKED, "scale", "zero_point")
    }
    for name, value in state.items():
        if not isinstance(name, str):
            raise TypeError(f"the tensor name {name!r} is not accepted: it must be a string")
        if type(value) in PLAIN_TYPES and name not in packed:  # as nearly all are
            yield name, value, None
        elif name in packed or isinstance(value, torch.ScriptObject):
            yield name, value, _IS_PACKED
        elif isinstance(value, torch.Tensor) or not _is_data(name, value):
            yield name, value, None


def _is_data(name: str, value: Any) -> bool:
    """Whether it is one of the numbers and texts that modules put into state dicts, or comes from `get_extra_state`."""
    return isinstance(value, _DATA) or name.rpartition(".")[2] == "_extra_state"


def _modules_of(
    module: torch.nn.Module, path: str = "", refusal: str | None = None
) -> Iterator[tuple[torch.nn.Module, str, str | None]]:
    """A module and those below, each with what precedes its tensors' names, and why these are refused."""
    yield module, path, refusal
    for name, below in _table(module, "_modules").items():
        if below is not None:
            hidden = refusal or _hidden(module, "_modules", name, below, f"the module {quoted(path + name)}")
            around_all = not path and name == "module" and isinstance(module, _MODULE_WRAPPERS)
            yield from _modules_of(below, path if around_all or name in _RESERVED else f"{path}{name}.", hidden)


def _of_module(module: torch.nn.Module) -> Iterator[_Value]:
    """The parameters and persistent buffers of a module and those below, as they are in its memory."""
    for one, path, hidden in _modules_of(module):
        for name, tensor, refusal in _persistent(one):
            if path or name != "n_averaged" or not isinstance(one, AveragedModel):  # a count beside the model
                yield path + name, tensor, hidden or refusal


def _persistent(module: torch.nn.Module) -> Iterator[_Value]:
    """A module's own parameters and persistent buffers."""
    own, kind = module.__dict__, type(module)
    transient = _table(module, "_non_persistent_buffers_set")
    flat = dict(zip(own["_flat_weights_names"], own["_flat_weights"], strict=True)) if "_flat_weights" in own else {}
    for table in ("_parameters", "_buffers"):
        for name, tensor in _table(module, table).items():
            if tensor is None or (table == "_buffers" and name in transient):
                continue
            refusal = _hidden(module, table, name, tensor)
            if refusal is None and flat and flat.get(name, tensor) is not tensor:
                refusal = "the module computes with another tensor, in _flat_weights: assign the parameter anew"
            elif refusal is None and "_hf_hook" in own and tensor.is_meta:
                refusal = (
                    "accelerate offloads it, and loads it only while it is used: verify the model's files, or load "
                    "the model without offloading"
                )
            yield name, tensor, refusal
    if ".quantized." in kind.__module__:
        for name, value in own.items():
            if isinstance(value, torch.ScriptObject):
                yield name, value, _IS_PACKED
    if kind.get_extra_state is not torch.nn.Module.get_extra_state:
        state = module.get_extra_state()
        if isinstance(state, torch.Tensor):
            yield "_extra_state", state, None


def _attributes(module: torch.nn.Module) -> Iterator[_Value]:
    """The tensors of a module and those below that no state dict has: non-persistent buffers, and attributes."""
    for one, path, hidden in _modules_of(module):
        buffers = _table(one, "_buffers")
        for name in _table(one, "_non_persistent_buffers_set"):
            if (tensor := buffers.get(name)) is not None:
                yield path + name, tensor, hidden or _hidden(one, "_buffers", name, tensor)
        for name, value in one.__dict__.items():
            if isinstance(value, torch.Tensor):
                by_class = isdatadescriptor(getattr_static(type(one), name, None))
                yield path + name, value, hidden or (_hides("it") if by_class else None)


def _hidden(module: torch.nn.Module, table: str, name: str, value: object, what: str = "it") -> str | None:
    """Why the module's code reads something else than the value in a table; None if it reads that."""
    if hasattr(type(module), name) or module.__dict__.get(name, value) is not value:
        return _hides(what)
    before = _TABLES[: _TABLES.index(table)]
    return _hides(what) if any(name in _table(module, one) for one in before) else None


def _hides(what: str) -> str:
    return f"an attribute of the same name hides {what}, so that the model's code reads another value"


def _table(module: torch.nn.Module, name: str) -> Any:
    """One of a module's tables: what the module's own lookup reads. A compiled TorchScript module computes them."""
    own = module.__dict__
    return own[name] if name in own else getattr(module, name)
