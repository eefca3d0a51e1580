"""A tensor subclass that wraps others. It needs PyTorch."""

from __future__ import annotations

from typing import Any

import torch


class Quantised(torch.Tensor):  # type: ignore[misc]
    """Int8 weights with a scale, flattened as torchao's tensors are."""

    @staticmethod
    def __new__(cls, qdata: Any, scale: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, qdata.shape, dtype=scale.dtype, device=qdata.device)

    def __init__(self, qdata: Any, scale: Any) -> None:
        self.qdata, self.scale = qdata, scale

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["qdata", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].qdata, args[0].scale)
        raise NotImplementedError(function)
