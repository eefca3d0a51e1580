"""How near do the kernels come to what the device's own pipes allow?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from textwrap import fill
from time import perf_counter
from typing import TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from hashbench.bench.experiment import Experiment, Point, Skip
from hashbench.bench.measurement import Seconds
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
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
    as_written,
    balanced,
)

KiB, GiB = 1 << 10, 1 << 30

KERNEL = "cupy"
"""Whose devices are measured for their pipes."""

SIZE = 8 * GiB
CHUNK_SIZE = 4 * KiB

LAUNCH_SECONDS = 0.01
"""Of one launch of a pipe's kernel, about: a thousand times what a launch takes to begin."""

WARMUP_SECONDS = 0.3
REPEATS = 21
FEW_TURNS = 64

MEMORY_SIZE = 8 * GiB
LEAST_MEMORY = 2 * GiB
"""Bytes that are copied half to half, so 1 GiB at least, and read."""

LIMITS = {
    "each operation on its natural pipe": as_written,
    "best split over the pipes, registers and stalls ignored": balanced,
}
"""What the figure calls the limits, and what computes them."""

MEASURED = ("kernel", "variant", "device", "strategy", "bytes", "chunk_size", "verified", "gb_per_s")
COLUMNS = (
    *("device_name", "algorithm", *MEASURED, "memory_read_gb_per_s"),
    *("computed_limit_as_written_gb_per_s", "computed_limit_balanced_gb_per_s"),
    *("share_of_as_written", "share_of_balanced"),
)
"""Of the figure's table."""

T = TypeVar("T")


class Roofline(Experiment):
    """Each GPU kernel in its default variant, and what the GPU's pipes and memory do at most. The experiment `ablation`
    measures the other variants."""

    name = "roofline"
    question = "How near do the kernels come to what the device's own pipes allow?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """A GPU's batched throughput; both forms are the same."""
        if device.kind == "gpu":
            for algorithm in ALGORITHMS:
                yield Point(device, "batched", algorithm, (SIZE,), CHUNK_SIZE)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """The pipes, the clock and the memory of each of CuPy's devices; both forms are the same."""
        return chain.from_iterable(_parts(devices, self.name))

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Bars of throughput under the limits, a panel for each device and algorithm."""
        return _draw([row for row in rows if row.device_kind == "gpu"], readings, path)


EXPERIMENT = Roofline()


def _parts(devices: Sequence[Device], experiment: str) -> Iterator[Iterable[Reading | Skip]]:
    """What is measured one by one: a part that raises loses no other."""
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
        for bench in opened:  # none where it failed
            yield from (of_pipe(bench, device, pipe) for pipe in PIPES.values())
            halves = "one half copied to the other; bytes read and bytes written are counted"
            yield _of_memory(bench, device, COPY, bench.copy, halves)
            yield _of_memory(bench, device, READ, bench.read, "read once, 16 bytes a load")


def _of_device(device: Device, opened: list[Microbenchmarks]) -> Iterator[Reading]:
    """The number of multiprocessors. The micro-benchmarks are added to `opened`."""
    opened.append(Microbenchmarks(device))
    yield of_multiprocessors(opened[0], device)


def of_multiprocessors(bench: Microbenchmarks, device: Device) -> Reading:
    """How many there are."""
    count = [float(bench.multiprocessors)]
    return _reading(device, count, MULTIPROCESSOR, COUNT, COUNT_UNIT, "as the driver says", source=device.driver)


def of_pipe(bench: Microbenchmarks, device: Device, pipe: Pipe) -> Iterator[Reading]:
    """The rate of a pipe, and, while it is that of `MIXTURES`' first, the clock."""
    turns = FEW_TURNS
    bench.run(pipe, turns)  # which loads its code
    while (seconds := bench.run(pipe, turns).seconds) < LAUNCH_SECONDS / 2:
        turns = max(2 * turns, round(turns * LAUNCH_SECONDS / seconds))
    runs: list[Run] = _repeated(lambda: bench.run(pipe, turns))
    yield _reading(device, [run.rate for run in runs], pipe.name, RATE, RATE_UNIT, pipe.note)
    if pipe.name == MIXTURES[0]:
        note = f"the multiprocessor's clock counter over the GPU's timer, around the loop of {pipe.name} alone"
        yield _reading(device, [run.megahertz for run in runs], MULTIPROCESSOR, CLOCK, CLOCK_UNIT, note)


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
        Seconds.of(values),
        device,
        subject=subject,
        quantity=quantity,
        unit=unit,
        source=source or f"hashbench {version('hashbench')}, {device.framework}",
        note=note,
    )


@dataclass(frozen=True)
class _Panel:
    """One device and algorithm: what was measured, and the limits that are computed from the measured rates."""

    device_name: str
    algorithm: Algorithm
    rows: Sequence[Row]
    limits: Mapping[str, Limit]
    memory: float | None

    @property
    def highest(self) -> float:
        """In GB/s, of what is drawn."""
        return max((*(row.gb_per_s_range[1] for row in self.rows), *(one.gb_per_s for one in self.limits.values())))


