"""The ablation experiment: every step of the device code is measured, and the figure tells what each gained."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from drawings import check_legible, said
from matplotlib.figure import Figure
from rows import row

from hashbench.bench.frames import Results
from hashbench.bench.results import Row
from hashbench.experiments import ablation, style
from hashbench.experiments.ablation import CHUNK_SIZES, EXPERIMENT, STEPS, UNCHANGED
from hashbench.kernels import ALGORITHMS, KERNELS, Device, kernel_class
from hashbench.kernels.source import VARIANTS, device_source

GiB = 1 << 30
GPU = Device("cupy", "0", "NVIDIA H200", "NVIDIA", "gpu", "cupy 14", "CUDA 13.0")

_EARLIER = ("bytewise", "unrolled", "plain", "balanced", "prefetched", "paired")
_LATER = ("rotated", "early", "held", "queued", "reordered", "tabled", "sliced")
FASTER = {**dict(zip(_EARLIER, (1.0, 4.0, 5.0, 6.0, 6.15, 6.15), strict=True)), **dict.fromkeys(_LATER, 6.765)}
"""Throughputs, made up, over that of the first step."""


# Points --------------------------------------------------------------------------------------------------------------


def test_the_steps_are_the_variants_of_the_device_code_the_fastest_last() -> None:
    assert list(STEPS) == list(VARIANTS)[::-1]


def preprocessed(algorithm: str, variant: str) -> str:
    """The device code that a CUDA compiler for an H200 sees."""
    command = ["g++", "-E", "-P", "-x", "c++", "-D__CUDACC__", "-D__CUDA_ARCH__=900", "-"]
    source = device_source(ALGORITHMS[algorithm], variant)
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_a_step_is_left_out_where_its_code_is_that_of_another(algorithm: str) -> None:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to preprocess the device code")
    codes: dict[str, str] = {}
    repeated = {}
    for variant in STEPS:
        code = preprocessed(algorithm, variant)
        if code in codes:
            repeated[algorithm, variant] = codes[code]
        codes.setdefault(code, variant)
    assert repeated == {key: same for key, same in UNCHANGED.items() if key[0] == algorithm}


@pytest.mark.parametrize(("quick", "chunk_sizes"), [(False, CHUNK_SIZES), (True, (CHUNK_SIZES[0], CHUNK_SIZES[-1]))])
def test_every_variant_is_measured_on_a_gpu(quick: bool, chunk_sizes: tuple[int, ...]) -> None:
    assert chunk_sizes[0] == 4 << 10
    assert chunk_sizes[-1] == 1 << 20
    points = list(EXPERIMENT.points(GPU, quick=quick))
    assert {(p.device, p.strategy, p.lengths) for p in points} == {(GPU, "batched", (8 * GiB,))}
    assert Counter((p.algorithm, p.variant, p.chunk_size) for p in points) == Counter(
        (algorithm, variant, chunk_size)
        for algorithm in ALGORITHMS
        for variant in kernel_class("cupy").variants
        for chunk_size in chunk_sizes
        if (algorithm, variant) not in UNCHANGED
    )


def test_a_variant_is_built_once_for_all_its_chunk_sizes() -> None:
    built = [(p.algorithm, p.variant) for p in EXPERIMENT.points(GPU, quick=False)]
    changes = [here for before, here in zip([None, *built], built, strict=False) if here != before]
    assert len(changes) == len(set(built))


@pytest.mark.parametrize("name", list(KERNELS))
def test_no_kernel_lacks_the_code_that_another_step_repeats(name: str) -> None:
    """Where a kernel has no "unrolled", SHA-256's "plain" is its first step."""
    variants = [variant for variant in kernel_class(name).variants if variant in STEPS]
    points = list(EXPERIMENT.points(replace(GPU, kernel=name), quick=True))
    measured = {(p.algorithm, p.variant) for p in points}
    if len(variants) < 2:
        assert measured == set()
        return
    for algorithm in ALGORITHMS:
        for variant in variants:
            same = UNCHANGED.get((algorithm, variant), "")
            assert ((algorithm, variant) in measured) != ((algorithm, same) in measured)


