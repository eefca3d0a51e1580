"""Where hashing is most likely to go wrong: the sizes at which the code takes another path, and input for them."""

from __future__ import annotations

import numpy as np

from hashbench.kernels import Bytes
from hashbench.kernels.layout import TILE_LEVELS

TILE = 1 << TILE_LEVELS
"""The nodes that one group reduces to one."""

ALIGNMENTS = range(17)
"""Offsets of the first byte of a message from a multiple of 16, the bytes that a kernel loads at once."""


def _around(*numbers: int) -> set[int]:
    return {n + d for n in numbers for d in (-1, 0, 1) if n + d >= 0}


_SMALL = set(range(20))
_BLOCKS = _around(64, 128, 192, 256, 384, 512)
_PADDING = _around(55, 56, 111, 112, 64 + 55, 64 + 56, 128 + 111, 128 + 112)
_PAGES = _around(1024, 4096, 2 * 4096, 3 * 4096)

LENGTHS = sorted(_SMALL | _BLOCKS | _PADDING | _PAGES)
"""Lengths of messages in bytes: zero, a few words, and both sides of every edge of block, padding and page."""

CHUNK_SIZES = (64, 128, 192, 1024, 4096)
"""Chunk sizes in bytes: one block of either algorithm, not a multiple of SHA-384's block, and common ones."""

LEAF_COUNTS = sorted(
    {0, 5, 6, 11, 100} | _around(1, 2, 4, 8, 16, 32, TILE // 2, *(n * TILE for n in (1, 2, 3, 4, 8, 12)))
)
"""Numbers of leaves: both sides of powers of two and of the edges of tiles."""


def painted(nbytes: int, start: int = 0) -> Bytes:
    """`nbytes` bytes of a pattern, from its byte `start`.

    Its period, 251, is prime, so that a read at a wrong place shows, such as one block or chunk off.
    """
    period = (np.arange(start, start + 251) % 251).astype(np.uint8)
    return np.tile(period, -(-nbytes // 251))[:nbytes]


def split_mix_64(words: int, seed: int, start: int = 0) -> Bytes:
    """Words `start` to `start + words - 1` of the SplitMix64 sequence of `seed` (Steele, Lea, Flood: Fast Splittable
    Pseudorandom Number Generators, OOPSLA 2014), little-endian: what `Kernel.random` makes.
    """
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(start + 1, start + words + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z.astype("<u8").view(np.uint8)
