"""Results files: what is written comes back, and nothing else is taken for one."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import POSITIVE_NUMBERS, ROW, TEXTS, WHOLE_NUMBERS, row

from hashbench.bench.inventories import MODELS
from hashbench.bench.records import ResultsError, check_writable
from hashbench.bench.results import MACHINE_FILE, ROWS, Row, check_machine, machine_folders, rows_files, write_machine
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import ALGORITHMS

by_type = {
    "int": WHOLE_NUMBERS,
    "float": POSITIVE_NUMBERS,
    "str": TEXTS,
    "int | None": st.none() | WHOLE_NUMBERS,
    "Samples": st.just(()),
}
by_name = {
    "schema": st.just(ROW.schema),
    "model": st.sampled_from(["", *MODELS]),
    "strategy": st.sampled_from(["batched", "leaves", "tree"]),
    "algorithm": st.sampled_from(["sha256", "sha384"]),
    "device_kind": st.sampled_from(["gpu", "cpu"]),
    "verified": st.sampled_from(["all", "sample"]),
}


def digests_of(one: Row) -> st.SearchStrategy[Row]:
    """`one` without a digest, and with any that its algorithm can give."""
    digests = st.binary(min_size=(size := ALGORITHMS[one.algorithm].digest_size), max_size=size).map(bytes.hex)
    return (st.just("") | digests).map(lambda digest: replace(one, digest=digest))


def samples_of(one: Row) -> st.SearchStrategy[Row]:
    """`one` without samples, and with one for each of its runs."""
    samples = st.lists(POSITIVE_NUMBERS, min_size=1, max_size=5).map(tuple)
    both = samples.map(lambda s: replace(one, seconds_samples=s, wall_seconds_samples=s[::-1], repeats=len(s)))
    return st.just(one) | both


any_row = (
    st.builds(Row, **{f.name: by_name.get(f.name, by_type[str(f.type)]) for f in fields(Row)})
    .map(lambda one: replace(one, strategy="batched") if one.chunk_size is None else one)
    .flatmap(digests_of)
    .flatmap(samples_of)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three rows."""
    file = ROWS.file(tmp_path / "throughput.csv")
    for strategy, chunk_size in (("tree", 4096), ("batched", 4096), ("batched", None)):
        file.add(replace(ROW, strategy=strategy, chunk_size=chunk_size))
    return file.path


@given(rows=st.lists(any_row, min_size=1, max_size=4, unique_by=lambda r: r.point))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_come_back_as_they_were(tmp_path: Path, rows: list[Row]) -> None:
    path = tmp_path / "any.csv"
    path.unlink(missing_ok=True)
    file = ROWS.file(path)
    for one in rows:
        file.add(one)
    assert ROWS.read(path) == rows == ROWS.file(path).records


def test_pandas_reads_the_file(path: Path) -> None:
    frame = pd.read_csv(path)
    assert tuple(frame.columns) == ROWS.columns
    assert frame["gb_per_s"].tolist() == [ROW.gb_per_s] * 3
    assert frame["driver"].tolist() == [ROW.driver] * 3


def test_the_same_point_replaces_its_row(path: Path) -> None:
    file = ROWS.file(path)
    before = file.records
    again = replace(before[1], seconds_median=1.0, date="2027-01-01T00:00:00Z", commit="later")
    file.add(again)
    assert ROWS.read(path) == [before[0], again, before[2]]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "gpt-2"},
        {"kernel": "dpnp"},
        {"variant": "x"},
        {"device": "0:1"},
        {"bytes": 5},
        {"chunk_size": 64},
        {"segments": 2},
    ],
)
def test_another_point_is_another_row(path: Path, change: dict[str, Any]) -> None:
    file = ROWS.file(path)
    file.add(replace(ROW, **change))
    assert len(ROWS.read(path)) == 4


def test_a_point_that_occurs_twice_is_named(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[2].replace(ROW.date, "2027-01-01T00:00:00Z")]))
    named = "throughput, opencl, plain, batched, sha256, 1073741824, 4096, 1, 0:0"
    with pytest.raises(ResultsError, match=rf"throughput\.csv, line 5: repeats the point of line 3: {named}$"):
        ROWS.read(path)


def test_a_cut_file_is_truncated(path: Path) -> None:
    data = path.read_bytes()
    for end in range(len(data)):
        if data[:end].endswith(b"\n"):
            continue  # then fewer rows were written
        path.write_bytes(data[:end])
        with pytest.raises(ResultsError, match=r"throughput\.csv"):
            ROWS.read(path)


