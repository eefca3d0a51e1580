"""Attacks on models in memory: what a checkpoint can put beside a tensor never chooses the memory that is hashed."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_folders import safetensors_file, write

import hashbench
from hashbench.model.contents import ModelError
from hashbench.model.manifest import Manifest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

from safetensors.torch import save_file  # noqa: E402  # after what it needs is known to be there

from hashbench.torch import manifest, verify  # noqa: E402

pytestmark = pytest.mark.covers("torch")

SHADOWED = [
    "data_ptr",
    "untyped_storage",
    "is_contiguous",
    "stride",
    "storage_offset",
    "numel",
    "detach",
    "view",
    "as_strided",
    "numpy",
    "nbytes",
    "shape",
    "dtype",
    "device",
    "itemsize",
    "is_conj",
    "is_neg",
    "is_nested",
    "layout",
    "element_size",
]


class Module(torch.nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4, 4))


def loaded(weight: Any, **attributes: Any) -> Any:
    """A module that loaded a checkpoint with this weight, and took over the very tensor with its attributes."""
    stream = io.BytesIO()
    torch.save({"weight": weight}, stream)
    stream.seek(0)
    module = Module()
    state = torch.load(stream, weights_only=True)
    state["weight"].__dict__.update(attributes)  # as a pickle can, though torch.save does not write such
    module.load_state_dict(state, assign=True)
    return module


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("name", SHADOWED)
def test_attributes_of_an_instance_are_not_believed(name: str, strided: bool) -> None:
    """A checkpoint can set any attribute of a tensor to a value, as which the good tensor would do."""
    good, evil = torch.ones(4, 4), torch.full((4, 4), 666.0)
    if strided:
        good, evil = good.T, torch.arange(16.0).reshape(4, 4).T
    trusted = manifest({"weight": good})
    assert verify(loaded(good), trusted).ok
    for weight in (evil, torch.nn.Parameter(evil)):
        assert verify(loaded(weight, **{name: good}), trusted).differs == ("weight",)


def test_a_method_that_an_instance_shadows_is_not_called() -> None:
    good, evil = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.zeros(4))
    trusted = manifest({"w": good})
    methods = ("data_ptr", "untyped_storage", "is_contiguous", "stride", "detach", "storage_offset", "numel")
    for name in methods:
        evil.__dict__[name] = getattr(good, name)
    assert evil.data_ptr() == good.data_ptr()
    assert verify({"w": evil}, trusted).differs == ("w",)


def test_a_subclass_that_overrides_is_not_believed() -> None:
    good = torch.ones(4)
    trusted = manifest({"w": good})

    class Liar(torch.Tensor):  # type: ignore[name-defined,misc]
        is_meta = False
        shape = torch.Size([4])
        dtype = torch.float32

        def data_ptr(self) -> int:
            return int(good.data_ptr())

        def detach(self) -> Any:
            return good

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return function(good)

    evil = torch.zeros(4).as_subclass(Liar)
    assert verify({"w": evil}, trusted).differs == ("w",)


def test_a_wrapper_is_refused() -> None:
    class Wrapper(torch.Tensor):  # type: ignore[name-defined,misc]
        @staticmethod
        def __new__(cls) -> Any:
            return torch.Tensor._make_wrapper_subclass(cls, (4,))

        @classmethod
        def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return torch.ones(4)

    report = verify({"w": Wrapper()}, manifest({"w": torch.ones(4)}))
    (problem,) = report.problems
    assert "a wrapper around other tensors" in problem
    assert not report.ok


EMPTY: dict[str, Callable[[], Any]] = {
    "no tensors": dict,
    "a module without tensors": torch.nn.ReLU,
    "tensors without bytes": lambda: {"a": torch.empty(0), "b": torch.empty(3, 0)},
}


@pytest.mark.parametrize("model", EMPTY.values(), ids=EMPTY)
def test_an_empty_model_is_refused_in_memory_as_on_disk(tmp_path: Path, model: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="there is nothing to hash"):
        manifest(model())
    state = model().state_dict() if isinstance(model(), torch.nn.Module) else model()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="there is nothing to hash"):
        hashbench.manifest(tmp_path, only_tensors=True)


def test_a_manifest_without_tensors_verifies_no_model() -> None:
    with pytest.raises(ValueError, match="no tensors"):
        verify({}, Manifest("sha256", 4096, ()))


def test_a_component_is_its_own_tensors_alone(tmp_path: Path) -> None:
    files = {
        "unet/diffusion_pytorch_model.safetensors": safetensors_file({"w": b"unet"}),
        "vae/diffusion_pytorch_model.safetensors": safetensors_file({"w": b"vae!"}),
        "vae/diffusion_pytorch_model.fp16.safetensors": safetensors_file({"w": b"half"}),
    }
    pipeline = hashbench.manifest(write(tmp_path, files), kernel="hashlib")

    def module(data: bytes, **more: bytes) -> dict[str, Any]:
        return {
            name: torch.frombuffer(bytearray(value), dtype=torch.uint8) for name, value in {"w": data, **more}.items()
        }

    assert verify(module(b"unet"), pipeline, component="unet").ok
    assert verify(module(b"vae!"), pipeline, component="unet").differs == ("w",)
    assert verify(module(b"half"), pipeline, component="vae/diffusion_pytorch_model.fp16.safetensors").ok
    assert verify(module(b"vae!", extra=b"x"), pipeline, component="vae").extra == ("extra",)
    assert verify({}, pipeline, component="vae").missing == ("w",)
    for component in ("", "scheduler", "un", "unet/", "vae/diffusion_pytorch_model"):
        with pytest.raises(ValueError, match="no tensors of"):
            verify(module(b"unet"), pipeline, component=component)
