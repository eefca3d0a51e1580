"""Intel's GPUs without one: the host's memory in place of theirs, and stand-ins for what torch.xpu has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_on_host import CudaOnHost
from kernels_here import build, cases

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
if torch.xpu.is_available():
    pytest.skip("there is such a GPU here, so that nothing can stand in for it", allow_module_level=True)

import hashbench  # noqa: E402
import hashbench.torch.places as places  # noqa: E402
from hashbench.hashing import selection  # noqa: E402
from hashbench.hashing.selection import FASTEST_FIRST  # noqa: E402
from hashbench.hashing.verification_error import VerificationError  # noqa: E402
from hashbench.kernels import Kernel, Unavailable  # noqa: E402
from hashbench.kernels.contract import Priority  # noqa: E402
from hashbench.torch import Portion, TensorError, iterate, kernel_for, load, manifest, modules, verify  # noqa: E402
from hashbench.torch.devices import stream_on  # noqa: E402
from hashbench.torch.held import Held, held  # noqa: E402
from hashbench.torch.memory import Location, reader_for  # noqa: E402
from hashbench.torch.tensors import _refusal_of_device, described  # noqa: E402

GPU = torch.device("xpu", 1)
CASES = [case for case in cases() if case.cls is CudaOnHost]


class Stream(torch.xpu.Stream):  # type: ignore[name-defined,misc]
    """A stream of a device that may not be there."""

    def __new__(cls, device: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, device: Any) -> None:
        self.device, self.waits = device, 0

    def synchronize(self) -> None:
        self.waits += 1

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Event:
    """It takes no `blocking`, as Intel's."""

    def record(self, stream: Stream) -> None:
        self._stream = stream

    def synchronize(self) -> None:
        self._stream.synchronize()


class OnHost(CudaOnHost):
    """What hashes in the memory that stands for the GPU's."""

    def __init__(self, device: Any, algorithm: str = "sha256", priority: Priority = "normal") -> None:
        super().__init__(device, algorithm)
        self.priority = priority


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Stream]]:
    """The second of two GPUs is the current one. What is there are the streams on which something was enqueued."""
    if not CASES:
        pytest.skip("a C++ compiler is needed to try the CUDA source on the host")
    used: list[Stream] = []
    current, empty, usual = Stream(GPU), torch.empty, selection.choose

    @contextmanager
    def stream(given: Stream) -> Iterator[None]:
        used.append(given)
        yield

    def choose(name: str, device: str, algorithm: str) -> Kernel:
        if name in FASTEST_FIRST["cpu"]:
            return usual(name, device, algorithm)
        assert (name, device) == ("triton", "1")
        return OnHost(build(CASES[0], algorithm).device, algorithm)

    def in_host_memory(*arguments: Any, device: Any = None, **options: Any) -> Any:
        return empty(*arguments, device=None if device == GPU else device, **options)

    stands_in = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 1,
        current_stream=lambda device: current,
        stream=stream,
        Event=Event,
    )
    for name, value in vars(stands_in).items():
        monkeypatch.setattr(torch.xpu, name, value)
    monkeypatch.setattr(torch, "empty", in_host_memory)
    monkeypatch.setattr(places, "choose", choose)
    places.place_of.cache_clear()
    yield used
    places.place_of.cache_clear()


def state() -> dict[str, Any]:
    """Tensors of several sizes, one of them not contiguous."""
    whole = torch.arange(3 * 5000, dtype=torch.int32).reshape(3, 5000)
    return {"a": whole.clone(), "b": torch.ones(7), "empty": torch.ones(0), "turned": whole.t()}


def on_gpu(model: Any, *_: Any, **__: Any) -> Held:
    """What a model holds, as if it were on the GPU."""
    return Held({name: found._replace(device=GPU) for name, found in held(model).tensors.items()}, {})


