"""What a monitor tells Prometheus: its status when it is asked for."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from hashbench.torch.monitor import Monitor, Status

_Value = Callable[["Status"], float]

GAUGES: dict[str, tuple[str, _Value]] = {
    "up": ("1 while the monitor reads or is paused, 0 when it has ended or was closed", lambda s: s.running),
    "period_seconds": ("seconds in which everything is read once, on average", lambda s: s.period),
    "tensors": ("tensors that are trusted", lambda s: s.tensors),
    "slices": ("slices that are watched", lambda s: s.slices),
    "bytes": ("bytes of the memory that is watched", lambda s: s.nbytes),
    "paused_tensors": ("tensors that are not read at the moment", lambda s: s.paused),
    "damaged_slices": ("slices that were changed when they were last read", lambda s: s.damaged),
    "oldest_slice_age_seconds": ("seconds since the slice was read that has waited longest", lambda s: s.oldest),
    "sweep_seconds": (
        "how long it took last to read everything; 0 before the first end",
        lambda s: s.sweep_seconds or 0,
    ),
}
"""What can go up and down."""

COUNTERS: dict[str, tuple[str, _Value]] = {
    "read_bytes": ("bytes that were read, without confirmations", lambda s: s.bytes_read),
    "read_slices": ("slices that were read, without confirmations", lambda s: s.slices_read),
    "busy_seconds": ("time in which a piece was being read", lambda s: s.busy_seconds),
    "sweeps": ("how many times everything was read", lambda s: s.sweeps),
    "unconfirmed": ("changes that a second reading did not see", lambda s: s.unconfirmed),
}
"""What only grows; Prometheus adds `_total` to their names."""

FINDINGS = "findings"
"""One more counter, by kind."""

KINDS = ("changed", "moved", "gone", "extra")

PREFIX = "hashbench_watch_"


class Metrics(Collector):
    """The metrics of every monitor of one registry, each with its name as the label `model`.

    Monitors are referenced weakly. Of one that ended by itself, the last status stays until it is closed or another
    takes its name, so that `up` is 0 and does not vanish.
    """

    def __init__(self) -> None:
        self._monitors: weakref.WeakValueDictionary[str, Monitor] = weakref.WeakValueDictionary()
        self._ended: dict[str, Status] = {}

    def check(self, name: str) -> None:
        """Looks whether a name can be given to a monitor.

        Raises:
            ValueError: another has it, which was not closed and has not ended.
        """
        other = self._monitors.get(name)
        if other is not None and not other.closed:
            raise ValueError(
                f"the registry has a monitor named {name!r}: close it first, or give this one another name"
            )

    def add(self, monitor: Monitor) -> None:
        """Adds a monitor under its name.

        Raises:
            ValueError: as for `check`.
        """
        if self._monitors.get(monitor.name) is not monitor:
            self.check(monitor.name)
            self._monitors[monitor.name] = monitor
            self._ended.pop(monitor.name, None)

    def keep(self, monitor: Monitor) -> None:
        """Keeps the status of a monitor that has ended by itself."""
        if self._monitors.get(monitor.name) is monitor:
            self._ended[monitor.name] = monitor.status()

    def forget(self, monitor: Monitor) -> None:
        """Keeps nothing of a monitor beyond its life."""
        if self._monitors.get(monitor.name) is monitor:
            self._ended.pop(monitor.name, None)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        there = [monitor for one in self._monitors.valuerefs() if (monitor := one()) is not None]
        found = sorted((self._ended | {monitor.name: monitor.status() for monitor in there}).items())
        for name, (text, value) in GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=["model"])
            for model, status in found:
                gauge.add_metric([model], float(value(status)))
            yield gauge
        for name, (text, value) in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, text, labels=["model"])
            for model, status in found:
                counter.add_metric([model], float(value(status)))
            yield counter
        findings = CounterMetricFamily(PREFIX + FINDINGS, "findings", labels=["model", "kind"])
        for model, status in found:
            for kind in KINDS:
                findings.add_metric([model, kind], float(status.findings.get(kind, 0)))
        yield findings


_METRICS: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()


def metrics_of(registry: CollectorRegistry) -> Metrics:
    """The metrics of a registry's monitors.

    Raises:
        TypeError: it is not a registry.
    """
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"{type(registry).__name__} is not accepted: pass a prometheus_client.CollectorRegistry")
    if registry not in _METRICS:
        _METRICS[registry] = Metrics()
        registry.register(_METRICS[registry])
    return _METRICS[registry]
