"""The vendors experiment: do the kernels give the same digests on every vendor's devices, and how fast?

CuPy, OpenCL and SYCL compile the same source for all of them; Numba's kernel has the same functions in Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from hashbench.bench.comparison import disagreements
from hashbench.bench.experiment import Point
from hashbench.bench.frames import SPEED, Line, Results, lines, with_twins
from hashbench.bench.results import REFERENCE
from hashbench.bench.sweeps import CHUNK_SIZE, GiB, KiB, MiB
from hashbench.bench.text_table import Columns, number
from hashbench.bench.vendors import OTHER, vendor_of
from hashbench.experiments import style
from hashbench.hashing.sizes import format_size
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, Device, Strategy
from hashbench.report.findings import GPU, Check, ClaimExperiment, Finding

VENDORS = 2
FRAMEWORKS = 2
"""Least number of GPU vendors, and of frameworks on one GPU."""

SIZE = {"gpu": 1 * GiB, "cpu": 128 * MiB}
"""Bytes of input that keep a whole device busy, by kind of device."""

COMMON_SIZE = 64 * MiB
"""Bytes of the input that every device hashes, so that all digests can be compared."""

SHAPES: tuple[tuple[Strategy, int], ...] = (("batched", CHUNK_SIZE), ("tree", CHUNK_SIZE), ("tree", 16 * KiB))
"""What is measured, and the chunk sizes; the last only in the full form."""

WRONG = "#C00000"
"""The colour of digests that differ, and of nothing else."""

_TINTS = (1.0, 0.65, 0.35)
"""How much of the kernel's colour each of the shapes has."""

_LEAST_RATIO = 30
"""Of the ends of the axis, as far as the room for words depends on it."""

_FEW_DECADES = 300
"""The ratio of the ends of an axis up to which powers of ten alone would be too few numbers."""

_LANE = ["machine", "device_name", "kernel", "device"]
_COLUMNS = ["kernel", "variant", "device", "algorithm", "strategy", "bytes", "chunk_size", "verified", "gb_per_s"]
COLUMNS = [
    *("machine", "vendor", "device_name", *_COLUMNS, "gb_per_s_q1", "gb_per_s_q3"),
    *("digest", "rows_of_this_input", "digests_are_equal"),
]
"""The columns of the figure's table."""


class Vendors(ClaimExperiment):
    """Every kernel on every device, on an input of its own size for the throughput, and on an input that all have in
    common for the digests. The reference, which has no device code, hashes only the latter."""

    name = "vendors"
    question = "Do the kernels give the same digests on every vendor's devices, and how fast?"
    rule = (
        "All kernels and devices that hashed the same input give the same digest, in every experiment; one GPU runs "
        f"it through {FRAMEWORKS} frameworks or more; and GPUs of {VENDORS} vendors or more were measured. The "
        "device's name tells the vendor."
    )

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """Batched and as a tree; in the full form also as a tree of larger chunks."""
        for algorithm in ALGORITHMS:
            if device.kernel != REFERENCE[0]:
                for strategy, chunk_size in SHAPES[:-1] if quick else SHAPES:
                    yield Point(device, strategy, algorithm, (SIZE[device.kind or "cpu"],), chunk_size)
            for strategy in ("batched", "tree"):
                yield Point(device, strategy, algorithm, (COMMON_SIZE,), CHUNK_SIZE)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """The overview, for one machine."""
        return _drawn(results.rows, path)

    def overview(self, results: Results, path: Path) -> list[Path]:
        """Bars of throughput by device and kernel, and whether the digests of its inputs are equal everywhere: a figure
        of each algorithm, which fits on a page.

        Raises:
            VerificationError: digests of the same input differ. The figure is drawn first, and shows it.
        """
        written = _drawn(results.rows, path)
        if wrong := disagreements(results.rows):
            raise VerificationError("; ".join(wrong))
        return written

    def finding(self, results: Results) -> Finding:
        """Whether digests agree, in all experiments, and which vendors and frameworks were measured."""
        rows = results.rows
        compared = _compared(rows)
        verdicts = rows.assign(digests=compared["equal"].map({True: "equal", False: "differ"}))
        devices = verdicts.sort_values("device_name", kind="stable").groupby([*GPU, "device_kind"], sort=False)
        trees = rows[rows["strategy"] == "tree"].pivot_table("gb_per_s", GPU, "algorithm", "max")
        # One digest that differs makes a device's digests differ: the word comes first in the alphabet.
        told = devices.agg(kernels=("kernel", _all_of), digests=("digests", "min")).fillna("not compared")
        told = told.join(trees.reindex(columns=list(ALGORITHMS)), on=GPU).reset_index()
        columns: Columns = {
            "device": "device_name",
            "kind": lambda device: device.device_kind.upper(),
            "vendor": lambda device: vendor_of(device.device_name),
            "kernels": "kernels",
            **{f"{algorithm.title}, fastest tree, GB/s": (name, number) for name, algorithm in ALGORITHMS.items()},
            "digests": "digests",
            "machine": "machine",
        }
        gpus = rows[rows["device_kind"] == "gpu"]
        checks = (_equal_digests(compared), _frameworks(gpus), _vendors(gpus))
        return Finding.of(checks, told.sort_values("device_kind", ascending=False, kind="stable"), columns)