def test_nothing_is_measured_on_a_cpu() -> None:
    assert list(EXPERIMENT.points(replace(GPU, kernel="opencl", kind="cpu"), quick=False)) == []


# The figure ----------------------------------------------------------------------------------------------------------


def made_up(kernel: str = "cupy", variants: Any = tuple(STEPS), **changes: Any) -> list[Row]:
    """What a full run gives, at 100 GB/s times `FASTER` and with SHA-384 half as fast."""
    nbytes = changes.pop("bytes", 8 * GiB)
    return [
        row(
            1e-9 * nbytes / (100 * FASTER[variant] / (2 if algorithm == "sha384" else 1)),
            **{"device": "0", "bytes": nbytes, "chunk_size": chunk_size, **changes},
            kernel=kernel,
            variant=variant,
            algorithm=algorithm,
            strategy="batched",
        )
        for algorithm in ALGORITHMS
        for variant in variants
        for chunk_size in CHUNK_SIZES
        if UNCHANGED.get((algorithm, variant)) not in variants
    ]


def drawn(monkeypatch: pytest.MonkeyPatch, rows: list[Row]) -> tuple[dict[str, Figure], list[dict[Any, Any]]]:
    """The figures of `rows` by their names, and the lines of their tables."""
    kept: dict[str, Figure] = {}
    lines: list[dict[Any, Any]] = []

    def keep(figure: Figure, path: Path, table: pd.DataFrame) -> list[Path]:
        kept[path.name] = figure
        lines.extend(table.to_dict("records"))
        return []

    monkeypatch.setattr(style, "save", keep)
    EXPERIMENT.figure(Results.of(rows), Path("ablation"))
    return kept, lines


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_a_full_run_draws_a_figure_an_algorithm_and_a_group_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    figures, lines = drawn(monkeypatch, made_up())
    assert list(figures) == ["ablation_sha256", "ablation_sha384"]
    for figure, title, same in zip(figures.values(), ("SHA-256", "SHA-384"), (2, 3), strict=True):
        (panel,) = figure.axes
        assert panel.get_title(loc="left") == title
        assert len(panel.patches) == 4 * (len(STEPS) - same)
        assert [label.get_text().partition(":")[0] for label in panel.get_yticklabels()] == list(STEPS)
        sizes = [text.get_text() for text in figure.legends[0].get_texts()]
        assert sizes == [f"{size} chunks" for size in ("4KiB", "64KiB", "512KiB", "1MiB")]
        assert "cupy, batched, 8GiB, NVIDIA H200" in said(figure)
    assert Counter(texts(figures["ablation_sha384"])) == Counter(
        dict.fromkeys(("50", "200 (+300 %)", "250 (+25 %)", "300 (+20 %)", "308 (+2.5 %)", "308 (+0.0 %)"), 4)
        | {"338 (+10 %)": 4, "338 (+0.0 %)": 12}
        | {f"the code of {step}": 1 for step in ("early", "queued", "tabled")}
    )
    assert "the code of unrolled" in texts(figures["ablation_sha256"])
    before = ("", "bytewise", "unrolled", "balanced", "prefetched", "paired", "early", "held", "queued", "reordered")
    sha256 = [line["step_before"] for line in lines if line["algorithm"] == "sha256"]
    assert Counter(sha256) == dict.fromkeys((*before, "tabled"), 4)
    (balanced,) = (
        line
        for line in lines
        if (line["algorithm"], line["variant"], line["chunk_size"]) == ("sha256", "balanced", 4096)
    )
    assert float(balanced["gain_percent"]) == pytest.approx(50)
    assert float(balanced["gb_per_s_q1"]) < balanced["gb_per_s"] < float(balanced["gb_per_s_q3"])


def test_it_is_legible(monkeypatch: pytest.MonkeyPatch) -> None:
    for figure in drawn(monkeypatch, made_up())[0].values():
        check_legible(figure)


