"""Lanes: which of them get a line in a figure."""

from __future__ import annotations

from dataclasses import replace

from rows import row

from hashbench.bench.frames import Results
from hashbench.bench.lanes import apart, labels
from hashbench.bench.results import Row

SIZE = 1 << 20


def of(kernel: str, first: float, second: float) -> list[Row]:
    """The rows of a kernel over two sizes, at these shares of a speed."""
    return [row(0.1 / first, kernel=kernel, bytes=SIZE), row(0.2 / second, kernel=kernel, bytes=2 * SIZE)]


def drawn(*rows: Row) -> tuple[list[str], list[str]]:
    """The names of the lanes that get a line, and what is said of the others."""
    frame = Results.of(rows).rows
    lanes, others = apart(frame, labels(frame), ["bytes"])
    return list(lanes.values()), others


def test_of_lines_on_one_another_one_is_drawn_and_the_others_are_told_in_words() -> None:
    near = [*of("cupy", 1, 1), *of("opencl", 0.98, 0.91), *of("triton", 0.999, 1)]
    assert drawn(*near) == (["cupy, GPU"], ["triton: +0 to +0%", "opencl: -9 to -2%"])
    twins = [*near, *(replace(one, device="1:0") for one in of("opencl", 1, 1))]
    assert drawn(*twins)[1][-1] == "opencl, GPU 0:0: -9 to -2%"
    assert drawn(*near, *of("dpnp", 1, 0.89)) == (["cupy, GPU", "triton, GPU", "dpnp, GPU", "opencl, GPU"], [])


def test_a_lane_that_has_no_point_in_common_with_the_fastest_is_drawn() -> None:
    names, others = drawn(*of("cupy", 1, 1), row(0.1, kernel="triton", bytes=4 * SIZE))
    assert (sorted(names), others) == (["cupy, GPU", "triton, GPU"], [])


def test_a_panel_without_rows_has_no_lines() -> None:
    assert apart(Results.of().rows, {}, ["bytes"]) == ({}, [])
