"""Models loaded into memory: what is handed out was verified there, and nothing else is handed out."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import Tensor as GgufTensor
from gguf_files import gguf_file, header
from host_memory import HostLane, bytes_at
from model_folders import index_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from wrapping_tensors import Quantised  # noqa: E402  # after what it needs is known to be there

import hashbench  # noqa: E402
import hashbench.torch.loading as loading  # noqa: E402
from hashbench.hashing import in_turn, lanes, reading  # noqa: E402
from hashbench.hashing.lanes import Lanes  # noqa: E402
from hashbench.hashing.reading import Read, Reader  # noqa: E402
from hashbench.hashing.sources import ChangedWhileReadError  # noqa: E402
from hashbench.hashing.verification_error import VerificationError  # noqa: E402
from hashbench.kernels import Buffer, Lane, Unavailable  # noqa: E402
from hashbench.kernels.hashlib_cpu import HashlibCpu  # noqa: E402
from hashbench.model.dtypes import TORCH_NAMES  # noqa: E402
from hashbench.model.manifest import Manifest, TensorEntry  # noqa: E402
from hashbench.torch import TensorError, iterate, load, manifest, verified, verify  # noqa: E402

CUDA_SKIP = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU of CUDA or ROCm here")
ON_CUDA = pytest.param("cuda", marks=[CUDA_SKIP, pytest.mark.covers("torch-cuda")])
PIECE = 4096


class MemoryByLanes(loading._CudaMemory):
    """The host's memory, which tensors come to as they come to a GPU's."""

    def __init__(self, reader: Reader, *, past_cache: bool) -> None:
        made = Lanes(ByHostLanes(HashlibCpu.devices()[0]))
        super().__init__(reader, made, torch.device("cpu"), None, past_cache=past_cache)

    def usable(self) -> Callable[[], object]:
        return lambda: None


class ByHostLanes(HashlibCpu):
    def lanes(self, count: int, nbytes: int) -> list[Lane]:
        return [HostLane(nbytes, bytes_at) for _ in range(count)]


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.covers("torch")), "cpu by lanes", ON_CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The device to load to, in small pieces, so that tensors of a few KiB take several."""
    monkeypatch.setattr(loading, "PIECE_SIZE", 3 * PIECE)
    monkeypatch.setattr(loading, "_BATCH", 4 * PIECE)
    monkeypatch.setattr(lanes, "BLOCK_SIZE", 2 * PIECE)
    if request.param == "cpu by lanes":
        monkeypatch.setattr(loading, "_HostMemory", MemoryByLanes)
    return str(request.param).removesuffix(" by lanes")


def of_bytes(dtype: Any, shape: tuple[int, ...], seed: int) -> Any:
    tensor = torch.empty(shape, dtype=dtype)
    data = np.random.default_rng(seed).integers(2 if dtype == torch.bool else 256, size=tensor.nbytes, dtype=np.uint8)
    tensor.reshape(-1).view(torch.uint8).copy_(torch.from_numpy(data))
    return tensor


def state() -> dict[str, Any]:
    """Tensors of all sizes in pieces, empty and without dimensions too, in another order than that of their names."""
    shapes = [(40, 33), (), (PIECE,), (0, 7), (3 * PIECE + 5,), (1,), (PIECE - 1,), (2, 2 * PIECE)]
    return {f"{9 - n}.w": of_bytes(torch.int16, shape, n) for n, shape in enumerate(shapes)}


def write(folder: Path, name: str, tensors: dict[str, Any]) -> Path:
    path = folder / name
    safetensors_torch.save_file(tensors, path)
    return path


def write_index(folder: Path, shards: dict[str, Any]) -> None:
    (folder / "model.safetensors.index.json").write_bytes(
        index_of({file: list(names) for file, names in shards.items()})
    )


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    def content(tensor: Any) -> tuple[Any, ...]:
        data = tensor.cpu().contiguous()
        return data.dtype, data.shape, bytes(data.reshape(-1).view(torch.uint8).numpy())

    return {name: content(t) for name, t in found.items()} == {name: content(t) for name, t in expected.items()}


