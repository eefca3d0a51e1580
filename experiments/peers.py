"""The peers experiment: how do other programs hash on this machine, beside this package's kernels?

OpenSSL, coreutils, hashlib and model-signing hash on the processor, hashcat on its devices. Each is measured the way it
is used: by its own benchmark where it has one, else on a file that lies in memory. What is missing is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain, product
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from hashbench.bench.experiment import Experiment, Point, Skip
from hashbench.bench.readings import Reading
from hashbench.bench.results import Row
from hashbench.experiments import style
from hashbench.experiments.programs import (
    ASK_SECONDS,
    FileHasher,
    Outcomes,
    PeerError,
    coreutils_on,
    file_digest,
    first_line,
    hashlib_on,
    model_signing_on,
    openssl_version,
    or_skip,
    program_output,
    rates_of,
    throughput,
)
from hashbench.experiments.storage import StorageUnavailable, in_memory_or_elsewhere, write_random
from hashbench.experiments.throughput import CHUNK_SIZE, SIZE, STRATEGIES, GiB, KiB, MiB
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class

HASHCAT_MODES = {"sha256": 1400, "sha384": 10800}

HASHCAT_NOTE = (
    "hashcat tries candidates of one block, made in registers: no data is read, the words of the block that stay the "
    "same fold out of the schedule, and last steps are left out. Each candidate is counted as one whole block."
)

MESSAGE_SIZE = 16 * KiB
"""Bytes of the messages that OpenSSL hashes in its benchmark."""

FILES = 32
"""Files of the folder that model-signing hashes, one a thread: the most threads that it starts by default."""

HASHCAT_SECONDS = 300.0
"""The time that hashcat has for one benchmark; the first compiles its kernels."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        openssl_runs, openssl_seconds: OpenSSL gives one number a run, which takes whole seconds.
        file_runs, file_size: runs over a file, and its bytes.
        hashcat_runs: hashcat gives one number a run too, after it has tuned itself for some seconds.
    """

    openssl_runs: int
    openssl_seconds: int
    file_runs: int
    file_size: int
    hashcat_runs: int


QUICK = Effort(openssl_runs=3, openssl_seconds=1, file_runs=3, file_size=256 * MiB, hashcat_runs=1)
FULL = Effort(openssl_runs=5, openssl_seconds=3, file_runs=5, file_size=1 * GiB, hashcat_runs=3)


class Peers(Experiment):
    """Other programs as readings, and this package's kernels as rows of the same run."""

    name = "peers"
    question = "How do other programs hash on this machine?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """The same in both forms: the size and chunks of the throughput experiment's short form."""
        length = SIZE[device.kind or "cpu"]
        for algorithm, strategy in product(ALGORITHMS, STRATEGIES):
            yield Point(device, strategy, algorithm, (length,), CHUNK_SIZE)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Throughput in GB/s. It does not depend on `devices`: a program chooses its own."""
        effort = QUICK if quick else FULL
        processor = kernel_class("hashlib").devices()  # one thread; then, where there are more, one a core
        return chain(
            _of_openssl(effort, processor),
            _of_one_file(effort, processor[0]),
            _of_a_folder(effort, processor[-1]),
            _of_hashcat(effort),
        )

    def figure(self, rows: Sequence[Row], readings: Sequence[Reading], path: Path) -> list[Path]:
        """Bars of throughput, a panel an algorithm, the fastest first."""
        return _draw(_bars(rows, readings), path)


EXPERIMENT = Peers()


# OpenSSL -------------------------------------------------------------------------------------------------------------


def openssl_rate(output: str) -> float:
    """The bytes a second that `openssl speed -mr` ends with, for one algorithm and one message size. Those of single
    processes stand before, after "Got:".

    Raises:
        PeerError: there is no such line.
    """
    found = re.findall(r"^\+F:\d+:[^:\s]+:(\d+(?:\.\d+)?)$", output, re.MULTILINE)
    if not found or not float(found[-1]):
        raise PeerError("openssl printed no speed where a line '+F:<number>:<algorithm>:<bytes a second>' was expected")
    return float(found[-1])


def _of_openssl(effort: Effort, processor: Sequence[Device]) -> Outcomes:
    return chain.from_iterable(
        or_skip(f"OpenSSL, {algorithm}, {device.id}", _openssl(effort, algorithm, device))
        for algorithm, device in product(ALGORITHMS, processor)
    )


def _openssl(effort: Effort, algorithm: str, device: Device) -> Iterator[Reading]:
    program = openssl_version()
    processes = int(device.id.partition("-")[0])
    # The wall's clock: a process that waits for its turn on a core does not hash.
    command = ["openssl", "speed", "-mr", "-elapsed", "-seconds", str(effort.openssl_seconds)]
    command += ["-bytes", str(MESSAGE_SIZE), "-evp", algorithm]
    if processes > 1:
        command += ["-multi", str(processes)]
    timeout = effort.openssl_seconds + ASK_SECONDS
    rates = [openssl_rate(program_output(command, timeout)) for _ in range(effort.openssl_runs)]
    how = "1 process" if processes == 1 else f"{processes} processes"
    conditions = f"{how}, {format_size(MESSAGE_SIZE)} messages"
    yield throughput("OpenSSL", algorithm, device, rates, source=program, conditions=conditions)


# hashcat -------------------------------------------------------------------------------------------------------------


def hashcat_rates(output: str, mode: int) -> dict[int, int]:
    """Hashes a second by device, of `hashcat --benchmark --machine-readable` for `mode`. A line is
    device:mode:core clock:memory clock:milliseconds:hashes a second (hashcat's wiki, machine_readable)."""
    lines = re.findall(r"^(\d+):(\d+):[^:\s]*:[^:\s]*:[^:\s]*:(\d+)$", output, re.MULTILINE)
    return {int(device): int(rate) for device, of_mode, rate in lines if int(of_mode) == mode and int(rate)}


def hashcat_devices(output: str) -> dict[int, tuple[str, str]]:
    """Name and kind ("gpu" or "cpu") of each device that `hashcat -I` lists, by its number. A section without a type
    is of an interface that has GPUs alone."""
    found = {}
    for section in re.split(r"Device ID #", output)[1:]:
        number = re.match(r"\d+", section)
        name = re.search(r"^ *Name\.+: *(\S.*)$", section, re.MULTILINE)
        kind = re.search(r"^ *Type\.+: *(\S.*)$", section.partition("Name.")[0], re.MULTILINE)
        if number and name:
            found[int(number[0])] = (name[1].strip(), "cpu" if kind and "CPU" in kind[1] else "gpu")
    return found


def _of_hashcat(effort: Effort) -> Outcomes:
    return chain.from_iterable(
        or_skip(f"hashcat, {algorithm}", _hashcat(effort, algorithm)) for algorithm in ALGORITHMS
    )


def _hashcat(effort: Effort, algorithm: str) -> Iterator[Reading]:
    mode, block_size = HASHCAT_MODES[algorithm], ALGORITHMS[algorithm].block_size
    program = f"hashcat {first_line(['hashcat', '--version']).removeprefix('v')}"
    command = ["hashcat", "--benchmark", "--machine-readable", "-m", str(mode)]
    # 1 is how hashcat says that it has tried all candidates.
    outputs = [program_output(command, HASHCAT_SECONDS, accepted=(0, 1)) for _ in range(effort.hashcat_runs)]
    runs = [hashcat_rates(output, mode) for output in outputs]
    found = sorted(set.intersection(*map(set, runs)))
    if not found:
        raise PeerError(f"hashcat printed no speed for mode {mode}")
    try:
        known = hashcat_devices(program_output(["hashcat", "-I"], ASK_SECONDS))
    except PeerError:  # a number without a name is still a number
        known = {}
    together = "" if len(found) == 1 else f", {len(found)} devices at once"
    for number in found:
        name, kind = known.get(number, (f"hashcat's device {number}", "gpu"))
        yield throughput(
            "hashcat",
            algorithm,
            Device(kernel="hashcat", id=str(number), name=name, kind="cpu" if kind == "cpu" else "gpu"),
            [float(rates[number] * block_size) for rates in runs],
            source=program,
            conditions=f"mode {mode}, candidates of one block of {block_size} bytes{together}",
            note=HASHCAT_NOTE,
        )


# Files in memory -----------------------------------------------------------------------------------------------------


def _of_one_file(effort: Effort, device: Device) -> Outcomes:
    """One long message: hashlib, coreutils and model-signing, all on one thread."""
    try:
        with in_memory_or_elsewhere(effort.file_size) as where:
            path = where.folder / "message"
            write_random(path, effort.file_size, seed=1)
            conditions = f"one file, {format_size(effort.file_size)} in {where.place}"
            for algorithm in ALGORITHMS:
                expected = {".": file_digest(path, algorithm)}
                for subject, prepare in _FILE_HASHERS.items():
                    readings = _of_hasher(
                        prepare, path, expected, effort, algorithm, device, conditions=conditions, note=where.note
                    )
                    yield from or_skip(f"{subject}, {algorithm}, one file", readings)
    except StorageUnavailable as error:
        yield Skip("hashing one file", str(error))


def _of_a_folder(effort: Effort, device: Device) -> Outcomes:
    """Many files in a folder: model-signing alone hashes several at a time."""
    part = effort.file_size // FILES
    try:
        with in_memory_or_elsewhere(FILES * part) as where:
            paths = [where.folder / f"part-{number:02}" for number in range(FILES)]
            for seed, path in enumerate(paths):
                write_random(path, part, seed)
            expected = {path.name: file_digest(path, "sha256") for path in paths}
            conditions = f"{FILES} files, {format_size(part)} each in {where.place}, default threads"
            readings = _of_hasher(
                model_signing_on,
                where.folder,
                expected,
                effort,
                "sha256",
                device,
                conditions=conditions,
                note=where.note,
            )
            yield from or_skip("model-signing, sha256, a folder", readings)
    except StorageUnavailable as error:
        yield Skip("hashing a folder", str(error))


def _of_hasher(
    prepare: Callable[[Path, str], FileHasher],
    path: Path,
    expected: Mapping[str, str],
    effort: Effort,
    algorithm: str,
    device: Device,
    *,
    conditions: str,
    note: str,
) -> Iterator[Reading]:
    hasher = prepare(path, algorithm)
    nbytes = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else (path,)))
    rates = rates_of(hasher, expected, nbytes, effort.file_runs)
    yield throughput(hasher.subject, algorithm, device, rates, source=hasher.source, conditions=conditions, note=note)


