"""Any layout of any model over any mesh has the roots of the model's file, and damage is found and blamed."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from profiles import examples
from safetensors.torch import save_file
from sharded_cases import DTYPES, Case, Outcome, TensorCase, check

import hashbench
from hashbench.distributed import combine, parse_part
from hashbench.experiments.rank_pool import RankPool

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.covers("distributed")]

FORMS = ("dtensor", "shard", "gaps")

LENGTHS = st.integers(0, 9) | st.integers(0, 40) | st.sampled_from([16, 24, 32, 48, 64, 96])
"""Of a dimension. With the last ones, ranks have whole chunks of rows."""


@st.composite
def cases(draw: st.DrawFn, ranks: int) -> Case:
    mesh = draw(st.sampled_from({2: [(2,), (1, 2), (2, 1)], 4: [(4,), (2, 2), (1, 4), (2, 1, 2)]}[ranks]))
    tensors = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(draw(st.lists(LENGTHS, max_size=3)))
        dims = st.none() | st.integers(0, len(shape) - 1) if shape else st.none()
        placements = tuple(draw(st.lists(dims, min_size=len(mesh), max_size=len(mesh))))
        tensors.append(TensorCase(shape, draw(st.sampled_from(DTYPES)), placements, draw(st.sampled_from(FORMS))))
    return Case(
        mesh,
        tuple(tensors),
        draw(st.sampled_from(["sha256", "sha384"])),
        64 * draw(st.integers(1, 3) | st.just(64)),
        draw(st.integers(0, 1 << 30)),
        draw(st.sampled_from([1, 2000, 1 << 30])),
    )


def run(pool: RankPool, case: Case, folder: Path, culprit: int, at: int) -> None:
    model = case.model()
    if not any(tensor.nbytes for tensor in model.values()):
        return
    path = folder / "model.safetensors"
    save_file(model, path)
    of_file = hashbench.manifest(path, algorithm=case.algorithm, chunk_size=case.chunk_size, kernel="hashlib")
    name = f"tensor{at % len(case.tensors)}"
    outcomes = pool.run(check, case, of_file, culprit, name)
    tensors = of_file.of_component("")
    for outcome in outcomes:
        assert isinstance(outcome, Outcome), outcome
        assert outcome.root == tensors.root
        assert outcome.verified[0], outcome.verified[1]
        assert set(outcome.damaged) <= {name}
        if outcome.damaged:
            assert culprit in outcome.damaged[name]
    assert len({tuple(outcome.damaged.items()) for outcome in outcomes}) == 1
    assert combine(parse_part(outcome.part.text()) for outcome in reversed(outcomes)) == tensors


@settings(parent=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_layout_over_two_ranks(two_ranks: RankPool, tmp_path: Path, data: st.DataObject) -> None:
    run(two_ranks, data.draw(cases(2)), tmp_path, data.draw(st.integers(0, 1)), data.draw(st.integers(0, 3)))


@pytest.mark.thorough
@settings(parent=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_layout_over_four_ranks(four_ranks: RankPool, tmp_path: Path, data: st.DataObject) -> None:
    run(four_ranks, data.draw(cases(4)), tmp_path, data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3)))
