"""Models of other libraries as those make them: PEFT's adapters, accelerate's offloading, torchao's quantisation."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

import hashbench  # noqa: E402  # after what it needs is known to be there
from hashbench.model.manifest import Manifest  # noqa: E402
from hashbench.torch import manifest, verify  # noqa: E402

pytestmark = [
    pytest.mark.xdist_group("frameworks"),  # whose imports take seconds
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of one library by another
]

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
}
LAYER = "model.layers.0.mlp.up_proj"
WEIGHT = f"{LAYER}.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Manifest]:
    """A model, and the manifest of its files."""
    folder: Path = tmp_path_factory.mktemp("model")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()
    model.save_pretrained(folder)
    return model, hashbench.manifest(folder, kernel="hashlib")


def flip(tensor: Any) -> None:
    tensor.detach().view(torch.uint8).view(-1)[5] ^= 1


@pytest.mark.covers("peft")
@pytest.mark.parametrize(
    ("adapter", "ignored"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, ["*.lora_*"]),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, ["*.lora_*", "*.modules_to_save.*"]),
        ({"target_modules": ["q_proj"], "use_dora": True}, ["*.lora_*"]),
        (None, ["*prompt*"]),
    ],
    ids=["lora", "modules to save", "dora", "prompt tuning"],
)
def test_an_adapters_base_model_is_seen_through(
    saved: tuple[Any, Manifest], adapter: dict[str, Any] | None, ignored: list[str]
) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install peft")
    model, trusted = deepcopy(saved[0]), saved[1]
    if adapter is None:
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    else:
        config = peft.LoraConfig(**adapter)
    adapted = peft.get_peft_model(model, config)
    assert verify(adapted, trusted, ignore=ignored).ok
    assert not verify(adapted, trusted).ok, "the adapter's own tensors are extra"
    flip(model.get_parameter(WEIGHT))
    report = verify(adapted, trusted, ignore=ignored)
    assert report.differs == (WEIGHT,)


@pytest.mark.covers("peft")
def test_an_adapter_that_was_merged_leaves_other_weights(saved: tuple[Any, Manifest]) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install peft")
    adapted = peft.get_peft_model(deepcopy(saved[0]), peft.LoraConfig(target_modules=["q_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    report = verify(adapted.merge_and_unload(), saved[1])
    assert report.differs == tuple(f"model.layers.{n}.self_attn.q_proj.weight" for n in range(2))


@pytest.mark.covers("accelerate")
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_a_model_that_is_offloaded_is_refused_in_words(saved: tuple[Any, Manifest], where: str, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    device, model = torch.device("cpu"), deepcopy(saved[0])
    if where == "cpu":
        accelerate.cpu_offload(model, execution_device=device)
    else:
        accelerate.disk_offload(model, tmp_path, execution_device=device)
    report = verify(model, saved[1])
    assert not report.ok
    assert "offload" in str(report)


@pytest.mark.covers("torchao")
@pytest.mark.parametrize("name", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_quantised_weights_are_taken_apart(saved: tuple[Any, Manifest], name: str) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed: pip install torchao")
    model = deepcopy(saved[0])
    quantization.quantize_(model, getattr(quantization, name)(version=2))
    trusted = manifest(model)
    assert verify(model, trusted).ok
    assert not verify(model, saved[1]).ok
    weight = model.get_parameter(WEIGHT)
    for part in weight.__tensor_flatten__()[0]:
        flip(getattr(weight, part))
        report = verify(model, trusted)
        assert report.differs == (f"{LAYER}._weight_{part}",)
        flip(getattr(weight, part))


@pytest.mark.covers("transformers")
def test_buffers_that_are_not_saved_are_in_a_manifest_of_everything(saved: tuple[Any, Manifest]) -> None:
    model = deepcopy(saved[0])
    trusted = manifest(model, everything=True)
    assert {entry.name for entry in trusted.entries} > {entry.name for entry in saved[1].tensors}
    flip(model.model.rotary_emb.inv_freq)
    assert verify(model, saved[1]).ok
    assert verify(model, trusted).differs == ("model.rotary_emb.inv_freq",)
