"""PyTorch models, hashed in place: the roots of their files for any memory layout, and every change is detected."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels_here import Case, build, cases, usual
from profiles import examples
from python_calls import calls_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

import hashbench  # noqa: E402
import hashbench.torch.places as hashed  # noqa: E402  # after what it needs is known to be there
from hashbench.hashing.hasher import Hasher  # noqa: E402
from hashbench.kernels import Buffer, Bytes, Kernel, Unavailable  # noqa: E402
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash  # noqa: E402
from hashbench.model.dtypes import TORCH_NAMES  # noqa: E402
from hashbench.model.manifest import FileEntry, Manifest, TensorEntry, parse_manifest  # noqa: E402
from hashbench.model.safetensors_header import read_header  # noqa: E402
from hashbench.torch import TensorError, kernel_for, manifest, verify  # noqa: E402
from hashbench.torch.held import held  # noqa: E402

CHUNK_SIZE = 256
DTYPES = {getattr(torch, name): ours for name, ours in TORCH_NAMES.items() if hasattr(torch, name)}
SHAPES = [(), (0,), (3, 0, 2), (1,), (63,), (3, 5, 7), (1000, 3)]

ON_HOST = [case for case in cases() if case.cls.name == "cuda-source-on-host"]
HOST_CASES = [*(case for case in usual() if case.device.kind == "cpu"), *ON_HOST]
CUDA_SKIP = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU of CUDA or ROCm here")


@pytest.fixture(
    params=[*HOST_CASES, pytest.param("cuda", marks=[CUDA_SKIP, pytest.mark.covers("torch-cuda")])], ids=str
)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device of tensors, with each kernel that hashes there. The CUDA source on the host takes the path of GPUs."""
    case: Case | str = request.param
    if isinstance(case, str):
        return case

    def place(device: Any, algorithm: str) -> Any:
        assert device.type == "cpu"
        of = hashed.DeviceMemory if case.cls.name == "cuda-source-on-host" else hashed.HostMemory
        return of(build(case, algorithm))

    monkeypatch.setattr(hashed, "place_of", place)
    return "cpu"


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """One thread of hashlib hashes all host memory."""
    (case,) = (case for case in cases() if str(case).startswith("hashlib-1-thread"))
    kernel = build(case, "sha256")
    monkeypatch.setattr(hashed, "place_of", lambda device, algorithm: hashed.HostMemory(build(case, algorithm)))
    return kernel


def tensor_of(dtype: Any, shape: Sequence[int], seed: int = 0) -> Any:
    """A tensor of random bytes."""
    size = torch.empty(shape, dtype=dtype, device="meta").nbytes
    data = np.random.default_rng(seed).integers(256, size=size, dtype=np.uint8)
    if dtype == torch.bool:
        data &= 1
    tensor = torch.empty(size, dtype=torch.uint8)
    tensor.numpy()[:] = data
    return tensor.view(dtype).reshape(shape)


def bytes_of(tensor: Any) -> bytes:
    """A tensor's bytes, row-major, by another way than the module's."""
    copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return bytes(copy.untyped_storage())


def root_of(data: bytes, algorithm: str = "sha256") -> bytes:
    return merkle_tree_hash(chunks_of(data, CHUNK_SIZE), algorithm)


def roots_of(state: Any, algorithm: str = "sha256") -> dict[str, bytes]:
    return {e.name: e.root for e in manifest(state, algorithm=algorithm, chunk_size=CHUNK_SIZE).entries}


