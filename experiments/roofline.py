"""The roofline experiment: how close do the kernels come to what the device's own pipes allow?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import pandas as pd
from matplotlib.axes import Axes

from hashbench.bench.experiment import Experiment, Point, Skip
from hashbench.bench.frames import SPEED, Line, Results, lines
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE, GiB
from hashbench.bench.text_table import number
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Algorithm, Buffer, Device
from hashbench.limits.microbenchmarks import PIPES, Microbenchmarks, Pipe, Run
from hashbench.limits.roofline import (
    BANDWIDTH,
    BANDWIDTH_UNIT,
    CLOCK,
    CLOCK_UNIT,
    COPY,
    COUNT,
    COUNT_UNIT,
    MIXTURES,
    MULTIPROCESSOR,
    RATE,
    RATE_UNIT,
    READ,
    Limit,
    Rates,
    balanced,
)

KERNEL = "cupy"
"""The kernel whose devices' pipes are measured."""

LAUNCH_SECONDS = 0.01
"""The approximate time of one launch of a pipe's kernel: a thousand times the launch latency."""

WARMUP_SECONDS = 0.3
REPEATS = 21
FEW_TURNS = 64

MEMORY_SIZE = 8 * GiB
LEAST_MEMORY = 2 * GiB
"""Bytes that are read, and of which one half is copied to the other, so at least 1 GiB."""

MEASURED = ["kernel", "variant", "device", "strategy", "bytes", "chunk_size", "verified", "gb_per_s"]
COMPUTED, SHARE = "computed_limit_gb_per_s", "share_of_limit"
COLUMNS = ["device_name", "algorithm", *MEASURED, "memory_read_gb_per_s", COMPUTED, SHARE]
"""The columns of the figure's table."""

T = TypeVar("T")


