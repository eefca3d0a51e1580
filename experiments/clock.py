"""Do two clocks agree? One launch of CuPy's kernel, timed by this harness and by NVIDIA's own NVBench."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hashbench.bench.experiment import Experiment, Skip
from hashbench.bench.measurement import PROTOCOL, Seconds
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import nvbench_program, style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device

KERNEL = "cupy"
SIZE = 8 << 30
CHUNK_SIZE = 4 << 10

TIMEOUT = 400.0
"""Seconds that the program of one algorithm has, compilation and verification included."""

HARNESS, NVBENCH, RATIO = "hashbench", "NVBench", "NVBench over hashbench"
"""Subjects of the readings."""

SECONDS = "device seconds"
"""The quantity of the readings of a time."""

COLOURS = {HARNESS: style.COLOURS["green"], NVBENCH: style.COLOURS["blue"]}


class Clock(Experiment):
    """The same launch on the same bytes, by both."""

    name = "clock"
    question = "Do NVBench and this harness give the same launch the same time?"

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """Both times of each of CuPy's devices and each algorithm, and their ratio; both forms are the same."""
        return chain.from_iterable(_of_launch(*one) for one in product(_usable(devices), ALGORITHMS))

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """The two times side by side, a panel for each device and algorithm."""
        return _draw(readings, path)


EXPERIMENT = Clock()


def _usable(devices: Sequence[Device]) -> Sequence[Device | Skip]:
    what = "clock: NVBench and hashbench"
    mine = [device for device in devices if device.kernel == KERNEL]
    if not mine:
        return [Skip(what, f"the launch is one of {KERNEL}'s, which was not asked for")]
    if find_spec("cuda") is None or find_spec("cuda.bench") is None:
        return [Skip(what, "NVBench's Python package is not installed: install hashbench[crosscheck]")]
    return [one if one.unavailable is None else Skip(what, f"{KERNEL}: {one.unavailable}") for one in mine]


def _of_launch(device: Device | Skip, algorithm: str) -> Iterator[Reading | Skip]:
    if isinstance(device, Skip):
        if algorithm == next(iter(ALGORITHMS)):  # once is enough
            yield device
        return
    with tempfile.TemporaryDirectory() as folder:
        given = _program(device, algorithm, Path(folder))
    ours, theirs = Seconds(**given["hashbench"]), Seconds.of(given["nvbench"])
    conditions = f"batched, {format_size(given['nbytes'])} in chunks of {format_size(CHUNK_SIZE)}"

    def reading(subject: str, quantity: str, unit: str, of: Seconds, source: str, note: str) -> Reading:
        return Reading.of(
            of,
            device,
            subject=subject,
            quantity=quantity,
            unit=unit,
            conditions=conditions,
            algorithm=algorithm,
            source=source,
            note=note,
        )

    harness, nvbench = f"hashbench {version('hashbench')}, {device.framework}", f"cuda-bench {version('cuda-bench')}"
    note = f"measurement protocol {PROTOCOL}: CUDA events around the launch"
    yield reading(HARNESS, SECONDS, "s", ours, harness, note)
    note = "cold measurements, quartiles of its samples; its events lie around the wait for the launch's end too"
    yield reading(NVBENCH, SECONDS, "s", theirs, nvbench, note)
    ratio = Seconds(
        median=theirs.median / ours.median,
        q1=theirs.q1 / ours.q3,
        q3=theirs.q3 / ours.q1,
        minimum=theirs.minimum / ours.minimum,
        count=min(ours.count, theirs.count),
    )
    note = "of the medians; the quartiles are those farthest apart"
    yield reading(RATIO, "ratio", "1", ratio, f"{nvbench}; {harness}", note)


def _program(device: Device, algorithm: str, folder: Path) -> Mapping[str, Any]:
    """What `nvbench_program` gives, in a process of its own, as NVBench wants one.

    Raises:
        RuntimeError: it did not end, or failed; then the message is the last line that it said.
    """
    given = folder / "given.json"
    arguments = [device.id, algorithm, str(SIZE), str(CHUNK_SIZE), str(given)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", nvbench_program.__name__, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"NVBench's program did not end within {TIMEOUT:g} s") from None
    if not given.exists():  # it is written last, and whole
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise RuntimeError(f"NVBench's program ended with {done.returncode} and no times: {said[-1]}")
    found: Mapping[str, Any] = json.loads(given.read_text())
    return found


def _draw(readings: Sequence[Reading], path: Path) -> list[Path]:
    keys = list(dict.fromkeys((r.device_name, r.conditions, r.algorithm) for r in readings))
    with style.style():
        figure = style.new_figure(style.PAGE_WIDTH, 0.9 + 0.95 * len(keys))
        grid = figure.subplots(len(keys), 1, squeeze=False)
        for axes, key in zip(grid.flat, keys, strict=True):
            _draw_panel(axes, [r for r in readings if (r.device_name, r.conditions, r.algorithm) == key])
        grid.flat[-1].set_xlabel("milliseconds by the device's clock: median and quartiles")
        what = " and ".join(dict.fromkeys(conditions for _, conditions, _ in keys))
        names = " and ".join(dict.fromkeys(name for name, _, _ in keys))
        figure.suptitle(f"One launch, timed twice: {what}\n{fill(names, 90)}", fontsize=9)
    columns = ("device_name", "algorithm", "conditions", "subject", "quantity", "unit", "median", "q1", "q3", "repeats")
    return style.save(figure, path, columns, [[getattr(r, name) for name in columns] for r in readings])


def _draw_panel(axes: Axes, readings: Sequence[Reading]) -> None:
    times = [reading for reading in readings if reading.quantity == SECONDS]
    for place, reading in enumerate(times):
        axes.errorbar(
            1e3 * reading.median,
            place,
            xerr=[[1e3 * (reading.median - reading.q1)], [1e3 * (reading.q3 - reading.median)]],
            color=COLOURS.get(reading.subject, style.COLOURS["black"]),
            marker="o",
            capsize=3,
        )
        axes.annotate(
            f"{1e3 * reading.median:.4g}",
            (1e3 * reading.median, place),
            xytext=(0, 6),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )
    ratio = "".join(f": {r.median:.4f} times as long by NVBench" for r in readings if r.quantity == "ratio")
    name = ALGORITHMS[readings[0].algorithm].title
    axes.set_title(f"{name}, {readings[0].device_name}{ratio}", loc="left")
    axes.set_yticks(range(len(times)), [reading.subject for reading in times])
    axes.set_ylim(-0.6, len(times) - 0.2)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
