"""Comparison of two runs, point by point: rows by their throughput, readings by their values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from statistics import geometric_mean

import pandas as pd

from hashbench.bench.frames import INPUT, SPEED, VALUES, Line, Results, joined, lines, with_twins
from hashbench.bench.readings import POINT as READING_POINT
from hashbench.bench.vendors import vendor_of
from hashbench.hashing.sizes import format_size
from hashbench.kernels import KERNELS, Device, kernel_class

_DEFAULT = "default variant"

_ROW_POINT = [*INPUT, "kernel", "variant_of_any_device"]
_READING_POINT = [*(name for name in READING_POINT if name != "device"), "unit"]
"""What was measured, whatever the device."""


class NotComparableError(ValueError):
    """Rows that cannot be compared. The message says in which way they differ."""


def compare(base: Results, other: Results) -> Results:
    """Pairs the points that both runs measured.

    A device is compared with the device of the same id; if neither run has the other's id, with the only other device
    of its kind. One thread is compared with one thread, and all cores with all cores. A kernel's default variant is
    compared with its default on the other device, whatever their names.

    Returns:
        Pairs of rows and pairs of readings, a line each, in the base's order. A line has the columns of the base's row
        or reading, and those of the other's with the suffix `_other`; `what`, the kernel or what was read; the
        quartiles and the median as `low`, `value` and `high`; `ratio`, the other's value over the base's; and
        `beyond_spread`, whether the ranges between the quartiles do not overlap.

    Raises:
        NotComparableError: the rows of a pair differ in protocol or in how much was verified.
    """
    sides = [_comparable(run.rows) for run in (base, other)]
    rows = _pairs(sides, _ROW_POINT, SPEED)
    for pair in lines(rows.query("protocol != protocol_other or verified != verified_other")):
        check_comparable(pd.concat([sides[0].loc[[pair.place]], sides[1].loc[[pair.place_other]]]))
    return Results(rows, _pairs([_named(run.readings) for run in (base, other)], _READING_POINT, VALUES))


def summarize(pairs: Results) -> pd.DataFrame:
    """Summarizes pairs by experiment, kernel or kind of reading, and kind of device.

    Returns:
        A line per group, by experiment: the number of `points`; `ratio`, their geometric mean (the
        one mean for which A over B is the inverse of B over A); the `lowest` and `highest` ratio; and at how many
        points the other's value is `higher` or `lower` beyond the spread.
    """
    group = ["experiment", "what", "device_kind"]
    columns = [*group, "ratio", "beyond_spread"]
    every = joined(pairs.rows[columns], pairs.readings[columns]).sort_values("experiment", kind="stable")
    ratio = every["ratio"].where(every["beyond_spread"])
    every = every.assign(higher=ratio > 1, lower=ratio < 1)
    return every.groupby(group, sort=False, as_index=False).agg(
        points=("ratio", "size"),
        ratio=("ratio", geometric_mean),
        lowest=("ratio", "min"),
        highest=("ratio", "max"),
        higher=("higher", "sum"),
        lower=("lower", "sum"),
    )


def disagreements(rows: pd.DataFrame) -> list[str]:
    """A line for each row whose digest is not that of the first row of the same input; none if all digests agree."""
    inputs = with_twins(rows)
    return [
        f"the digests of {_what(first)} differ: {first.digest} ({_where(first)}) and {row.digest} ({_where(row)})"
        for _, group in inputs[~inputs["equal"]].groupby("input", sort=False)
        for first, *others in [list(lines(group))]
        for row in others
        if row.digest != first.digest
    ]


def check_comparable(rows: pd.DataFrame) -> None:
    """Checks that rows were measured by one protocol, and that those of one point were verified alike.

    Raises:
        NotComparableError: two rows differ; the message names them.
    """
    rows = _comparable(rows)
    _check_alike(rows, "protocol", "rows of measurement protocols {} ({}) and {} ({})")
    for _, of_point in rows.groupby(_ROW_POINT, dropna=False, sort=False):
        _check_alike(of_point, "verified", "rows verified by {!r} ({}) and {!r} ({})")


def _check_alike(rows: pd.DataFrame, column: str, message: str) -> None:
    differing = list(lines(rows.drop_duplicates(column)))[:2]
    if len(differing) == 2:
        named = message.format(*(part for row in differing for part in (getattr(row, column), _where(row))))
        raise NotComparableError(f"{named} do not compare: measure both with the same version of hashbench")


def _comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with the columns `what` and `variant_of_any_device`: a default variant may have other names elsewhere."""
    variants = map(cache(_variant), rows["kernel"], rows["variant"], rows["device_name"])
    same = pd.Series(list(variants), dtype=object, index=rows.index)
    return rows.assign(what=rows["kernel"], variant_of_any_device=same)


def _variant(kernel: str, variant: str, device_name: str) -> str:
    if kernel not in KERNELS:  # measured by an installation that has more kernels
        return variant
    device = Device(kernel, name=device_name, vendor=vendor_of(device_name))
    return _DEFAULT if variant == kernel_class(kernel).default_variant(device) else variant


def _named(readings: pd.DataFrame) -> pd.DataFrame:
    return readings.assign(what=readings["subject"] + ", " + readings["quantity"] + " (" + readings["unit"] + ")")


def _pairs(sides: Sequence[pd.DataFrame], point: list[str], values: tuple[str, str, str]) -> pd.DataFrame:
    point = [*point, "device_kind"]
    key = [*point, "threads"]
    base, other = (
        side.assign(
            place=side.index,
            threads=side["device"].str.replace(r"^\d+-threads$", "all threads", regex=True),
            **{name: side[column] for name, column in zip(("low", "value", "high"), values, strict=True)},
        ).drop_duplicates(key, keep="last")
        for side in sides
    )
    same = base.merge(other, on=key, suffixes=("", "_other"))
    # A device without its like on the other side is compared with the only one left there.
    alone = (base[~base["place"].isin(same["place"])], other[~other["place"].isin(same["place_other"])])
    base, other = (side[~side.duplicated(point, keep=False)] for side in alone)
    only = base[~base["device"].str.contains("thread")].merge(other, on=point, suffixes=("", "_other"))
    pairs = pd.concat([same, only]).sort_values("place", ignore_index=True)
    return pairs.assign(
        ratio=pairs["value_other"] / pairs["value"],
        beyond_spread=(pairs["low_other"] > pairs["high"]) | (pairs["high_other"] < pairs["low"]),
    )


def _what(row: Line) -> str:
    chunk = "" if pd.isna(row.chunk_size) else f" in chunks of {format_size(row.chunk_size)}"
    what = f"{row.model}, {row.bytes:,} bytes" if row.model else f"{row.bytes:,} bytes"
    segments = f" in {row.segments:,} segments" if row.segments > 1 else ""
    return f"{row.experiment}, {row.algorithm} {row.strategy}, {what}{segments}{chunk}"


def _where(row: Line) -> str:
    return f"{row.kernel} {row.device} on {row.device_name}, {row.date}"
