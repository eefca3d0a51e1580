"""Made-up rows and readings for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from hashbench.bench.readings import Reading
from hashbench.bench.records import FORMULAS, LARGEST_NUMBER, LARGEST_WHOLE_NUMBER, SMALLEST_NUMBER
from hashbench.bench.results import SCHEMA, Row
from hashbench.kernels import ALGORITHMS

ROW = Row(
    schema=SCHEMA,
    experiment="throughput",
    model="",
    kernel="opencl",
    variant="plain",
    strategy="tree",
    algorithm="sha256",
    device="0:0",
    device_name="NVIDIA H200",
    device_kind="gpu",
    bytes=1 << 30,
    chunk_size=4096,
    segments=1,
    repeats=9,
    seconds_median=0.002,
    seconds_q1=0.0019,
    seconds_q3=0.0021,
    seconds_min=0.0018,
    wall_seconds_median=0.003,
    wall_seconds_q1=0.0029,
    wall_seconds_q3=0.0031,
    gb_per_s=536.870912,
    verified="sample",
    digest="5d" * 32,
    driver="OpenCL 3.0 CUDA, 580.1",
    framework="pyopencl 2026.1",
    protocol="1",
    commit="0123456789",
    date="2026-01-02T03:04:05Z",
)


def row(seconds: float = ROW.seconds_median, spread: float = 0.05, **changes: Any) -> Row:
    """`ROW` with a median of `seconds`, quartiles `spread` of it away, a digest of the algorithm's length, and other
    columns changed."""
    digest = "5d" * ALGORITHMS[changes.get("algorithm", ROW.algorithm)].digest_size
    timed = replace(
        ROW,
        seconds_median=seconds,
        seconds_q1=seconds * (1 - spread),
        seconds_q3=seconds * (1 + spread),
        **{"digest": digest} | changes,
    )
    return replace(timed, gb_per_s=1e-9 * timed.bytes / seconds)


READING = Reading(
    subject="LOP3",
    quantity="instruction rate",
    unit="1/clk/SM",
    conditions="8 chains",
    device="0",
    device_name="NVIDIA H200",
    device_kind="gpu",
    repeats=9,
    median=63.25,
    q1=63.0,
    q3=63.5,
    source="hashbench 0.1.0",
    note="of 64 lanes",
)


def machine_rows() -> list[Row]:
    """A machine with a fast GPU under two kernels and two CPU lanes."""
    lanes = (("hashlib", "1-thread", 1.0), ("hashlib", "2-threads", 2.0), ("cupy", "0", 900.0), ("opencl", "0", 800.0))
    return [
        row(
            1e-9 * (1 << 30) / speed,
            kernel=kernel,
            device=device,
            device_kind="cpu" if kernel == "hashlib" else "gpu",
            device_name="A [C]PU" if kernel == "hashlib" else "NVIDIA H200",
            strategy=strategy,
            algorithm=algorithm,
        )
        for kernel, device, speed in lanes
        for strategy in ("batched", "tree")
        for algorithm in ("sha256", "sha384")
    ]


_SHOWN = st.characters(exclude_categories=["C", "Z"]) | st.just(" ")
TEXTS = st.text(_SHOWN).filter(lambda text: not text.startswith(FORMULAS))
WHOLE_NUMBERS = st.integers(1, LARGEST_WHOLE_NUMBER)
POSITIVE_NUMBERS = st.floats(SMALLEST_NUMBER, LARGEST_NUMBER)
NUMBERS = st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
"""What cells of each kind accept."""