def test_the_kernel_with_the_most_variants_is_drawn_and_the_table_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    few = made_up("aaa", variants=("plain", "balanced"))
    figures, lines = drawn(monkeypatch, few + made_up())
    assert all("cupy, " in said(figure) for figure in figures.values())
    assert {line["kernel"] for line in lines} == {"aaa", "cupy"}
    assert len(lines) == len(few) + len(made_up())
    (first, second) = (
        line for line in lines if (line["kernel"], line["algorithm"], line["chunk_size"]) == ("aaa", "sha256", 4096)
    )
    assert (first["step_before"], first["gain_percent"]) == ("", "")
    assert second["step_before"] == "plain"
    assert float(second["gain_percent"]) == pytest.approx(20)


def test_of_several_devices_one_is_drawn_whatever_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    twins = [*made_up(), *made_up(device="1"), *made_up(device="2", device_name="NVIDIA L4")]
    for rows in (twins, twins[::-1]):
        figures, lines = drawn(monkeypatch, rows)
        assert all("NVIDIA H200" in said(figure) for figure in figures.values())
        assert len(figures["ablation_sha384"].axes[0].patches) == 4 * (len(STEPS) - 3)
        assert {line["device"] for line in lines} == {"0", "1", "2"}


def test_of_several_inputs_the_one_with_the_most_rows_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = made_up(bytes=4 * GiB, variants=("prefetched", "paired"))
    for rows, nbytes in ((smaller + made_up(), "8GiB"), (smaller, "4GiB")):
        assert all(nbytes in said(figure) for figure in drawn(monkeypatch, rows)[0].values())


def test_a_gain_is_over_the_step_before_or_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [r for r in made_up() if r.algorithm == "sha384" and (r.variant, r.chunk_size) != ("balanced", 4096)]
    figures, lines = drawn(monkeypatch, rows)
    (figure,) = figures.values()
    gains = {line["chunk_size"]: line["gain_percent"] for line in lines if line["variant"] == "prefetched"}
    assert gains == {4096: "", 64 << 10: "2.50", 512 << 10: "2.50", 1 << 20: "2.50"}
    assert Counter(texts(figure))["308"] == 1


def test_only_some_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_sha256(rows: list[Row]) -> list[str]:
        return texts(drawn(monkeypatch, rows)[0]["ablation_sha256"])

    assert Counter(of_sha256(made_up(variants=("plain", "paired")))) == Counter({"500": 4, "615 (+23 %)": 4})
    assert of_sha256(made_up(variants=("paired",))[:1]) == ["615"]
    both = [*made_up(variants=("bytewise", "unrolled")), *made_up(variants=("plain",))]  # "plain" was measured too
    assert "the code of unrolled" not in of_sha256(both)


def test_eight_chunk_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [replace(r, chunk_size=64 << i) for r in made_up(variants=("plain", "paired")) for i in range(8)]
    for figure in drawn(monkeypatch, rows)[0].values():
        assert len(figure.legends[0].get_texts()) == 8


def test_rows_of_variants_that_are_no_more_are_not_drawn(tmp_path: Path) -> None:
    old = [replace(r, variant="renamed") for r in made_up(variants=("plain",))]
    assert EXPERIMENT.figure(Results.of(old), tmp_path / "ablation") == []
    written = EXPERIMENT.figure(Results.of(old + made_up()), tmp_path / "ablation")
    tables = [path.read_text().splitlines() for path in written if path.suffix == ".csv"]
    assert {line["variant"] for table in tables for line in csv.DictReader(table)} == set(STEPS)


@pytest.mark.parametrize(
    ("percent", "text"),
    [(0, "+0.0"), (-0.04, "+0.0"), (-0.3, "-0.3"), (1.84, "+1.8"), (9.96, "+10"), (22.1, "+22"), (1100.4, "+1100")],
)
def test_gains_are_short(percent: float, text: str) -> None:
    assert ablation._signed(percent) == text
