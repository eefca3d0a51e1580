"""Readings: what is written comes back, apart from the rows."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import NUMBERS, POSITIVE_NUMBERS, READING, ROW, TEXTS, WHOLE_NUMBERS

from hashbench.bench.frames import Results
from hashbench.bench.inventories import MODELS
from hashbench.bench.readings import POINT, READINGS, SCHEMA, Reading
from hashbench.bench.records import ResultsError
from hashbench.bench.results import ROWS, experiment_names, machine_folders, rows_files
from hashbench.bench.tables import readings_table

by_type = {
    "int": WHOLE_NUMBERS,
    "float": POSITIVE_NUMBERS,
    "str": TEXTS,
    "int | None": st.none() | WHOLE_NUMBERS,
}
by_name = {
    "schema": st.just(SCHEMA),
    "model": st.sampled_from(["", *MODELS]),
    "samples": st.just(()),
    "algorithm": st.sampled_from(["", "sha256", "sha384"]),
    "device_kind": st.sampled_from(["gpu", "cpu"]),
}


def with_samples(one: Reading) -> st.SearchStrategy[Reading]:
    """`one` without samples, and with as many as it needs."""
    values = st.lists(NUMBERS, min_size=1, max_size=5)
    return st.just(one) | values.map(lambda samples: replace(one, samples=tuple(samples), repeats=len(samples)))


columns = {f.name: by_name[f.name] if f.name in by_name else by_type[str(f.type)] for f in fields(Reading)}
any_reading = st.builds(Reading, **columns).flatmap(with_samples)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three readings."""
    (tmp_path / "here").mkdir()
    file = READINGS.file(READINGS.path(tmp_path / "here", "roofline"))
    for subject in ("LOP3", "SHF", "IMAD"):
        file.add(replace(READING, subject=subject))
    return file.path


@given(readings=st.lists(any_reading, min_size=1, max_size=4, unique_by=lambda r: r.point))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_readings_come_back_as_they_were(tmp_path: Path, readings: list[Reading]) -> None:
    path = READINGS.path(tmp_path, "any")
    path.unlink(missing_ok=True)
    file = READINGS.file(path)
    for one in readings:
        file.add(one)
    assert READINGS.read(path) == readings == READINGS.file(path).records


def test_the_columns_are_the_fields_in_order(path: Path) -> None:
    frame = pd.read_csv(path)
    assert tuple(frame.columns) == READINGS.columns == tuple(field.name for field in fields(Reading))
    assert READINGS.columns[:5] == ("schema", "experiment", "subject", "quantity", "unit")
    assert frame["median"].tolist() == [READING.median] * 3


def test_the_same_point_replaces_its_reading(path: Path) -> None:
    file = READINGS.file(path)
    before = file.records
    again = replace(before[1], median=1.0, source="later", note="", date="2027-01-01T00:00:00Z")
    file.add(again)
    assert READINGS.read(path) == [before[0], again, before[2]]


@pytest.mark.parametrize("name", POINT)
def test_another_point_is_another_reading(path: Path, name: str) -> None:
    values: dict[str, Any] = {"model": "gpt-2", "files": 2, "algorithm": "sha256"}
    READINGS.file(path).add(replace(READING, **{name: values.get(name, "another")}))
    assert len(READINGS.read(path)) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"median": float("nan")}, "median is 'nan'; accepted is a positive number"),
        ({"q1": -1.0}, "q1 is '-1.0'; accepted is a positive number"),
        ({"repeats": 0}, "repeats is '0'; accepted is a positive whole number"),
        ({"algorithm": "md5"}, "algorithm is 'md5'; accepted are an empty cell, sha256, sha384"),
        ({"device_kind": ""}, "device_kind is ''; accepted are gpu, cpu"),
        ({"model": "my-model"}, f"model is 'my-model'; accepted are an empty cell, {', '.join(MODELS)}"),
        ({"files": 0}, "files is '0'; accepted is a positive whole number"),
        ({"samples": (1.0, float("nan"))}, "samples is '1.0;nan'; accepted are numbers separated by semicolons"),
        ({"samples": (1.0,)}, "samples has 1 values; accepted are 9, as `repeats` says, or an empty cell"),
    ],
)
def test_what_would_not_read_back_is_not_written(path: Path, change: dict[str, Any], message: str) -> None:
    before = path.read_bytes()
    file = READINGS.file(path)
    with pytest.raises(ResultsError) as raised:
        file.add(replace(READING, **change))
    assert str(raised.value) == f"a reading: {message}"
    assert path.read_bytes() == before
    assert len(file.records) == 3


def test_rows_are_no_readings_and_readings_no_rows(path: Path) -> None:
    rows = ROWS.file(ROWS.path(path.parent, "roofline"))
    rows.add(ROW)
    with pytest.raises(ResultsError, match="has schema '3'; accepted are files of schema 2"):
        READINGS.read(rows.path)
    with pytest.raises(ResultsError, match="has schema '2'; accepted are files of schema 3"):
        ROWS.read(path)


def test_files_of_readings_are_told_from_files_of_rows(path: Path) -> None:
    folder = path.parent
    assert path.name == f"roofline{READINGS.suffix}"
    assert machine_folders(folder.parent) == [folder]
    assert experiment_names(folder) == ["roofline"]
    assert rows_files(folder) == []
    for name in ("roofline", "throughput"):
        ROWS.file(ROWS.path(folder, name)).add(ROW)
    assert rows_files(folder) == [folder / "roofline.csv", folder / "throughput.csv"]
    assert experiment_names(folder) == ["roofline", "throughput"]


def test_a_reading_is_named_by_what_it_measures() -> None:
    assert str(READING) == "LOP3 instruction rate (8 chains)"
    assert str(replace(READING, algorithm="sha384", conditions="")) == "LOP3 sha384 instruction rate"


def test_the_table_has_a_line_for_each_reading() -> None:
    table = readings_table(Results.of(readings=[READING, replace(READING, note="[odd] markup")]).readings)
    assert len(table.lines) == 2
    assert table.columns == (
        *("subject", "quantity", "conditions", "algorithm", "device", "median", "quartiles", "unit", "source", "note"),
    )
    assert table.numeric == {"median", "quartiles"}
