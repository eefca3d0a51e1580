"""The Merkle tree of RFC 9162 in plain Python: the reference that the tree of every kernel is checked against.

It follows the recursive definitions of the RFC literally, so that it is easy to verify by reading; it is not fast.
The tree of RFC 9162 section 2.1.1 is also that of RFC 6962 (Certificate Transparency).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hashbench.kernels import Bytes, algorithm_named, check_chunk_size

Data = bytes | bytearray | memoryview

RUN = 1 << 14
"""Leaves per run: a power of two, because that is where trees split."""


def leaf_hash(chunk: Data, algorithm: str) -> bytes:
    """The hash of one leaf: HASH(0x00 || chunk).

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    return _hash(algorithm, b"\x00", chunk)


def node_hash(left: bytes, right: bytes, algorithm: str) -> bytes:
    """The hash of an inner node: HASH(0x01 || left || right).

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    return _hash(algorithm, b"\x01", left, right)


def merkle_tree_hash(chunks: Sequence[Data], algorithm: str) -> bytes:
    """The Merkle Tree Hash over `chunks`, one per leaf: MTH of RFC 9162 section 2.1.1. Without chunks it is HASH("").

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    return root_of([leaf_hash(chunk, algorithm) for chunk in chunks], algorithm)


def root_of(nodes: Sequence[bytes], algorithm: str) -> bytes:
    """The root over nodes of equal height, all but the last of them complete, by the recursion of MTH.

    Leaves are such nodes. So are the roots of consecutive pieces of 2^k leaves of a tree, of which the last may have
    fewer: MTH splits at powers of two, so it splits between pieces before it splits a piece.

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    return _root_of(nodes, getattr(hashlib, algorithm_named(algorithm).name))


def _root_of(nodes: Sequence[bytes], new: Callable[..., Any]) -> bytes:
    """`root_of` with the hash function, which is looked up once for millions of nodes."""
    n = len(nodes)
    if n == 0:
        return bytes(new().digest())
    if n == 1:
        return nodes[0]
    k = _split(n)
    return bytes(new(b"\x01" + _root_of(nodes[:k], new) + _root_of(nodes[k:], new)).digest())


def roots_of(nodes: Iterable[bytes], algorithm: str) -> list[bytes]:
    """`root_of` for several trees at once.

    Args:
        nodes: for each tree the concatenation of its nodes, which are those of `root_of`.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    size = algorithm_named(algorithm).digest_size
    return [root_of([run[i : i + size] for i in range(0, len(run), size)], algorithm) for run in nodes]


def roots_of_runs(leaves: Bytes, algorithm: str) -> list[bytes]:
    """The roots of consecutive runs of `RUN` leaves, of which the last may have fewer: nodes for `root_of`.

    Only the leaves of one run at a time become Python objects, of which millions would need much memory.

    Args:
        leaves: leaf hashes, uint8, shape (leaves, digest size).
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    return roots_of((leaves[begin : begin + RUN].tobytes() for begin in range(0, len(leaves), RUN)), algorithm)


def inclusion_proof(chunks: Sequence[Data], index: int, algorithm: str) -> list[bytes]:
    """The inclusion path from the leaf at `index` to the root, bottom up: PATH of RFC 9162 section 2.1.3.1.

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384", or the tree has no leaf at `index`.
    """
    if not 0 <= index < len(chunks):
        raise ValueError(f"leaf {index} does not exist: the tree has {len(chunks)} leaves, counted from 0")
    return path_of(index, [leaf_hash(chunk, algorithm) for chunk in chunks], algorithm)


def verify_inclusion(
    leaf: bytes, index: int, tree_size: int, path: Sequence[bytes], root: bytes, algorithm: str
) -> bool:
    """Whether `path` proves that `leaf` is in the tree of `root`: the algorithm of RFC 9162 section 2.1.3.2.

    Args:
        leaf: the hash of the leaf, from `leaf_hash`.
        index: the index of the leaf, from 0.
        tree_size: the number of leaves.
        path: the result of `inclusion_proof`.
        root: the Merkle Tree Hash.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    if not 0 <= index < tree_size:
        return False
    fn, sn = index, tree_size - 1
    r = leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(p, r, algorithm)
            while not fn & 1 and fn != 0:
                fn >>= 1
                sn >>= 1
        else:
            r = node_hash(r, p, algorithm)
        fn >>= 1
        sn >>= 1
    return sn == 0 and r == root


def chunks_of(data: Data, chunk_size: int) -> list[memoryview]:
    """`data` cut into chunks of `chunk_size` bytes, the last of which may be short. Empty data has no chunks.

    Raises:
        TypeError: `chunk_size` is not an integer.
        ValueError: `chunk_size` is not a positive multiple of 64.
    """
    check_chunk_size(chunk_size)
    view = memoryview(data)
    return [view[start : start + chunk_size] for start in range(0, len(view), chunk_size)]


def path_of(m: int, nodes: Sequence[bytes], algorithm: str) -> list[bytes]:
    """The inclusion path of node m: PATH(m, D[n]) of RFC 9162 section 2.1.3.1, from nodes instead of data.

    Args:
        m: the index of the node, from 0.
        nodes: at least one node, as for `root_of`.
        algorithm: "sha256" or "sha384".

    Raises:
        ValueError: `algorithm` is not "sha256" or "sha384".
    """
    n = len(nodes)
    if n == 1:
        return []
    k = _split(n)
    if m < k:
        return [*path_of(m, nodes[:k], algorithm), root_of(nodes[k:], algorithm)]
    return [*path_of(m - k, nodes[k:], algorithm), root_of(nodes[:k], algorithm)]


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)


def _hash(algorithm: str, *parts: Data) -> bytes:
    state = getattr(hashlib, algorithm_named(algorithm).name)()
    for part in parts:
        state.update(part)
    return bytes(state.digest())
