"""Machines or runs side by side, point by point: rows by their throughput, readings by their values."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from hashbench.bench.readings import SUFFIX, Reading, read_readings
from hashbench.bench.records import ResultsError
from hashbench.bench.results import Row, read_rows
from hashbench.bench.vendors import vendor_of
from hashbench.hashing.sizes import format_size
from hashbench.kernels import KERNELS, Device, kernel_class

Measured = Row | Reading

_DEFAULT = "default variant"


class NotComparableError(ValueError):
    """Rows that say different things by the same words; the message says in which way they differ."""


@dataclass(frozen=True)
class Comparison:
    """One point on the first run, the base, and on another: two rows or two readings."""

    base: Measured
    other: Measured

    @property
    def ratio(self) -> float:
        """The other's throughput or value over the base's."""
        return value_of(self.other) / value_of(self.base)

    @property
    def beyond_spread(self) -> bool:
        """Whether the ranges between the quartiles do not overlap."""
        (base_low, base_high), (low, high) = _range_of(self.base), _range_of(self.other)
        return low > base_high or high < base_low


@dataclass(frozen=True)
class Summary:
    """The points of one experiment and kernel, or of one kind of reading, on one kind of device that two runs have in
    common.

    Attributes:
        experiment, what, device_kind: of every point; `what` is the kernel, or what was read and its unit.
        ratios: of each point, the other's throughput or value over the base's; there is at least one.
        higher, lower: points at which the other's is, beyond the spread.
    """

    experiment: str
    what: str
    device_kind: str
    ratios: tuple[float, ...]
    higher: int
    lower: int

    @property
    def ratio(self) -> float:
        """The geometric mean: the one mean by which A over B is the inverse of B over A."""
        return geometric_mean(self.ratios)


def read_run(path: Path) -> list[Measured]:
    """The rows and readings of a machine's folder, or of one results file.

    Raises:
        ResultsError: there are none, or a file cannot be used.
    """
    files = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    found: list[Measured] = []
    for file in files:
        found += read_readings(file) if file.name.endswith(SUFFIX) else read_rows(file)
    if not found:
        raise ResultsError(f"{path} holds no rows or readings: nothing was measured there yet")
    return found


def compare(base: Sequence[Measured], other: Sequence[Measured]) -> list[Comparison]:
    """The points that both runs measured, in the base's order.

    A device is compared with that of the same id; where neither run has the other's id, with the only other one of
    the same kind. One thread is compared with one thread, all cores with all cores; and a kernel's default variant with
    its default on the other device, whatever they are called.

    Raises:
        NotComparableError: the rows of a pair differ in protocol or in how far they were verified.
    """
    pairs = sorted(_pairs(base, other), key=lambda pair: base.index(pair.base))
    for pair in pairs:
        check_comparable(one for one in (pair.base, pair.other) if isinstance(one, Row))
    return pairs


def summarise(pairs: Iterable[Comparison]) -> list[Summary]:
    """What `pairs` say by experiment, kernel or reading, and kind of device, in the order of the first pair of each."""
    groups: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for pair in pairs:
        one = pair.base
        what = one.kernel if isinstance(one, Row) else f"{one.subject}, {one.quantity} ({one.unit})"
        groups[one.experiment, what, one.device_kind].append(pair)
    return [
        Summary(
            *group,
            ratios=tuple(pair.ratio for pair in found),
            higher=sum(pair.beyond_spread and pair.ratio > 1 for pair in found),
            lower=sum(pair.beyond_spread and pair.ratio < 1 for pair in found),
        )
        for group, found in groups.items()
    ]


def value_of(one: Measured) -> float:
    """The throughput of a row in GB/s, or the median of a reading in its unit."""
    return one.gb_per_s if isinstance(one, Row) else one.median


def _range_of(one: Measured) -> tuple[float, float]:
    return one.gb_per_s_range if isinstance(one, Row) else (one.q1, one.q3)


def by_input(measured: Iterable[Measured]) -> list[list[Row]]:
    """The rows that have a digest, grouped by what was hashed and how: whichever kernel and device it was, their
    digests must be the same.
    """
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in measured:
        if isinstance(row, Row) and row.digest:
            what = (row.experiment, row.model, row.strategy, row.algorithm, row.bytes, row.chunk_size, row.segments)
            groups[what].append(row)
    return list(groups.values())


def disagreements(measured: Iterable[Measured]) -> list[str]:
    """A line for each row whose digest is not that of the first row of the same input; none where all is well."""
    return [
        f"the digests of {_what(first)} differ: {first.digest} ({_where(first)}) and {row.digest} ({_where(row)})"
        for first, *others in by_input(measured)
        for row in others
        if row.digest != first.digest
    ]


def check_comparable(rows: Iterable[Row]) -> None:
    """Checks that `rows` were measured by one protocol, and that those of one point were verified alike.

    Raises:
        NotComparableError: they were not; the message names the two.
    """
    first: Row | None = None
    verified: dict[tuple[object, ...], Row] = {}
    for row in rows:
        first = first or row
        if row.protocol != first.protocol:
            raise NotComparableError(
                f"rows of measurement protocols {first.protocol} ({_where(first)}) and {row.protocol} ({_where(row)}) "
                "do not compare: measure both with the same version of hashbench"
            )
        twin = verified.setdefault(_point_of_any_device(row), row)
        if row.verified != twin.verified:
            raise NotComparableError(
                f"rows verified by {twin.verified!r} ({_where(twin)}) and {row.verified!r} ({_where(row)}) "
                "do not compare: measure both with the same version of hashbench"
            )


def _what(row: Row) -> str:
    chunk = "" if row.chunk_size is None else f" in chunks of {format_size(row.chunk_size)}"
    what = f"{row.model}, {row.bytes:,} bytes" if row.model else f"{row.bytes:,} bytes"
    segments = f" in {row.segments:,} segments" if row.segments > 1 else ""
    return f"{row.experiment}, {row.algorithm} {row.strategy}, {what}{segments}{chunk}"


def _where(row: Row) -> str:
    return f"{row.kernel} {row.device} on {row.device_name}, {row.date}"


def _pairs(base: Sequence[Measured], other: Sequence[Measured]) -> Iterator[Comparison]:
    here, there = _by_point(base), _by_point(other)
    for point in here.keys() & there.keys():
        mine, theirs = dict(here[point]), dict(there[point])
        for device in here[point].keys() & there[point].keys():
            yield Comparison(mine.pop(device), theirs.pop(device))
        if len(mine) == len(theirs) == 1:
            pair = Comparison(*mine.values(), *theirs.values())
            if "thread" not in pair.base.device:
                yield pair


def _by_point(measured: Iterable[Measured]) -> Mapping[tuple[object, ...], dict[str, Measured]]:
    """What was measured at each point and on each kind of device, by device."""
    found: dict[tuple[object, ...], dict[str, Measured]] = defaultdict(dict)
    for one in measured:
        device = re.sub(r"^\d+-threads$", "all threads", one.device)
        found[(one.device_kind, *_point_of_any_device(one))][device] = one
    return found


def _point_of_any_device(one: Measured) -> tuple[object, ...]:
    """What was measured, wherever it was."""
    if isinstance(one, Reading):
        return (one.experiment, one.subject, one.quantity, one.unit, one.conditions, one.algorithm)
    return one.point._replace(device="", variant=_variant(one))


def _variant(row: Row) -> str:
    """The row's variant; `_DEFAULT` where it is what its kernel runs on such a device unless told otherwise, which may
    be called differently on each vendor's."""
    if row.kernel not in KERNELS:  # of an installation that has more of them
        return row.variant
    device = Device(row.kernel, name=row.device_name, vendor=vendor_of(row.device_name))
    return _DEFAULT if row.variant == kernel_class(row.kernel).default_variant(device) else row.variant
