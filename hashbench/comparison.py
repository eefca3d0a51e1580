"""Machines or runs side by side, point by point."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from hashbench.records import ResultsError
from hashbench.results import REFERENCE, Row, read_rows, results_files
from hashbench.sizes import format_size


class NotComparableError(ValueError):
    """Rows that say different things by the same words; the message says in which way they differ."""


@dataclass(frozen=True)
class Comparison:
    """One point on the first run, the base, and on another."""

    base: Row
    other: Row

    @property
    def ratio(self) -> float:
        """The other's throughput over the base's."""
        return self.other.gb_per_s / self.base.gb_per_s

    @property
    def beyond_spread(self) -> bool:
        """Whether the ranges between the quartiles do not overlap."""
        return self.other.seconds_q1 > self.base.seconds_q3 or self.other.seconds_q3 < self.base.seconds_q1


@dataclass(frozen=True)
class Summary:
    """The points of one experiment and kernel on one kind of device that two runs have in common.

    Attributes:
        experiment, kernel, device_kind: of every point.
        ratios: of each point, the other's throughput over the base's; there is at least one.
        faster, slower: points at which the other is, beyond the spread.
    """

    experiment: str
    kernel: str
    device_kind: str
    ratios: tuple[float, ...]
    faster: int
    slower: int

    @property
    def ratio(self) -> float:
        """The geometric mean: the one mean by which A over B is the inverse of B over A."""
        return geometric_mean(self.ratios)


def read_run(path: Path) -> list[Row]:
    """The rows of a machine's folder, or of one results file.

    Raises:
        ResultsError: there are none, or a file cannot be used.
    """
    files = results_files(path) if path.is_dir() else [path]
    rows = [row for file in files for row in read_rows(file)]
    if not rows:
        raise ResultsError(f"{path} holds no rows: its measurement ended before the first one")
    return rows


def compare(base: Sequence[Row], other: Sequence[Row]) -> list[Comparison]:
    """The points that both runs measured, in the base's order.

    A device is compared with that of the same id; where neither run has the other's id, with the only other one of
    the same kind. hashlib on one thread is compared with one thread, on all cores with all cores.

    Raises:
        NotComparableError: the rows of a pair differ in protocol or in how far they were verified.
    """
    pairs = sorted(_pairs(base, other), key=lambda pair: base.index(pair.base))
    for pair in pairs:
        check_comparable([pair.base, pair.other])
    return pairs


def summarise(pairs: Iterable[Comparison]) -> list[Summary]:
    """What `pairs` say by experiment, kernel and kind of device, in the order of the first pair of each."""
    groups: dict[tuple[str, str, str], list[Comparison]] = defaultdict(list)
    for pair in pairs:
        groups[pair.base.experiment, pair.base.kernel, pair.base.device_kind].append(pair)
    return [
        Summary(
            *group,
            ratios=tuple(pair.ratio for pair in found),
            faster=sum(pair.beyond_spread and pair.ratio > 1 for pair in found),
            slower=sum(pair.beyond_spread and pair.ratio < 1 for pair in found),
        )
        for group, found in groups.items()
    ]


def by_input(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows that have a digest, grouped by what was hashed and how: whichever kernel and device it was, their
    digests must be the same.
    """
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.digest:
            what = (row.experiment, row.model, row.strategy, row.algorithm, row.bytes, row.chunk_size, row.segments)
            groups[what].append(row)
    return list(groups.values())


def disagreements(rows: Iterable[Row]) -> list[str]:
    """A line for each row whose digest is not that of the first row of the same input; none where all is well."""
    return [
        f"the digests of {_what(first)} differ: {first.digest} ({_where(first)}) and {row.digest} ({_where(row)})"
        for first, *others in by_input(rows)
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
        twin = verified.setdefault(row.point_of_any_device, row)
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


def _pairs(base: Sequence[Row], other: Sequence[Row]) -> Iterator[Comparison]:
    here, there = _by_point(base), _by_point(other)
    for point in here.keys() & there.keys():
        mine, theirs = dict(here[point]), dict(there[point])
        for device in here[point].keys() & there[point].keys():
            yield Comparison(mine.pop(device), theirs.pop(device))
        if len(mine) == len(theirs) == 1:
            pair = Comparison(*mine.values(), *theirs.values())
            if pair.base.kernel != REFERENCE[0]:
                yield pair


def _by_point(rows: Iterable[Row]) -> Mapping[tuple[object, ...], dict[str, Row]]:
    """The rows of each point and kind of device, by device."""
    found: dict[tuple[object, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        device = re.sub(r"^\d+-threads$", "all threads", row.device)
        found[(row.device_kind, *row.point_of_any_device)][device] = row
    return found
