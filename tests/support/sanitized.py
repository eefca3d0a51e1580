"""Hashes edge cases with the CUDA C source compiled for the host with a sanitizer.

It is a program, since a sanitizer must be loaded before the interpreter: sanitized.py SANITIZER LIBRARY ALGORITHM
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from boundaries import ALIGNMENTS, LEAF_COUNTS, LENGTHS, TILE, painted, split_mix_64
from cuda_on_host import CudaOnHost

from hashbench.kernels import Kernel, device_kernel, layout
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash


def check_messages(kernel: Kernel, every: int = 1) -> None:
    """Every length at every alignment, or one in `every` of these. The memory of each message ends with it."""
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


def check_trees(kernel: Kernel, most_leaves: int = LEAF_COUNTS[-1]) -> None:
    """Trees of every shape."""
    counts = [leaves for leaves in LEAF_COUNTS if leaves <= most_leaves]
    content = painted(64 * most_leaves)
    buffer = kernel.put(content)
    messages = [content[: 64 * leaves].tobytes() for leaves in counts]
    roots = [merkle_tree_hash(chunks_of(message, 64), kernel.algorithm.name) for message in messages]
    segments = [buffer[: len(message)] for message in messages]
    assert list(map(bytes, kernel.tree(segments, 64))) == roots


def check_random(kernel: Kernel) -> None:
    """Random bytes, of whole words and not."""
    for nbytes in (0, 1, 8, 1001):
        assert kernel.get(kernel.random(nbytes, 3)).tobytes() == split_mix_64(126, 3)[:nbytes].tobytes()


def main(sanitizer: str, library: Path, algorithm: str) -> None:
    """Runs what the sanitizer can find errors in: memory in all of it, races where threads of a block cooperate."""
    device = CudaOnHost.devices()[0]
    device_kernel.SLICE_SIZE, device_kernel.FEWEST_SLICES = 128, 2
    plain, paired, early, sliced = (CudaOnHost(device, algorithm, "sliced", library) for _ in range(4))
    plain.sliced = paired.sliced = early.sliced = range(0)
    paired.paired_up_to = early.early_up_to = 1 << 14
    # Under the other one every barrier switches between all threads: few chunks, and no launches without barriers.
    everything = sanitizer == "address"
    if everything:
        check_messages(plain)
        check_random(plain)
    check_trees(plain, LEAF_COUNTS[-1] if everything else 4 * TILE + 1)
    layout.MANY_TILES = 1  # from here on with a launch per level
    if everything:
        check_trees(plain)
    for other in (paired, early, sliced) if everything else (paired,):
        check_messages(other, every=13 if everything else 50)  # with 13, all lengths are still among them


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