def test_a_short_line_is_named(path: Path) -> None:
    path.write_text(path.read_text().replace(f",{ROW.date},,\n", "\n", 1))
    with pytest.raises(ResultsError, match=rf"line 2 is truncated: it has {len(ROWS.columns) - 3} columns"):
        ROWS.read(path)


def test_another_schema_is_refused_whatever_its_columns(path: Path) -> None:
    text = path.read_text().replace("seconds_min", "seconds_least").replace("\n3,", "\n1,")
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"has schema '1'; accepted are files of schema 3"):
        ROWS.read(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema,", "scheme,", "is not a results file"),
        (",date,", ",day,", "unknown columns: 'day'"),
        (",commit,date,", ",commit,", "missing columns: 'date'"),
        ("kernel,variant", "variant,kernel", "another order"),
        (",throughput,,", ",throughput,my-model,", "model is 'my-model'; accepted are an empty cell, bert-base, "),
        (",tree,", ",forest,", "strategy is 'forest'; accepted are batched, leaves, tree"),
        (",sample,", ",yes,", "verified is 'yes'; accepted are all, sample"),
        (f",{ROW.digest},", ",5d,", "digest is '5d'; accepted are 64 lower-case hex digits, or an empty cell"),
        (f",{ROW.digest},", f",{ROW.digest.upper()},", "accepted are 64 lower-case hex digits"),
        (",sha256,", ",sha384,", "accepted are 96 lower-case hex digits"),
        (",0.0021,", ",fast,", "seconds_q3 is 'fast'"),
        (",0.0021,", ",nan,", "seconds_q3 is 'nan'"),
        (",0.0021,", ",0,", "seconds_q3 is '0'"),
        (",1073741824,", ",1e9,", "bytes is '1e9'"),
        (",1073741824,", ",,", "bytes is ''"),
        (",0123456789,", ",0123456789,0,", f"has {len(ROWS.columns) + 1} columns"),
        (f"{ROW.date},,", f"{ROW.date},1;,", "seconds_samples is '1;'; accepted are numbers separated by semicolons"),
        (f"{ROW.date},,", f"{ROW.date},,inf", "wall_seconds_samples is 'inf'; accepted are numbers"),
        (f"{ROW.date},,", f"{ROW.date},1;2,", "seconds_samples has 2 values; accepted are 9, one per run"),
    ],
)
def test_what_is_wrong_is_said_on_one_line(path: Path, old: str, new: str, message: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ResultsError, match=message) as raised:
        ROWS.read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ResultsError, match=message):
        ROWS.file(path)  # nothing is measured into it either


@pytest.mark.parametrize("data", [b"", b"\n", b"\x89PNG\r\n\x1a\n\xff", b'"never closed', b"kernel,gb_per_s\na,1\n"])
def test_other_files_are_not_results(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ResultsError, match="is not a results file"):
        ROWS.read(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"none\.csv cannot be read: No such file"):
        ROWS.read(tmp_path / "none.csv")
    with pytest.raises(ResultsError, match="cannot be read: Is a directory"):
        ROWS.read(tmp_path)


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    file = ROWS.file(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="cannot be written: No space left") as raised:
        file.add(row(kernel="dpnp"))
    assert raised.value.filename == str(path)
    assert path.read_bytes() == before
    assert len(file.records) == 3
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResultsError, match=r"results cannot be written to .*machine: Not a directory"):
        check_writable(tmp_path / "file" / "machine")
    check_writable(tmp_path / "new" / "machine")
    assert list((tmp_path / "new" / "machine").iterdir()) == []


