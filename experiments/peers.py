"""The peers experiment: how fast do other programs hash on this machine, compared with this package's kernels?

OpenSSL, coreutils, hashlib and model-signing hash on the processor, hashcat on its devices. Each is measured the way it
is used: by its own benchmark if it has one, else on a file in memory, or on a buffer for libraries
(`hashbench.experiments.chunk_programs`). Missing programs are skipped. What nobody here can run is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hashbench.bench.experiment import Experiment, Point, Skip
from hashbench.bench.frames import Line, Results, joined, lines
from hashbench.bench.readings import Reading, files_phrase
from hashbench.bench.sweeps import CHUNK_SIZE, SIZE, STRATEGIES, GiB, KiB, MiB
from hashbench.experiments import style
from hashbench.experiments.chunk_programs import of_a_buffer
from hashbench.experiments.host_tree import processes_of
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
    processes_phrase,
    program_output,
    rates_of,
    throughput,
)
from hashbench.experiments.storage import Storage, StorageUnavailable, in_memory_or_elsewhere, write_random
from hashbench.hashing.sizes import format_size
from hashbench.kernels import ALGORITHMS, Device, kernel_class

HASHCAT_MODES = {"sha256": 1400, "sha384": 10800}

HASHCAT_NOTE = (
    "hashcat tries candidates of one block, made in registers: no data is read, constant words of the block are folded "
    "out of the schedule, and the last steps are left out. Each candidate counts as one whole block."
)

MESSAGE_SIZE = 16 * KiB
"""Bytes per message of OpenSSL's benchmark."""

FILES = 32
"""Files that model-signing hashes: one for each of the threads that it starts by default at most."""

HASHCAT_SECONDS = 300.0
"""Time for one benchmark of hashcat. The first one compiles its kernels."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        openssl_runs, openssl_seconds: OpenSSL gives one number per run, which takes whole seconds.
        file_runs, file_size: runs over a file, and its bytes.
        hashcat_runs: hashcat also gives one number per run, after some seconds of tuning.
    """

    openssl_runs: int
    openssl_seconds: int
    file_runs: int
    file_size: int
    hashcat_runs: int


@dataclass(frozen=True)
class Quote:
    """What others say that they measured. It is never drawn as a measurement, nor in its column.

    Attributes:
        program: its name.
        algorithm: "sha256" or "sha384".
        device_name: where they measured.
        gb_per_s: the throughput that they give.
        source: where they give it.
    """

    program: str
    algorithm: str
    device_name: str
    gb_per_s: float
    source: str


_CUPQC = "NVIDIA, cuPQC SDK 0.4.1, messages of 8 KB, 7 April 2026: nvidia.github.io/cuPQC/blogs/hash-rates"
QUOTES = (
    Quote("cuPQC-Hash", "sha256", "RTX PRO 6000", 672.0, _CUPQC),
    Quote("cuPQC SHA-512", "sha384", "RTX PRO 6000", 646.0, _CUPQC),  # which differs in constants alone
)

QUICK = Effort(openssl_runs=3, openssl_seconds=1, file_runs=3, file_size=256 * MiB, hashcat_runs=1)
FULL = Effort(openssl_runs=5, openssl_seconds=3, file_runs=5, file_size=1 * GiB, hashcat_runs=3)


class Peers(Experiment):
    """Other programs as readings, and this package's kernels as rows."""

    name = "peers"
    question = "How fast do other programs hash on this machine?"

    def points(self, device: Device, *, quick: bool) -> Iterable[Point]:
        """The size and chunks of the throughput experiment's short form, in both forms."""
        length = SIZE[device.kind or "cpu"]
        for algorithm, strategy in product(ALGORITHMS, STRATEGIES):
            yield Point(device, strategy, algorithm, (length,), CHUNK_SIZE)

    def readings(self, devices: Sequence[Device], *, quick: bool) -> Outcomes:
        """Throughput in GB/s. It does not depend on `devices`: programs choose their own."""
        effort = QUICK if quick else FULL
        processor = kernel_class("hashlib").devices()  # one thread; then, if there are several cores, a thread per core
        return chain(
            _of_openssl(effort, processor),
            _of_one_file(effort, processor[0]),
            _of_a_folder(effort, processor[-1]),
            of_a_buffer(effort.file_size, effort.file_runs, processor),
            _of_hashcat(effort),
        )

    def figure(self, results: Results, path: Path) -> list[Path]:
        """Bars of throughput, a panel per algorithm, the fastest first; and quotes beside measurements of GPUs."""
        return _draw(_bars(results), path)


