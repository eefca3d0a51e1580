"""Models as they lie on disk: which tensors or files they consist of, and where the bytes of each are.

Nothing of a model is executed, and what its files say of themselves is checked before it is used. Bytes are not read
here but for headers, indexes and PyTorch's pickled descriptions.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hashbench.hashing.file_range import FileRange
from hashbench.kernels import Bytes, Unavailable
from hashbench.model.dtypes import torch_description
from hashbench.model.manifest import Entry, FileEntry, TensorEntry
from hashbench.model.pickle_scan import check_pickle
from hashbench.model.safetensors_header import MAX_HEADER_SIZE, SafetensorsError, read_header
from hashbench.model.strict_json import StrictJsonError, loads, quoted

SAFETENSORS = ".safetensors"
INDEX = ".safetensors.index.json"
PYTORCH = (".pt", ".pth", ".bin")

_MAX_INDEX_DEPTH = 8  # index and weight map need two, and the index's metadata may be anything
_MAX_NESTING = 64  # of a PyTorch checkpoint
_MAX_VALUES = 1 << 20  # in a PyTorch checkpoint, where what stands in two places counts twice
_MAX_SHOWN = 16  # lines of what an index and one of its shards do not agree on
_MAX_LETTERS = 64 << 20  # of all names in a PyTorch checkpoint, where one long key may stand in all of them


class CheckpointError(ValueError):
    """A model cannot be used as it lies there; the message names the file and says why."""


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor or file of a model.

    Attributes:
        name: the tensor's, or the file's path relative to the model's folder, with slashes.
        dtype: the tensor's, by safetensors' name; None for a file.
        shape: the tensor's; None for a file.
        source: where its bytes are: in a file, or in memory (which may be a mapped file's).
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    source: FileRange | Bytes

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.source.nbytes

    @property
    def place(self) -> Hashable:
        """Where its bytes are: equal for parts with the same bytes, as tied tensors and linked files have them."""
        return self.source if isinstance(self.source, FileRange) else (self.source.ctypes.data, self.nbytes)

    def entry(self, root: bytes) -> Entry:
        """What a manifest says of it, when its bytes have that root."""
        if self.dtype is None or self.shape is None:
            return FileEntry(self.name, self.nbytes, root)
        return TensorEntry(self.name, self.dtype, self.shape, self.nbytes, root)


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model, ready to be read.

    Attributes:
        parts: sorted by name as Unicode code points, each name once.
        ignored: names of what is in the model and no part of it: a PyTorch checkpoint's values that are no tensors.
        damaged: why shards cannot be read, whose tensors are therefore missing, and which tensors an index does not
            place where they are; a line each.
        watched: files that said what the parts are, an index or a PyTorch checkpoint, as empty ranges: to be hashed
            with the parts, so that it is seen where one changed meanwhile.
    """

    parts: tuple[Part, ...]
    ignored: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    watched: tuple[FileRange, ...] = ()


@dataclass
class _Found:
    """What is found beside the parts of a model, as in `OpenModel`."""

    tolerant: bool
    ignored: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    watched: list[FileRange] = field(default_factory=list)

    def watch(self, path: Path, descriptor: int) -> None:
        self.watched.append(FileRange(path, 0, 0, os.fstat(descriptor)))

    def model(self, path: Path, parts: Iterable[Part]) -> OpenModel:
        """All of it, after the parts."""
        ordered = _in_order(path, parts)
        return OpenModel(ordered, tuple(sorted(self.ignored)), tuple(self.damaged), tuple(self.watched))