def test_folders_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="is not a folder"):
        machine_folders(tmp_path / "none")
    with pytest.raises(ResultsError, match="holds no results"):
        machine_folders(tmp_path)
    for machine in ("b", "a"):
        check_writable(tmp_path / machine / "figures")
        write_atomically(tmp_path / machine / "figures" / "drawn.csv", b"")
        write_machine(tmp_path / machine, {"cpu": "ü"})
    assert rows_files(tmp_path / "a") == []
    for machine in ("b", "a"):
        ROWS.file(tmp_path / machine / "throughput.csv").add(ROW)
    check_writable(tmp_path / "figures")
    write_atomically(tmp_path / "figures" / "throughput.csv", b"drawn over all machines")
    assert machine_folders(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert rows_files(tmp_path / "a") == [tmp_path / "a" / "throughput.csv"]
    assert json.loads((tmp_path / "a" / "machine.json").read_text(encoding="utf-8")) == {"cpu": "ü"}


def described(gpus: list[str], listed: list[str], cpu: str = "Some Xeon", cores: int = 16) -> dict[str, Any]:
    """What a machine's description says of its hardware: GPUs as the management library names them, and as frameworks
    list them."""
    devices = [{"kernel": "opencl", "name": name, "kind": "gpu"} for name in listed]
    devices.append({"kernel": "hashlib", "name": cpu, "kind": "cpu"})
    return {"cpu": {"name": cpu, "logical_cores": cores}, "gpus": [{"name": n} for n in gpus], "devices": devices}


H200 = described(["NVIDIA H200"], ["NVIDIA H200"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (H200, H200),
        (H200, described(["NVIDIA H200"] * 8, [])),
        (described([], ["AMD Instinct MI300X"]), described([], ["AMD Instinct MI300X", "gfx942:sramecc+:xnack-"])),
        (described([], []), described([], [])),
    ],
)
def test_a_machines_folder_is_its_own_whatever_frameworks_it_has(
    tmp_path: Path, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    check_machine(tmp_path, ours)
    write_machine(tmp_path, theirs)
    check_machine(tmp_path, ours)


@pytest.mark.parametrize(
    ("other", "has"),
    [
        (described(["NVIDIA H100"], ["NVIDIA H100"]), r"Some Xeon \(16 cores\) and NVIDIA H100"),
        (described(["NVIDIA H200"], [], cpu="Some EPYC"), r"Some EPYC \(16 cores\) and NVIDIA H200"),
        (described(["NVIDIA H200"], [], cores=8), r"Some Xeon \(8 cores\) and NVIDIA H200"),
        (described([], []), r"Some Xeon \(16 cores\) and no GPU"),
    ],
)
def test_another_machines_folder_is_refused_on_one_line(tmp_path: Path, other: dict[str, Any], has: str) -> None:
    write_machine(tmp_path, H200)
    message = rf"describes another machine, with Some Xeon .* NVIDIA H200; this one has {has}: .* with --machine$"
    with pytest.raises(ResultsError, match=message) as raised:
        check_machine(tmp_path, other)
    assert "\n" not in str(raised.value)


ROME, TURIN = (described([], [], cpu="AMD EPYC", cores=2) for _ in range(2))
ROME["cpu"] |= {"vector_instructions": ["avx2"]}
TURIN["cpu"] |= {"family": 26, "model": 2, "vector_instructions": ["avx2", "avx512f"], "cache_bytes": {"L2": 1 << 20}}


def test_processors_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Virtual machines call several generations alike. A description of an earlier version has no family."""
    write_machine(tmp_path, ROME)
    with pytest.raises(ResultsError) as raised:
        check_machine(tmp_path, TURIN)
    assert str(raised.value).partition(" describes ")[2] == (
        "another machine, with AMD EPYC (2 cores), vector instructions avx2 and no GPU; this one has AMD EPYC "
        "(2 cores), vector instructions avx2, avx512f and no GPU: choose another with --machine"
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"family": 25}, "family 26 and"),
        ({"model": 17}, "model 2 and"),
        ({"cache_bytes": {"L2": 1 << 19}}, "cache bytes L2: 1048576 and"),
        ({"vector_instructions": []}, "vector instructions avx2, avx512f and"),
    ],
)
def test_whatever_distinguishes_a_processor_counts(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    write_machine(tmp_path, TURIN)
    check_machine(tmp_path, TURIN)
    with pytest.raises(ResultsError, match=re.escape(words)):
        check_machine(tmp_path, TURIN | {"cpu": TURIN["cpu"] | changed})


def test_a_description_that_says_less_is_of_the_same_machine(tmp_path: Path) -> None:
    write_machine(tmp_path, described([], [], cpu="AMD EPYC", cores=2))
    check_machine(tmp_path, TURIN)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cpu": 1, "gpus": [], "devices": []}', "\x00"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MACHINE_FILE).write_text(text)
    with pytest.raises(ResultsError, match=r"machine\.json is not a machine's description"):
        check_machine(tmp_path, H200)
