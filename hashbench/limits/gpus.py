"""NVIDIA's GPUs by name, with the published figures that predictions are based on, from `gpus.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import get_type_hints


@dataclass(frozen=True)
class GPU:
    """One GPU. The fields are the table's columns.

    Attributes:
        name: a short name, as on the command line.
        device_name: the driver's name for it, as in rows.
        compute_capability: CUDA's, such as "9.0".
        multiprocessors: how many are enabled.
        boost_mhz: the published boost clock.
        memory_gb_per_s: peak memory bandwidth, in 1e9 bytes per second.
        power_w: the power limit.
        fp32_tflops: published FP32 peak without Tensor Cores. It must agree with multiprocessors and clock.
        source: the documents with these figures.
        note: what a reader needs to know about them.
    """

    name: str
    device_name: str
    compute_capability: str
    multiprocessors: int
    boost_mhz: int
    memory_gb_per_s: float
    power_w: int
    fp32_tflops: float
    source: str
    note: str

    @property
    def architecture(self) -> int:
        """The compilers' number for it: 90 for compute capability 9.0."""
        return int(self.compute_capability.replace(".", ""))


@cache
def gpus() -> dict[str, GPU]:
    """Every GPU of the table, by name."""
    types = get_type_hints(GPU)
    text = (files("hashbench.limits") / "gpus.csv").read_text(encoding="utf-8")
    lines = csv.DictReader(text.splitlines(), strict=True)
    found = [GPU(**{field.name: types[field.name](line[field.name]) for field in fields(GPU)}) for line in lines]
    return {gpu.name: gpu for gpu in found}


def gpu_named(name: str) -> GPU:
    """The GPU of that name, ignoring case.

    Raises:
        ValueError: it is not in the table.
    """
    for gpu in gpus().values():
        if gpu.name.casefold() == name.casefold():
            return gpu
    raise ValueError(f"unknown GPU {name!r}: accepted are {', '.join(gpus())}")
