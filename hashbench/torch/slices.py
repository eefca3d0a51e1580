"""Tensors cut into slices, and slices put together into pieces.

A slice is a complete subtree of its tensor's tree: the roots of a tensor's slices fold to the tensor's root
(`hashbench.merkle.rfc9162.root_of`), and the root of one slice tells whether that range of bytes is as it was. A piece
is what is read at a time: slices of one device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hashbench.hashing.packing import packed


class Slice(NamedTuple):
    """A range of a tensor's bytes."""

    tensor: str
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def slice_size(chunk_size: int, at_most: int) -> int:
    """The bytes of a slice of 2^k chunks: at most `at_most`, but at least one chunk."""
    chunks = max(1, at_most // chunk_size)
    return chunk_size << (chunks.bit_length() - 1)


def slices_of(tensor: str, nbytes: int, size: int) -> list[Slice]:
    """The slices of a tensor, of `size` bytes, a `slice_size`; the last may be shorter. An empty tensor has one."""
    return [Slice(tensor, start, min(start + size, nbytes)) for start in range(0, nbytes or 1, size)]


def pieces_of(slices: Sequence[Slice], size: int, most: int | None = None) -> Iterator[Sequence[Slice]]:
    """The slices in their order, in pieces of at most `size` bytes and `most` slices. A piece has at least one."""
    for run in packed([one.nbytes for one in slices], size):
        step = most or run.stop - run.start
        yield from (slices[start : min(start + step, run.stop)] for start in range(run.start, run.stop, step))
