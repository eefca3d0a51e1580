"""Models from files into memory, where a tensor is handed out only after its very bytes were verified there.

Files are read, not mapped: nobody who can write to them changes what was handed out. Reading, copying to the device and
hashing there overlap, and each tensor is allocated once, where it stays.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hashbench.hashing.lanes import Lanes, reading_threads
from hashbench.hashing.large_pages import ask_for_large_pages
from hashbench.hashing.packing import packed
from hashbench.hashing.reading import Read, Reader, StagePlan, Targets, plan
from hashbench.hashing.sources import FileRange, Source
from hashbench.hashing.verification_error import VerificationError
from hashbench.model.contents import named_path
from hashbench.model.dtypes import GGML_BLOCKS, TORCH_NAMES
from hashbench.model.hints import did_you_mean
from hashbench.model.located import locate
from hashbench.model.manifest import Manifest, TensorEntry
from hashbench.model.strict_json import quoted
from hashbench.torch.devices import Stream, all_done, indexed, on_stream, stream_on
from hashbench.torch.mapped import mapped_files
from hashbench.torch.modules import entries_of, tensors_of
from hashbench.torch.places import Roots, device_buffer, host_bytes, place_of
from hashbench.torch.tensors import TensorError, described, plain_tensors

AHEAD = 1 << 30
"""Bytes that `iterate` loads at most before they are asked for, except that it always loads one tensor."""

PIECE_SIZE = 32 << 20
"""Bytes that a thread takes at a time."""

DIRECT_PIECE_SIZE = 4 << 20
"""The same past the page cache to host memory, so that a disk reads a file from its beginning to its end. The page
cache reads ahead for each thread, and threads that are so near to each other wait there."""

_BATCH = 256 << 20  # bytes of tensors that are hashed in one call, and handed out together
_BATCHES_AHEAD = 4  # while one is handed out, others are read and hashed
_BATCHES_STARTED = 8  # at most, since threads that read wait for the one that plans what they will read later

_WHOLE = 1 << 62  # bytes of a piece, so that no tensor is cut

_DTYPES = {ours: getattr(torch, name) for name, ours in TORCH_NAMES.items() if hasattr(torch, name)}
_PAIRS = "F4"  # the dtype of which PyTorch counts two elements as one

Named = tuple[str, torch.Tensor]


def load(
    path: str | os.PathLike[str],
    manifest: Manifest,
    *,
    device: str | torch.device = "cpu",
    names: Iterable[str] | None = None,
    component: str = "",
    stream: Stream | None = None,
    past_cache: bool = False,
) -> dict[str, torch.Tensor]:
    """The tensors of a model on disk, in memory of their own, every one of them verified there.

    Each tensor is read straight into host memory, or through page-locked memory into that of a GPU, and hashed where it
    stays. There is no second copy of the model, and no more than 56 MiB of page-locked memory for each
    GPU, which are kept for the next call. Tensors of GGUF's quantised types are their bytes, with the shape in bytes.

    Args:
        path: the model, as for `hashbench.verify`: a folder, an index, or a file of tensors.
        manifest: of the model, from a trusted source: nothing is checked but against it. If it lists files, it says
            where their tensors are, and no header is parsed.
        device: the CPU or a GPU: "cpu", "cuda" or "xpu", which was not tried.
        names: of the tensors to load, as the component has them; None means all. No others are read.
        component: which component's tensors to load, as for `hashbench.torch.verify`.
        stream: a GPU's memory is allocated for this stream, of torch.cuda or torch.xpu; None means the device's
            current stream. The tensors can be used on any.
        past_cache: whether what the page cache does not have is read past it, where the file system can. That is faster
            from the disks on which it was tried, and leaves nothing in the cache for the next load.

    Returns:
        The tensors by name, in the order in which they are in the files.

    Raises:
        VerificationError: a tensor does not have the bytes that the manifest says, or its file is missing or of another
            size. Nothing is handed out then.
        TypeError: `manifest` is not a manifest, or `stream` not a stream.
        ValueError: the manifest has no such tensors, or chunks of more than 256 MiB for tensors in host memory.
        TensorError: PyTorch has no such dtype, or the tensor is not one range of its file.
        OSError: a file cannot be read.
        ChangedWhileReadError: a file changed meanwhile.
        Unavailable: PyTorch cannot use the device, or it has no kernel.
        torch.OutOfMemoryError: the device has no room for the tensors.
    """
    return dict(_iterate(path, manifest, device, names, component, stream, None, past_cache))


def iterate(
    path: str | os.PathLike[str],
    manifest: Manifest,
    *,
    device: str | torch.device = "cpu",
    names: Iterable[str] | None = None,
    component: str = "",
    stream: Stream | None = None,
    ahead: int = AHEAD,
    past_cache: bool = False,
) -> Iterator[Named]:
    """The tensors of a model on disk one by one, each verified in the memory in which it is handed out.

    The next tensors are loaded meanwhile. Memory that the caller no longer refers to is free again.

    Args:
        path: as for `load`.
        manifest: as for `load`.
        device: as for `load`.
        names: as for `load`.
        component: as for `load`.
        stream: as for `load`.
        ahead: bytes of tensors that are loaded at most before they are asked for, except that there is always one.
        past_cache: as for `load`.

    Yields:
        Name and tensor, in the order in which they are in the files.

    Raises:
        VerificationError: as for `load`: what was handed out before was verified.
        Exception: as for `load`.
    """
    return _iterate(path, manifest, device, names, component, stream, ahead, past_cache)


def verified(
    tensors: Iterable[Named],
    manifest: Manifest,
    *,
    names: Callable[[str], str] | None = None,
    component: str = "",
    complete: bool = True,
    stream: Stream | None = None,
) -> Iterator[Named]:
    """The tensors that another loader hands out, each verified in its memory before it is handed on.

    A tensor that is mapped from a file, or in memory that processes share, is copied first, and the copy is verified
    and handed on: whoever writes there could change it afterwards. A tensor subclass that wraps others, as of torchao,
    is verified as these.

    Args:
        tensors: names and tensors, as a loader gives them. Each is verified before the next is asked for.
        manifest: as for `load`.
        names: gives the manifest's name of a tensor; None means that they are the same.
        component: as for `load`.
        complete: whether all tensors of the component must come.
        stream: the stream on which the loader writes; None means the current stream of a tensor's device.

    Yields:
        Name and tensor as the loader gave them.

    Raises:
        VerificationError: a tensor differs from the manifest, is not in it, or comes twice; or, at the end, one did
            not come.
        TensorError: a tensor has no bytes as they would be stored, or wraps others that are mapped.
        TypeError, ValueError, Unavailable, OutOfDeviceMemory: as for `hashbench.torch.verify`.
    """
    expected = tensors_of(manifest, component)
    left = dict(expected.by_name)
    for name, tensor in tensors:
        listed = names(name) if names else name
        plain = dict(plain_tensors(listed, tensor))
        if unexpected := [part for part in plain if part not in left]:
            how = "came before" if unexpected[0] in expected.by_name else "is not in the manifest"
            raise VerificationError(f"tensor {quoted(unexpected[0])} {how}")
        found = {part: described(part, one) for part, one in plain.items()}
        if mapped_files(found.values()):
            if listed not in found:
                raise TensorError(listed, "it wraps tensors that are mapped, so that others can change them: clone it")
            tensor = tensor.clone()
            found = {listed: described(listed, tensor)}
        for part, now in entries_of(found, expected.algorithm, expected.chunk_size, stream).items():
            if now != left.pop(part):
                raise VerificationError(f"tensor {quoted(part)} is not what the manifest says")
        yield name, tensor
    if left and complete:
        more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
        raise VerificationError(f"the loader ended without tensor {quoted(next(iter(left)))}{more}")


# What is wanted -------------------------------------------------------------------------------------------------------


class _Wanted(NamedTuple):
    """A tensor to load.

    Attributes:
        name: its name in the component.
        entry: the manifest's entry.
        source: where its bytes are.
        dtype, shape: PyTorch's.
    """

    name: str
    entry: TensorEntry
    source: Source
    dtype: torch.dtype
    shape: tuple[int, ...]


def _wanted(path: Path, manifest: Manifest, names: Iterable[str] | None, component: str) -> list[_Wanted]:
    """The tensors to load, in the order in which they are in the files.

    Raises:
        VerificationError, TypeError, ValueError, TensorError: as for `load`.
    """
    of_component = tensors_of(manifest, component).by_name
    if isinstance(names, str):
        raise TypeError(f"the string {names!r} is not accepted: pass a collection of names")
    chosen = of_component.keys() if names is None else dict.fromkeys(names)
    for name in chosen - of_component.keys():
        raise ValueError(f"the manifest has no tensor {quoted(name)}{did_you_mean(name, of_component)}")
    there = locate(path, manifest)
    sources = {part.entry.name: part.source for part in there.parts}
    prefix = f"{component}/" if component else ""
    found = []
    for name in chosen:
        entry = manifest.by_name[prefix + name]
        assert isinstance(entry, TensorEntry)
        if (source := sources.get(entry.name)) is None:
            raise _refusal(entry, there.known.get(entry.name) == entry)
        found.append(_Wanted(name, entry, source, *_as_torch(entry)))
    found.sort(key=lambda wanted: _place_in_files(wanted.source))
    return found


def _refusal(entry: TensorEntry, same: bool) -> Exception:
    """Why a tensor cannot be loaded from the model."""
    if same and entry.offset is None:  # and the frame has its bytes
        reason = "its bytes are not one range of its file: load it by other means, and verify it in memory"
        return TensorError(entry.name, reason)
    where = f" in {quoted(entry.file)}" if entry.file else ""
    return VerificationError(f"tensor {quoted(entry.name)} is not{where} as the manifest says")


def _place_in_files(source: Source) -> tuple[str, int]:
    return (os.fspath(source.path), source.offset) if isinstance(source, FileRange) else ("", 0)


def _as_torch(entry: TensorEntry) -> tuple[torch.dtype, tuple[int, ...]]:
    if entry.dtype in GGML_BLOCKS:
        elements, nbytes = GGML_BLOCKS[entry.dtype]
        return torch.uint8, (*entry.shape[:-1], entry.shape[-1] // elements * nbytes)
    if entry.dtype not in _DTYPES:
        raise TensorError(entry.name, f"PyTorch has no dtype {entry.dtype}")
    if entry.dtype == _PAIRS:
        if not entry.shape or entry.shape[-1] % 2:
            raise TensorError(entry.name, f"PyTorch has {entry.dtype} in pairs along the last dimension alone")
        return _DTYPES[entry.dtype], (*entry.shape[:-1], entry.shape[-1] // 2)
    return _DTYPES[entry.dtype], entry.shape


# Memory ---------------------------------------------------------------------------------------------------------------


class _Memory(ABC):
    """Where tensors are loaded to."""

    @abstractmethod
    def allocate(self, wanted: _Wanted) -> torch.Tensor:
        """A new tensor, without its bytes.

        Raises:
            torch.OutOfMemoryError: there is no room.
        """

    def usable(self) -> Callable[[], object]:
        """Waits until all that was allocated so far may be written to."""
        return lambda: None

    @abstractmethod
    def tasks(self, sources: Sequence[Source], targets: Sequence[torch.Tensor]) -> Sequence[Callable[[], None]]:
        """What threads call, all at the same time or one after another, to bring sources into their tensors.

        Args:
            sources: what to read.
            targets: a tensor for each.

        Returns:
            Functions, which raise OSError or ChangedWhileReadError if a file cannot be read, or changed.
        """


class _HostMemory(_Memory):
    """The host's memory, into which files are read directly.

    Args:
        reader: reads the files.
        past_cache: whether it reads past the page cache what that does not have.
    """

    def __init__(self, reader: Reader, *, past_cache: bool) -> None:
        self._reader, self._piece_size = reader, DIRECT_PIECE_SIZE if past_cache else PIECE_SIZE

    def allocate(self, wanted: _Wanted) -> torch.Tensor:
        tensor = torch.empty(wanted.shape, dtype=wanted.dtype)
        ask_for_large_pages(host_bytes(tensor))  # the system takes as long to bring small ones as to read a cached file
        return tensor

    def tasks(self, sources: Sequence[Source], targets: Sequence[torch.Tensor]) -> Sequence[Callable[[], None]]:
        return [partial(self._bring, stage, sources, targets) for stage in plan(sources, self._piece_size)]

    def _bring(self, stage: StagePlan, sources: Sequence[Source], targets: Sequence[torch.Tensor]) -> None:
        for piece in stage.pieces:
            host = host_bytes(targets[piece.source])[piece.start : piece.start + piece.nbytes].data
            source = sources[piece.source]
            if isinstance(source, FileRange):
                read = Read(os.fspath(source.path), source.offset + piece.start, 0, piece.nbytes)
            else:
                assert isinstance(source, np.ndarray)  # what was gathered from a checkpoint
                read = Read(source, piece.start, 0, piece.nbytes)
            self._reader.read([read], host)


class _GpuMemory(_Memory):
    """A GPU's memory.

    Args:
        reader: reads the files.
        lanes: to the GPU.
        device: the GPU.
        stream: the tensors' memory is allocated for it.
        past_cache: whether what the page cache does not have is read past it.
    """

    def __init__(self, reader: Reader, lanes: Lanes, device: torch.device, stream: Stream, *, past_cache: bool) -> None:
        self._reader, self._lanes, self._device, self._stream = reader, lanes, device, stream
        self._past_cache = past_cache

    def allocate(self, wanted: _Wanted) -> torch.Tensor:
        with on_stream(self._stream):
            return torch.empty(wanted.shape, dtype=wanted.dtype, device=self._device)

    def usable(self) -> Callable[[], object]:
        # The memory may have been another tensor's, which work on that stream still uses.
        return all_done(self._stream)

    def tasks(self, sources: Sequence[Source], targets: Sequence[torch.Tensor]) -> Sequence[Callable[[], None]]:
        if self._past_cache:
            return [
                bring
                for stage in plan(sources, _WHOLE)
                for bring in reading_threads() * [self._reader.in_turn(stage, self._lanes, _places(stage, targets))]
            ]
        return [
            partial(self._reader.send, stage.reads, self._lanes, _places(stage, targets))
            for stage in plan(sources, PIECE_SIZE)
        ]


def _places(stage: StagePlan, targets: Sequence[torch.Tensor]) -> Targets:
    """Where the pieces of a stage go on a GPU."""
    return [
        (piece.place, device_buffer(targets[piece.source])[piece.start : piece.start + piece.nbytes])
        for piece in stage.pieces
    ]


# The pipeline ---------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Tensors that are read, hashed and handed out together.

    Attributes:
        wanted: what they are, in the order in which they are in the files.
        targets: where they are.
        roots: will be theirs.
    """

    wanted: Sequence[_Wanted]
    targets: list[torch.Tensor]
    roots: Future[list[bytes]]

    @property
    def nbytes(self) -> int:
        return sum(one.entry.nbytes for one in self.wanted)