class Roofline(Experiment):
    """Each GPU kernel in its default variant, and the peak rates of the GPU's pipes and memory.

    The experiment `ablation` measures the other variants.
    """

    name = "roofline"
    question = "How close do the kernels come to what the device's own pipes allow?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """A GPU's batched throughput. Both forms are the same."""
        if device.kind == "gpu":
            for algorithm in ALGORITHMS:
                yield Point(device, "batched", algorithm, (SIZE["gpu"],), CHUNK_SIZE)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """The pipes, the clock and the memory of each of CuPy's devices. Both forms are the same."""
        return chain.from_iterable(_parts(devices, self.name))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Bars of throughput below the limits, a panel per device and algorithm."""
        return _draw(results.rows[results.rows["device_kind"] == "gpu"], results.readings, path)


EXPERIMENT = Roofline()


def _parts(devices: Sequence[Device], experiment: str) -> Iterator[Iterable[Reading | Skip]]:
    """The measurements one by one, so that one that raises does not lose the others."""
    mine = [device for device in devices if device.kernel == KERNEL]
    if not mine:
        reason = f"they are measured through {KERNEL}, which was not asked for"
        yield [Skip(f"{experiment}: pipes and memory", reason)]
    for device in mine:
        what = f"{experiment}: pipes and memory of {device.name or 'a GPU'}"
        if device.unavailable is not None:
            yield [Skip(what, f"{KERNEL}: {device.unavailable}")]
            continue
        opened: list[Microbenchmarks] = []
        yield _of_device(device, opened)
        for bench in opened:  # none if it failed
            yield from (of_pipe(bench, device, pipe) for pipe in PIPES.values())
            halves = "one half copied to the other; bytes read and bytes written are counted"
            yield _of_memory(bench, device, COPY, bench.copy, halves)
            yield _of_memory(bench, device, READ, bench.read, "read once, 16 bytes a load")


def _of_device(device: Device, opened: list[Microbenchmarks]) -> Iterator[Reading]:
    """The number of multiprocessors. Adds the micro-benchmarks to `opened`."""
    opened.append(Microbenchmarks(device))
    yield of_multiprocessors(opened[0], device)


def of_multiprocessors(bench: Microbenchmarks, device: Device) -> Reading:
    """The number of multiprocessors."""
    count = [float(bench.multiprocessors)]
    return _reading(device, count, MULTIPROCESSOR, COUNT, COUNT_UNIT, "as the driver says", source=device.driver)


def of_pipe(bench: Microbenchmarks, device: Device, pipe: Pipe, *, clock: bool = False) -> Iterator[Reading]:
    """The rate of a pipe; and the clock meanwhile, if it is asked for or the pipe is the first of `MIXTURES`."""
    turns = FEW_TURNS
    bench.run(pipe, turns)  # loads its code
    while (seconds := bench.run(pipe, turns).seconds) < LAUNCH_SECONDS / 2:
        turns = max(2 * turns, round(turns * LAUNCH_SECONDS / seconds))
    runs: list[Run] = _repeated(lambda: bench.run(pipe, turns))
    yield _reading(device, [run.rate for run in runs], pipe.name, RATE, RATE_UNIT, pipe.note)
    note = f"the multiprocessor's clock counter over the GPU's timer, around the loop of {pipe.name} alone"
    if clock or pipe.name == MIXTURES[0]:
        subject = pipe.name if clock else MULTIPROCESSOR
        yield _reading(device, [run.megahertz for run in runs], subject, CLOCK, CLOCK_UNIT, note)


def _of_memory(
    bench: Microbenchmarks, device: Device, subject: str, run: Callable[[Buffer], float], note: str
) -> Iterator[Reading]:
    room = bench.free_memory() * 3 // 4
    nbytes = max(LEAST_MEMORY, min(MEMORY_SIZE, room - room % LEAST_MEMORY))
    memory = bench.memory(nbytes)
    speeds = [1e-9 * nbytes / seconds for seconds in _repeated(lambda: run(memory))]
    yield _reading(device, speeds, subject, BANDWIDTH, BANDWIDTH_UNIT, f"{format_size(nbytes)}, {note}")


def _repeated(run: Callable[[], T]) -> list[T]:
    begin = perf_counter()
    while perf_counter() - begin < WARMUP_SECONDS:
        run()
    return [run() for _ in range(REPEATS)]


def _reading(
    device: Device, values: Sequence[float], subject: str, quantity: str, unit: str, note: str, source: str = ""
) -> Reading:
    return Reading.of(
        values,
        device,
        subject=subject,
        quantity=quantity,
        unit=unit,
        source=source or f"hashbench {version('hashbench')}, {device.framework}",
        note=note,
    )


@dataclass(frozen=True)
class _Panel:
    """One device and algorithm: what was measured, and the limit that is computed from the measured rates."""

    device_name: str
    algorithm: Algorithm
    rows: pd.DataFrame
    limit: Limit | None
    memory: float | None

    @property
    def highest(self) -> float:
        """The highest value to draw, in GB/s."""
        limits = [] if self.limit is None else [self.limit.gb_per_s]
        return max(map(float, (*self.rows["gb_per_s_q3"], *limits)))

    @property
    def table(self) -> pd.DataFrame:
        """What was measured, and what was computed, in columns of their own. One line if nothing was measured."""
        table = self.rows[MEASURED].reset_index(drop=True)
        table = table if len(table) else table.reindex([0])
        table[COMPUTED] = "" if self.limit is None else f"{self.limit.gb_per_s:.7g}"
        shares = table["gb_per_s"] / (math.nan if self.limit is None else self.limit.gb_per_s)
        table[SHARE] = shares.map(lambda share: "" if pd.isna(share) else f"{share:.4f}")
        memory = "" if self.memory is None else f"{self.memory:.7g}"
        return table.assign(device_name=self.device_name, algorithm=self.algorithm.name, memory_read_gb_per_s=memory)


def _panels(rows: pd.DataFrame, readings: pd.DataFrame) -> list[_Panel]:
    panels = []
    for name, algorithm in product(
        dict.fromkeys((*rows["device_name"], *readings["device_name"])), ALGORITHMS.values()
    ):
        rates = Rates.of(readings[readings["device_name"] == name])
        limit = None if rates is None else balanced(algorithm, rates)
        mine = rows[(rows["device_name"] == name) & (rows["algorithm"] == algorithm.name)]
        memory = None if rates is None or rates.bytes_per_second is None else 1e-9 * rates.bytes_per_second
        if len(mine) or limit:
            panels.append(_Panel(name, algorithm, mine.sort_values("gb_per_s", kind="stable"), limit, memory))
    return panels


def _headline(panels: Sequence[_Panel]) -> str:
    """How near the fastest kernel of each algorithm comes to its limit."""
    shares = []
    for panel in panels:
        if panel.limit is not None and len(panel.rows):
            share = panel.rows["gb_per_s"].max() / panel.limit.gb_per_s
            shares.append(f"{panel.algorithm.title} reaches {share:.0%}")
    return f"Of the limit of the pipes, {' and '.join(shares)}" if shares else "What each kernel reaches"


def _draw(rows: pd.DataFrame, readings: pd.DataFrame, path: Path) -> list[Path]:
    panels = _panels(rows, readings)
    if not panels:
        return []
    with style.style():
        heights = [1.2 * style.LANE * (1.2 + max(1, len(panel.rows))) for panel in panels]
        figure, grid = style.panels(heights, sharex=True)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, panel)
        grid.flat[0].set_xlim(0, 1.16 * max(panel.highest for panel in panels))
        grid.flat[-1].set_xlabel("GB/s of input, and its share of the limit")
        sizes, chunks = style.sizes(rows["bytes"]), style.sizes(rows["chunk_size"])
        what = f", batched, {sizes} in chunks of {chunks}" if len(rows) else ""
        names = style.names(map(_device, panels))
        style.headline(figure, _headline(panels), f"Against the limit of the device's pipes{what}: {names}")
        style.legend_of_panels(figure)
    return style.save(figure, path, pd.concat([panel.table for panel in panels])[COLUMNS])


def _device(panel: _Panel) -> str:
    memory = "" if panel.memory is None else f", whose memory is read at {panel.memory:,.0f} GB/s"
    return f"{panel.device_name}{memory}"


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    axes.set_title(f"{panel.algorithm.title}, {panel.device_name}", loc="left")
    for place, row in enumerate(lines(panel.rows)):
        _draw_bar(axes, place, row, panel.limit)
    top = max(1, len(panel.rows)) - 0.4
    if panel.limit is not None:
        limit = panel.limit.gb_per_s
        label = "limit: best split over the pipes, registers and stalls ignored"
        axes.axvline(limit, color="black", linestyle="--", linewidth=1.1, label=label)
        axes.text(limit, top, f" {number(limit)}", fontsize=style.SMALL, va="bottom")
    names = zip(panel.rows["kernel"], panel.rows["variant"], strict=True)
    style.name_lanes(axes, range(len(panel.rows)), [f"{kernel} ({variant})" for kernel, variant in names])
    axes.set_ylim(-0.6, top + 0.6)


def _draw_bar(axes: Axes, place: int, row: Line, limit: Limit | None) -> None:
    style.bar(
        axes,
        place,
        [getattr(row, name) for name in SPEED],
        number(row.gb_per_s) + (f" ({row.gb_per_s / limit.gb_per_s:.0%})" if limit else ""),
        look={"height": 0.74, **style.solid(row.kernel)},
        error={"label": "measured, with quartiles"},
        label={"end": 0},
    )
