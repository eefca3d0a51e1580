"""Work that is started and waited for, its result on the device, and the streams and priorities it is given."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest
from boundaries import painted
from hypothesis import given
from hypothesis import strategies as st
from kernels_here import available
from profiles import examples

from hashbench.kernels import PRIORITIES, STRATEGIES, Buffer, Kernel, Strategy
from hashbench.kernels.cuda_streams import stream_handle
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

lengths = st.lists(st.integers(0, 2000), max_size=20)


def put(kernel: Kernel, sizes: Sequence[int]) -> list[Buffer]:
    """Segments of one buffer, one after another."""
    buffer = kernel.put(painted(sum(sizes)))
    return [buffer[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]


def a_stream(kernel: Kernel, **properties: Any) -> Any:
    """A stream of the kernel's framework that is not the kernel's own, or None where the framework has none."""
    its: Any = kernel
    if kernel.name == "cupy":
        with its.cuda_device:
            return its.cupy.cuda.Stream(non_blocking=True)
    if kernel.name == "numba-cuda":
        from numba import cuda

        with its.gpu:
            return cuda.stream()
    if kernel.name == "triton":
        return its.gpu.Stream(its.place)
    if kernel.name == "dpnp":
        import dpctl

        return dpctl.SyclQueue(its.queue.sycl_context, its.queue.sycl_device, **properties)
    if kernel.name == "opencl":
        import pyopencl

        return pyopencl.CommandQueue(its.context, **properties)
    return None


def usable_stream(kernel: Kernel) -> Any:
    """One that work can be started on."""
    if kernel.name == "dpnp":
        return a_stream(kernel, property=("in_order", "enable_profiling"))
    if kernel.name == "opencl":
        import pyopencl

        return a_stream(kernel, properties=pyopencl.command_queue_properties.PROFILING_ENABLE)
    return a_stream(kernel)


# The result on the device --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(sizes=lengths)
@examples(10)
def test_the_result_on_the_device_is_the_digests(any_kernel: Kernel, strategy: Strategy, sizes: list[int]) -> None:
    work = any_kernel.prepare(strategy, put(any_kernel, sizes), 192)
    work.run()
    result = work.result()
    assert any_kernel.get(result).tobytes() == work.digests().tobytes()
    assert result.nbytes == work.digests().size


@given(sizes=lengths)
@examples(10)
def test_the_result_of_segments_in_several_buffers(any_kernel: Kernel, sizes: list[int]) -> None:
    """In OpenCL these are several memory objects, whose digests are gathered in the segments' order."""
    owners = [any_kernel.put(painted(4000, start=owner)) for owner in range(3)]
    segments = [owners[i * i % 3][i : i + size] for i, size in enumerate(sizes)]
    work = any_kernel.prepare("batched", segments, 192)
    for _ in range(2):
        work.run()
        assert any_kernel.get(work.result()).tobytes() == work.digests().tobytes()
    name = any_kernel.algorithm.name
    chunks = [c for i, size in enumerate(sizes) for c in chunks_of(painted(size, start=i * i % 3 + i).data, 192)]
    assert list(map(bytes, work.digests())) == [hashlib.new(name, chunk).digest() for chunk in chunks]


@given(nbytes=st.integers(1, 20_000), per_block=st.integers(2, 8))
@examples(10)
def test_batched_over_the_result_of_batched(any_kernel: Kernel, nbytes: int, per_block: int) -> None:
    """Two levels of a tree with many children a node, as fs-verity has, without the digests leaving the device."""
    name, size = any_kernel.algorithm.name, any_kernel.algorithm.digest_size
    blocks = any_kernel.prepare("batched", [any_kernel.put(painted(nbytes))], 64)
    blocks.start()
    level = any_kernel.prepare("batched", [blocks.result()], 64 * per_block)
    level.start()  # on the same stream, so after the blocks
    level.wait()
    blocks.wait()
    digests = b"".join(hashlib.new(name, chunk).digest() for chunk in chunks_of(painted(nbytes).data, 64))
    assert len(digests) % size == 0
    expected = [hashlib.new(name, chunk).digest() for chunk in chunks_of(digests, 64 * per_block)]
    assert list(map(bytes, level.digests())) == expected


def test_the_result_outlives_its_work_and_is_overwritten_by_the_next_run(any_kernel: Kernel) -> None:
    contents = [painted(5000, start=start).tobytes() for start in (0, 1)]
    stage = any_kernel.stage(5000)
    stage.host[:] = painted(5000)
    work = any_kernel.prepare("tree", [stage.upload(5000)], 64)
    work.run()
    first = work.result()
    roots = [merkle_tree_hash(chunks_of(content, 64), any_kernel.algorithm.name) for content in contents]
    assert any_kernel.get(first).tobytes() == roots[0]
    stage.host[:] = painted(5000, start=1)
    stage.upload(5000)
    work.run()
    assert any_kernel.get(first).tobytes() == any_kernel.get(work.result()).tobytes() == roots[1]
    del work
    gc.collect()
    any_kernel.prepare("tree", put(any_kernel, [777]), 64).run()
    assert any_kernel.get(first).tobytes() == roots[1]


# Start and wait ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_first", [False, True])
def test_works_started_together(any_kernel: Kernel, last_first: bool) -> None:
    sizes = [100_000, 0, 64, 70_001]
    works = [any_kernel.prepare("tree", put(any_kernel, [size]), 64) for size in sizes]
    for _ in range(3):
        for work in works:
            work.start()
        for work in works[:: -1 if last_first else 1]:
            assert work.wait() >= 0
        roots = [merkle_tree_hash(chunks_of(painted(size).data, 64), any_kernel.algorithm.name) for size in sizes]
        assert [bytes(work.digests()[0]) for work in works] == roots


