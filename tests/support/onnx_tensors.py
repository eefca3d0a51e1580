"""The oracle for external data: what the onnx package's own parser makes of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
from google.protobuf.message import Message


def tensors(message: Message) -> Iterator[Any]:
    """Every TensorProto within a message, wherever it is."""
    if isinstance(message, onnx.TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                yield from tensors(inner)


def external_entries(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """The external data of each tensor that has some; texts that are not UTF-8 are bytes."""
    return [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
