"""The architectures experiment: which share of its limit does a GPU reach, and what would other GPUs reach?

It shows three numbers per GPU, never in one column: the measured throughput; the limit that its own pipes set, computed
from their measured rates (`hashbench.limits.roofline`); and the prediction from machine code alone
(`hashbench.limits.static_model`), which covers GPUs that were not measured and is checked by those that were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hashbench.bench.experiment import Point, Skip
from hashbench.bench.frames import SPEED, Line, Results, lines, where
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import roofline, style
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class
from hashbench.limits import static_model
from hashbench.limits.gpus import gpus
from hashbench.limits.hashcat import Published, published
from hashbench.limits.microbenchmarks import PIPES, Microbenchmarks
from hashbench.limits.roofline import BANDWIDTH_UNIT, Rates, balanced
from hashbench.limits.static_model import Prediction
from hashbench.report import findings

LIMIT_SHARE = 0.90
"""The least share of its limit that a GPU must reach."""

LIMIT = "limit"
"""The subject of readings of a device's limit, in GB/s."""

PLAIN = "plain"
"""The variant that checks the model again where it was measured beside the default one."""

_PREDICTED = "#444444"
_PUBLISHED: dict[str, Any] = {
    "marker": "D",
    "markersize": 3.5,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.8,
    "linestyle": "none",
    "zorder": 5,
}
"""The mark of what others published, which no measurement and no prediction has."""

COLUMNS = (
    *("gpu", "architecture", "target", "device_name", "algorithm", "variant"),
    *("predicted_gb_per_s", "predicted_low", "predicted_high", "predicted_bound"),
    *("machine", "kernel", "bytes", "chunk_size", "verified"),
    *("measured_gb_per_s", "measured_gb_per_s_q1", "measured_gb_per_s_q3"),
    *("computed_limit_gb_per_s", "share_of_limit", "prediction_error"),
    *("hashcat_published_gb_per_s", "hashcat_over_predicted_arithmetic", "hashcat_source"),
)
"""The columns of the figure's table. A share and an error are fractions, empty unless both of their numbers exist."""


class Architectures(findings.ClaimExperiment):
    """Each GPU kernel's default variant and the plain one, and the limit that the GPU's own pipes set."""

    name = "architectures"
    question = "Which share of its limit does each GPU reach, and what would others reach?"
    rule = (
        f"For each algorithm: every GPU reaches {LIMIT_SHARE:.0%} or more of the limit that its own pipes set, as "
        f"computed from instruction rates measured on it. If a share is over {1 + findings.MARGIN:.0%}, a "
        "measurement is wrong, and the check has no answer."
    )

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """A GPU's batched throughput; in the short form only of the default variant."""
        if device.kind != "gpu":
            return
        kernel = kernel_class(device.kernel)
        second = PLAIN in kernel.variants and kernel.default_variant(device) != PLAIN and not quick
        for algorithm, variant in product(ALGORITHMS, (None, PLAIN) if second else (None,)):
            yield Point(device, "batched", algorithm, (SIZE["gpu"],), CHUNK_SIZE, variant)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """The limit of each of CuPy's devices for each algorithm. Both forms are the same."""
        mine = [device for device in devices if device.kernel == roofline.KERNEL]
        if not mine:
            reason = f"its pipes are measured through {roofline.KERNEL}, which was not asked for"
            return iter([Skip(f"{self.name}: the limit of a GPU", reason)])
        return chain.from_iterable(_limits(device) for device in mine)

    def figure(self, results: Results, path: Path) -> list[Path]:
        """What one machine's kernels reached, below the limit of their device."""
        rows = _with_limits(results).sort_values(["bytes", "date"], kind="stable")
        newest = rows.drop_duplicates(["kernel", "variant", "device_name", "algorithm"], keep="last")
        fastest_first = newest.sort_values("gb_per_s", ascending=False, kind="stable")
        several = newest["device_name"].nunique() > 1
        names = [row.device_name if several else "" for row in lines(fastest_first)]
        lanes = [
            _Lane(f"{row.kernel} ({row.variant}) {name}".strip(), row)
            for row, name in zip(lines(fastest_first), names, strict=True)
        ]
        return _draw(lanes, path, f"measured, under the limit of the device: {style.names(newest['device_name'])}")

    def overview(self, results: Results, path: Path) -> list[Path]:
        """Bars of the predicted and of the measured throughput, for every GPU that has either.

        Args:
            results: what is drawn.
            path: in the folder of figures. The predictions of `hashbench predict` are beside that folder.
        """
        file = path.parent.parent / static_model.PREDICTIONS_FILE
        predictions = static_model.FORMAT.read(file) if file.exists() else []
        rows = _with_limits(results)
        lanes = [*_predicted(predictions, rows), *_unpredicted(predictions, rows)]
        return _draw(lanes, path, "predicted from the machine code, and measured where there is such a GPU")

    def finding(self, results: Results) -> findings.Finding:
        """The share of its own limit that each GPU reaches."""
        rows = _with_limits(results).query("device_kind == 'gpu' and strategy == 'batched' and limit.notna()")
        best = findings.of_each_gpu(rows, lambda gpu: gpu.nlargest(1, "gb_per_s"))
        checks = [
            findings.worst(
                part,
                "share",
                f"{title}: does every GPU reach {LIMIT_SHARE:.0%} or more of its limit?",
                lambda row: f"{row.share:.1%} at least, by {where(row)}.",
                "No GPU was measured with its limit.",
                at_least=LIMIT_SHARE,
                impossible=lambda row: f"{row.share:.1%} by {where(row)}. A limit cannot be passed",
            )
            for title, part in findings.by_algorithm(best)
        ]
        columns: Columns = {
            "GPU": "device_name",
            "algorithm": findings.algorithm_title,
            "limit": "limit_conditions",
            "limit, GB/s": ("limit", number),
            "measured, GB/s": ("gb_per_s", number),
            "share": ("share", "{:.1%}".format),
            "kernel and variant": lambda row: f"{row.kernel} {row.variant}",
        }
        return findings.Finding.of(checks, best, columns)


