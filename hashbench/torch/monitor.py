"""A model in memory, watched while it runs: every byte is read again and again, and every change of it is found.

A thread of low priority reads a piece at a time, when `hashbench.torch.watch` says that it is due. On a GPU it only
launches work that was prepared before, at the lowest priority of streams, and sleeps until that is done; or it posts
what the workload's own launches carry along.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Self

from hashbench.model.manifest import Manifest
from hashbench.torch.carrying import Carrying
from hashbench.torch.held import Model, Names
from hashbench.torch.memory import Portion
from hashbench.torch.modules import tensors_of
from hashbench.torch.schedule import Order
from hashbench.torch.watch import Finding, ModelGone, Watch

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from hashbench.torch.metrics import Metrics

log = logging.getLogger(__name__)

_LEAST_REST = 1e-4
"""Seconds between two pieces, in which other threads can take the lock."""


@dataclass(frozen=True)
class Status:
    """What a monitor has done, and how things are.

    Attributes:
        running: whether its thread is there.
        ended: why it ended by itself; None if it did not.
        period: seconds, as given.
        tensors: the number of tensors that are trusted.
        slices: the number of slices that are watched.
        nbytes: the bytes of the memory that is watched.
        paused: the number of tensors that are not read at the moment.
        damaged: the number of slices that were changed when they were last read.
        oldest: seconds since the slice was read that has waited longest.
        bytes_read: how many bytes were read; confirmations are not counted, here and below.
        slices_read: how many slices were read.
        busy_seconds: in how much time a piece was being read.
        sweeps: how many times everything was read.
        sweep_seconds: how long the last of them took; None before its end.
        findings: the number of findings, by kind.
        unconfirmed: how many changes a second reading did not see.
    """

    running: bool
    ended: str | None
    period: float
    tensors: int
    slices: int
    nbytes: int
    paused: int
    damaged: int
    oldest: float
    bytes_read: int
    slices_read: int
    busy_seconds: float
    sweeps: int
    sweep_seconds: float | None
    findings: Mapping[str, int]
    unconfirmed: int


class Monitor:
    """Watches a model's tensors.

    At first everything is read once and compared with the manifest. Then each piece of memory is read again after a
    random time between half a period and one and a half, and many pieces are spread over the period, with a pause after
    each. What was read is compared a second later at most. So a change is found after 0.54 periods on average and
    after 1.5 at most, and that second, and the time that a piece may wait for others. If the budget is too small for
    the period, or while the monitor is paused, it takes longer: `status().oldest` says how long a change could have
    been there.

    A difference is read a second time before it is a finding. It is one finding until the bytes are right again.

    It reads between `start` and `close`, or in a context. It ends by itself when the model no longer exists, or when it
    cannot read: `status().ended` says why. From then on, and in a process that is forked, it does nothing. A model in
    host memory is read until the main thread ends.

    Args:
        model: a module, which the monitor does not keep alive; or tensors by name, in a mapping that it keeps.
        manifest: what is trusted, made from the model's files or by `hashbench.torch.manifest`. Check its root first.
        component: as for `hashbench.torch.verify`, like the two that follow.
        names: how the model's names become the manifest's.
        ignore: globs of names that are not watched.
        period: seconds in which everything is read once, on average.
        budget: the largest share of time in which a piece is being read, above 0 and up to 1: after a piece that took t
            seconds, from its launch to its roots, nothing is read for at least t * (1 - budget) / budget seconds.
        order: "random", by the operating system's generator; "fixed", once a period and foreseeable; or a
            `random.Random` in place of the generator.
        multiprocessors: how many of a GPU's multiprocessors read, an even number, without rest while a piece is read;
            None, the usual, for all of them, a short piece at a time. On NVIDIA's GPUs, with CuPy and chunks of up to
            16 KiB: elsewhere it has no effect.
        portion: what the workload carries at a time: see `carrying`. None if it carries nothing. Where
            `multiprocessors` has no effect, it has none either.
        on_finding: is called with each finding, one at a time and in order, in the monitor's thread, which does not
            read until it returns, or in that of `updating`, `pause` or `close`. It may call the monitor. What it raises
            is logged.
        registry: gets the metrics of `hashbench.torch.metrics`; None for none.
        name: the label of the metrics and the name in the log; by default the component's, or "model". A monitor that
            was closed or has ended gives it up.

    Attributes:
        findings: all up to now, of which the last 1,000 are kept.

    Raises:
        TypeError, ValueError: an argument is not accepted, or the manifest has no tensors of the component.
        VerificationError: the model is not what the manifest says; the message is that of a report.
        Unavailable, OutOfDeviceMemory: as for `hashbench.torch.verify`.
        ImportError: a registry is given, and prometheus-client is not installed.
    """

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        *,
        component: str = "",
        names: Names = None,
        ignore: Collection[str] = (),
        period: float = 60.0,
        budget: float = 0.25,
        order: Order = "random",
        multiprocessors: int | None = None,
        portion: Portion | None = None,
        on_finding: Callable[[Finding], object] | None = None,
        registry: CollectorRegistry | None = None,
        name: str = "",
    ) -> None:
        _check(budget, multiprocessors, portion, on_finding)
        self.name = name or component or "model"
        self.findings: tuple[Finding, ...] = ()
        self._rest = (1 - budget) / budget
        self._component, self._on_finding = component, on_finding
        self._paused = False
        self._ended: str | None = None
        self._busy = 0.0
        self._ready = 0.0  # when the next piece may begin
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._closed = False
        self._metrics: Metrics | None = None
        if registry is not None:
            from hashbench.torch.metrics import metrics_of

            self._metrics = metrics_of(registry)
            self._metrics.check(self.name)
        self._lock = threading.RLock()  # whoever has it may use the watch
        self._telling = threading.Lock()
        self._untold: deque[Finding] = deque()
        expected = tensors_of(manifest, component)
        self._watch = Watch(
            model, expected, names, ignore, period, order, monotonic(), self._found, multiprocessors, portion
        )
        self._note()
        _MONITORS.add(self)
        if self._metrics is not None:
            self._metrics.add(self)

    def start(self) -> None:
        """Begins to read, in a thread, and returns at once.

        Raises:
            RuntimeError: it was started before and not closed, or it has ended by itself.
            ValueError: it was closed, and another monitor of the registry has taken its name.
        """
        if self._ended is not None:
            raise RuntimeError(f"the monitor of {self.name} has ended: {self._ended}: make another")
        if self._running:
            raise RuntimeError(f"the monitor of {self.name} has already been started: call close() first")
        if self._metrics is not None:
            self._metrics.add(self)
        self._closed = False
        self._stop = threading.Event()
        name = f"hashbench monitor of {self.name}"
        self._thread = threading.Thread(target=self._run, args=(self._stop,), name=name, daemon=True)
        # Anew, so that it comes before what the frameworks of kernels have registered up to now.
        atexit.unregister(_close_all)
        atexit.register(_close_all)
        self._thread.start()

    def close(self) -> None:
        """Ends reading. When it returns, no piece is being read, and `on_finding` has returned, unless that called it.

        A monitor that was closed can be started again. When the program ends, those that run are closed.
        """
        self._stop.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        if self._thread is thread:  # not another, which was started meanwhile
            self._thread = None
        self._closed = True
        if self._metrics is not None:
            self._metrics.forget(self)
        if self._ended is None:
            with self._using(), self._ending():
                self._watch.settle()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or has ended by itself."""
        return self._closed or self._ended is not None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pause(self) -> None:
        """Stops reading until `resume`. When it returns, no piece is being read: memory may be given back."""
        if self._ended is not None:
            return
        with self._using(), self._ending():
            self._paused = True
            self._watch.settle()

    def resume(self) -> None:
        """Goes on reading, after a look where the tensors are now."""
        if self._ended is not None:
            return
        with self._using():
            self._paused = False
            self._watch.look_soon()

    @contextmanager
    def carrying(self) -> Iterator[Callable[..., None]]:
        """A context in which the workload is enqueued, or captured as a CUDA graph, and carries portions of reading.

        Call what it yields where the workload leaves much of the GPU idle, as in each layer: a portion runs beside what
        the current stream gets next, `after` seconds later if that is given. Each time that the workload runs, its
        portions read on from one to the next. If it pauses, the monitor launches what it reads as usual.

        The context ends within the capture, and the monitor does not read meanwhile: it is paused, or started later.
        Graphs and streams that carry portions of one monitor run one after another. The portions of a monitor that was
        closed, or no longer exists, hash nothing.

            with torch.cuda.graph(graph), monitor.carrying() as portion:
                for layer in layers:
                    portion()
                    hidden = layer(hidden)

        Raises:
            RuntimeError: the monitor reads nothing in portions, on any device or on the current one; or it reads while
                the stream is captured; or the capture ends before the context.
        """
        places = self._watch.portions  # without the lock: its owner may be waiting for a portion
        if not places:
            raise RuntimeError(
                f"the monitor of {self.name} reads nothing in portions: pass portion=hashbench.torch.Portion(), and a "
                "model on a GPU of NVIDIA's, with CuPy and chunks of up to 16 KiB"
            )
        carrying = Carrying(self.name, places, lambda: self._reads)
        try:
            yield carrying.portion
        finally:
            carrying.end()

    @property
    def _running(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and self._ended is None

    @property
    def _reads(self) -> bool:
        return self._running and not self._paused

    @contextmanager
    def updating(self, names: Iterable[str] | None = None, manifest: Manifest | None = None) -> Iterator[None]:
        """A context in which tensors may be written to, replaced and moved: they are not read meanwhile.

        At its end they are read once, without regard to the budget. If a manifest is given, they must be what it says,
        or that is a finding. If none is given, what they are then is trusted from then on. If the context ends by an
        exception, they must be what was trusted before.

        Args:
            names: the tensors' names in the manifest; None for all. Tensors that are tied to them are not read either.
            manifest: lists them as they will be, with the monitor's component, algorithm and chunk size.

        Raises:
            TypeError: `names` is a string.
            ValueError: a name is not watched or is being updated already; or the manifest does not list it, or has
                another algorithm or chunk size.
        """
        if isinstance(names, str):
            raise TypeError(f"the string {names!r} is not accepted: pass a list of names")
        names = None if names is None else tuple(names)
        new = None if manifest is None else tensors_of(manifest, self._component)
        if self._ended is not None:
            yield
            return
        with self._using():
            chosen = self._watch.suspend(names, new)
        finished = False
        try:
            yield
            finished = True
        finally:
            if self._ended is None:
                with self._using(), self._ending():
                    self._watch.restore(chosen, monotonic(), new if finished else None, trust=finished and new is None)

    def status(self) -> Status:
        """What was done up to now, and how things are. Waits for nothing: not for reading, and not for `on_finding`."""
        noted, visited = self._noted
        return replace(noted, running=self._running, oldest=0.0 if visited is None else monotonic() - visited)

    def _note(self) -> None:
        """Notes how things are, for `status`."""
        watch, tally = self._watch, self._watch.tally
        status = Status(
            running=False,
            ended=self._ended,
            period=watch.period,
            tensors=watch.tensors,
            slices=watch.slices,
            nbytes=watch.nbytes,
            paused=watch.tensors if self._paused else watch.suspended,
            damaged=len(watch.damaged),
            oldest=0.0,
            bytes_read=tally.nbytes,
            slices_read=tally.slices,
            busy_seconds=self._busy,
            sweeps=tally.sweeps,
            sweep_seconds=tally.sweep_seconds,
            findings=dict(tally.findings),
            unconfirmed=tally.unconfirmed,
        )
        self._noted = status, watch.oldest()

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Lets one thread use the watch. What it found is told when others may use it."""
        try:
            with self._lock:
                try:
                    yield
                finally:
                    self._note()
        finally:
            self._tell()

    # The thread ------------------------------------------------------------------------------------------------------

    def _run(self, stop: threading.Event) -> None:
        delay = 0.0
        while not stop.wait(max(delay, _LEAST_REST)):
            sweeps = self._watch.tally.sweeps
            with self._using(), self._ending():
                delay = self._step()
            if self._watch.tally.sweeps > sweeps:
                self._tell_sweep()
            if self._ended is not None:
                return

    def _step(self) -> float:
        """Reads a piece if one is due. Returns the seconds until the next step."""
        if self._paused:
            return 0.05
        begin = monotonic()
        read = self._watch.step(begin)
        now = monotonic()
        if not read:
            return min(self._watch.wait(now), 1.0)
        self._busy += now - begin
        self._ready = max(self._ready + self._watch.pace, begin)  # so that what a late waking costs is made up for
        return max((now - begin) * self._rest, self._ready - now, min(self._watch.wait(now), 1.0))

    def _tell_sweep(self) -> None:
        status = self.status()
        log.info(
            "%s: read %.3f GB in %d tensors in %.3g s; %d slices damaged, %d findings up to now, %.3g s busy in all",
            self.name,
            1e-9 * status.nbytes,
            status.tensors,
            status.sweep_seconds,
            status.damaged,
            sum(status.findings.values()),
            status.busy_seconds,
        )

    def _found(self, finding: Finding) -> None:
        self.findings = (*self.findings[-999:], finding)
        self._untold.append(finding)

    def _tell(self) -> None:
        """Tells what was found. A thread that is telling already, as by an `on_finding` that is here again, does it."""
        while self._untold and self._telling.acquire(blocking=False):
            try:
                if self._untold:  # still
                    self._tell_of(self._untold.popleft())
            finally:
                self._telling.release()

    def _tell_of(self, finding: Finding) -> None:
        log.error("%s: %s: %s", self.name, finding.kind, finding)
        if self._on_finding is not None:
            try:
                self._on_finding(finding)
            except (Exception, SystemExit):  # which would end the monitor's thread without a word
                log.exception("%s: on_finding failed", self.name)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Ends the monitor when it cannot go on."""
        try:
            yield
        except ModelGone:
            self._end("the model no longer exists")
            log.warning("%s: ended: %s", self.name, self._ended)
        except Exception as error:
            if _threads_are_refused():
                self._end("the main thread has ended, and after it no thread hashes on the CPU")
                log.warning("%s: ended: %s", self.name, self._ended)
                return
            self._end(f"{type(error).__name__}: {error}")
            log.exception("%s: ended, as it cannot read", self.name)

    def _end(self, reason: str) -> None:
        self._ended = reason
        self._note()
        if self._metrics is not None:
            self._metrics.keep(self)

    def _leave_to_parent(self) -> None:
        """Ends the monitor in a process that was forked, where its thread is not, and locks may be taken for ever."""
        self._lock, self._telling = threading.RLock(), threading.Lock()
        self._thread = None
        self._ended = "it belongs to the process that was forked"
        noted, visited = self._noted
        self._noted = replace(noted, ended=self._ended), visited


def _check(budget: object, multiprocessors: object, portion: object, on_finding: object) -> None:
    """Refuses options that mean nothing, wherever the model is.

    Raises:
        TypeError, ValueError: one is not accepted.
    """
    if not isinstance(budget, (int, float)) or not 0 < budget <= 1:
        raise ValueError(f"a budget of {budget!r} is not accepted: it is a share of time, above 0 and up to 1")
    if multiprocessors is not None and portion is not None:
        raise ValueError("multiprocessors and a portion are not accepted together: pass one of them")
    if multiprocessors is not None and (
        not isinstance(multiprocessors, int) or multiprocessors < 1 or multiprocessors % 2
    ):
        raise ValueError(f"{multiprocessors!r} multiprocessors are not accepted: pass a positive even number, or None")
    if portion is not None and not isinstance(portion, Portion):
        raise TypeError(f"{portion!r} is not accepted as a portion: pass a hashbench.torch.Portion, or None")
    if on_finding is not None and not callable(on_finding):
        raise TypeError(f"{on_finding!r} is not accepted as on_finding: pass a function that takes a Finding, or None")


_MONITORS: weakref.WeakSet[Monitor] = weakref.WeakSet()


def _close_all() -> None:
    """Ends all reading before the interpreter goes down: a thread that wants its lock then can end the process."""
    for monitor in list(_MONITORS):
        monitor.close()


def _leave_all_to_parent() -> None:
    for monitor in list(_MONITORS):
        monitor._leave_to_parent()


def _threads_are_refused() -> bool:
    """Whether the interpreter no longer lets executors work, since its main thread has ended."""
    with ThreadPoolExecutor(1) as executor:
        try:
            executor.submit(int)
        except RuntimeError:
            return True
    return False


os.register_at_fork(after_in_child=_leave_all_to_parent)
