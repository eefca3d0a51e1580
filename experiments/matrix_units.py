"""The matrix-units experiment: do a GPU's matrix units (Tensor Cores) help to hash?

Two things are measured on each NVIDIA GPU: SHA-256 with a part of its message schedule in matrix instructions, beside
the same code without; and the rates of matrix instructions, alone and beside the instructions that hashing consists
of, which tell why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from itertools import chain
from math import inf, nextafter
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from hashbench.bench.experiment import SEED, Point, Skip, room
from hashbench.bench.frames import SPEED, VALUES, Results, as_speeds, joined, lines
from hashbench.bench.measurement import make_inputs, measure
from hashbench.bench.output_check import check_output
from hashbench.bench.readings import Reading
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE
from hashbench.bench.text_table import Columns, number
from hashbench.experiments import style
from hashbench.experiments.programs import throughput
from hashbench.experiments.roofline import KERNEL, of_pipe
from hashbench.hashing.sizes import format_size
from hashbench.kernels import Device
from hashbench.kernels.cupy_cuda import CupyCuda
from hashbench.limits.microbenchmarks import Microbenchmarks, Pipe, source
from hashbench.limits.roofline import RATE
from hashbench.report.findings import GPU, ClaimExperiment, Finding, fastest, worst

ALGORITHM = "sha256"
"""SHA-384's shifts use the double-precision pipe already, whose unit DMMA shares."""

GAIN = 1.02
"""How many times as fast as without matrix units a variant must be: more than two runs differ."""

FIRST_CAPABILITY = 80
"""The first compute capability with all matrix instructions that are measured, times ten."""


@dataclass(frozen=True)
class Form:
    """A variant whose message schedule uses matrix units.

    Attributes:
        form: which of the forms in `matrix_units.cu`.
        count: of how many words or steps.
        blocks: blocks per multiprocessor that must fit its registers, the fastest number.
        short: what they compute, as briefly as can be.
        does: the same in words.
    """

    form: str
    count: int
    blocks: int
    short: str
    does: str

    @property
    def macros(self) -> str:
        """What `matrix_units.cu` expects to be defined."""
        values = {"FORM": self.form, "COUNT": self.count, "MOST_BLOCKS": self.blocks}
        return "".join(f"#define {name} {value}\n" for name, value in values.items())


def _dmma(words: int, blocks: int) -> Form:
    return Form(
        "DMMA_WORDS", words, blocks, f"DMMA, {words} of 61 words", f"DMMA shifts {words} of 61 words by 3 and by 10"
    )


def _bmma(steps: int) -> Form:
    return Form(
        "BMMA_STEPS", steps, 4, f"BMMA, {steps} of 48 steps", f"BMMA computes both sigmas of {steps} of 48 steps"
    )


FORMS = {
    "tensor-dmma": _dmma(61, 4),
    "tensor-dmma-30": _dmma(30, 5),
    "tensor-dmma-15": _dmma(15, 6),
    "tensor-bmma-1": _bmma(1),
    "tensor-bmma-2": _bmma(2),
    "tensor-bmma-4": _bmma(4),
    "tensor-bmma-8": _bmma(8),
}
"""The variants with matrix units, by name."""

ALU = "ALU"
MATRIX = {
    "DMMA": ("DMMA_8_STEP(d[i], w[i])", "8x8x4, double precision"),
    "BMMA": ("STEP_OF_WORDS(BMMA, d[i], w[i])", "16x8x256, one-bit and, counted"),
    "IMMA": ("STEP_OF_WORDS(IMMA, d[i], w[i])", "16x8x32, 8-bit integers"),
}
"""Matrix instructions, each with a step of a chain and what it multiplies."""

BESIDE = (3, 7, 15)
"""How many other instructions are executed beside one matrix instruction."""

_ALU_STEPS = ("SHF_CONSTANT(x[i])", "LOP3_CONSTANT(x[i])")  # in turn: the compiler could merge two of the latter


