"""Runs side by side: which rows make a pair, what the pair says, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rows import row

from hashbench.comparison import NotComparableError, check_comparable, compare, read_run
from hashbench.records import ResultsError
from hashbench.results import ResultsFile, Row
from hashbench.tables import speed_up_over_reference


def hashlib_rows(threads: int, seconds: float = 1.0) -> list[Row]:
    many = f"{threads}-threads"
    return [
        row(seconds, kernel="hashlib", device="1-thread", device_kind="cpu"),
        row(seconds / threads, kernel="hashlib", device=many, device_kind="cpu"),
    ]


def test_the_ratio_is_of_throughputs() -> None:
    (pair,) = compare([row(0.2)], [row(0.1)])
    assert pair.ratio == pytest.approx(2)


@pytest.mark.parametrize(
    ("seconds", "spread", "beyond"),
    [(0.10, 0.05, False), (0.105, 0.05, False), (0.12, 0.05, True), (0.12, 0.2, False), (0.08, 0.05, True)],
)
def test_a_difference_counts_where_the_quartiles_do_not_overlap(seconds: float, spread: float, beyond: bool) -> None:
    (pair,) = compare([row(0.1, spread)], [row(seconds, spread)])
    assert pair.beyond_spread is beyond


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "other"},
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
    assert compare([row()], [row(**change)]) == []


def test_the_only_device_of_a_kind_is_compared_whatever_its_id() -> None:
    (pair,) = compare([row(device="0:0")], [row(device="1:0", device_name="AMD Instinct MI300X")])
    assert pair.other.device_name == "AMD Instinct MI300X"


def test_of_several_devices_those_of_the_same_id_are_compared() -> None:
    pairs = compare([row(device="0"), row(device="1")], [row(device="1"), row(device="2"), row(device="3")])
    assert [(pair.base.device, pair.other.device) for pair in pairs] == [("1", "1")]


def test_one_thread_is_compared_with_one_and_all_cores_with_all() -> None:
    pairs = compare(hashlib_rows(2), hashlib_rows(16))
    assert [(p.base.device, p.other.device) for p in pairs] == [("1-thread", "1-thread"), ("2-threads", "16-threads")]
    assert [p.ratio for p in pairs] == pytest.approx([1, 8])
    assert compare(hashlib_rows(2)[:1], hashlib_rows(16)[1:]) == []


def test_pairs_keep_the_order_of_the_base() -> None:
    base = [row(algorithm=a, strategy=s) for a in ("sha384", "sha256") for s in ("tree", "batched")]
    assert [pair.base for pair in compare(base, base[::-1])] == base


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "2"}, r"measurement protocols 1 \(opencl 0:0 on NVIDIA H200, .*\) and 2 \("),
        ({"verified": "all"}, r"verified by 'sample' \(.*\) and 'all' \("),
    ],
)
def test_unlike_rows_are_refused_on_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NotComparableError, match=message) as raised:
        compare([row()], [row(**change)])
    assert "\n" not in str(raised.value)
    with pytest.raises(NotComparableError, match=message):
        check_comparable([row(), row(**change)])


def test_points_of_different_sizes_may_be_verified_differently() -> None:
    check_comparable([row(), row(bytes=4096, verified="all")])


def test_a_run_is_a_folder_or_a_file(tmp_path: Path) -> None:
    for name in ("throughput", "other"):
        ResultsFile(tmp_path / f"{name}.csv").add(row(experiment=name))
    assert [r.experiment for r in read_run(tmp_path)] == ["other", "throughput"]
    assert [r.experiment for r in read_run(tmp_path / "other.csv")] == ["other"]


def test_another_schema_and_an_empty_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "throughput.csv"
    ResultsFile(path).add(row())
    text = path.read_text()
    path.write_text(text.replace("\n1,", "\n9,"))
    with pytest.raises(ResultsError, match="is of schema '9'"):
        read_run(tmp_path)
    path.write_text(text.splitlines(keepends=True)[0])
    with pytest.raises(ResultsError, match="holds no rows"):
        read_run(tmp_path)


def test_speed_up_is_over_hashlib_on_one_thread() -> None:
    rows = [*hashlib_rows(4), row(0.01), row(0.01, chunk_size=64), row(0.02, bytes=1 << 31)]
    speed_ups = [speed_up_over_reference(r, rows) for r in rows]
    assert speed_ups == [1, pytest.approx(4), pytest.approx(100), None, pytest.approx(100)]
