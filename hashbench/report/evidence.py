"""What rows and readings say of each claim: a function a claim, from the results of its experiments to a finding.

Thresholds are the same for every machine, each GPU is judged, and the worst decides. Only what was measured on a GPU
counts, but for digests, which are compared wherever they come from. Nothing here is predicted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from hashbench.bench.comparison import by_input
from hashbench.bench.experiment import MachineResults
from hashbench.bench.readings import Reading
from hashbench.bench.results import REFERENCE, Row
from hashbench.bench.vendors import OTHER, vendor_of
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS
from hashbench.report.findings import Check, Finding, Table, number

LARGE_BYTES = 100e9
LARGE_SECONDS = 1.0
"""C1: a model of so many bytes is large, and so soon its roots are there in near real time."""

FILLING_BYTES = 2e9
SCALING_SHARE = 0.10
"""C1: a model of so many bytes fills a GPU, and from there on the throughput keeps within this share of the largest's.
"""

MAGNITUDE = 10.0
"""C2: how many times faster an order of magnitude is."""

TREE_COST = 0.05
"""C3: what the tree may cost, as a share of the time of the same chunks' digests."""

VENDORS = 2
FRAMEWORKS = 2
"""C4: vendors of GPUs, and frameworks on one GPU, at least."""

LIMIT_SHARE = 0.90
"""C5: the share of its limit that a device reaches at least."""

IN_PLACE_SHARE = 0.10
"""C6: the share of another way's time that hashing in place takes at most."""

MARGIN = 0.02
"""C3 and C5: by what measurements may err. A tree that is faster than its chunks' digests by more, or a GPU that is
further above its limit, cannot be: one of the two numbers is wrong, and the check has no answer.
"""

LIMIT = "limit"
"""The subject of the readings of a device's limit, in GB/s."""

TOTAL = "total seconds"
IN_PLACE, FROM_FILE, COPIED_BACK = "in place", "file to verdict", "copied back"
"""The quantity of the readings of a whole way to a verdict, and the subjects: the ways."""

_MEMORIES = ("page-locked", "pageable")
"""The host's memory that a way goes through: what the conditions of its readings end with, if it is not overlapped."""


@dataclass(frozen=True)
class _Found:
    """A row and the machine that it was measured on."""

    machine: str
    row: Row

    @property
    def lane(self) -> tuple[str, str, str, str]:
        """What hashes: the machine, the kernel, its variant and the device."""
        return (self.machine, self.row.kernel, self.row.variant, self.row.device)

    @property
    def where(self) -> str:
        return f"{self.row.kernel} on {self.row.device_name}"


def _on_gpus(machines: Sequence[MachineResults], *strategies: str) -> list[_Found]:
    rows = [_Found(machine.name, row) for machine in machines for row in machine.rows]
    return [found for found in rows if found.row.device_kind == "gpu" and found.row.strategy in strategies]


def _of(algorithm: str, rows: Iterable[_Found]) -> list[_Found]:
    return [found for found in rows if found.row.algorithm == algorithm]


def _by_gpu(rows: Iterable[_Found]) -> list[list[_Found]]:
    """The rows of each GPU, which kernels call by ids of their own and by one name."""
    gpus: dict[tuple[str, str], list[_Found]] = defaultdict(list)
    for found in rows:
        gpus[found.machine, found.row.device_name].append(found)
    return list(gpus.values())


def _wall_gb_per_s(row: Row) -> float:
    """The throughput by the wall's clock, the one that other programs are timed by."""
    return 1e-9 * row.bytes / row.wall_seconds_median


def _names(machines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(machines)))


def _table(columns: str, numeric: str, lines: Iterable[Sequence[str]]) -> Table | None:
    """The table of `lines`, its columns' names apart by "|"; None where there are none."""
    cells = tuple(tuple(line) for line in lines)
    return Table(tuple(columns.split("|")), frozenset(numeric.split("|")), cells) if cells else None


# C1 ------------------------------------------------------------------------------------------------------------------


