"""A decoder at work on a GPU, step by step: transformers' Llama with random weights, each step one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from time import perf_counter
from typing import Any

IN_FLIGHT = 2
"""Steps that are launched before the first of them ends, as engines do that schedule ahead."""

CONTEXT = 512
"""Tokens that each sequence of a batch has in its cache."""

SMALLER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
}
"""Llama 3.1 8B, and a decoder for tests."""


@dataclass(frozen=True)
class Steps:
    """How a number of steps went.

    Attributes:
        milliseconds: the time of each, by the device's clock, from the end of the one before.
    """

    milliseconds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean, in milliseconds."""
        return sum(self.milliseconds) / len(self.milliseconds)

    @property
    def p99(self) -> float:
        """The time that one step in a hundred exceeds; of fewer, the longest."""
        return sorted(self.milliseconds)[min(len(self.milliseconds) - 1, int(0.99 * len(self.milliseconds)))]


class Decoder:
    """A model with random weights.

    Args:
        shape: options of transformers' LlamaConfig.
        device: of PyTorch.
        compiled: whether torch.compile fuses what lies between matrix products.

    Attributes:
        model: transformers' LlamaForCausalLM, in bfloat16.
    """

    def __init__(self, shape: dict[str, Any], device: Any, *, compiled: bool = True) -> None:
        import torch
        from torch.nn.functional import scaled_dot_product_attention
        from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
        from transformers.models.llama import modeling_llama

        def whole_cache(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> tuple[Any, None]:
            """Attention over all of the cache, without a mask, so that PyTorch's fast kernels take it."""
            causal, scale = query.shape[2] > 1, options.get("scaling")
            out = scaled_dot_product_attention(query, key, value, is_causal=causal, scale=scale, enable_gqa=True)
            return out.transpose(1, 2).contiguous(), None

        AttentionInterface.register("whole_cache", whole_cache)
        config = LlamaConfig(**shape, max_position_embeddings=8192)
        config._attn_implementation = "whole_cache"
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        self.model = model.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
        generator = torch.Generator(device).manual_seed(0)
        for weight in self.model.parameters():
            weight.normal_(0, 0.02, generator=generator)
        with torch.device(device):
            self.model.model.rotary_emb = modeling_llama.LlamaRotaryEmbedding(config).to(device)
        if compiled:
            _compile(modeling_llama)
        self._device = device

    def decoding(self, batch: int) -> Callable[[], None]:
        """A step that decodes a token of each of `batch` sequences, always at the end of the context."""
        import torch
        from transformers import StaticCache

        config = self.model.config
        cache = StaticCache(config=config, max_cache_len=CONTEXT)
        ids = torch.randint(0, config.vocab_size, (batch, 1), device=self._device)
        positions = torch.full((batch, 1), CONTEXT - 1, device=self._device)
        # The argument's name until and from transformers 5.24.
        given = {"cache" if "cache" in signature(self.model.forward).parameters else "past_key_values": cache}

        def step() -> None:
            with torch.no_grad():
                for layer in cache.layers:
                    if isinstance(length := getattr(layer, "cumulative_length", None), torch.Tensor):
                        length.fill_(CONTEXT - 1)  # which the cache would count up
                out = self.model(ids, cache_position=positions[0], position_ids=positions, use_cache=True, **given)
                ids.copy_(out.logits[:, -1:].argmax(-1))

        return step

    @contextmanager
    def calling(self, call: Callable[[], None], products: Sequence[str], every: int = 1) -> Iterator[None]:
        """A context in which every so many-th layer, from the first on, calls that before it computes those matrix
        products, by the modules' names."""
        modules = [layer.get_submodule(name) for layer in self.model.model.layers[::every] for name in products]
        hooks = [module.register_forward_pre_hook(lambda *_: call()) for module in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def prefilling(self, tokens: int) -> Callable[[], None]:
        """A step that reads a prompt of that many tokens."""
        import torch

        ids = torch.randint(0, self.model.config.vocab_size, (1, tokens), device=self._device)

        def step() -> None:
            with torch.no_grad():
                self.model(ids, use_cache=False, logits_to_keep=1)

        return step


def _compile(llama: Any) -> None:
    """Fuses what lies between the matrix products of transformers' Llama, for the rest of the process."""
    import torch
    from torch.nn.functional import silu

    gate = torch.compile(lambda gate, up: silu(gate) * up, dynamic=False)
    llama.LlamaRMSNorm.forward = torch.compile(llama.LlamaRMSNorm.forward, dynamic=False)
    llama.apply_rotary_pos_emb = torch.compile(llama.apply_rotary_pos_emb, dynamic=False)
    llama.LlamaMLP.forward = lambda self, x: self.down_proj(gate(self.gate_proj(x), self.up_proj(x)))


@contextmanager
def by_cublaslt() -> Iterator[None]:
    """A context in which cuBLASLt computes matrix products."""
    import torch

    usual = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library("cublaslt")
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(usual)


class Graph:
    """A step as one CUDA graph, on a stream of high priority.

    Args:
        step: what to capture.
        stream: the stream.
    """

    def __init__(self, step: Callable[[], None], stream: Any) -> None:
        import torch

        self._stream = stream
        with torch.cuda.stream(stream):
            step()  # compiles, and allocates
            step()
        torch.cuda.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            step()
        torch.cuda.synchronize()

    def run(self, seconds: float, least: int = 3) -> Steps:
        """Steps one after another for that long."""
        import torch

        def mark() -> Any:
            event = torch.cuda.Event(enable_timing=True)
            event.record(self._stream)
            return event

        with torch.cuda.stream(self._stream):
            self._graph.replay()
            marks = [mark()]
            begin = perf_counter()
            while perf_counter() - begin < seconds or len(marks) <= least:
                self._graph.replay()
                marks.append(mark())
                if len(marks) > IN_FLIGHT:
                    marks[-IN_FLIGHT].synchronize()
            marks[-1].synchronize()
        return steps_between(marks)


def steps_between(marks: Sequence[Any]) -> Steps:
    """The steps between events."""
    return Steps(tuple(a.elapsed_time(b) for a, b in pairwise(marks)))
