"""The vendors experiment: do the kernels give the same digests on every vendor's devices, and how fast?

CuPy, OpenCL and SYCL compile one text for all of them; Numba's kernel is the same functions in Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from hashbench.bench.comparison import by_input, disagreements
from hashbench.bench.experiment import Experiment, MachineResults, Point
from hashbench.bench.readings import Reading
from hashbench.bench.results import REFERENCE, Row
from hashbench.bench.vendors import OTHER, vendor_of
from hashbench.experiments import style
from hashbench.experiments.throughput import CHUNK_SIZE, GiB, KiB, MiB
from hashbench.hashing.sizes import format_size
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, Device, Strategy

SIZE = {"gpu": 1 * GiB, "cpu": 128 * MiB}
"""Bytes of input, of which all of a device is busy."""

COMMON_SIZE = 64 * MiB
"""Bytes of the input that every device hashes, so that the digests of all can be compared."""

SHAPES: tuple[tuple[Strategy, int], ...] = (("batched", CHUNK_SIZE), ("tree", CHUNK_SIZE), ("tree", 16 * KiB))
"""What is measured, and how large its chunks are; the last in the long form alone."""

COLOURS = {
    "NVIDIA": style.COLOURS["green"],
    "AMD": style.COLOURS["orange"],
    "Intel": style.COLOURS["blue"],
    "Apple": style.COLOURS["purple"],
    "Arm": style.COLOURS["sky"],
    OTHER: "#7F7F7F",
}
WRONG = "#C00000"
"""What digests that differ are drawn in, and nothing else."""

_OPACITIES = (0.4, 0.7, 1.0)
_COLUMNS = ("kernel", "variant", "device", "algorithm", "strategy", "bytes", "chunk_size", "verified", "gb_per_s")
COLUMNS = (
    *("machine", "vendor", "device_name", *_COLUMNS, "gb_per_s_q1", "gb_per_s_q3"),
    *("digest", "rows_of_this_input", "digests_are_equal"),
)
"""Of the figure's table."""