# What is loaded -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("only_tensors", [False, True])
def test_a_file_is_loaded_as_it_is(device: str, only_tensors: bool, tmp_path: Path) -> None:
    expected = state()
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib", only_tensors=only_tensors)
    found = load(path, trusted, device=device)
    found["9.w"].untyped_storage().resize_(1 << 20)  # which memory that NumPy was given cannot be
    assert same(found, expected)
    assert {tensor.device.type for tensor in found.values()} == {device}
    assert verify(found, trusted).ok
    assert not verify(found, trusted).notes  # of memory that a file can change


@pytest.mark.parametrize("cached", [False, True])
def test_a_file_is_loaded_past_the_page_cache(
    device: str, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "is_cached", lambda descriptor, offset: cached)
    monkeypatch.setattr(in_turn, "cached_pages", lambda descriptor, offset, nbytes: np.full(nbytes, cached))
    monkeypatch.setattr(loading, "DIRECT_PIECE_SIZE", 2 * PIECE)
    tensors = state()
    path = write(tmp_path, "model.safetensors", tensors)
    trusted = hashbench.manifest(path, kernel="hashlib")
    assert same(load(path, trusted, device=device, past_cache=True), tensors)
    assert same(dict(iterate(path, trusted, device=device, past_cache=True, ahead=PIECE)), tensors)


def test_every_dtype_is_loaded(device: str, tmp_path: Path) -> None:
    dtypes = {ours: getattr(torch, name) for name, ours in TORCH_NAMES.items() if hasattr(torch, name)}
    expected = {name: of_bytes(dtype, (3, 4), n) for n, (name, dtype) in enumerate(dtypes.items())}
    path = write(tmp_path, "model.safetensors", expected)
    assert same(load(path, hashbench.manifest(path, kernel="hashlib"), device=device), expected)
    assert len(expected) >= 18


def test_shards_are_loaded_in_the_order_of_their_files(device: str, tmp_path: Path) -> None:
    shards = {"model-1.safetensors": {"z": 1, "b": 2}, "model-2.safetensors": {"a": 3, "y": 4}}
    tensors = {
        file: {name: of_bytes(torch.uint8, (3 * PIECE + seed,), seed) for name, seed in names.items()}
        for file, names in shards.items()
    }
    for file, of_file in tensors.items():
        write(tmp_path, file, of_file)
    write_index(tmp_path, shards)
    (tmp_path / "config.json").write_text("{}")
    trusted = hashbench.manifest(tmp_path, kernel="hashlib")
    expected = tensors["model-1.safetensors"] | tensors["model-2.safetensors"]
    yielded = list(iterate(tmp_path, trusted, device=device))
    assert same(dict(yielded), expected)
    offsets = {entry.name: (entry.file, entry.offset) for entry in trusted.tensors}
    assert [name for name, _ in yielded] == sorted(offsets, key=lambda name: offsets[name])
    assert list(load(tmp_path, trusted, device=device)) == [name for name, _ in yielded]


