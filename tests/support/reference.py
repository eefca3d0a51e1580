"""What kernels must return, by hashlib and by the recursive definition of RFC 9162."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from hashbench.kernels import Buffer, Kernel, Strategy
from hashbench.merkle.rfc9162 import chunks_of, leaf_hash, merkle_tree_hash


@lru_cache(maxsize=1024)  # a test asks for many messages again and again
def digests(algorithm: str, strategy: Strategy, message: bytes, chunk_size: int | None) -> list[bytes]:
    """What a kernel must return for one segment that holds `message`, by the reference."""
    if chunk_size is None:
        return [hashlib.new(algorithm, message).digest()]
    chunks = chunks_of(message, chunk_size)
    if strategy == "tree":
        return [merkle_tree_hash(chunks, algorithm)]
    if strategy == "leaves":
        return [leaf_hash(chunk, algorithm) for chunk in chunks]
    return [hashlib.new(algorithm, chunk).digest() for chunk in chunks]


def expected(kernel: Kernel, strategy: Strategy, messages: Sequence[bytes], chunk_size: int | None) -> list[bytes]:
    """What `kernel` must return for segments that hold `messages`."""
    return [d for message in messages for d in digests(kernel.algorithm.name, strategy, message, chunk_size)]


def check(
    kernel: Kernel, strategy: Strategy, segments: Sequence[Buffer], messages: Sequence[bytes], chunk_size: int | None
) -> None:
    """Checks the digests of `segments`, which hold `messages`, against the reference."""
    work = kernel.prepare(strategy, segments, chunk_size)
    seconds = work.run()
    found = work.digests()
    assert found.dtype == np.uint8
    assert found.ndim == 2
    assert found.shape[1] == kernel.algorithm.digest_size
    assert list(map(bytes, found)) == expected(kernel, strategy, messages, chunk_size)
    assert seconds >= 0