class Vendors(Experiment):
    """Every kernel on every device, on an input of its own size for the throughput, and on one that all have in common
    for the digests. The reference, which no device code is in, hashes the latter alone."""

    name = "vendors"
    question = "Do the kernels give the same digests on every vendor's devices, and how fast?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """Batched and as a tree; in the long form as a tree of larger chunks too."""
        for algorithm in ALGORITHMS:
            if device.kernel != REFERENCE[0]:
                for strategy, chunk_size in SHAPES[:-1] if quick else SHAPES:
                    yield Point(device, strategy, algorithm, (SIZE[device.kind or "cpu"],), chunk_size)
            for strategy in ("batched", "tree"):
                yield Point(device, strategy, algorithm, (COMMON_SIZE,), CHUNK_SIZE)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """The overview, of one machine."""
        return _draw([MachineResults("", rows, readings)], path)

    def overview(self, machines: Sequence[MachineResults], path: Path) -> list[Path]:
        """Bars of throughput by device and kernel, and whether the digests of its inputs are equal everywhere.

        Raises:
            VerificationError: digests of the same input differ. The figure is drawn all the same, and says so.
        """
        written = _draw(machines, path)
        if wrong := disagreements(row for machine in machines for row in machine.rows):
            raise VerificationError("; ".join(wrong))
        return written


EXPERIMENT = Vendors()


def equalities(rows: Iterable[Row]) -> dict[Row, bool]:
    """Whether the digests of each row's input are all equal. Where they differ, that holds of all rows of the input:
    digests alone do not tell which one is right. Rows without a digest, or alone with their input, are left out.
    """
    found: dict[Row, bool] = {}
    for group in by_input(rows):
        if len(group) > 1:
            equal = len({row.digest for row in group}) == 1
            found |= dict.fromkeys(group, equal)
    return found


@dataclass(frozen=True)
class _Lane:
    """What has bars of its own: a kernel on a device of a machine."""

    machine: str
    device_name: str
    kernel: str
    device: str
    rows: Sequence[Row]

    @property
    def is_gpu(self) -> bool:
        return self.rows[0].device_kind == "gpu"

    @property
    def fastest(self) -> float:
        return max(row.gb_per_s for row in self.rows)

    @property
    def label(self) -> str:
        """The kernel, with the number of threads where a device is told by it."""
        return f"{self.kernel}, {self.device.replace('-', ' ')}" if "thread" in self.device else self.kernel

    def bar(self, algorithm: str, shape: tuple[str, int]) -> Row | None:
        """The newest of the rows with the most bytes."""
        found = [row for row in self.rows if (row.algorithm, (row.strategy, row.chunk_size)) == (algorithm, shape)]
        return max(found, key=lambda row: (row.bytes, row.date), default=None)


def _lanes(machines: Sequence[MachineResults]) -> list[_Lane]:
    """By device, GPUs first and then the fastest; those of one device side by side, the fastest first."""
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    for machine in machines:
        for row in machine.rows:
            found.setdefault((machine.name, row.device_name, row.kernel, row.device), []).append(row)
    lanes = [_Lane(*key, rows) for key, rows in found.items()]
    best: dict[tuple[str, str], float] = {}
    for lane in lanes:
        best[_device(lane)] = max(best.get(_device(lane), 0.0), lane.fastest)
    return sorted(lanes, key=lambda lane: (not lane.is_gpu, -best[_device(lane)], _device(lane), -lane.fastest))


def _device(lane: _Lane) -> tuple[str, str]:
    return lane.machine, lane.device_name


def _draw(machines: Sequence[MachineResults], path: Path) -> list[Path]:
    lanes = _lanes(machines)
    if not lanes:
        return []
    rows = [row for lane in lanes for row in lane.rows]
    equal = equalities(rows)
    places, headings = _places(lanes)
    bars = [row for lane in lanes for name in ALGORITHMS for shape in SHAPES if (row := lane.bar(name, shape))]
    algorithms = [name for name in ALGORITHMS if any(row.algorithm == name for row in rows)]
    with style.style():
        figure = style.new_figure(style.PAGE_WIDTH, 1.25 + 0.4 * len(lanes) + 0.26 * len(headings))
        panels = figure.subplots(1, len(algorithms), sharex=True, sharey=True, squeeze=False)[0]
        for panel, algorithm in zip(panels, algorithms, strict=True):
            for place, lane in zip(places, lanes, strict=True):
                _draw_lane(panel, place, lane, algorithm)
            panel.set_title(ALGORITHMS[algorithm].title, loc="left")
            panel.set_xlabel("GB/s, logarithmic")
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        first, last = panels[0], panels[-1]
        speeds = [speed for row in bars for speed in row.gb_per_s_range]
        first.set_xscale("log")
        first.xaxis.set_major_formatter(FuncFormatter(lambda speed, _: f"{speed:,g}"))
        first.set_xlim(0.4 * min(speeds), 6 * max(speeds))
        first.set_yticks(places, [lane.label for lane in lanes])
        first.set_ylim(max(places) + 0.6, min(headings) - 0.45)
        for place, text in headings.items():
            first.text(0.01, place, text, transform=first.get_yaxis_transform(), va="center", weight="bold")
        for place, lane in zip(places, lanes, strict=True):
            _draw_verdict(last, place, [equal[row] for row in lane.rows if row in equal])
        last.set_title("digests", loc="right", fontsize=7.5)
        _finish(figure, bars, rows, equal)
    return style.save(figure, path, COLUMNS, _lines(lanes, equal))


def _places(lanes: Sequence[_Lane]) -> tuple[list[float], dict[float, str]]:
    """Where each lane is drawn, downwards, and the headings between them: a device's name, and its machine's where
    another has a device of that name."""
    machines = Counter(name for _, name in dict.fromkeys(map(_device, lanes)))
    places: list[float] = []
    headings: dict[float, str] = {}
    place = 0.0
    for (machine, name), group in groupby(lanes, key=_device):
        headings[place] = f"{name} ({machine})" if machines[name] > 1 else name
        place += 0.2
        for _ in group:
            place += 0.5 if place == list(headings)[-1] + 0.2 else 1.0
            places.append(place)
        place += 0.85
    return places, headings


def _draw_lane(panel: Axes, place: float, lane: _Lane, algorithm: str) -> None:
    colour = COLOURS[vendor_of(lane.device_name)]
    for number, (shape, opacity) in enumerate(zip(SHAPES, _OPACITIES, strict=True)):
        if row := lane.bar(algorithm, shape):
            y = place + 0.27 * (number - 1)
            slow, fast = row.gb_per_s_range
            panel.barh(y, row.gb_per_s, height=0.25, color=colour, alpha=opacity, linewidth=0)
            error = [[row.gb_per_s - slow], [fast - row.gb_per_s]]
            panel.errorbar(row.gb_per_s, y, xerr=error, color="black", elinewidth=0.7, capsize=1)
            text = f"{row.gb_per_s:,.0f}" if row.gb_per_s >= 100 else f"{row.gb_per_s:.3g}"
            panel.annotate(text, (fast, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=6)


def _draw_verdict(panel: Axes, place: float, equal: Sequence[bool]) -> None:
    """How many digests of a lane were compared, and of how many inputs they differ, to the right of `panel`."""
    if not equal:
        text, colour = "not compared", "black"
    elif all(equal):
        text, colour = f"{len(equal)} equal", "black"
    else:
        text, colour = f"{equal.count(False)} of {len(equal)}\nDIFFER", WRONG
    panel.text(1.0, place, text, transform=panel.get_yaxis_transform(), va="center", ha="right", color=colour, size=7)


def _finish(figure: Figure, bars: Sequence[Row], rows: Sequence[Row], equal: Mapping[Row, bool]) -> None:
    """The title, which says whether the digests are equal, and the legend."""
    groups = [group for group in by_input(rows) if len(group) > 1]
    differing = sum(not equal[first] for first, *_ in groups)
    if differing:
        verdict = f"WRONG: the digests of {differing} of {len(groups)} inputs differ"
    elif groups:
        verdict = f"{len(equal)} digests of {len(groups)} inputs: those of the same input are equal everywhere"
    else:
        verdict = "no two rows are of the same input, so no digests are compared"
    of_kinds = []
    for kind in sorted({row.device_kind for row in bars}, reverse=True):
        sizes = sorted({row.bytes for row in bars if row.device_kind == kind}, reverse=True)
        of_kinds.append(f"{' or '.join(map(format_size, sizes))} on {kind.upper()}s")
    figure.suptitle(
        f"SHA-2 throughput of every kernel and device: {', '.join(of_kinds)}\n{verdict}",
        fontsize=9,
        color=WRONG if differing else "black",
    )
    vendors = dict.fromkeys(vendor_of(row.device_name) for row in bars)
    keys = [Patch(color=COLOURS[vendor], linewidth=0, label=vendor) for vendor in vendors]
    for (strategy, chunk_size), opacity in zip(SHAPES, _OPACITIES, strict=True):
        label = f"{strategy}, {format_size(chunk_size)} chunks"
        keys.append(Patch(color="#555555", linewidth=0, alpha=opacity, label=label))
    figure.legend(handles=keys, loc="outside lower center", ncols=len(keys))


def _lines(lanes: Sequence[_Lane], equal: Mapping[Row, bool]) -> Iterator[Sequence[object]]:
    """The table: every row, also those of the common input."""
    alike = {row: len(group) for group in by_input(row for lane in lanes for row in lane.rows) for row in group}
    for lane in lanes:
        for row in lane.rows:
            verdict = {True: "yes", False: "no", None: ""}[equal.get(row)]
            yield (
                *(lane.machine, vendor_of(lane.device_name), lane.device_name),
                *(getattr(row, name) for name in _COLUMNS),
                *(f"{limit:.7g}" for limit in row.gb_per_s_range),
                *(row.digest, alike.get(row, ""), verdict),
            )
