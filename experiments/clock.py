"""Do two clocks agree? One launch of CuPy's kernel, timed by this harness and by NVIDIA's own NVBench."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hashbench.bench.experiment import Experiment, Skip
from hashbench.bench.frames import VALUES, Results
from hashbench.bench.measurement import PROTOCOL
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE
from hashbench.experiments import nvbench_program, style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device

KERNEL = "cupy"

TIMEOUT = 400.0
"""Seconds allowed for the program of one algorithm, including compilation and the output check."""

HARNESS, NVBENCH, RATIO = "hashbench", "NVBench", "NVBench over hashbench"
"""The subjects of the readings."""

SECONDS = "device seconds"
"""The quantity of readings of a time."""

MARKS: Mapping[str, Mapping[str, str]] = {
    HARNESS: {"marker": "o"},
    NVBENCH: {"marker": "s", "markerfacecolor": "white"},
}


class Clock(Experiment):
    """The same launch on the same bytes, timed by both."""

    name = "clock"
    question = "Do NVBench and this harness give the same launch the same time?"

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """Both times and their ratio, for each of CuPy's devices and each algorithm. Both forms are the same."""
        return chain.from_iterable(_of_launch(*one) for one in product(_usable(devices), ALGORITHMS))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """The two times side by side, a panel per device and algorithm."""
        return _draw(results.readings, path)


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
    common = {
        "kernel": device.kernel,
        "conditions": f"batched, {format_size(given['nbytes'])} in chunks of {format_size(CHUNK_SIZE)}",
        "algorithm": algorithm,
    }
    harness, nvbench = f"hashbench {version('hashbench')}, {device.framework}", f"cuda-bench {version('cuda-bench')}"
    times = {"quantity": SECONDS, "unit": "s", **common}
    note = f"measurement protocol {PROTOCOL}: CUDA events around the launch"
    ours = Reading.of(given["hashbench"], device, subject=HARNESS, source=harness, note=note, **times)
    yield ours
    note = "cold measurements, quartiles of its samples; its events lie around the wait for the launch's end too"
    theirs = Reading.of(given["nvbench"], device, subject=NVBENCH, source=nvbench, note=note, **times)
    yield theirs
    yield replace(
        ours,
        subject=RATIO,
        quantity="ratio",
        unit="1",
        repeats=min(ours.repeats, theirs.repeats),
        median=theirs.median / ours.median,
        q1=theirs.q1 / ours.q3,
        q3=theirs.q3 / ours.q1,
        samples=(),
        source=f"{nvbench}; {harness}",
        note="of the medians; the quartiles are those farthest apart",
    )


def _program(device: Device, algorithm: str, folder: Path) -> Mapping[str, Any]:
    """Runs `nvbench_program` in a process of its own, as NVBench requires.

    Returns:
        What it writes.

    Raises:
        RuntimeError: it timed out or failed. The message has the last line of its output.
    """
    given = folder / "given.json"
    arguments = [device.id, algorithm, str(SIZE["gpu"]), str(CHUNK_SIZE), str(given)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", nvbench_program.__name__, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"NVBench's program timed out after {TIMEOUT:g} s") from None
    if not given.exists():  # it is written last, and atomically
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        raise RuntimeError(f"NVBench's program exited with {done.returncode} and no times: {said[-1]}")
    found: Mapping[str, Any] = json.loads(given.read_text())
    return found


def _headline(panels: Iterable[pd.DataFrame]) -> str:
    """How far the two programs' times are apart."""
    ratios = [ratio for part in panels for ratio in part["median"][part["quantity"] == "ratio"]]
    if not ratios:
        return "How long one launch takes"
    return f"NVBench and this harness agree within {max(abs(ratio - 1) for ratio in ratios):.1%}"


def _draw(readings: pd.DataFrame, path: Path) -> list[Path]:
    panels = list(readings.groupby(["device_name", "conditions", "algorithm"], sort=False))
    with style.style():
        figure, grid = style.panels([0.45] * len(panels))
        for axes, (_, part) in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, part)
        grid.flat[-1].set_xlabel("milliseconds, median and quartiles")
        launches, devices = style.names(readings["conditions"]), style.names(readings["device_name"])
        what = f"One launch, timed twice by the device's clock: {launches}; {devices}"
        style.headline(figure, _headline(part for _, part in panels), what)
    columns = ["device_name", "algorithm", "conditions", "subject", "quantity", "unit", "median", "q1", "q3", "repeats"]
    return style.save(figure, path, readings[columns])


def _draw_panel(axes: Axes, readings: pd.DataFrame) -> None:
    times = readings[readings["quantity"] == SECONDS]
    for place, (subject, spread) in enumerate(zip(times["subject"], style.spreads(times, VALUES, 1e3), strict=True)):
        style.error_bar(axes, place, spread, **MARKS.get(subject, {}))
        where: dict[str, Any] = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
        axes.annotate(f"{spread[1]:.4g}", (spread[1], place), fontsize=style.SMALL, bbox=style.VALUE_BOX, **where)
    ratios = readings["median"][readings["quantity"] == "ratio"]
    ratio = "".join(f": {ratio:.4f} times by NVBench" for ratio in ratios)
    name = ALGORITHMS[readings["algorithm"].iloc[0]].title
    axes.set_title(f"{name}, {readings['device_name'].iloc[0]}{ratio}", loc="left")
    style.name_lanes(axes, range(len(times)), times["subject"])
    axes.set_ylim(-0.5, len(times) - 0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.15)
