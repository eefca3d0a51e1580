"""Parts of files for lanes that take them in turn, past the page cache where it does not have them."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from mmap import PAGESIZE

import numpy as np
import numpy.typing as npt

from hashbench.hashing.direct import cached_pages, open_directly
from hashbench.hashing.opening import open_without_waiting
from hashbench.kernels import PAGE, Buffer, PartsInTurn

PART_SIZE = 512 << 10
"""Bytes of a part, at multiples of it in its file, so that fourteen threads read 7 MiB of the file at a time."""

_NONE = -1  # a file that cannot be opened: no part of it can be read


class FilesInTurn:
    """The parts, and their files, which are open as long as `parts` exists.

    Args:
        ranges: a path, the first byte there, and where the bytes go on the device.
        part_size: bytes of a part at most, a multiple of a page.
        opened: is called with the path and the descriptor of each file that was opened.

    Attributes:
        parts: for the lanes.
    """

    def __init__(
        self, ranges: Iterable[tuple[str, int, Buffer]], part_size: int, opened: Callable[[str, int], None]
    ) -> None:
        self._opened = opened
        self._files: dict[str, tuple[int, int]] = {}
        self._descriptors: list[int] = []
        self._paths: list[str] = []
        targets: list[Buffer] = []
        tables = [np.empty((0, 5), np.int64)]
        try:
            for path, offset, target in ranges:
                tables.append(self._table(path, offset, target, part_size))
                begins = tables[-1][:, 4] - target.address
                targets += [
                    target[begin : begin + nbytes]
                    for begin, nbytes in zip(begins.tolist(), tables[-1][:, 3].tolist(), strict=True)
                ]
                self._paths += len(begins) * [path]
            self.parts = PartsInTurn(np.concatenate(tables), targets)
        except BaseException:
            _close(self._descriptors)
            raise
        weakref.finalize(self.parts, _close, self._descriptors)

    def __getitem__(self, part: int) -> tuple[str, int, Buffer]:
        """Of a part, its path, its first byte there, and where it goes."""
        _, offset, skipped, _, _ = self.parts.table[part].tolist()
        return self._paths[part], offset + skipped, self.parts.targets[part]

    def _table(self, path: str, offset: int, target: Buffer, part_size: int) -> npt.NDArray[np.int64]:
        end = offset + target.nbytes
        cuts = np.arange(offset // part_size * part_size, end + part_size, part_size).clip(offset, end)
        begins, ends = cuts[:-1], cuts[1:]
        skipped = begins % PAGE
        buffered, direct = self._open(path)
        pages = None if buffered == direct else cached_pages(buffered, offset, target.nbytes)
        if pages is None:
            files = np.full(len(begins), buffered)
        else:
            page_of = begins // PAGESIZE - offset // PAGESIZE
            files = np.where(pages[page_of], buffered, direct)
        columns = files, begins - skipped, skipped, ends - begins, target.address + begins - offset
        return np.stack(columns, axis=1)[ends > begins].astype(np.int64)

    def _open(self, path: str) -> tuple[int, int]:
        """Descriptors of the file, one for the page cache and one for direct reads, which may be the same."""
        if path not in self._files:
            try:
                buffered = self._keep(path, open_without_waiting(path))
            except OSError:
                self._files[path] = _NONE, _NONE
                return self._files[path]
            try:
                direct = self._keep(path, open_directly(path))
            except OSError:
                direct = buffered
            self._files[path] = buffered, direct
        return self._files[path]

    def _keep(self, path: str, descriptor: int) -> int:
        self._descriptors.append(descriptor)
        self._opened(path, descriptor)
        return descriptor


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
