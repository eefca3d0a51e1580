"""How many threads hashlib uses: as many as are faster than one, where chunks are long enough to hand over a lock."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from boundaries import painted

from hashbench.kernels.hashlib_cpu import HashlibCpu
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash


class Counting:
    """Stands for the threads: counts what they are given."""

    def __init__(self) -> None:
        self.tasks = 0

    def map(self, run: Callable[[Any], Any], parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            self.tasks += 1
            yield run(part)


def on_16_threads(algorithm: str) -> tuple[HashlibCpu, Counting]:
    kernel = HashlibCpu(replace(HashlibCpu.devices()[0], id="16-threads"), algorithm)
    counting = Counting()
    kernel.workers = counting  # type: ignore[assignment]
    return kernel, counting


@pytest.mark.parametrize(
    ("algorithm", "chunk_size", "tasks"),
    [
        ("sha256", 1024, 0),
        ("sha256", 4096, 0),
        ("sha256", 8192, 2),
        ("sha256", 32768, 8),
        ("sha256", 65536, 64),  # four for each of 16 threads
        ("sha384", 2048, 0),
        ("sha384", 4096, 2),
        ("sha384", 32768, 64),
    ],
)
def test_short_chunks_are_hashed_by_one_thread_and_longer_ones_by_more(
    algorithm: str, chunk_size: int, tasks: int
) -> None:
    kernel, counting = on_16_threads(algorithm)
    data = painted(64 * chunk_size)
    (root,) = kernel.tree([kernel.put(data)], chunk_size)
    assert counting.tasks == tasks
    assert root.tobytes() == merkle_tree_hash(chunks_of(data.data, chunk_size), algorithm)


def test_no_more_threads_than_messages() -> None:
    kernel, counting = on_16_threads("sha256")
    messages = [painted(1 << 20), painted(1 << 19), painted(0)]
    digests = kernel.batched([kernel.put(message) for message in messages])
    assert counting.tasks == 3
    assert [digest.tobytes() for digest in digests] == [hashlib.sha256(message.data).digest() for message in messages]


def test_one_thread_hashes_alone_and_nothing_is_hashed_by_none() -> None:
    kernel, counting = on_16_threads("sha256")
    assert kernel.batched([]).shape == (0, 32)
    kernel.batched([kernel.put(painted(1 << 20))])
    assert counting.tasks == 0
