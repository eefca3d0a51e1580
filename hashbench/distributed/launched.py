"""Processes that torchrun started, as a team that shares the hashing of files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from hashbench.distributed.group import Ranks

TIMEOUT = timedelta(hours=1)
"""How long a process waits for the others, which may read slower storage."""


class Launched:
    """This process among those that torchrun started, or among the ranks of a group.

    Args:
        group: the group; None is all ranks.

    Attributes:
        index: this process's number.
        count: how many there are.
        local_index: this process's number among those of this machine.
        local_count: how many there are of this machine.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._ranks = Ranks(group)
        self.index = dist.get_rank(group)
        self.count = dist.get_world_size(group)
        self.local_index = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_count = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))

    def gather(self, data: bytes) -> list[bytes]:
        """What each process has, in their order."""
        return self._ranks.gather(data)


@contextmanager
def launched() -> Iterator[Launched]:
    """Joins the processes that torchrun started, until the context ends.

    Raises:
        ValueError: what torchrun says in the environment is not complete.
    """
    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield Launched()
    finally:
        dist.destroy_process_group()
