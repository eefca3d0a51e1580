"""The architectures experiment: what share of its limit does a GPU reach, and what would the GPUs do that are not here?

Three numbers of a GPU stand side by side, and never in one column: what was measured; the limit that its own pipes set,
computed from their measured rates (`hashbench.limits.roofline`); and what the machine code alone predicts
(`hashbench.limits.static_model`), which GPUs that nobody here has are known by, and measured ones check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hashbench.bench.experiment import Experiment, MachineResults, Point, Skip
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import roofline, style
from hashbench.experiments.throughput import CHUNK_SIZE, SIZE
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class
from hashbench.kernels.source import VARIANTS
from hashbench.limits import static_model
from hashbench.limits.gpus import gpus
from hashbench.limits.microbenchmarks import PIPES, Microbenchmarks
from hashbench.limits.roofline import BANDWIDTH_UNIT, Rates, as_written
from hashbench.limits.static_model import Prediction
from hashbench.report.evidence import LIMIT

DEFAULT, PLAIN = next(iter(VARIANTS)), "plain"
"""The variant that predictions are shown of, and the second one, which checks the model once more where it was
measured."""

_MEASURED = style.COLOURS["green"]
_PREDICTED = "#444444"

COLUMNS = (
    *("gpu", "architecture", "compute_capability", "device_name", "algorithm", "variant"),
    *("predicted_gb_per_s", "predicted_low", "predicted_high", "predicted_bound"),
    *("machine", "kernel", "bytes", "chunk_size", "verified"),
    *("measured_gb_per_s", "measured_gb_per_s_q1", "measured_gb_per_s_q3"),
    *("computed_limit_gb_per_s", "share_of_limit", "prediction_error"),
)
"""Of the figure's table. A share and an error are fractions, and only where both of their numbers are."""


class Architectures(Experiment):
    """Each GPU kernel's default variant and the plain one, and the limit that the GPU's own pipes set."""

    name = "architectures"
    question = "What share of its limit does each GPU reach, and what would the others do?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """A GPU's batched throughput; of the default variant alone in the short form."""
        if device.kind != "gpu":
            return
        kernel = kernel_class(device.kernel)
        second = PLAIN in kernel.variants and kernel.default_variant(device) != PLAIN and not quick
        for algorithm, variant in product(ALGORITHMS, (None, PLAIN) if second else (None,)):
            yield Point(device, "batched", algorithm, (SIZE["gpu"],), CHUNK_SIZE, variant)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """The limit of each of CuPy's devices for each algorithm; both forms are the same."""
        mine = [device for device in devices if device.kernel == roofline.KERNEL]
        if not mine:
            reason = f"its pipes are measured through {roofline.KERNEL}, which was not asked for"
            return iter([Skip(f"{self.name}: the limit of a GPU", reason)])
        return chain.from_iterable(_limits(device) for device in mine)

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """What one machine's kernels reached, under the limit of their device."""
        machine = MachineResults("", rows, readings)
        newest = {(row.kernel, row.variant, row.device_name, row.algorithm): row for row in _largest(rows)}
        fastest_first = sorted(newest.values(), key=lambda row: -row.gb_per_s)
        lanes = [_Lane(f"{row.kernel} ({row.variant})\n{row.device_name}", row, [machine]) for row in fastest_first]
        return _draw(lanes, path, "measured, under the limit of the device")

    def overview(self, machines: Sequence[MachineResults], path: Path) -> list[Path]:
        """Bars of what was predicted and of what was measured, for every GPU that has either.

        Args:
            machines: whose rows and readings are drawn.
            path: in the folder of figures, beside which the predictions lie that `hashbench predict` wrote.
        """
        file = path.parent.parent / static_model.PREDICTIONS_FILE
        predictions = static_model.FORMAT.read(file) if file.exists() else []
        lanes = [*_predicted(predictions, machines), *_unpredicted(machines)]
        return _draw(lanes, path, "predicted from the machine code, and measured where there is such a GPU")


EXPERIMENT = Architectures()


def _limits(device: Device) -> Iterator[Reading | Skip]:
    """The limits of one device. Their spread is that of the pipes' rates: all at their lower quartiles, or upper."""
    if device.unavailable is not None:
        yield Skip(f"the limit of {device.name or 'a GPU'}", f"{device.kernel}: {device.unavailable}")
        return
    bench = Microbenchmarks(device)
    pipes = chain.from_iterable(roofline.of_pipe(bench, device, pipe) for pipe in PIPES.values())
    measured = [roofline.of_multiprocessors(bench, device), *pipes]
    yield from (_limit(device, measured, algorithm) for algorithm in ALGORITHMS)


