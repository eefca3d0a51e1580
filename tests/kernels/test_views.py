"""Arrays of any framework that are already on the device: hashed in place."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from boundaries import painted
from kernels_here import available

from hashbench.kernels import Bytes, Kernel
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

DTYPES = ["uint8", "int8", "bool", "float16", "float32", "int64", "float64", "complex64"]


def on_device(kernel: Kernel, array: Any) -> Any:
    """A copy of a NumPy array on the kernel's device, as an array of the kernel's framework."""
    its: Any = kernel
    if kernel.name in ("hashlib", "numba-cpu", "cuda-source-on-host"):
        return array.copy()
    if kernel.name == "dpnp":
        import dpnp

        return dpnp.array(array, sycl_queue=its.queue)
    if kernel.name == "opencl":
        import pyopencl
        import pyopencl.array

        return pyopencl.array.to_device(pyopencl.CommandQueue(its.context), array)
    if kernel.name == "cupy":
        import cupy

        with cupy.cuda.Device(int(kernel.device.id)):
            return cupy.asarray(array)
    if kernel.name == "triton":
        return its.torch.from_numpy(np.array(array)).to(its.place)
    if kernel.name == "numba-cuda":
        from numba import cuda

        with cuda.gpus[int(kernel.device.id)]:
            stream = cuda.stream()
            copy = cuda.to_device(array, stream=stream)
            stream.synchronize()
            return copy
    raise NotImplementedError(f"add here how {kernel.name} makes an array on its device")


def add_one(kernel: Kernel, array: Any) -> None:
    """Adds one to every item, without waiting if the array's framework does not."""
    if kernel.name != "numba-cuda":
        array += 1
        return
    from numba import cuda

    def add(items: Any) -> None:
        i = cuda.grid(1)
        if i < items.size:
            items[i] += 1

    cuda.jit(add)[-(-array.size // 256), 256, array.stream](array)


def check_view(kernel: Kernel, array: Any, content: bytes) -> None:
    """Checks a view of `array` against the bytes that it must have."""
    buffer = kernel.view(array)
    assert buffer.nbytes == len(content)
    assert kernel.get(buffer).tobytes() == content
    assert bytes(kernel.tree([buffer], 64)[0]) == merkle_tree_hash(chunks_of(content, 64), kernel.algorithm.name)


def content_of(dtype: str, items: int) -> Any:
    nbytes = items * np.dtype(dtype).itemsize
    content: Bytes = painted(nbytes) % 2 if dtype == "bool" else painted(nbytes)
    return content.view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("items", [1, 1000])
def test_any_dtype(kernel: Kernel, dtype: str, items: int) -> None:
    array = content_of(dtype, items)
    check_view(kernel, on_device(kernel, array), array.tobytes())


def test_no_items(kernel: Kernel) -> None:
    if kernel.name == "opencl":
        empty = on_device(kernel, content_of("uint8", 1))[:0]  # pyopencl's empty arrays have no memory
    else:
        empty = on_device(kernel, content_of("uint8", 0))
    check_view(kernel, empty, b"")


@pytest.mark.parametrize("start", [1, 3, 4, 17])
def test_a_part_of_an_array(kernel: Kernel, start: int) -> None:
    array = content_of("uint8", 1000)
    check_view(kernel, on_device(kernel, array)[start:777], array[start:777].tobytes())


def test_several_dimensions(kernel: Kernel) -> None:
    array = content_of("float32", 600).reshape(5, 12, 10)
    check_view(kernel, on_device(kernel, array), array.tobytes())
    check_view(kernel, on_device(kernel, array)[1:3], array[1:3].tobytes())


def test_a_view_keeps_its_array(kernel: Kernel) -> None:
    array = content_of("uint8", 100_000)
    buffer = kernel.view(on_device(kernel, array))
    gc.collect()
    for _ in range(10):
        kernel.put(bytes(100_000))  # would take the array's memory, were it free
    assert kernel.get(buffer).tobytes() == array.tobytes()


def test_segments_of_views(kernel: Kernel) -> None:
    arrays = [content_of("float16", items) for items in (3, 500, 40_000)]
    roots = kernel.tree([kernel.view(on_device(kernel, array)) for array in arrays], 128)
    algorithm = kernel.algorithm.name
    assert list(map(bytes, roots)) == [merkle_tree_hash(chunks_of(a.tobytes(), 128), algorithm) for a in arrays]


def test_gaps_are_refused(kernel: Kernel) -> None:
    content = content_of("float32", 100).reshape(10, 10)
    array = on_device(kernel, content)
    numba = kernel.name == "numba-cuda"  # its .T is a copy without gaps
    transposed = on_device(kernel, np.asfortranarray(content)) if numba else array.T
    for gaps in (array[:, :5], array[::2], transposed):
        with pytest.raises(ValueError, match="not contiguous"):
            kernel.view(gaps)


@pytest.mark.parametrize("array", [b"bytes", "text", 5, None, [1, 2, 3], object()], ids=lambda a: type(a).__name__)
def test_what_is_no_array_is_refused(kernel: Kernel, array: Any) -> None:
    with pytest.raises(TypeError, match=rf"{type(array).__name__} is not accepted: {kernel.name} views "):
        kernel.view(array)


def test_an_array_on_the_host_is_refused(kernel: Kernel) -> None:
    if kernel.device.vendor != "host":
        with pytest.raises(TypeError, match=f"ndarray is not accepted: {kernel.name} views "):
            kernel.view(np.zeros(100, np.uint8))


@pytest.mark.filterwarnings("ignore:Non-empty compiler output")  # of pyopencl's own kernels
def test_what_is_still_being_written_is_waited_for(kernel: Kernel) -> None:
    array = on_device(kernel, np.zeros(1 << (24 if kernel.device.kind == "gpu" else 22), np.float32))
    for _ in range(20):
        add_one(kernel, array)
    buffer = kernel.view(array)
    assert (kernel.get(buffer[-4096:]).view(np.float32) == 20).all()


@pytest.mark.covers("hashlib")
@pytest.mark.parametrize("items", [[object()], [np.datetime64("2024-01-01")], ["text"]], ids=["object", "time", "text"])
def test_items_without_bytes_of_their_own_are_refused(items: list[Any]) -> None:
    kernel, *_ = available("hashlib")
    with pytest.raises(TypeError, match="must be numbers, booleans or raw bytes"):
        kernel.view(np.array(items))


def available_named(*names: str) -> list[Kernel]:
    found = available(*names)
    if not found:
        pytest.skip(f"no device here for {' or '.join(names)}")
    return found


@pytest.mark.xdist_group("dpnp")
def test_dpnp_arrays_of_the_default_queue() -> None:
    for kernel in available_named("dpnp"):
        import dpnp

        array = content_of("float32", 1000)
        check_view(kernel, dpnp.array(array, device=kernel.device.id), array.tobytes())


@pytest.mark.xdist_group("dpnp")
def test_dpnp_arrays_of_another_context() -> None:
    for kernel in available_named("dpnp"):
        import dpctl
        import dpnp

        try:
            part, *_ = dpctl.SyclDevice(kernel.device.id).create_sub_devices(partition=1)
        except dpctl.SyclSubDeviceCreationError as error:
            pytest.skip(f"{kernel.device.name} cannot be divided into devices of contexts of their own: {error}")
        queue = dpctl.SyclQueue(dpctl.SyclContext(part), part)
        with pytest.raises(ValueError, match=r"the array is on .*, not on "):
            kernel.view(dpnp.zeros(10, sycl_queue=queue))


@pytest.mark.xdist_group("opencl")
def test_opencl_arrays_of_another_context() -> None:
    for kernel in available_named("opencl"):
        import pyopencl
        import pyopencl.array

        its: Any = kernel
        context = pyopencl.Context(its.context.devices)
        queue = pyopencl.CommandQueue(context)
        with pytest.raises(ValueError, match="the array belongs to another OpenCL context"):
            kernel.view(pyopencl.array.zeros(queue, 10, np.float32))


def test_torch_tensors() -> None:
    found = available_named("cupy", "numba-cuda", "triton")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    for kernel in found:
        for dtype in ("uint8", "float32", "bfloat16"):
            tensor = torch.arange(1000, device=f"cuda:{kernel.device.id}").to(getattr(torch, dtype))
            content = tensor.contiguous().view(torch.uint8).cpu().numpy().tobytes()
            check_view(kernel, tensor, content)
            check_view(kernel, tensor[7:], content[7 * tensor.itemsize :])
