"""Networks as PyTorch shards them have the roots of their files: FSDP2, tensor parallelism, both, HSDP, stages."""

from __future__ import annotations

from pathlib import Path

import pytest
import sharded_cases
from safetensors.torch import save_file

import hashbench
from hashbench.distributed import combine
from hashbench.experiments.rank_pool import RankPool
from hashbench.model.manifest import Manifest

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.covers("distributed")]


@pytest.fixture
def of_file(tmp_path: Path) -> Manifest:
    tensors = sharded_cases.network().state_dict()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    return hashbench.manifest(tmp_path / "model.safetensors", chunk_size=128, kernel="hashlib")


def check(pool: RankPool, kind: str, of_file: Manifest) -> None:
    results = pool.run(sharded_cases.verify_parallel, kind, of_file)
    tensors = of_file.of_component("")
    for result in results:
        assert isinstance(result, tuple), result
        root, _, ok, text = result
        assert ok, text
        assert root == tensors.root
    assert combine(part for _, part, _, _ in results) == tensors


@pytest.mark.parametrize("kind", ["fsdp", "tp"])
def test_two_ranks(two_ranks: RankPool, of_file: Manifest, kind: str) -> None:
    check(two_ranks, kind, of_file)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["fsdp", "tp", "fsdp-tp", "hsdp"])
def test_four_ranks(four_ranks: RankPool, of_file: Manifest, kind: str) -> None:
    check(four_ranks, kind, of_file)


def test_stages_of_a_pipeline(two_ranks: RankPool, of_file: Manifest) -> None:
    for ok, text in two_ranks.run(sharded_cases.verify_stages, of_file):
        assert ok, text