def _limit(device: Device, measured: Sequence[Reading], algorithm: str) -> Reading:
    def at(quartile: str) -> float:
        rates = Rates.of(replace(reading, median=getattr(reading, quartile)) for reading in measured)
        if rates is None:
            raise ValueError(f"the rates of {device.name} are not enough to compute its limit")
        return as_written(ALGORITHMS[algorithm], rates).gb_per_s

    return Reading(
        subject=LIMIT,
        quantity="throughput",
        unit=BANDWIDTH_UNIT,
        conditions="each operation on its natural pipe",
        algorithm=algorithm,
        device=device.id,
        device_name=device.name,
        device_kind=device.kind,
        repeats=min(reading.repeats for reading in measured if reading.repeats > 1),
        median=at("median"),
        q1=at("q1"),
        q3=at("q3"),
        source=f"hashbench {version('hashbench')}, {device.framework}",
        note="computed from the rates of the device's pipes and its clock, which were measured; padding is not counted",
    )


@dataclass(frozen=True)
class _Lane:
    """What has a line of its own: a GPU and a variant.

    Attributes:
        label: its name in the figure.
        row: what was measured, if anything.
        machines: where.
        prediction: of the same, if there is one.
    """

    label: str
    row: Row | None
    machines: Sequence[MachineResults]
    prediction: Prediction | None = None

    @property
    def algorithm(self) -> str:
        return (self.prediction or self._row).algorithm

    @property
    def variant(self) -> str:
        return (self.prediction or self._row).variant

    @property
    def machine(self) -> MachineResults | None:
        """The one that measured."""
        return next((machine for machine in self.machines if self.row in machine.rows), None)

    @property
    def limit(self) -> float | None:
        """The computed limit of the device that measured, in GB/s."""
        for reading in self.machine.readings if self.machine else ():
            what = (reading.subject, reading.algorithm, reading.device_name)
            if what == (LIMIT, self.algorithm, self._row.device_name):
                return reading.median
        return None

    @property
    def share(self) -> float | None:
        return None if self.row is None or self.limit is None else self.row.gb_per_s / self.limit

    @property
    def error(self) -> float | None:
        if self.row is None or self.prediction is None:
            return None
        return static_model.error(self.prediction, self.row)

    @property
    def highest(self) -> float:
        """In GB/s, of what is drawn."""
        measured = 0.0 if self.row is None else self.row.gb_per_s_range[1]
        predicted = 0.0 if self.prediction is None else self.prediction.predicted_high
        return max(measured, predicted, self.limit or 0.0)

    @property
    def _row(self) -> Row:
        assert self.row is not None, "a lane is of a row or of a prediction"
        return self.row


def _predicted(predictions: Sequence[Prediction], machines: Sequence[MachineResults]) -> Iterator[_Lane]:
    """The GPUs of the predictions, in their order; the plain variant where it was measured too."""
    rows = _rows(machines)
    known = gpus()
    for prediction in predictions:
        gpu = known.get(prediction.gpu)  # the table may have lost it since
        row = static_model.measured(prediction, gpu, rows) if gpu else None
        name = f"{prediction.gpu}, {prediction.architecture} {prediction.compute_capability}"
        if prediction.variant == DEFAULT:
            yield _Lane(name, row, machines, prediction)
        elif prediction.variant == PLAIN and row is not None:
            yield _Lane(f"{name},\nplain variant", row, machines, prediction)


def _unpredicted(machines: Sequence[MachineResults]) -> Iterator[_Lane]:
    """The GPUs that are measured and in no table: of each the fastest kernel."""
    known = {gpu.device_name for gpu in gpus().values()}
    fastest: dict[tuple[str, str], Row] = {}
    for row in sorted(_largest(_rows(machines)), key=lambda row: row.gb_per_s):
        if row.device_name not in known:
            fastest[row.device_name, row.algorithm] = row
    for (name, _), row in sorted(fastest.items(), key=lambda entry: entry[0]):
        yield _Lane(f"{name},\n{row.kernel} ({row.variant})", row, machines)


def _rows(machines: Sequence[MachineResults]) -> list[Row]:
    return [row for machine in machines for row in machine.rows]


def _largest(rows: Iterable[Row]) -> list[Row]:
    """By size, so that of rows that differ in nothing else the largest is the last."""
    return sorted(rows, key=lambda row: (row.bytes, row.date))


def _draw(lanes: Sequence[_Lane], path: Path, what: str) -> list[Path]:
    if not lanes:
        return []
    labels = list(dict.fromkeys(lane.label for lane in lanes))
    algorithms = [name for name in ALGORITHMS if any(lane.algorithm == name for lane in lanes)]
    with style.style():
        figure = style.new_figure(style.PAGE_WIDTH, 1.2 + 0.36 * len(labels))
        panels = figure.subplots(1, len(algorithms), sharex=True, sharey=True, squeeze=False)[0]
        for panel, algorithm in zip(panels, algorithms, strict=True):
            for lane in lanes:
                if lane.algorithm == algorithm:
                    _draw_lane(panel, labels.index(lane.label), lane)
            panel.set_title(ALGORITHMS[algorithm].title, loc="left")
            panel.set_xlabel("GB/s")
            panel.grid(axis="y", visible=False)
            panel.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(labels)), labels)
        panels[0].set_ylim(len(labels) - 0.45, -0.55)
        panels[0].set_xlim(0, 1.5 * max(lane.highest for lane in lanes))
        rows = [lane.row for lane in lanes if lane.row]
        sizes = " and ".join(map(format_size, sorted({row.bytes for row in rows})))
        title = f"Batched hashing in chunks of {format_size(CHUNK_SIZE)}{f', {sizes}' if rows else ''}"
        figure.suptitle(f"{title}\n{what}", fontsize=9)
        figure.legend(handles=_keys(lanes), loc="outside lower center", ncols=3)
    return style.save(figure, path, COLUMNS, map(_line, lanes))


