"""A watched model: every change is found in time, lawful ones are not, and whatever happens to it is told."""

from __future__ import annotations

import gc
import logging
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sweeps import finish_sweeps

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

import hashbench.torch.memory as memory  # noqa: E402  # after what it needs is known to be there
import hashbench.torch.watch as watching  # noqa: E402
from hashbench.hashing.verification_error import VerificationError  # noqa: E402
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash, root_of  # noqa: E402
from hashbench.torch import Finding, Monitor, manifest  # noqa: E402
from hashbench.torch.held import held  # noqa: E402
from hashbench.torch.schedule import Schedule  # noqa: E402
from hashbench.torch.slices import pieces_of, slice_size, slices_of  # noqa: E402
from hashbench.torch.watch import SETTLED_AFTER, ModelGone, Watch  # noqa: E402

CHUNK = 64
SLICE = 256
PERIOD = 10.0


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices and pieces so small that little memory has many."""
    monkeypatch.setattr(watching, "SLICE_SIZE", SLICE)
    monkeypatch.setattr(memory, "_HOST_KERNELS", ("hashlib",))
    monkeypatch.setattr(memory._OnHost, "piece_size", 2 * SLICE)


def model() -> Any:
    """A module with parameters, buffers, tied weights, a strided one, and lengths that end within a chunk."""
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Module()
    module.embedding = torch.nn.Parameter(torch.randn(40, 8, generator=generator))
    module.head = module.embedding
    module.bias = torch.nn.Parameter(torch.randn(19, generator=generator))
    module.strided = torch.nn.Parameter(torch.randn(12, 9, generator=generator).t())
    mean = torch.randn(33, generator=generator).to(torch.bfloat16)
    module.register_buffer(
        "mean", torch.empty(0, dtype=mean.dtype).set_(torch.UntypedStorage(66), 0, (33,)).copy_(mean)
    )
    module.register_buffer("none", torch.empty(0))
    return module


class Clocked:
    """A watch over a model, with a clock of the test's."""

    def __init__(self, watched: Any, seed: int = 0, **options: Any) -> None:
        self.now = 0.0
        self.found: list[Finding] = []
        given = {"names": None, "ignore": (), "period": PERIOD, "order": random.Random(seed), **options}
        expected = manifest(deepcopy(watched), chunk_size=CHUNK)  # which looks at tensors through NumPy
        self.watch = Watch(watched, expected, now=0.0, on_finding=self.found.append, **given)

    def until(self, end: float) -> None:
        """Does everything that is due until then, or up to the first finding."""
        before = len(self.found)
        while len(self.found) == before:
            wait = self.watch.wait(self.now)
            if self.now + wait > end:
                self.now = end
                return
            self.now += wait
            self.watch.step(self.now)


def bytes_of(tensor: Any) -> Any:
    """A contiguous tensor's memory."""
    return tensor.data.view(torch.uint8).numpy().reshape(-1)


# Slices and times ----------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 3000),
    st.sampled_from([64, 192]),
    st.integers(1, 700),
    st.integers(1, 900),
    st.integers(1, 9) | st.none(),
)
def test_the_roots_of_slices_fold_to_the_tensors(
    nbytes: int, chunk: int, at_most: int, piece: int, count: int | None
) -> None:
    data = np.random.default_rng(nbytes).bytes(nbytes)
    slices = slices_of("t", nbytes, slice_size(chunk, at_most))
    assert b"".join(data[one.start : one.stop] for one in slices) == data
    pieces = list(pieces_of(slices, piece, count))
    assert [one for part in pieces for one in part] == slices
    assert all(1 <= len(part) <= (count or len(slices)) for part in pieces)
    roots = [merkle_tree_hash(chunks_of(data[one.start : one.stop], chunk), "sha256") for one in slices]
    assert root_of(roots, "sha256") == merkle_tree_hash(chunks_of(data, chunk), "sha256")


def waits(order: Any, faults: int) -> list[float]:
    """In a simulation, how long faults at random times wait for the next visit, in periods."""
    schedule: Schedule[int] = Schedule(PERIOD, order)
    for key in range(50):
        schedule.add(key, 0.0)
    drawn = random.Random(1)
    at = sorted((drawn.uniform(2 * PERIOD, 200 * PERIOD), drawn.randrange(50)) for _ in range(faults))
    waited, pending = [], dict[int, list[float]]()
    while at or pending:
        following = schedule.next()
        assert following is not None
        due, key = following
        while at and at[0][0] <= due:
            time, which = at.pop(0)
            pending.setdefault(which, []).append(time)
        waited += [(due - time) / PERIOD for time in pending.pop(key, [])]
        schedule.visited(key, due)
    return waited


