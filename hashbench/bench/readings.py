"""Readings: every measurement that is not a hash by one of this project's kernels.

For example an instruction rate, a bandwidth, another program's throughput, or the seconds of a whole pipeline. They are
kept apart from the rows, in `results/<machine>/<experiment>.readings.csv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hashbench.bench.inventories import MODELS
from hashbench.bench.measurement import Seconds
from hashbench.bench.records import Format, Samples
from hashbench.kernels import ALGORITHMS, Device

SCHEMA = 2
"""The version of the file format. Version 1 had one column `conditions` for what now has columns of its own, and no
samples."""

POINT = (
    *("experiment", "subject", "quantity", "kernel", "model", "workers", "files", "conditions", "storage", "memory"),
    *("algorithm", "device"),
)
"""What a reading measures: a new reading with the same values in these columns replaces it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One measured quantity. The fields are the columns, in order.

    Attributes:
        schema: the version of the file format.
        experiment: the experiment's name. The runner fills it in, and `commit` and `date`.
        subject: what was measured ("LOP3", "OpenSSL").
        quantity: which quantity of it ("instruction rate", "throughput", "total seconds").
        unit: the unit of the values ("1/clk/SM", "GB/s", "s").
        kernel: the kernel that took part; empty if none did.
        model: the inventory (`hashbench.bench.inventories`) that was hashed; empty if it was none.
        workers: the threads or processes that hashed ("16 processes", "default threads").
        files: how many files were hashed; None (an empty cell) if there were none.
        conditions: any other condition of the measurement ("16KiB messages").
        storage: where the files were ("memory", "a disk (ext4) with a cold cache").
        memory: the kind of host memory that the data passed through ("page-locked").
        algorithm: "sha256" or "sha384"; empty if neither.
        device: the device's id, unique for its kernel; empty if it belongs to no kernel.
        device_name: the device's own name.
        device_kind: "gpu" or "cpu".
        repeats: number of values.
        median, q1, q3: of the values, in `unit`.
        source: the program that measured, and its version.
        note: what a reader needs to know about the values.
        commit: the commit of the code that measured.
        date: ISO 8601, UTC.
        samples: the values, in order. Empty if they are computed from other values, and in readings that were migrated
            from version 1 of the format.
    """

    schema: int = SCHEMA
    experiment: str = ""
    subject: str
    quantity: str
    unit: str
    kernel: str = ""
    model: str = ""
    workers: str = ""
    files: int | None = None
    conditions: str = ""
    storage: str = ""
    memory: str = ""
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
    samples: Samples = ()

    @classmethod
    def of(cls, samples: Sequence[float], device: Device, **columns: Any) -> Reading:
        """A reading of repeated measurements on `device`.

        Args:
            samples: the values, in the reading's unit; at least one.
            device: where they were measured.
            columns: the other columns, by name.
        """
        values = Seconds.of(samples)
        return cls(
            device=device.id,
            device_name=device.name,
            device_kind=device.kind,
            repeats=values.count,
            median=values.median,
            q1=values.q1,
            q3=values.q3,
            samples=values.samples,
            **columns,
        )

    @property
    def point(self) -> tuple[str | int | None, ...]:
        """Identifies what was measured."""
        return tuple(getattr(self, name) for name in POINT)

    @property
    def how(self) -> str:
        """Under which conditions it was measured, as one phrase."""
        place = " in ".join(filter(None, (phrase(files_phrase(self.files), self.conditions), self.storage)))
        return phrase(self.kernel, self.model, self.workers, place, self.memory)

    def __str__(self) -> str:
        how = f" ({self.how})" if self.how else ""
        return " ".join(filter(None, (self.subject, self.algorithm, self.quantity))) + how


def phrase(*parts: str) -> str:
    """The parts that are not empty, separated by commas."""
    return ", ".join(filter(None, parts))


def files_phrase(count: int | None) -> str:
    """The number of files in words; empty if there are none."""
    return "" if count is None else "one file" if count == 1 else f"{count:,} files"


def _problem(reading: Reading) -> str | None:
    if (count := len(reading.samples)) not in (0, reading.repeats):
        return f"samples has {count} values; accepted are {reading.repeats}, as `repeats` says, or an empty cell"
    return None


READINGS = Format(
    Reading,
    SCHEMA,
    {"model": ("", *MODELS), "algorithm": ("", *ALGORITHMS), "device_kind": ("gpu", "cpu")},
    _problem,
    suffix=".readings.csv",  # no file of rows has such a name
)
"""The files of readings."""
