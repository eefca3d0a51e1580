"""Commands that torchrun starts several times, and that share the work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hashbench.hashing.shared import Team


@contextmanager
def team() -> Iterator[Team | None]:
    """The processes that torchrun started, of which this is one; None if it started none but this.

    It is told by TORCHELASTIC_RUN_ID and WORLD_SIZE in the environment. Others set RANK and WORLD_SIZE too, for a
    program that is started later on the same machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield None
        return
    from hashbench.distributed.launched import launched  # brings PyTorch

    with launched() as found:
        yield found


def speaks(found: Team | None) -> bool:
    """Whether this process writes what the command says: one of a team does."""
    return found is None or found.index == 0