def _beside(name: str, count: int) -> Pipe:
    """A matrix instruction (none if `name` is empty) and `count` instructions of the ALU pipe."""
    steps = [_ALU_STEPS[number % 2] for number in range(count)]
    if not name:
        return Pipe(ALU, "; ".join(steps), count, "logic and funnel shifts in turn, as in hashing")
    step, what = MATRIX[name]
    note = f"{what}; beside it {count} of logic and funnel shifts" if count else what
    return Pipe(f"{name}+{count} {ALU}" if count else name, "; ".join([step, *steps]), 1 + count, note)


PIPES = (
    _beside("", 4),
    *(_beside(name, count) for name in MATRIX for count in (0, *BESIDE)),
    Pipe(
        "DMMA 16x8x4",
        # Two of the chains at a time, so one of two steps does the work of both.
        "if (i % 2 == 0) { DMMA_16_STEP(d[i], w[i], d[next], w[next]); DMMA_16_STEP(d[i], w[i], d[next], w[next]) }",
        note="16x8x4, double precision",
    ),
)
"""What is measured of the instructions. The last one exists since compute capability 9.0."""


class MatrixUnits(ClaimExperiment):
    """Variants of SHA-256 with matrix instructions, and the rates of these instructions."""

    name = "matrix-units"
    question = "Do matrix units help to hash?"
    rule = (
        f"SHA-256 in chunks of {format_size(CHUNK_SIZE)}: on every GPU, the fastest variant with matrix units is more "
        f"than {GAIN - 1:.0%} faster than the fastest without. Those of the experiment ablation count too."
    )

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """CuPy's default variant, without matrix units. Both forms are the same."""
        if device.kernel == KERNEL and device.kind == "gpu":
            yield Point(device, "batched", ALGORITHM, (SIZE["gpu"],), CHUNK_SIZE)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Iterator[Reading | Skip]:
        """The variants' throughput, and the rates of instructions. Both forms are the same."""
        mine = [device for device in devices if device.kernel == KERNEL]
        if not mine:
            return iter([Skip(self.name, f"they are measured through {KERNEL}, which was not asked for")])
        return chain.from_iterable(map(_of_device, mine))

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Above the throughput of each variant, below what the ALU pipe still does beside a matrix instruction."""
        variants, rates = _variants(results), _rates(results)
        return [] if variants.empty and rates.empty else _draw(variants, rates, path)

    def finding(self, results: Results) -> Finding:
        """The gain of the fastest variant with matrix units on each GPU."""
        variants = _variants(results)
        best = fastest(variants[variants["matrix"]], *GPU)
        check = worst(
            best,
            "times",
            f"Is SHA-256 more than {GAIN - 1:.0%} faster with matrix units than without?",
            lambda line: f"{line.gain:+.1f} % by {line.variant}, the fastest of them, on {line.device_name}.",
            "No GPU was measured with matrix units.",
            at_least=nextafter(GAIN, inf),
        )
        columns: Columns = {
            "GPU": "device_name",
            "variant": "variant",
            "measured, GB/s": ("gb_per_s", number),
            "against the fastest without": ("gain", "{:+.1f} %".format),
        }
        return Finding.of([check], variants, columns)


EXPERIMENT = MatrixUnits()


# Readings ------------------------------------------------------------------------------------------------------------


def text() -> str:
    """The CUDA C of the variants and of the steps."""
    return '#line 1 "matrix_units.cu"\n' + (files("hashbench.experiments") / "matrix_units.cu").read_text()


class TensorCuda(CupyCuda):
    """CuPy's kernel with another message schedule, for calls that give every warp 32 equal messages.

    Args:
        device: an available device of CuPy.
        form: what the schedule does in matrix units.
    """

    def __init__(self, device: Device, form: Form) -> None:
        self._form = form
        super().__init__(device, ALGORITHM)

    def source(self) -> str:
        return with_matrix_units(super().source(), self._form)


def with_matrix_units(program: str, form: Form) -> str:
    """A program of SHA-256, what `device_source` returns, with the message schedule of `form`."""
    begin = '#line 1 "message.h"'  # what comes before it defines the compression, what comes after it uses it
    if program.count(begin) != 1:
        raise ValueError(f"the program must have one line {begin}")
    return program.replace(begin, f"{form.macros}{text()}{begin}")


def _of_device(device: Device) -> Iterator[Reading | Skip]:
    """Each variant and rate. What fails, fails alone."""
    if device.unavailable is not None:
        return iter([Skip(f"matrix units of {device.name or 'a GPU'}", f"{device.kernel}: {device.unavailable}")])
    capability = _capability(device)
    if capability < FIRST_CAPABILITY:
        reason = f"compute capability {capability / 10:.1f}: they need {FIRST_CAPABILITY / 10:.1f}"
        return iter([Skip(f"matrix units of {device.name}", reason)])
    pipes = [pipe for pipe in PIPES if capability >= 90 or pipe != PIPES[-1]]
    bench: list[Microbenchmarks] = []

    def rate(pipe: Pipe) -> Iterator[Reading]:
        if not bench:
            bench.append(Microbenchmarks(device, source(pipes, text())))
        return of_pipe(bench[0], device, pipe, clock=True)

    return chain(map(partial(_of_form, device), FORMS), chain.from_iterable(map(rate, pipes)))


def _capability(device: Device) -> int:
    """The compute capability times ten; 0 if it is not NVIDIA's."""
    if device.vendor != "NVIDIA":
        return 0
    import cupy

    return int(cupy.cuda.Device(int(device.id)).compute_capability)


