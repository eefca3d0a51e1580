"""Processes that are the ranks of a gloo process group, started once and given one function after another."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

TIMEOUT = timedelta(seconds=30)
"""How long ranks wait for each other."""


@dataclass(frozen=True)
class Failed:
    """What a rank raised.

    Attributes:
        kind: the name of the exception's type.
        message: its text.
    """

    kind: str
    message: str


class RankPool:
    """Ranks of one process group, each a process.

    Args:
        count: how many.
        timeout: how long they wait for each other.
    """

    def __init__(self, count: int, timeout: timedelta = TIMEOUT) -> None:
        context = multiprocessing.get_context("forkserver")
        # Imported once for all of them.
        context.set_forkserver_preload(["sharded_cases"])
        with patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):  # the server has no other way to find it
            forkserver.ensure_running()
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self._pipes: list[Connection] = []
        self.processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, count, str(Path(self._folder.name) / "store"), timeout, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float = 60) -> list[Any]:
        """Calls a function on all ranks.

        Args:
            function: of a module that the ranks can import; it gets its rank, and then `arguments`.
            arguments: for all of them.
            seconds: how long it may take.

        Returns:
            What each rank returned or how it failed; None for one that ended.
        """
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results: list[Any] = [None] * len(self._pipes)
        left = dict(zip(self._pipes, range(len(self._pipes)), strict=True))
        while left:
            ready = wait(list(left), timeout=seconds)
            assert ready, f"ranks {sorted(left.values())} have not answered after {seconds} s"
            for pipe in [pipe for pipe in left if pipe in ready]:
                rank = left.pop(pipe)
                with suppress(EOFError, ConnectionResetError):
                    results[rank] = pipe.recv()
        return results

    def close(self) -> None:
        """Ends all ranks."""
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()


def _serve(rank: int, count: int, store: str, timeout: timedelta, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=timeout)
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, ConnectionResetError):
            os._exit(0)  # other ranks may be gone, for which the group's end would wait
        try:
            result = function(rank, *arguments)
        except Exception as error:
            result = Failed(type(error).__name__, str(error))
        pipe.send(result)