_FILE_HASHERS: dict[str, Callable[[Path, str], FileHasher]] = {
    "hashlib": hashlib_on,
    "coreutils": coreutils_on,
    "model-signing": model_signing_on,
}


# The figure ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bar:
    """One bar, in GB/s with its quartiles.

    Attributes:
        program: the kernel's name and the strategy, or the other program's name.
        kernel: the kernel's name; empty for another program.
        where: how many threads, processes or files; empty where the device says it.
    """

    program: str
    kernel: str
    where: str
    algorithm: str
    device: str
    device_name: str
    device_kind: str
    gb_per_s: float
    q1: float
    q3: float
    conditions: str
    source: str
    note: str


def _bars(rows: Sequence[Row], readings: Sequence[Reading]) -> list[Bar]:
    """A bar for each row and reading. Of those that differ in their sizes alone, that is the newest."""
    bars = []
    for row in sorted(rows, key=lambda row: row.date):
        slow, fast = row.gb_per_s_range
        chunk = "" if row.chunk_size is None else f" in chunks of {format_size(row.chunk_size)}"
        variant = f" {row.variant}" if len({r.variant for r in rows if r.kernel == row.kernel}) > 1 else ""
        bars.append(
            Bar(
                program=f"{row.kernel}{variant} {row.strategy}",
                kernel=row.kernel,
                where=row.device.replace("-", " ") if "thread" in row.device else "",
                gb_per_s=row.gb_per_s,
                q1=slow,
                q3=fast,
                conditions=f"{format_size(row.bytes)}{chunk}",
                source=row.framework,
                note="",
                **_place(row),
            )
        )
    for reading in sorted(readings, key=lambda reading: reading.date):
        bars.append(
            Bar(
                program=reading.subject,
                kernel="",
                where=reading.conditions.partition(",")[0] if "thread" in reading.device else "",
                gb_per_s=reading.median,
                q1=reading.q1,
                q3=reading.q3,
                conditions=reading.conditions,
                source=reading.source,
                note=reading.note,
                **_place(reading),
            )
        )
    return list({(b.program, b.kernel, b.where, b.algorithm, b.device, b.device_name): b for b in bars}.values())


