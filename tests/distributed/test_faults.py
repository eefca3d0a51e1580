"""What goes wrong on one rank: every rank says the same of it, in words, and none waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sharded_cases
import torch
from ranks_here import ranks_here
from safetensors.torch import save_file
from sharded_cases import Case, Fault, TensorCase, verify

import hashbench
from hashbench.experiments.rank_pool import Failed, RankPool
from hashbench.model.manifest import Manifest

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.covers("distributed")]

SHARDED = TensorCase((8, 12), torch.float32, (0,))
COLUMNS = TensorCase((8, 12), torch.float32, (1,))
REPLICATED = TensorCase((8, 12), torch.float32, (None,))


def case_of(*tensors: TensorCase) -> Case:
    return Case((2,), tensors, "sha256", 64, seed=7)


def manifest_of(case: Case, folder: Path) -> Manifest:
    save_file(case.model(), folder / "model.safetensors")
    return hashbench.manifest(folder / "model.safetensors", chunk_size=case.chunk_size, kernel="hashlib")


def found(pool: RankPool, case: Case, folder: Path, fault: Fault) -> Any:
    """What all ranks find, which is the same."""
    results = pool.run(verify, case, manifest_of(case, folder), fault)
    assert results[0] == results[1]
    return results[0]


def test_a_model_without_faults(two_ranks: RankPool, tmp_path: Path) -> None:
    ok, differs, missing, extra, ranks, text = found(
        two_ranks, case_of(SHARDED, COLUMNS, REPLICATED), tmp_path, sharded_cases.no_fault
    )
    assert (ok, differs, missing, extra, ranks) == (True, (), (), (), {})
    assert text.startswith("verified")


@pytest.mark.parametrize(
    ("tensor", "blamed"), [(SHARDED, (0, 1)), (COLUMNS, (0, 1)), (REPLICATED, (1,))], ids=["rows", "columns", "copies"]
)
def test_a_flipped_bit_is_blamed_on_its_rank(
    two_ranks: RankPool, tmp_path: Path, tensor: TensorCase, blamed: tuple[int, ...]
) -> None:
    ok, differs, _, _, ranks, text = found(two_ranks, case_of(tensor, SHARDED), tmp_path, sharded_cases.flip_on_last)
    assert not ok
    assert differs == ("tensor0",)
    assert ranks == {"tensor0": blamed}
    assert f"tensor0: other bytes, on rank{'s 0, 1' if len(blamed) > 1 else ' 1'}" in text


@pytest.mark.thorough
def test_a_flipped_bit_in_one_copy_of_several_shards_is_blamed_on_its_rank(
    four_ranks: RankPool, tmp_path: Path
) -> None:
    for dimension in (0, 1):
        case = Case((2, 2), (TensorCase((8, 12), torch.float32, (None, dimension)),), "sha256", 64)
        results = four_ranks.run(verify, case, manifest_of(case, tmp_path), sharded_cases.flip_on_last)
        for _, differs, _, _, ranks, _ in results:
            assert differs == ("tensor0",)
            assert ranks == {"tensor0": (3,)}


def test_another_models_shard_is_found(two_ranks: RankPool, tmp_path: Path) -> None:
    case = case_of(SHARDED, COLUMNS, REPLICATED)
    ok, differs, _, _, ranks, _ = found(two_ranks, case, tmp_path, sharded_cases.another_model_on_last)
    assert not ok
    assert differs == ("tensor0", "tensor1", "tensor2")
    assert ranks["tensor2"] == (1,)


def test_swapped_shards_of_equal_shape_are_found(two_ranks: RankPool, tmp_path: Path) -> None:
    ok, differs, _, _, ranks, _ = found(two_ranks, case_of(SHARDED, REPLICATED), tmp_path, sharded_cases.swapped)
    assert not ok
    assert differs == ("tensor0",)
    assert ranks == {"tensor0": (0, 1)}


def test_names_that_are_not_listed_are_extra_unless_tied(two_ranks: RankPool, tmp_path: Path) -> None:
    ok, differs, _, extra, ranks, _ = found(two_ranks, case_of(SHARDED), tmp_path, sharded_cases.renamed)
    assert not ok
    assert (differs, extra, ranks) == ((), ("unlisted",), {"unlisted": (0, 1)})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (sharded_cases.another_shape_on_last, "ranks disagree on the tensor 'tensor0': rank 0: F32 [8, 12]; rank 1"),
        (sharded_cases.gap, "the tensor 'tensor0' is not complete on ranks 0, 1: bytes 8 to 12 are missing"),
        (sharded_cases.overlap, "the tensor 'tensor0' is not complete on ranks 0, 1: rank 1 overlaps at byte 12"),
        (sharded_cases.lost_on_last, "rank 1 does not say so, but holds some of the tensor 'tensor0'"),
        (sharded_cases.partial, "tensor 'tensor0': it is not yet reduced (Partial)"),
        (sharded_cases.meta_on_last, "tensor 'tensor0': it is on the meta device"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_makes_up_no_tensor_is_an_error_on_every_rank(
    two_ranks: RankPool, tmp_path: Path, fault: Fault, said: str
) -> None:
    case = case_of(SHARDED, COLUMNS)
    for result in two_ranks.run(verify, case, manifest_of(case, tmp_path), fault):
        assert isinstance(result, Failed)
        assert result.kind in ("PartError", "TensorError")
        assert said in result.message


def test_ranks_must_agree_on_what_to_hash_with(two_ranks: RankPool, tmp_path: Path) -> None:
    for result in two_ranks.run(sharded_cases.disagree, case_of(SHARDED)):
        assert isinstance(result, Failed)
        assert result.message == (
            "ranks disagree on what to hash with: rank 0: sha384 in chunks of 64; rank 1: sha256 in chunks of 64"
        )


def test_ranks_must_agree_on_the_manifest(two_ranks: RankPool, tmp_path: Path) -> None:
    case = case_of(SHARDED)
    other = case_of(COLUMNS, REPLICATED)
    results = two_ranks.run(sharded_cases.verify_different, case, [manifest_of(one, tmp_path) for one in (case, other)])
    for result in results:
        assert isinstance(result, Failed)
        assert result.kind == "PartError"
        assert "ranks disagree on what to hash with" in result.message


def test_a_rank_outside_the_group_is_told_so(two_ranks: RankPool) -> None:
    inside, outside = two_ranks.run(sharded_cases.outside)
    assert inside is None
    assert isinstance(outside, Failed)
    assert outside.message == "rank 1 is not in the group that was passed"


@pytest.fixture
def mortal_ranks() -> Iterator[RankPool]:
    pool = ranks_here(2, timeout=timedelta(seconds=5))
    yield pool
    pool.close()


@pytest.mark.parametrize("when", [pytest.param("early", marks=pytest.mark.thorough), "late"])
def test_a_killed_rank_is_an_error_on_the_others(mortal_ranks: RankPool, tmp_path: Path, when: str) -> None:
    case = case_of(SHARDED, COLUMNS)
    results = mortal_ranks.run(sharded_cases.killed, case, manifest_of(case, tmp_path), 1, when, seconds=30)
    assert results[1] is None
    assert isinstance(results[0], Failed)
    assert results[0].kind == "GroupError"
    assert "a rank of the process group has ended, or did not answer within the group's timeout" in results[0].message