def open_model(path: str | os.PathLike[str], without: Iterable[Path] = (), *, tolerant: bool = False) -> OpenModel:
    """The model at `path`.

    Its parts are:

    - of a safetensors file: its tensors;
    - of a safetensors index, or a folder with one: the tensors that it names, in the shards beside it; other files of
      the folder are no part of the model;
    - of a folder without index and with one safetensors file: that file's tensors, and again nothing else;
    - of any other folder: every file in it and below, hidden ones too. A link to a file within the folder is a file
      like any other; a link out of it, to a folder or to nothing is refused, and so is what is neither file nor folder;
    - of a PyTorch checkpoint (.pt, .pth, .bin), as PyTorch writes it since version 1.6: its tensors, read by
      `torch.load` with `weights_only` and so that no code of the file's runs. Names within dictionaries and lists are
      joined by dots. Tied tensors are there under each name. Values that are no tensors are ignored. Where tensors are
      not contiguous, they are copied, all of them together up to the file's size;
    - of any other file: the file.

    Args:
        path: of the model.
        without: files that are no part of a folder, such as a manifest that lies in it.
        tolerant: whether shards that are not there, are not sound or have other tensors than the index says are told in
            `OpenModel.damaged`, and are no error.

    Raises:
        OSError: something cannot be read.
        SafetensorsError: a safetensors file is not sound.
        CheckpointError: the model is none of these, or not as said: a shard lies outside the folder, index and shards
            do not have the same tensors, a name is no Unicode text or there twice, or a PyTorch checkpoint does not
            load or has tensors that are not plain bytes of a dtype that safetensors knows.
        Unavailable: it is a PyTorch checkpoint, and PyTorch is not installed.
    """
    path = Path(path)
    found = _Found(tolerant)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        indexes, singles = (
            [file for file in path.iterdir() if file.name.lower().endswith(end) and file.is_file()]
            for end in (INDEX, SAFETENSORS)
        )
        if len(indexes) > 1:
            names = ", ".join(sorted(quoted(index.name) for index in indexes))
            raise CheckpointError(f"{path} has more than one index ({names}): name the one that is meant")
        if not indexes and len(singles) != 1:
            return OpenModel(_in_order(path, _files(path, without)))
        (path,) = indexes or singles
        if indexes:
            shards = _shards(path, found)
            if stray := sorted({file.name for file in singles} - shards.keys()):
                names = ", ".join(map(quoted, stray))
                raise CheckpointError(
                    f"{path.parent} has weights that its index does not name ({names}): name the index, or the file, "
                    "that is meant"
                )
            return found.model(path, _sharded(path, shards, found))
    elif not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is neither a file nor a folder")

    if path.name.endswith(INDEX):
        return found.model(path, _sharded(path, _shards(path, found), found))
    if path.suffix.lower() == SAFETENSORS:
        return OpenModel(_in_order(path, _tensors(path)))
    if path.suffix.lower() in PYTORCH:
        return found.model(path, _pytorch(path, found))
    status = path.stat()
    return OpenModel(_in_order(path, [Part(path.name, None, None, FileRange(path, 0, status.st_size, status))]))