EXPERIMENT = Architectures()


def _with_limits(results: Results) -> pd.DataFrame:
    """The rows, each with the `limit` of its device in GB/s, its `limit_conditions`, and the `share` of it."""
    readings = results.readings
    limits = readings[(readings["subject"] == LIMIT) & (readings["device_kind"] == "gpu")]
    key = ["machine", "device_name", "algorithm"]
    limits = limits.drop_duplicates(key, keep="last")[[*key, "median", "conditions"]]
    rows = results.rows.merge(
        limits.rename(columns={"median": "limit", "conditions": "limit_conditions"}), on=key, how="left"
    )
    return rows.assign(share=rows["gb_per_s"] / rows["limit"])


def _limits(device: Device) -> Iterator[Reading | Skip]:
    """The limits of one device. Their quartiles are computed from the quartiles of all rates."""
    if device.unavailable is not None:
        yield Skip(f"the limit of {device.name or 'a GPU'}", f"{device.kernel}: {device.unavailable}")
        return
    bench = Microbenchmarks(device)
    pipes = chain.from_iterable(roofline.of_pipe(bench, device, pipe) for pipe in PIPES.values())
    measured = [roofline.of_multiprocessors(bench, device), *pipes]
    yield from (_limit(device, measured, algorithm) for algorithm in ALGORITHMS)


