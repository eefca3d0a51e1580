"""Models to hash: the names, shapes and dtypes of every tensor, from the public configurations. No weights.

The names are those of the models' safetensors files on the Hugging Face hub, and the configurations those of their
config.json there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

from hashbench.model.dtypes import tensor_nbytes


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model.

    Attributes:
        name: its name in the model's safetensors files.
        shape: its shape.
        dtype: the safetensors name of its dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """The product of the shape."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor, row-major, without padding."""
        return tensor_nbytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Model:
    """The inventory of one model.

    Attributes:
        name: the short name in results files.
        title: the name that its authors use.
        tensors: sorted by name, by Unicode code points.
    """

    name: str
    title: str
    tensors: tuple[Tensor, ...]

    @cached_property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


Shape = tuple[str, tuple[int, ...]]


def _model(name: str, title: str, dtype: str, shapes: Iterable[Shape]) -> Model:
    return Model(name, title, tuple(Tensor(tensor, shape, dtype) for tensor, shape in sorted(shapes)))


def _linear(name: str, outputs: int, inputs: int) -> Iterator[Shape]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[Shape]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _bert(hidden: int, layers: int, feed_forward: int, vocabulary: int, positions: int) -> Iterator[Shape]:
    """BERT with its pooler, without heads."""
    yield "embeddings.word_embeddings.weight", (vocabulary, hidden)
    yield "embeddings.position_embeddings.weight", (positions, hidden)
    yield "embeddings.token_type_embeddings.weight", (2, hidden)
    yield from _norm("embeddings.LayerNorm", hidden)
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{prefix}.attention.{part}", hidden, hidden)
        yield from _norm(f"{prefix}.attention.output.LayerNorm", hidden)
        yield from _linear(f"{prefix}.intermediate.dense", feed_forward, hidden)
        yield from _linear(f"{prefix}.output.dense", hidden, feed_forward)
        yield from _norm(f"{prefix}.output.LayerNorm", hidden)
    yield from _linear("pooler.dense", hidden, hidden)


def _gpt2(hidden: int, layers: int, vocabulary: int, positions: int) -> Iterator[Shape]:
    """GPT-2, whose output matrix is that of its input; its matrices are stored transposed."""

    def transposed(name: str, inputs: int, outputs: int) -> Iterator[Shape]:
        yield f"{name}.weight", (inputs, outputs)
        yield f"{name}.bias", (outputs,)

    yield "wte.weight", (vocabulary, hidden)
    yield "wpe.weight", (positions, hidden)
    for layer in range(layers):
        prefix = f"h.{layer}"
        yield from _norm(f"{prefix}.ln_1", hidden)
        yield from transposed(f"{prefix}.attn.c_attn", hidden, 3 * hidden)
        yield from transposed(f"{prefix}.attn.c_proj", hidden, hidden)
        yield from _norm(f"{prefix}.ln_2", hidden)
        yield from transposed(f"{prefix}.mlp.c_fc", hidden, 4 * hidden)
        yield from transposed(f"{prefix}.mlp.c_proj", 4 * hidden, hidden)
    yield from _norm("ln_f", hidden)


def _llama(
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head: int,
    feed_forward: int,
    vocabulary: int,
    *,
    tied: bool = False,
    qkv_bias: bool = False,
    experts: int = 0,
) -> Iterator[Shape]:
    """Llama and what is built like it: Qwen2.5 has biases in its attention, Mixtral several feed-forward networks."""
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for part, width in (("q", heads * head), ("k", kv_heads * head), ("v", kv_heads * head)):
            yield f"{prefix}.self_attn.{part}_proj.weight", (width, hidden)
            if qkv_bias:
                yield f"{prefix}.self_attn.{part}_proj.bias", (width,)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, heads * head)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        if experts:
            yield f"{prefix}.block_sparse_moe.gate.weight", (experts, hidden)
        for expert in range(experts):
            network = f"{prefix}.block_sparse_moe.experts.{expert}"
            yield f"{network}.w1.weight", (feed_forward, hidden)
            yield f"{network}.w2.weight", (hidden, feed_forward)
            yield f"{network}.w3.weight", (feed_forward, hidden)
        if not experts:
            yield f"{prefix}.mlp.gate_proj.weight", (feed_forward, hidden)
            yield f"{prefix}.mlp.up_proj.weight", (feed_forward, hidden)
            yield f"{prefix}.mlp.down_proj.weight", (hidden, feed_forward)
    yield "model.norm.weight", (hidden,)
    if not tied:
        yield "lm_head.weight", (vocabulary, hidden)


MODELS = {
    model.name: model
    for model in (
        _model("bert-base", "BERT base uncased", "F32", _bert(768, 12, 3072, 30522, 512)),
        _model("gpt-2", "GPT-2", "F32", _gpt2(768, 12, 50257, 1024)),
        _model("llama-3.2-1b", "Llama 3.2 1B", "BF16", _llama(2048, 16, 32, 8, 64, 8192, 128256, tied=True)),
        _model("llama-3.1-8b", "Llama 3.1 8B", "BF16", _llama(4096, 32, 32, 8, 128, 14336, 128256)),
        _model("qwen2.5-32b", "Qwen2.5 32B", "BF16", _llama(5120, 64, 40, 8, 128, 27648, 152064, qkv_bias=True)),
        _model("mixtral-8x7b", "Mixtral 8x7B", "BF16", _llama(4096, 32, 32, 8, 128, 14336, 32000, experts=8)),
        _model("llama-3.1-70b", "Llama 3.1 70B", "BF16", _llama(8192, 80, 64, 8, 128, 28672, 128256)),
        _model("llama-3.1-405b", "Llama 3.1 405B", "BF16", _llama(16384, 126, 128, 8, 128, 53248, 128256)),
    )
}
"""Every model by its name, the smallest first."""
