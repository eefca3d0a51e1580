"""The comparison of a model with its manifest: what differs, is missing or is extra, and the report's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashbench.model.damage import runs
from hashbench.model.manifest import Entry, FileEntry, Manifest, TensorEntry
from hashbench.model.report import MAX_LINES, Report, compare, summary

ROOT, OTHER_ROOT = bytes(32), b"\1" * 32
WEIGHT = TensorEntry("weight", "F32", (2, 1500), 12_000, ROOT)
BIAS = TensorEntry("bias", "BF16", (3,), 6, ROOT)
CONFIG = FileEntry("config.json", 100, ROOT)


def manifest(*entries: Entry) -> Manifest:
    return Manifest("sha256", 4096, entries)


def compared(expected: Sequence[Entry], found: Sequence[Entry]) -> Report:
    return compare(manifest(*expected), {entry.name: entry for entry in found})


def lines(expected: Sequence[Entry], found: Sequence[Entry], damage: dict[str, tuple[range, ...]]) -> list[str]:
    return str(replace(compared(expected, found), damage=damage)).splitlines()


def test_what_is_the_same_is_verified_on_one_line() -> None:
    whole = manifest(WEIGHT, BIAS)
    report = compared([WEIGHT, BIAS], [BIAS, WEIGHT])
    assert report.ok
    assert (report.differs, report.missing, report.extra) == ((), (), ())
    assert str(report) == f"verified, tensors only: 2 tensors, 12,006 bytes, sha256 root {whole.root.hex()}"


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([], "nothing, 0 bytes, "),
        ([WEIGHT], "1 tensor, 12,000 bytes, "),
        ([CONFIG], "1 file, 100 bytes, "),
        ([replace(CONFIG, frame_bytes=100), replace(BIAS, file=CONFIG.path)], "1 file with 1 tensor, 100 bytes, "),
    ],
)
def test_a_summary_counts(entries: Sequence[Entry], text: str) -> None:
    whole = manifest(*entries)
    assert summary(whole) == f"{text}sha256 root {whole.root.hex()}"


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (replace(WEIGHT, root=OTHER_ROOT), "other bytes"),
        (replace(WEIGHT, dtype="I32"), "dtype I32, not F32"),
        (replace(WEIGHT, shape=(3000,)), "shape [3000], not [2, 1500]"),
        (
            TensorEntry("weight", "U8", (5, 2), 10, OTHER_ROOT),
            "dtype U8, not F32; shape [5, 2], not [2, 1500]; other bytes",
        ),
        (FileEntry("weight", 12_000, ROOT), "kind file, not tensor"),
    ],
)
def test_every_difference_of_a_tensor_is_reported(found: Entry, line: str) -> None:
    report = compared([WEIGHT, BIAS], [found, BIAS])
    assert not report.ok
    assert (report.differs, report.missing, report.extra) == (("weight",), (), ())
    assert str(report) == f"differs: weight: {line}"
    assert report.damaged == ({"weight"} if "other bytes" in line else set())


def test_many_tensors_of_the_same_other_dtype_have_one_line() -> None:
    tensors = [replace(BIAS, name=f"layers.{number}") for number in range(9)]
    converted = [TensorEntry(one.name, "F32", (3,), 12, OTHER_ROOT) for one in tensors]
    assert lines([*tensors, WEIGHT], [*converted, replace(WEIGHT, root=OTHER_ROOT)], {}) == [
        "differs: 9 tensors, such as layers.0: dtype F32, not BF16; other bytes",
        "differs: weight: other bytes",
    ]
    few = lines(tensors[:7], converted[:7], {})
    assert few[0] == "differs: layers.0: dtype F32, not BF16; other bytes"
    assert len(few) == 7


def test_every_difference_of_a_file_is_reported() -> None:
    other = replace(CONFIG, root=OTHER_ROOT)
    assert lines([CONFIG], [other], {}) == ["differs: config.json: other bytes"]
    shorter = replace(CONFIG, nbytes=90)
    assert lines([CONFIG], [shorter], {}) == ["differs: config.json: size 90, not 100; not hashed"]


def test_a_file_stands_for_its_tensors_where_they_cannot_be_read() -> None:
    file = FileEntry("weights", 12_050, ROOT, 44)
    held = [replace(entry, file="weights", offset=offset) for entry, offset in ((WEIGHT, 44), (BIAS, 12_044))]
    assert lines([file, *held], held, {}) == ["missing: weights, with 2 tensors"]
    assert lines([file, *held], [replace(file, nbytes=9), *held], {}) == [
        "differs: weights: size 9, not 12050; not hashed, with 2 tensors"
    ]
    assert lines([file, *held], [replace(file, root=OTHER_ROOT), *held], {}) == [
        "differs: weights: other bytes outside its tensors"
    ]
    assert lines([file, *held], [file, *held], {})[0].startswith("verified: 1 file with 2 tensors, 12,050 bytes, ")


def test_lines_are_bounded() -> None:
    extra = [replace(BIAS, name=str(number)) for number in range(MAX_LINES + 1000)]
    text = lines([], extra, {})
    assert (len(text), text[-1]) == (MAX_LINES + 1, "extra: 1,000 more")


def test_names_that_begin_alike_have_one_line() -> None:
    def named(*names: str) -> list[Entry]:
        return [replace(BIAS, name=name) for name in names]

    layers = [f"model.layers.{number}.weight" for number in range(720)]
    text = lines(named("lm_head", *layers), named("other", *layers[:-8]), {})
    assert text == [
        "missing: 8 names that begin with model.layers., such as model.layers.712.weight",
        "missing: lm_head",
        "extra: other",
    ]
    few = layers[:7]
    assert lines(named(*few), [], {}) == [f"missing: {name}" for name in few]


def test_a_prefix_that_one_side_has_is_named_once() -> None:
    names = [f"layers.{number}.weight" for number in range(720)]
    bare = [WEIGHT, *(replace(BIAS, name=name) for name in names)]
    prefixed = [replace(entry, name=f"model.{entry.name}") for entry in bare]
    one = replace(BIAS, name="layers.x")
    line = "missing and extra: 721 names begin with model. in the model, but not in the manifest"
    assert lines([one, *bare], prefixed, {}) == [line, "missing: layers.x"]
    line = "missing and extra: 721 names begin with model. in the manifest, but not in the model"
    assert lines(prefixed, bare, {}) == [line]


def test_names_of_many_parts_take_no_time() -> None:
    name = "." * 1_000_000
    text = lines([replace(BIAS, name=f"{name}{number}") for number in range(9)], [replace(BIAS, name=name)], {})
    assert len(text) == 2


def test_a_component_has_the_root_of_its_model() -> None:
    report = replace(compared([WEIGHT], [WEIGHT]), root=OTHER_ROOT)
    assert str(report) == f"verified, tensors only: 1 tensor, 12,000 bytes, sha256 root {OTHER_ROOT.hex()}"


def test_names_are_sorted_and_have_a_line_each() -> None:
    names = ["b", "a", "é", "Z", "\U0001f600", "\uffff"]
    ours = [replace(BIAS, name=name) for name in names]
    theirs = [replace(entry, name=f"x{entry.name}") for entry in ours]
    report = compared([WEIGHT, *ours], [replace(WEIGHT, root=OTHER_ROOT), *theirs])
    assert report.missing == tuple(sorted(names))
    assert report.extra == tuple(f"x{name}" for name in sorted(names))
    text = str(report).splitlines()
    assert text[:3] == ["differs: weight: other bytes", "missing: Z", "missing: a"]
    assert text[-1] == "extra: x\U0001f600"
    assert len(text) == 13


def test_a_name_cannot_pass_for_another_line() -> None:
    name = 'x\nverified: \x1b[2J"'
    assert lines([replace(BIAS, name=name)], [], {}) == [r'missing: "x\nverified: \u001b[2J\""']


def test_names_that_look_alike_are_told_apart() -> None:
    composed, decomposed, other = "caf\u00e9.json", "cafe\u0301.json", "\u00e9"
    ours = [replace(CONFIG, path=path) for path in (composed, other)]
    assert lines(ours, [replace(CONFIG, path=decomposed)], {}) == [
        f"missing: {composed} (Unicode form NFC)",
        f"missing: {other}",
        f"extra: {decomposed} (Unicode form NFD)",
    ]


def test_damage_is_reported_by_chunks_and_bytes() -> None:
    other = replace(WEIGHT, root=OTHER_ROOT)
    told = {
        (range(1),): "in 1 of 3 chunks: 0 [0:4096]",
        (range(2, 3),): "in 1 of 3 chunks: 2 [8192:12000]",
        (range(3),): "in 3 of 3 chunks: 0-2 [0:12000]",
        (range(1), range(2, 3)): "in 2 of 3 chunks: 0 [0:4096], 2 [8192:12000]",
        (): "in the first reading, but none in the second",
    }
    for damage, text in told.items():
        assert lines([WEIGHT], [other], {"weight": damage}) == [f"differs: weight: other bytes {text}"]


def test_much_damage_is_reported_in_short() -> None:
    large = replace(WEIGHT, shape=(1 << 20,), nbytes=4 << 20)
    damage = tuple(range(start, start + 1) for start in range(0, 1024, 2))
    (line,) = lines([large], [replace(large, root=OTHER_ROOT)], {"weight": damage})
    assert line.startswith("differs: weight: other bytes in 512 of 1,024 chunks: 0 [0:4096], 2 [8192:12288], ")
    assert line.endswith(", 30 [122880:126976] and in 496 more runs")


@given(st.lists(st.booleans()))
def test_runs_are_those_of_what_is_true(damaged: list[bool]) -> None:
    found = runs(np.array(damaged, np.bool_))
    assert [place for run in found for place in run] == [place for place, is_so in enumerate(damaged) if is_so]
    assert all(before.stop < after.start for before, after in pairwise(found))


def test_a_problem_is_no_verification() -> None:
    report = replace(compared([WEIGHT], [WEIGHT]), problems=("a shard cannot be read",))
    assert not report.ok
    assert list(report.lines()) == []
    assert str(report) == "a shard cannot be read"


def test_a_report_has_the_lines_that_it_is_made_of() -> None:
    report = replace(compared([WEIGHT], []), notes=("a\nverified: b",), problems=("c\x1b[2Kd",))
    assert str(report).splitlines() == ["missing: weight", r"a\nverified: b", r"c\x1b[2Kd"]


def test_a_report_that_is_asserted_is_what_it_says() -> None:
    verified = compared([WEIGHT], [WEIGHT])
    assert verified
    for changes in {"differs": ("weight",)}, {"missing": ("a",)}, {"problems": ("b",)}, {"unreadable": {"c": "d"}}:
        assert not replace(verified, **changes)


def test_what_is_unreadable_is_neither_verified_nor_wrong() -> None:
    report = replace(compared([WEIGHT], [WEIGHT]), unreadable={"a\nb": "Permission denied"})
    assert (report.ok, report.wrong) == (False, False)
    assert str(report) == 'unreadable: "a\\nb": Permission denied'
    assert replace(report, missing=("c",)).wrong


@pytest.mark.parametrize("other", [TensorEntry("a", "U8", (1,), 1, ROOT), FileEntry("a", 1, ROOT)])
def test_entries_of_different_kinds_are_never_equal(other: Entry) -> None:
    for entry in (TensorEntry("a", "U8", (1,), 1, ROOT), FileEntry("a", 1, ROOT)):
        assert (entry == other) == (type(entry) is type(other))
