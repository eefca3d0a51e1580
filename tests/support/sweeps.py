"""Waiting for a monitor of `hashbench.torch`."""

from __future__ import annotations

import threading
from typing import Any


def finish_sweeps(monitor: Any, count: int, tries: int = 4000) -> None:
    """Waits until a monitor has swept so many times more, or has ended; at most 5 ms for each try."""
    end, pause = monitor.status().sweeps + count, threading.Event()
    for _ in range(tries):
        if monitor.status().sweeps >= end or monitor.status().ended:
            return
        pause.wait(0.005)
    raise AssertionError("the sweeps do not end")
