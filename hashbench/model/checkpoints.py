"""Models on disk: which tensors or files they consist of, and where the bytes of each are.

No code of a model is executed, and everything its files say is checked before it is used. Only headers, indexes and
PyTorch's pickled descriptions are read here.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hashbench.hashing.opening import open_regular
from hashbench.hashing.sources import FileRange
from hashbench.kernels import Bytes
from hashbench.model.gguf import GgufError, read_gguf_header
from hashbench.model.manifest import Entry, FileEntry, TensorEntry
from hashbench.model.onnx import OnnxError, external_data
from hashbench.model.pytorch_checkpoint import PyTorchError, read_checkpoint
from hashbench.model.recognition import GIT_LFS_POINTER, HTML_PAGE, recognise
from hashbench.model.safetensors_header import MAX_HEADER_SIZE, SafetensorsError, read_header
from hashbench.model.strict_json import StrictJsonError, loads, quoted
from hashbench.model.tensor_range import TensorRange

SAFETENSORS = ".safetensors"
INDEX = ".safetensors.index.json"
GGUF = ".gguf"
ONNX = ".onnx"
PYTORCH = (".pt", ".pth", ".bin")

_MAX_INDEX_DEPTH = 8  # index and weight map need two, and the index's metadata may be anything
_MAX_SHOWN = 16  # differences between an index and one of its shards


class CheckpointError(ValueError):
    """A model on disk is not valid or not supported; the message names the file and says why."""


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor or file of a model.

    Attributes:
        name: the tensor's name, or the file's path relative to the model's folder, with slashes.
        dtype: the tensor's dtype, by its name in safetensors; None for a file.
        shape: the tensor's shape; None for a file.
        source: its bytes, in a file or in memory.
    """

    name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    source: FileRange | Bytes

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.source.nbytes

    @property
    def place(self) -> Hashable:
        """Identifies its bytes: equal for parts that share them, such as tied tensors and linked files."""
        return self.source if isinstance(self.source, FileRange) else (self.source.ctypes.data, self.nbytes)

    def entry(self, root: bytes) -> Entry:
        """Its entry in a manifest if its bytes have that root."""
        if self.dtype is None or self.shape is None:
            return FileEntry(self.name, self.nbytes, root)
        return TensorEntry(self.name, self.dtype, self.shape, self.nbytes, root)


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model, ready to be read.

    Attributes:
        parts: sorted by name as Unicode code points, each name once.
        ignored: names of values in the model that are not parts of it: those of a PyTorch checkpoint that are not
            tensors.
        problems: one line each: why shards cannot be read, so that their tensors are missing, and which tensors are not
            where an index says.
        watched: files that say what the parts are, an index or a PyTorch checkpoint, as empty ranges. Hash them with
            the parts, so that a change meanwhile is detected.
        notes: one line each: what a user should know of what is covered.
    """

    parts: tuple[Part, ...]
    ignored: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    watched: tuple[FileRange, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Findings:
    """What is found besides the parts of a model, as in `OpenModel`."""

    tolerant: bool
    ignored: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    watched: list[FileRange] = field(default_factory=list)

    def watch(self, path: Path, descriptor: int) -> None:
        self.watched.append(FileRange(path, 0, 0, os.fstat(descriptor)))

    def model(self, path: Path, parts: Iterable[Part]) -> OpenModel:
        """The model of these parts and findings."""
        ordered = _in_order(path, parts)
        return OpenModel(ordered, tuple(sorted(self.ignored)), tuple(self.problems), tuple(self.watched))


def open_model(path: str | os.PathLike[str], exclude: Iterable[Path] = (), *, tolerant: bool = False) -> OpenModel:
    """Opens a model.

    Its parts are:

    - of a safetensors file: its tensors;
    - of a safetensors index, or a folder with one: the tensors that it names, in the shards beside it; other files of
      the folder are not part of the model;
    - of a folder without an index but with one safetensors file: that file's tensors, and again nothing else;
    - of any other folder: every file in it and below, including hidden ones. A link to a file within the folder is a
      file like any other. A link that leaves it, a link to a folder, a broken link and anything that is neither a file
      nor a folder are errors;
    - of a PyTorch checkpoint (.pt, .pth, .bin) in the format of PyTorch 1.6 and later: its tensors, by the names that
      `hashbench.model.pickle_tensors` gives them. PyTorch is not needed, and no code in the file runs. Tied tensors are
      there under each name. Values that are not tensors are ignored. Tensors that are not contiguous are copied, if all
      of them together are not larger than the file or 1 GiB;
    - of a GGUF file: its tensors. One that cannot be read as such is a file like any other, with a note that says why;
    - of any other file: the file. Of an ONNX model, a note names the files that hold more of its data.

    Args:
        path: the model.
        exclude: files that are not part of a folder, such as a manifest in it.
        tolerant: report shards that are missing, invalid or have other tensors than the index says in
            `OpenModel.problems`, instead of raising an error.

    Raises:
        OSError: something cannot be read.
        SafetensorsError: a safetensors file is not valid.
        CheckpointError: the model is none of these, or inconsistent: a shard is outside the folder, index and shards do
            not have the same tensors, a name is not valid Unicode or not unique, or a PyTorch checkpoint is not valid
            or has tensors that are not plain bytes of a dtype of safetensors.
    """
    path = Path(path)
    found = _Findings(tolerant)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        indexes, singles = (
            [file for file in path.iterdir() if file.name.lower().endswith(end) and file.is_file()]
            for end in (INDEX, SAFETENSORS)
        )
        if len(indexes) > 1:
            names = ", ".join(sorted(quoted(index.name) for index in indexes))
            raise CheckpointError(f"{path} has more than one index ({names}): name one of them")
        if not indexes and len(singles) != 1:
            return OpenModel(_in_order(path, _files(path, exclude)))
        (path,) = indexes or singles
        if indexes:
            shards = _shards(path, found)
            if stray := sorted({file.name for file in singles} - shards.keys()):
                names = ", ".join(map(quoted, stray))
                raise CheckpointError(
                    f"{path.parent} has weights that its index does not list ({names}): name the index or one file"
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
    return _opened_file(path)


def _opened_file(path: Path) -> OpenModel:
    """A file that is not one of tensors alone, or whose format has no place for metadata that matter."""
    notes: tuple[str, ...] = ()
    if path.suffix.lower() == GGUF:
        try:
            header = read_gguf_header(path)
        except GgufError as error:
            notes = (f"hashed as a plain file: {error}",)
        else:
            if header.tensors:
                return OpenModel(_in_order(path, _ranges(path, header.tensors, header.status)))
    elif path.suffix.lower() == ONNX:
        notes = tuple(_not_covered(path))
    status = path.stat()
    whole = Part(path.name, None, None, FileRange(path, 0, status.st_size, status))
    return OpenModel(_in_order(path, [whole]), notes=notes)


def _not_covered(path: Path) -> Iterator[str]:
    """What belongs to an ONNX model, but is in other files."""
    try:
        names = sorted({data.location for data in external_data(path)})
    except OnnxError:
        return
    if names:
        more = f" and {len(names) - _MAX_SHOWN:,} more" if len(names) > _MAX_SHOWN else ""
        shown = ", ".join(map(quoted, names[:_MAX_SHOWN])) + more
        yield f"its data in {shown} are not covered: make the manifest of the folder"


def _in_order(path: Path, parts: Iterable[Part]) -> tuple[Part, ...]:
    """The parts sorted by name. Names must be valid Unicode and unique."""
    by_name: dict[str, Part] = {}
    for part in parts:
        try:
            part.name.encode()
        except UnicodeEncodeError:
            raise CheckpointError(f"{path}: the name {quoted(part.name)} is not valid Unicode") from None
        if by_name.setdefault(part.name, part) is not part:
            raise CheckpointError(f"{path} has the name {quoted(part.name)} twice")
    return tuple(by_name[name] for name in sorted(by_name))


def _tensors(path: Path) -> list[Part]:
    try:
        header = read_header(path)
    except SafetensorsError:
        if (found := recognise(path)) in (GIT_LFS_POINTER, HTML_PAGE):
            raise CheckpointError(f"{path} is {found}") from None
        raise
    return _ranges(path, header.tensors, header.status)


def _ranges(path: Path, tensors: Iterable[TensorRange], status: os.stat_result | None) -> list[Part]:
    return [
        Part(tensor.name, tensor.dtype, tensor.shape, FileRange(path, tensor.offset, tensor.nbytes, status))
        for tensor in tensors
    ]


def _shards(index: Path, found: _Findings) -> dict[str, set[str]]:
    """The shards that an index names, and the names of their tensors."""
    with io.BufferedReader(open_regular(index)) as file:
        found.watch(index, file.fileno())
        text = file.read(MAX_HEADER_SIZE + 1)
    if len(text) > MAX_HEADER_SIZE:
        raise CheckpointError(f"{index} is not a valid index: it has more than {MAX_HEADER_SIZE} bytes")
    try:
        content = loads(text, max_depth=_MAX_INDEX_DEPTH, floats=True)  # in metadata: some count bytes so
    except StrictJsonError as error:
        raise CheckpointError(f"{index} is not a valid index: {error}") from None
    shard_of = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index} is not a valid index: its weight_map must map each tensor's name to a shard")

    shards: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        if shard in ("", ".", "..") or not {"/", "\\", "\0"}.isdisjoint(shard):
            raise CheckpointError(f"{index} lists the shard {quoted(shard)}: it must be the name of a file beside it")
        shards.setdefault(shard, set()).add(name)
    return shards


def _sharded(index: Path, shards: Mapping[str, set[str]], found: _Findings) -> Iterator[Part]:
    """The tensors of the shards that an index names."""
    for shard, expected in sorted(shards.items()):
        try:
            parts = _shard(index, shard)
        except (CheckpointError, SafetensorsError) as error:
            if not found.tolerant:
                raise
            found.problems.append(str(error))
            continue
        names, path = {part.name for part in parts}, index.with_name(shard)
        lacks, has = sorted(expected - names), sorted(names - expected)
        differences = [f"{path} lacks the tensor {quoted(name)} that {index.name} lists for it" for name in lacks]
        differences += [f"{path} has the tensor {quoted(name)} that {index.name} does not list for it" for name in has]
        if differences and not found.tolerant:
            raise CheckpointError(differences[0])
        found.problems += differences[:_MAX_SHOWN]
        yield from parts


def _shard(index: Path, shard: str) -> list[Part]:
    """The tensors of one shard."""
    path = index.with_name(shard)
    try:
        if not path.is_file():
            raise CheckpointError(f"{index} lists the shard {quoted(shard)}, but there is no such file")
        return _tensors(path)
    except OSError as error:
        raise CheckpointError(f"{index} lists the shard {quoted(shard)}: {error.strerror}") from None


def _files(folder: Path, exclude: Iterable[Path]) -> list[Part]:
    """Every file in a folder and below."""
    top = folder.resolve()
    # Exclude the path and what it links to, but no other link to that: any file could be one.
    excluded = {place for path in exclude for place in (path.parent.resolve() / path.name, path.resolve())}
    parts = []
    unseen = [top]
    while unseen:
        for path in unseen.pop().iterdir():
            if path in excluded:
                continue
            name = path.relative_to(top).as_posix()
            target = path
            if path.is_symlink():
                try:
                    target = path.resolve(strict=True)
                except (OSError, RuntimeError):  # RuntimeError: links in a circle, up to Python 3.12
                    raise CheckpointError(f"{folder}: the link {quoted(name)} is broken") from None
                if not target.is_relative_to(top):
                    raise CheckpointError(f"{folder}: the link {quoted(name)} leaves the folder")
                if target.is_dir():
                    raise CheckpointError(f"{folder}: the link {quoted(name)} leads to a folder, not to a file")
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


def _pytorch(path: Path, found: _Findings) -> Iterator[Part]:
    """The tensors of a PyTorch checkpoint."""
    try:
        checkpoint = read_checkpoint(path)
    except PyTorchError as error:
        raise CheckpointError(str(error)) from None
    found.watched.append(FileRange(path, 0, 0, checkpoint.status))
    found.ignored += checkpoint.others
    for tensor in checkpoint.tensors:
        yield Part(*tensor)