def scaling(machines: Sequence[MachineResults]) -> Finding:
    """C1: how soon the roots of a large model are there, and whether throughput keeps with the model's size."""
    rows = [found for found in _on_gpus(machines, "tree") if found.row.model]
    checks: list[Check] = []
    shown: list[_Found] = []
    for algorithm in ALGORITHMS:
        best = [_best_lane(of_gpu) for of_gpu in _by_gpu(_of(algorithm, rows))]
        checks += [_reaches(algorithm, best), _keeps(algorithm, best)]
        shown += chain.from_iterable(best)
    lines = [
        (
            ALGORITHMS[found.row.algorithm].title,
            found.row.model,
            number(1e-9 * found.row.bytes),
            f"{found.row.segments:,}",
            format_size(found.row.chunk_size or 0),
            number(found.row.gb_per_s),
            f"{found.row.wall_seconds_median:.3g}",
            f"{found.row.wall_seconds_q1:.3g} to {found.row.wall_seconds_q3:.3g}",
            found.where,
        )
        for found in shown
    ]
    table = _table(
        "algorithm|model|GB|tensors|chunk|GB/s|seconds to all roots (wall)|quartiles|kernel and device",
        "GB|tensors|chunk|GB/s|seconds to all roots (wall)|quartiles",
        lines,
    )
    return Finding(tuple(checks), table, _names(found.machine for found in shown))


def _best_lane(rows: Iterable[_Found]) -> list[_Found]:
    """What hashed the largest model and the most models at one chunk size, and of several the fastest; smaller models
    first."""
    lanes: dict[tuple[object, ...], list[_Found]] = defaultdict(list)
    for found in sorted(rows, key=lambda found: found.row.bytes):
        lanes[(*found.lane, found.row.chunk_size)].append(found)
    return max(lanes.values(), key=lambda lane: (lane[-1].row.bytes, len(lane), lane[-1].row.gb_per_s))


def _reaches(algorithm: str, lanes: Sequence[Sequence[_Found]]) -> Check:
    question = (
        f"{ALGORITHMS[algorithm].title}: do all roots of a model of {LARGE_BYTES * 1e-9:g} GB or more take at most "
        f"{LARGE_SECONDS:g} s?"
    )
    largest = [lane[-1] for lane in lanes]
    if not largest:
        return Check(question, "No model was measured on a GPU.", None)
    large = [found for found in largest if found.row.bytes >= LARGE_BYTES]  # others may not have the memory
    if not large:
        row = max(largest, key=lambda found: found.row.bytes).row
        return Check(question, f"The largest model measured is {row.model}, {number(1e-9 * row.bytes)} GB.", None)
    slowest = max(large, key=lambda found: found.row.wall_seconds_median)
    row, seconds = slowest.row, slowest.row.wall_seconds_median
    answer = f"{seconds:.3g} s for {row.model}, {number(1e-9 * row.bytes)} GB, by {slowest.where}."
    return Check(question, answer, seconds <= LARGE_SECONDS)


def _keeps(algorithm: str, lanes: Sequence[Sequence[_Found]]) -> Check:
    question = (
        f"{ALGORITHMS[algorithm].title}: does the throughput of every model of {FILLING_BYTES * 1e-9:g} GB or more "
        f"keep within {SCALING_SHARE:.0%} of the largest's?"
    )
    changes: list[tuple[float, str]] = []
    for lane in lanes:
        filling = [found for found in lane if found.row.bytes >= FILLING_BYTES]
        if len(filling) < 2:
            continue
        largest = filling[-1].row.gb_per_s
        furthest = max(filling, key=lambda found: abs(found.row.gb_per_s / largest - 1))
        change = furthest.row.gb_per_s / largest - 1
        answer = (
            f"{len(filling)} models; furthest from the largest's {number(largest)} GB/s is {furthest.row.model} with "
            f"{number(furthest.row.gb_per_s)} GB/s ({change:+.1%}), by {furthest.where}."
        )
        changes.append((abs(change), answer))
    if not changes:
        return Check(question, "Fewer than two such models were measured on one GPU.", None)
    change, answer = max(changes)
    return Check(question, answer, change <= SCALING_SHARE)


# C2 ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rival:
    """What a CPU reaches.

    Attributes:
        name: of the program, and how it was run.
        gb_per_s: its throughput.
        one_core: whether it was on one core.
    """

    name: str
    gb_per_s: float
    one_core: bool