def test_in_random_order_changes_wait_as_derived() -> None:
    waited = waits(random.Random(2), 20_000)
    assert np.mean(waited) == pytest.approx(13 / 24, abs=0.01)
    assert np.quantile(waited, 0.99) == pytest.approx(1.36, abs=0.02)  # 1.5 - sqrt(0.02)
    assert max(waited) <= 1.5


def test_in_fixed_order_changes_wait_a_period_at_most() -> None:
    waited = waits("fixed", 5_000)
    assert np.mean(waited) == pytest.approx(0.5, abs=0.02)
    assert max(waited) <= 1.0 + 1e-9


def test_the_times_of_visits_cannot_be_foreseen() -> None:
    drawn = set()
    for _ in range(20):
        schedule: Schedule[int] = Schedule(PERIOD)
        schedule.add(0, 0.0)
        drawn.add(schedule.next())
    assert len(drawn) == 20


@pytest.mark.parametrize("keys", [20, 2000])
def test_visits_are_spread_over_the_time_from_the_beginning(keys: int) -> None:
    schedule: Schedule[int] = Schedule(PERIOD, random.Random(keys))
    for key in range(keys):
        schedule.add(key, 0.0)
    ready, late, visits = 0.0, [], []
    while ready < 5 * PERIOD:
        following = schedule.next()
        assert following is not None
        due, key = following
        now = max(due, ready)
        schedule.visited(key, now)
        visits.append(now)
        late.append(now - due)
        ready = now + schedule.pace
    assert max(late) <= 0.06 * PERIOD
    assert np.mean(late) <= 0.02 * PERIOD
    in_period, _ = np.histogram(visits, 5, (0, 5 * PERIOD))
    assert in_period == pytest.approx(keys, rel=0.5 if keys < 100 else 0.06)


@pytest.mark.parametrize("period", [0.0, -1.0, float("inf"), float("nan")])
def test_a_period_that_is_none_is_refused(period: float) -> None:
    with pytest.raises(ValueError, match="must be a positive number of seconds"):
        Schedule(period)


# Changes -------------------------------------------------------------------------------------------------------------

PLACES = {
    "a parameter": ("embedding", 100),
    "the first byte of a slice": ("embedding", SLICE),
    "the last byte of a slice": ("embedding", 2 * SLICE - 1),
    "the last byte of a tied tensor": ("head", 40 * 8 * 4 - 1),
    "the last, partial chunk": ("bias", 19 * 4 - 1),
    "a buffer": ("mean", 2),
    "a tensor that is not contiguous": ("strided", 50),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("order", ["fixed", "random"])
def test_a_flipped_bit_is_found_where_it_is_and_in_time(place: str, order: str) -> None:
    watched = model()
    clocked = Clocked(watched, order=order)
    clocked.until(2.3 * PERIOD)
    assert not clocked.found
    name, byte = PLACES[place]
    tensor = getattr(watched, name)
    data = bytes_of(tensor.t() if name == "strided" else tensor)
    data[byte] ^= 8
    flipped = clocked.now
    clocked.until(9 * PERIOD)
    (finding,) = clocked.found
    assert clocked.now - flipped <= 1.5 * PERIOD
    assert (finding.kind, finding.tensor) == ("changed", "embedding" if name == "head" else name)
    if name != "strided":  # whose bytes are in another order in its file
        assert finding.start <= byte < finding.stop
    assert finding.stop - finding.start <= (12 * 9 * 4 if name == "strided" else SLICE)
    assert f"[{finding.start}:{finding.stop}]" in str(finding)
    clocked.until(clocked.now + 3 * PERIOD)
    assert len(clocked.found) == 1  # it is told once
    assert len(clocked.watch.damaged) == 1
    data[byte] ^= 8
    clocked.until(clocked.now + 2 * PERIOD)
    assert not clocked.watch.damaged
    data[byte] ^= 8
    clocked.until(clocked.now + 2 * PERIOD)
    assert len(clocked.found) == 2


def test_changes_are_found_as_soon_as_derived() -> None:
    watched = model()
    clocked = Clocked(watched, seed=3)
    drawn = random.Random(4)
    data = bytes_of(watched.embedding)
    waited = []
    for _ in range(100):
        clocked.until(clocked.now + drawn.uniform(0, 2 * PERIOD))
        byte, bit = drawn.randrange(data.size), 1 << drawn.randrange(8)
        data[byte] ^= bit
        flipped = clocked.now
        clocked.until(flipped + 2 * PERIOD)
        assert clocked.found.pop().start <= byte
        waited.append((clocked.now - flipped) / PERIOD)
        data[byte] ^= bit
        clocked.until(clocked.now + 1.5 * PERIOD)
        assert not clocked.found
    assert np.mean(waited) == pytest.approx(13 / 24, abs=0.1)  # three standard errors
    assert max(waited) <= 1.5


def test_what_is_read_is_compared_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory._OnHost, "batch", 1000)  # as of a GPU, whose trees of many readings are one launch
    watched = model()
    clocked = Clocked(watched, seed=5)
    data = bytes_of(watched.embedding)
    for byte in (0, 300, 700):
        clocked.until(clocked.now + 1.7 * PERIOD)
        data[byte] ^= 4
        flipped = clocked.now
        clocked.until(flipped + 3 * PERIOD)
        assert clocked.found.pop().start <= byte
        assert clocked.now - flipped <= 1.5 * PERIOD + SETTLED_AFTER
        data[byte] ^= 4
        clocked.until(clocked.now + 1.5 * PERIOD + SETTLED_AFTER)
        assert not clocked.found
        assert not clocked.watch.damaged


