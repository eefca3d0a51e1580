"""Every kernel against hashlib and against the recursive definition of RFC 9162, on any input."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boundaries import (
    ALIGNMENTS,
    CHUNK_SIZES,
    LEAF_COUNTS,
    LENGTHS,
    TILE,
    painted,
    split_mix_64,
)
from hypothesis import given
from hypothesis import strategies as st
from kernels_here import available
from profiles import examples
from reference import check, expected

from hashbench.kernels import PAGE, STRATEGIES, Buffer, Kernel, PartsInTurn, Strategy, layout
from hashbench.kernels.device_kernel import DeviceKernel, Launch
from hashbench.kernels.layout import MANY_TILES

Call = tuple[Strategy, int | None]

many, few = examples(60), examples(15)


@pytest.fixture(params=[8, pytest.param(MANY_TILES, marks=pytest.mark.thorough)])
def many_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The number of tiles from which on a call takes a launch per level: a small one, and the one in use."""
    monkeypatch.setattr(layout, "MANY_TILES", request.param)
    return int(request.param)


def calls(chunk_sizes: Sequence[int] = CHUNK_SIZES) -> Iterator[Call]:
    """Every strategy with every chunk size that it accepts."""
    yield "batched", None
    for strategy in STRATEGIES:
        for chunk_size in chunk_sizes:
            yield strategy, chunk_size


# Any input -----------------------------------------------------------------------------------------------------------

lengths = st.one_of(st.sampled_from(LENGTHS), st.integers(0, 20_000))
chunk_sizes = st.one_of(
    st.sampled_from(CHUNK_SIZES), st.integers(1, 80).map(lambda n: 64 * n), st.integers(20, 62).map(lambda n: 1 << n)
)


@st.composite
def any_call(draw: st.DrawFn) -> Call:
    strategy = draw(st.sampled_from(STRATEGIES))
    return strategy, draw(st.none() | chunk_sizes if strategy == "batched" else chunk_sizes)


@given(data=st.data(), call=any_call(), seed=st.integers(0, 2**32 - 1))
@many
def test_segments_of_one_buffer(kernel: Kernel, data: st.DataObject, call: Call, seed: int) -> None:
    nbytes = data.draw(lengths, "bytes of the buffer")
    content = np.random.default_rng(seed).bytes(nbytes)
    starts = st.integers(0, nbytes)
    cuts = data.draw(st.lists(st.tuples(starts, starts), max_size=300), "segments, which may overlap")
    parts = [slice(min(cut), max(cut)) for cut in cuts]
    buffer = kernel.put(content)
    check(kernel, call[0], [buffer[part] for part in parts], [content[part] for part in parts], call[1])


@given(
    pieces=st.lists(st.tuples(lengths, st.sampled_from(ALIGNMENTS)), max_size=8),
    call=any_call(),
    seed=st.integers(0, 2**32 - 1),
)
@few
def test_segments_of_several_buffers(kernel: Kernel, pieces: list[tuple[int, int]], call: Call, seed: int) -> None:
    random = np.random.default_rng(seed)
    contents = [(random.bytes(start + length), start) for length, start in pieces]
    segments = [kernel.put(content)[start:] for content, start in contents]
    check(kernel, call[0], segments, [content[start:] for content, start in contents], call[1])


@given(seed=st.integers(0, 2**32 - 1), call=any_call())
@few
def test_hundreds_of_segments(kernel: Kernel, seed: int, call: Call) -> None:
    random = np.random.default_rng(seed)
    content = random.bytes(1 << 14)
    ends = random.integers(0, len(content), (int(random.integers(100, 700)), 2))
    ends[::7, 1] = ends[::7, 0]  # empty ones among them
    ends[1::3, 1] = ends[1::3, 0] + 100  # and short ones
    parts = [slice(min(pair), max(pair)) for pair in ends.tolist()]
    buffer = kernel.put(content)
    check(kernel, call[0], [buffer[part] for part in parts], [content[part] for part in parts], call[1])


