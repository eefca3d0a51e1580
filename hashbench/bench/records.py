"""Tidy CSV files of frozen dataclasses: one record per line, one column per field, written atomically.

Reading is strict, as files may come from anyone: a link, a file with another schema, a truncated file, or a cell that
its column does not accept is refused with a one-line error. A text that is accepted can be shown anywhere: it holds
nothing that a terminal or a spreadsheet would carry out.
"""

from __future__ import annotations

import csv
import io
import math
import os
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from hashbench.hashing.atomic_write import write_atomically
from hashbench.hashing.opening import read_regular
from hashbench.hashing.printable import printable
from hashbench.model.strict_json import quoted


class ResultsError(ValueError):
    """A results file or folder cannot be used. The message names it and says what is accepted."""


class Record(Protocol):
    """A frozen dataclass whose first field is `schema`.

    Its fields are text, positive integers, positive numbers, either of them or None, or `Samples`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def point(self) -> Hashable:
        """Identifies what was measured. Measuring it again replaces the record."""


R = TypeVar("R", bound=Record)

Tell = Callable[[ResultsError], None]
"""Is told what cannot be used where all else can; it raises where that must not be."""

LONGEST_LINE = 500
"""Characters of a problem that are shown."""

LARGEST_FILE = 64 << 20
MOST_RECORDS = 100_000
"""Of a file of records."""

LARGEST_WHOLE_NUMBER = 2**63 - 1
SMALLEST_NUMBER, LARGEST_NUMBER = 1e-30, 1e30
"""Numbers in records, so that what is computed from them does not overflow."""

FORMULAS = ("=", "+", "-", "@")
"""What a cell begins with that a spreadsheet carries out."""

Samples = tuple[float, ...]
"""Raw values, separated by semicolons in a file; an empty cell where they are not known."""


def refuse(problem: ResultsError) -> None:
    """The `Tell` for which nothing is left out."""
    raise problem


class LeftOut:
    """The `Tell` that keeps what it is told."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def __call__(self, problem: ResultsError) -> None:
        self._lines[printable(str(problem))[:LONGEST_LINE]] = None

    @property
    def lines(self) -> list[str]:
        """What cannot be used, and why: each on one line that can be shown, and once."""
        return list(self._lines)


def read_file(path: Path, largest: int = LARGEST_FILE) -> bytes:
    """The content of a file that may come from anyone.

    Args:
        path: a plain file. Links are not followed, and pipes not waited for.
        largest: the most bytes that it may have.

    Raises:
        ResultsError: it is something else, or larger, or cannot be read.
    """
    try:
        content = read_regular(path, largest + 1, links=False)
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > largest:
        raise ResultsError(f"{path} has more than the {largest:,} bytes that are accepted")
    return content


def check_text(what: str, text: str) -> None:
    """Checks that a text can be shown in a terminal and in a spreadsheet.

    Raises:
        ResultsError: it cannot; the message begins with `what`.
    """
    if not text.isprintable() or text.startswith(FORMULAS):
        accepted = f"accepted are printable characters, the first of them none of {' '.join(FORMULAS)}"
        raise ResultsError(f"{what} is {quoted(text)}; {accepted}")