def _iterate(
    path: str | os.PathLike[str],
    manifest: Manifest,
    device: str | torch.device,
    names: Iterable[str] | None,
    component: str,
    stream: Stream | None,
    ahead: int | None,
    past_cache: bool,
) -> Generator[Named, None, None]:
    """What `iterate` yields; `ahead` None is no bound."""
    wanted = _wanted(named_path(path), manifest, names, component)
    where = indexed(torch.device(device))
    place = place_of(where, manifest.algorithm)
    roots_of = place.roots_over(manifest.chunk_size)
    given = stream_on(where, stream)
    limit = _BATCH if ahead is None else min(_BATCH, ahead // _BATCHES_AHEAD)
    with Reader([one.source for one in wanted], direct=past_cache) as reader:
        memory: _Memory
        if given is None:
            memory = _HostMemory(reader, past_cache=past_cache)
        else:
            memory = _GpuMemory(reader, place.lanes, where, given, past_cache=past_cache)
        with _Pipeline(memory, roots_of, reader.stop) as pipeline:
            coming = deque(wanted[run] for run in packed([one.entry.nbytes for one in wanted], limit))
            started: deque[_Group] = deque()
            held = 0
            while coming or started:
                while coming and (
                    not started
                    or (len(started) < _BATCHES_STARTED and (ahead is None or held + _nbytes(coming[0]) <= ahead))
                ):
                    started.append(pipeline.start(coming.popleft()))
                    held += started[-1].nbytes
                group = started.popleft()
                held -= group.nbytes
                for one, root in zip(group.wanted, group.roots.result(), strict=True):
                    if root != one.entry.root:
                        raise VerificationError(
                            f"tensor {quoted(one.entry.name)} has other bytes than the manifest says"
                        )
                group.targets.reverse()
                for one in group.wanted:
                    yield one.name, group.targets.pop()  # which nothing here refers to any more


def _nbytes(wanted: Sequence[_Wanted]) -> int:
    return sum(one.entry.nbytes for one in wanted)


class _Pipeline:
    """Threads that bring tensors into memory, and one that has them hashed.

    Args:
        memory: where the tensors go.
        roots_of: hashes them there.
        stop: makes the threads that bring tensors end soon.
    """

    def __init__(self, memory: _Memory, roots_of: Roots, stop: Callable[[], object]) -> None:
        self._memory, self._roots_of, self._stop = memory, roots_of, stop
        self._readers, self._hasher = ThreadPoolExecutor(reading_threads(), "load"), ThreadPoolExecutor(1, "hash")

    def __enter__(self) -> _Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._readers.shutdown(cancel_futures=True)
        self._hasher.shutdown(cancel_futures=True)

    def start(self, wanted: Sequence[_Wanted]) -> _Group:
        """Starts to bring and hash tensors."""
        targets = [self._memory.allocate(one) for one in wanted]
        usable = self._memory.usable()
        tasks = self._memory.tasks([one.source for one in wanted], targets)

        def run(task: Callable[[], None]) -> None:
            usable()
            task()

        brought = [self._readers.submit(run, task) for task in tasks]
        return _Group(wanted, targets, self._hasher.submit(self._hash, brought, targets))

    def _hash(self, brought: Sequence[Future[None]], targets: Sequence[torch.Tensor]) -> list[bytes]:
        for future in brought:
            future.result()
        return self._roots_of(targets)