def _limit(device: Device, measured: Sequence[Reading], algorithm: str) -> Reading:
    readings = Results.of(readings=measured).readings

    def at(column: str) -> float:
        rates = Rates.of(readings, column)
        if rates is None:
            raise ValueError(f"the rates of {device.name} are not enough to compute its limit")
        return balanced(ALGORITHMS[algorithm], rates).gb_per_s

    return Reading(
        subject=LIMIT,
        quantity="throughput",
        unit=BANDWIDTH_UNIT,
        conditions="best split of the operations over the pipes, registers and stalls ignored",
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
        row: what was measured, with its limit; None if nothing was.
        prediction: the prediction for the same; None if there is none.
    """

    label: str
    row: Line | None = None
    prediction: Prediction | None = None

    @property
    def algorithm(self) -> str:
        return str((self.prediction or self._row).algorithm)

    @property
    def limit(self) -> float | None:
        """The limit of the device, in GB/s."""
        return None if self.row is None or pd.isna(self.row.limit) else float(self.row.limit)

    @property
    def error(self) -> float | None:
        if self.row is None or self.prediction is None:
            return None
        return static_model.error(self.prediction, self.row)

    @property
    def highest(self) -> float:
        """The highest value to draw, in GB/s."""
        measured = 0.0 if self.row is None else float(self.row.gb_per_s_q3)
        spread = self.prediction.spread if self.prediction else None
        predicted = max(spread) if spread else 0.0
        published = self.published.gb_per_s if self.published else 0.0
        return max(measured, predicted, published, self.limit or 0.0)

    @property
    def published(self) -> Published | None:
        """What others published of hashcat on that GPU; beside the default variant alone."""
        if self.prediction is None or self.prediction.variant != _default(self.prediction):
            return None
        return published().get((self.prediction.gpu, self.prediction.algorithm))

    @property
    def _row(self) -> Line:
        assert self.row is not None, "a lane has a row or a prediction"
        return self.row


def _predicted(predictions: Sequence[Prediction], rows: pd.DataFrame) -> Iterator[_Lane]:
    """The GPUs of the predictions, in their order; also with the plain variant if it was measured."""
    known = gpus()
    for prediction in predictions:
        gpu = known.get(prediction.gpu)  # the table may have lost it since
        row = static_model.measured(prediction, gpu, rows) if gpu else None
        name = f"{prediction.gpu}, {prediction.target}"
        if prediction.spread is None:  # a count of instructions alone
            continue
        if prediction.variant == _default(prediction):
            yield _Lane(name, row, prediction)
        elif prediction.variant == PLAIN and row is not None:
            yield _Lane(f"{name},\nplain variant", row, prediction)


def _default(prediction: Prediction) -> str:
    """The variant that is shown of a GPU: the default one there."""
    gpu = gpus().get(prediction.gpu)  # the table may have lost it since
    return static_model.toolchain(gpu).variants[0] if gpu else PLAIN


def _unpredicted(predictions: Sequence[Prediction], rows: pd.DataFrame) -> Iterator[_Lane]:
    """The measured GPUs that have no prediction: of each, the fastest kernel."""
    known = gpus()
    predicted = [known[prediction.gpu].device_name for prediction in predictions if prediction.gpu in known]
    others = rows[~rows["device_name"].isin(predicted)]
    gpu = ["device_name", "algorithm"]
    fastest = others.sort_values(["gb_per_s", "bytes", "date"], kind="stable").drop_duplicates(gpu, keep="last")
    for row in lines(fastest.sort_values(gpu)):
        yield _Lane(f"{row.device_name},\n{row.kernel} ({row.variant})", row)


def _headline(lanes: Sequence[_Lane]) -> str:
    """How near what was measured comes to the limit, and how far predictions are off."""
    reached = []
    for algorithm in style.algorithms(lane.algorithm for lane in lanes):
        mine = [lane for lane in lanes if lane.algorithm == algorithm]
        shares = [lane.row.gb_per_s / lane.limit for lane in mine if lane.row and lane.limit]
        if shares:
            reached.append(f"{ALGORITHMS[algorithm].title} at {max(shares):.0%}")
    parts = [f"{' and '.join(reached)} of the GPU's limit"] if reached else []
    errors = [abs(lane.error) for lane in lanes if lane.error is not None]
    if errors:
        parts.append(f"predictions off by {min(errors):.0%} to {max(errors):.0%}")
    return "; ".join(parts) if parts else "What is predicted, for want of measurements"


def _draw(lanes: Sequence[_Lane], path: Path, what: str) -> list[Path]:
    if not lanes:
        return []
    algorithms = style.algorithms(lane.algorithm for lane in lanes)
    with style.style():
        places, end = _places(lanes)
        figure, grid = style.panels([style.LANE * end] * len(algorithms), sharex=True)
        for panel, algorithm in zip(grid.flat, algorithms, strict=True):
            for lane in lanes:
                if lane.algorithm == algorithm:
                    _draw_lane(panel, places[lane.label], lane)
            panel.set_title(ALGORITHMS[algorithm].title, loc="left")
            style.name_lanes(panel, list(places.values()), places, width=1.5)
            panel.set_ylim(end, 0)
        grid[0, 0].set_xlim(0, 1.9 * max(lane.highest for lane in lanes))
        grid[-1, 0].set_xlabel("GB/s")
        sizes = style.sizes(lane.row.bytes for lane in lanes if lane.row)
        title = f"Batched hashing in chunks of {format_size(CHUNK_SIZE)}{f', {sizes}' if sizes else ''}"
        style.headline(figure, _headline(lanes), f"{title}: {what}")
        style.legend(figure, _keys(lanes))
    return style.save(figure, path, pd.DataFrame(map(_line, lanes), columns=COLUMNS))


def _places(lanes: Sequence[_Lane]) -> tuple[dict[str, float], float]:
    """The place of each label, downwards, in bars; and where they end."""
    both = {lane.label for lane in lanes if lane.row is not None and lane.prediction is not None}
    places, end = {}, 0.1
    for label in dict.fromkeys(lane.label for lane in lanes):
        room = 2.2 if label in both else 1.1
        places[label] = end + room / 2
        end += room
    return places, end + 0.1


def _draw_lane(panel: Axes, place: float, lane: _Lane) -> None:
    both = lane.row is not None and lane.prediction is not None
    quoted = lane.published.gb_per_s if lane.published else 0.0
    if (prediction := lane.prediction) is not None and prediction.spread is not None:
        low, middle, high = prediction.spread
        text = f"{middle:,.0f}"
        if prediction.bound == static_model.MEMORY:
            text += ", by memory"
        if lane.error is not None:
            text += f" ({100 * lane.error:+.1f} %)"
        if quoted:
            text += f"; \N{WHITE DIAMOND} {quoted:,.0f}"
        style.bar(
            panel,
            place - 0.45 if both else place,
            [low, middle, high],
            text,
            look={"height": 0.78, **style.OTHER_PROGRAM},
            error={"color": _PREDICTED} if high > low else None,
            label={
                "end": max(high, quoted, (lane.limit or 0.0) if both else 0.0),
                "fontstyle": "italic",
                "xytext": (5, 0),  # beyond the diamond
            },
        )
    if quoted:
        panel.plot([quoted], [place - 0.45 if both else place], **_PUBLISHED)
    if (row := lane.row) is not None:
        y = place + 0.45 if both else place
        text = f"{row.gb_per_s:,.0f}"
        if lane.limit is not None:
            panel.plot([lane.limit, lane.limit], [y - 0.45, y + 0.45], color="black", linewidth=1.6)
            text += f", {row.share:.1%} of {lane.limit:,.0f}"
        style.bar(
            panel,
            y,
            [getattr(row, name) for name in SPEED],
            text,
            look={"height": 0.78, **style.solid(row.kernel)},
            label={"end": max(row.gb_per_s_q3, lane.highest if both else 0.0, lane.limit or 0.0)},
        )


def _keys(lanes: Sequence[_Lane]) -> list[Patch | Line2D]:
    keys: list[Patch | Line2D] = []
    if any(lane.prediction for lane in lanes):
        keys.append(Patch(**style.OTHER_PROGRAM, label="predicted, with its range (and error)"))
    for kernel in dict.fromkeys(lane.row.kernel for lane in lanes if lane.row):
        keys.append(Patch(**style.solid(kernel), label=f"measured, {kernel}"))
    if any(lane.published for lane in lanes):
        keys.append(Line2D([], [], **_PUBLISHED, label="hashcat, as others published it"))
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
                label="limit of the device's pipes",
            )
        )
    return keys


def _line(lane: _Lane) -> dict[str, object]:
    """The table's line of a lane."""
    prediction, row = lane.prediction, lane.row
    line: dict[str, object] = dict.fromkeys(COLUMNS, "")
    line |= {name: getattr(prediction or row, name) for name in ("algorithm", "variant")}
    if prediction is not None:
        gpu = gpus().get(prediction.gpu)
        line |= {
            "gpu": prediction.gpu,
            "architecture": prediction.architecture,
            "target": prediction.target,
            "device_name": gpu.device_name if gpu else "",
            "predicted_gb_per_s": prediction.predicted_gb_per_s,
            "predicted_low": prediction.predicted_low,
            "predicted_high": prediction.predicted_high,
            "predicted_bound": prediction.bound,
        }
    if (quoted := lane.published) is not None and prediction is not None and prediction.arithmetic_gb_per_s:
        line |= {
            "hashcat_published_gb_per_s": f"{quoted.gb_per_s:.5g}",
            "hashcat_over_predicted_arithmetic": f"{quoted.gb_per_s / prediction.arithmetic_gb_per_s:.3f}",
            "hashcat_source": quoted.source,
        }
    if row is not None:
        same = ("device_name", "machine", "kernel", "bytes", "chunk_size", "verified")
        line |= {name: getattr(row, name) for name in same}
        line |= {
            "measured_gb_per_s": row.gb_per_s,
            "measured_gb_per_s_q1": f"{row.gb_per_s_q1:.7g}",
            "measured_gb_per_s_q3": f"{row.gb_per_s_q3:.7g}",
            "computed_limit_gb_per_s": "" if lane.limit is None else f"{lane.limit:.7g}",
            "share_of_limit": "" if lane.limit is None else f"{row.share:.4f}",
            "prediction_error": "" if lane.error is None else f"{lane.error:.4f}",
        }
    return line
