"""Ranks for tests: they start from a process that has imported what they need."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from multiprocessing import forkserver, get_context
from unittest.mock import patch

from hashbench.experiments.rank_pool import RankPool

TIMEOUT = timedelta(seconds=30)
"""How long ranks wait for each other."""


def ranks_here(count: int, timeout: timedelta = TIMEOUT) -> RankPool:
    """As many ranks, without GPUs."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["sharded_cases"])
    with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # the server has no other way to find it
        forkserver.ensure_running()
    return RankPool(count, context, begin=_one_thread, timeout=timeout)


def _one_thread(rank: int) -> None:
    import torch

    torch.set_num_threads(1)
