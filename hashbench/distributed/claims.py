"""What a rank says that it holds of a tensor, before any of it is hashed."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from hashbench.distributed.subtrees import Box, Run, runs_of

LONG_ROW = 256
"""Chunks of a row from which on its pieces are hashed where they are: few of their bytes fill no leaf."""


class Claim(NamedTuple):
    """What a rank says that it holds of a tensor.

    Attributes:
        name: the tensor's name.
        dtype: the name of its dtype in safetensors.
        shape: its shape in safetensors.
        nbytes: its size.
        itemsize: the bytes of an element as PyTorch counts them.
        box: the elements that the rank holds, as PyTorch counts them.
        ranks: the ranks that hold one copy together; none if that is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    itemsize: int
    box: Box
    ranks: tuple[int, ...]

    @classmethod
    def read(cls, fields: Any) -> Claim:
        """A claim that was written as JSON."""
        name, dtype, shape, nbytes, itemsize, (whole, held), ranks = fields
        box = Box(tuple(whole), tuple(tuple((start, stop) for start, stop in ranges) for ranges in held))
        return cls(name, dtype, tuple(shape), nbytes, itemsize, box, tuple(ranks))

    @property
    def row_bytes(self) -> int:
        """The bytes of a row: of everything below the dimensions whose indexes choose one."""
        return self.itemsize * prod(self.box.shape[self.box.row_dimensions :])

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the tensor's bytes that the rank holds."""
        return runs_of(self.box, self.itemsize)

    def in_short_rows(self, chunk_size: int) -> bool:
        """Whether the rank holds short pieces of many rows."""
        return self.box.row_dimensions > 0 and all(self.box.held) and self.row_bytes < LONG_ROW * chunk_size