EXPERIMENT = Peers()


# OpenSSL -------------------------------------------------------------------------------------------------------------


def openssl_rate(output: str) -> float:
    """Parses the output of `openssl speed -mr` for one algorithm and one message size.

    Returns:
        The bytes per second of its last line. Those of single processes are in earlier lines, after "Got:".

    Raises:
        PeerError: there is no such line.
    """
    found = re.findall(r"^\+F:\d+:[^:\s]+:(\d+(?:\.\d+)?)$", output, re.MULTILINE)
    if not found or not float(found[-1]):
        raise PeerError("openssl printed no line '+F:<number>:<algorithm>:<bytes per second>'")
    return float(found[-1])


def _of_openssl(effort: Effort, processor: Sequence[Device]) -> Outcomes:
    return chain.from_iterable(
        or_skip(f"OpenSSL, {algorithm}, {device.id}", _openssl(effort, algorithm, device))
        for algorithm, device in product(ALGORITHMS, processor)
    )


def _openssl(effort: Effort, algorithm: str, device: Device) -> Iterator[Reading]:
    program = openssl_version()
    processes = processes_of(device)
    # Elapsed time: a process that waits for a core does not hash.
    command = ["openssl", "speed", "-mr", "-elapsed", "-seconds", str(effort.openssl_seconds)]
    command += ["-bytes", str(MESSAGE_SIZE), "-evp", algorithm]
    if processes > 1:
        command += ["-multi", str(processes)]
    timeout = effort.openssl_seconds + ASK_SECONDS
    rates = [openssl_rate(program_output(command, timeout)) for _ in range(effort.openssl_runs)]
    workers, conditions = processes_phrase(processes), f"{format_size(MESSAGE_SIZE)} messages"
    yield throughput("OpenSSL", algorithm, device, rates, source=program, workers=workers, conditions=conditions)


# hashcat -------------------------------------------------------------------------------------------------------------


def hashcat_rates(output: str, mode: int) -> dict[int, int]:
    """Parses the output of `hashcat --benchmark --machine-readable`.

    Each line is device:mode:core clock:memory clock:milliseconds:hashes per second (hashcat's wiki, machine_readable).

    Returns:
        The hashes per second for `mode`, by device number.
    """
    lines = re.findall(r"^(\d+):(\d+):[^:\s]*:[^:\s]*:[^:\s]*:(\d+)$", output, re.MULTILINE)
    return {int(device): int(rate) for device, of_mode, rate in lines if int(of_mode) == mode and int(rate)}


def hashcat_devices(output: str) -> dict[int, tuple[str, str]]:
    """Parses the output of `hashcat -I`.

    Returns:
        The name and the kind ("gpu" or "cpu") of each device, by its number. A section without a type belongs to an
        interface that has only GPUs.
    """
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
    # Exit code 1 means that hashcat has tried all candidates.
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
            for algorithm in ALGORITHMS:
                expected = {".": file_digest(path, algorithm)}
                for subject, prepare in _FILE_HASHERS.items():
                    readings = _of_hasher(prepare, path, where, expected, effort.file_runs, algorithm, device)
                    yield from or_skip(f"{subject}, {algorithm}, one file", readings)
    except StorageUnavailable as error:
        yield Skip("hashing one file", str(error))


def _of_a_folder(effort: Effort, device: Device) -> Outcomes:
    """Many files in a folder: only model-signing hashes several at a time."""
    part = effort.file_size // FILES
    try:
        with in_memory_or_elsewhere(FILES * part) as where:
            paths = [where.folder / f"part-{number:02}" for number in range(FILES)]
            for seed, path in enumerate(paths):
                write_random(path, part, seed)
            expected = {path.name: file_digest(path, "sha256") for path in paths}
            readings = _of_hasher(
                model_signing_on, where.folder, where, expected, effort.file_runs, "sha256", device, "default threads"
            )
            yield from or_skip("model-signing, sha256, a folder", readings)
    except StorageUnavailable as error:
        yield Skip("hashing a folder", str(error))


