"""Hashes edge cases with the CUDA C source compiled for the host, under the sanitizer that its library was built with.

Run as a program, with the sanitizer's name, the library's path, the algorithm and the variant: a sanitizer must be
loaded before the interpreter.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from boundaries import ALIGNMENTS, LEAF_COUNTS, LENGTHS, MANY_LEAVES, painted, split_mix_64
from cuda_on_host import CudaOnHost

from hashbench.kernels import Kernel
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash


def check_messages(kernel: Kernel, every: int = 1) -> None:
    """Every length at every alignment, or one in `every` of these, each message in memory that ends where it ends."""
    algorithm = kernel.algorithm.name
    pairs = [(length, start) for length in LENGTHS for start in ALIGNMENTS][::every]
    segments = [kernel.put(painted(start + length))[start:] for length, start in pairs]
    messages = [painted(length, start).tobytes() for length, start in pairs]
    assert list(map(bytes, kernel.batched(segments))) == [hashlib.new(algorithm, m).digest() for m in messages]
    for chunk_size in (64, 256):  # half a block of SHA-384, and several of both
        roots = [merkle_tree_hash(chunks_of(message, chunk_size), algorithm) for message in messages]
        assert list(map(bytes, kernel.tree(segments, chunk_size))) == roots
    some, few = segments[:100], [message for message in messages[:100] if message]
    assert list(map(bytes, kernel.batched(some, 2**64 - 64))) == [hashlib.new(algorithm, m).digest() for m in few]


def check_trees(kernel: Kernel) -> None:
    """Trees of every shape, over whose nodes the threads of a block meet, in a small call and in a large one."""
    content = painted(64 * LEAF_COUNTS[-1])
    buffer = kernel.put(content)
    messages = [content[: 64 * leaves].tobytes() for leaves in LEAF_COUNTS]
    roots = [merkle_tree_hash(chunks_of(message, 64), kernel.algorithm.name) for message in messages]
    segments = [buffer[: len(message)] for message in messages]
    for times in (1, -(-MANY_LEAVES // sum(LEAF_COUNTS))):
        assert list(map(bytes, kernel.tree(segments * times, 64))) == roots * times


def check_random(kernel: Kernel) -> None:
    """Random bytes, of whole words and not."""
    for nbytes in (0, 1, 8, 1001):
        assert kernel.get(kernel.random(nbytes, 3)).tobytes() == split_mix_64(126, 3)[:nbytes].tobytes()


def main(sanitizer: str, library: Path, algorithm: str, variant: str) -> None:
    """What the sanitizer can find something in: memory in all of it, races between threads in what they do together."""
    kernel = CudaOnHost(CudaOnHost.devices()[0], algorithm, variant, library)
    if (
        variant == "paired"
    ):  # a switch of threads for each barrier of each thread: a fifth of them, all lengths among them
        check_messages(kernel, every=5)
        return
    for check in {"address": (check_messages, check_trees, check_random), "thread": (check_trees,)}[sanitizer]:
        check(kernel)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
