"""Buffers over 4 GiB, in which an offset, a length or an index of 32 bits would overflow.

They need a GPU with enough memory. The thorough form also uses the CPU, through SYCL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from kernels_here import Case, build, cases

from hashbench.kernels import ALGORITHMS, Buffer, Kernel
from hashbench.merkle.rfc9162 import leaf_hash, root_of

GIB = 1 << 30
PIECE = 64 << 20


def large_cases() -> Iterator[tuple[Case, str]]:
    """GPUs with either algorithm, and the CPU through SYCL."""
    for case in cases():
        if case.device.kind == "gpu":
            yield from ((case, algorithm) for algorithm in ALGORITHMS)
        elif case.cls.name == "dpnp":
            yield case, "sha256"


def gpu_cases() -> Iterator[tuple[Case, str]]:
    """GPUs with SHA-256."""
    yield from (
        (case, algorithm) for case, algorithm in large_cases() if (case.device.kind, algorithm) == ("gpu", "sha256")
    )


def parameters(found: Iterator[tuple[Case, str]], missing: str) -> Sequence[object]:
    """Test parameters, or a skipped one if there are none."""
    return [
        pytest.param(
            *(case, algorithm),
            id=f"{case}-{algorithm}",
            marks=[] if case.device.kind == "gpu" else [pytest.mark.thorough],
        )
        for case, algorithm in found
    ] or [pytest.param(None, None, id="none", marks=pytest.mark.skip(reason=missing))]


def with_room(kernel: Kernel, nbytes: int) -> Kernel:
    """`kernel`, if its device can allocate `nbytes`; else the test is skipped."""
    free = kernel.largest_buffer()
    if free < nbytes:
        pytest.skip(
            f"{kernel.device.name} ({kernel.name}) can allocate {free / GIB:.1f} GiB, {nbytes / GIB:.1f} are needed"
        )
    return kernel


def host_leaves(kernel: Kernel, buffer: Buffer, chunk_size: int) -> list[bytes]:
    """The leaf hashes of `buffer` by the reference, from copies of its pieces on the host."""
    algorithm = kernel.algorithm.name

    def leaves(start: int) -> list[bytes]:
        piece = kernel.get(buffer[start : start + PIECE]).data
        return [leaf_hash(piece[at : at + chunk_size], algorithm) for at in range(0, len(piece), chunk_size)]

    with ThreadPoolExecutor() as pool:
        return [leaf for piece in pool.map(leaves, range(0, buffer.nbytes, PIECE)) for leaf in piece]


@pytest.mark.large
@pytest.mark.xdist_group("large")
@pytest.mark.parametrize(("case", "algorithm"), parameters(large_cases(), "no GPU and no SYCL device here"))
def test_over_4_gib(case: Case, algorithm: str) -> None:
    kernel = with_room(build(case, algorithm), 6 * GIB)
    buffer = kernel.random(4 * GIB + 3 * PIECE, seed=11)
    # Aligned on a CPU, since unaligned gigabytes take minutes there.
    long = buffer[3 if case.device.kind == "gpu" else 0 : 4 * GIB + PIECE + 77]
    beyond = buffer[4 * GIB + 1 : 4 * GIB + 70_000]

    leaves = [host_leaves(kernel, segment, 4096) for segment in (long, beyond)]
    roots = kernel.tree([long, buffer[5:5], beyond], 4096)
    assert list(map(bytes, roots)) == [root_of(nodes, algorithm) for nodes in (leaves[0], [], leaves[1])]

    ends = [buffer[4 * GIB - 100 : 4 * GIB + 100], beyond, buffer[-1000:], buffer[:50]]
    digests = list(map(bytes, kernel.batched(ends)))
    assert digests == [hashlib.new(algorithm, kernel.get(segment).data).digest() for segment in ends]


@pytest.mark.large
@pytest.mark.xdist_group("large")
@pytest.mark.parametrize(("case", "algorithm"), parameters(gpu_cases(), "no GPU here: one message takes one thread"))
def test_a_message_over_4_gib(case: Case, algorithm: str) -> None:
    kernel = with_room(build(case, algorithm), 6 * GIB)
    message = kernel.random(4 * GIB + 1000, seed=12)[7:]
    expected = hashlib.new(algorithm)
    for start in range(0, message.nbytes, PIECE):
        expected.update(kernel.get(message[start : start + PIECE]).data)
    assert bytes(kernel.batched([message])[0]) == expected.digest()


@pytest.mark.large
@pytest.mark.xdist_group("large")
@pytest.mark.parametrize(("case", "algorithm"), parameters(gpu_cases(), "no GPU here: it takes 51 GiB"))
def test_over_4_gi_words_of_digests(case: Case, algorithm: str) -> None:
    """2^29 leaves have 2^32 words of digests. The tree folds from trees of 2^24 leaves, whose indices are small."""
    leaves, part_leaves = (1 << 29) + 1000, 1 << 24
    kernel = with_room(build(case, algorithm), leaves * (64 + 32) + GIB)
    buffer = kernel.random(64 * leaves, seed=13)
    parts = [buffer[start : start + 64 * part_leaves] for start in range(0, buffer.nbytes, 64 * part_leaves)]
    roots = [bytes(kernel.tree([part], 64)[0]) for part in parts]
    assert roots[-1] == root_of(host_leaves(kernel, parts[-1], 64), algorithm)
    assert bytes(kernel.tree([buffer], 64)[0]) == root_of(roots, algorithm)
