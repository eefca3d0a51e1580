"""What others published of hashcat on GPUs of the table, quoted from `hashcat.csv`: outside evidence for predictions.

Nothing of it was measured by this project. hashcat hashes candidates of one block, which it makes in registers: it
reads no data, and folds what is constant in the block and in the digest that it looks for, so that it may pass the
limit of code that hashes any data. Its GPUs ran at clocks of their own, which are known where a note says so. The rates
were read from the copies in github.com/tnAnGel/HashCat-Benchmark.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hashbench.kernels import ALGORITHMS

_SAME_COMPRESSION = {"sha256": "sha256", "sha512": "sha384"}
"""SHA-512 has the blocks and rounds of SHA-384."""


@dataclass(frozen=True)
class Published:
    """One published rate.

    Attributes:
        gpu: the GPU's name in the table of GPUs.
        algorithm: the algorithm here with the same blocks and rounds.
        gb_per_s: the rate, a whole block counted for each hash.
        source: where it was published, and with which version of hashcat.
        note: what a reader needs to know about it.
    """

    gpu: str
    algorithm: str
    gb_per_s: float
    source: str
    note: str


@cache
def published() -> Mapping[tuple[str, str], Published]:
    """The published rates, by GPU and algorithm."""
    text = (files("hashbench.limits") / "hashcat.csv").read_text(encoding="utf-8")
    found = map(_published, csv.DictReader(text.splitlines(), strict=True))
    return {(rate.gpu, rate.algorithm): rate for rate in found}


def _published(line: Mapping[str, str]) -> Published:
    algorithm = _SAME_COMPRESSION[line["algorithm"]]
    gb_per_s = 1e-3 * float(line["megahashes_per_s"]) * ALGORITHMS[algorithm].block_size
    source = f"hashcat {line['version']}, mode {line['mode']}: {line['source']}"
    return Published(line["gpu"], algorithm, gb_per_s, source, line["note"])