def test_what_was_read_is_compared_before_memory_is_looked_for_and_before_an_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory._OnHost, "batch", 1000)
    ways: list[Callable[[Any], object]] = [
        lambda watch: watch.look(PERIOD),
        lambda watch: watch.suspend(["bias"], None),
    ]
    for stops in ways:
        watched = model()
        clocked = Clocked(watched, seed=5)
        bytes_of(watched.bias)[0] ^= 4
        while not any(one.tensor == "bias" for piece in clocked.watch._unsettled for one in piece.slices):
            clocked.now += clocked.watch.wait(clocked.now)
            clocked.watch.step(clocked.now)
            assert not clocked.found
        stops(clocked.watch)
        assert [(one.kind, one.tensor) for one in clocked.found] == [("changed", "bias")]
        assert not clocked.watch._unsettled


def test_a_change_that_a_second_reading_does_not_see_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = model()
    clocked = Clocked(watched)
    data = bytes_of(watched.embedding)
    piece = next(one for one in clocked.watch._schedule if ("embedding", 0, SLICE) in one.slices)
    read = piece.reading.read

    def flickering() -> None:
        data[0] ^= 1
        read()
        data[0] ^= 1

    monkeypatch.setattr(piece.reading, "read", flickering)
    clocked.until(1.6 * PERIOD)
    assert not clocked.found
    assert clocked.watch.tally.unconfirmed >= 1


def test_a_model_that_is_another_from_the_start_is_refused() -> None:
    expected = manifest(model(), chunk_size=CHUNK)
    watched = model()
    bytes_of(watched.bias)[3] ^= 1
    watched.more = torch.nn.Parameter(torch.ones(2))
    del watched.mean
    with pytest.raises(VerificationError, match="bias: other bytes") as error:
        Monitor(watched, expected)
    assert "missing: mean" in str(error.value)
    assert "extra: more" in str(error.value)
    watched = model()
    tied_otherwise(watched)
    with pytest.raises(VerificationError, match="extra: more"):
        Monitor(watched, expected)


def test_tensors_that_are_refused_for_one_reason_are_one_problem() -> None:
    expected = manifest(model(), chunk_size=CHUNK)
    with pytest.raises(VerificationError) as error:
        Monitor(model().to("meta"), expected)
    assert str(error.value).count("meta device") == 1
    assert "and 5 more" in str(error.value)


# Lawful changes ------------------------------------------------------------------------------------------------------


def trained(watched: Any) -> None:
    with torch.no_grad():
        watched.bias += 1
        watched.embedding.mul_(2)


def test_an_update_is_no_finding_and_is_trusted_afterwards() -> None:
    watched = model()
    with Paced(watched) as monitor:
        with monitor.updating(["bias", "head"]):
            assert monitor.status().paused == 3  # embedding is tied to head
            trained(watched)
        monitor.finish_sweeps(2)
        assert not monitor.findings
        bytes_of(watched.bias)[0] ^= 1
        monitor.finish_sweeps(2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "bias")]


