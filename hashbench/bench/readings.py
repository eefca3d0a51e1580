"""Readings: measured quantities that are not a hash by one of this project's kernels.

A pipe's instruction rate, a copy's bandwidth, another program's throughput, the seconds of another clock. They stand
apart from the rows, in `results/<machine>/<experiment>.readings.csv`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import Seconds
from hashbench.bench.records import Format, RecordsFile, ResultsError
from hashbench.kernels import ALGORITHMS, Device

SCHEMA = 1
"""The version of the file format: what the columns are and mean."""

SUFFIX = ".readings.csv"
"""How the names of files of readings end; no file of rows is named so."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One measured quantity. The fields are the columns, in order.

    Attributes:
        schema: version of the file format.
        experiment: the experiment's name; the runner fills it in, as it does `commit` and `date`.
        subject: what was measured ("LOP3", "OpenSSL").
        quantity: what of it ("instruction rate", "throughput", "bandwidth", "device seconds").
        unit: of the values ("1/clk/SM", "GB/s", "s").
        conditions: how, where it may be measured in several ways ("1 thread, 16 KiB messages").
        algorithm: "sha256" or "sha384"; empty where it is of neither.
        device: the device's id among those of its kernel; empty where it is of no kernel.
        device_name: the device's own name.
        device_kind: "gpu" or "cpu".
        repeats: number of values.
        median, q1, q3: of the values, in `unit`.
        source: the program that gave the values, and its version.
        note: what a reader must know of them.
        commit: of the code that measured.
        date: when, ISO 8601, UTC.
    """

    schema: int = SCHEMA
    experiment: str = ""
    subject: str
    quantity: str
    unit: str
    conditions: str = ""
    algorithm: str = ""
    device: str = ""
    device_name: str
    device_kind: str
    repeats: int
    median: float
    q1: float
    q3: float
    source: str
    note: str = ""
    commit: str = ""
    date: str = ""

    @classmethod
    def of(
        cls,
        values: Seconds,
        device: Device,
        *,
        subject: str,
        quantity: str,
        unit: str,
        source: str,
        conditions: str = "",
        algorithm: str = "",
        note: str = "",
    ) -> Reading:
        """The reading of repeated `values`, in `unit` and not only in seconds, on `device`."""
        return cls(
            subject=subject,
            quantity=quantity,
            unit=unit,
            conditions=conditions,
            algorithm=algorithm,
            device=device.id,
            device_name=device.name,
            device_kind=device.kind,
            repeats=values.count,
            median=values.median,
            q1=values.q1,
            q3=values.q3,
            source=source,
            note=note,
        )

    @property
    def point(self) -> tuple[str, ...]:
        """What was measured; measuring the same again replaces the reading."""
        return (self.experiment, self.subject, self.quantity, self.conditions, self.algorithm, self.device)

    def model_conditions(self, *before: str) -> list[str]:
        """The parts of the conditions, which commas separate: those named by `before`, the name of an inventory in
        `hashbench.bench.inventories`, and any others.

        Raises:
            ResultsError: there are fewer parts, or the inventory is unknown.
        """
        parts = self.conditions.split(", ")
        if len(parts) <= len(before) or parts[len(before)] not in MODELS:
            accepted = ", ".join((*(f"<{name}>" for name in before), "<model>"))
            raise ResultsError(
                f"the conditions of {self.experiment}'s reading of {self} are not accepted: they begin with "
                f"{accepted}, one of {', '.join(MODELS)}"
            )
        return parts

    def __str__(self) -> str:
        conditions = f" ({self.conditions})" if self.conditions else ""
        return " ".join(filter(None, (self.subject, self.algorithm, self.quantity))) + conditions


FORMAT = Format(Reading, SCHEMA, {"algorithm": ("", *ALGORITHMS), "device_kind": ("gpu", "cpu")})


class ReadingsFile(RecordsFile[Reading]):
    """The readings of one experiment on one machine, in a file that is written anew with each of them.

    Args:
        path: the file; where it does not exist yet, it starts empty.

    Raises:
        ResultsError: there is a file, and `read_readings` refuses it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, FORMAT)


def read_readings(path: Path) -> list[Reading]:
    """The readings of a file.

    Raises:
        ResultsError: as `Format.read`.
    """
    return FORMAT.read(path)


def readings_path(folder: Path, experiment: str) -> Path:
    """The file of an experiment's readings in a machine's folder."""
    return folder / f"{experiment}{SUFFIX}"
