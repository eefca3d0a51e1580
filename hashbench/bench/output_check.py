"""Checks a kernel's output against hashlib, before the kernel is timed on the same input.

Inputs of up to `WHOLE` bytes are checked completely. For larger ones a random sample is read back from the device:

* Batched and leaves: the first and the last chunk of every segment, and others chosen at random, are hashed by hashlib.
* Tree: the same kernel computes the leaf hashes of all chunks, at most `LEAVES_AT_A_TIME` at a time. A sample of them,
  chosen as above, is checked against the bytes of their chunks. All of them are folded on the host, by the reference of
  `hashbench.merkle.rfc9162`, and must give the root that the kernel computed.

What sampling can miss: a wrong hash of a chunk outside the sample. If a share w of the hashes is wrong, independently
of each other, n sampled ones miss them all with probability (1 - w)^n: with 4,096 of them, 2% if one in a thousand is
wrong, but 96% if one in 100,000 is. Above the leaves nothing is sampled: a wrong node of a tree is always found, and so
is a leaf that the kernel hashes wrongly in only one of its two calls. The bytes themselves are trusted as the device
returns them.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain, count
from typing import Literal, get_args

import numpy as np

from hashbench.hashing.packing import packed
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import Buffer, Bytes, Kernel, Strategy
from hashbench.merkle.rfc9162 import chunks_of, leaf_hash, merkle_tree_hash, root_of, roots_of

Coverage = Literal["all", "sample"]
COVERAGES: tuple[Coverage, ...] = get_args(Coverage)
"""How much of an output was checked."""

WHOLE = 64 << 20
"""Bytes of the largest input that is checked completely. Of a larger one, about as many bytes are checked."""

SAMPLED_CHUNKS = 4096
"""The most chunks that are sampled."""

LEAVES_AT_A_TIME = 1 << 22
"""The most leaf hashes of a large tree that the device and the host hold at a time; a power of two, as trees split."""

LEAVES_OF_A_TASK = 1 << 14
"""Leaves that one process folds at a time; a power of two, as trees split."""

LEAVES_OF_ONE_PROCESS = 1 << 20
"""The most leaves that the host folds in this process: starting others would take as long."""


_Runs = Sequence[bytes]
_Fold = Callable[[_Runs], list[bytes]]


def check_output(
    kernel: Kernel, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None, digests: Bytes, seed: int
) -> Coverage:
    """Checks the digests that a kernel computed, as this module describes.

    Args:
        kernel: the kernel, in whose memory the segments are.
        strategy: "batched", "leaves" or "tree".
        segments: the input, unchanged.
        chunk_size: the chunk size of the call.
        digests: the output: uint8, shape (digests, digest size in bytes).
        seed: the seed of the sample.

    Returns:
        "all" if every digest was recomputed from its bytes, "sample" if a sample was.

    Raises:
        VerificationError: a digest is wrong, or the number of digests is.
    """
    whole = sum(segment.nbytes for segment in segments) <= WHOLE
    random = None if whole else np.random.default_rng(seed)
    if strategy == "tree":
        assert chunk_size is not None  # the kernel refuses a tree without one
        _check_count(kernel, strategy, digests, len(segments))
        roots = _roots(kernel, segments, chunk_size, random)
        for index, (expected, given) in enumerate(zip(roots, digests, strict=True)):
            if expected != given.tobytes():
                raise _failed(kernel, strategy, f"root {index:,} of {len(digests):,} differs from the reference's")
    else:
        _check_count(kernel, strategy, digests, sum(_chunk_counts(segments, chunk_size)))
        for index, expected in _expected(kernel, strategy, segments, chunk_size, random):
            if expected != digests[index].tobytes():
                raise _failed(kernel, strategy, f"digest {index:,} of {len(digests):,} differs from hashlib's")
    return "all" if whole else "sample"


def _chunk_counts(segments: Sequence[Buffer], chunk_size: int | None) -> list[int]:
    return [1 if chunk_size is None else -(-segment.nbytes // chunk_size) for segment in segments]


def _expected(
    kernel: Kernel,
    strategy: Strategy,
    segments: Sequence[Buffer],
    chunk_size: int | None,
    random: np.random.Generator | None,
) -> Iterator[tuple[int, bytes]]:
    """The digests of all chunks or of a sample, by hashlib, each with its index, in order."""
    algorithm = kernel.algorithm.name
    chunks = _all_chunks if random is None else partial(_sampled_chunks, random)
    for index, chunk in chunks(kernel, segments, chunk_size):
        yield index, leaf_hash(chunk, algorithm) if strategy == "leaves" else hashlib.new(algorithm, chunk).digest()


def _all_chunks(kernel: Kernel, segments: Sequence[Buffer], chunk_size: int | None) -> Iterator[tuple[int, memoryview]]:
    index = count()
    for segment in segments:
        data = kernel.get(segment).data
        for chunk in [data] if chunk_size is None else chunks_of(data, chunk_size):
            yield next(index), chunk


def _sampled_chunks(
    random: np.random.Generator, kernel: Kernel, segments: Sequence[Buffer], chunk_size: int | None
) -> Iterator[tuple[int, memoryview]]:
    counts = _chunk_counts(segments, chunk_size)
    first = np.concatenate([[0], np.cumsum(counts)])  # the index of each segment's first chunk
    mean = sum(segment.nbytes for segment in segments) // sum(counts)
    drawn = random.integers(sum(counts), size=min(SAMPLED_CHUNKS, max(1, WHOLE // mean)))
    filled = np.array(counts) > 0
    chosen = np.unique(np.concatenate([drawn, first[:-1][filled], first[1:][filled] - 1]))
    owners = np.searchsorted(first, chosen, side="right") - 1
    for index, owner in zip(chosen.tolist(), owners.tolist(), strict=True):
        size = segments[owner].nbytes if chunk_size is None else chunk_size
        start = (index - int(first[owner])) * size
        yield index, kernel.get(segments[owner][start : start + size]).data


def _roots(
    kernel: Kernel, segments: Sequence[Buffer], chunk_size: int, random: np.random.Generator | None
) -> list[bytes]:
    """The right roots of `segments`: from their bytes, or from leaf hashes of which a sample is checked."""
    algorithm = kernel.algorithm.name
    if random is None:
        return [merkle_tree_hash(chunks_of(kernel.get(s).data, chunk_size), algorithm) for s in segments]
    span = LEAVES_OF_A_TASK * chunk_size
    counts = [-(-segment.nbytes // span) for segment in segments]
    subtrees = [s[i * span : (i + 1) * span] for s, n in zip(segments, counts, strict=True) for i in range(n)]
    nodes = _subtree_roots(kernel, subtrees, chunk_size, _expected(kernel, "leaves", segments, chunk_size, random))
    ends = np.cumsum(counts).tolist()
    return [root_of(nodes[end - n : end], algorithm) for end, n in zip(ends, counts, strict=True)]


def _subtree_roots(
    kernel: Kernel, subtrees: Sequence[Buffer], chunk_size: int, sample: Iterable[tuple[int, bytes]]
) -> list[bytes]:
    """The roots of non-empty `subtrees` from the kernel's leaf hashes, which must agree with `sample`."""
    fold = partial(roots_of, algorithm=kernel.algorithm.name)
    counts = _chunk_counts(subtrees, chunk_size)
    left = deque(sample)
    begin = 0
    roots: list[bytes] = []
    with _mapping(sum(counts)) as each:
        for group in packed(counts, LEAVES_AT_A_TIME):
            leaves = kernel.leaves(subtrees[group], chunk_size)
            _check_count(kernel, "leaves", leaves, sum(counts[group]))
            while left and left[0][0] < begin + len(leaves):
                index, expected = left.popleft()
                if expected != leaves[index - begin].tobytes():
                    raise _failed(kernel, "leaves", f"digest {index:,} of {sum(counts):,} differs from hashlib's")
            begin += len(leaves)
            runs = [run.tobytes() for run in np.split(leaves, np.cumsum(counts[group])[:-1])]
            tasks = [runs[task] for task in packed(counts[group], LEAVES_OF_A_TASK)]
            roots += chain.from_iterable(each(fold, tasks))
    return roots


@contextmanager
def _mapping(leaves: int) -> Iterator[Callable[[_Fold, Sequence[_Runs]], Iterable[list[bytes]]]]:
    """Maps a function over tasks: in this process or, for many leaves, with a process per core."""
    if leaves <= LEAVES_OF_ONE_PROCESS:
        yield map
        return
    # Not forked from this process, whose threads and drivers would not survive in the children.
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    context.set_forkserver_preload(["__main__", roots_of.__module__])
    with ProcessPoolExecutor(mp_context=context) as pool:
        yield pool.map


def _check_count(kernel: Kernel, strategy: Strategy, digests: Bytes, expected: int) -> None:
    if len(digests) != expected:
        raise _failed(kernel, strategy, f"{len(digests):,} digests were returned, {expected:,} expected")


def _failed(kernel: Kernel, strategy: Strategy, what: str) -> VerificationError:
    return VerificationError(f"{kernel.name} on {kernel.device.name}, {kernel.algorithm.name} {strategy}: {what}")