# Every edge ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "chunk_size"), list(calls()))
def test_every_edge_at_every_alignment(edge_kernel: Kernel, strategy: Strategy, chunk_size: int | None) -> None:
    of_length = {length: painted(length) for length in LENGTHS}
    parts = []
    start = 0
    for length, alignment in product(LENGTHS, ALIGNMENTS):
        parts.append(slice(start + alignment, start + alignment + length))
        start = -(-parts[-1].stop // 32) * 32
    content = painted(start)
    for part in parts:
        content[part] = of_length[part.stop - part.start]
    buffer = edge_kernel.put(content)
    messages = [content[part].tobytes() for part in parts]
    check(edge_kernel, strategy, [buffer[part] for part in parts], messages, chunk_size)


@pytest.mark.parametrize(("strategy", "chunk_size"), list(calls((64, 128))))
def test_edges_where_memory_ends(edge_kernel: Kernel, strategy: Strategy, chunk_size: int | None) -> None:
    pairs = [(length, start) for length in LENGTHS if length < 600 for start in (0, 1, 3, 4, 16)]
    segments = [edge_kernel.put(painted(start + length))[start:] for length, start in pairs]
    messages = [painted(length, start).tobytes() for length, start in pairs]
    check(edge_kernel, strategy, segments, messages, chunk_size)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("chunk_size", [192, 1024])
@pytest.mark.parametrize("limits", [("paired_up_to",), ("paired_up_to", "early_up_to")], ids="+".join)
def test_few_chunks_by_the_functions_for_more(
    device_kernel: DeviceKernel,
    monkeypatch: pytest.MonkeyPatch,
    limits: Sequence[str],
    chunk_size: int,
    strategy: Strategy,
) -> None:
    for limit in limits:
        monkeypatch.setattr(device_kernel, limit, 0)
    content = painted(300 * chunk_size + 100)
    buffer = device_kernel.put(content)
    alike = [slice(0, 300 * chunk_size)]
    unlike = [slice(start, 130 * chunk_size + 40 * start) for start in (0, 1, 8, 16)]
    for parts in (alike, unlike):
        messages = [content[part].tobytes() for part in parts]
        check(device_kernel, strategy, [buffer[part] for part in parts], messages, chunk_size)


@pytest.mark.parametrize("last", [64, 1, 63], ids=lambda last: f"last chunk of {last}")
def test_trees_of_every_shape(any_kernel: Kernel, last: int) -> None:
    sizes = [64 * (leaves - 1) + last for leaves in LEAF_COUNTS]
    content = painted(sizes[-1] + 16)
    buffer = any_kernel.put(content)
    parts = [slice(place % 17, place % 17 + size) for place, size in enumerate(sizes)]
    messages = [content[part].tobytes() for part in parts]
    check(any_kernel, "tree", [buffer[part] for part in parts], messages, 64)
    if last == 64:  # alone too: then the last launches have a tile or less
        for part, message in zip(parts, messages, strict=True):
            check(any_kernel, "tree", [buffer[part]], [message], 64)


def test_trees_among_many(any_kernel: Kernel, many_tiles: int) -> None:
    content = painted(64 * LEAF_COUNTS[-1])
    buffer = any_kernel.put(content)
    counts = LEAF_COUNTS * -(-many_tiles * TILE // sum(LEAF_COUNTS))
    messages = [content[: 64 * leaves].tobytes() for leaves in LEAF_COUNTS] * (len(counts) // len(LEAF_COUNTS))
    check(any_kernel, "tree", [buffer[: 64 * leaves] for leaves in counts], messages, 64)


def test_high_trees(any_kernel: Kernel, many_tiles: int) -> None:
    """Numbers of leaves on both sides of where the first launches of a reduction change."""
    many_leaves = (many_tiles - 1) * TILE
    content = painted(64 * many_leaves + 1)
    buffer = any_kernel.put(content)
    parts = [slice(place, place + 64 * leaves) for place, leaves in enumerate((many_leaves - 1, many_leaves))]
    for part in parts:
        check(any_kernel, "tree", [buffer[part]], [content[part].tobytes()], 64)
    parts = [slice(5, 500), *parts[:1], slice(5, 5), *parts[1:], slice(5, 500)]
    check(any_kernel, "tree", [buffer[part] for part in parts], [content[part].tobytes() for part in parts], 64)


def test_many_trees(any_kernel: Kernel, many_tiles: int) -> None:
    """So many that reductions take a launch per level, however small the trees."""
    content = painted(64 * LEAF_COUNTS[-1])
    buffer = any_kernel.put(content)
    counts = [*(place % 20 for place in range(many_tiles)), LEAF_COUNTS[-1], 0, 7]
    messages = [content[: 64 * leaves].tobytes() for leaves in counts]
    check(any_kernel, "tree", [buffer[: 64 * leaves] for leaves in counts], messages, 64)


@pytest.mark.parametrize("segments", [0, 1, 2, 300])
def test_nothing_to_hash(any_kernel: Kernel, segments: int) -> None:
    empty = any_kernel.put(b"")
    assert empty.nbytes == 0
    for strategy, chunk_size in calls():
        check(any_kernel, strategy, [empty] * segments, [b""] * segments, chunk_size)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_chunk_larger_than_the_data(kernel: Kernel, strategy: Strategy) -> None:
    messages = [painted(length).tobytes() for length in (0, 1, 1000)]
    segments = [kernel.put(message) for message in messages]
    for chunk_size in (2**32, 2**62, 2**63, 2**64 - 64):
        check(kernel, strategy, segments, messages, chunk_size)


# Memory and work -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [bytes, bytearray, memoryview, lambda content: np.frombuffer(content, np.uint8)],
    ids=["bytes", "bytearray", "memoryview", "array"],
)
@given(nbytes=lengths)
@few
def test_put_and_get(kernel: Kernel, make: Callable[[bytes], bytes], nbytes: int) -> None:
    content = painted(nbytes).tobytes()
    buffer = kernel.put(make(content))
    assert buffer.nbytes == len(buffer) == nbytes
    copy = kernel.get(buffer)
    assert copy.dtype == np.uint8
    assert copy.tobytes() == content


@given(nbytes=lengths, start=st.integers(0, 100), length=lengths)
@few
def test_get_a_part(kernel: Kernel, nbytes: int, start: int, length: int) -> None:
    part = slice(start, start + length)
    content = painted(nbytes)
    assert kernel.get(kernel.put(content)[part]).tobytes() == content[part].tobytes()


@pytest.mark.parametrize("nbytes", [1, 4096, 1_000_003])
def test_get_into_memory_of_the_host(kernel: Kernel, nbytes: int) -> None:
    content = painted(nbytes + 7)
    buffer = kernel.put(content)[7:]
    stage = kernel.stage(nbytes + 2)
    for memory in (stage.host, np.empty(nbytes + 2, np.uint8)):
        memory.fill(0x5A)
        kernel.get_into(buffer, memory[1:-1])
        assert memory[1:-1].tobytes() == content[7:].tobytes()
        assert memory[[0, -1]].tolist() == [0x5A, 0x5A]


def test_put_copies(kernel: Kernel) -> None:
    content = bytearray(b"a" * 1000)
    buffer = kernel.put(content)
    content[:] = b"b" * 1000
    assert kernel.get(buffer).tobytes() == b"a" * 1000


@given(nbytes=lengths, seed=st.integers(0, 2**64 - 1))
@few
def test_random_is_split_mix_64(kernel: Kernel, nbytes: int, seed: int) -> None:
    buffer = kernel.random(nbytes, seed)
    assert buffer.nbytes == nbytes
    assert kernel.get(buffer).tobytes() == split_mix_64(-(-nbytes // 8), seed)[:nbytes].tobytes()


@pytest.mark.parametrize("nbytes", [1, 4096, 1_000_003])
def test_stage(kernel: Kernel, nbytes: int) -> None:
    stage = kernel.stage(nbytes)
    assert stage.host.dtype == np.uint8
    assert stage.host.size == nbytes
    for used in (nbytes, nbytes // 2, nbytes):
        content = painted(used, start=used)
        stage.host[:used] = content
        buffer = stage.upload(used)
        assert buffer.nbytes == used
        check(kernel, "tree", [buffer], [content.tobytes()], 64)


@pytest.mark.parametrize("nbytes", [4096, 100_000])
def test_lanes_bring_blocks_to_wherever_they_go(kernel: Kernel, nbytes: int) -> None:
    lanes = kernel.lanes(3, nbytes)
    if not lanes:
        assert kernel.device.kind == "cpu" or kernel.name == "dpnp"
        return
    assert [lane.block.nbytes for lane in lanes] == 3 * [nbytes]
    content = painted(6 * nbytes)
    buffer = kernel.put(bytes(len(content)))
    for first in range(0, 6, 3):
        for number, lane in enumerate(lanes, start=first):
            lane.block[:] = content[number * nbytes : (number + 1) * nbytes].tobytes()
        for number, lane in enumerate(lanes, start=first):
            start, rest = number * nbytes, nbytes - 1001
            lane.send([(0, 1000, buffer, start), (1000, 1, buffer[start:], 1000), (1001, rest, buffer, start + 1001)])
    check(kernel, "tree", [buffer], [content.tobytes()], 64)


def test_lanes_bring_parts_of_a_file_in_turn(kernel: Kernel, tmp_path: Path) -> None:
    lanes = kernel.lanes(2, 4 * PAGE)
    if not lanes:
        assert kernel.device.kind == "cpu" or kernel.name == "dpnp"
        return
    content = painted(50_000)
    path = tmp_path / "file"
    path.write_bytes(content.tobytes())
    cuts = [0, 100, 5000, 2 * PAGE, 5 * PAGE, 5 * PAGE + 1, 8 * PAGE, 11 * PAGE, len(content)]
    buffer = kernel.put(bytes(len(content)))
    with path.open("rb") as file:
        ranges = [(begin, end, begin % PAGE) for begin, end in pairwise(cuts)]
        rows = [(file.fileno(), a - skipped, skipped, b - a, buffer.address + a) for a, b, skipped in ranges]
        parts = PartsInTurn(np.array(rows, np.int64), [buffer[a:b] for a, b, _ in ranges])
        assert [lane.bring_in_turn(parts) for lane in lanes] == [None, None]
        check(kernel, "tree", [buffer], [content.tobytes()], 64)
        beyond = PartsInTurn(np.array([*rows[:2], (file.fileno(), 12 * PAGE, 0, 5000, buffer.address)]), parts.targets)
        assert lanes[0].bring_in_turn(beyond) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_work_runs_again(any_kernel: Kernel, strategy: Strategy) -> None:
    messages = [painted(n, start=n).tobytes() for n in (0, 5000, 64, 70_001)]
    work = any_kernel.prepare(strategy, [any_kernel.put(message) for message in messages], 64)
    gc.collect()  # the work alone keeps its segments alive
    for _ in range(5):
        work.run()
        assert list(map(bytes, work.digests())) == expected(any_kernel, strategy, messages, 64)


def test_free_memory_is_some(kernel: Kernel) -> None:
    assert kernel.free_memory() > 1 << 20
    assert kernel.largest_buffer() > 1 << 20
    buffer = kernel.put(b"held")
    kernel.trim()
    assert kernel.get(buffer).tobytes() == b"held"


def test_the_default_variant(kernel: Kernel) -> None:
    assert type(kernel).default_variant(kernel.device) in kernel.variants


def test_the_default_variant_is_built() -> None:
    (one, *_) = available("hashlib")
    assert type(one)(one.device).variant == type(one).default_variant(one.device)


# Launches and memory of a call ---------------------------------------------------------------------------------------


def launches_of_a_tree(kernel: DeviceKernel, monkeypatch: pytest.MonkeyPatch, leaves: Sequence[int]) -> int:
    buffer = kernel.put(painted(64 * max(leaves)))
    work = kernel.prepare("tree", [buffer[: 64 * n] for n in leaves], 64)
    counted: list[Launch] = []
    launch = kernel.launch

    def count(launches: Sequence[Launch], queue: Any) -> Callable[[], float]:
        counted.extend(launches)
        return launch(launches, queue)

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "launch", count)
        work.run()
    return len(counted)


@pytest.mark.parametrize("deepest", [1, 2, 256, 257, 600])
def test_launches_depend_on_the_deepest_tree(
    device_kernel: DeviceKernel, monkeypatch: pytest.MonkeyPatch, deepest: int
) -> None:
    alone = launches_of_a_tree(device_kernel, monkeypatch, [deepest])
    few = launches_of_a_tree(device_kernel, monkeypatch, [*range(min(deepest, 20)), *[deepest] * 30, 1, 0])
    assert alone <= 1 + math.ceil(math.log2(deepest) / 8)
    assert few <= alone + 1  # which gathers the roots
    many = launches_of_a_tree(device_kernel, monkeypatch, [deepest, *[1] * MANY_TILES])
    assert many <= 2 + math.ceil(math.log2(deepest))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("counts", [[10_000], [0], [1] * 500, [3000, 0, 1, 777]], ids=str)
def test_memory_is_one_digest_a_leaf(
    device_kernel: DeviceKernel, monkeypatch: pytest.MonkeyPatch, strategy: Strategy, counts: list[int]
) -> None:
    whole = device_kernel.put(painted(64 * sum(counts)))
    segments = [whole[64 * sum(counts[:i]) :][: 64 * n] for i, n in enumerate(counts)]
    for nbytes in (64, 0):  # makes the tables that a kernel keeps
        device_kernel._hashed(strategy, [device_kernel.put(painted(nbytes))], 64)
    allocated: list[int] = []
    allocate = device_kernel.allocate

    def count(nbytes: int) -> Buffer:
        allocated.append(nbytes)
        return allocate(nbytes)

    with monkeypatch.context() as patch:
        patch.setattr(device_kernel, "allocate", count)
        device_kernel._hashed(strategy, segments, 64)
    digest = device_kernel.algorithm.digest_size
    leaves = sum(max(1, n) for n in counts)
    table_and_roots = len(counts) * (5 * 8 + digest)
    assert sum(allocated) <= digest * leaves + table_and_roots + 64