def test_the_names_of_an_update_may_come_one_by_one() -> None:
    watched = model()
    with Paced(watched) as monitor:
        with monitor.updating(name for name in ["bias", "mean"]):
            assert monitor.status().paused == 2
            watched.bias.data += 1
        monitor.finish_sweeps(2)
        assert not monitor.findings


def test_an_update_must_be_what_its_manifest_says() -> None:
    watched, future = model(), model()
    trained(future)
    with Paced(watched) as monitor:
        with monitor.updating(manifest=manifest(future, chunk_size=CHUNK)):
            trained(watched)
        monitor.finish_sweeps(2)
        assert not monitor.findings
        with monitor.updating(["bias"], manifest(future, chunk_size=CHUNK)):
            watched.bias.data += 1
        (finding,) = monitor.findings
        assert (finding.kind, finding.tensor) == ("changed", "bias")
        with monitor.updating(["bias"], manifest(future, chunk_size=CHUNK)):
            watched.bias.data = future.bias.data.clone()
        monitor.finish_sweeps(2)
        assert len(monitor.findings) == 1
        assert monitor.status().damaged == 0


def test_an_update_that_fails_is_compared_with_what_was_trusted() -> None:
    watched = model()
    with Paced(watched) as monitor:
        with suppress(ZeroDivisionError), monitor.updating(["bias"]):
            watched.bias.data[3] += 1
            raise ZeroDivisionError
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("changed", "bias")]


def test_an_update_may_replace_and_reshape() -> None:
    watched, future = model(), model()
    future.bias = torch.nn.Parameter(torch.ones(5, 5, dtype=torch.float16))
    with Paced(watched) as monitor:
        with monitor.updating(["bias"], manifest(future, chunk_size=CHUNK)):
            watched.bias = torch.nn.Parameter(torch.ones(5, 5, dtype=torch.float16))
        with monitor.updating(["mean"]):
            watched.mean = torch.zeros(300)
        monitor.finish_sweeps(2)
        assert not monitor.findings


def test_misused_updates_are_refused() -> None:
    watched = model()
    other = manifest(watched, chunk_size=2 * CHUNK)
    without = manifest({"bias": watched.bias}, chunk_size=CHUNK)
    with Paced(watched) as monitor:
        for names, future, message in (
            (["nothing"], None, "'nothing' is not watched"),
            (["bias"], other, "64"),
            (["mean"], without, "does not list 'mean'"),
        ):
            with pytest.raises(ValueError, match=message), monitor.updating(names, future):
                pass
        with pytest.raises(TypeError, match="list of names"), monitor.updating("bias"):
            pass
        with (
            monitor.updating(["embedding"]),
            pytest.raises(ValueError, match="being updated already"),
            monitor.updating(["head"]),
        ):
            pass
        assert not monitor.findings


# What happens to memory ----------------------------------------------------------------------------------------------


def test_what_is_tied_to_a_tensor_that_is_updated_is_not_extra() -> None:
    watched = model()
    clocked = Clocked(watched)
    tied(watched)  # as a head that files do not list
    chosen = clocked.watch.suspend(["embedding"], None)
    clocked.until(3 * PERIOD)
    clocked.watch.restore(chosen, clocked.now, None)
    clocked.until(6 * PERIOD)
    assert not clocked.found


def moved_by_data(watched: Any) -> None:
    watched.bias.data = watched.bias.data.clone()


def moved_by_replacing(watched: Any) -> None:
    watched.bias = torch.nn.Parameter(watched.bias.data.clone())


def wrong_and_moved(watched: Any) -> None:
    watched.bias.data = watched.bias.data.clone()
    watched.bias.data[2] += 1


def resized(watched: Any) -> None:
    watched.bias.data = torch.zeros(2000)


def deleted(watched: Any) -> None:
    del watched.bias


def freed(watched: Any) -> None:
    watched.mean.untyped_storage().resize_(0)  # as FSDP does between uses


def to_meta(watched: Any) -> None:
    watched.mean = watched.mean.to("meta")


def added(watched: Any) -> None:
    watched.register_buffer("more", torch.ones(3))


def tied(watched: Any) -> None:
    watched.more = watched.embedding


def tied_otherwise(watched: Any) -> None:
    watched.more = torch.nn.Parameter(watched.embedding.data.view(8, 40))