def _of_hasher(
    prepare: Callable[[Path, str], FileHasher],
    path: Path,
    where: Storage,
    expected: Mapping[str, str],
    runs: int,
    algorithm: str,
    device: Device,
    workers: str = "",
) -> Iterator[Reading]:
    hasher = prepare(path, algorithm)
    sizes = [file.stat().st_size for file in (path.iterdir() if path.is_dir() else (path,))]
    yield throughput(
        hasher.subject,
        algorithm,
        device,
        rates_of(hasher, expected, sum(sizes), runs),
        source=hasher.source,
        workers=workers,
        files=len(sizes),
        conditions=format_size(sizes[0]) + (" each" if len(sizes) > 1 else ""),
        storage=where.place,
        note=where.note,
    )


_FILE_HASHERS: dict[str, Callable[[Path, str], FileHasher]] = {
    "hashlib": hashlib_on,
    "coreutils": coreutils_on,
    "model-signing": model_signing_on,
}


# The figure ----------------------------------------------------------------------------------------------------------


_PLACE = ["algorithm", "device", "device_name", "device_kind"]
_COLUMNS = ["program", "where", *_PLACE, "gb_per_s", "q1", "q3", "conditions", "source", "note"]


def _bars(results: Results) -> pd.DataFrame:
    """A bar for each row and reading. Of those that differ only in their sizes, the newest.

    `program` is the kernel's name and the strategy, or the other program's name; `where` the threads, processes or
    files where the device does not say it; `kernel` is empty for another program.
    """
    rows, readings = (frame.sort_values("date", kind="stable") for frame in (results.rows, results.readings))
    several = rows.groupby("kernel")["variant"].transform("nunique") > 1
    threads = rows["device"].str.replace("-", " ").where(rows["device"].str.contains("thread"), "")
    chunks = [f" in chunks of {format_size(size)}" if pd.notna(size) else "" for size in rows["chunk_size"]]
    of_rows = rows[[*_PLACE, "kernel", "gb_per_s"]].assign(
        program=rows["kernel"] + (" " + rows["variant"]).where(several, "") + " " + rows["strategy"],
        where=threads,
        q1=rows["gb_per_s_q1"],
        q3=rows["gb_per_s_q3"],
        conditions=rows["bytes"].map(format_size) + chunks,
        source=rows["framework"],
        note="",
    )
    of_readings = readings[[*_PLACE, "q1", "q3", "source", "note"]].assign(
        program=readings["subject"],
        kernel="",
        where=[_where(one) for one in lines(readings)],
        gb_per_s=readings["median"],
        conditions=readings["how"],
    )
    bars = joined(of_rows, of_readings)
    alike = ["program", "kernel", "where", "algorithm", "device", "device_name"]
    newest = bars.drop_duplicates(alike, keep="last")
    return newest.sort_values("gb_per_s", kind="stable", ignore_index=True)


def _where(reading: Line) -> str:
    """What tells readings of a program on the processor apart: its files, or its processes."""
    if "thread" not in reading.device:
        return ""
    return reading.workers if pd.isna(reading.files) else files_phrase(reading.files)


def _label(bar: Line, bars: pd.DataFrame, marks: Mapping[str, str]) -> str:
    """The program, and what tells its device from the others."""
    where = bar.where
    if not where:
        gpus = bars["device_name"][bars["device_kind"] == "gpu"]
        where = bar.device_name if bar.device_kind == "gpu" and gpus.nunique() > 1 else bar.device_kind.upper()
        same = bars[["program", "device_kind", "device_name"]] == [bar.program, bar.device_kind, bar.device_name]
        if bars["device"][same.all(axis="columns")].nunique() > 1:
            where += f" {bar.device}"
    return f"{bar.program}{marks.get(bar.note, '')}, {where}"


