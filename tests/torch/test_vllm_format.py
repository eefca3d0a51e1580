"""vLLM's load format: real files through vLLM's interface, which a stand-in offers where vLLM is not installed.

The same calls were run once against vLLM 0.33's own loader (docs/loading.md says how).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from model_folders import index_of

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

import hashbench  # noqa: E402  # after what it needs is known to be there
from hashbench.hashing.verification_error import VerificationError  # noqa: E402
from hashbench.model.manifest import Manifest  # noqa: E402
from hashbench.torch.vllm_format import register  # noqa: E402

pytestmark = pytest.mark.covers("torch")

SHARDS = {
    "model-00001-of-00002.safetensors": {"a.weight": torch.arange(60.0).reshape(6, 10), "b": torch.ones(7)},
    "model-00002-of-00002.safetensors": {"c": torch.zeros(3, 2, dtype=torch.bfloat16)},
}
TENSORS = {name: tensor for shard in SHARDS.values() for name, tensor in shard.items()}


@dataclass
class LoadConfig:
    """What a loader reads of vLLM's."""

    load_format: str
    model_loader_extra_config: dict[str, Any] = field(default_factory=dict)


class DefaultModelLoader:
    """vLLM's interface: it refuses options and formats that it does not know, and asks for weights in one place."""

    counter_before_loading_weights = 0.0

    def __init__(self, load_config: LoadConfig) -> None:
        self.load_config = load_config
        if unexpected := load_config.model_loader_extra_config.keys() - {"num_threads"}:
            raise ValueError(f"Unexpected extra config keys: {unexpected}")

    def _prepare_weights(self, path: str, *_: Any) -> tuple[str, list[str], bool, str]:
        if self.load_config.load_format != "safetensors":
            raise ValueError(f"Unknown load_format: {self.load_config.load_format}")
        return path, sorted(map(str, Path(path).glob("*.safetensors"))), True, "model.safetensors.index.json"

    def get_all_weights(self, config: Any, model: Any) -> Any:
        source = SimpleNamespace(
            model_or_path=config.model,
            revision=None,
            subfolder=None,
            prefix="",
            fall_back_to_pt=True,
            allow_patterns_overrides=None,
        )
        yield from self._get_weights_iterator(source)

    def _get_weights_iterator(self, source: Any) -> Any:
        raise NotImplementedError

    def load_weights(self, model: Any, config: Any) -> None:
        model.load_weights(self.get_all_weights(config, model))