EVENTS: dict[Callable[[Any], None], set[tuple[str, str]]] = {
    moved_by_data: {("moved", "bias")},
    moved_by_replacing: {("moved", "bias")},
    wrong_and_moved: {("changed", "bias")},
    resized: {("changed", "bias")},
    deleted: {("gone", "bias")},
    freed: {("gone", "mean")},
    to_meta: {("gone", "mean")},
    added: {("extra", "more")},
    tied_otherwise: {("extra", "more")},
}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_what_happens_to_memory_is_told_once_and_the_rest_is_watched(event: Callable[[Any], None]) -> None:
    watched = model()
    clocked = Clocked(watched)
    clocked.until(1.2 * PERIOD)
    event(watched)
    for _ in range(6):
        clocked.until(clocked.now + PERIOD)
    assert {(one.kind, one.tensor) for one in clocked.found} == EVENTS[event]
    assert len(clocked.found) == 1
    bytes_of(watched.embedding)[700] ^= 1
    clocked.until(clocked.now + 1.5 * PERIOD)
    assert (clocked.found[-1].kind, clocked.found[-1].tensor) == ("changed", "embedding")


def test_a_tensor_that_comes_back_is_watched_again() -> None:
    watched = model()
    mean = watched.mean.clone()
    clocked = Clocked(watched)
    to_meta(watched)
    clocked.until(2 * PERIOD)
    watched.mean = mean
    clocked.until(4 * PERIOD)
    assert [one.kind for one in clocked.found] == ["gone", "moved"]
    bytes_of(watched.mean)[0] ^= 1
    clocked.until(6 * PERIOD)
    assert clocked.found[-1].kind == "changed"


def test_a_name_changes_nothing_but_its_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    state = {"a\nERROR\x1b[2K": torch.zeros(100), "b": torch.zeros(100)}
    with Paced(state) as monitor:
        for _ in range(2):  # damaged, and right again
            bytes_of(next(iter(state.values())))[0] ^= 1
            monitor.finish_sweeps(2)
    assert [str(finding) for finding in monitor.findings] == [r"a\nERROR\x1b[2K: bytes [0:256] changed"]
    assert [r.getMessage() for r in caplog.records if not r.getMessage().isprintable()] == []
    assert any("are again what is trusted" in record.getMessage() for record in caplog.records)


def test_untied_weights_are_watched_apart() -> None:
    watched = model()
    clocked = Clocked(watched)
    watched.embedding = torch.nn.Parameter(watched.embedding.data.clone())  # the slices' own name
    for _ in range(3):
        clocked.until(clocked.now + PERIOD)
    assert {(one.kind, one.tensor) for one in clocked.found} == {("moved", "embedding")}
    for name in ("embedding", "head"):
        bytes_of(getattr(watched, name))[7] ^= 1
        clocked.until(clocked.now + 2 * PERIOD)
        assert (clocked.found[-1].kind, clocked.found[-1].tensor) == ("changed", name)


def test_a_module_is_not_kept_and_the_watch_ends_with_it() -> None:
    watched = model()
    clocked = Clocked(watched)
    del watched
    gc.collect()
    with pytest.raises(ModelGone):
        clocked.until(3 * PERIOD)
    assert not clocked.found


def test_a_mapping_is_watched_too() -> None:
    state = {name: tensor.clone() for name, tensor in model().state_dict().items()}
    clocked = Clocked(state)
    clocked.until(2 * PERIOD)
    assert not clocked.found
    bytes_of(state["head"])[9] ^= 1
    clocked.until(4 * PERIOD)
    assert clocked.found[0].tensor == "head"


def test_ignored_tensors_are_not_watched() -> None:
    watched = model()
    clocked = Clocked(watched, ignore=["mean", "m*re"])
    bytes_of(watched.mean)[0] ^= 1
    added(watched)
    clocked.until(3 * PERIOD)
    assert not clocked.found


# The monitor ---------------------------------------------------------------------------------------------------------


class Paced(Monitor):
    """A monitor with a short period, whose sweeps a test can wait for."""

    def __init__(self, watched: Any, **options: Any) -> None:
        given = {"period": 0.02, "budget": 1.0, "order": random.Random(0), **options}
        super().__init__(watched, manifest(watched, chunk_size=CHUNK), **given)

    def finish_sweeps(self, count: int) -> None:
        """Waits for the end of that many sweeps."""
        finish_sweeps(self, count, tries=2000)


