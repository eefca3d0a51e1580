"""Strided tensors: NumPy has the same bytes, and little else of the file is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.model import strided
from hashbench.model.strided import gather, is_contiguous, span

SHAPES = st.lists(st.integers(0, 5), max_size=5)


class Source:
    """Bytes in place of a file.

    Attributes:
        count: How many were read.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.count = 0

    def read(self, offset: int, nbytes: int) -> bytes:
        assert 0 <= offset <= offset + nbytes <= len(self._data)
        self.count += nbytes
        return self._data[offset : offset + nbytes]


@given(shape=SHAPES, itemsize=st.sampled_from([1, 2, 4, 8]), data=st.data())
def test_numpy_has_the_same_bytes(shape: list[int], itemsize: int, data: st.DataObject) -> None:
    stride = [data.draw(st.integers(0, 40)) for _ in shape]
    offset = data.draw(st.integers(0, 9))
    end = offset + itemsize * span(shape, stride)
    content = np.random.default_rng(end).integers(0, 256, end, np.uint8).tobytes()
    steps = [itemsize * step for step in stride]
    wanted = np.ndarray(shape, f"V{itemsize}", content[offset:] or b"", 0, steps) if 0 not in shape else np.empty(0)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_SMALL", "_WINDOW"):
            patch.setattr(strided, name, data.draw(st.sampled_from([1, 16, 1000])))
        found = gather(Source(content).read, offset, itemsize, shape, stride)
    assert found.dtype == np.uint8
    assert found.tobytes() == wanted.tobytes()


@given(shape=SHAPES, data=st.data())
def test_contiguous_is_what_numpy_calls_so(shape: list[int], data: st.DataObject) -> None:
    natural = [step // 8 for step in np.empty(shape).strides]
    stride = natural if data.draw(st.booleans()) else [data.draw(st.integers(0, 30)) for _ in shape]
    array = np.ndarray(shape, "V1", bytes(max(1, span(shape, stride))), 0, stride)
    assert is_contiguous(shape, stride) == array.flags.c_contiguous


def test_span_is_from_the_first_element_to_the_last() -> None:
    assert span((), ()) == 1
    assert span((3, 0), (1, 1)) == 0
    assert span((3, 2), (10, 4)) == 25


def test_what_is_far_apart_is_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 8000
    source = Source(content)
    rows = gather(source.read, 7, 1, (20, 70_000), (100_000, 1))
    assert rows.tobytes() == b"".join(content[7 + at : 7 + at + 70_000] for at in range(0, 2_000_000, 100_000))
    assert source.count == 100_000 * 19 + 70_000  # two thirds of it are needed: it is read at once
    source = Source(content)
    monkeypatch.setattr(strided, "_SMALL", 1000)
    rows = gather(source.read, 7, 1, (20, 5000), (100_000, 1))
    assert rows.tobytes() == b"".join(content[7 + at : 7 + at + 5000] for at in range(0, 2_000_000, 100_000))
    assert source.count == 20 * 5000


def test_a_transposed_tensor_is_read_once() -> None:
    content = np.arange(3000 * 4000, dtype=np.uint16)
    source = Source(content.tobytes())
    found = gather(source.read, 0, 2, (4000, 3000), (1, 4000))
    assert found.tobytes() == content.reshape(3000, 4000).T.tobytes()
    assert source.count == content.nbytes