def registered(monkeypatch: pytest.MonkeyPatch, loader: type) -> dict[str, Any]:
    """What is registered with a vLLM that has this loader."""
    loaders: dict[str, Any] = {}
    loading: Any = ModuleType("vllm.model_executor.model_loader")
    loading.register_model_loader = lambda name: lambda cls: loaders.setdefault(name, cls)
    default: Any = ModuleType("vllm.model_executor.model_loader.default_loader")
    setattr(default, loader.__name__, loader)
    for name in ("vllm", "vllm.model_executor"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for module in (loading, default):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    register()
    return loaders


@pytest.fixture
def new_loader(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the loader of the registered format."""
    if find_spec("vllm") is None:
        loaders = registered(monkeypatch, DefaultModelLoader)
        return lambda **options: loaders["hashbench"](LoadConfig("hashbench", options))
    from vllm.config.load import LoadConfig as VllmConfig
    from vllm.model_executor.model_loader import get_model_loader

    register()
    return lambda **options: get_model_loader(VllmConfig(load_format="hashbench", model_loader_extra_config=options))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, tensors in SHARDS.items():
        safetensors_torch.save_file(tensors, folder / name)
    index = index_of({name: list(tensors) for name, tensors in SHARDS.items()})
    (folder / "model.safetensors.index.json").write_bytes(index)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    return folder


def written(model: Path) -> tuple[Path, Manifest]:
    trusted = hashbench.manifest(model, kernel="hashlib")
    path = model.parent / "model.manifest.json"
    path.write_bytes(trusted.text())
    return path, trusted


def weights(loader: Any, model: Path) -> dict[str, Any]:
    return dict(loader.get_all_weights(SimpleNamespace(model=str(model), revision=None), torch.nn.Module()))


def test_all_weights_come_as_they_are_in_the_files(new_loader: Any, model: Path) -> None:
    path, trusted = written(model)
    loader = new_loader(manifest=str(path), root=trusted.root.hex())
    found = weights(loader, model)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in TENSORS.items())
    assert loader.counter_before_loading_weights > 0


def test_a_weight_that_differs_is_not_served(new_loader: Any, model: Path) -> None:
    path, trusted = written(model)
    loader = new_loader(manifest=str(path), root=trusted.root.hex())
    shard = model / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\1")
    with pytest.raises(VerificationError, match="tensor 'c' has other bytes"):
        weights(loader, model)


def test_a_file_that_the_manifest_does_not_list_is_refused(new_loader: Any, model: Path) -> None:
    path, trusted = written(model)
    loader = new_loader(manifest=str(path), root=trusted.root.hex())
    more = SHARDS["model-00001-of-00002.safetensors"]
    safetensors_torch.save_file(more, model / "model-00003-of-00002.safetensors")
    (model / "model.safetensors.index.json").unlink()  # by which vLLM would pass it over
    with pytest.raises(VerificationError, match=r"'model-00003-of-00002\.safetensors' is not in the manifest"):
        weights(loader, model)


def test_a_shard_that_an_index_leaves_out_is_missed(new_loader: Any, model: Path) -> None:
    path, trusted = written(model)
    loader = new_loader(manifest=str(path), root=trusted.root.hex())
    first, second = SHARDS
    (model / "model.safetensors.index.json").write_bytes(index_of({first: list(SHARDS[first])}))
    (model / second).unlink()  # vLLM would pass it over, for the index does not name it
    with pytest.raises(VerificationError, match=rf"'{second}' has tensors of the model, and vLLM does not load it"):
        weights(loader, model)


def test_the_manifest_must_be_the_trusted_one(new_loader: Any, model: Path) -> None:
    path, trusted = written(model)
    with pytest.raises(ValueError, match="needs the extra config 'manifest', a string"):
        new_loader()
    with pytest.raises(ValueError, match="needs the extra config 'root', a string"):
        new_loader(manifest=str(path))
    with pytest.raises(VerificationError, match="is not trusted: its root is"):
        new_loader(manifest=str(path), root="00" * 32)
    with pytest.raises(ValueError, match="Unexpected extra config keys"):
        new_loader(manifest=str(path), root=trusted.root.hex(), other=1)


class Receiving:
    """A model that vLLM loads weights into."""

    def load_weights(self, weights: Any) -> None:
        self.weights = dict(weights)


@pytest.mark.parametrize("missing", ["_get_weights_iterator", "_prepare_weights", "load_weights", "DefaultModelLoader"])
def test_a_vllm_with_another_loader_starts_without_the_format(
    missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = {name: value for name, value in vars(DefaultModelLoader).items() if name != missing}
    name = "OtherLoader" if missing == "DefaultModelLoader" else "DefaultModelLoader"
    assert registered(monkeypatch, type(name, (), own)) == {}
    assert "the load format hashbench is not there: this vLLM" in caplog.text
    assert missing in caplog.text


def test_a_vllm_that_loads_past_the_format_does_not_start(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    path, trusted = written(model)
    config = SimpleNamespace(model=str(model), revision=None)

    def load(loader: type) -> Receiving:
        made = registered(monkeypatch, loader)["hashbench"]
        receiving = Receiving()
        options = {"manifest": str(path), "root": trusted.root.hex()}
        made(LoadConfig("hashbench", options)).load_weights(receiving, config)
        return receiving

    assert load(DefaultModelLoader).weights.keys() == TENSORS.keys()
    past = {"load_weights": lambda self, model, config: model.load_weights({"a.weight": torch.zeros(1)})}
    with pytest.raises(VerificationError, match="did not hand out"):
        load(type("DefaultModelLoader", (DefaultModelLoader,), past))