def test_work_that_nobody_waits_for_ends_before_its_memory_is_freed(any_kernel: Kernel) -> None:
    for _ in range(5):
        any_kernel.prepare("batched", put(any_kernel, [1 << 20]), 64).start()
    gc.collect()
    message = painted(1 << 20).data
    expected = hashlib.new(any_kernel.algorithm.name, message).digest()
    assert bytes(any_kernel.batched([any_kernel.put(message)])[0]) == expected


def test_work_out_of_turn_is_refused(any_kernel: Kernel) -> None:
    work = any_kernel.prepare("batched", put(any_kernel, [1000]), 64)
    with pytest.raises(RuntimeError, match=r"has not been started: call start\(\) first"):
        work.wait()
    for of in (work.result, work.digests):
        with pytest.raises(RuntimeError, match=r"there is no result: call run\(\) or start\(\) first"):
            of()
    work.start()
    for again in (work.start, work.run):
        with pytest.raises(RuntimeError, match=r"has already been started: call wait\(\) first"):
            again()
    with pytest.raises(RuntimeError, match=r"still under way: call wait\(\) first"):
        work.digests()
    work.wait()
    assert len(work.digests()) == 16
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        work.wait()


# Streams and priorities ----------------------------------------------------------------------------------------------


def test_work_on_a_stream_of_the_caller(kernel: Kernel) -> None:
    stream = usable_stream(kernel)
    for segments in (put(kernel, [70_001, 0, 100]), [*put(kernel, [70_001]), *put(kernel, [0, 100])]):
        work = kernel.prepare("tree", segments, 64)
        for _ in range(2):
            work.start(stream)
            assert work.wait() >= 0
        assert work.digests().tobytes() == kernel.tree(segments, 64).tobytes()
        above = kernel.prepare("batched", [work.result()], 64)
        work.start(stream)
        above.start(stream)
        above.wait()
        work.wait()
        assert above.digests().tobytes() == kernel.batched([kernel.put(work.digests())], 64).tobytes()


@pytest.mark.parametrize("nbytes", [0, 1000])
@pytest.mark.parametrize("stream", ["text", 1.5, True, object()], ids=lambda stream: type(stream).__name__)
def test_what_is_no_stream_is_refused(any_kernel: Kernel, stream: Any, nbytes: int) -> None:
    work = any_kernel.prepare("batched", put(any_kernel, [nbytes]), 64)
    with pytest.raises(TypeError, match=rf"{type(stream).__name__} is not accepted as a stream"):
        work.start(stream)
    work.run()  # it was not started


def refused_by(kernel: Kernel, reason: str, queue: Any) -> None:
    with pytest.raises(ValueError, match=reason):
        kernel.prepare("batched", put(kernel, [1000]), 64).start(queue)


@pytest.mark.xdist_group("dpnp")
def test_sycl_queues_that_cannot_be_used_are_refused() -> None:
    for kernel in available("dpnp"):
        refused_by(kernel, "the queue does not measure time", a_stream(kernel, property="in_order"))
        refused_by(kernel, "the queue is out of order", a_stream(kernel, property="enable_profiling"))


@pytest.mark.xdist_group("opencl")
def test_opencl_queues_that_cannot_be_used_are_refused() -> None:
    for kernel in available("opencl"):
        import pyopencl

        properties = pyopencl.command_queue_properties
        refused_by(kernel, "the queue does not measure time", a_stream(kernel))
        out_of_order = properties.PROFILING_ENABLE | properties.OUT_OF_ORDER_EXEC_MODE_ENABLE
        refused_by(kernel, "the queue is out of order", a_stream(kernel, properties=out_of_order))
        its: Any = kernel
        context = pyopencl.Context(its.context.devices)
        refused_by(kernel, "the queue belongs to another OpenCL context", pyopencl.CommandQueue(context))


class OfProtocol:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 123


class OfTorch:
    cuda_stream = 123


class OfCupy13:
    ptr = 123


@pytest.mark.parametrize("stream", [123, OfProtocol(), OfTorch(), OfCupy13()], ids=lambda stream: type(stream).__name__)
def test_the_handle_of_a_cuda_stream(stream: Any) -> None:
    assert stream_handle(stream) == 123


@pytest.mark.parametrize("stream", [None, True, "123", 1.0, object()], ids=lambda stream: type(stream).__name__)
def test_what_is_no_cuda_stream_is_refused(stream: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(stream).__name__} is not accepted as a stream: accepted are CUDA "):
        stream_handle(stream)


def test_a_negative_handle_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 is not accepted as a stream's handle"):
        stream_handle(-1)


WITH_PRIORITIES = ("cupy", "numba-cuda", "triton", "opencl")


@pytest.mark.parametrize(
    "name", ["hashlib", *(pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in WITH_PRIORITIES)]
)
def test_every_priority_hashes_alike(name: str) -> None:
    found = [kernel for kernel in available(name) if kernel.algorithm.name == "sha256"]
    if not found:
        pytest.skip(f"no device here for {name}")
    message = painted(100_000).tobytes()
    for priority in PRIORITIES:
        kernel = type(found[0])(found[0].device, "sha256", found[0].variant, priority)
        assert kernel.priority == priority
        assert kernel.batched([kernel.put(message)]).tobytes() == hashlib.sha256(message).digest()


def test_an_unknown_priority_is_refused(kernel: Kernel) -> None:
    priority: Any = "urgent"
    with pytest.raises(ValueError, match="unknown priority 'urgent': accepted are low, normal, high"):
        type(kernel)(kernel.device, kernel.algorithm.name, kernel.variant, priority)