def _of_form(device: Device, name: str) -> Reading:
    """A variant's throughput, measured as a row would be, after its digests were checked."""
    kernel = TensorCuda(device, FORMS[name])
    length = SIZE["gpu"]
    while length + length // CHUNK_SIZE * kernel.algorithm.digest_size > room(kernel):
        length //= 2
    inputs = make_inputs(kernel, [length], SEED)
    works = [kernel.prepare("batched", segments, CHUNK_SIZE) for segments in inputs]
    for work, segments in zip(works, inputs, strict=True):
        work.run()
        check_output(kernel, "batched", segments, CHUNK_SIZE, work.digests(), SEED)
    rates = [length / seconds for seconds in measure(works).device.samples]
    del works, inputs
    kernel.trim()
    return throughput(
        name,
        ALGORITHM,
        device,
        rates,
        kernel=KERNEL,
        conditions=_conditions(length),
        source=f"hashbench {version('hashbench')}, {device.framework}",
        note=f"{FORMS[name].does}. A sample of the digests was checked against hashlib's.",
    )


def _conditions(nbytes: int) -> str:
    return f"batched, {format_size(nbytes)} in chunks of {format_size(CHUNK_SIZE)}"


# The claim and the figure --------------------------------------------------------------------------------------------

_OF_VARIANT = [*GPU, "variant", "matrix", *SPEED, "conditions"]


def _variants(results: Results) -> pd.DataFrame:
    """The throughput of each variant on each GPU where both kinds were measured: `matrix` tells them apart. `times` is
    how many times as fast as the fastest without matrix units one is, and `gain` the same in per cent."""
    rows = results.rows[(results.rows["kernel"] == KERNEL) & (results.rows["device_kind"] == "gpu")]
    rows = rows[(rows["algorithm"] == ALGORITHM) & (rows["strategy"] == "batched") & (rows["chunk_size"] == CHUNK_SIZE)]
    readings = results.readings[results.readings["subject"].isin(FORMS)]
    with_units = as_speeds(readings).assign(variant=readings["subject"], matrix=True)
    without = rows.assign(matrix=False, conditions=[_conditions(nbytes) for nbytes in rows["bytes"]])
    every = joined(without[_OF_VARIANT], with_units[_OF_VARIANT])
    best = fastest(every[~every["matrix"].astype(bool)], *GPU, "conditions")
    best = best[[*GPU, "conditions", "gb_per_s"]].rename(columns={"gb_per_s": "without"})
    both = every.merge(best, on=[*GPU, "conditions"])
    times = both["gb_per_s"] / both["without"]
    return both.assign(times=times, gain=100 * (times - 1), matrix=both["matrix"].astype(bool))


def _rates(results: Results) -> pd.DataFrame:
    """The rates of instructions, with what of each is on the ALU pipe (`alu`) and what in matrix units (`matrix`)."""
    counts = {pipe.name: 0 if pipe.name == PIPES[-1].name else pipe.operations - 1 for pipe in PIPES}
    readings = results.readings
    rates = readings[(readings["quantity"] == RATE) & readings["subject"].isin(counts)]
    others = rates["subject"].map(counts)
    share = (others / (others + 1)).where(rates["subject"] != ALU, 1.0)
    return rates.assign(alu=rates["median"] * share, matrix=rates["median"] * (1 - share))