EXPERIMENT = Vendors()


# The claim -----------------------------------------------------------------------------------------------------------


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each input that several kernels or devices hashed, or one of them to several digests."""
    twins = with_twins(rows)
    who = (twins["kernel"] + "\n" + twins["device_name"]).groupby(twins["input"]).transform("nunique")
    return twins[(who > 1) | ~twins["equal"]]


def _all_of(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def _equal_digests(compared: pd.DataFrame) -> Check:
    question = "Do all kernels and devices that hashed the same input give the same digest?"
    if compared.empty:
        return Check(question, "No input was hashed by two kernels or devices.", None)
    unequal = compared["input"][~compared["equal"]].nunique()
    answer = (
        f"{compared['input'].nunique()} inputs, {len(compared)} digests of {compared['kernel'].nunique()} kernels on "
        f"{compared['device_name'].nunique()} devices: "
        + ("all equal." if not unequal else f"{unequal} inputs have digests that differ.")
    )
    return Check(question, answer, not unequal)


def _frameworks(gpus: pd.DataFrame) -> Check:
    question = f"Do {FRAMEWORKS} frameworks or more run on one GPU?"
    if gpus.empty:
        return Check(question, "No GPU was measured.", None)
    kernels = gpus.groupby("device_name")["kernel"].nunique()
    count, device = max(zip(kernels, kernels.index, strict=True))
    answer = f"{count} on {device}: {_all_of(gpus['kernel'][gpus['device_name'] == device])}."
    return Check(question, answer, count >= FRAMEWORKS)


def _vendors(gpus: pd.DataFrame) -> Check:
    question = f"Were GPUs of {VENDORS} vendors or more measured?"
    vendors = set(map(vendor_of, gpus["device_name"])) - {OTHER}
    if not vendors:
        return Check(question, "No GPU of a known vendor was measured.", None)
    return Check(question, f"{len(vendors)}: {_all_of(vendors)}.", len(vendors) >= VENDORS)


# The figure ----------------------------------------------------------------------------------------------------------


def _lanes(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each kernel on each device of a machine: by device, GPUs first and then the fastest; the lanes of one
    device side by side, the fastest first."""
    best = rows.groupby(GPU)["gb_per_s"].transform("max")
    fastest = rows.groupby(_LANE)["gb_per_s"].transform("max")
    order = rows.assign(is_cpu=rows["device_kind"] != "gpu", best=-best, fastest=-fastest)
    keys = ["is_cpu", "best", *GPU, "fastest"]
    return [lane for _, lane in order.sort_values(keys, kind="stable").groupby(_LANE, sort=False)]


def _device(lane: pd.DataFrame) -> tuple[str, str]:
    machine, name = lane[GPU].iloc[0]
    return machine, name


def _label(lane: pd.DataFrame) -> str:
    """The kernel, with the number of threads if that is what its device stands for."""
    kernel, device = lane[["kernel", "device"]].iloc[0]
    return f"{kernel}, {device.replace('-', ' ')}" if "thread" in device else kernel


def _bar(lane: pd.DataFrame, shape: tuple[str, int]) -> Line | None:
    """The newest of a lane's rows with the most bytes."""
    wanted = lane[["strategy", "chunk_size"]] == list(shape)
    found = lane[wanted.all(axis="columns")].sort_values(["bytes", "date"], kind="stable")
    return None if found.empty else next(lines(found.iloc[[-1]]))


def _drawn(rows: pd.DataFrame, path: Path) -> list[Path]:
    written: list[Path] = []
    for algorithm in style.algorithms(rows["algorithm"]):
        written += _draw(rows[rows["algorithm"] == algorithm], algorithm, path.with_name(f"{path.name}_{algorithm}"))
    return written