class Format(Generic[R]):
    """The file format of one kind of record.

    Args:
        kind: the dataclass. Its fields are the columns, in order.
        schema: the version of the format, which is the first cell of every line.
        words: for each column that accepts only certain texts, those texts.
        problem: checks a whole record whose cells are valid, and returns what is wrong with it, or None.
        suffix: the end of the names of its files, which begin with the experiment's.

    Attributes:
        columns: the names of the columns.
        suffix: as given.
    """

    def __init__(
        self,
        kind: type[R],
        schema: int,
        words: Mapping[str, Sequence[str]],
        problem: Callable[[R], str | None] = lambda record: None,
        suffix: str = ".csv",
    ) -> None:
        self.suffix = suffix
        self.columns = tuple(field.name for field in fields(kind))
        self._kind = kind
        self._schema = schema
        self._words = words
        self._problem = problem
        self._types = get_type_hints(kind)
        self._accepted = f"accepted are files of schema {schema}, as `hashbench` writes them"

    def path(self, folder: Path, experiment: str) -> Path:
        """The file of an experiment in a machine's folder."""
        return folder / f"{experiment}{self.suffix}"

    def file(self, path: Path) -> RecordsFile[R]:
        """A file of records. If it does not exist yet, there are no records.

        Raises:
            ResultsError: as for `read`.
        """
        return RecordsFile(path, self)

    def read(self, path: Path) -> list[R]:
        """Reads the records of a file.

        Raises:
            ResultsError: the file is missing, unreadable, truncated, of another schema or kind, or has two records of
                one point.
        """
        try:
            text = read_file(path).decode()
        except UnicodeDecodeError:
            raise ResultsError(f"{path} is not a results file: it is not text; {self._accepted}") from None
        if text.count("\n") > MOST_RECORDS:
            raise ResultsError(f"{path} has more than the {MOST_RECORDS:,} lines that are accepted")
        lines = csv.reader(io.StringIO(text))
        try:
            header = tuple(next(lines, []))
            if not header or header[0] != self.columns[0]:
                wrong = f"its first column is not {self.columns[0]!r}"
                raise ResultsError(f"{path} is not a results file: {wrong}; {self._accepted}")
            cells = list(lines)
        except csv.Error as error:
            raise ResultsError(f"{path} is not a results file: {error}; {self._accepted}") from None
        for line in cells:  # before the columns, which another schema may have changed
            if line and line[0] != str(self._schema):
                raise ResultsError(f"{path} has schema {quoted(line[0])}; {self._accepted}")
        if not text.endswith("\n"):
            raise ResultsError(f"{path} is truncated: its last line does not end; {self._accepted}")
        self._check_columns(path, header)
        lines_of: dict[Hashable, int] = {}
        records = []
        for number, line in enumerate(cells, 2):
            record = self._record(f"{path}, line {number}", line)
            first = lines_of.setdefault(record.point, number)
            if first != number:
                raise ResultsError(f"{path}, line {number}: repeats the point of line {first}: {_named(record.point)}")
            records.append(record)
        return records

    def text(self, records: Iterable[R]) -> bytes:
        """The content of a file of `records`."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(self.columns)
        lines.writerows(map(_cells, records))
        return text.getvalue().encode()

    def check(self, record: R) -> None:
        """Checks that a file with `record` could be read.

        Raises:
            ResultsError: a column does not accept the value of its field.
        """
        self._record(f"a {type(record).__name__.lower()}", _cells(record))

    def _check_columns(self, path: Path, header: Sequence[str]) -> None:
        unknown = [name for name in header if name not in self.columns]
        missing = [name for name in self.columns if name not in header]
        for what, names in (("unknown", unknown), ("missing", missing)):
            if names:
                named = ", ".join(map(quoted, names[:9]))
                raise ResultsError(f"{path} has {what} columns: {named}; {self._accepted}")
        if tuple(header) != self.columns:
            raise ResultsError(f"{path} has its columns in another order, or one of them twice; {self._accepted}")

    def _record(self, place: str, cells: Sequence[str]) -> R:
        count = len(self.columns)
        if len(cells) < count:
            raise ResultsError(f"{place} is truncated: it has {len(cells)} columns of {count}; {self._accepted}")
        if len(cells) > count:
            raise ResultsError(f"{place} has {len(cells)} columns, not {count}; {self._accepted}")
        record = self._kind(
            **{name: self._value(place, name, cell) for name, cell in zip(self.columns, cells, strict=True)}
        )
        if problem := self._problem(record):
            raise ResultsError(f"{place}: {problem}")
        return record

    def _value(self, place: str, column: str, cell: str) -> Any:
        kind = self._types[column]
        if kind is str:
            accepted = self._words.get(column)
            if accepted is not None and cell not in accepted:
                named = ", ".join(word or "an empty cell" for word in accepted)
                raise ResultsError(f"{place}: {column} is {quoted(cell)}; accepted are {named}")
            check_text(f"{place}: {column}", cell)
            return cell
        if cell == "" and kind in (int | None, float | None):
            return None
        if kind in (float, float | None):
            value = _number(cell)
            if not SMALLEST_NUMBER <= value <= LARGEST_NUMBER:
                raise ResultsError(f"{place}: {column} is {quoted(cell)}; accepted is a positive number")
            return value
        if kind == Samples:
            values = tuple(map(_number, cell.split(";"))) if cell else ()
            if not all(abs(value) <= LARGEST_NUMBER for value in values):
                raise ResultsError(f"{place}: {column} is {quoted(cell)}; accepted are numbers separated by semicolons")
            return values
        if not (cell.isascii() and cell.isdigit() and len(cell) < 20 and 0 < int(cell) <= LARGEST_WHOLE_NUMBER):
            raise ResultsError(f"{place}: {column} is {quoted(cell)}; accepted is a positive whole number")
        return int(cell)


def _cells(record: Record) -> list[str]:
    return [_cell(getattr(record, field.name)) for field in fields(record)]


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return ";".join(map(str, value))
    return "" if value is None else str(value)


def _number(cell: str) -> float:
    """NaN if the cell is not a number."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _named(point: Hashable) -> str:
    """A point on one line, without its empty parts."""
    parts = point if isinstance(point, tuple) else (point,)
    return ", ".join(str(part) for part in parts if part not in ("", None))


class RecordsFile(Generic[R]):
    """A file of records, which is rewritten whenever a record is added.

    Args:
        path: the file. If it does not exist yet, there are no records.
        format: the format of its records.

    Raises:
        ResultsError: `format` refuses the file.
    """

    def __init__(self, path: Path, format: Format[R]) -> None:
        self.path = path
        self.format = format
        self._records = {record.point: record for record in format.read(path)} if os.path.lexists(path) else {}

    @property
    def records(self) -> list[R]:
        """All records, in the order of the file."""
        return list(self._records.values())

    def add(self, record: R) -> None:
        """Adds `record` to the file. It replaces an older record of the same point.

        Raises:
            OSError: the file cannot be written. It is left as it was.
            ResultsError: the file could not be read again. It is left as it was.
        """
        self.format.check(record)
        records = self._records | {record.point: record}
        write_atomically(self.path, self.format.text(records.values()))
        self._records = records


def check_writable(folder: Path) -> None:
    """Creates `folder` if it is missing, and checks that files can be written to it.

    Raises:
        ResultsError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultsError(f"results cannot be written to {folder}: {error.strerror}") from None
