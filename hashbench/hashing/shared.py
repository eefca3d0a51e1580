"""Sources hashed by several devices of this machine, and by several processes that share them out.

Sources are cut where their trees split, so that each cut's root is a node, wherever it is hashed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from threading import Lock
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from hashbench.hashing.hasher import ChunkHashes, Hasher, Progress
from hashbench.hashing.selection import available, choose, kernel_for
from hashbench.hashing.sources import FileParts, FileRange, Source, Stream
from hashbench.hashing.whole_files import WholeFiles
from hashbench.kernels import Kernel
from hashbench.merkle.rfc9162 import root_of

ALL = "all"
"""The name of all GPUs of this machine, in place of a device's."""

SHARES = 4
"""Pieces that each device gets of a large source, at least: so that all have about as many bytes."""

SMALLEST_SHARE = 64 << 20
"""Bytes from which on a source is cut."""

_DONE, _FAILED = b"\0", b"\1"  # the first byte of what a process says

OnLeaves: TypeAlias = Callable[[ChunkHashes], object]


class TeamError(RuntimeError):
    """Processes that share the hashing cannot go on; the message says why."""


class Team(Protocol):
    """Processes that hash the same sources together.

    Attributes:
        index: this process's number.
        count: how many there are.
        local_index: this process's number among those of this machine.
        local_count: how many there are of this machine.
    """

    @property
    def index(self) -> int: ...

    @property
    def count(self) -> int: ...

    @property
    def local_index(self) -> int: ...

    @property
    def local_count(self) -> int: ...

    def gather(self, data: bytes) -> list[bytes]:
        """What each process has, in their order."""


class _Share(NamedTuple):
    """A cut of a source.

    Attributes:
        source: the source's index.
        first: its first chunk there.
        part: its bytes.
    """

    source: int
    first: int
    part: Source


class SharedHasher:
    """Hashes sources with several kernels at once, as `Hasher` does with one.

    Args:
        hashers: at least one, all of the same algorithm and chunk size.
        team: the processes that share the sources out; None is this one alone.
    """

    def __init__(self, hashers: Sequence[Hasher], team: Team | None = None) -> None:
        self._hashers = hashers
        self.leaves = hashers[0].leaves  # what is read again is little
        self._team = team
        self.kernel = hashers[0].kernel
        self.chunk_size = hashers[0].chunk_size

    def roots(
        self,
        sources: Sequence[Source],
        progress: Progress | None = None,
        on_leaves: OnLeaves | None = None,
        failed: dict[str, OSError] | None = None,
        whole: WholeFiles | None = None,
    ) -> list[bytes]:
        """As `Hasher.roots`; the processes of a team call it with the same sources, and each gets all roots.

        A file that one process of a team cannot read is an error in all. Whole files are read besides, since each
        kernel reads another part of them.
        """
        failures: list[dict[str, OSError]] | None = None
        if failed is not None and self._team is None:
            failures = [{} for _ in self._hashers]
        count = len(self._hashers) * (self._team.count if self._team else 1)
        shares = list(_cut(sources, self.chunk_size, count))
        sizes = [share.part.nbytes or 0 for share in shares]
        mine = list(_balanced(sizes, count))
        if self._team:
            mine = mine[self._team.index * len(self._hashers) :][: len(self._hashers)]
        counter = _Counter(progress, sum(sizes[index] for indexes in mine for index in indexes))
        lock = Lock()

        def work(hasher: Hasher, indexes: Sequence[int], number: int) -> list[bytes]:
            def add(leaves: ChunkHashes) -> None:
                share = shares[indexes[leaves.source]]
                with lock:
                    assert on_leaves is not None
                    on_leaves(replace(leaves, source=share.source, first=share.first + leaves.first))

            parts = [shares[index].part for index in indexes]
            unread = failures[number] if failures is not None else None
            return hasher.roots(parts, counter.of(number), add if on_leaves else None, unread)

        def hashed() -> dict[int, bytes]:
            found: dict[int, bytes] = {}
            with ThreadPoolExecutor(len(self._hashers)) as pool:
                of_devices = pool.map(work, self._hashers, mine, range(len(self._hashers)))
                for indexes, roots in zip(mine, of_devices, strict=True):
                    found.update(zip(indexes, roots, strict=True))
            return found

        with ThreadPoolExecutor(1, "whole files") as pool:
            digests = pool.submit(whole.digests) if whole else None
            seen = _seen(sources, shares) if self._team else b""
            found = _joined(self._team, hashed, seen, self.kernel.algorithm.digest_size) if self._team else hashed()
            if digests:
                digests.result()
        nodes: list[list[bytes]] = [[] for _ in sources]
        for index, share in enumerate(shares):
            nodes[share.source].append(found[index])
        for unread in failures or ():
            assert failed is not None
            failed.update(unread)
        return [root_of(of_source, self.kernel.algorithm.name) if all(of_source) else b"" for of_source in nodes]