# What is hashed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_a_tensor_in_memory_has_the_root_of_its_file(device: str, algorithm: str, tmp_path: Path) -> None:
    state = {
        f"{DTYPES[dtype]}.{place}": tensor_of(dtype, shape, seed=place).to(device)
        for dtype in DTYPES
        for place, shape in enumerate(SHAPES)
        if shape or DTYPES[dtype] != "F4"  # which are pairs in PyTorch: there is no single one
    }
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(state, path)
    data = path.read_bytes()
    expected = [
        TensorEntry(t.name, t.dtype, t.shape, t.nbytes, root_of(data[t.offset : t.offset + t.nbytes], algorithm))
        for t in read_header(path).tensors
    ]
    assert len(expected) == len(state)
    found = manifest(state, algorithm=algorithm, chunk_size=CHUNK_SIZE)
    assert found == Manifest(algorithm, CHUNK_SIZE, tuple(expected))
    assert parse_manifest(found.text()) == found
    loaded = safetensors_torch.load_file(path, device=device)
    assert verify(loaded, found).ok


def test_every_dtype_of_this_pytorch_is_tried() -> None:
    assert {torch.bool, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.uint16} <= set(DTYPES)
    assert len(DTYPES) >= 18


def test_parameters_and_persistent_buffers_are_listed(device: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.BatchNorm1d(30))
    module.register_buffer("scratch", torch.ones(3), persistent=False)
    module.to(device)
    names = [entry.name for entry in manifest(module).entries]
    assert names == sorted(module.state_dict())
    assert "1.num_batches_tracked" in names
    assert "scratch" not in names
    assert roots_of(module) == {name: root_of(bytes_of(t)) for name, t in module.state_dict().items()}


def linear_with_extra_state() -> Any:
    state = {"get_extra_state": lambda self: {"scale": 3}, "set_extra_state": lambda self, state: None}
    return type("Scaled", (torch.nn.Linear,), state)(3, 2)


def test_extra_state_that_is_no_tensor_has_no_entry() -> None:
    module = torch.nn.Sequential(linear_with_extra_state())
    assert "0._extra_state" in module.state_dict()
    assert [entry.name for entry in manifest(module).entries] == ["0.bias", "0.weight"]


class Spy:
    """Which segments a kernel is asked to hash."""

    def __init__(self, kernel: Kernel) -> None:
        self._tree = kernel.tree
        self.calls: list[list[int]] = []

    def tree(self, segments: Sequence[Buffer], chunk_size: int) -> Bytes:
        self.calls.append([segment.nbytes for segment in segments])
        return self._tree(segments, chunk_size)


