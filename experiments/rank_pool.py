"""Processes that are the ranks of a process group, started once and given one function after another."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

TIMEOUT = timedelta(seconds=60)
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
    """Ranks of one process group, each a process of this machine. They start when they are first needed.

    Args:
        count: how many.
        context: how processes are started.
        backend: what moves their data, as `torch.distributed` names it.
        begin: is called with its rank in each process, before the group is made.
        timeout: how long they wait for each other.

    Attributes:
        count: how many there are.
    """

    def __init__(
        self,
        count: int,
        context: SpawnContext | ForkServerContext,
        backend: str = "gloo",
        begin: Callable[[int], None] | None = None,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        self.count = count
        self._context = context
        self._served = (backend, begin, timeout)
        self._folder = TemporaryDirectory(prefix="hashbench-ranks-")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []

    def _start(self) -> None:
        store = str(Path(self._folder.name) / "store")
        for rank in range(self.count):
            ours, theirs = self._context.Pipe()
            arguments = (rank, self.count, store, theirs, *self._served)
            process = self._context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> list[Any]:
        """Calls a function on all ranks.

        Args:
            function: of a module that the ranks can import; it gets its rank, and then `arguments`.
            arguments: for all of them.
            seconds: how long it may take; None for as long as it takes.

        Returns:
            What each rank returned or how it failed; None for one that ended.

        Raises:
            TimeoutError: it took longer.
        """
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results: list[Any] = [None] * self.count
        left = dict(zip(self._pipes, range(self.count), strict=True))
        while left:
            ready = wait(list(left), timeout=seconds)
            if not ready:
                raise TimeoutError(f"ranks {sorted(left.values())} have not answered after {seconds} s")
            for pipe in [pipe for pipe in left if pipe in ready]:
                rank = left.pop(pipe)
                with suppress(EOFError, ConnectionResetError):
                    results[rank] = pipe.recv()
        return results

    def close(self) -> None:
        """Ends all ranks."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._folder.cleanup()


def _serve(
    rank: int,
    count: int,
    store: str,
    pipe: Connection,
    backend: str,
    begin: Callable[[int], None] | None,
    timeout: timedelta,
) -> None:
    for name in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{name}_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    if begin:
        begin(rank)
    import torch.distributed as dist

    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=count, timeout=timeout)
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