def _panels(rows: Sequence[Row], readings: Sequence[Reading]) -> list[_Panel]:
    panels = []
    names = dict.fromkeys((*(row.device_name for row in rows), *(reading.device_name for reading in readings)))
    for name, algorithm in product(names, ALGORITHMS.values()):
        rates = Rates.of(reading for reading in readings if reading.device_name == name)
        limits = {} if rates is None else {text: limit(algorithm, rates) for text, limit in LIMITS.items()}
        mine = [row for row in rows if (row.device_name, row.algorithm) == (name, algorithm.name)]
        memory = None if rates is None or rates.bytes_per_second is None else 1e-9 * rates.bytes_per_second
        if mine or limits:
            fastest_last = sorted(mine, key=lambda row: row.gb_per_s)
            panels.append(_Panel(name, algorithm, fastest_last, limits, memory))
    return panels


def _draw(rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
    panels = _panels(rows, readings)
    if not panels:
        return []
    with style.style():
        height = 0.9 + sum(0.75 + 0.27 * max(1, len(panel.rows)) for panel in panels)
        figure = style.new_figure(style.PAGE_WIDTH, height)
        heights = [1.4 + max(1, len(panel.rows)) for panel in panels]
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, panel)
        grid.flat[0].set_xlim(0, 1.16 * max(panel.highest for panel in panels))
        grid.flat[-1].set_xlabel("GB/s of input, and in brackets its share of either limit")
        sizes = " and ".join(sorted({format_size(row.bytes) for row in rows}))
        chunks = " and ".join(sorted({format_size(row.chunk_size) for row in rows if row.chunk_size}))
        what = f", batched, {sizes} in chunks of {chunks}" if rows else ""
        names = " and ".join(dict.fromkeys(map(_device, panels)))
        figure.suptitle(f"SHA-2 against the limit of the device's pipes{what}\n{fill(names, 90)}", fontsize=9)
        legend: dict[str, Artist] = {}
        for axes in figure.axes:
            handles, labels = axes.get_legend_handles_labels()
            legend |= dict(zip(labels, handles, strict=True))
        figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=2)
    return style.save(figure, path, COLUMNS, [line for panel in panels for line in _lines(panel)])


def _device(panel: _Panel) -> str:
    memory = "" if panel.memory is None else f", whose memory is read at {panel.memory:,.0f} GB/s"
    return f"{panel.device_name}{memory}"


def _draw_panel(axes: Axes, panel: _Panel) -> None:
    axes.set_title(f"{panel.algorithm.title}, {panel.device_name}", loc="left")
    for place, row in enumerate(panel.rows):
        slow, fast = row.gb_per_s_range
        axes.barh(place, row.gb_per_s, height=0.66, color=style.kernel_colour(row.kernel), linewidth=0)
        axes.errorbar(
            row.gb_per_s,
            place,
            xerr=[[row.gb_per_s - slow], [fast - row.gb_per_s]],
            color="black",
            elinewidth=0.9,
            capsize=2,
            label="measured, with quartiles",
        )
        shares = " | ".join(f"{row.gb_per_s / limit.gb_per_s:.0%}" for limit in panel.limits.values())
        axes.annotate(
            f"{row.gb_per_s:.4g}" + (f"  ({shares})" if shares else ""),
            (0, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    top = max(1, len(panel.rows)) - 0.4
    for (text, limit), line in zip(panel.limits.items(), ("--", ":"), strict=False):
        axes.axvline(limit.gb_per_s, color="black", linestyle=line, linewidth=1.4, label=f"computed limit, {text}")
        axes.text(limit.gb_per_s, top, f" {limit.gb_per_s:.4g}", fontsize=7, va="bottom")
    axes.set_yticks(range(len(panel.rows)), [f"{row.kernel} ({row.variant})" for row in panel.rows])
    axes.set_ylim(-0.6, top + 0.5)
    axes.grid(axis="y", visible=False)


def _lines(panel: _Panel) -> Iterator[Sequence[object]]:
    """The table of a panel: what was measured, and, in columns of their own, what was computed."""
    limits = list(panel.limits.values())
    memory = "" if panel.memory is None else f"{panel.memory:.7g}"
    computed = [f"{limit.gb_per_s:.7g}" for limit in limits] or ["" for _ in LIMITS]
    for row in panel.rows:
        measured = [getattr(row, name) for name in MEASURED]
        shares = [f"{row.gb_per_s / limit.gb_per_s:.4f}" for limit in limits] or ["" for _ in LIMITS]
        yield (panel.device_name, panel.algorithm.name, *measured, memory, *computed, *shares)
    if not panel.rows:
        empty = ["" for _ in MEASURED]
        yield (panel.device_name, panel.algorithm.name, *empty, memory, *computed, *("" for _ in LIMITS))
