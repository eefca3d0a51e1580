"""Runs side by side: which rows make a pair, what the pair says, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rows import READING, row

from hashbench.bench.comparison import (
    NotComparableError,
    check_comparable,
    compare,
    disagreements,
    summarize,
)
from hashbench.bench.frames import Line, Results, lines
from hashbench.bench.readings import Reading
from hashbench.bench.results import ROWS, Row
from hashbench.bench.tables import speed_ups
from hashbench.cli import report as report_commands


def pairs_of(base: Sequence[Row], other: Sequence[Row]) -> list[Line]:
    """The pairs of rows."""
    return list(lines(compare(Results.of(base), Results.of(other)).rows))


def pairs_of_readings(base: Sequence[Reading], other: Sequence[Reading]) -> list[Line]:
    """The pairs of readings."""
    return list(lines(compare(Results.of(readings=base), Results.of(readings=other)).readings))


def summary_of(base: Sequence[Row], other: Sequence[Row]) -> list[Line]:
    """The summary of the pairs of rows."""
    return list(lines(summarize(compare(Results.of(base), Results.of(other)))))


def hashlib_rows(threads: int, seconds: float = 1.0) -> list[Row]:
    many = f"{threads}-threads"
    return [
        row(seconds, kernel="hashlib", device="1-thread", device_kind="cpu"),
        row(seconds / threads, kernel="hashlib", device=many, device_kind="cpu"),
    ]


def test_the_ratio_is_of_throughputs() -> None:
    (pair,) = pairs_of([row(0.2)], [row(0.1)])
    assert pair.ratio == pytest.approx(2)


@pytest.mark.parametrize(
    ("seconds", "spread", "beyond"),
    [(0.10, 0.05, False), (0.105, 0.05, False), (0.12, 0.05, True), (0.12, 0.2, False), (0.08, 0.05, True)],
)
def test_a_difference_counts_where_the_quartiles_do_not_overlap(seconds: float, spread: float, beyond: bool) -> None:
    (pair,) = pairs_of([row(0.1, spread)], [row(seconds, spread)])
    assert pair.beyond_spread is beyond


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "other"},
        {"model": "gpt-2"},
        {"kernel": "cupy"},
        {"variant": "balanced"},
        {"strategy": "batched"},
        {"algorithm": "sha384"},
        {"bytes": 4096},
        {"chunk_size": None},
        {"segments": 7},
        {"device_kind": "cpu"},
    ],
)
def test_other_points_make_no_pair(change: dict[str, Any]) -> None:
    assert pairs_of([row()], [row(**change)]) == []


def test_the_only_device_of_a_kind_is_compared_whatever_its_id() -> None:
    (pair,) = pairs_of(
        [row(device="0:0", device_name="gfx90a")], [row(device="1:0", device_name="AMD Instinct MI300X")]
    )
    assert pair.device_name_other == "AMD Instinct MI300X"


def test_of_several_devices_those_of_the_same_id_are_compared() -> None:
    pairs = pairs_of([row(device="0"), row(device="1")], [row(device="1"), row(device="2"), row(device="3")])
    assert [(pair.device, pair.device_other) for pair in pairs] == [("1", "1")]


def test_one_thread_is_compared_with_one_and_all_cores_with_all() -> None:
    pairs = pairs_of(hashlib_rows(2), hashlib_rows(16))
    assert [(p.device, p.device_other) for p in pairs] == [("1-thread", "1-thread"), ("2-threads", "16-threads")]
    assert [p.ratio for p in pairs] == pytest.approx([1, 8])
    assert pairs_of(hashlib_rows(2)[:1], hashlib_rows(16)[1:]) == []


def test_default_variants_are_compared_whatever_they_are_called() -> None:
    nvidia = [row(variant=name) for name in ("sliced", "plain")]
    amd = row(variant="plain", device="1:0", device_name="AMD Instinct MI300X")
    (pair,) = pairs_of(nvidia, [amd])
    assert (pair.variant, pair.variant_other, pair.device_name_other) == ("sliced", "plain", "AMD Instinct MI300X")
    assert [(p.variant, p.variant_other) for p in pairs_of(nvidia, nvidia[::-1])] == [
        (v, v) for v in ("sliced", "plain")
    ]
    assert len(pairs_of([row(kernel="other")], [row(kernel="other")])) == 1  # a kernel that is not installed here
    with pytest.raises(NotComparableError, match="verified by 'sample'"):
        pairs_of(nvidia, [replace(amd, verified="all")])


def test_readings_of_the_same_are_compared_by_their_values() -> None:
    base = [READING, replace(READING, subject="SHF")]
    slower = replace(READING, median=31.625, q1=31.5, q3=31.75, device="1", device_name="NVIDIA A100")
    (pair,) = pairs_of_readings(base, [slower])
    assert (pair.subject, pair.device, pair.device_other, pair.ratio, pair.beyond_spread) == (
        "LOP3",
        "0",
        "1",
        0.5,
        True,
    )
    (summary,) = lines(summarize(compare(Results.of(readings=base), Results.of(readings=[slower]))))
    assert (summary.what, summary.higher, summary.lower) == ("LOP3, instruction rate (1/clk/SM)", 0, 1)
    (same,) = pairs_of_readings(base, [replace(READING, median=63.3)])
    assert not same.beyond_spread


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "other"},
        {"subject": "SHF"},
        {"quantity": "bandwidth"},
        {"unit": "GB/s"},
        {"kernel": "cupy"},
        {"model": "gpt-2"},
        {"workers": "2 threads"},
        {"files": 2},
        {"conditions": "4 chains"},
        {"storage": "memory"},
        {"memory": "pageable"},
        {"algorithm": "sha256"},
        {"device_kind": "cpu"},
    ],
)
def test_other_readings_make_no_pair(change: dict[str, Any]) -> None:
    assert pairs_of_readings([READING], [replace(READING, **change)]) == []
    assert compare(Results.of(readings=[READING]), Results.of([row()])).empty


def test_readings_of_one_thread_and_of_all_are_told_apart() -> None:
    one, two, many = (replace(READING, device=name) for name in ("1-thread", "2-threads", "16-threads"))
    assert pairs_of_readings([one], [many]) == []
    assert [(p.device, p.device_other) for p in pairs_of_readings([two], [one, many])] == [("2-threads", "16-threads")]


def test_pairs_keep_the_order_of_the_base() -> None:
    base = [row(algorithm=a, strategy=s) for a in ("sha384", "sha256") for s in ("tree", "batched")]
    found = [(pair.algorithm, pair.strategy) for pair in pairs_of(base, base[::-1])]
    assert found == [(one.algorithm, one.strategy) for one in base]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "2"}, r"measurement protocols 1 \(opencl 0:0 on NVIDIA H200, .*\) and 2 \("),
        ({"verified": "all"}, r"verified by 'sample' \(.*\) and 'all' \("),
    ],
)
def test_unlike_rows_are_refused_on_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NotComparableError, match=message) as raised:
        pairs_of([row()], [row(**change)])
    assert "\n" not in str(raised.value)
    with pytest.raises(NotComparableError, match=message):
        check_comparable(Results.of([row(), row(**change)]).rows)


def test_points_of_different_sizes_may_be_verified_differently() -> None:
    check_comparable(Results.of([row(), row(bytes=4096, verified="all")]).rows)
    check_comparable(Results.of().rows)


def test_speed_up_is_over_hashlib_on_one_thread() -> None:
    rows = [*hashlib_rows(4), row(0.01), row(0.01, chunk_size=64), row(0.02, bytes=1 << 31)]
    assert list(speed_ups(Results.of(rows).rows)) == pytest.approx([1, 4, 100, math.nan, 100], nan_ok=True)


def test_a_summary_is_by_experiment_kernel_and_kind_of_device() -> None:
    base = [
        row(0.1, bytes=1 << 20),
        row(0.1, bytes=1 << 30),
        row(0.1, experiment="other"),
        row(0.1, kernel="cupy"),
        row(0.1, device_kind="cpu", device="1:0"),
    ]
    found = summary_of(base, base)
    assert [(s.experiment, s.what, s.device_kind, s.points) for s in found] == [
        ("other", "opencl", "gpu", 1),
        ("throughput", "opencl", "gpu", 2),
        ("throughput", "cupy", "gpu", 1),
        ("throughput", "opencl", "cpu", 1),
    ]
    assert all((s.ratio, s.higher, s.lower) == (1, 0, 0) for s in found)


def test_the_summarys_ratio_is_the_geometric_mean_and_only_differences_beyond_the_spread_count() -> None:
    sizes = (1 << 20, 1 << 21, 1 << 22, 1 << 23)
    base = [row(0.1, 0.02, bytes=size) for size in sizes]
    other = [row(s, 0.02, bytes=n) for s, n in zip((0.05, 0.4, 0.1, 0.101), sizes, strict=True)]
    (summary,) = summary_of(base, other)
    assert summary.ratio == pytest.approx((2 * 0.25 * 1 * (0.1 / 0.101)) ** 0.25)
    assert (summary.higher, summary.lower) == (1, 1)
    (inverse,) = summary_of(other, base)
    assert inverse.ratio == pytest.approx(1 / summary.ratio)


def test_digests_of_one_input_that_differ_are_named() -> None:
    rows = [row(), row(kernel="cupy", digest="aa" * 32), row(digest="")]
    (line,) = disagreements(Results.of(rows).rows)
    assert line == (
        "the digests of throughput, sha256 tree, 1,073,741,824 bytes in chunks of 4KiB differ: "
        f"{'5d' * 32} (opencl 0:0 on NVIDIA H200, 2026-01-02T03:04:05Z) and "
        f"{'aa' * 32} (cupy 0:0 on NVIDIA H200, 2026-01-02T03:04:05Z)"
    )


def run_compare(tmp_path: Path, a: Row, b: Row, *arguments: str) -> Result:
    """The command over two machines of one row each."""
    for name, one in (("a", a), ("b", b)):
        (tmp_path / name).mkdir()
        ROWS.file(tmp_path / name / "throughput.csv").add(one)
    return CliRunner().invoke(report_commands.compare, ["a", "b", "--results", str(tmp_path), *arguments])


def test_the_command_prints_the_summary_and_on_demand_the_points(tmp_path: Path) -> None:
    (tmp_path / "summary").mkdir()
    done = run_compare(tmp_path / "summary", row(0.1), row(0.2))
    assert done.exit_code == 0, done.output
    assert "geometric mean" in done.stdout
    assert "0.500" in done.stdout
    assert "beyond the spread" not in done.stdout
    (tmp_path / "points").mkdir()
    done = run_compare(tmp_path / "points", row(0.1), row(0.2), "--points")
    assert done.exit_code == 0, done.output
    assert "beyond the spread" in done.stdout
    assert "geometric mean" not in done.stdout


def test_the_command_ends_with_1_where_digests_differ(tmp_path: Path) -> None:
    done = run_compare(tmp_path, row(0.1), row(0.2, digest="aa" * 32))
    assert done.exit_code == 1
    assert "0.500" in done.stdout
    assert done.stderr.startswith("the digests of throughput, sha256 tree")
    assert done.stderr.count("\n") == 1


def test_one_run_and_runs_without_a_common_point_are_refused(tmp_path: Path) -> None:
    done = run_compare(tmp_path, row(), row(algorithm="sha384", digest=""))
    assert "a and b have no point in common" in str(done.exception)
    done = CliRunner().invoke(report_commands.compare, ["a"])
    assert done.exit_code == 2
    assert "at least two runs" in done.output
