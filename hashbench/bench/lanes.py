"""Lanes: what has a bar or a line of its own in a figure, a kernel's variant on a device."""

from __future__ import annotations

from textwrap import fill

import pandas as pd

from hashbench.bench.frames import LANE, Line, highest, lines

Lane = tuple[str, str, str]
"""The values of the columns `LANE`."""

NEAR = 0.10
"""Lines of a figure lie on one another if they are nowhere further apart than this share of the higher one."""


def lane_of(row: Line) -> Lane:
    """The lane of a row."""
    return row.kernel, row.variant, row.device


def of_lane(rows: pd.DataFrame, lane: Lane) -> pd.DataFrame:
    """The rows of a lane."""
    return rows[(rows[LANE] == list(lane)).all(axis="columns")]


def largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows that differ only in bytes, the one with the most; the smallest inputs first."""
    alike = [*LANE, "algorithm", "strategy", "chunk_size"]
    ordered = rows.sort_values("bytes", kind="stable")
    first = ordered.groupby(alike, dropna=False, sort=False).ngroup()
    return ordered.drop_duplicates(alike, keep="last").assign(order=first).sort_values("order").drop(columns="order")


def labels(rows: pd.DataFrame) -> dict[Lane, str]:
    """A name for each lane, the fastest first: the kernel, what tells its device from others, and its variant if there
    are several."""
    named = {}
    for row in lines(rows.sort_values("gb_per_s", ascending=False, kind="stable")):
        names = rows["device_name"][rows["device_kind"] == row.device_kind]
        twins = rows["device"][(rows["kernel"] == row.kernel) & (rows["device_name"] == row.device_name)]
        device = row.device_kind.upper() if names.nunique() == 1 else row.device_name
        if "thread" in row.device:
            device = row.device.replace("-", " ")
        elif twins.nunique() > 1:
            device = f"{device} {row.device}"
        several = rows["variant"][rows["kernel"] == row.kernel].nunique() > 1
        variant = f" ({row.variant})" if several else ""
        named[lane_of(row)] = fill(f"{row.kernel}{variant}, {device}", 26)
    return named


def apart(rows: pd.DataFrame, named: dict[Lane, str], point: list[str]) -> tuple[dict[Lane, str], list[str]]:
    """The lanes that get a line in a figure: if all lines would lie on one another, that of the fastest lane alone.

    Args:
        rows: of one panel.
        named: the lanes, as `labels` names them, of this panel and perhaps others.
        point: the columns that tell the points of a line.

    Returns:
        The lanes, with their names; and in words how far the others are from the fastest.
    """
    if rows.empty:
        return {}, []
    speeds = rows.pivot_table("gb_per_s", point, LANE)
    best = lane_of(highest(rows, "gb_per_s"))
    change = speeds.div(speeds[best], axis="index") - 1
    here = {lane: name for lane, name in named.items() if lane in change}
    if not all(change[lane].abs().max() <= NEAR for lane in here):
        return here, []
    if len({kernel for kernel, _, _ in here}) == len(here):
        named = {lane: lane[0] for lane in here}  # which tells them apart
    others = (lane for lane in here if lane != best)
    words = [f"{named[lane]}: {100 * change[lane].min():+z.0f} to {change[lane].max():+z.0%}" for lane in others]
    return {best: here[best]}, [" ".join(line.split()) for line in words]
