"""The names of tensors in a model of several files.

A file's tensors have plain names; a model's must be told apart. A *group* is the files that hold one set of weights: an
index and its shards, or one file. In each folder the group that loaders take by default is the folder's component: its
tensors are named after the folder ("unet/conv_in.weight"), and plainly at the top ("lm_head.weight"), so that they are
those of the loaded module. The tensors of every other group are named after its file, or its index
("model.fp16.safetensors/lm_head.weight"). A name that is not unique even so, as one that imitates a folder, gives way
to one after the tensor's file, which always is unique: no file is in another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from hashbench.model.shard_index import beside, weights_named_by

DEFAULTS = (
    *(
        f"{stem}{suffix}"
        for suffix in (".safetensors", ".bin")
        for stem in ("model", "pytorch_model", "diffusion_pytorch_model", "adapter_model")
    ),
    ".metadata",
)
"""The names of weights that transformers, diffusers and PEFT look for, the preferred first; and what stands for those
of torch.distributed.checkpoint, which these pass over."""

_TAKEN_BEFORE = {
    f"{stem}.bin": f"{stem.removeprefix('pytorch_')}.safetensors"
    for stem in ("pytorch_model", "diffusion_pytorch_model", "adapter_model")
}
"""What the loader that looks for a file takes instead, if it is there."""

_LOOKED_FOR = {*_TAKEN_BEFORE, *_TAKEN_BEFORE.values()}


@dataclass(frozen=True)
class _Group:
    """Files that hold one set of weights.

    Attributes:
        path: of the index, or of the only file.
        weights: the name that the weights have, or would have, in one file.
        files: paths.
    """

    path: str
    weights: str
    files: tuple[str, ...]

    @property
    def folder(self) -> str:
        return _folder(self.path)


def name_tensors(
    tensors: Mapping[str, Collection[str]], indexes: Mapping[str, Mapping[str, str]], files: Collection[str] = ()
) -> dict[str, dict[str, str]]:
    """The name that each tensor of each file has in the model.

    If several files of a group have a tensor of one name, the one that the index names has the plain one, or else the
    first file, and the others are named after their file.

    Args:
        tensors: the names in each file of weights, by the file's path relative to the model's folder; none for a file
            that cannot be read, but that a loader might take.
        indexes: what each index says (`read_index`), by its path.
        files: paths of all files of the model, which are no tensors' names.

    Returns:
        By file and name in the file: the name in the model, each once.
    """
    groups = list(_groups(tensors.keys(), indexes))
    named: dict[str, dict[str, str]] = {}
    for folder, in_folder in _by_folder(groups).items():
        default = _default(in_folder, tensors)
        for group in in_folder:
            prefix = _inside(folder) if group is default else f"{group.path}/"
            named |= _named(group, prefix, tensors, indexes.get(group.path, {}))
    return _unique(named, files)


def component_of(name: str, file: str, files: Collection[str]) -> str:
    """The component that a tensor is of: the folder, index or file that `name_tensors` put in front of its name.

    Args:
        name: its name in the model.
        file: the file that it is in.
        files: paths of all files of the model.
    """
    folder = _folder(file)
    if name.startswith(f"{file}/"):
        return file
    first = name.removeprefix(_inside(folder)).partition("/")[0]
    index = _inside(folder) + first
    return index if weights_named_by(first) and index in files else folder


def _unique(named: dict[str, dict[str, str]], files: Collection[str]) -> dict[str, dict[str, str]]:
    """The names; those that are not unique are after their file, which may take the place of others."""
    every = [given for names in named.values() for given in names.values()]
    if len(set(every)) == len(every) and set(files).isdisjoint(every):
        return named
    unique = {file: dict(names) for file, names in named.items()}
    holders: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for file, names in named.items():
        for name, given in names.items():
            holders[given].append((file, name))
    paths = set(files)
    to_check = list(holders)
    while to_check:
        given = to_check.pop()
        if len(holders[given]) + (given in paths) < 2:
            continue
        for file, name in holders[given]:
            after_file = f"{file}/{name}"
            if after_file != given:
                unique[file][name] = after_file
                holders[after_file].append((file, name))
                to_check.append(after_file)
        holders[given] = [(file, name) for file, name in holders[given] if f"{file}/{name}" == given]
    return unique


def _groups(files: Iterable[str], indexes: Mapping[str, Mapping[str, str]]) -> Iterator[_Group]:
    """Every group; a file that two indexes name is the first one's."""
    left = dict.fromkeys(sorted(files))
    for path in sorted(indexes, key=lambda path: (len(path), path)):  # an index before those of its variants
        weights = weights_named_by(path.rpartition("/")[2])
        shards = sorted({beside(path, shard) for shard in indexes[path].values()} & left.keys())
        if weights:
            yield _Group(path, weights, tuple(shards))
            for shard in shards:
                del left[shard]
    for file in left:
        yield _Group(file, file.rpartition("/")[2], (file,))


def _by_folder(groups: Iterable[_Group]) -> Mapping[str, list[_Group]]:
    found: defaultdict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        found[group.folder].append(group)
    return found


def _default(groups: list[_Group], tensors: Mapping[str, Collection[str]]) -> _Group | None:
    """The group of a folder that loaders take: a file before an index of the same weights, as transformers has it.

    There is none if some loader may take another one, of which nothing is known.
    """
    if len(groups) == 1:
        return groups[0]
    alike: list[_Group] = next(filter(None, ([g for g in groups if g.weights == name] for name in DEFAULTS)), [])
    if not alike:
        return None
    name = alike[0].weights
    unknown = {group.weights for group in groups if not any(tensors[file] for file in group.files)}
    if any(other in _LOOKED_FOR and _TAKEN_BEFORE.get(other) != name for other in unknown - {name}):
        return None
    return min(alike, key=lambda group: (group.path.rpartition("/")[2] != name, group.path))


def _named(
    group: _Group, prefix: str, tensors: Mapping[str, Collection[str]], file_of: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The names of one group's tensors, by file."""
    holders: dict[str, str] = {}
    for file in group.files:
        for name in tensors[file]:
            if name not in holders or file == beside(group.path, file_of.get(name, "")):
                holders[name] = file
    return {
        file: {name: (prefix if holders[name] == file else f"{file}/") + name for name in tensors[file]}
        for file in group.files
    }


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _inside(folder: str) -> str:
    """What paths in a folder begin with."""
    return f"{folder}/" if folder else ""
