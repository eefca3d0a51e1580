"""Leaf hashes that are on the device already fold to the roots of RFC 9162."""

from __future__ import annotations

import pytest
from boundaries import painted
from folding import check_fold, leaves_of
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from hashbench.kernels import Kernel
from hashbench.merkle.rfc9162 import root_of


@given(pieces=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 17)), max_size=20))
@examples(20)
def test_segments_of_one_buffer_at_any_alignment(any_kernel: Kernel, pieces: list[tuple[int, int]]) -> None:
    check_fold(any_kernel, pieces)


def test_segments_of_several_buffers(any_kernel: Kernel) -> None:
    counts = (1, 300, 2, 3, 257)
    trees = [leaves_of(any_kernel, count, count) for count in counts]
    owners = [any_kernel.put(b"".join(trees[i]) + b"".join(trees[i + 1])) for i in (0, 2)]
    size = any_kernel.algorithm.digest_size
    segments = [owners[0][:size], owners[0][size:], owners[1][: 2 * size], owners[1][2 * size :]]
    segments.insert(1, any_kernel.put(b"".join(trees[4])))
    found = any_kernel.fold(segments)
    expected = [root_of(trees[i], any_kernel.algorithm.name) for i in (0, 4, 1, 2, 3)]
    assert list(map(bytes, found)) == expected


def test_nothing_to_fold(any_kernel: Kernel) -> None:
    assert any_kernel.fold([]).shape == (0, any_kernel.algorithm.digest_size)


def test_the_leaves_of_a_buffer_fold_to_its_tree(any_kernel: Kernel) -> None:
    """What several ranks do: leaves stay on the device, and their roots are those of one call."""
    buffer = any_kernel.put(painted(64 * 1000 + 3))
    leaves = any_kernel.prepare("leaves", [buffer], 64)
    leaves.start()
    fold = any_kernel.prepare_fold([leaves.result()])
    fold.start()  # on the same stream, so after the leaves
    fold.wait()
    leaves.wait()
    for _ in range(2):  # what it read is what it was
        assert fold.digests().tobytes() == any_kernel.tree([buffer], 64).tobytes()
        fold.run()


@pytest.mark.parametrize("nbytes", [0, 1, 31, 33, 47, 49])
def test_what_is_no_leaf_hashes(kernel: Kernel, nbytes: int) -> None:
    size = kernel.algorithm.digest_size
    with pytest.raises(ValueError, match=rf"a segment of {nbytes} bytes is not accepted.* positive multiple of {size}"):
        kernel.prepare_fold([kernel.put(bytes(size)), kernel.put(bytes(nbytes))])


def test_a_buffer_for_a_sequence_of_buffers(kernel: Kernel) -> None:
    with pytest.raises(TypeError, match="segments must be a sequence of buffers"):
        kernel.prepare_fold(kernel.put(bytes(96)))  # type: ignore[arg-type]