def test_tied_weights_are_hashed_once_and_listed_under_each_name(
    one_thread: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = torch.nn.ModuleDict({"in": torch.nn.Embedding(10, 8), "out": torch.nn.Linear(8, 10, bias=False)})
    module["out"].weight = module["in"].weight
    spy = Spy(one_thread)
    monkeypatch.setattr(one_thread, "tree", spy.tree)
    roots = roots_of(module)
    assert roots == {name: root_of(bytes_of(module["in"].weight)) for name in ("in.weight", "out.weight")}
    assert spy.calls == [[10 * 8 * 4]]


def test_views_that_share_memory_are_not_taken_for_one_another(device: str) -> None:
    base = tensor_of(torch.uint8, (4096,)).to(device)
    state = {
        "all": base,
        "front": base[:1000],
        "back": base[1001:],
        "wide": base[:1000].view(torch.int32),
        "e": base[:0],
    }
    assert roots_of(state) == {name: root_of(bytes_of(t)) for name, t in state.items()}


def test_many_tensors_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    place = on_host()
    spy = Spy(place.kernel)
    monkeypatch.setattr(hashed, "place_of", lambda device, algorithm: place)
    monkeypatch.setattr(place.kernel, "tree", spy.tree)
    state = {str(n): tensor_of(torch.uint8, (n,), seed=n) for n in range(500)}
    assert roots_of(state) == {name: root_of(bytes_of(t)) for name, t in state.items()}
    assert spy.calls == [list(range(500))]


def freed(tensor: Any) -> Any:
    """As sharding frameworks leave a tensor between uses."""
    tensor.untyped_storage().resize_(0)
    return tensor


def partly_freed(tensor: Any) -> Any:
    """Its second half, in a storage that has as many bytes left, but not up to its end."""
    half = tensor[len(tensor) // 2 :]
    tensor.untyped_storage().resize_(half.nbytes)
    return half


def on_host() -> Any:
    """Host memory in place of a GPU's, hashed there by the CUDA source."""
    if not ON_HOST:
        pytest.skip("a C++ compiler is needed to try the CUDA source on the host")
    return hashed.DeviceMemory(build(ON_HOST[0], "sha256"))


def test_where_little_memory_is_free_there_are_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    place = on_host()
    spy = Spy(place.kernel)
    monkeypatch.setattr(hashed, "place_of", lambda device, algorithm: place)
    monkeypatch.setattr(place.kernel, "tree", spy.tree)
    monkeypatch.setattr(place.kernel, "free_memory", lambda: 2 * 32 * 10)  # for ten digests, and as much again
    state = {str(n): tensor_of(torch.uint8, (n * CHUNK_SIZE,), seed=n) for n in (0, 4, 4, 1, 5, 12, 5, 5)}
    assert roots_of(state) == {name: root_of(bytes_of(t)) for name, t in state.items()}
    assert [[n // CHUNK_SIZE for n in call] for call in spy.calls] == [[0, 4, 1], [5], [12]]


def test_gradients_and_inference_do_not_matter(device: str) -> None:
    weight = torch.nn.Parameter(tensor_of(torch.float32, (100, 7)).to(device))
    expected = root_of(bytes_of(weight))
    assert roots_of({"w": weight, "t": weight.detach()})["w"] == expected
    with torch.inference_mode():
        assert roots_of({"w": weight}) == {"w": expected}


# Strides -------------------------------------------------------------------------------------------------------------

STRIDED: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda t: t.transpose(0, 2),
    "channels last": lambda t: t.unsqueeze(0).contiguous(memory_format=torch.channels_last),
    "every second": lambda t: t[:, :, ::2],
    "part of rows": lambda t: t[1:, 2:-1, 3:],
    "expanded": lambda t: t[:, :1].expand(-1, 9, -1),
}


def test_what_is_not_contiguous_has_the_root_of_its_row_major_bytes(device: str) -> None:
    check_strides(device)


@pytest.mark.parametrize("piece_items", [1, 300])
def test_what_is_not_contiguous_may_be_gathered_in_pieces(
    one_thread: Kernel, piece_items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashed, "PIECE_ITEMS", piece_items)
    check_strides("cpu")


def check_strides(device: str) -> None:
    dtypes = (torch.uint8, torch.bool, torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.complex64)
    state = {
        f"{dtype} {name}": strided(tensor_of(dtype, (5, 8, 13)).to(device))
        for dtype in dtypes
        for name, strided in STRIDED.items()
    }
    assert not any(tensor.is_contiguous() for tensor in state.values())
    assert roots_of(state) == {name: root_of(bytes_of(t)) for name, t in state.items()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(30))
@given(data=st.data())
def test_any_strides(one_thread: Kernel, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    tensor = tensor_of(data.draw(st.sampled_from([torch.uint8, torch.int16, torch.float64])), shape)
    tensor = tensor.permute(*data.draw(st.permutations(range(len(shape)))))
    for axis, length in enumerate(tensor.shape):
        start = data.draw(st.integers(0, length - 1))
        tensor = tensor.narrow(axis, start, data.draw(st.integers(1, length - start)))
    assert roots_of({"a": tensor}) == {"a": root_of(bytes_of(tensor))}


@pytest.mark.parametrize("count", [0, 1])
def test_the_stride_of_a_single_item_does_not_matter(device: str, count: int) -> None:
    tensor = tensor_of(torch.float32, (10,)).to(device)[::5][:count]
    assert tensor.stride() == (5,)
    assert roots_of({"a": tensor, "b": torch.ones(1)})["a"] == root_of(bytes_of(tensor))


# Verifying -----------------------------------------------------------------------------------------------------------


def small_model() -> dict[str, Any]:
    return {
        "a": tensor_of(torch.bfloat16, (64, 33), seed=1),
        "b": tensor_of(torch.float8_e5m2, (257,), seed=2),
        "c": tensor_of(torch.int64, (), seed=3),
        "d": tensor_of(torch.uint8, (CHUNK_SIZE,), seed=4),
        "e": tensor_of(torch.float32, (0, 4), seed=5),
        "f": tensor_of(torch.float32, (70, 9), seed=6).t(),
    }


def test_a_model_is_what_its_manifest_says(device: str) -> None:
    state = {name: tensor.to(device) for name, tensor in small_model().items()}
    report = verify(state, manifest(state, chunk_size=CHUNK_SIZE))
    assert report.ok
    assert str(report).startswith("verified, tensors only: 6 tensors")


def test_every_bit_that_is_flipped_is_found_and_named(device: str) -> None:
    state = {name: tensor.to(device) for name, tensor in small_model().items()}
    expected = manifest(state, chunk_size=CHUNK_SIZE)
    drawn = random.Random(1)
    for name, tensor in state.items():
        base = tensor.t() if name == "f" else tensor
        flat = base.reshape(-1).view(torch.uint8)  # the same memory
        for place in {0, len(flat) - 1, *(drawn.randrange(len(flat)) for _ in range(3))} if len(flat) else ():
            flat[place] ^= 1 << drawn.randrange(8)
            report = verify(state, expected)
            assert (report.differs, report.missing, report.extra) == ((name,), (), ())
            flat[place] = torch.tensor(np.frombuffer(bytes_of(small_model_base(name)), np.uint8)[place])
    assert verify(state, expected).ok


def small_model_base(name: str) -> Any:
    tensor = small_model()[name]
    return tensor.t() if name == "f" else tensor


def test_what_is_missing_extra_or_of_another_kind_is_named(device: str) -> None:
    state = {name: tensor.to(device) for name, tensor in small_model().items()}
    expected = manifest(state, chunk_size=CHUNK_SIZE)
    del state["a"]
    state["z"] = torch.ones(3, device=device)
    state["d"] = state["d"].view(torch.int8)
    state["b"] = state["b"].reshape(257, 1)
    report = verify(state, expected)
    assert (report.differs, report.missing, report.extra) == (("b", "d"), ("a",), ("z",))


def test_a_name_that_is_tied_to_one_that_was_verified_is_not_extra(device: str) -> None:
    weight = tensor_of(torch.float32, (10, 10)).to(device)
    expected = manifest({"embed": weight}, chunk_size=CHUNK_SIZE)
    assert verify({"embed": weight, "head": weight}, expected).ok
    assert verify({"embed": weight, "head": weight.clone()}, expected).extra == ("head",)
    assert verify({"embed": weight, "head": weight[:-1]}, expected).extra == ("head",)
    weight.view(torch.uint8)[0, 0] ^= 1
    report = verify({"embed": weight, "head": weight}, expected)
    assert (report.differs, report.extra) == (("embed",), ())


@pytest.mark.parametrize("shape", [(6, 4), (0, 4)])
def test_what_shares_memory_but_is_taken_for_something_else_is_extra(device: str, shape: tuple[int, ...]) -> None:
    weight = tensor_of(torch.float32, shape).to(device)
    known = {"embed": weight, "norm": torch.ones(2, device=device)}
    expected = manifest(known, chunk_size=CHUNK_SIZE)
    assert verify({**known, "cast": weight.view(torch.int32), "reshaped": weight.view(4, -1)}, expected).extra == (
        "cast",
        "reshaped",
    )
    view = weight.view(shape)  # another object of PyTorch's, as a state dict without gradients has them
    assert verify({**known, "head": view}, expected).ok


def test_transposed_weights_are_tied_by_their_strides(device: str) -> None:
    weight = tensor_of(torch.float32, (8, 8)).to(device)
    expected = manifest({"embed": weight.t()}, chunk_size=CHUNK_SIZE)
    assert verify({"embed": weight.t(), "head": weight.t()}, expected).ok
    assert verify({"embed": weight.t(), "head": weight}, expected).extra == ("head",)


def test_empty_tensors_are_tied_where_they_are_the_same(device: str) -> None:
    empty = torch.nn.Parameter(torch.empty(0, device=device))
    state = {"a": empty, "weight": torch.ones(2, device=device)}
    expected = manifest(state, chunk_size=CHUNK_SIZE)
    assert verify({**state, "b": empty}, expected).ok
    assert verify({**state, "b": empty.detach()}, expected).ok
    assert verify({**state, "b": torch.empty(0, device=device)}, expected).extra == ("b",)


def test_a_file_that_a_manifest_names_is_no_tensor(device: str) -> None:
    weight = tensor_of(torch.uint8, (100,)).to(device)
    root = root_of(bytes_of(weight))
    held = TensorEntry("b", "U8", (100,), 100, root, "a", 0)
    expected = Manifest("sha256", CHUNK_SIZE, (FileEntry("a", 100, root, 0), held))
    assert verify({"b": weight}, expected).ok
    assert verify({"a": weight.clone(), "b": weight}, expected).extra == ("a",)


def test_the_manifest_says_how_to_hash(device: str) -> None:
    state = {name: tensor.to(device) for name, tensor in small_model().items()}
    for algorithm in ("sha256", "sha384"):
        for chunk_size in (64, 4096, 1 << 40) if device == "cuda" else (64, 4096, 1 << 20):
            assert verify(state, manifest(state, algorithm=algorithm, chunk_size=chunk_size)).ok


def test_a_model_without_tensors_is_refused() -> None:
    nothing: dict[str, Any] = {}
    for empty in (nothing, torch.nn.ReLU()):
        with pytest.raises(ValueError, match="the model has no tensors: there is nothing to hash"):
            manifest(empty)
    for expected in (Manifest("sha256", 4096, ()), Manifest("sha256", 4096, (FileEntry("a", 1, bytes(32)),))):
        with pytest.raises(ValueError, match="the manifest has no tensors of a model at its top"):
            verify({}, expected)
    expected = manifest({"a": torch.ones(2)})
    with pytest.raises(ValueError, match="the manifest has no tensors of the component 'unet'"):
        verify({"a": torch.ones(2)}, expected, component="unet")
    assert verify({}, expected).missing == ("a",)


def test_a_component_of_a_model_is_verified_by_its_own_names(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    states = {
        path: {name: tensor_of(torch.float32, (9, 5), seed=seed) for name in ("a", "b")}
        for seed, path in enumerate(
            (
                "model.safetensors",
                "model.fp16.safetensors",
                "unet/diffusion_pytorch_model.safetensors",
                "vae/1.safetensors",
            )
        )
    }
    for path, state in states.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        save_file(state, tmp_path / path)
    index = {"weight_map": dict.fromkeys(("a", "b"), "1.safetensors")}
    (tmp_path / "vae" / "other.safetensors.index.json").write_text(json.dumps(index))
    save_file(states["model.safetensors"], tmp_path / "vae" / "other.safetensors")
    expected = hashbench.manifest(tmp_path, kernel="hashlib")
    components = ("", "model.fp16.safetensors", "unet", "vae/other.safetensors.index.json")
    for component, state in zip(components, states.values(), strict=True):
        report = verify(state, expected, component=component)
        text = f"verified, tensors only: 2 tensors, 360 bytes, sha256 root {expected.root.hex()}"
        assert (report.ok, str(report)) == (True, text)
        assert verify(state | {"b": state["b"] + 1}, expected, component=component).differs == ("b",)
    assert verify(states["model.safetensors"], expected, component="vae/other.safetensors").ok
    assert not verify(states["model.safetensors"], expected, component="unet").ok
    assert verify({f"unet/{name}": tensor for name, tensor in states["model.safetensors"].items()}, expected).extra


def test_threads_may_verify_at_once(device: str) -> None:
    state = {name: tensor.to(device) for name, tensor in small_model().items()}
    expected = manifest(state, chunk_size=CHUNK_SIZE)
    with ThreadPoolExecutor(4) as pool:
        assert all(report.ok for report in pool.map(lambda _: verify(state, expected), range(12)))


# Kernels and devices -------------------------------------------------------------------------------------------------


def test_a_kernel_is_built_once() -> None:
    cpu = torch.device("cpu")
    assert kernel_for(cpu) is kernel_for(cpu, "sha256")
    assert kernel_for(cpu, "sha384").algorithm.name == "sha384"
    assert kernel_for(cpu).device.kind == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_kernel_for_gpus_all_say_why() -> None:
    reasons = "; ".join(rf"{name} is not available: .*" for name in hashed.CUDA_KERNELS)
    with pytest.raises(Unavailable, match=reasons):
        hashed.place_of(torch.device("cuda", 0), "sha256")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_a_gpu_that_pytorch_does_not_find_is_unavailable(name: str) -> None:
    with pytest.raises(Unavailable, match=f"^{name} cannot be used: PyTorch finds no GPU of CUDA or ROCm here$"):
        kernel_for(torch.device(name))


def test_devices_are_hashed_each_by_its_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places in host memory stand for two devices."""
    host, other = on_host(), on_host()
    asked: list[Any] = []

    def place(device: Any, algorithm: str) -> Any:
        asked.append(device)
        return {"cpu": host, "meta": other}[device.type]

    monkeypatch.setattr(hashed, "place_of", place)
    monkeypatch.setattr(hashed, "stream_on", lambda device, given: None)
    tensors = held(small_model()).tensors
    elsewhere = torch.device("meta")
    moved = [one._replace(device=elsewhere) if name < "c" else one for name, one in tensors.items()]
    found = hashed.roots_by_memory(moved, "sha256", CHUNK_SIZE, None)
    assert found == hashed.roots_by_memory(tensors.values(), "sha256", CHUNK_SIZE, None)
    assert {device.type for device in asked} == {"cpu", "meta"}


@CUDA_SKIP
@pytest.mark.covers("torch-cuda")
@pytest.mark.parametrize("given", [True, False])
def test_what_a_stream_was_given_before_is_waited_for(given: bool) -> None:
    weight = tensor_of(torch.uint8, (1 << 20,)).cuda()
    expected = manifest({"w": weight + 1})
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
        weight += 1
        inside = None if given else verify({"w": weight}, expected)
    assert (inside or verify({"w": weight}, expected, stream=stream)).ok


@CUDA_SKIP
@pytest.mark.covers("torch-cuda")
@pytest.mark.parametrize("name", hashed.CUDA_KERNELS)
def test_each_cuda_kernel_finds_a_bit_flipped_on_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashed, "CUDA_KERNELS", (name,))
    hashed.place_of.cache_clear()
    state = {str(n): tensor_of(torch.bfloat16, (n, 1000), seed=n).cuda() for n in range(50)}
    state["mixed"] = tensor_of(torch.int32, (999,))
    expected = manifest(state)
    assert expected == manifest({key: tensor.cpu() for key, tensor in state.items()})
    assert kernel_for(state["1"].device).name == name
    state["7"].view(torch.uint8)[3, 77] ^= 16
    assert verify(state, expected).differs == ("7",)
    hashed.place_of.cache_clear()


# What is refused -----------------------------------------------------------------------------------------------------


class Wrapper(torch.Tensor):  # type: ignore[name-defined,misc]
    """Wraps a tensor that it does not name."""

    @staticmethod
    def __new__(cls) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (4,))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "meta": (lambda: torch.empty(3, device="meta"), "it is on the meta device"),
    "freed": (lambda: freed(torch.ones(1000)), "its memory was freed"),
    "lazy": (lambda: torch.nn.LazyLinear(3).weight, "no bytes until its lazy module has run"),
    "wrapper": (Wrapper, "it is a Wrapper, a wrapper around other tensors that it does not name"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "the layout torch.sparse_coo"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "it is nested"),
    "4-bit": (lambda: torch.empty(3, dtype=torch.uint4), "torch.uint4: accepted are bool, "),
    "complex128": (
        lambda: torch.ones(3, dtype=torch.complex128),
        "torch.complex128: accepted are bool",
    ),
    "conjugate": (lambda: torch.ones(3, dtype=torch.complex64).conj(), r"call resolve_conj\(\)"),
    "negative": (lambda: torch.ones(3, dtype=torch.complex64).conj().imag, r"or resolve_neg\(\)"),
    "a single pair": (
        lambda: torch.empty((), dtype=torch.float4_e2m1fn_x2),
        "torch.float4_e2m1fn_x2 without dimensions: one of it is two elements",
    ),
    "partly freed": (lambda: partly_freed(torch.ones(1000)), "its memory was freed"),
    "no tensor": (lambda: np.ones(3), "it is a ndarray, not a tensor"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_has_no_plain_bytes_is_refused(what: str) -> None:
    make, reason = REFUSED[what]
    with pytest.raises(TensorError, match=f"tensor 'some.weight': .*{reason}") as caught:
        manifest({"good": torch.ones(3), "some.weight": make()})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tensors", [[torch.ones(1)], torch.ones(1), "model.safetensors", {1: torch.ones(1)}])
def test_what_is_not_a_model_is_refused(tensors: Any) -> None:
    with pytest.raises(TypeError, match="is not accepted"):
        manifest(tensors)


def test_other_misuse_is_refused() -> None:
    state = {"a": torch.ones(3)}
    with pytest.raises(ValueError, match="unknown algorithm 'md5'"):
        manifest(state, algorithm="md5")
    with pytest.raises(ValueError, match="chunk size 100 is not accepted"):
        manifest(state, chunk_size=100)
    with pytest.raises(TypeError, match="int is not accepted: the stream must be"):
        manifest(state, stream=0)
    with pytest.raises(TypeError, match=r"str is not accepted: .*read_manifest\(\)"):
        verify(state, "model.manifest.json")  # type: ignore[arg-type]


def test_a_changed_manifest_is_found(one_thread: Kernel) -> None:
    state = small_model()
    expected = manifest(state, chunk_size=CHUNK_SIZE)
    for entry in changed(expected.entries[0]):
        report = verify(state, Manifest("sha256", CHUNK_SIZE, (entry, *expected.entries[1:])))
        assert report.differs == ("a",)


def changed(entry: Any) -> Iterator[TensorEntry]:
    yield replace(entry, dtype="F16")
    yield replace(entry, shape=tuple(reversed(entry.shape)))
    yield replace(entry, root=bytes([entry.root[0] ^ 1]) + entry.root[1:])


# The time that it takes ----------------------------------------------------------------------------------------------


def test_a_tensor_adds_little_python_to_a_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are hashed in a fraction of a microsecond each."""

    class Hashed(hashed.Place):
        def _roots(self, chunk_size: int) -> Any:
            return lambda tensors: [bytes(32)] * len(tensors)

    place = Hashed(cast(Any, None))
    monkeypatch.setattr(hashed, "place_of", lambda device, algorithm: place)
    state = {f"layers.{n}.weight": torch.ones(8, dtype=torch.bfloat16) for n in range(300)}
    expected = manifest(state)
    assert verify(state, expected).ok  # what is looked up once is known from here on
    few = dict(list(state.items())[:100])
    expected_of_few = manifest(few)
    verify(few, expected_of_few)
    more = calls_of(lambda: verify(state, expected)) - calls_of(lambda: verify(few, expected_of_few))
    assert more <= 20 * 200


def test_tensors_in_host_memory_share_what_they_are_copied_through(
    one_thread: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    class Counted(Hasher):
        def __init__(self, kernel: Kernel, chunk_size: int) -> None:
            made.append(chunk_size)
            super().__init__(kernel, chunk_size)

    monkeypatch.setattr(hashed, "Hasher", Counted)
    state = {str(n): tensor_of(torch.int16, (n, 7), seed=n).t() for n in range(2, 30)}
    assert roots_of(state) == {name: root_of(bytes_of(t)) for name, t in state.items()}
    assert made == [CHUNK_SIZE]