def _in_order(path: Path, parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts by name, each of which is text and there once."""
    by_name: dict[str, Part] = {}
    for part in parts:
        try:
            part.name.encode()
        except UnicodeEncodeError:
            raise CheckpointError(f"{path}: the name {quoted(part.name)} is no Unicode text") from None
        if by_name.setdefault(part.name, part) is not part:
            raise CheckpointError(f"{path} has the name {quoted(part.name)} twice")
    return tuple(by_name[name] for name in sorted(by_name))


def _tensors(path: Path) -> list[Part]:
    header = read_header(path)
    return [
        Part(tensor.name, tensor.dtype, tensor.shape, FileRange(path, tensor.offset, tensor.nbytes, header.status))
        for tensor in header.tensors
    ]


def _shards(index: Path, found: _Found) -> dict[str, set[str]]:
    """The shards that an index names, and the names of their tensors."""
    with index.open("rb") as file:
        found.watch(index, file.fileno())
        text = file.read(MAX_HEADER_SIZE + 1)
    if len(text) > MAX_HEADER_SIZE:
        raise CheckpointError(f"{index} is no index: more than {MAX_HEADER_SIZE} bytes")
    try:
        content = loads(text, max_depth=_MAX_INDEX_DEPTH, floats=True)  # of metadata alone: some count bytes so
    except StrictJsonError as error:
        raise CheckpointError(f"{index} is no index: {error}") from None
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index} is no index: its weight_map does not give each tensor's name a shard")

    shards: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        if shard in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(shard):
            raise CheckpointError(f"{index} names the shard {quoted(shard)}, which is not a file's plain name")
        shards.setdefault(shard, set()).add(name)
    return shards


def _sharded(index: Path, shards: Mapping[str, set[str]], found: _Found) -> Iterator[Part]:
    """The tensors of the shards that an index names."""
    for shard, expected in sorted(shards.items()):
        try:
            parts = _shard(index, shard)
        except (CheckpointError, SafetensorsError) as error:
            if not found.tolerant:
                raise
            found.damaged.append(str(error))
            continue
        names, path = {part.name for part in parts}, index.with_name(shard)
        lacks, has = sorted(expected - names), sorted(names - expected)
        wrong = [f"{path} lacks the tensor {quoted(name)}, which {index.name} says it has" for name in lacks]
        wrong += [f"{path} has the tensor {quoted(name)}, which {index.name} does not say" for name in has]
        if wrong and not found.tolerant:
            raise CheckpointError(wrong[0])
        found.damaged += wrong[:_MAX_SHOWN]
        yield from parts


def _shard(index: Path, shard: str) -> list[Part]:
    """The tensors of one shard."""
    path = index.with_name(shard)
    try:
        if not path.is_file():
            raise CheckpointError(f"{index} names the shard {quoted(shard)}, and there is no such file")
        return _tensors(path)
    except OSError as error:
        raise CheckpointError(f"{index} names the shard {quoted(shard)}: {error.strerror}") from None


def _files(folder: Path, without: Iterable[Path]) -> list[Part]:
    """Every file in a folder and below."""
    top = folder.resolve()
    # What is named, and what that leads to, but no other link to it: a file of any name could be one.
    left_out = {place for path in without for place in (path.parent.resolve() / path.name, path.resolve())}
    parts = []
    unseen = [top]
    while unseen:
        for path in unseen.pop().iterdir():
            if path in left_out:
                continue
            name = path.relative_to(top).as_posix()
            target = path
            if path.is_symlink():
                try:
                    target = path.resolve(strict=True)
                except (OSError, RuntimeError):  # RuntimeError: links in a circle, up to Python 3.12
                    raise CheckpointError(f"{folder}: the link {quoted(name)} leads nowhere") from None
                if not target.is_relative_to(top):
                    raise CheckpointError(f"{folder}: the link {quoted(name)} leads out of the folder")
                if target.is_dir():
                    raise CheckpointError(
                        f"{folder}: the link {quoted(name)} leads to a folder; only files may be linked"
                    )
            status = target.stat()
            if stat.S_ISDIR(status.st_mode):
                unseen.append(path)
            elif stat.S_ISREG(status.st_mode):
                parts.append(Part(name, None, None, FileRange(target, 0, status.st_size, status)))
            else:
                raise CheckpointError(f"{folder}: {quoted(name)} is neither a file nor a folder")
    if not parts:
        raise CheckpointError(f"{folder} has no files")
    return parts


def _pytorch(path: Path, found: _Found) -> Iterator[Part]:
    """The tensors of a PyTorch checkpoint."""
    try:
        import torch
    except ImportError as error:
        raise Unavailable(f"{path} needs PyTorch ({error}): install hashbench[torch]") from None
    with path.open("rb") as file:  # an OSError that names the file, where it cannot be read
        found.watch(path, file.fileno())
    try:
        if not zipfile.is_zipfile(path):
            # What PyTorch wrote before cannot be mapped: its tensors are as large as it says, however short it is.
            raise ValueError("it is no archive, as PyTorch writes since version 1.6: load it and save it again")
        _check_stored(path)
        check_pickle(torch._C.PyTorchFileReader(os.fspath(path)).get_record("data.pkl"))  # by the reader that loads it
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # an unpickler that is fed anything raises anything
        # PyTorch's own message begins with how to load it unsafely.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise CheckpointError(
            f"{path} does not load as a PyTorch checkpoint of weights only: {type(error).__name__}: {reason[:200]}"
        ) from None
    room = path.stat().st_size
    for name, value in _flattened(path, content):
        if not isinstance(value, torch.Tensor):
            found.ignored.append(name)
            continue
        about = f"{path}: the tensor {quoted(name)}"
        if (
            value.layout != torch.strided
            or value.device.type != "cpu"
            or type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
        ):
            raise CheckpointError(f"{about} is sparse, a wrapper of others or without bytes: it is not accepted")
        try:
            dtype, shape = torch_description(str(value.dtype), value.shape)
        except ValueError as error:
            raise CheckpointError(f"{about} is not accepted: {error}") from None
        if not value.is_contiguous() or value.is_conj() or value.is_neg():
            room -= value.nbytes
            if room < 0:
                raise CheckpointError(
                    f"{about} and others are not contiguous, and have more bytes together than the file: "
                    "save them with contiguous()"
                )
            value = value.resolve_conj().resolve_neg().contiguous()
        yield Part(name, dtype, shape, value.detach().reshape(-1).view(torch.uint8).numpy())


def _check_stored(path: Path) -> None:
    """Checks that no part of an archive is compressed: what is small on disk could be anything in memory.

    Raises:
        ValueError: one is. PyTorch compresses none.
    """
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise ValueError(f"{quoted(member.filename)} in it is compressed")


def _flattened(path: Path, content: Any) -> Iterator[tuple[str, Any]]:
    """The values within dictionaries and lists, by their keys and places joined with dots."""
    unseen: list[tuple[tuple[str, ...], Any]] = [((), content)]
    count = letters = 0
    while unseen:
        keys, value = unseen.pop()
        if isinstance(value, dict):
            inner: Iterable[tuple[Any, Any]] = value.items()
        elif isinstance(value, (list, tuple)):
            inner = enumerate(value)
        else:
            name = ".".join(keys)
            letters += len(name)
            if letters > _MAX_LETTERS:
                raise CheckpointError(f"{path} has names of more than {_MAX_LETTERS} letters together")
            yield name, value
            continue
        count += len(value)
        if len(keys) == _MAX_NESTING or count > _MAX_VALUES:
            raise CheckpointError(
                f"{path} has more than {_MAX_VALUES} values, or nests them more than {_MAX_NESTING} deep"
            )
        for key, item in inner:
            if type(key) not in (str, int):
                raise CheckpointError(f"{path} has a key that is neither text nor an integer: {quoted(key)}")
            unseen.append(((*keys, str(key)), item))
