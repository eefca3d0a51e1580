"""The inventories of models: the totals that their makers publish, and names that no tensor shares."""

from __future__ import annotations

import pytest

from hashbench.bench.inventories import MODELS, Model

PARAMETERS = {
    "bert-base": 109_482_240,
    "gpt-2": 124_439_808,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "qwen2.5-32b": 32_763_876_352,
    "mixtral-8x7b": 46_702_792_704,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
}

TENSORS = {
    "bert-base": 199,
    "gpt-2": 148,
    "llama-3.2-1b": 146,
    "llama-3.1-8b": 291,
    "qwen2.5-32b": 771,
    "mixtral-8x7b": 995,
    "llama-3.1-70b": 723,
    "llama-3.1-405b": 1137,
}

of_each = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def test_every_model_is_there_the_smallest_first() -> None:
    assert list(MODELS) == list(PARAMETERS) == sorted(MODELS, key=lambda name: MODELS[name].parameters)


@of_each
def test_totals_are_the_published_ones(model: Model) -> None:
    assert model.parameters == PARAMETERS[model.name]
    assert len(model.tensors) == TENSORS[model.name]
    assert model.nbytes == model.parameters * {"F32": 4, "BF16": 2}[model.tensors[0].dtype]


@of_each
def test_tensors_are_sorted_by_names_of_their_own(model: Model) -> None:
    names = [tensor.name for tensor in model.tensors]
    assert names == sorted(set(names))
    assert all(tensor.nbytes > 0 for tensor in model.tensors)


def test_a_tensor_as_its_file_has_it() -> None:
    (gate,) = (t for t in MODELS["llama-3.1-70b"].tensors if t.name == "model.layers.79.mlp.gate_proj.weight")
    assert (gate.shape, gate.dtype, gate.nbytes) == ((28672, 8192), "BF16", 2 * 28672 * 8192)