def hasher_for(
    kernel: str | Kernel | None,
    device: str | None,
    algorithm: str,
    chunk_size: int,
    nbytes: int | None = None,
    team: Team | None = None,
) -> Hasher | SharedHasher:
    """What hashes on the device or devices that were asked for.

    Args:
        kernel: a kernel, or its name; None takes the fastest available.
        device: a device id, or several with commas between; None takes the fastest available; "all" takes all GPUs of
            the fastest kernel that has any, or the fastest device where there is none. The processes of a team on one
            machine share them out.
        algorithm: "sha256" or "sha384".
        chunk_size: bytes of a leaf.
        nbytes: how much there is to hash, if it is known.
        team: the processes that hash the same sources together.

    Raises:
        UsageError, ValueError, Unavailable: as for `choose`.
    """
    if isinstance(kernel, Kernel):
        kernels = [kernel_for(kernel, device, algorithm, nbytes)]
    else:
        ids: list[str | None] = []
        if device:
            ids += _gpus(kernel) if device == ALL else device.split(",")
        if team and len(ids) > 1:
            ids = ids[team.local_index :: team.local_count] or [ids[team.local_index % len(ids)]]
        kernels = [choose(kernel, one, algorithm, nbytes) for one in ids or [None]]
    hashers = [Hasher(one, chunk_size) for one in kernels]
    return SharedHasher(hashers, team) if team or len(hashers) > 1 else hashers[0]


def _gpus(kernel: str | None) -> list[str]:
    """The ids of all GPUs of one kernel: the named one, or the fastest that has any."""
    found = [device for device in available() if device.kind == "gpu" and kernel in (None, device.kernel)]
    return [device.id for device in found if device.kernel == found[0].kernel]


def _cut(sources: Sequence[Source], chunk_size: int, count: int) -> Iterator[_Share]:
    """Cuts sources into complete subtrees, small enough that `count` devices get about as many bytes."""
    total = sum(source.nbytes or 0 for source in sources)
    size = chunk_size
    while 2 * size <= max(SMALLEST_SHARE, total // (SHARES * count)):
        size *= 2
    for index, source in enumerate(sources):
        if not isinstance(source, FileRange) or source.nbytes <= size or count == 1:
            yield _Share(index, 0, source)
            continue
        for start in range(0, source.nbytes, size):
            part = replace(source, offset=source.offset + start, nbytes=min(size, source.nbytes - start))
            yield _Share(index, start // chunk_size, part)


def _balanced(sizes: Sequence[int], count: int) -> Iterator[list[int]]:
    """The indexes of sizes, shared out so that all have about as many bytes: consecutive ones stay together."""
    share = 2 * sum(sizes) / count
    index = before = 0
    for number in range(count):
        indexes = []
        while index < len(sizes) and (number == count - 1 or 2 * before + sizes[index] <= share * (number + 1)):
            indexes.append(index)
            before += sizes[index]
            index += 1
        yield indexes


def _seen(sources: Sequence[Source], shares: Sequence[_Share]) -> bytes:
    """What tells whether processes see the same files, and not each a copy of its own, of which others hash no byte.

    Files of the same sizes that were last changed at the same moment, to the nanosecond, are the same. The numbers of
    devices and inodes say less: they are each machine's own.
    """
    files = [
        sha256(source.data).hexdigest()
        if isinstance(source, np.ndarray)
        else [(status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in _statuses(source)]
        for source in sources
    ]
    cuts = [(share.source, share.first, share.part.nbytes) for share in shares]
    return sha256(repr((files, cuts)).encode()).digest()


def _statuses(source: FileRange | FileParts | Stream) -> Sequence[os.stat_result]:
    if isinstance(source, Stream):
        return source.statuses
    return [source.status] if source.status else []


def _joined(team: Team, hashed: Callable[[], dict[int, bytes]], seen: bytes, size: int) -> dict[int, bytes]:
    """The roots of all processes of a team. What fails in one of them fails in all.

    Args:
        team: the processes.
        hashed: hashes what this one takes.
        seen: what this one sees.
        size: of a root.

    Raises:
        Exception: what `hashed` raises.
        TeamError: another process failed, or sees other files.
    """
    failure: Exception | None = None
    try:
        roots = b"".join(index.to_bytes(8, "little") + root for index, root in hashed().items())
        mine = b"".join([_DONE, seen, roots])
    except Exception as error:
        failure = error
        mine = _FAILED + str(error).encode()
    said = team.gather(mine)
    if failure:
        raise failure
    found: dict[int, bytes] = {}
    for index, data in enumerate(said):
        if data[:1] != _DONE:
            raise TeamError(f"process {index} cannot go on: {data[1:].decode(errors='replace')}")
        if data[1 : 1 + len(seen)] != seen:
            raise TeamError(
                f"process {index} sees other files than process {team.index}: each has its own copy, or the files "
                "changed"
            )
        for at in range(1 + len(seen), len(data), 8 + size):
            found[int.from_bytes(data[at : at + 8], "little")] = data[at + 8 : at + 8 + size]
    return found


class _Counter:
    """The progress of several devices as that of one."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done: dict[int, int] = {}
        self._lock = Lock()

    def of(self, number: int) -> Progress | None:
        """The progress of one device."""
        if self._progress is None:
            return None

        def told(done: int, total: int | None) -> None:
            with self._lock:
                self._done[number] = done
                assert self._progress is not None
                self._progress(sum(self._done.values()), self._total)

        return told