def test_the_kernel_is_tritons_on_the_current_gpu(used: list[Stream]) -> None:
    assert kernel_for(torch.device("xpu")) is kernel_for(GPU)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_a_model_is_hashed_and_verified_in_place(
    used: list[Stream], algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = state()
    expected = manifest(model, algorithm=algorithm)
    monkeypatch.setattr(modules, "held", on_gpu)
    monkeypatch.setattr(places, "_host_kernel", None)  # which is not asked
    assert manifest(model, algorithm=algorithm) == expected
    assert verify(model, expected).ok
    model["a"].view(torch.uint8)[1, 77] ^= 16
    assert verify(model, expected).differs == ("a",)


def test_what_a_stream_was_given_before_is_waited_for(used: list[Stream], monkeypatch: pytest.MonkeyPatch) -> None:
    model = state()
    expected = manifest(model)
    monkeypatch.setattr(modules, "held", on_gpu)
    given, elsewhere = Stream(GPU), Stream(torch.device("xpu", 0))
    current: Any = stream_on(GPU, None)
    for stream, waited in ((given, given), (elsewhere, current), (None, current)):
        used.clear()
        before = waited.waits
        assert verify(model, expected, stream=stream).ok
        assert waited.waits >= before + 2  # once for all, and once for each piece that was gathered
        assert used == [waited]
    assert elsewhere.waits == 0


def test_a_model_is_loaded(used: list[Stream], tmp_path: Path) -> None:
    model = {name: tensor.contiguous() for name, tensor in state().items()}
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file(model, path)
    trusted = hashbench.manifest(path, kernel="hashlib")
    given = Stream(GPU)
    for found in (
        load(path, trusted, device="xpu", stream=given),
        dict(iterate(path, trusted, device=GPU, stream=given, past_cache=True)),
    ):
        assert found.keys() == model.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in model.items())
    assert set(used) == {given}  # their memory was allocated for it
    assert given.waits  # before it was written to
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(VerificationError, match="has other bytes than the manifest says"):
        load(path, trusted, device="xpu")


def test_a_monitor_reads_in_launches_of_its_own(used: list[Stream]) -> None:
    tensor = state()["a"]
    expected = manifest({"a": tensor}).entries[0].root
    (found,) = on_gpu({"a": tensor}).tensors.values()
    for multiprocessors, portion in ((None, None), (2, None), (None, Portion())):
        location = Location.of(found)
        reader: Any = reader_for(location, "sha256", 4096, multiprocessors, portion)
        assert (type(reader.kernel), reader.kernel.priority) == (OnHost, "low")
        assert (reader.confined, reader.trees, reader.portions) == (None, None, None)
        reading = reader.prepare([(location, 0, tensor.nbytes)])
        reading.read()
        assert reader.roots([reading]) == [[expected]]


def test_a_gpu_that_pytorch_does_not_find_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"^xpu:1 cannot be used: PyTorch finds no GPU of Intel's here$"):
        kernel_for(GPU)


def test_tensors_there_are_not_refused() -> None:
    assert _refusal_of_device(GPU) is None
    assert _refusal_of_device(torch.device("mps")) == (
        "it is on mps: only tensors on cpu, cuda and xpu devices can be hashed in place"
    )


def test_sharded_models_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from hashbench.distributed import group, layouts

    monkeypatch.setattr(layouts, "described", lambda *given: described(*given)._replace(device=GPU))
    with pytest.raises(TensorError, match="it is on xpu:1: sharded models are hashed on cpu and cuda devices alone"):
        list(layouts.locals_of({"a": torch.ones(3)}, 0))

    stands_in = {
        "is_initialized": lambda: True,
        "get_rank": lambda *_: 0,
        "get_process_group_ranks": lambda _: [0],
        "get_backend_config": lambda _: "xpu:xccl",
    }
    for name, value in stands_in.items():
        monkeypatch.setattr(torch.distributed, name, value)
    with pytest.raises(group.GroupError, match="backend is xpu:xccl: it must be one for cpu or cuda devices"):
        group.Ranks()


@pytest.mark.parametrize(("device", "said"), [(GPU, "gpu memory"), (torch.device("cpu"), "host memory")])
def test_an_attestation_says_where_a_model_is(device: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashbench.cli import attestation

    model = state()
    expected = manifest(model)
    tensors = {name: found._replace(device=device) for name, found in held(model).tensors.items()}
    monkeypatch.setattr("hashbench.torch.held.held", lambda *_, **__: Held(tensors, {}))
    assert attestation._place(model, expected) == said