def _rivals(machine: MachineResults, algorithm: str) -> Iterator[_Rival]:
    """The programs that hash on CPUs: hashlib, and those that readings are of. The start of their processes may be in
    their time or not; the fastest counts, so it does no harm where it is."""
    for row in machine.rows:
        if row.kernel == REFERENCE[0] and row.strategy == "tree" and row.algorithm == algorithm:
            what = ", ".join(filter(None, (row.model, format_size(row.bytes))))
            yield _Rival(f"hashlib, {row.device}, tree of {what}", _wall_gb_per_s(row), row.is_reference)
    for reading in machine.readings:
        if (reading.device_kind, reading.unit, reading.algorithm) == ("cpu", "GB/s", algorithm):
            name = ", ".join(filter(None, (reading.subject, reading.conditions)))
            yield _Rival(name, reading.median, _one_core(reading))


def _one_core(reading: Reading) -> bool:
    return reading.device == REFERENCE[1]


def speed_up(machines: Sequence[MachineResults]) -> Finding:
    """C2: how many times as fast as the CPU of the same machine, all by the wall's clock."""
    checks: list[Check] = []
    lines: list[tuple[str, ...]] = []
    used: list[str] = []
    for algorithm in ALGORITHMS:
        slowest: dict[bool, tuple[float, str]] = {}
        for machine in machines:
            rows = [found for found in _of(algorithm, _on_gpus([machine], "tree")) if found.row.model]
            rivals = list(_rivals(machine, algorithm))
            for found in chain.from_iterable(map(_fastest_of_each_model, _by_gpu(rows))):
                for one_core in (True, False):
                    best = max((r for r in rivals if r.one_core is one_core), key=lambda r: r.gb_per_s, default=None)
                    if best is None:
                        continue
                    speed = _wall_gb_per_s(found.row)
                    ratio = speed / best.gb_per_s
                    used.append(machine.name)
                    lines.append(
                        (
                            ALGORITHMS[algorithm].title,
                            found.row.model,
                            number(speed),
                            found.where,
                            "one core" if one_core else "all cores",
                            best.name,
                            number(best.gb_per_s),
                            number(ratio),
                        )
                    )
                    answer = f"{number(ratio)} times at least: {found.row.model} by {found.where}, against {best.name}."
                    slowest[one_core] = min(slowest.get(one_core, (ratio, answer)), (ratio, answer))
        checks += [_by_a_magnitude(algorithm, one_core, slowest.get(one_core)) for one_core in (True, False)]
    table = _table(
        "algorithm|model|GPU, GB/s (wall)|kernel and device|CPU|fastest program there|CPU, GB/s|times as fast",
        "GPU, GB/s (wall)|CPU, GB/s|times as fast",
        lines,
    )
    return Finding(tuple(checks), table, _names(used))


def _fastest_of_each_model(rows: Iterable[_Found]) -> list[_Found]:
    """For each model the fastest kernel, smaller models first."""
    ordered = sorted(rows, key=lambda found: (found.row.bytes, _wall_gb_per_s(found.row)))
    return list({found.row.model: found for found in ordered}.values())


def _by_a_magnitude(algorithm: str, one_core: bool, slowest: tuple[float, str] | None) -> Check:
    cores = "on one core" if one_core else "on all cores"
    question = (
        f"{ALGORITHMS[algorithm].title}: is every model hashed at least {MAGNITUDE:g} times as fast as by the fastest "
        f"program {cores} of the same machine?"
    )
    if slowest is None:
        return Check(question, "No GPU and CPU program of one machine were measured.", None)
    ratio, answer = slowest
    return Check(question, answer, ratio >= MAGNITUDE)


# C3 ------------------------------------------------------------------------------------------------------------------


