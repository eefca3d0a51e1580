"""GPUs by name, with the published figures that predictions are based on, from `gpus.csv`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class GPU:
    """One GPU. The fields are the table's columns.

    Attributes:
        name: a short name, as on the command line.
        device_name: the driver's name for it, as in rows.
        target: the compilers' name for its architecture, such as "sm_90" or "gfx942".
        units: how many multiprocessors, compute units or Xe-cores are enabled.
        boost_mhz: the published boost clock.
        memory_gb_per_s: peak memory bandwidth, in 1e9 bytes per second.
        power_w: the power limit.
        fp32_tflops: published FP32 peak without matrix units, which must agree with units and clock.
        source: the documents with these figures.
        note: what a reader needs to know about them.
    """

    name: str
    device_name: str
    target: str
    units: int
    boost_mhz: int
    memory_gb_per_s: float
    power_w: int
    fp32_tflops: float
    source: str
    note: str


@cache
def gpus() -> dict[str, GPU]:
    """Every GPU of the table, by name."""
    text = (files("hashbench.limits") / "gpus.csv").read_text(encoding="utf-8")
    return {line["name"]: _gpu(line) for line in csv.DictReader(text.splitlines(), strict=True)}


def _gpu(line: Mapping[str, str]) -> GPU:
    return GPU(
        name=line["name"],
        device_name=line["device_name"],
        target=line["target"],
        units=int(line["units"]),
        boost_mhz=int(line["boost_mhz"]),
        memory_gb_per_s=float(line["memory_gb_per_s"]),
        power_w=int(line["power_w"]),
        fp32_tflops=float(line["fp32_tflops"]),
        source=line["source"],
        note=line["note"] or "",
    )


def gpu_named(name: str) -> GPU:
    """The GPU of that name, ignoring case.

    Raises:
        ValueError: it is not in the table.
    """
    for gpu in gpus().values():
        if gpu.name.casefold() == name.casefold():
            return gpu
    raise ValueError(f"unknown GPU {name!r}: accepted are {', '.join(gpus())}")