def _draw(rows: pd.DataFrame, algorithm: str, path: Path) -> list[Path]:
    inputs = with_twins(rows)
    compared = inputs[inputs["twins"] > 1]
    rows = rows.join(inputs["twins"]).join(compared["equal"])
    lanes = _lanes(rows)
    places, headings = style.stacked(_groups(lanes), first=0.65)
    bars = [bar for lane in lanes for shape in SHAPES if (bar := _bar(lane, shape))]
    with style.style():
        figure, grid = style.panels([0.35 * (max(places) + 0.9)])
        panel = grid[0, 0]
        for place, lane in zip(places, lanes, strict=True):
            _draw_lane(panel, place, lane)
            _draw_verdict(panel, place, list(lane["equal"].dropna()))
        panel.set_title(ALGORITHMS[algorithm].title, loc="left")
        panel.set_title("digests", loc="right", fontsize=7)
        style.head(panel, headings)
        style.name_lanes(panel, places, map(_label, lanes))
        panel.set_xscale("log")
        style.plain_numbers(panel.xaxis, "{:,g}")
        low, high = min(bar.gb_per_s_q1 for bar in bars), max(bar.gb_per_s_q3 for bar in bars)
        begin, end = 0.4 * low, high * max(high / low, _LEAST_RATIO) ** 0.6  # with room for words on the right
        panel.set_xlim(begin, end)
        if end < _FEW_DECADES * begin:
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.set_ylim(max(places) + 0.55, -0.35)
        panel.set_xlabel("GB/s, logarithmic")
        _finish(figure, bars, compared)
    return style.save(figure, path, _table(pd.concat(lanes)))


def _groups(lanes: Sequence[pd.DataFrame]) -> dict[str, int]:
    """The number of lanes of each device: its name, and its machine's if another machine has a device of that name."""
    devices = Counter(map(_device, lanes))
    machines = Counter(name for _, name in devices)
    return {f"{name} ({machine})" if machines[name] > 1 else name: n for (machine, name), n in devices.items()}


def _draw_lane(panel: Axes, place: float, lane: pd.DataFrame) -> None:
    tints = zip(SHAPES, _TINTS, strict=True)
    bars = [(row, tint) for shape, tint in tints if (row := _bar(lane, shape))]
    for count, (row, tint) in enumerate(bars):
        style.bar(
            panel,
            place + 0.27 * (count - (len(bars) - 1) / 2),
            [getattr(row, name) for name in SPEED],
            number(row.gb_per_s),
            look={"height": 0.25, **style.solid(lane["kernel"].iloc[0], tint)},
        )


def _draw_verdict(panel: Axes, place: float, equal: Sequence[bool]) -> None:
    """Writes to the right of `panel` how many digests of a lane were compared, and for how many inputs they differ."""
    if not equal:
        text, colour = "not compared", "black"
    elif all(equal):
        text, colour = f"{len(equal)} equal", "black"
    else:
        text, colour = f"{equal.count(False)} of {len(equal)}\nDIFFER", WRONG
    panel.text(1.0, place, text, transform=panel.get_yaxis_transform(), va="center", ha="right", color=colour, size=7)


def _finish(figure: Figure, bars: Sequence[Line], compared: pd.DataFrame) -> None:
    """The title, which says whether the digests are equal, and the legend."""
    inputs, differing = compared["input"].nunique(), compared["input"][~compared["equal"]].nunique()
    if differing:
        verdict = f"WRONG: the digests of {differing} of {inputs} inputs differ"
    elif inputs:
        verdict = f"{len(compared)} digests of {inputs} inputs: those of the same input are equal everywhere"
    else:
        verdict = "no two rows are of the same input, so no digests are compared"
    of_kinds = []
    for kind in sorted({row.device_kind for row in bars}, reverse=True):
        sizes = sorted({row.bytes for row in bars if row.device_kind == kind}, reverse=True)
        of_kinds.append(f"{' or '.join(map(format_size, sizes))} on {kind.upper()}s")
    what = f"Throughput of every kernel and device: {', '.join(of_kinds)}"
    style.headline(figure, verdict, what, color=WRONG if differing else "black")
    keys = [
        Patch(color=str(1 - tint), linewidth=0, label=f"{strategy}, {format_size(chunk_size)} chunks")
        for (strategy, chunk_size), tint in zip(SHAPES, _TINTS, strict=True)
        if any((bar.strategy, bar.chunk_size) == (strategy, chunk_size) for bar in bars)
    ]
    style.legend(figure, keys)


def _table(rows: pd.DataFrame) -> pd.DataFrame:
    """Every row, including those of the common input."""
    quartiles = rows[["gb_per_s_q1", "gb_per_s_q3"]].apply(style.seven_digits)
    return rows.assign(
        vendor=list(map(vendor_of, rows["device_name"])),
        rows_of_this_input=rows["twins"].astype("Int64"),
        digests_are_equal=rows["equal"].map({True: "yes", False: "no"}),
        **quartiles,
    )[COLUMNS]