def _draw(bars: pd.DataFrame, path: Path) -> list[Path]:
    names = [*style.algorithms(bars["algorithm"]), *([""] if (bars["algorithm"] == "").any() else [])]
    parts = {name: bars[bars["algorithm"] == name] for name in names}
    quotes = {name: [q for q in QUOTES if q.algorithm == name and "gpu" in set(bars["device_kind"])] for name in names}
    notes = dict.fromkeys(note for note in bars["note"] if note)
    marks = {note: "*" * number for number, note in enumerate(notes, 1)}
    footnotes = "\n".join(style.wrapped(f"{mark} {note}", style.WIDTH - 0.1) for note, mark in marks.items())
    with style.style():
        heights = [style.LANE * (len(part) + len(quotes[name]) + 0.4) for name, part in parts.items()]
        figure, grid = style.panels(heights, sharex=True)
        for panel, (algorithm, part) in zip(grid.flat, parts.items(), strict=True):
            panel.set_title(ALGORITHMS[algorithm].title if algorithm else OTHER_FUNCTIONS, loc="left")
            panel.set_xscale("log")
            for place, bar in enumerate(lines(part)):
                _draw_bar(panel, place, bar)
            labels = [_label(bar, bars, marks) for bar in lines(part)]
            for quote in quotes[algorithm]:
                _draw_quote(panel, len(labels), quote)
                labels.append(f"{quote.program}, {quote.device_name}")
            style.name_lanes(panel, range(len(labels)), labels, width=1.65)
            panel.set_ylim(-0.7, len(labels) - 0.3)
            style.plain_numbers(panel.xaxis, "{:,g}")
        grid[-1, 0].set_xlabel("GB/s, logarithmic")
        grid[0, 0].set_xlim(0.5 * bars["q1"].min(), 5 * bars["q3"].max())
        best = next(lines(bars[bars["algorithm"] != ""].sort_values("gb_per_s", ascending=False, kind="stable")), None)
        if best is None:
            finding = "Other hash functions on this machine"
        else:
            speed = f"{best.gb_per_s:,.3g} GB/s of {ALGORITHMS[best.algorithm].title}"
            finding = f"{best.program} on the {best.device_kind.upper()}: {speed}"
        devices = style.names(sorted(bars["device_name"]))
        style.headline(figure, finding, f"This package and other programs: {devices}")
        style.legend(figure, [*_KINDS, *([_QUOTED] if any(quotes.values()) else [])], footnotes or None)
    quoted = pd.DataFrame([vars(quote) for name in names for quote in quotes[name]])
    table = pd.concat([part.iloc[::-1] for part in parts.values()])[_COLUMNS]
    if not quoted.empty:
        table = pd.concat([table, quoted.rename(columns={"gb_per_s": "quoted_gb_per_s"})])
    return style.save(figure, path, table)


OTHER_FUNCTIONS = "Other hash functions, not SHA-2"

_KINDS = (
    Patch(facecolor="#555555", label="solid: this package"),
    Patch(**style.OTHER_PROGRAM, label="hatched: another program"),
)
_QUOTE: dict[str, Any] = {"linestyle": "none", "marker": "D", "markerfacecolor": "none", "color": "black"}
_QUOTED = Line2D([], [], **_QUOTE, label="diamond: quoted, not measured here")


def _draw_quote(panel: Axes, place: int, quote: Quote) -> None:
    panel.plot([quote.gb_per_s], [place], **_QUOTE)
    style.write_value(panel, place, f"{quote.gb_per_s:.0f} (quoted)", end=1.1 * quote.gb_per_s)


def _draw_bar(panel: Axes, place: int, bar: Line) -> None:
    style.bar(
        panel,
        place,
        [bar.q1, bar.gb_per_s, bar.q3],
        f"{bar.gb_per_s:.3g}" if bar.gb_per_s < 1000 else f"{bar.gb_per_s:.0f}",
        look={"height": 0.74, **(style.solid(bar.kernel) if bar.kernel else style.OTHER_PROGRAM)},
        label={"bbox": style.VALUE_BOX},
    )
