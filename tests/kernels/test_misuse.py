"""Misuse of a kernel raises the right exception, with a line that says what was wrong and what is accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hashbench.kernels import KERNELS, STRATEGIES, Buffer, Device, Kernel, OutOfDeviceMemory, Unavailable, kernel_class
from hashbench.kernels.device_kernel import DeviceKernel

TOO_MUCH = 1 << 60


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_chunk_size_that_is_no_multiple_of_64(kernel: Kernel, strategy: Any) -> None:
    data = kernel.put(b"data")
    for chunk_size in (0, -64, 1, 63, 65, 100, 2**64, 2**70):
        with pytest.raises(ValueError, match=rf"chunk size {chunk_size} is not accepted.* positive multiple of 64"):
            kernel.prepare(strategy, [data], chunk_size)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_chunk_size_that_is_no_integer(kernel: Kernel, strategy: Any) -> None:
    data = kernel.put(b"data")
    sizes: list[Any] = [64.0, True, "64", np.float64(64)]
    for chunk_size in sizes:
        message = f"chunk size must be an integer number of bytes, not {type(chunk_size).__name__}"
        with pytest.raises(TypeError, match=message):
            kernel.prepare(strategy, [data], chunk_size)


@pytest.mark.parametrize("strategy", ["leaves", "tree"])
def test_a_tree_without_a_chunk_size(kernel: Kernel, strategy: Any) -> None:
    with pytest.raises(ValueError, match="a tree needs a chunk size: a positive multiple of 64"):
        kernel.prepare(strategy, [kernel.put(b"data")], None)


def test_an_unknown_strategy(kernel: Kernel) -> None:
    strategy: Any = "forest"
    with pytest.raises(ValueError, match=r"unknown strategy 'forest': accepted are batched, leaves, tree"):
        kernel.prepare(strategy, [kernel.put(b"data")], 64)


@pytest.mark.parametrize("segments", [[b"data"], [None], [np.zeros(8, np.uint8)]], ids=repr)
def test_segments_that_are_no_buffers(kernel: Kernel, segments: Any) -> None:
    with pytest.raises(TypeError, match="segments must be a sequence of buffers"):
        kernel.prepare("tree", segments, 64)


def test_a_buffer_for_a_sequence_of_buffers(kernel: Kernel) -> None:
    segments: Any = kernel.put(b"data")
    with pytest.raises(TypeError, match="segments must be a sequence of buffers"):
        kernel.prepare("tree", segments, 64)


def test_an_unknown_algorithm(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="unknown algorithm 'sha1': accepted are sha256, sha384"):
        type(kernel)(kernel.device, "sha1")


def test_an_unknown_variant(kernel: Kernel) -> None:
    accepted = ", ".join(kernel.variants)
    with pytest.raises(ValueError, match=f"unknown variant 'magic' of {kernel.name}: accepted are {accepted}"):
        type(kernel)(kernel.device, "sha256", "magic")


def test_a_device_of_another_kernel(kernel: Kernel) -> None:
    device = dataclasses.replace(kernel.device, kernel="abacus")
    with pytest.raises(ValueError, match=rf"belongs to kernel 'abacus', not to '{kernel.name}'"):
        type(kernel)(device)


def test_an_unavailable_device(kernel: Kernel) -> None:
    with pytest.raises(Unavailable, match="its driver is broken"):
        type(kernel)(dataclasses.replace(kernel.device, unavailable="its driver is broken"))


def test_an_unknown_kernel() -> None:
    with pytest.raises(ValueError, match=f"unknown kernel 'abacus': accepted are {', '.join(KERNELS)}"):
        kernel_class("abacus")


@pytest.mark.parametrize(
    "data",
    ["text", None, 5, [1, 2], np.arange(100, dtype=np.uint8)[::2], memoryview(b"abcd")[::2], np.array([object()])],
    ids=["str", "None", "int", "list", "strided array", "strided memoryview", "objects"],
)
def test_data_that_is_no_contiguous_bytes(kernel: Kernel, data: Any) -> None:
    with pytest.raises(TypeError, match="is not accepted: data must be a contiguous bytes-like object"):
        kernel.put(data)


@pytest.mark.parametrize(("nbytes", "seed"), [(-1, 0), (8, -1), (8, 1 << 64)])
def test_random_bytes_of_no_number(kernel: Kernel, nbytes: int, seed: int) -> None:
    with pytest.raises(ValueError, match=r"must be (zero or more|from 0 to 2\^64 - 1)"):
        kernel.random(nbytes, seed)


@pytest.mark.parametrize("part", [3, "a", None, (1, 2)])
def test_a_buffer_is_indexed_by_slices(part: Any) -> None:
    with pytest.raises(TypeError, match=r"a buffer is indexed by a slice, not by \w+"):
        Buffer(None, 0, 10)[part]


@pytest.mark.parametrize("step", [2, -1])
def test_a_buffer_is_contiguous(step: int) -> None:
    with pytest.raises(ValueError, match="the step of a slice must be 1"):
        Buffer(None, 0, 10)[::step]


@pytest.mark.parametrize("ask", ["random", "stage"])
def test_more_memory_than_there_is(kernel: Kernel, ask: str) -> None:
    with pytest.raises(OutOfDeviceMemory, match=f"{TOO_MUCH:,} bytes were asked for") as raised:
        kernel.random(TOO_MUCH, 1) if ask == "random" else kernel.stage(TOO_MUCH)
    assert raised.value.nbytes == TOO_MUCH
    assert kernel.device.name in str(raised.value)
    assert kernel.get(kernel.put(b"still usable")).tobytes() == b"still usable"


def test_more_digests_than_memory(device_kernel: DeviceKernel) -> None:
    buffer = dataclasses.replace(device_kernel.put(b"data"), nbytes=TOO_MUCH)
    digests = TOO_MUCH // 64 * device_kernel.algorithm.digest_size
    with pytest.raises(OutOfDeviceMemory, match=f"{digests:,} bytes were asked for"):
        device_kernel.prepare("tree", [buffer], 64)


def test_out_of_memory_is_a_memory_error() -> None:
    assert isinstance(OutOfDeviceMemory(Device("abacus", name="wood"), 12345), MemoryError)
