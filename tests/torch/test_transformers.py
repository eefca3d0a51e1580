"""transformers on verified memory: the model computes with the very tensors that were handed out."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

import hashbench  # noqa: E402  # after what it needs is known to be there
from hashbench.torch import load, verify  # noqa: E402

pytestmark = pytest.mark.xdist_group("frameworks")


def test_a_model_is_made_of_verified_tensors(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
    )
    saved = transformers.LlamaForCausalLM(config).eval()
    saved.save_pretrained(tmp_path)  # with the name of its class in the configuration
    trusted = hashbench.manifest(tmp_path, kernel="hashlib")

    state = load(tmp_path, trusted)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    architecture = getattr(transformers, config.architectures[0])
    model = architecture.from_pretrained(None, config=config, state_dict=state).eval()

    held = dict(model.named_parameters())
    assert all(held[name].data_ptr() == tensor.data_ptr() for name, tensor in state.items())
    assert verify(model, trusted).ok
    tokens = torch.arange(8)[None]
    with torch.inference_mode():
        assert torch.equal(model(tokens).logits, saved(tokens).logits)
