"""NVIDIA's GPUs by name, with the published figures that a prediction rests on. The table is `gpus.csv`."""

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
        name: short, as it is asked for.
        device_name: as its driver names it, and rows do.
        compute_capability: CUDA's, as "9.0".
        multiprocessors: how many are switched on.
        boost_mhz: the highest clock that is promised.
        memory_gb_per_s: peak bandwidth of its memory, in 1e9 bytes a second.
        power_w: the limit of its power.
        fp32_tflops: published peak of FP32 without Tensor Cores, which multiprocessors and clock must agree with.
        source: the documents that the figures stand in.
        note: what a reader must know of them.
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
        """What compilers call it: 90 for compute capability 9.0."""
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
    """The GPU of that name, whatever the case of its letters.

    Raises:
        ValueError: it is not in the table.
    """
    for gpu in gpus().values():
        if gpu.name.casefold() == name.casefold():
            return gpu
    raise ValueError(f"unknown GPU {name!r}: accepted are {', '.join(gpus())}")
