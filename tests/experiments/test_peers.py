"""The peers experiment: what other programs print is read rightly; what is missing, broken or hanging is skipped."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from drawings import check_legible
from matplotlib.figure import Figure
from rows import row

from hashbench.bench.experiment import Experiment, Skip, plan, run
from hashbench.bench.frames import Results
from hashbench.bench.readings import READINGS, Reading
from hashbench.bench.results import ROWS
from hashbench.bench.sweeps import STRATEGIES
from hashbench.experiments import peers
from hashbench.experiments.peers import hashcat_devices, hashcat_rates, openssl_rate
from hashbench.experiments.programs import PeerError, model_signing_on, program_output, throughput
from hashbench.kernels import ALGORITHMS, Device, kernel_class

MiB = 1 << 20
CORES = [int(device.id.partition("-")[0]) for device in kernel_class("hashlib").devices()]

OPENSSL = """\
+DT:sha256:1:16384
+R:57679:sha256:0.960000
+H:16384
+F:25:sha256:984388266.67
"""

OPENSSL_MULTI = """\
Forked child 0
Forked child 1
+DT:sha384:1:16384
+DT:sha384:1:16384
+R:25374:sha384:1.000000
+R:26831:sha384:1.000000
Got: +H:16384 from 0
Got: +F:25:sha384:415727616.00 from 0
Got: +H:16384 from 1
Got: +F:25:sha384:439599104.00 from 1
+H:16384
+F:25:sha384:855326720.00
"""

HASHCAT = """\
# version: v4.0.0+
# option: --optimized-kernel-enable
1:1400:1683:4513:55.02:10240000000
2:1400:1657:4513:55.82:10183130102
3:1400:-1:-1:61.62:10274648090
4:1400:4294967295:4294967295:61.62:0
1:10800:1683:4513:61.62:5290000000
Started: Thu Nov  2 15:08:04 2017
Stopped: Thu Nov  2 15:08:20 2017
"""

HASHCAT_INFO = """\
hashcat (v6.2.6) starting in backend information mode

CUDA Info:
==========

CUDA.Version.: 12.5

Backend Device ID #01 (Alias: #03)
  Name...........: NVIDIA GeForce RTX 4080
  Processor(s)...: 76
  Clock..........: 2505

Backend Device ID #2
  Name...........: NVIDIA H200
  Processor(s)...: 132

OpenCL Info:
============

OpenCL Platform ID #1
  Vendor..: Intel(R) Corporation
  Name....: Intel(R) OpenCL
  Version.: OpenCL 3.0 LINUX

  Backend Device ID #3
    Type...........: CPU
    Vendor.ID......: 8
    Vendor.........: Intel(R) Corporation
    Name...........: Intel(R) Xeon(R) Processor
    Version........: OpenCL 3.0
"""


# What they print -----------------------------------------------------------------------------------------------------


def test_openssl_rate_is_that_of_all_processes() -> None:
    assert openssl_rate(OPENSSL) == 984388266.67
    assert openssl_rate(OPENSSL_MULTI) == 855326720.00


@pytest.mark.parametrize("output", ["", "+H:16384\n", "Got: +F:25:sha384:439599104.00 from 1\n", "+F:25:sha256:0.00\n"])
def test_openssl_without_a_rate(output: str) -> None:
    with pytest.raises(PeerError, match="openssl printed no line"):
        openssl_rate(output)


def test_hashcat_rates_are_those_of_each_device_that_gave_one() -> None:
    assert hashcat_rates(HASHCAT, 1400) == {1: 10240000000, 2: 10183130102, 3: 10274648090}
    assert hashcat_rates(HASHCAT, 10800) == {1: 5290000000}
    assert hashcat_rates("# version: v7.1.2\nStarted: now\n", 1400) == {}


def test_hashcat_devices_have_a_name_and_a_kind() -> None:
    assert hashcat_devices(HASHCAT_INFO) == {
        1: ("NVIDIA GeForce RTX 4080", "gpu"),
        2: ("NVIDIA H200", "gpu"),
        3: ("Intel(R) Xeon(R) Processor", "cpu"),
    }
    assert hashcat_devices("") == {}


# Programs on the path ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files and few runs, and what they are used for left as it is."""
    effort = replace(peers.QUICK, openssl_runs=2, file_runs=2, file_size=4 * MiB, hashcat_runs=2)
    monkeypatch.setattr(peers, "QUICK", effort)


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands first on the path, and hides the benchmarks of programs that are installed."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("openssl", "hashcat"):
        make(folder, name, "exit 9")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def make(folder: Path, name: str, script: str) -> None:
    """Makes a program of a shell script. Each call's arguments go to a file beside it."""
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.calls\n{script}\n')
    program.chmod(0o755)


