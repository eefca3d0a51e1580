"""Whether a kernel's output on an input is right, checked against hashlib before the kernel is timed on that input.

Inputs up to `WHOLE` bytes are checked completely. Of larger ones a random sample is read back from the device:

* Batched: the first and the last chunk of every segment and others drawn at random, each hashed by hashlib.
* Tree: the same kernel hashes the input a second time, cut into subtrees of `SUBTREE_LEAVES` chunks, as the segments of
  one call. The subtree roots, inner nodes of the tree, are all folded to the root on the host by the reference of
  `hashbench.merkle` and must give the root that the kernel gave; a sample of the subtrees is recomputed from their
  bytes.

What sampling can miss: a wrong digest of a chunk outside the sample. With a share w of the digests wrong independently
of each other, n sampled ones miss them all with probability (1 - w)^n: for 4,096 of them, 2% where one in a thousand is
wrong, but 96% where one in 100,000 is. In a tree, a wrong node above the subtrees is always found; a wrong leaf outside
the sample is missed only where the kernel hashes it wrongly in both calls alike. The bytes themselves are taken as the
device gives them back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from typing import Literal, get_args

import numpy as np

from hashbench.kernels import Buffer, Bytes, Kernel, Strategy
from hashbench.merkle import chunks_of, merkle_tree_hash, root_of

Extent = Literal["all", "sample"]
EXTENTS: tuple[Extent, ...] = get_args(Extent)

WHOLE = 64 << 20
"""Bytes of input that are checked completely; of a larger input, about as many are."""

SAMPLED_CHUNKS = 4096
"""Chunks of a batched call that are drawn at most."""

SUBTREE_LEAVES = 64
"""Leaves of a subtree, a power of two, as the tree splits between them."""


class VerificationError(Exception):
    """A digest differs from hashlib's; the message says which."""


def verify(
    kernel: Kernel, strategy: Strategy, segments: Sequence[Buffer], chunk_size: int | None, digests: Bytes, seed: int
) -> Extent:
    """Checks `digests`, what `kernel` computed over `segments`, as this module describes.

    Args:
        kernel: whose memory the segments lie in.
        strategy: "batched" or "tree".
        segments: the input, not changed since.
        chunk_size: as for the call that gave the digests.
        digests: uint8, shape (digests, digest size in bytes).
        seed: of the sample.

    Returns:
        "all" where every digest was recomputed from its bytes, "sample" where a sample was.

    Raises:
        VerificationError: a digest differs, or there are not as many as there should be.
    """
    whole = sum(segment.nbytes for segment in segments) <= WHOLE
    random = np.random.default_rng(seed)
    if strategy == "batched":
        _verify_messages(kernel, segments, chunk_size, digests, None if whole else random)
    else:
        assert chunk_size is not None  # the kernel refuses a tree without one
        _verify_trees(kernel, segments, chunk_size, digests, None if whole else random)
    return "all" if whole else "sample"


def _verify_messages(
    kernel: Kernel,
    segments: Sequence[Buffer],
    chunk_size: int | None,
    digests: Bytes,
    random: np.random.Generator | None,
) -> None:
    counts = [1 if chunk_size is None else -(-segment.nbytes // chunk_size) for segment in segments]
    _check_count(kernel, "batched", digests, sum(counts))
    chunks = _all_chunks if random is None else partial(_sampled_chunks, random, counts)
    for index, chunk in chunks(kernel, segments, chunk_size):
        if hashlib.new(kernel.algorithm.name, chunk).digest() != digests[index].tobytes():
            raise _failed(kernel, "batched", f"digest {index:,} of {len(digests):,} differs from hashlib's")


def _all_chunks(kernel: Kernel, segments: Sequence[Buffer], chunk_size: int | None) -> Iterator[tuple[int, memoryview]]:
    index = count()
    for segment in segments:
        data = kernel.get(segment).data
        for chunk in [data] if chunk_size is None else chunks_of(data, chunk_size):
            yield next(index), chunk


def _sampled_chunks(
    random: np.random.Generator,
    counts: Sequence[int],
    kernel: Kernel,
    segments: Sequence[Buffer],
    chunk_size: int | None,
) -> Iterator[tuple[int, memoryview]]:
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


def _verify_trees(
    kernel: Kernel, segments: Sequence[Buffer], chunk_size: int, digests: Bytes, random: np.random.Generator | None
) -> None:
    _check_count(kernel, "tree", digests, len(segments))
    algorithm = kernel.algorithm.name
    span = SUBTREE_LEAVES * chunk_size
    if random is None:
        roots = [merkle_tree_hash(chunks_of(kernel.get(s).data, chunk_size), algorithm) for s in segments]
    else:
        counts = [max(1, -(-segment.nbytes // span)) for segment in segments]
        subtrees = [s[i * span : (i + 1) * span] for s, n in zip(segments, counts, strict=True) for i in range(n)]
        nodes = [row.tobytes() for row in kernel.tree(subtrees, chunk_size)]
        _check_subtrees(kernel, subtrees, chunk_size, nodes, random)
        ends = np.cumsum(counts).tolist()
        roots = [root_of(nodes[end - n : end], algorithm) for end, n in zip(ends, counts, strict=True)]
    for index, (expected, given) in enumerate(zip(roots, digests, strict=True)):
        if expected != given.tobytes():
            raise _failed(kernel, "tree", f"root {index:,} of {len(digests):,} differs from the reference's")


def _check_subtrees(
    kernel: Kernel, subtrees: Sequence[Buffer], chunk_size: int, nodes: Sequence[bytes], random: np.random.Generator
) -> None:
    mean = max(1, sum(subtree.nbytes for subtree in subtrees) // len(subtrees))
    drawn = random.integers(len(subtrees), size=max(1, WHOLE // mean)).tolist()
    for index in sorted({0, len(subtrees) - 1, *drawn}):
        leaves = chunks_of(kernel.get(subtrees[index]).data, chunk_size)
        if merkle_tree_hash(leaves, kernel.algorithm.name) != nodes[index]:
            raise _failed(kernel, "tree", f"root {index:,} of {len(nodes):,} subtrees differs from the reference's")


def _check_count(kernel: Kernel, strategy: Strategy, digests: Bytes, expected: int) -> None:
    if len(digests) != expected:
        raise _failed(kernel, strategy, f"{len(digests):,} digests came back where {expected:,} were due")


def _failed(kernel: Kernel, strategy: Strategy, what: str) -> VerificationError:
    return VerificationError(f"{kernel.name} on {kernel.device.name}, {kernel.algorithm.name} {strategy}: {what}")