def cost_of_the_tree(machines: Sequence[MachineResults]) -> Finding:
    """C3: what the tree costs at its best chunk size."""
    checks: list[Check] = []
    shown: list[_Pair] = []
    for algorithm in ALGORITHMS:
        rows = _of(algorithm, _on_gpus(machines, "batched", "tree"))
        best = [_best_pairs(pairs) for of_gpu in _by_gpu(rows) if (pairs := _pairs(of_gpu))]
        checks.append(_costs_little(algorithm, best))
        shown += chain.from_iterable(best)
    lines = [
        (
            ALGORITHMS[tree.row.algorithm].title,
            format_size(tree.row.chunk_size or 0),
            format_size(tree.row.bytes),
            number(batched.row.gb_per_s),
            number(tree.row.gb_per_s),
            f"{_cost(batched, tree):+.1%}",
            tree.where,
        )
        for batched, tree in shown
    ]
    table = _table(
        "algorithm|chunk|input|batched, GB/s|tree, GB/s|cost in time|kernel and device",
        "chunk|input|batched, GB/s|tree, GB/s|cost in time",
        lines,
    )
    return Finding(tuple(checks), table, _names(tree.machine for _, tree in shown))


_Pair = tuple[_Found, _Found]
"""The batched and the tree row of one point."""


def _pairs(rows: Iterable[_Found]) -> list[_Pair]:
    """Of each point that has both; smaller chunks first."""
    points: dict[tuple[object, ...], dict[str, _Found]] = defaultdict(dict)
    for found in rows:
        row = found.row
        points[(*found.lane, row.model, row.bytes, row.chunk_size, row.segments)][row.strategy] = found
    both = [(of["batched"], of["tree"]) for of in points.values() if len(of) == 2]
    return sorted(both, key=lambda pair: pair[1].row.chunk_size or 0)


def _best_pairs(pairs: Sequence[_Pair]) -> list[_Pair]:
    """What hashed the fastest tree, with the chunks of every size of the same input."""
    _, best = _fastest_tree_of(pairs)
    return [pair for pair in pairs if (pair[1].lane, pair[1].row.bytes) == (best.lane, best.row.bytes)]


def _fastest_tree_of(pairs: Iterable[_Pair]) -> _Pair:
    return max(pairs, key=lambda pair: pair[1].row.gb_per_s)


def _cost(batched: _Found, tree: _Found) -> float:
    return tree.row.seconds_median / batched.row.seconds_median - 1


def _costs_little(algorithm: str, gpus: Sequence[Sequence[_Pair]]) -> Check:
    question = (
        f"{ALGORITHMS[algorithm].title}: at the best chunk size, does the tree take at most {TREE_COST:.0%} more time "
        "than the digests of the same chunks?"
    )
    found: list[tuple[float, str]] = []
    for pairs in gpus:
        batched, tree = _fastest_tree_of(pairs)
        fastest = max((batched for batched, _ in pairs), key=lambda found: found.row.gb_per_s)
        cost = _cost(batched, tree)
        answer = (
            f"{cost:+.1%} at {format_size(tree.row.chunk_size or 0)}: {number(tree.row.gb_per_s)} GB/s as a tree, "
            f"{number(batched.row.gb_per_s)} GB/s batched, by {tree.where}. The best of each: "
            f"{_cost(fastest, tree):+.1%} over {number(fastest.row.gb_per_s)} GB/s batched at "
            f"{format_size(fastest.row.chunk_size or 0)}."
        )
        if cost < -MARGIN:
            return Check(question, f"{answer} A tree cannot take less: one of the two numbers is wrong.", None)
        found.append((cost, answer))
    if not found:
        return Check(question, "Batched and tree were not measured at one point of a GPU.", None)
    cost, answer = max(found)
    return Check(question, answer, cost <= TREE_COST)


# C4 ------------------------------------------------------------------------------------------------------------------


def agreement(machines: Sequence[MachineResults]) -> Finding:
    """C4: whether digests agree, and of which vendors and frameworks; of whatever experiments there are rows."""
    rows = [_Found(machine.name, row) for machine in machines for row in machine.rows]
    gpus = [found for found in rows if found.row.device_kind == "gpu"]
    checks = (_equal_digests([found.row for found in rows]), _frameworks(gpus), _vendors(gpus))
    devices: dict[tuple[str, str], list[_Found]] = defaultdict(list)
    for found in sorted(rows, key=lambda f: (f.row.device_kind != "gpu", f.row.device_name)):
        devices[found.machine, found.row.device_name].append(found)
    compared = _compared(found.row for found in rows)
    lines = [
        (
            device,
            of_device[0].row.device_kind.upper(),
            vendor_of(device),
            ", ".join(sorted({found.row.kernel for found in of_device})),
            *(_fastest_tree(of_device, algorithm) for algorithm in ALGORITHMS),
            _agreement([found.row for found in of_device], compared),
            machine,
        )
        for (machine, device), of_device in devices.items()
    ]
    speeds = "|".join(f"{ALGORITHMS[algorithm].title}, fastest tree, GB/s" for algorithm in ALGORITHMS)
    table = _table(f"device|kind|vendor|kernels|{speeds}|digests|machine", speeds, lines)
    return Finding(checks, table, _names(found.machine for found in rows))


