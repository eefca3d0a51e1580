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


class _OfMonitors(Collector):
    """The metrics of every monitor of one registry, each with its name as the label `model`."""

    def __init__(self) -> None:
        self.monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        found = sorted((monitor.name, monitor.status()) for monitor in list(self.monitors))
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


_COLLECTORS: weakref.WeakKeyDictionary[CollectorRegistry, _OfMonitors] = weakref.WeakKeyDictionary()


def publish(monitor: Monitor, registry: CollectorRegistry) -> None:
    """Adds a monitor's metrics to a registry, as long as the monitor exists.

    Raises:
        TypeError: it is not a registry.
        ValueError: the registry has a monitor of that name.
    """
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"{type(registry).__name__} is not accepted: pass a prometheus_client.CollectorRegistry")
    if registry not in _COLLECTORS:
        _COLLECTORS[registry] = _OfMonitors()
        registry.register(_COLLECTORS[registry])
    monitors = _COLLECTORS[registry].monitors
    if monitor.name in {one.name for one in monitors}:
        raise ValueError(f"the registry has a monitor named {monitor.name!r}: give this one another name")
    monitors.add(monitor)
