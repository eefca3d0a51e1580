"""Lanes: which of them get a line in a figure."""

from __future__ import annotations

from rows import row

from hashbench.bench.frames import Results
from hashbench.bench.lanes import apart, labels


def test_a_lane_that_is_nowhere_far_from_the_fastest_is_told_in_words() -> None:
    size = 1 << 20
    rows = [
        *(row(0.1, kernel="cupy", bytes=size), row(0.2, kernel="cupy", bytes=2 * size)),
        *(row(0.1 / 0.98, kernel="opencl", bytes=size), row(0.2 / 0.91, kernel="opencl", bytes=2 * size)),
        *(row(0.1, kernel="dpnp", bytes=size), row(0.2 / 0.89, kernel="dpnp", bytes=2 * size)),
        row(0.1, kernel="triton", bytes=4 * size),  # has no point in common with the others
    ]
    frame = Results.of(rows).rows
    drawn, others = apart(frame[frame["bytes"] < 4 * size], labels(frame), ["bytes"])
    assert list(drawn.values()) == ["cupy, GPU", "dpnp, GPU"]
    assert others == ["opencl, GPU: -9% to -2%"]
    drawn, others = apart(frame, labels(frame), ["bytes"])
    assert (len(drawn), others) == (4, [])


def test_a_panel_without_rows_has_no_lines() -> None:
    assert apart(Results.of().rows, {}, ["bytes"]) == ({}, [])
