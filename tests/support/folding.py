"""Leaf hashes to fold, and the check of what they fold to."""

from __future__ import annotations

from collections.abc import Iterable

from boundaries import painted

from hashbench.kernels import Kernel
from hashbench.merkle.rfc9162 import root_of


def leaves_of(kernel: Kernel, count: int, start: int = 0) -> list[bytes]:
    """Any hashes will do."""
    size = kernel.algorithm.digest_size
    content = painted(size * count, start).tobytes()
    return [content[at : at + size] for at in range(0, len(content), size)]


def check_fold(kernel: Kernel, pieces: Iterable[tuple[int, int]]) -> int:
    """Checks the roots of segments of one buffer against the reference.

    Args:
        kernel: the kernel.
        pieces: the number of leaves of each segment, and of bytes between it and the one before it.

    Returns:
        The number of roots.
    """
    content, parts, roots = b"", [], []
    for count, gap in pieces:
        leaves = leaves_of(kernel, count, len(content))
        start = len(content) + gap
        content += bytes(gap) + b"".join(leaves)
        parts.append(slice(start, len(content)))
        roots.append(root_of(leaves, kernel.algorithm.name))
    buffer = kernel.put(content)
    found = kernel.fold([buffer[part] for part in parts])
    assert found.shape == (len(roots), kernel.algorithm.digest_size)
    assert list(map(bytes, found)) == roots
    return len(roots)
