"""The SHA-256 of whole files, on all cores: what other tools sign and compare.

A whole file's digest is sequential: one core makes one to two GB/s with the processor's SHA instructions, and a GPU far
less. So this runs on the processor, a file a core. While a hasher reads the same files for their roots, the digests are
made of the very bytes that it has read, before they are overwritten. Only what it does not read in the order of the
file, if at all, is read here.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock

from hashbench.hashing.opening import open_regular
from hashbench.hashing.reading import Read, StagePlan
from hashbench.hashing.sources import ChangedWhileReadError, change
from hashbench.hashing.staging import Follow

_READ_SIZE = 1 << 20


class WholeFiles:
    """Files of which the SHA-256 is wanted.

    Args:
        files: their statuses when they were listed, by path. They must still have them at the end.
    """

    def __init__(self, files: Mapping[str, os.stat_result]) -> None:
        self._files = {path: _WholeFile(path, status) for path, status in files.items()}
        self._finishing = Lock()

    @property
    def lanes(self) -> int:
        """How many files are best read at once."""
        return max(1, min(os.cpu_count() or 1, len(self._files)))

    @contextmanager
    def following(self, stages: Sequence[StagePlan]) -> Iterator[Iterator[Follow]]:
        """Goes through the files as stages are filled with their bytes.

        Args:
            stages: a plan whose lanes take the files.

        Yields:
            What follows each stage, in the order of the plan.
        """
        threads = defaultdict[int, ThreadPoolExecutor](partial(ThreadPoolExecutor, 1, "sha256"))
        try:
            yield (partial(self._follow, threads, reads) for reads in self._in_turn(stages))
        finally:
            for thread in threads.values():
                thread.shutdown(cancel_futures=True)

    def fail(self, failed: Mapping[str, OSError]) -> None:
        """Says of which files not all bytes could be read, by path, and why."""
        for path in failed.keys() & self._files.keys():
            self._files[path].error = failed[path]

    def digests(self) -> dict[str, bytes]:
        """The SHA-256 of each file, by path. What was not followed is read now.

        Raises:
            OSError: a file cannot be read; it names the file.
            ChangedWhileReadError: a file is not what it was when it was listed.
        """
        unwanted = Event()
        with self._finishing, ThreadPoolExecutor(self.lanes, "sha256") as pool:
            largest_first = sorted(self._files.items(), key=lambda item: -item[1].status.st_size)
            running = {path: pool.submit(file.finished, unwanted) for path, file in largest_first}
            try:
                return {path: running[path].result() for path in self._files}
            except BaseException:
                unwanted.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _in_turn(self, stages: Sequence[StagePlan]) -> Iterator[Sequence[Read]]:
        """For each stage, the reads that bring what is next of a file: no later read brings bytes before them.

        The others are of frames, whose parts are read together, and of little.
        """
        later: dict[str, int] = {}
        of_stages: list[list[Read]] = []
        for stage in reversed(stages):
            of_stages.append([])
            for read in reversed(stage.reads):
                if not isinstance(read.origin, str) or read.origin not in self._files:
                    continue
                if read.offset <= (first := later.get(read.origin, read.offset)):
                    of_stages[-1].append(read)
                later[read.origin] = min(first, read.offset)
        return (reads[::-1] for reads in reversed(of_stages))

    def _follow(
        self, threads: Mapping[int, ThreadPoolExecutor], reads: Sequence[Read], host: memoryview, filled: Future[int]
    ) -> list[Future[None]]:
        """Submits the reads of one stage to the thread of each lane, which takes them in this order."""
        of_lanes = defaultdict[int, list[Read]](list)
        for read in reads:
            of_lanes[read.lane].append(read)
        return [threads[lane].submit(self._take, of_lane, host, filled) for lane, of_lane in of_lanes.items()]

    def _take(self, reads: Sequence[Read], host: memoryview, filled: Future[int]) -> None:
        filled.result()
        for read in reads:
            assert isinstance(read.origin, str)
            self._files[read.origin].take(read.offset, host[read.place : read.place + read.nbytes])


class _WholeFile:
    """A file whose digest is made from its beginning to its end, by one thread at a time.

    Attributes:
        status: of the file when it was listed.
        error: why its bytes could not be read, if they could not.
    """

    def __init__(self, path: str, status: os.stat_result) -> None:
        self._path = path
        self.status = status
        self.error: OSError | None = None
        self._digest = hashlib.sha256()
        self._end = 0  # of the bytes that are in the digest

    def take(self, offset: int, data: memoryview) -> None:
        """Takes bytes of the file, after those before them."""
        if offset > self._end:
            self._read_to(offset, Event())
        if (known := self._end - offset) < len(data):
            self._digest.update(data[known:])
            self._end += len(data) - known

    def finished(self, unwanted: Event) -> bytes:
        """The digest, after the rest of the file is read; any bytes, soon, if it is not wanted any more."""
        if self.error:
            raise self.error
        if self._end < self.status.st_size:
            self._read_to(self.status.st_size, unwanted)
        self._check(os.stat(self._path))  # noqa: PTH116  # of many thousand files
        return self._digest.digest()

    def _read_to(self, end: int, unwanted: Event) -> None:
        buffer = memoryview(bytearray(min(_READ_SIZE, end - self._end)))
        with open_regular(self._path) as raw:
            self._check(os.fstat(raw.fileno()))
            while self._end < end and not unwanted.is_set():
                count = os.preadv(raw.fileno(), [buffer[: end - self._end]], self._end)
                if count == 0:
                    raise ChangedWhileReadError(f"{self._path}: the file shrank while it was read")
                self._digest.update(buffer[:count])
                self._end += count

    def _check(self, now: os.stat_result) -> None:
        if how := change(self.status, now):
            raise ChangedWhileReadError(f"{self._path}: the file {how} while it was read")