def test_only_what_is_asked_for_is_read(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = state()
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib")
    read: list[int] = []
    read_file, bring = Reader._read_file, Reader._bring

    def counted(self: Any, path: str, offset: int, target: memoryview) -> None:
        read.append(len(target))
        read_file(self, path, offset, target)

    def brought(self: Any, one: Read, target: Buffer, lane: Lane) -> None:
        read.append(one.nbytes)
        bring(self, one, target, lane)

    monkeypatch.setattr(Reader, "_read_file", counted)
    monkeypatch.setattr(Reader, "_bring", brought)
    names = ["5.w", "9.w"]
    assert same(load(path, trusted, device=device, names=names), {name: expected[name] for name in names})
    assert sum(read) == sum(expected[name].nbytes for name in names)
    with pytest.raises(ValueError, match=r"the manifest has no tensor '5\.v'; did you mean '5\.w'"):
        load(path, trusted, names=["5.v"])
    with pytest.raises(TypeError, match=r"the string '5\.w' is not accepted: pass a collection"):
        load(path, trusted, names="5.w")


def test_a_component_is_loaded_under_its_own_names(tmp_path: Path) -> None:
    for n, part in enumerate(("unet", "vae")):
        (tmp_path / part).mkdir()
        write(tmp_path / part, "diffusion_pytorch_model.safetensors", {"w": of_bytes(torch.float32, (9,), n)})
    trusted = hashbench.manifest(tmp_path, kernel="hashlib")
    found = load(tmp_path, trusted, component="vae")
    assert same(found, {"w": of_bytes(torch.float32, (9,), 1)})
    with pytest.raises(ValueError, match="no tensors of a model at its top, but of 'unet', 'vae': name the comp"):
        load(tmp_path, trusted)


def test_checkpoints_of_pytorch_are_loaded(device: str, tmp_path: Path) -> None:
    expected = state()
    expected["strided"] = of_bytes(torch.int32, (6, 5), 3).t()
    path = tmp_path / "pytorch_model.bin"
    torch.save(expected, path)
    # By the file's layout, a view that is not one range of it cannot be loaded; by its own names it can.
    trusted = hashbench.manifest(path, kernel="hashlib")
    with pytest.raises(TensorError, match="tensor 'strided': its bytes are not one range of its file"):
        load(path, trusted, device=device)
    plain = [name for name in expected if name != "strided"]
    assert same(load(path, trusted, device=device, names=plain), {name: expected[name] for name in plain})
    trusted = hashbench.manifest(path, kernel="hashlib", only_tensors=True)
    assert same(load(path, trusted, device=device), expected)


def test_ggufs_quantised_tensors_are_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    blocks = np.random.default_rng(0).integers(256, size=(3, 2 * 34), dtype=np.uint8)
    table = [GgufTensor("q", (64, 3), 8), GgufTensor("f", (2,), 0, offset=224)]  # Q8_0 and F32
    data = blocks.tobytes().ljust(224, b"\0") + np.array([1, 2], np.float32).tobytes()
    path.write_bytes(gguf_file(header(table), data))
    found = load(path, hashbench.manifest(path, kernel="hashlib"))
    assert same(found, {"q": torch.from_numpy(blocks), "f": torch.tensor([1.0, 2.0])})


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_the_manifest_says_how_to_hash(device: str, algorithm: str, tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", state())
    trusted = hashbench.manifest(path, kernel="hashlib", algorithm=algorithm, chunk_size=64)
    assert same(load(path, trusted, device=device), state())


# What is not handed out -----------------------------------------------------------------------------------------------


def test_nothing_is_handed_out_that_differs(device: str, tmp_path: Path) -> None:
    expected = state()
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib")
    drawn = np.random.default_rng(5)
    for entry in trusted.tensors:
        if not entry.nbytes:
            continue
        assert entry.offset is not None
        place = entry.offset + int(drawn.integers(entry.nbytes))
        flip(path, place)
        with pytest.raises(VerificationError, match=f"tensor '{entry.name}' has other bytes than the manifest says"):
            load(path, trusted, device=device)
        flip(path, place)
    assert same(load(path, trusted, device=device), expected)


def taken(tensors: Iterator[tuple[str, Any]], given: dict[str, Any]) -> None:
    """Takes tensors until they end, or one is refused."""
    for name, tensor in tensors:
        given[name] = tensor


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 4]))


def test_what_was_handed_out_before_a_difference_was_verified(device: str, tmp_path: Path) -> None:
    expected = {name: of_bytes(torch.uint8, (5 * PIECE,), n) for n, name in enumerate("abcdef")}
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib")
    entry = next(entry for entry in trusted.tensors if entry.name == "d")
    assert entry.offset is not None
    flip(path, entry.offset)
    given: dict[str, Any] = {}
    with pytest.raises(VerificationError, match="tensor 'd'"):
        taken(iterate(path, trusted, device=device, ahead=PIECE), given)
    assert same(given, {name: expected[name] for name in "abc"})


def test_a_file_that_is_changed_afterwards_changes_nothing(device: str, tmp_path: Path) -> None:
    expected = state()
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib")
    found = load(path, trusted, device=device)
    path.write_bytes(bytes(path.stat().st_size))
    assert same(found, expected)
    with pytest.raises(VerificationError):
        load(path, trusted, device=device)


