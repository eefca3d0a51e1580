"""What the ranks of the experiment `sharded` measure is checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sharded_cases

import hashbench
from hashbench.experiments.rank_pool import Failed, RankPool
from hashbench.experiments.sharded_ranks import FSDP, TP, Answer, Case, Files

pytestmark = [pytest.mark.xdist_group("distributed"), pytest.mark.covers("distributed")]

CASE = Case("bert-base", FSDP, 2, "sha256", 64, runs=2, flips=3)


@pytest.mark.parametrize("layout", [FSDP, TP])
def test_ranks_verify_and_find_flipped_bits(two_ranks: RankPool, layout: str) -> None:
    answers = two_ranks.run(sharded_cases.measure, replace(CASE, layout=layout), False)
    assert all(isinstance(answer, Answer) for answer in answers), answers
    assert answers[0].root == answers[1].root
    assert [len(answers[0].seconds), len(answers[0].flips)] == [2, 3]
    assert answers[0].sent > 0


def test_bytes_that_are_not_those_of_the_model_are_an_error(two_ranks: RankPool) -> None:
    for answer in two_ranks.run(sharded_cases.measure, CASE, True):
        assert isinstance(answer, Failed)


def test_ranks_verify_a_folder_together(two_ranks: RankPool, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(bytes([number]) * 1000)
    text = hashbench.manifest(tmp_path, kernel="hashlib").text()
    case = Files(str(tmp_path), text, "hashlib", ("1-thread", "1-thread"))
    for answer in two_ranks.run(sharded_cases.verify_files, case):
        assert isinstance(answer, Answer), answer
        assert len(answer.seconds) == 1
    (tmp_path / "1.bin").write_bytes(bytes(1000))
    for answer in two_ranks.run(sharded_cases.verify_files, case):
        assert isinstance(answer, Failed)
        assert "the files are what they were, but the verdict is" in answer.message
