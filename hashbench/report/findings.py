"""What measurements say about a claim: checks, the verdict that follows from them, and the numbers behind it.

A check is a question with a threshold, answered by yes or no, or not at all if nothing was measured or a number cannot
be right. If all checks of a claim pass, it is supported; if some pass, supported in part; if some are answered and none
passes, not supported; if none is answered, not measured.

Thresholds are the same for every machine. Each GPU is judged, and the worst decides. Only measurements on GPUs count,
except for digests, which are compared wherever they come from. Predictions never count.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import pandas as pd

from hashbench.bench.experiment import Experiment
from hashbench.bench.frames import Line, Results, lines
from hashbench.bench.text_table import Columns, Table
from hashbench.kernels import ALGORITHMS

GPU = ["machine", "device_name"]
"""The columns that tell one GPU from another. Kernels give it ids of their own, and one name."""

MARGIN = 0.02
"""The measurement error that is allowed for a number that has a natural bound. Beyond it the number must be wrong, and
the check has no answer."""


class Verdict(Enum):
    """What follows from the checks of a claim."""

    SUPPORTED = "supported"
    IN_PART = "supported in part"
    NOT_SUPPORTED = "not supported"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Check:
    """One question about a claim.

    Attributes:
        question: a question that is answered by yes or no.
        answer: the numbers, and where they were measured; or why there is no answer.
        passed: whether the answer is yes; None if there is no answer.
    """

    question: str
    answer: str
    passed: bool | None


@dataclass(frozen=True)
class Finding:
    """The verdict on a claim, and what it is based on.

    Attributes:
        checks: at least one.
        table: the numbers behind them; None if nothing was measured.
        machines: the names of the machines whose results count, sorted.
    """

    checks: tuple[Check, ...]
    table: Table | None = None
    machines: tuple[str, ...] = ()

    @classmethod
    def of(cls, checks: Iterable[Check], counted: pd.DataFrame, columns: Columns) -> Finding:
        """A finding from at least one check, with a table of the measurements that count."""
        table = None if counted.empty else Table.of(lines(counted), columns)
        return cls(tuple(checks), table, tuple(sorted(set(counted["machine"]))))

    @property
    def verdict(self) -> Verdict:
        """What follows from the checks, by the rule of this module."""
        answers = [check.passed for check in self.checks]
        if all(answer is None for answer in answers):
            return Verdict.NOT_MEASURED
        if all(answers):
            return Verdict.SUPPORTED
        return Verdict.IN_PART if any(answers) else Verdict.NOT_SUPPORTED


class ClaimExperiment(Experiment):
    """An experiment that tests a claim.

    Attributes:
        rule: what its checks ask, in plain words.
    """

    rule: ClassVar[str]

    @abstractmethod
    def finding(self, results: Results) -> Finding:
        """What `results` say about the claim.

        Args:
            results: those of this experiment, and of others that the claim considers, on all machines.
        """


def on_gpus(results: Results, *strategies: str) -> pd.DataFrame:
    """The rows of these strategies on GPUs."""
    rows = results.rows
    return rows[(rows["device_kind"] == "gpu") & rows["strategy"].isin(strategies)]


def by_algorithm(measured: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The title of each algorithm, and its measurements."""
    return ((algorithm.title, measured[measured["algorithm"] == name]) for name, algorithm in ALGORITHMS.items())


def fastest(measured: pd.DataFrame, *of: str, speed: str = "gb_per_s") -> pd.DataFrame:
    """The fastest of the measurements that agree in the columns `of`, the fastest of all first."""
    return measured.sort_values(speed, ascending=False, kind="stable").drop_duplicates(list(of))


def of_each_gpu(measured: pd.DataFrame, pick: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """What `pick` leaves of the measurements of each algorithm and GPU, algorithm by algorithm."""
    gpus = (gpu for _, part in by_algorithm(measured) for _, gpu in part.groupby(GPU, sort=False))
    return pd.concat([measured[:0], *map(pick, gpus)])


def worst(
    measured: pd.DataFrame,
    column: str,
    question: str,
    answer: Callable[[Line], str],
    missing: str,
    *,
    at_most: float = math.inf,
    at_least: float = -math.inf,
    impossible: Callable[[Line], str] | None = None,
) -> Check:
    """A check that the worst of several measurements decides.

    Args:
        measured: the measurements.
        column: the value that counts.
        question: the check's question.
        answer: the answer if a measurement is the worst.
        missing: the answer without measurements.
        at_most: the threshold for the highest value; or
        at_least: the threshold for the lowest value.
        impossible: why a measurement cannot be right, if no value of the column can be better than its natural bound:
            1 where it must be high, 0 where it must be low. Then there is no answer.
    """
    if measured.empty:
        return Check(question, missing, None)
    high_is_good = at_most == math.inf
    best_first = list(lines(measured.sort_values(column, ascending=not high_is_good, kind="stable")))
    best, last = getattr(best_first[0], column), getattr(best_first[-1], column)
    if impossible and (best > 1 + MARGIN if high_is_good else best < -MARGIN):
        return Check(question, f"{impossible(best_first[0])}: one of the two numbers is wrong.", None)
    return Check(question, answer(best_first[-1]), bool(at_least <= last <= at_most))


def algorithm_title(measured: Line) -> str:
    """The title of a measurement's algorithm."""
    return ALGORITHMS[measured.algorithm].title