def test_the_header_is_not_believed(tmp_path: Path) -> None:
    """A header that names other places leads to no other bytes: the manifest says where tensors are."""
    path = write(tmp_path, "model.safetensors", {"a": torch.zeros(4), "b": torch.ones(4)})
    trusted = hashbench.manifest(path, kernel="hashlib")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"a"', b'"c"').replace(b'"b"', b'"a"').replace(b'"c"', b'"b"'))
    assert same(load(path, trusted), {"a": torch.zeros(4), "b": torch.ones(4)})


def test_what_is_missing_or_of_another_size_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "1.safetensors", {"a": torch.zeros(4)})
    second = write(tmp_path, "2.safetensors", {"b": torch.ones(4)})
    write_index(tmp_path, {"1.safetensors": "a", "2.safetensors": "b"})
    trusted = hashbench.manifest(tmp_path, kernel="hashlib")
    tensors_alone = hashbench.manifest(tmp_path, kernel="hashlib", only_tensors=True)
    whole = second.read_bytes()
    second.write_bytes(whole + b"x")
    with pytest.raises(VerificationError, match=r"tensor 'b' is not in '2\.safetensors' as the manifest says"):
        load(tmp_path, trusted)
    assert list(load(tmp_path, trusted, names=["a"])) == ["a"]
    second.unlink()
    for expected in (trusted, tensors_alone):
        with pytest.raises(VerificationError, match="tensor 'b' is not"):
            load(tmp_path, expected)
    write(tmp_path, "2.safetensors", {"b": torch.ones(4, dtype=torch.int32)})
    with pytest.raises(VerificationError, match="tensor 'b' is not"):
        load(tmp_path, tensors_alone)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PIECE_SIZE", PIECE)
    path = write(tmp_path, "model.safetensors", state())
    trusted = hashbench.manifest(path, kernel="hashlib")
    original = Reader.read

    def touching(self: Any, reads: Any, host: Any) -> None:
        original(self, reads, host)
        os.utime(path, (1, 1))

    monkeypatch.setattr(Reader, "read", touching)
    with pytest.raises(ChangedWhileReadError, match="was changed while it was read"):
        load(path, trusted)


def test_dtypes_that_pytorch_does_not_have_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", {"a": torch.zeros(12, dtype=torch.uint8)})
    (entry,) = hashbench.manifest(path, kernel="hashlib", only_tensors=True).tensors
    six_bits = Manifest("sha256", 4096, (TensorEntry("a", "F6_E2M3", (16,), 12, entry.root),))
    path.write_bytes(path.read_bytes().replace(b'"U8","shape":[12]', b'"F6_E2M3","shape":[16]'))
    with pytest.raises((TensorError, VerificationError)):
        load(path, six_bits)


def test_misuse_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", {"a": torch.zeros(4)})
    trusted = hashbench.manifest(path, kernel="hashlib")
    with pytest.raises(TypeError, match="str is not accepted: pass what"):
        load(path, "model.manifest.json")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must be a torch\.cuda\.Stream"):
        load(path, trusted, stream=3)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none", trusted)


# Memory ---------------------------------------------------------------------------------------------------------------


def test_no_more_is_loaded_ahead_than_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PIECE_SIZE", PIECE)
    size = 4 * PIECE
    expected = {f"{n:02}": of_bytes(torch.uint8, (size,), n) for n in range(20)}
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib")
    allocated = 0
    original = loading._HostMemory.allocate

    def counted(self: Any, wanted: Any) -> Any:
        nonlocal allocated
        allocated += wanted.entry.nbytes
        return original(self, wanted)

    monkeypatch.setattr(loading._HostMemory, "allocate", counted)
    ahead, given = 4 * size, 0
    for name, tensor in iterate(path, trusted, ahead=ahead):
        assert same({name: tensor}, {name: expected[name]})
        given += size
        assert allocated - given <= ahead
    assert allocated == given == 20 * size


