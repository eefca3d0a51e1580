"""Tables of text: what a cell shows, and how tables are printed."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from hashbench.bench.text_table import Table, number, print_table

LINE = SimpleNamespace(name="cupy", low=1.5, high=2.25, row=SimpleNamespace(commit=12345))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("name", "cupy"),
        ("row.commit", "12345"),
        (lambda line: line.name.upper(), "CUPY"),
        (("low", number), "1.5"),
        (("row.commit", number), "12,345"),
        (("low", "high", "{:.3g} to {:.3g}".format), "1.5 to 2.25"),
    ],
)
def test_a_cell_is_an_attribute_a_function_of_the_line_or_a_number(column: object, cell: str) -> None:
    table = Table.of([LINE], {"column": column})  # type: ignore[dict-item]  # of any of the three kinds
    assert table.lines == ((cell,),)
    assert table.numeric == ({"column"} if isinstance(column, tuple) else set())


@pytest.mark.parametrize("missing", [None, math.nan])
def test_a_number_that_is_missing_leaves_its_cell_empty(missing: float | None) -> None:
    line = SimpleNamespace(low=missing, high=1.0)
    assert Table.of([line], {"range": ("low", "high", "{} to {}".format)}).lines == (("",),)


def test_a_table_is_printed_as_it_is_with_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [SimpleNamespace(name="[bold]a", low=7), SimpleNamespace(name="b", low=1234)]
    print_table(Table.of(lines, {"what": "name", "GB/s [x]": ("low", number)}, "a [title]"))
    title, header, _, first, second = (line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip())
    assert (title.strip(), header.split()) == ("a [title]", ["what", "GB/s", "[x]"])
    assert first.split() == ["[bold]a", "7"]
    assert len(first) == len(second) == len(header)


@pytest.mark.parametrize(
    ("value", "text"), [(1021.4, "1,021"), (99.96, "100"), (0.15312, "0.153"), (100, "100"), (9.999, "10")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text