def _place(measured: Row | Reading) -> dict[str, str]:
    return {name: getattr(measured, name) for name in ("algorithm", "device", "device_name", "device_kind")}


def _label(bar: Bar, bars: Sequence[Bar], marks: Mapping[str, str]) -> str:
    """The program, and of its device what tells it from the others."""
    where = bar.where
    if not where:
        names = {other.device_name for other in bars if other.device_kind == "gpu"}
        where = bar.device_name if bar.device_kind == "gpu" and len(names) > 1 else bar.device_kind.upper()
        same = (bar.program, bar.device_kind, bar.device_name)
        if len({o.device for o in bars if (o.program, o.device_kind, o.device_name) == same}) > 1:
            where += f" {bar.device}"
    return f"{bar.program}{marks.get(bar.note, '')}, {where}"


def _draw(bars: Sequence[Bar], path: Path) -> list[Path]:
    parts = {name: sorted((b for b in bars if b.algorithm == name), key=lambda b: b.gb_per_s) for name in ALGORITHMS}
    parts = {name: part for name, part in parts.items() if part}
    notes = dict.fromkeys(bar.note for bar in bars if bar.note)
    marks = {note: "*" * number for number, note in enumerate(notes, 1)}
    footnotes = "\n".join(fill(f"{mark} {note}", 78) for note, mark in marks.items())
    names = fill(" and ".join(sorted({bar.device_name for bar in bars})), 66)
    with style.style():
        heights = [0.5 + 0.17 * len(part) for part in parts.values()]
        lines = footnotes.count("\n") + names.count("\n")
        figure = style.new_figure(style.COLUMN_WIDTH, 1.1 + sum(heights) + 0.13 * lines)
        panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False, height_ratios=heights)
        for panel, (algorithm, part) in zip(panels.flat, parts.items(), strict=True):
            panel.set_title(ALGORITHMS[algorithm].title, loc="left")
            panel.set_xscale("log")
            for place, bar in enumerate(part):
                _draw_bar(panel, place, bar)
            panel.set_yticks(range(len(part)), [_label(bar, bars, marks) for bar in part], fontsize=7)
            panel.set_ylim(-0.7, len(part) - 0.3)
            panel.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
            panel.grid(axis="y", visible=False)
        panels.flat[-1].set_xlabel("GB/s, logarithmic")
        panels.flat[0].set_xlim(0.5 * min(bar.q1 for bar in bars), 5 * max(bar.q3 for bar in bars))
        figure.suptitle(f"SHA-2: this package and other programs\n{names}", fontsize=8)
        figure.legend(handles=_KINDS, loc="outside lower center", ncols=2, title=footnotes or None, title_fontsize=6)
    columns = tuple(field.name for field in fields(Bar) if field.name != "kernel")
    table = [tuple(getattr(bar, name) for name in columns) for part in parts.values() for bar in reversed(part)]
    return style.save(figure, path, columns, table)


_PEER: dict[str, Any] = {"facecolor": "white", "edgecolor": "#444444", "hatch": "/////", "linewidth": 0.6}
_KINDS = (Patch(facecolor="#555555", label="solid: this package"), Patch(**_PEER, label="hatched: another program"))


def _draw_bar(panel: Axes, place: int, bar: Bar) -> None:
    look = {"color": style.kernel_colour(bar.kernel), "linewidth": 0} if bar.kernel else _PEER
    panel.barh(place, bar.gb_per_s, height=0.66, **look)
    error = [[bar.gb_per_s - bar.q1], [bar.q3 - bar.gb_per_s]]
    panel.errorbar(bar.gb_per_s, place, xerr=error, color="black", elinewidth=0.9, capsize=2)
    panel.annotate(
        f"{bar.gb_per_s:.3g}" if bar.gb_per_s < 1000 else f"{bar.gb_per_s:.0f}",
        (bar.q3, place),
        xytext=(3, 0),
        textcoords="offset points",
        va="center",
        fontsize=6.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85},
    )
