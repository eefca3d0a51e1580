"""Tidy CSV of frozen dataclasses: one record a line, a column a field, no file half written.

What is written reads back, and nothing else is taken for it: a file of another schema, a truncated one, or one with a
cell that its column does not accept is refused with one line that says what was wrong.
"""

from __future__ import annotations

import csv
import io
import math
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from hashbench.hashing.atomic_write import write_atomically


class ResultsError(ValueError):
    """A results file or folder cannot be used; the message names it and says what is accepted."""


class Record(Protocol):
    """A frozen dataclass of str, positive int, positive float and `int | None` fields, the first of them `schema`."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def point(self) -> Hashable:
        """What was measured; measuring the same again replaces the record."""


R = TypeVar("R", bound=Record)


class Format(Generic[R]):
    """How records of one kind stand in a file.

    Args:
        kind: the dataclass; its fields are the columns, in order.
        schema: the version of the format, in the first column of every line.
        words: the texts that a column accepts, where it does not accept any.
        wrong: what is wrong with a record whose cells are each accepted; None where nothing is.

    Attributes:
        columns: names of the columns.
    """

    def __init__(
        self,
        kind: type[R],
        schema: int,
        words: Mapping[str, Sequence[str]],
        wrong: Callable[[R], str | None] = lambda record: None,
    ) -> None:
        self.columns = tuple(field.name for field in fields(kind))
        self._kind = kind
        self._schema = schema
        self._words = words
        self._wrong = wrong
        self._types = get_type_hints(kind)
        self._accepted = f"accepted are files of schema {schema}, as `hashbench bench` writes them"

    def read(self, path: Path) -> list[R]:
        """The records of a file.

        Raises:
            ResultsError: it is missing or unreadable, of another schema, truncated, not a file of such records, or one
                with two records of one point.
        """
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            raise ResultsError(f"{path} is not a results file: it is not text; {self._accepted}") from None
        except OSError as error:
            raise ResultsError(f"{path} cannot be read: {error.strerror}") from None
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
                raise ResultsError(f"{path} is of schema {line[0]!r}; {self._accepted}")
        if not text.endswith("\n"):
            raise ResultsError(f"{path} is truncated: its last line has no end; {self._accepted}")
        self._check_columns(path, header)
        lines_of: dict[Hashable, int] = {}
        records = []
        for number, line in enumerate(cells, 2):
            record = self._record(f"{path}, line {number}", line)
            first = lines_of.setdefault(record.point, number)
            if first != number:
                raise ResultsError(f"{path}, line {number}: the point of line {first} again, {_named(record.point)}")
            records.append(record)
        return records

    def text(self, records: Iterable[R]) -> bytes:
        """The file of `records`."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(self.columns)
        lines.writerows(astuple(record) for record in records)
        return text.getvalue().encode()

    def check(self, record: R) -> None:
        """Checks that `record` would read back.

        Raises:
            ResultsError: a field holds what its column does not accept.
        """
        cells = ["" if value is None else str(value) for value in astuple(record)]
        self._record(f"a {type(record).__name__.lower()}", cells)

    def _check_columns(self, path: Path, header: Sequence[str]) -> None:
        unknown = [name for name in header if name not in self.columns]
        missing = [name for name in self.columns if name not in header]
        for what, names in (("unknown", unknown), ("missing", missing)):
            if names:
                raise ResultsError(f"{path} has {what} columns: {', '.join(names)}; {self._accepted}")
        if tuple(header) != self.columns:
            raise ResultsError(f"{path} has its columns in another order or twice; {self._accepted}")

    def _record(self, place: str, cells: Sequence[str]) -> R:
        count = len(self.columns)
        if len(cells) < count:
            raise ResultsError(f"{place} is truncated: it has {len(cells)} columns of {count}; {self._accepted}")
        if len(cells) > count:
            raise ResultsError(f"{place} has {len(cells)} columns, not {count}; {self._accepted}")
        record = self._kind(
            **{name: self._value(place, name, cell) for name, cell in zip(self.columns, cells, strict=True)}
        )
        if wrong := self._wrong(record):
            raise ResultsError(f"{place}: {wrong}")
        return record

    def _value(self, place: str, column: str, cell: str) -> Any:
        kind = self._types[column]
        if kind is str:
            accepted = self._words.get(column)
            if accepted is not None and cell not in accepted:
                named = ", ".join(word or "an empty cell" for word in accepted)
                raise ResultsError(f"{place}: {column} is {cell!r}; accepted are {named}")
            return cell
        if kind is float:
            try:
                value = float(cell)
            except ValueError:
                value = math.nan
            if not (math.isfinite(value) and value > 0):
                raise ResultsError(f"{place}: {column} is {cell!r}; accepted is a positive number")
            return value
        if kind is not int and cell == "":
            return None
        if not (cell.isascii() and cell.isdigit() and int(cell) > 0):
            raise ResultsError(f"{place}: {column} is {cell!r}; accepted is a positive whole number")
        return int(cell)


def _named(point: Hashable) -> str:
    """A point on one line, without what it leaves empty."""
    parts = point if isinstance(point, tuple) else (point,)
    return ", ".join(str(part) for part in parts if part not in ("", None))


class RecordsFile(Generic[R]):
    """Records in a file that is written anew with each one.

    Args:
        path: the file; where it does not exist yet, it starts empty.
        format: of its records.

    Raises:
        ResultsError: there is a file, and `format` refuses it.
    """

    def __init__(self, path: Path, format: Format[R]) -> None:
        self.path = path
        self.format = format
        self._records = {record.point: record for record in format.read(path)} if path.exists() else {}

    @property
    def records(self) -> list[R]:
        """All records of the file."""
        return list(self._records.values())

    def add(self, record: R) -> None:
        """Writes the file with `record` in it, in place of an older one of the same point.

        Raises:
            ResultsError: the file cannot be written, or would not read back; it is left as it was.
        """
        self.format.check(record)
        records = self._records | {record.point: record}
        write_atomically(self.path, self.format.text(records.values()))
        self._records = records


def check_writable(folder: Path) -> None:
    """Makes `folder` where it is missing, and sees that files can be written there.

    Raises:
        ResultsError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ResultsError(f"results cannot be written to {folder}: {error.strerror}") from None
