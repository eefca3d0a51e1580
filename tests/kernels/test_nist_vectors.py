"""The byte-oriented test vectors of NIST's CAVP for SHA-256 and SHA-384, from the package cryptography-vectors.

The Secure Hash Algorithm Validation System (SHAVS) describes them in sections 6.2 to 6.4.
"""

from __future__ import annotations

from functools import cache

import cryptography_vectors
import numpy as np
import pytest
from kernels_here import available

from hashbench.kernels import Kernel

HASHES_A_CHECKPOINT = 1000


@cache
def records(algorithm: str, kind: str) -> list[dict[str, str]]:
    """The records of a response file: lines of `name = value`, separated by empty lines."""
    path = f"hashes/SHA2/{algorithm.upper()}{kind}.rsp"
    with cryptography_vectors.open_vector_file(path, "r") as file:
        blocks = file.read().replace("\r", "").split("\n\n")
    found = [dict(line.split(" = ") for line in block.splitlines() if " = " in line) for block in blocks]
    return [record for record in found if record]


def hashes(kernel: Kernel, kind: str) -> list[dict[str, str]]:
    return records(kernel.algorithm.name, kind)


@pytest.mark.covers("nist-vectors")
@pytest.mark.parametrize("kind", ["ShortMsg", "LongMsg"])
def test_messages(edge_kernel: Kernel, kind: str) -> None:
    vectors = [vector for vector in hashes(edge_kernel, kind) if "Msg" in vector]
    assert len(vectors) == edge_kernel.algorithm.block_size + (kind == "ShortMsg")  # short: 0 to a block's bytes
    messages = [bytes.fromhex(vector["Msg"])[: int(vector["Len"]) // 8] for vector in vectors]
    ends = np.cumsum([len(message) for message in messages]).tolist()
    buffer = edge_kernel.put(b"".join(messages))
    segments = [buffer[end - len(message) : end] for message, end in zip(messages, ends, strict=True)]
    assert [digest.tobytes().hex() for digest in edge_kernel.batched(segments)] == [vector["MD"] for vector in vectors]


def monte_carlo(kernel: Kernel, checkpoints: int) -> None:
    """The first checkpoints of the Monte Carlo test: 1000 hashes each, of the three digests before them."""
    _, seed, *expected = hashes(kernel, "Monte")  # the first record has the size of a digest
    assert len(expected) == 100
    digest = bytes.fromhex(seed["Seed"])
    for vector in expected[:checkpoints]:
        last = [digest] * 3
        for _ in range(HASHES_A_CHECKPOINT):
            digest = kernel.batched([kernel.put(b"".join(last))]).tobytes()
            last = [*last[1:], digest]
        assert digest.hex() == vector["MD"], f"checkpoint {vector['COUNT']}"


@pytest.mark.covers("nist-vectors")
def test_monte_carlo(kernel: Kernel) -> None:
    monte_carlo(kernel, 1)


@pytest.mark.thorough
def test_the_whole_monte_carlo_test() -> None:
    """By the reference alone: every hash is a call of its own, and 100,000 calls of a device take minutes."""
    for kernel in available("hashlib"):
        if kernel.device.id == "1-thread":
            monte_carlo(kernel, 100)