_COLUMNS = ["device_name", "variant", "gb_per_s", "gb_per_s_q1", "gb_per_s_q3", "gain_percent"]
_RATES = ["instructions", "alu_per_clock", "matrix_per_clock"]


def _draw(variants: pd.DataFrame, rates: pd.DataFrame, path: Path) -> list[Path]:
    here = [frame for frame in (variants, rates) if not frame.empty]
    name = here[0]["device_name"].iloc[0]  # one GPU; the table has them all
    shown = variants[variants["device_name"] == name].sort_values(["matrix", "gb_per_s"], ascending=[True, False])
    beside = rates[(rates["device_name"] == name) & (rates["alu"] > 0)]
    with style.style():
        figure, grid = style.panels([style.LANE * (len(shown) + 0.6), style.LANE * (len(beside) + 0.6)])
        above, below = grid[:, 0]
        _draw_variants(above, shown)
        _draw_rates(below, beside)
        style.headline(figure, _headline(shown), f"SHA-256, {style.names(shown['conditions'])}, {name}")
    table = variants.assign(gain_percent=variants["gain"].map("{:.2f}".format))
    table = table.assign(**table[["gb_per_s_q1", "gb_per_s_q3"]].apply(style.seven_digits))[_COLUMNS]
    counted = rates.assign(
        instructions=rates["subject"],
        alu_per_clock=style.seven_digits(rates["alu"]),
        matrix_per_clock=style.seven_digits(rates["matrix"]),
    )
    return style.save(figure, path, pd.concat([table, counted[["device_name", *_RATES]]]))


def _headline(variants: pd.DataFrame) -> str:
    matrix = variants[variants["matrix"]]
    if matrix.empty:
        return "What matrix instructions leave of the ALU pipe"
    best = next(lines(fastest(matrix, *GPU)))
    helps = "help" if best.times > GAIN else "do not help"
    return f"Matrix units {helps}: {best.gain:+.1f} % at best ({best.variant})"


def _draw_variants(panel: Axes, variants: pd.DataFrame) -> None:
    panel.set_title("Throughput, gain over none", loc="left")
    for place, line in enumerate(lines(variants)):
        gain = f" ({line.gain:+.1f} %)" if line.matrix else ""
        style.bar(
            panel,
            place,
            [getattr(line, name) for name in SPEED],
            f"{line.gb_per_s:,.0f}{gain}",
            look={"height": 0.72, **style.solid(KERNEL, 0.5 if line.matrix else 1)},
        )
    names = [FORMS[name].short if name in FORMS else f"none ({name})" for name in variants["variant"]]
    style.name_lanes(panel, range(len(variants)), names, width=1.35)
    panel.set_xlim(0, 1.4 * max(variants["gb_per_s_q3"], default=1))
    panel.set_ylim(len(variants) - 0.4, -0.6)
    panel.set_xlabel("GB/s")


def _draw_rates(panel: Axes, rates: pd.DataFrame) -> None:
    panel.set_title("Logic and shifts beside them", loc="left")
    for place, line in enumerate(lines(rates)):
        share = line.alu / line.median
        low, middle, high = (getattr(line, name) * share for name in VALUES)
        text = f"{middle:.1f}" + (f" (and {line.matrix:.1f} {line.subject.partition('+')[0]})" if line.matrix else "")
        look = {"height": 0.72, "facecolor": "#999999", "linewidth": 0}
        style.bar(panel, place, [low, middle, high], text, look=look)
    names = [
        f"{other} to 1 {matrix}" if other else f"{matrix} alone"
        for matrix, _, other in (subject.partition("+") for subject in rates["subject"])
    ]
    style.name_lanes(panel, range(len(rates)), names, width=1.35)
    panel.set_xlim(0, 1.55 * max(rates["alu"], default=1))
    panel.set_ylim(len(rates) - 0.4, -0.6)
    panel.set_xlabel("instructions a clock and multiprocessor")