def _compared(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each input that several kernels or devices hashed, or a single one to several digests."""
    groups = by_input(rows)
    return [group for group in groups if _differ(group) or len({(r.kernel, r.device_name) for r in group}) > 1]


def _differ(group: Iterable[Row]) -> bool:
    return len({row.digest for row in group}) > 1


def _equal_digests(rows: Sequence[Row]) -> Check:
    question = "Do all kernels and devices that hashed the same input give the same digest?"
    groups = _compared(rows)
    if not groups:
        return Check(question, "No input was hashed by two kernels or devices.", None)
    unequal = sum(map(_differ, groups))
    compared = list(chain.from_iterable(groups))
    answer = (
        f"{len(groups)} inputs, {len(compared)} digests of {len({row.kernel for row in compared})} kernels on "
        f"{len({row.device_name for row in compared})} devices: "
        + ("all equal." if not unequal else f"{unequal} inputs have digests that differ.")
    )
    return Check(question, answer, not unequal)


def _frameworks(gpus: Sequence[_Found]) -> Check:
    question = f"Do {FRAMEWORKS} frameworks or more run on one GPU?"
    kernels: dict[str, set[str]] = defaultdict(set)
    for found in gpus:
        kernels[found.row.device_name].add(found.row.kernel)
    if not kernels:
        return Check(question, "No GPU was measured.", None)
    device = max(kernels, key=lambda name: (len(kernels[name]), name))
    answer = f"{len(kernels[device])} on {device}: {', '.join(sorted(kernels[device]))}."
    return Check(question, answer, len(kernels[device]) >= FRAMEWORKS)


def _vendors(gpus: Sequence[_Found]) -> Check:
    question = f"Were GPUs of {VENDORS} vendors or more measured?"
    vendors = {vendor_of(found.row.device_name) for found in gpus} - {OTHER}
    if not vendors:
        return Check(question, "No GPU of a known vendor was measured.", None)
    return Check(question, f"{len(vendors)}: {', '.join(sorted(vendors))}.", len(vendors) >= VENDORS)


def _fastest_tree(rows: Iterable[_Found], algorithm: str) -> str:
    speeds = [f.row.gb_per_s for f in rows if (f.row.strategy, f.row.algorithm) == ("tree", algorithm)]
    return number(max(speeds)) if speeds else ""


def _agreement(rows: Sequence[Row], compared: Sequence[Sequence[Row]]) -> str:
    """Whether digests of the inputs of `rows` differ somewhere; which are right, digests alone cannot tell."""
    own = set(rows)
    groups = [group for group in compared if not own.isdisjoint(group)]
    if not groups:
        return "not compared"
    return "differ" if any(map(_differ, groups)) else "equal"


# C5 ------------------------------------------------------------------------------------------------------------------


def share_of_the_limit(machines: Sequence[MachineResults]) -> Finding:
    """C5: the share of its own limit that each GPU reaches."""
    checks: list[Check] = []
    lines: list[tuple[str, ...]] = []
    used: list[str] = []
    for algorithm in ALGORITHMS:
        question = f"{ALGORITHMS[algorithm].title}: does every GPU reach {LIMIT_SHARE:.0%} or more of its limit?"
        shares: list[tuple[float, str]] = []
        for machine in machines:
            for limit in machine.readings:
                if (limit.subject, limit.algorithm, limit.device_kind) != (LIMIT, algorithm, "gpu"):
                    continue
                rows = [f for f in _on_gpus([machine], "batched") if f.row.device_name == limit.device_name]
                best = max(_of(algorithm, rows), key=lambda found: found.row.gb_per_s, default=None)
                if best is None:
                    continue
                share = best.row.gb_per_s / limit.median
                used.append(machine.name)
                lines.append(
                    (
                        limit.device_name,
                        ALGORITHMS[algorithm].title,
                        limit.conditions,
                        number(limit.median),
                        number(best.row.gb_per_s),
                        f"{share:.1%}",
                        f"{best.row.kernel} {best.row.variant}",
                    )
                )
                shares.append((share, best.where))
        checks.append(_reaches_its_limit(question, shares))
    table = _table(
        "GPU|algorithm|limit|limit, GB/s|measured, GB/s|share|kernel and variant",
        "limit, GB/s|measured, GB/s|share",
        lines,
    )
    return Finding(tuple(checks), table, _names(used))


def _reaches_its_limit(question: str, shares: Sequence[tuple[float, str]]) -> Check:
    if not shares:
        return Check(question, "No GPU was measured with its limit.", None)
    (lowest, where), (highest, above) = min(shares), max(shares)
    if highest > 1 + MARGIN:
        answer = f"{highest:.1%} by {above}. A limit cannot be passed: one of the two numbers is wrong."
        return Check(question, answer, None)
    return Check(question, f"{lowest:.1%} at least, by {where}.", lowest >= LIMIT_SHARE)


# C6 ------------------------------------------------------------------------------------------------------------------


def share_of_other_ways(machines: Sequence[MachineResults]) -> Finding:
    """C6: the share of the other ways' time that hashing in place takes."""
    pairs = [(machine.name, *pair) for machine in machines for pair in _ways(machine)]
    shares: dict[str, list[tuple[float, str]]] = {way: [] for way in _WAYS}
    lines = []
    for _, in_place, other in pairs:
        share = in_place.median / other.median
        kernel, model, *how = other.conditions.split(", ")
        where = f"{kernel} on {other.device_name}"
        answer = (
            f"{share:.2%} at most: {model}, {in_place.median:.3g} s in place and {other.median:.3g} s {other.subject} "
            f"({', '.join(how)}), by {where}."
        )
        shares[other.subject].append((share, answer))
        cells = (model, ALGORITHMS[other.algorithm].title, f"{in_place.median:.3g}", other.subject, ", ".join(how))
        lines.append((*cells, f"{other.median:.3g}", f"{share:.2%}", where))
    table = _table(
        "model|algorithm|in place, s|another way|how|that way, s|in place over it|kernel and device",
        "in place, s|that way, s|in place over it",
        lines,
    )
    memories = {way: {other.conditions.split(", ")[-1] for *_, other in pairs if other.subject == way} for way in _WAYS}
    checks = tuple(_spares(way, max(found, default=None), memories[way]) for way, found in shares.items())
    return Finding(checks, table, _names(machine for machine, _, _ in pairs))


def _ways(machine: MachineResults) -> Iterator[tuple[Reading, Reading]]:
    """Each way to the verdict on a model beside hashing that model in place, on GPUs, in the order of the file."""
    totals = [reading for reading in machine.readings if (reading.quantity, reading.device_kind) == (TOTAL, "gpu")]
    in_place = {_hashed(reading): reading for reading in totals if reading.subject == IN_PLACE}
    for other in totals:
        if other.subject in _WAYS and _hashed(other) in in_place:
            yield in_place[_hashed(other)], other


def _hashed(reading: Reading) -> tuple[str, ...]:
    """The device, the algorithm, and the first two of the conditions: the kernel and the model."""
    return (reading.device_name, reading.algorithm, *reading.conditions.split(", ")[:2])


def _spares(way: str, longest: tuple[float, str] | None, memories: Container[str]) -> Check:
    question = f"Does hashing in place take at most {IN_PLACE_SHARE:.0%} of the time of every way {_WAYS[way]}?"
    if longest is None:
        return Check(question, "The two ways were not measured on one GPU.", None)
    share, answer = longest
    if through := [memory for memory in _MEMORIES if memory in memories]:
        answer += f" Measured through {' and '.join(through)} memory."
    return Check(question, answer, share <= IN_PLACE_SHARE)


_WAYS = {FROM_FILE: "from a file to the verdict", COPIED_BACK: "that copies back to the host and hashes there"}
