"""What a rank says that it holds of tensors, before any of it is hashed.

Thousands of tensors have a few dozen layouts. A layout is one object, however often it is made: what follows from it is
computed once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any

from hashbench.distributed.subtrees import Box, Run, runs_of

LONG_ROW = 256
"""Chunks of a row from which on its pieces are hashed where they are: few of their bytes fill no leaf."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a rank holds of a tensor. `Layout.of` makes it.

    Attributes:
        dtype: the name of the tensor's dtype in safetensors.
        shape: its shape in safetensors.
        nbytes: its size.
        itemsize: the bytes of an element as PyTorch counts them.
        box: the elements that the rank holds, as PyTorch counts them.
        ranks: the ranks that hold one copy together; none if that is not known.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    itemsize: int
    box: Box
    ranks: tuple[int, ...]

    @staticmethod
    @lru_cache(1 << 16)
    def of(dtype: str, shape: tuple[int, ...], nbytes: int, itemsize: int, box: Box, ranks: tuple[int, ...]) -> Layout:
        """The layout with these attributes."""
        return Layout(dtype, shape, nbytes, itemsize, box, ranks)

    @cached_property
    def local_shape(self) -> tuple[int, ...]:
        """The shape of what the rank holds."""
        return self.box.local_shape

    @cached_property
    def row_bytes(self) -> int:
        """The bytes of a row: of everything below the dimensions whose indexes choose one."""
        return self.itemsize * prod(self.box.shape[self.box.row_dimensions :])

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the tensor's bytes that the rank holds, in the order of its memory."""
        return runs_of(self.box, self.itemsize)

    @cached_property
    def has_rows(self) -> bool:
        """Whether the rank holds pieces of several rows."""
        return self.box.row_dimensions > 0 and all(self.box.held)

    def in_short_rows(self, chunk_size: int) -> bool:
        """Whether the rank holds short pieces of many rows."""
        return self.has_rows and self.row_bytes < LONG_ROW * chunk_size


def message_of(claims: Iterable[tuple[str, Layout]]) -> Any:
    """Names and layouts as JSON has them."""
    names: defaultdict[Layout, list[str]] = defaultdict(list)
    for name, layout in claims:
        names[layout].append(name)
    return [
        (layout.dtype, layout.shape, layout.nbytes, layout.itemsize, layout.box, layout.ranks, names)
        for layout, names in names.items()
    ]


def claims_in(message: Any) -> Iterator[tuple[Layout, list[str]]]:
    """The layouts in a message, and the names of the tensors that have them."""
    for dtype, shape, nbytes, itemsize, (whole, held), ranks, names in message:
        box = Box(tuple(whole), tuple(tuple((start, stop) for start, stop in ranges) for ranges in held))
        yield Layout.of(dtype, tuple(shape), nbytes, itemsize, box, tuple(ranks)), names
