"""Made-up results for the claims: enough of each experiment for a verdict, on a machine with one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rows import READING, row

from hashbench.bench.frames import Results, together
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.kernels import ALGORITHMS


@dataclass(frozen=True)
class MachineResults:
    """What one machine measured, as records."""

    name: str
    rows: Sequence[Row]
    readings: Sequence[Reading]


def results_of(machines: Iterable[MachineResults]) -> Results:
    """The results of several machines."""
    return together(Results.of(machine.rows, machine.readings, machine.name) for machine in machines)


MODELS = {"bert-base": 437_928_960, "llama-3.1-8b": 16_060_522_496, "llama-3.1-70b": 141_107_412_992}


def digest_of(algorithm: str, byte: str = "5d") -> str:
    """A digest of the algorithm's length."""
    return byte * ALGORITHMS[algorithm].digest_size


def at(gb_per_s: float, nbytes: int, algorithm: str = "sha256", **changes: Any) -> Row:
    """A row of that throughput."""
    seconds = 1e-9 * nbytes / gb_per_s
    made = row(seconds, 0.01, **{"bytes": nbytes, "algorithm": algorithm, "digest": digest_of(algorithm)} | changes)
    wall = {f"wall_{name}": getattr(made, name) for name in ("seconds_median", "seconds_q1", "seconds_q3")}
    return replace(made, **wall)


def reading(median: float, **changes: Any) -> Reading:
    """A reading with quartiles of 1 % around its median."""
    return replace(READING, median=median, q1=0.99 * median, q3=1.01 * median, **changes)


def model_sizes(speeds: dict[str, float], algorithm: str = "sha256", **changes: Any) -> list[Row]:
    """A row for each model, of that throughput."""
    fixed = {"experiment": "model-sizes", "segments": 723} | changes
    return [at(speed, MODELS[model], algorithm, **fixed | {"model": model}) for model, speed in speeds.items()]


def cpu_speedup(on_gpu: float, on_one_core: float, on_all: float, algorithm: str = "sha256") -> MachineResults:
    """A GPU, hashlib on one core and OpenSSL on all, of that throughput each."""
    nbytes = MODELS["bert-base"]
    common: dict[str, Any] = {"experiment": "cpu-speedup", "model": "bert-base"}
    rows = [
        at(on_gpu, nbytes, algorithm, **common),
        at(on_one_core, nbytes, algorithm, **common, kernel="hashlib", device="1-thread", device_kind="cpu"),
    ]
    openssl = reading(
        on_all,
        experiment="cpu-speedup",
        subject="OpenSSL",
        quantity="throughput",
        unit="GB/s",
        workers="16 processes",
        conditions="",
        algorithm=algorithm,
        device="16-threads",
        device_kind="cpu",
    )
    return MachineResults("nvidia-h200", rows, [openssl])


def batched_vs_tree(speeds: dict[int, tuple[float, float]], algorithm: str = "sha256", **changes: Any) -> list[Row]:
    """For each chunk size the rows of that throughput, batched and as a tree."""
    fixed = {"experiment": "batched-vs-tree"} | changes
    return [
        at(speed, 1 << 33, algorithm, **fixed | {"strategy": strategy, "chunk_size": chunk_size})
        for chunk_size, pair in speeds.items()
        for strategy, speed in zip(("batched", "tree"), pair, strict=True)
    ]


def on_another_gpu(machine: MachineResults, device_name: str = "NVIDIA H100") -> MachineResults:
    """The same numbers of another GPU, in another machine."""
    return MachineResults(
        device_name,
        [replace(row, device_name=device_name) for row in machine.rows],
        [replace(reading, device_name=device_name) for reading in machine.readings],
    )


def vendors(device_name: str, kernels: tuple[str, ...], byte: str = "5d", kind: str = "gpu") -> MachineResults:
    """A row a kernel on one device, with that digest."""
    rows = [
        at(100, 1 << 26, experiment="vendors", kernel=kernel, device_name=device_name, device_kind=kind)
        for kernel in kernels
    ]
    return MachineResults(device_name, [replace(r, digest=digest_of("sha256", byte)) for r in rows], [])


def architectures(gb_per_s: float, limit: float, algorithm: str = "sha256") -> MachineResults:
    """A GPU's throughput and its limit."""
    made = at(gb_per_s, 1 << 33, algorithm, experiment="architectures", strategy="batched")
    of_limit = reading(limit, experiment="architectures", subject="limit", quantity="throughput", unit="GB/s")
    return MachineResults("nvidia-h200", [made], [replace(of_limit, algorithm=algorithm)])


