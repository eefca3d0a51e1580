"""The vendors experiment: what it measures where, and that digests which differ are told in red and by an error."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from claim_results import MachineResults, results_of
from drawings import check_legible
from matplotlib.figure import Figure
from matplotlib.text import Text
from rows import row

from hashbench.bench.experiment import Point
from hashbench.bench.results import Row
from hashbench.experiments import vendors
from hashbench.experiments.vendors import COLUMNS, COMMON_SIZE, EXPERIMENT, SHAPES, SIZE, WRONG
from hashbench.hashing.verification_error import VerificationError
from hashbench.kernels import ALGORITHMS, Device

H200 = Device("cupy", "0", "NVIDIA H200", "NVIDIA", "gpu")
XEON = Device("dpnp", "opencl:cpu:0", "Intel(R) Xeon(R) Processor", "Intel(R) Corporation", "cpu")
EPYC = Device("opencl", "0:0", "AMD EPYC 9B14", "AMD", "cpu")
REFERENCE = Device("hashlib", "1-thread", "Intel(R) Xeon(R) Processor", "host", "cpu")
DEVICES = (H200, XEON, EPYC, REFERENCE)


def points(device: Device, *, quick: bool) -> list[Point]:
    found = EXPERIMENT.points(device, quick=quick)
    return [point for point in found if isinstance(point, Point)]


def digest_of(point: Point) -> str:
    """Another for each input and way to hash it, and the same on every device."""
    what = (point.strategy, point.nbytes, point.chunk_size)
    return hashlib.new(point.algorithm, repr(what).encode()).hexdigest()


def rows_of(device: Device, gb_per_s: float) -> list[Row]:
    return [
        row(
            1e-9 * point.nbytes / gb_per_s,
            experiment="vendors",
            kernel=device.kernel,
            device=device.id,
            device_name=device.name,
            device_kind=device.kind,
            strategy=point.strategy,
            algorithm=point.algorithm,
            bytes=point.nbytes,
            chunk_size=point.chunk_size,
            digest=digest_of(point),
        )
        for point in points(device, quick=False)
    ]


def machines(*changed: Row) -> list[MachineResults]:
    """Two machines, one of which has `changed` in place of rows of the same points."""
    found = {one.point: one for one in (*rows_of(H200, 900), *rows_of(REFERENCE, 1.2))}
    found |= {one.point: one for one in changed}
    return [
        MachineResults("a-gpu", list(found.values()), []),
        MachineResults("b-cpus", [*rows_of(XEON, 5), *rows_of(EPYC, 6)], []),
    ]


def table(path: Path) -> list[dict[str, str]]:
    """The tables of the figures of all algorithms."""
    found = []
    for algorithm in ALGORITHMS:
        with path.with_name(f"{path.name}_{algorithm}.csv").open() as text:
            lines = csv.DictReader(text)
            assert lines.fieldnames == COLUMNS
            of_algorithm = list(lines)
        assert {line["algorithm"] for line in of_algorithm} == {algorithm}
        found += of_algorithm
    return found


def wrong_row() -> Row:
    """A row of the GPU whose digest is not that of the others."""
    right = next(one for one in rows_of(H200, 900) if one.bytes == COMMON_SIZE and one.strategy == "tree")
    return replace(right, digest="0f" * 32)


@pytest.mark.parametrize("quick", [True, False])
def test_all_devices_have_inputs_in_common_for_every_algorithm_and_strategy(quick: bool) -> None:
    inputs = [
        {(p.algorithm, p.strategy, p.nbytes, p.chunk_size) for p in points(device, quick=quick)} for device in DEVICES
    ]
    common = set.intersection(*inputs)
    expected = {(a, strategy, COMMON_SIZE, 4096) for a in ALGORITHMS for strategy in ("batched", "tree")}
    assert common == expected == inputs[DEVICES.index(REFERENCE)]


def test_a_device_hashes_as_much_as_keeps_it_busy() -> None:
    for device in (H200, XEON):
        own = [p for p in points(device, quick=False) if p.nbytes != COMMON_SIZE]
        assert {p.nbytes for p in own} == {SIZE[device.kind or "cpu"]}
        assert [(p.strategy, p.chunk_size) for p in own] == list(SHAPES) * len(ALGORITHMS)
        short = [p for p in points(device, quick=True) if p.nbytes != COMMON_SIZE]
        assert {p.chunk_size for p in short} == {4096}
        assert {p.variant for p in own} == {None}


def test_equal_digests_are_said_to_be_equal(tmp_path: Path) -> None:
    written = EXPERIMENT.overview(results_of(machines()), tmp_path / "vendors")
    assert [path.suffix for path in written] == [".png", ".pdf", ".svg", ".csv"] * len(ALGORITHMS)
    lines = table(tmp_path / "vendors")
    assert len(lines) == sum(len(machine.rows) for machine in machines())
    common = [line for line in lines if line["bytes"] == str(COMMON_SIZE)]
    assert {line["digests_are_equal"] for line in common} == {"yes"}
    assert {line["rows_of_this_input"] for line in common} == {str(len(DEVICES))}
    assert {line["digests_are_equal"] for line in lines if line["bytes"] == str(SIZE["gpu"])} == {""}
    assert {(line["machine"], line["vendor"]) for line in lines} == {
        ("a-gpu", "NVIDIA"),
        ("a-gpu", "Intel"),
        ("b-cpus", "Intel"),
        ("b-cpus", "AMD"),
    }


def test_digests_that_differ_are_drawn_and_then_an_error(tmp_path: Path) -> None:
    path = tmp_path / "vendors"
    with pytest.raises(VerificationError, match=r"sha256 tree, 67,108,864 bytes .* differ: .*0f0f"):
        EXPERIMENT.overview(results_of(machines(wrong_row())), path)
    differing = [line for line in table(path) if line["digests_are_equal"] == "no"]
    assert {line["kernel"] for line in differing} == {"cupy", "hashlib", "dpnp", "opencl"}
    assert [line["kernel"] for line in differing if line["digest"] == "0f" * 32] == ["cupy"]


def words(drawn: Sequence[MachineResults], figures: list[Figure]) -> dict[str, str]:
    """What a figure says, and in which colour."""
    EXPERIMENT.figure(results_of(drawn), Path("vendors"))
    texts = [text for text in figures[0].findobj(Text) if isinstance(text, Text)]
    return {text.get_text(): str(text.get_color()) for text in texts}


def test_the_figure_says_so_in_red(figures: list[Figure]) -> None:
    everything = [one for machine in machines(wrong_row()) for one in machine.rows]
    said = words([MachineResults("all", everything, [])], figures)
    red = {text for text, colour in said.items() if colour == WRONG}
    assert any("WRONG: the digests of 1 of" in text for text in red)
    marked = {text for text in said if text.endswith("DIFFER")}
    assert marked == {"1 of 5\nDIFFER", "1 of 2\nDIFFER"} <= red  # the GPU's own input is compared with none


def test_where_all_is_well_nothing_is_red(figures: list[Figure]) -> None:
    everything = [one for machine in machines() for one in machine.rows]
    said = words([MachineResults("all", everything, [])], figures)
    check_legible(figures[0])
    assert not any(colour == WRONG or "DIFFER" in text for text, colour in said.items())
    assert any("equal everywhere" in text for text in said)
    assert "2 equal" in said


def test_machines_with_the_same_device_are_told_apart() -> None:
    twins = [MachineResults(name, rows_of(XEON, 5), []) for name in ("one", "two")]
    both, one = (vendors._groups(vendors._lanes(results_of(shown).rows)) for shown in (twins, twins[:1]))
    assert both == {f"{XEON.name} (one)": 1, f"{XEON.name} (two)": 1}
    assert one == {XEON.name: 1}
