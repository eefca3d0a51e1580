"""Portions of what a monitor reads, carried by the launches of the workload itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hashbench.kernels.portions import Portions


class Carrying:
    """While the workload is enqueued or captured: where it carries portions.

    Args:
        name: the monitor's.
        places: by device.
        reading: whether the monitor's thread reads.
    """

    def __init__(self, name: str, places: Mapping[torch.device, Portions], reading: Callable[[], bool]) -> None:
        self._name, self._reading = name, reading
        self._places = {device.index: place for device, place in places.items()}
        self._used: set[int] = set()
        self._captured = self._ended = False

    def portion(self, after: float = 0.0) -> None:
        """Carries a portion: see `hashbench.torch.Monitor.carrying`."""
        if self._ended:
            raise RuntimeError(f"portion() of the monitor of {self._name} is called after its context carrying()")
        device = torch.cuda.current_device()
        if device not in self._places:
            raise RuntimeError(f"the monitor of {self._name} reads nothing in portions on cuda:{device}")
        if torch.cuda.is_current_stream_capturing():
            if self._reading():
                raise RuntimeError(
                    f"the monitor of {self._name} is reading, which a capture forbids: call pause() before it and "
                    "resume() after it, or start() after it"
                )
            self._captured = True
        self._used.add(device)
        self._places[device].carry(torch.cuda.current_stream(), after)

    def end(self) -> None:
        """Makes the current streams wait for the portions."""
        self._ended = True
        for device in self._used:
            self._places[device].join(torch.cuda.current_stream(device))
        if self._captured and not torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "the capture ended before carrying() did: write `with torch.cuda.graph(graph), monitor.carrying() as "
                "portion:`"
            )