def end_to_end(in_place: float, from_file: float, copied_back: float) -> MachineResults:
    """The seconds of the three ways to a verdict."""
    ways = {"in place": in_place, "file to verdict": from_file, "copied back": copied_back}
    readings = [
        reading(
            seconds,
            experiment="end-to-end",
            subject=way,
            quantity="total seconds",
            unit="s",
            kernel="cupy",
            model="bert-base",
            conditions="",
            storage="" if way == "in place" else "memory",
            memory="" if way == "in place" else "page-locked",
            algorithm="sha256",
        )
        for way, seconds in ways.items()
    ]
    return MachineResults("nvidia-h200", [], readings)


def matrix_units(without: float, with_units: float, **changes: Any) -> MachineResults:
    """A GPU's default variant, and one with matrix units, of that throughput each."""
    nbytes = 8 << 30
    common: dict[str, Any] = {"experiment": "matrix-units", "kernel": "cupy", **changes}
    measured = at(without, nbytes, **common, strategy="batched", variant="paired")
    tensor = reading(
        with_units,
        **common,
        subject="tensor-dmma",
        quantity="throughput",
        unit="GB/s",
        conditions="batched, 8GiB in chunks of 4KiB",
        algorithm="sha256",
        device="0",
        device_name=measured.device_name,
        device_kind="gpu",
        workers="",
    )
    return MachineResults("nvidia-h200", [measured], [tensor])


def beside(*points: tuple[str, float, float, float], workload: str = "decode, batch 64") -> MachineResults:
    """What schedules verify beside a workload, and the shares of throughput and p99 step time that they cost."""
    ratio = "{} with hashing over that without"
    readings = [
        reading(
            value,
            experiment="beside",
            subject=workload,
            quantity=quantity,
            unit=unit,
            kernel="cupy",
            model="llama-3.1-8b",
            conditions=schedule,
            algorithm="sha256",
        )
        for schedule, speed, lost, slower in points
        for quantity, unit, value in (
            ("verified", "GB/s", speed),
            (ratio.format("throughput"), "1", 1 - lost),
            (ratio.format("p99 step time"), "1", 1 + slower),
        )
    ]
    return MachineResults("nvidia-h200", [], readings)


def chain(beside: float, evidence: float | None, model: str = "llama-3.1-8b") -> list[Reading]:
    """The chain of trust of one model on one GPU.

    Args:
        beside: seconds of each link beside hashing.
        evidence: seconds of each public evidence; None for none.
        model: the inventory.
    """
    fixed = {"experiment": "chain", "unit": "s", "kernel": "cupy", "conditions": "291 tensors, 16.1 GB"}
    links = [
        reading(seconds, **fixed, model=model, subject=link, quantity=quantity)
        for link in ("sign", "load verified", "attest", "appraise")
        for quantity, seconds in (("total seconds", 3.0), ("seconds beside hashing", beside))
    ]
    if evidence is None:
        return links
    subjects = ("a public TDX quote", "the reports of eight public GPUs")
    return links + [
        reading(evidence, **fixed | {"kernel": "", "conditions": ""}, subject=subject, quantity=quantity)
        for subject in subjects
        for quantity in ("first seconds", "total seconds")
    ]


def supporting() -> dict[str, list[MachineResults]]:
    """Results that support each claim that has an experiment."""
    tree = {4096: (970.0, 940.0), 16384: (968.0, 955.0)}
    found: dict[str, list[MachineResults]] = {
        "model-sizes": [
            MachineResults(
                "nvidia-h200",
                [
                    made
                    for algorithm, top in (("sha256", 920.0), ("sha384", 570.0))
                    for made in model_sizes(
                        {"bert-base": 0.7 * top, "llama-3.1-8b": 0.98 * top, "llama-3.1-70b": top}, algorithm
                    )
                ],
                [],
            )
        ],
        "batched-vs-tree": [
            MachineResults("nvidia-h200", [made for a in ALGORITHMS for made in batched_vs_tree(tree, a)], [])
        ],
        "vendors": [vendors("AMD Instinct MI300X", ("opencl",)), vendors("NVIDIA H200", ("cupy", "opencl"))],
        "end-to-end": [end_to_end(0.005, 0.4, 0.5)],
        "matrix-units": [matrix_units(950, 980)],
        "chain": [MachineResults("nvidia-h200", [], chain(0.01, 0.02))],
        "beside": [beside(("short pieces", 14.0, 0.009, 0.019), ("long pieces", 50.0, 0.029, 0.06))],
    }
    both = {
        "cpu-speedup": [cpu_speedup(900, 1, 18, algorithm) for algorithm in ALGORITHMS],
        "architectures": [architectures(960, 1020, algorithm) for algorithm in ALGORITHMS],
    }
    for name, parts in both.items():
        rows = [made for part in parts for made in part.rows]
        readings = [made for part in parts for made in part.readings]
        found[name] = [MachineResults("nvidia-h200", rows, readings)]
    return found