def _draw_lane(panel: Axes, place: float, lane: _Lane) -> None:
    both = lane.row is not None and lane.prediction is not None
    if (prediction := lane.prediction) is not None:
        y = place - 0.2 if both else place
        low, middle, high = prediction.predicted_low, prediction.predicted_gb_per_s, prediction.predicted_high
        panel.barh(y, middle, height=0.36, facecolor="white", edgecolor=_PREDICTED, hatch="/////", linewidth=0.8)
        if high > low:
            error = [[middle - low], [high - middle]]
            panel.errorbar(middle, y, xerr=error, color=_PREDICTED, elinewidth=0.8, capsize=2)
        text = f"{middle:,.0f}"
        if prediction.bound == static_model.MEMORY:
            text += ", by its memory"
        if lane.error is not None:
            text += f" ({100 * lane.error:+.1f} %)"
        _write(panel, max(high, lane.limit or 0.0) if both else high, y, text, style="italic")
    if (row := lane.row) is not None:
        y = place + 0.2 if both else place
        slow, fast = row.gb_per_s_range
        panel.barh(y, row.gb_per_s, height=0.36, color=_MEASURED, linewidth=0)
        error = [[row.gb_per_s - slow], [fast - row.gb_per_s]]
        panel.errorbar(row.gb_per_s, y, xerr=error, color="black", elinewidth=0.8, capsize=1.5)
        text = f"{row.gb_per_s:,.0f}"
        if lane.limit is not None and lane.share is not None:
            panel.plot([lane.limit, lane.limit], [y - 0.2, y + 0.2], color="black", linewidth=1.8)
            text += f", {lane.share:.1%} of {lane.limit:,.0f}"
        _write(panel, max(fast, lane.highest if both else 0.0, lane.limit or 0.0), y, text)


def _write(panel: Axes, x: float, y: float, text: str, style: str = "normal") -> None:
    panel.annotate(text, (x, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=6.5, fontstyle=style)


def _keys(lanes: Sequence[_Lane]) -> list[Patch | Line2D]:
    keys: list[Patch | Line2D] = []
    if any(lane.prediction for lane in lanes):
        label = "predicted, with its range; in brackets its error"
        keys.append(Patch(facecolor="white", edgecolor=_PREDICTED, hatch="/////", linewidth=0.8, label=label))
    if any(lane.row for lane in lanes):
        keys.append(Patch(color=_MEASURED, linewidth=0, label="measured, with quartiles"))
    if any(lane.limit for lane in lanes):
        keys.append(
            Line2D(
                [],
                [],
                color="black",
                marker="|",
                markersize=9,
                markeredgewidth=1.8,
                linestyle="none",
                label="computed limit of the device's pipes",
            )
        )
    return keys


def _line(lane: _Lane) -> Sequence[object]:
    """The table's line of a lane."""
    prediction, row, machine = lane.prediction, lane.row, lane.machine
    line: dict[str, object] = dict.fromkeys(COLUMNS, "")
    line |= {"algorithm": lane.algorithm, "variant": lane.variant}
    if prediction is not None:
        gpu = gpus().get(prediction.gpu)
        line |= {
            "gpu": prediction.gpu,
            "architecture": prediction.architecture,
            "compute_capability": prediction.compute_capability,
            "device_name": gpu.device_name if gpu else "",
            "predicted_gb_per_s": prediction.predicted_gb_per_s,
            "predicted_low": prediction.predicted_low,
            "predicted_high": prediction.predicted_high,
            "predicted_bound": prediction.bound,
        }
    if row is not None:
        slow, fast = row.gb_per_s_range
        line |= {name: getattr(row, name) for name in ("device_name", "kernel", "bytes", "chunk_size", "verified")}
        line |= {
            "machine": machine.name if machine else "",
            "measured_gb_per_s": row.gb_per_s,
            "measured_gb_per_s_q1": f"{slow:.7g}",
            "measured_gb_per_s_q3": f"{fast:.7g}",
            "computed_limit_gb_per_s": "" if lane.limit is None else f"{lane.limit:.7g}",
            "share_of_limit": "" if lane.share is None else f"{lane.share:.4f}",
            "prediction_error": "" if lane.error is None else f"{lane.error:.4f}",
        }
    return list(line.values())
