"""What measurements say of a claim: checks, the verdict that they come to, and the numbers behind them.

A check is a question with a threshold, answered by yes, by no, or not at all, where nothing was measured or only what
cannot be. A claim whose checks all pass is supported; one of which some pass is supported in part; one of which some
are answered and nothing passes is not supported; and what nothing answers is not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What the checks of a claim come to."""

    SUPPORTED = "supported"
    IN_PART = "supported in part"
    NOT_SUPPORTED = "not supported"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Check:
    """One question that a claim comes to.

    Attributes:
        question: to be answered by yes or no.
        answer: the numbers, and where they were measured; else what is missing or cannot be.
        passed: None where there is no answer.
    """

    question: str
    answer: str
    passed: bool | None


@dataclass(frozen=True)
class Table:
    """What a verdict rests on, as text.

    Attributes:
        columns: names, with their units.
        numeric: names of those that hold numbers.
        lines: a cell for each column.
    """

    columns: tuple[str, ...]
    numeric: frozenset[str]
    lines: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Finding:
    """What was found of one claim.

    Attributes:
        checks: at least one.
        table: the numbers behind them; None where nothing was measured.
        machines: names of those whose results it rests on, in order.
    """

    checks: tuple[Check, ...]
    table: Table | None = None
    machines: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """What the checks come to, by the rule of this module."""
        answers = [check.passed for check in self.checks]
        if all(answer is None for answer in answers):
            return Verdict.NOT_MEASURED
        if all(answers):
            return Verdict.SUPPORTED
        return Verdict.IN_PART if any(answers) else Verdict.NOT_SUPPORTED


def number(value: float) -> str:
    """Three significant digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