def printing(text: str) -> str:
    return f"cat <<'END'\n{text}END"


def calls(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.calls").read_text().splitlines()


def readings_of(subject: str) -> list[Reading | Skip]:
    """What the part of the experiment that measures a subject gives of it."""
    processor = kernel_class("hashlib").devices()
    parts: dict[str, Callable[[], Iterable[Reading | Skip]]] = {
        "OpenSSL": lambda: peers._of_openssl(peers.QUICK, processor),
        "hashcat": lambda: peers._of_hashcat(peers.QUICK),
        "hashing a folder": lambda: peers._of_a_folder(peers.QUICK, processor[-1]),
        "model-signing": lambda: chain(
            peers._of_one_file(peers.QUICK, processor[0]), peers._of_a_folder(peers.QUICK, processor[-1])
        ),
    }
    outcomes = parts.get(subject, lambda: peers._of_one_file(peers.QUICK, processor[0]))()
    return [o for o in outcomes if (o.subject if isinstance(o, Reading) else o.what.partition(",")[0]) == subject]


FAKE_OPENSSL = f"""
case "$*" in
version) echo "OpenSSL 3.9.1 1 Jan 2026 (Library: OpenSSL 3.9.1 1 Jan 2026)";;
*-multi*) {printing(OPENSSL_MULTI)}
;;
*) {printing(OPENSSL)}
;;
esac"""


def test_openssl_on_one_core_and_on_all(programs: Path) -> None:
    make(programs, "openssl", FAKE_OPENSSL)
    found = readings_of("OpenSSL")
    assert len(found) == 2 * len(CORES)
    for reading, (algorithm, cores) in zip(found, [(a, n) for a in ALGORITHMS for n in CORES], strict=True):
        assert isinstance(reading, Reading)
        rate = 0.98438826667 if cores == 1 else 0.85532672
        assert (reading.algorithm, reading.quantity, reading.unit) == (algorithm, "throughput", "GB/s")
        assert [reading.median, reading.q1, reading.q3] == pytest.approx([rate] * 3)
        assert (reading.repeats, reading.source, reading.device_kind) == (2, "OpenSSL 3.9.1", "cpu")
        assert reading.how == f"{cores} process{'' if cores == 1 else 'es'}, 16KiB messages"
    speeds = [call for call in calls(programs, "openssl") if call != "version"]
    expected = "speed -mr -elapsed -seconds 1 -bytes 16384 -evp"
    assert speeds == [
        f"{expected} {algorithm}" + ("" if cores == 1 else f" -multi {cores}")
        for algorithm in ALGORITHMS
        for cores in CORES
        for _ in range(2)
    ]


@pytest.mark.covers("openssl")
def test_openssl_itself(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (programs / "openssl").unlink()
    monkeypatch.setattr(peers, "QUICK", replace(peers.QUICK, openssl_runs=1))
    monkeypatch.setattr(peers, "ALGORITHMS", {"sha384": ALGORITHMS["sha384"]})  # every run takes a second
    if shutil.which("openssl") is None:
        pytest.skip("OpenSSL: there is no program openssl on the path")
    found = readings_of("OpenSSL")
    rates = {(r.algorithm, r.workers): r.median for r in found if isinstance(r, Reading)}
    assert len(rates) == len(found) == len(CORES)
    assert all(0.001 < rate < 1000 for rate in rates.values())  # GB/s, not bytes or blocks


FAKE_HASHCAT = f"""
case "$*" in
--version) echo v6.2.6;;
-I) {printing(HASHCAT_INFO)}
;;
*) {printing(HASHCAT)}
exit 1;;
esac"""


def test_hashcat_on_each_of_its_devices(programs: Path) -> None:
    make(programs, "hashcat", FAKE_HASHCAT)
    found = [o for o in readings_of("hashcat") if isinstance(o, Reading)]
    assert [(r.algorithm, r.device, r.device_name, r.device_kind) for r in found] == [
        ("sha256", "1", "NVIDIA GeForce RTX 4080", "gpu"),
        ("sha256", "2", "NVIDIA H200", "gpu"),
        ("sha256", "3", "Intel(R) Xeon(R) Processor", "cpu"),
        ("sha384", "1", "NVIDIA GeForce RTX 4080", "gpu"),
    ]
    assert [r.median for r in found] == pytest.approx([655.36, 651.720326528, 657.57747776, 677.12])
    assert {(r.source, r.note, r.repeats) for r in found} == {("hashcat 6.2.6", peers.HASHCAT_NOTE, 2)}
    assert "3 devices at once" in found[0].conditions
    assert "at once" not in found[3].conditions
    assert calls(programs, "hashcat").count("--benchmark --machine-readable -m 1400") == 2
    assert calls(programs, "hashcat").count("--benchmark --machine-readable -m 10800") == 2


def test_hashcat_that_does_not_name_its_devices(programs: Path) -> None:
    make(programs, "hashcat", FAKE_HASHCAT.replace("-I)", "-I) exit 3;;\n-)"))
    named = [o.device_name for o in readings_of("hashcat") if isinstance(o, Reading)]
    assert named == [f"hashcat's device {number}" for number in (1, 2, 3, 1)]


# What goes wrong -----------------------------------------------------------------------------------------------------


def reasons(subject: str) -> set[str]:
    """Why each reading of a subject was skipped; there is no reading."""
    found = readings_of(subject)
    skips = [outcome.reason for outcome in found if isinstance(outcome, Skip)]
    assert len(found) == len(skips) >= 2
    return set(skips)


@pytest.mark.parametrize("name", ["OpenSSL", "hashcat", "coreutils"])
def test_a_missing_program_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = {"OpenSSL": {"openssl"}, "hashcat": {"hashcat"}, "coreutils": {"sha256sum", "sha384sum"}}[name]
    assert reasons(name) == {f"{program} is not installed" for program in missing}


@pytest.mark.parametrize("name", ["OpenSSL", "hashcat"])
def test_a_failing_program_is_skipped_with_what_it_said(programs: Path, name: str) -> None:
    make(programs, name.lower(), "echo on the output; echo 'No devices found/left.' >&2; exit 7")
    assert reasons(name) == {f"{name.lower()} failed with exit code 7: No devices found/left."}
    make(programs, name.lower(), "exit 255")
    assert reasons(name) == {f"{name.lower()} failed with exit code 255: no output"}


@pytest.mark.parametrize("name", ["OpenSSL", "hashcat"])
def test_a_program_without_a_rate_is_skipped(programs: Path, name: str) -> None:
    make(programs, name.lower(), "echo 1.2.3")
    assert all(f"{name.lower()} printed no " in reason for reason in reasons(name))


def test_a_program_that_cannot_be_started_is_skipped(programs: Path) -> None:
    (programs / "hashcat").write_bytes(b"\x7fELF, but not really")
    (programs / "hashcat").chmod(0o755)
    assert reasons("hashcat") == {"hashcat cannot be started: Exec format error"}


def test_a_hanging_program_is_killed_with_what_it_started(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "HASHCAT_SECONDS", 0.5)
    hang = f'[ "$1" = --version ] && echo v1 && exit\nsleep 600 &\necho $! >> {programs}/started\nwait'
    make(programs, "hashcat", hang)
    assert reasons("hashcat") == {"hashcat timed out after 0.5 s"}
    started = [int(line) for line in (programs / "started").read_text().split()]
    assert len(started) == 2
    for process in started:
        assert ended(process)


def ended(process: int) -> bool:
    """Whether a process is gone soon; one that nobody waits for stays as a zombie."""
    for _ in range(100):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_program_with_other_digests_is_not_measured(programs: Path) -> None:
    for name in ("sha256sum", "sha384sum"):
        make(programs, name, f'[ "$1" = --version ] && echo {name} 9 && exit\necho "0123  $1"')
    assert reasons("coreutils") == {
        f"the digests of {name} 9 differ from hashlib's, so it was not measured" for name in ("sha256sum", "sha384sum")
    }


def test_no_room_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "QUICK", replace(peers.QUICK, file_size=1 << 60))
    skips = [*readings_of("hashing one file"), *readings_of("hashing a folder")]
    assert [skip.reason for skip in skips if isinstance(skip, Skip)] == [
        "neither memory-backed storage nor the temporary folder has room for 1048576TiB"
    ] * 2


# Files ---------------------------------------------------------------------------------------------------------------


def measured(subject: str, algorithm: str = "sha256") -> list[Reading]:
    found = readings_of(subject)
    return [o for o in found if isinstance(o, Reading) and o.algorithm == algorithm]


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_hashlib_over_a_file(algorithm: str) -> None:
    (reading,) = measured("hashlib", algorithm)
    assert reading.q1 <= reading.median <= reading.q3
    assert (reading.device, reading.repeats) == ("1-thread", 2)
    assert reading.how.startswith("one file, 4MiB in ")


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_coreutils_over_a_file(algorithm: str, tmp_path: Path) -> None:
    try:
        program_output([f"{algorithm}sum", "--version"], 10)
    except PeerError as error:
        pytest.skip(f"coreutils: {error}")
    (reading,) = measured(f"{algorithm}sum", algorithm)
    assert reading.source.startswith(f"{algorithm}sum ")


@pytest.mark.covers("model-signing")
def test_model_signing_over_a_file_and_over_a_folder() -> None:
    try:
        model_signing_on(Path(), "sha256")
    except PeerError as error:
        pytest.skip(str(error))
    one, many = measured("model-signing")
    assert one.source == many.source
    assert one.source.startswith("model-signing 1.")
    assert one.how.startswith("one file, 4MiB in ")
    assert many.how.startswith("default threads, 32 files, 128KiB each in ")
    assert (one.device, many.device) == ("1-thread", kernel_class("hashlib").devices()[-1].id)
    assert [o.reason for o in readings_of("model-signing") if isinstance(o, Skip)] == [
        "model-signing does not support sha384"
    ]


@pytest.mark.covers("model-signing")
def test_model_signing_gives_the_digests_of_hashlib(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "a").write_bytes(b"a" * 3_000_001)
    (model / "b").write_bytes(b"")
    try:
        folder, file = (model_signing_on(path, "sha256") for path in (model, model / "a"))
    except PeerError as error:
        pytest.skip(str(error))
    a, b = (hashlib.sha256(data).hexdigest() for data in (b"a" * 3_000_001, b""))
    assert folder.digests() == {"a": a, "b": b}
    assert file.digests() == {".": a}


def test_model_signing_that_is_missing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'model_signing'")

    monkeypatch.setattr("hashbench.experiments.programs.import_module", missing)
    skips = [o for o in readings_of("model-signing") if isinstance(o, Skip)]
    assert {skip.reason for skip in skips if "sha256" in skip.what} == {
        "model-signing cannot be imported (No module named 'model_signing'): pip install 'hashbench[peers]'"
    }
    assert len(skips) == 3


# The experiment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_points_put_the_kernels_beside(kind: Any) -> None:
    device = Device(kernel="some", id="0", name="Some", kind=kind)
    points = list(peers.EXPERIMENT.points(device, quick=False))
    size = {"gpu": 8 << 30, "cpu": 128 << 20}[kind]
    assert {(p.algorithm, p.strategy, p.lengths, p.chunk_size, p.variant) for p in points} == {
        (a, s, (size,), 4096, None) for a in ALGORITHMS for s in STRATEGIES
    }
    assert len(points) == 4


def test_a_run_saves_each_reading(tmp_path: Path, programs: Path) -> None:
    make(programs, "openssl", FAKE_OPENSSL)
    experiment: Experiment = peers.EXPERIMENT
    file = READINGS.file(tmp_path / "peers.readings.csv")
    planned = plan(experiment, [], list(ALGORITHMS), quick=True)
    report = run(
        experiment, planned, experiment.readings([], quick=True), ROWS.file(tmp_path / "peers.csv"), file, "c0ffee"
    )
    assert report.failures == []
    assert READINGS.read(file.path) == report.readings
    assert {r.commit for r in report.readings} == {"c0ffee"}
    assert {"OpenSSL", "hashlib"} <= {r.subject for r in report.readings}


def made_up() -> Iterator[Reading]:
    """Readings of two runs, as they may stand in a file."""
    processor = Device(kernel="hashlib", id="1-thread", name="Some Xeon", kind="cpu")
    gpu = Device(kernel="hashcat", id="1", name="NVIDIA H200", kind="gpu")
    for day, size in (("02", "1GiB"), ("01", "256MiB")):
        for subject, files in (("hashlib", 1), ("model-signing", 1), ("model-signing", 32)):
            made = throughput(subject, "sha256", processor, [2e9], source="x 1", files=files, conditions=size)
            yield replace(made, date=f"2026-01-{day}")
    for algorithm, rate in (("sha256", 1045e9), ("sha384", 677e9)):
        rates = [0.99 * rate, rate, 1.02 * rate]
        yield throughput("hashcat", algorithm, gpu, rates, source="x", conditions="y", note=peers.HASHCAT_NOTE)


QUOTED, QUOTED_384 = "cuPQC-Hash, RTX PRO 6000", "cuPQC SHA-512, RTX PRO 6000"


def drawn(figures: list[Figure], rows: list[Any], readings: list[Reading]) -> Figure:
    """The figure that the experiment draws."""
    peers.EXPERIMENT.figure(Results.of(rows, readings), Path("peers"))
    return figures[-1]


def test_figure_tells_what_each_bar_is(figures: list[Figure]) -> None:
    rows = [row(kernel="cupy", strategy=s, algorithm=a) for a in ALGORITHMS for s in STRATEGIES]
    rows += [row(seconds=9, kernel="hashlib", device="1-thread", device_name="Some Xeon", device_kind="cpu")]
    figure = drawn(figures, rows, list(made_up()))
    labels = [[text.get_text() for text in panel.get_yticklabels()] for panel in figure.axes]
    assert set(labels[0]) == {
        "hashcat*, GPU",
        "cupy batched, GPU",
        "cupy tree, GPU",
        "hashlib tree, 1 thread",
        "hashlib, one file",
        "model-signing, one file",
        "model-signing, 32 files",
        QUOTED,
    }
    assert labels[0][-2:] == ["hashcat*, GPU", QUOTED]  # the fastest is the highest, but for quotes
    assert set(labels[1]) == {"hashcat*, GPU", "cupy batched, GPU", "cupy tree, GPU", QUOTED_384}
    assert all(panel.get_xscale() == "log" for panel in figure.axes)
    footnote = figure.legends[0].get_title().get_text()
    assert " ".join(footnote.split()) == f"* {peers.HASHCAT_NOTE}"
    hatched = [bar.get_hatch() is not None for bar in figure.axes[1].patches]
    assert sorted(hatched) == [False, False, True]
    check_legible(figure)


@pytest.mark.parametrize("part", [0, 1])
def test_rows_or_readings_alone_are_drawn(figures: list[Figure], part: int) -> None:
    figure = drawn(figures, [] if part else [row()], list(made_up()) if part else [])
    figure.draw_without_rendering()
    assert len(figure.axes) == 1 + part


def test_figure_names_devices_where_there_are_several(figures: list[Figure]) -> None:
    readings = [r for r in made_up() if (r.subject, r.algorithm) == ("hashcat", "sha256")]
    twins = [readings[0], replace(readings[0], device="2")]
    figure = drawn(figures, [row(device_name="NVIDIA L4")], twins)
    labels = {text.get_text() for text in figure.axes[0].get_yticklabels()}
    assert labels == {"opencl tree, NVIDIA L4", "hashcat*, NVIDIA H200 1", "hashcat*, NVIDIA H200 2", QUOTED}


def test_figures_table_holds_the_newest_of_each(tmp_path: Path) -> None:
    peers.EXPERIMENT.figure(Results.of(readings=list(made_up())), tmp_path / "peers")
    with (tmp_path / "peers.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if not line["quoted_gb_per_s"]]
    assert sorted(line["conditions"] for line in lines if line["program"] != "hashcat") == [
        "32 files, 1GiB",
        "one file, 1GiB",
        "one file, 1GiB",
    ]
    (hashcat,) = (line for line in lines if (line["program"], line["algorithm"]) == ("hashcat", "sha256"))
    assert [float(hashcat[name]) for name in ("q1", "gb_per_s", "q3")] == pytest.approx([1039.775, 1045, 1055.45])


def test_quotes_are_neither_drawn_nor_listed_as_measurements(figures: list[Figure]) -> None:
    figure = drawn(figures, [row()], [])
    (panel,) = figure.axes
    assert len(panel.patches) == 1
    (quote,) = (line for line in panel.lines if line.get_marker() == "D")
    assert np.array_equal(np.asarray(quote.get_xdata()), [672.0])
    assert "672 (quoted)" in {text.get_text() for text in panel.texts}


def test_quotes_have_a_column_of_their_own(tmp_path: Path) -> None:
    peers.EXPERIMENT.figure(Results.of([row()], []), tmp_path / "peers")
    with (tmp_path / "peers.csv").open() as file:
        (quote,) = (line for line in csv.DictReader(file) if line["quoted_gb_per_s"])
    assert (quote["quoted_gb_per_s"], quote["gb_per_s"], quote["q1"]) == ("672.0", "", "")
    assert "NVIDIA" in quote["source"]


def test_quotes_of_gpus_are_not_beside_processors(figures: list[Figure]) -> None:
    figure = drawn(figures, [row(device_kind="cpu", device="1-thread")], [])
    assert not any(line.get_marker() == "D" for line in figure.axes[0].lines)


def test_other_hash_functions_have_a_panel_of_their_own(figures: list[Figure]) -> None:
    processor = Device(kernel="hashlib", id="1-thread", name="Some Xeon", kind="cpu")
    other = throughput("BLAKE3", "", processor, [5e12], source="blake3 1", workers="1 thread", note="Not SHA-2.")
    figure = drawn(figures, [row()], [other])
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["SHA-256", peers.OTHER_FUNCTIONS]
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["BLAKE3*, 1 thread"]
    assert figure.get_suptitle().startswith("opencl tree on the GPU")  # though BLAKE3 is faster
    check_legible(figure)
    alone = drawn(figures, [], [other])
    assert len(alone.axes) == 1