def test_an_iteration_that_is_abandoned_ends_its_threads(device: str, tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", state())
    trusted = hashbench.manifest(path, kernel="hashlib")
    before = threading.active_count()
    for _ in range(3):
        tensors = iterate(path, trusted, device=device)
        next(tensors)
        tensors.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before


@CUDA_SKIP
@pytest.mark.covers("torch-cuda")
def test_memory_that_is_still_used_is_not_written_to(tmp_path: Path) -> None:
    """A tensor that was freed while its stream still works with it leaves its memory to a tensor that is loaded."""
    size = 64 << 20
    path = write(tmp_path, "model.safetensors", {"a": of_bytes(torch.uint8, (size,), 1)})
    trusted = hashbench.manifest(path)
    stream = torch.cuda.Stream()
    load(path, trusted, device="cuda", stream=stream)  # builds what it needs
    with torch.cuda.stream(stream):
        old = torch.full((size,), 7, dtype=torch.uint8, device="cuda")
        torch.cuda._sleep(500_000_000)
        copy = old.clone()
        del old
    found = load(path, trusted, device="cuda", stream=stream)["a"]
    assert int(copy.min()) == int(copy.max()) == 7
    assert same({"a": found}, {"a": of_bytes(torch.uint8, (size,), 1)})


@CUDA_SKIP
@pytest.mark.covers("torch-cuda")
def test_a_gpu_holds_the_model_once(tmp_path: Path) -> None:
    expected = {str(n): of_bytes(torch.uint8, (32 << 20,), n) for n in range(16)}
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = load(path, trusted, device="cuda")
    assert same(found, expected)
    nbytes = sum(tensor.nbytes for tensor in expected.values())
    assert torch.cuda.max_memory_allocated() - before <= nbytes + (1 << 20)


@pytest.mark.parametrize("name", ["meta", "mps"])
def test_a_device_whose_tensors_cannot_be_hashed_is_unavailable(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", {"a": torch.ones(3)})
    trusted = hashbench.manifest(path, kernel="hashlib")
    with pytest.raises(Unavailable, match=f"^tensors on {name} cannot be hashed in place: only those on cpu and cuda"):
        load(path, trusted, device=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_pytorch_does_not_find_cannot_be_loaded_to(tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", {"a": torch.ones(3)})
    trusted = hashbench.manifest(path, kernel="hashlib")
    with pytest.raises(Unavailable, match="cuda cannot be used: PyTorch finds no GPU of CUDA or ROCm here"):
        load(path, trusted, device="cuda")


# Around another loader ------------------------------------------------------------------------------------------------


def test_another_loader_is_verified_tensor_by_tensor(device: str) -> None:
    expected = {name: tensor.to(device) for name, tensor in state().items()}
    trusted = manifest(expected)
    assert same(dict(verified(expected.items(), trusted)), expected)
    renamed = {f"model.{name}": tensor for name, tensor in expected.items()}
    found = dict(verified(renamed.items(), trusted, names=lambda name: name.removeprefix("model.")))
    assert same(found, renamed)
    wrong = dict(expected)
    wrong["5.w"] = wrong["5.w"].clone()
    wrong["5.w"].view(torch.uint8)[100] ^= 1
    given: dict[str, Any] = {}
    with pytest.raises(VerificationError, match=r"tensor '5\.w' is not what the manifest says"):
        taken(verified(wrong.items(), trusted), given)
    assert list(given) == list(expected)[: list(expected).index("5.w")]


def test_a_loader_that_gives_less_more_or_twice_is_found() -> None:
    expected = {"a": torch.ones(3), "b": torch.zeros(2)}
    trusted = manifest(expected)
    with pytest.raises(VerificationError, match="the loader ended without tensor 'b'"):
        list(verified([("a", expected["a"])], trusted))
    assert list(verified([("a", expected["a"])], trusted, complete=False))
    with pytest.raises(VerificationError, match="tensor 'c' is not in the manifest"):
        list(verified([("c", expected["a"])], trusted))
    with pytest.raises(VerificationError, match="tensor 'a' came before"):
        list(verified([("a", expected["a"]), ("a", expected["a"])], trusted))
    with pytest.raises(VerificationError, match="tensor 'a' is not what the manifest says"):
        list(verified([("a", expected["a"].to(torch.float64))], trusted))


def test_a_buffer_that_the_loader_uses_again_is_verified_before_it_changes() -> None:
    expected = {"a": torch.ones(3), "b": torch.zeros(3)}
    trusted = manifest(expected)

    def loader() -> Iterator[tuple[str, Any]]:
        buffer = torch.empty(3)
        for name, tensor in expected.items():
            buffer.copy_(tensor)
            yield name, buffer

    for name, tensor in verified(loader(), trusted):
        assert torch.equal(tensor, expected[name])


def test_a_subclass_that_another_loader_gives_is_verified_as_what_it_wraps() -> None:
    qdata, scale = torch.arange(12, dtype=torch.int8).reshape(3, 4), torch.ones(3, 1)
    given = [("0.weight", Quantised(qdata, scale)), ("0.bias", torch.zeros(3))]
    trusted = manifest({"0._weight_qdata": qdata, "0._weight_scale": scale, "0.bias": torch.zeros(3)})
    assert trusted == manifest(dict(given))
    ((_, tensor), _) = verified(given, trusted)
    assert tensor is given[0][1]
    with pytest.raises(VerificationError, match=r"tensor '0\._weight_qdata' came before"):
        list(verified([given[0], given[0]], trusted))
    with pytest.raises(VerificationError, match=r"tensor '_w_qdata' is not in the manifest"):
        list(verified([("w", tensor)], trusted))
    scale[2] = 0
    with pytest.raises(VerificationError, match=r"tensor '0\._weight_scale' is not what the manifest says"):
        list(verified(given, trusted))


def test_a_subclass_around_mapped_tensors_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "model.safetensors", {"q": torch.ones(4), "s": torch.ones(4)})
    mapped = safetensors_torch.load_file(path)
    given = {"w": Quantised(mapped["q"], mapped["s"])}
    with pytest.raises(TensorError, match="tensor 'w': it wraps tensors that are mapped"):
        list(verified(given.items(), manifest(given)))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which memory processes share")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of other tests do not matter to it
def test_memory_that_processes_share_is_copied_before_it_is_verified() -> None:
    shared = mmap.mmap(-1, 4096)
    given = {"a": torch.frombuffer(shared, dtype=torch.uint8)}
    trusted = manifest(given)
    (note,) = verify(given, trusted).notes
    assert note.startswith("1 tensor is mapped from memory that processes share: a change there changes it")
    found = dict(verified(given.items(), trusted))
    with pytest.MonkeyPatch.context() as patched:  # a driver's own memory looks the same, and is nobody else's
        patched.setattr(torch.Tensor, "is_pinned", lambda tensor: True)
        assert not verify(given, trusted).notes
    if (child := os.fork()) == 0:
        shared[0] = 1
        os._exit(0)
    os.waitpid(child, 0)
    assert not verify(given, trusted).ok
    assert verify(found, trusted).ok


def test_devices_are_no_files_that_others_write_to_but_large_pages_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = torch.zeros(64)
    start = tensor.data_ptr()
    found = {}
    for path in ("/dev/nvidia0", "/dev/hugepages/model", "/dev/shm/model"):
        maps = tmp_path / "maps"
        maps.write_text(f"{start:x}-{start + 4096:x} rw-s 00000000 00:0f 1234 {path}\n")
        monkeypatch.setattr("hashbench.torch.mapped._MAPS", maps)
        found[path] = verify({"a": tensor}, manifest({"a": tensor})).notes != ()
    assert found == {"/dev/nvidia0": False, "/dev/hugepages/model": True, "/dev/shm/model": True}


def test_what_another_loader_maps_is_copied_before_it_is_verified(tmp_path: Path) -> None:
    expected = {"a": torch.ones(5000), "b": torch.zeros(5000)}
    path = write(tmp_path, "model.safetensors", expected)
    trusted = hashbench.manifest(path, kernel="hashlib")
    found = dict(verified(safetensors_torch.load_file(path).items(), trusted))
    path.write_bytes(bytes(path.stat().st_size))
    assert same(found, expected)