def test_the_thread_finds_changes_and_ends() -> None:
    watched = model()
    told: list[Finding] = []
    with Paced(watched, on_finding=told.append) as monitor:
        monitor.finish_sweeps(2)
        assert not told
        bytes_of(watched.embedding)[0] ^= 1
        monitor.finish_sweeps(2)
        status = monitor.status()
        assert status.running
        assert status.findings == {"changed": 1}
        assert status.bytes_read >= 4 * status.nbytes
        assert status.slices_read >= 4 * status.slices
        assert 0 <= status.oldest < 5
        with pytest.raises(RuntimeError, match="already been started"):
            monitor.start()
    assert tuple(told) == monitor.findings
    assert not monitor.status().running
    monitor.start()  # again
    monitor.finish_sweeps(1)
    monitor.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("hashbench monitor")]


def waits_for_nothing(call: Callable[[], object]) -> bool:
    """Whether a call returns while others of the monitor's do not."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout=60)
    return not thread.is_alive()


def test_whoever_asks_waits_neither_for_a_finding_to_be_told_nor_for_an_update(registry: Any) -> None:
    from prometheus_client import generate_latest

    watched = model()
    told, go_on = threading.Event(), threading.Event()

    def slow(finding: Finding) -> None:
        told.set()
        go_on.wait()

    with Paced(watched, on_finding=slow, registry=registry) as monitor:
        try:
            bytes_of(watched.bias)[0] ^= 1
            assert told.wait(timeout=60)
            assert waits_for_nothing(monitor.pause)
            assert waits_for_nothing(lambda: generate_latest(registry))
            assert monitor.status().findings == {"changed": 1}
            assert monitor.status().damaged == 1
        finally:
            go_on.set()
        with monitor._lock:  # as while an update reads
            assert waits_for_nothing(monitor.status)
            assert waits_for_nothing(lambda: generate_latest(registry))


@pytest.mark.parametrize("event", ["flipped", "moved_by_data", "deleted"])
def test_a_finding_may_be_mended_where_it_is_told(event: str) -> None:
    watched = model()
    right, told = watched.bias.detach().clone(), list[Finding]()

    def mend(finding: Finding) -> None:
        told.append(finding)
        with monitor.updating([finding.tensor], manifest(model(), chunk_size=CHUNK)):
            watched.bias = torch.nn.Parameter(right.clone())

    def flipped(watched: Any) -> None:
        bytes_of(watched.bias)[1] ^= 1

    with Paced(watched, on_finding=mend) as monitor:
        monitor.finish_sweeps(1)
        {"flipped": flipped, "moved_by_data": moved_by_data, "deleted": deleted}[event](watched)
        monitor.finish_sweeps(3)
        assert [one.tensor for one in told] == ["bias"]
        assert monitor.status().damaged == 0
        with monitor.updating(["bias"]):
            watched.bias.data += 1
        monitor.finish_sweeps(2)
        assert len(told) == 1
        flipped(watched)
        monitor.finish_sweeps(3)
        assert [one.kind for one in told[1:]] == ["changed"]
        status = monitor.status()
        assert (status.tensors, status.nbytes) == (6, Paced(model()).status().nbytes)
        assert status.ended is None


def test_findings_are_told_one_at_a_time_and_in_order() -> None:
    watched = model()
    told: list[str] = []

    def tell(finding: Finding) -> None:
        told.append(f"begin {finding.tensor}")
        if finding.tensor == "bias":
            bytes_of(watched.mean)[0] ^= 1
            with suppress(ZeroDivisionError), monitor.updating(["mean"]):
                raise ZeroDivisionError
            assert [one.tensor for one in monitor.findings] == ["bias", "mean"]
        told.append(f"end {finding.tensor}")

    monitor = Paced(watched, on_finding=tell)
    bytes_of(watched.bias)[0] ^= 1
    with suppress(ZeroDivisionError), monitor.updating(["bias"]):
        raise ZeroDivisionError
    assert told == ["begin bias", "end bias", "begin mean", "end mean"]


def test_a_callback_that_exits_does_not_end_the_monitor() -> None:
    watched = model()

    def exits(finding: Finding) -> None:
        raise SystemExit(str(finding))

    with Paced(watched, on_finding=exits) as monitor:
        bytes_of(watched.mean)[0] ^= 1
        monitor.finish_sweeps(2)
        assert len(monitor.findings) == 1
        monitor.finish_sweeps(2)
        assert monitor.status().running


def test_the_status_says_what_is_watched_whatever_happened() -> None:
    watched = model()
    clocked = Clocked(watched)
    for event in (moved_by_data, deleted, to_meta, added, tied):
        event(watched)
        clocked.until(clocked.now + 2 * PERIOD)
        watch = clocked.watch
        assert watch.nbytes == sum(one.location.nbytes for one in set(watch._watched.values()))
        assert watch.slices == sum(len(piece.slices) for piece in watch._schedule)


def test_a_paused_monitor_does_not_read() -> None:
    watched = model()
    with Paced(watched) as monitor:
        monitor.finish_sweeps(1)
        monitor.pause()
        before = monitor.status()
        assert before.paused == before.tensors
        watched.bias.data = torch.empty(0)  # as an engine that sleeps does
        threading.Event().wait(0.1)
        assert monitor.status().bytes_read == before.bytes_read
        watched.bias.data = model().bias.data
        monitor.resume()
        monitor.finish_sweeps(2)
        assert [(one.kind, one.tensor) for one in monitor.findings] == [("moved", "bias")]


def test_reading_takes_no_more_of_the_time_than_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = model()
    monitor = Paced(watched, budget=0.2, period=1e-6)
    time = [1e9]
    monkeypatch.setattr("hashbench.torch.monitor.monotonic", lambda: time[0])
    step = monitor._watch.step

    def slow(now: float) -> int:
        time[0] += 0.5  # a piece takes half a second
        return step(now)

    monkeypatch.setattr(monitor._watch, "step", slow)
    monitor._watch._look_at = float("inf")
    for _ in range(50):
        with monitor._using():
            rest = monitor._step()
        time[0] += rest
    assert monitor.status().busy_seconds == 25
    assert time[0] - 1e9 == pytest.approx(25 / 0.2)


def test_a_monitor_says_why_it_ended(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = model()
    with Paced(watched) as monitor:
        monitor.finish_sweeps(1)
        del watched
        gc.collect()
        monitor.finish_sweeps(9)
    assert monitor.status().ended == "the model no longer exists"
    with pytest.raises(RuntimeError, match="has ended: the model no longer exists"):
        monitor.start()
    kept = model()
    with Paced(kept) as monitor, caplog.at_level(logging.ERROR):

        def broken(now: float) -> int:
            raise OSError("a driver's error")

        monkeypatch.setattr(monitor._watch, "step", broken)
        monitor.finish_sweeps(9)
    assert monitor.status().ended == "OSError: a driver's error"
    assert "cannot read" in caplog.text


def test_what_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watched = model()

    def fails(finding: Finding) -> None:
        raise ValueError("not today")

    with caplog.at_level(logging.INFO, "hashbench"), Paced(watched, on_finding=fails, name="llama") as monitor:
        bytes_of(watched.mean)[0] ^= 1
        monitor.finish_sweeps(3)
    assert "llama: read 0.000 GB in 6 tensors in" in caplog.text
    assert "llama: changed: mean: bytes [0:66] changed" in caplog.text
    assert "on_finding failed" in caplog.text
    assert monitor.status().ended is None


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    *(({"budget": budget}, ValueError, "share of time") for budget in (0.0, -1.0, 1.5, float("nan"), "0.1")),
    *(({"period": period}, ValueError, "positive number of seconds") for period in (0, "60")),
    *(({"multiprocessors": count}, ValueError, "positive even number") for count in (0, 3, 2.0, "a")),
    ({"portion": 3}, TypeError, r"3 is not accepted as a portion: pass a hashbench\.torch\.Portion"),
    ({"on_finding": "x"}, TypeError, "'x' is not accepted as on_finding: pass a function"),
    ({"order": "Random"}, ValueError, "pass 'random', 'fixed' or a random.Random"),
    ({"names": 3}, TypeError, "3 is not accepted as names: pass a function, a prefix"),
    ({"ignore": "*"}, TypeError, "pass a list of patterns"),
    ({"ignore": ["*"]}, ValueError, "nothing to watch: `ignore` matches all 6 tensors"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda value: str(value))
def test_options_that_mean_nothing_are_refused_in_words(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Paced(model(), **options)


def test_what_is_no_model_is_refused_in_words() -> None:
    for nothing in (None, 3, [torch.ones(3)]):
        with pytest.raises(TypeError, match="pass a module or a mapping of names to tensors"):
            Monitor(nothing, manifest(model(), chunk_size=CHUNK))


def test_the_usual_kernel_of_the_host_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_HOST_KERNELS", ("numba-cpu", "hashlib"))
    watched = model()
    clocked = Clocked(watched)
    clocked.until(2 * PERIOD)
    assert not clocked.found
    bytes_of(watched.embedding)[300] ^= 1
    clocked.until(4 * PERIOD)
    assert (clocked.found[0].start, clocked.found[0].stop) == (256, 512)


# Metrics -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry() -> Any:
    client = pytest.importorskip("prometheus_client", reason="prometheus-client is not installed: install [watch]")
    return client.CollectorRegistry()


def test_metrics_are_what_the_status_says(registry: Any) -> None:
    from prometheus_client import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    watched = model()
    with Paced(watched, registry=registry, name="llama") as monitor:
        bytes_of(watched.mean)[0] ^= 1
        monitor.finish_sweeps(3)
        monitor.pause()
        text = generate_latest(registry).decode()
        status = monitor.status()
        with pytest.raises(ValueError, match="close it first, or give this one another name"):
            Paced(watched, registry=registry, name="llama")
        Paced(watched, registry=registry, name="other")
    samples = {
        (one.name, one.labels.get("kind")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.labels["model"] == "llama"
    }
    assert samples["hashbench_watch_up", None] == 1
    assert samples["hashbench_watch_findings_total", "changed"] == 1
    assert samples["hashbench_watch_findings_total", "gone"] == 0
    assert samples["hashbench_watch_read_bytes_total", None] == status.bytes_read
    assert samples["hashbench_watch_paused_tensors", None] == 6
    assert samples["hashbench_watch_damaged_slices", None] == 1
    assert samples["hashbench_watch_sweeps_total", None] == status.sweeps


def test_metrics_do_not_keep_a_monitor(registry: Any) -> None:
    from prometheus_client import generate_latest

    monitor = Paced(model(), registry=registry, name="llama")
    assert b"llama" in generate_latest(registry)
    del monitor
    gc.collect()
    assert b"llama" not in generate_latest(registry)


def up(registry: Any, name: str) -> float | None:
    value: float | None = registry.get_sample_value("hashbench_watch_up", {"model": name})
    return value


def test_a_monitor_that_ended_by_itself_is_seen_until_it_is_closed_or_replaced(registry: Any) -> None:
    for replaced in (False, True):
        watched = model()
        monitor = Paced(watched, registry=registry)
        monitor.start()
        thread = monitor._thread
        assert up(registry, "model") == 1
        del watched
        gc.collect()
        assert thread is not None
        thread.join()
        assert up(registry, "model") == 0
        if replaced:
            del monitor, thread
            gc.collect()
            assert up(registry, "model") == 0
            kept = model()
            with Paced(kept, registry=registry):
                assert up(registry, "model") == 1
        else:
            monitor.close()
            del monitor, thread
            gc.collect()
            assert up(registry, "model") is None


def test_a_closed_monitor_gives_its_name_up(registry: Any) -> None:
    watched = model()
    first = Paced(watched, registry=registry)
    first.start()
    first.close()
    with Paced(watched, registry=registry) as second:
        assert up(registry, "model") == 1
        with pytest.raises(ValueError, match="close it first"):
            first.start()
        second.close()
        first.start()
        assert up(registry, "model") == 1
        first.close()


def test_a_name_and_a_registry_that_are_not_accepted_are_refused_before_anything_is_read(
    registry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = model()
    first = Paced(watched, registry=registry)
    monkeypatch.setattr("hashbench.torch.monitor.Watch", None)  # which would read
    with pytest.raises(ValueError, match="close it first"):
        Paced(watched, registry=registry)
    with pytest.raises(TypeError, match=r"str is not accepted: pass a prometheus_client\.CollectorRegistry"):
        Paced(watched, registry="x")
    assert not first.closed


def test_a_monitor_that_its_callback_closed_can_be_started_again() -> None:
    watched = model()
    closed = threading.Event()

    def close(finding: Finding) -> None:
        monitor.close()
        closed.set()

    monitor = Paced(watched, on_finding=close)
    monitor.start()
    bytes_of(watched.bias)[0] ^= 1
    assert closed.wait(timeout=60)
    assert not monitor.status().running
    monitor.start()
    monitor.finish_sweeps(1)
    assert monitor.status().running
    monitor.close()


def test_memory_that_is_given_back_between_two_looks_at_it_stays_so() -> None:
    watched = model()
    found = held(watched).tensors["mean"]
    storage = watched.mean.untyped_storage()
    storage.resize_(0)
    location = memory.Location.of(found)
    with pytest.raises(memory.Elsewhere):
        location.hold()
    assert storage.nbytes() == 0
