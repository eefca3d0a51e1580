"""Results as DataFrames: what the files hold, with what is computed from it, and which digests are compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rows import READING, row

from hashbench.bench.comparison import disagreements
from hashbench.bench.frames import Results, highest, lines, read_experiment, read_run, together, with_twins
from hashbench.bench.readings import READINGS
from hashbench.bench.records import ResultsError
from hashbench.bench.results import ROWS, SCHEMA


def test_rows_have_their_columns_and_what_is_computed_from_them() -> None:
    rows = Results.of([row(0.002, 0.05, chunk_size=None), row(0.002, 0.0, bytes=4096)], machine="here").rows
    first, second = lines(rows)
    assert pd.isna(first.chunk_size)
    assert (second.chunk_size, second.machine, second.kernel) == (4096, "here", "opencl")
    assert first.gb_per_s_q1 == pytest.approx(first.gb_per_s / 1.05)
    assert first.gb_per_s_q3 == pytest.approx(first.gb_per_s / 0.95)
    assert first.wall_gb_per_s == pytest.approx(1e-9 * first.bytes / first.wall_seconds_median)
    rounded = replace(row(), seconds_q1=row().seconds_median, gb_per_s=row().gb_per_s + 1)  # beyond its quartile
    assert next(lines(Results.of([rounded]).rows)).gb_per_s_q3 == rounded.gb_per_s


def test_without_records_there_are_columns_all_the_same() -> None:
    nothing, something = Results.of(), Results.of([row()], [READING])
    assert nothing.empty
    assert not something.empty
    for empty, whole in ((nothing.rows, something.rows), (nothing.readings, something.readings)):
        assert list(empty.columns) == list(whole.columns)
        assert list(empty.dtypes) == list(whole.dtypes)


def test_readings_say_how_they_were_measured() -> None:
    facts: dict[str, Any] = {
        "kernel": "cupy",
        "model": "gpt-2",
        "workers": "2 processes",
        "storage": "memory",
        "memory": "pageable",
    }
    every = replace(READING, files=32, conditions="8MiB each", **facts)
    (text,) = Results.of(readings=[every]).readings["how"]
    assert text == every.how == "cupy, gpt-2, 2 processes, 32 files, 8MiB each in memory, pageable"
    assert replace(READING, files=1, conditions="").how == "one file"
    assert replace(READING, conditions="").how == ""


def test_results_of_machines_stand_together_by_machine() -> None:
    parts = [
        Results.of([row(kernel=name)], [READING], machine) for machine, name in (("b", "x"), ("a", "y"), ("b", "z"))
    ]
    both = together(parts)
    assert both.machines == ["a", "b"]
    assert list(both.rows["kernel"]) == ["y", "x", "z"]
    assert list(both.rows.index) == [0, 1, 2]
    assert len(both.readings) == 3
    assert together([]).empty


def test_the_highest_line_is_the_first_of_several() -> None:
    rows = Results.of([row(0.2), row(0.1, kernel="a"), row(0.1, kernel="b")]).rows
    assert highest(rows, "gb_per_s").kernel == "a"


def test_an_experiment_is_read_from_every_machine(tmp_path: Path) -> None:
    for machine in ("b", "a"):
        (tmp_path / machine).mkdir()
        ROWS.file(tmp_path / machine / "throughput.csv").add(row())
    READINGS.file(tmp_path / "a" / "other.readings.csv").add(READING)
    assert list(read_experiment(tmp_path, "throughput").rows["machine"]) == ["a", "b"]
    assert read_experiment(tmp_path, "other").machines == ["a"]
    assert read_experiment(tmp_path, "none").empty


def test_a_run_is_a_folder_or_a_file(tmp_path: Path) -> None:
    for name in ("throughput", "other"):
        ROWS.file(tmp_path / f"{name}.csv").add(row(experiment=name))
    assert list(read_run(tmp_path).rows["experiment"]) == ["other", "throughput"]
    assert list(read_run(tmp_path / "other.csv").rows["experiment"]) == ["other"]
    file = READINGS.file(tmp_path / "other.readings.csv")
    file.add(replace(READING, experiment="other"))
    assert list(read_run(file.path).readings["subject"]) == ["LOP3"]
    whole = read_run(tmp_path)
    assert (len(whole.rows), len(whole.readings)) == (2, 1)


def test_another_schema_and_an_empty_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "throughput.csv"
    ROWS.file(path).add(row())
    text = path.read_text()
    path.write_text(text.replace(f"\n{SCHEMA},", "\n9,"))
    with pytest.raises(ResultsError, match="has schema '9'"):
        read_run(tmp_path)
    path.write_text(text.splitlines(keepends=True)[0])
    with pytest.raises(ResultsError, match="has no rows or readings"):
        read_run(tmp_path)


def test_rows_of_one_input_are_those_that_hashed_the_same_whatever_the_kernel() -> None:
    same = [row(), row(kernel="cupy", variant="paired"), row(device="1:0", device_name="AMD Instinct MI300X")]
    others = [row(bytes=4096), row(strategy="batched"), row(model="gpt-2"), row(segments=2), row(chunk_size=8192)]
    whole = [row(chunk_size=None), row(chunk_size=None, device="1")]
    inputs = with_twins(Results.of([*same, *others, *whole, row(digest="")]).rows)
    assert list(inputs["twins"]) == [3] * 3 + [1] * 5 + [2] * 2
    assert list(inputs["input"]) == [0, 0, 0, 1, 2, 3, 4, 5, 6, 6]
    assert inputs["equal"].all()
    assert disagreements(Results.of([*same, *others]).rows) == []


def test_where_digests_of_an_input_differ_none_is_trusted_over_another() -> None:
    rows = [
        row(kernel=kernel, device=str(n), digest=digest * 32)
        for n, (kernel, digest) in enumerate((("hashlib", "bb"), ("hashlib", "bb"), ("hashlib", "aa"), ("cupy", "aa")))
    ]
    assert list(with_twins(Results.of([*rows, row(bytes=4096)]).rows)["equal"]) == [False] * 4 + [True]
    assert list(with_twins(Results.of(rows[2:]).rows)["equal"]) == [True, True]
    assert with_twins(Results.of([row(digest=""), row(device="1", digest="")]).rows).empty
