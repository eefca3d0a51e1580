"""The claims: which measurements make which verdict, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from claim_results import (
    MODELS,
    architectures,
    at,
    batched_vs_tree,
    cpu_speedup,
    digest_of,
    end_to_end,
    model_sizes,
    supporting,
    vendors,
)

from hashbench.claims import CLAIMS, Claim
from hashbench.experiment import MachineResults
from hashbench.findings import Check, Finding, Verdict, number
from hashbench.vendors import OTHER, vendor_of

JUDGED = [claim for claim in CLAIMS if claim.experiment]


def found(name: str, *machines: MachineResults) -> Finding:
    """What these results of its experiment say of a claim."""
    (claim,) = (claim for claim in CLAIMS if claim.name == name)
    return claim.finding({claim.experiment: machines})


def passed(finding: Finding) -> list[bool | None]:
    return [check.passed for check in finding.checks]


def answers(finding: Finding) -> str:
    return " ".join(check.answer for check in finding.checks)


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([True, True], Verdict.SUPPORTED),
        ([True, False], Verdict.IN_PART),
        ([True, None], Verdict.IN_PART),
        ([False, False], Verdict.NOT_SUPPORTED),
        ([False, None], Verdict.NOT_SUPPORTED),
        ([None, None], Verdict.NOT_MEASURED),
    ],
)
def test_a_verdict_is_what_the_checks_come_to(checks: list[bool | None], verdict: Verdict) -> None:
    assert Finding(tuple(Check("", "", answer) for answer in checks)).verdict is verdict


def test_there_are_eight_claims_and_an_experiment_for_six() -> None:
    assert [claim.name for claim in CLAIMS] == [f"C{i}" for i in range(1, 9)]
    assert [claim.name for claim in JUDGED] == [f"C{i}" for i in range(1, 7)]
    assert len({claim.experiment for claim in JUDGED}) == len(JUDGED)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_nothing_was_measured_for_is_not_measured(claim: Claim) -> None:
    finding = claim.finding({})
    assert finding.verdict is Verdict.NOT_MEASURED
    assert finding.table is None
    assert finding.machines == ()


@pytest.mark.parametrize("claim", JUDGED, ids=lambda claim: claim.name)
def test_what_passes_every_check_is_supported(claim: Claim) -> None:
    finding = claim.finding(supporting())
    assert finding.verdict is Verdict.SUPPORTED, answers(finding)
    assert finding.machines
    assert finding.table is not None
    assert all(len(line) == len(finding.table.columns) for line in finding.table.lines)
    assert finding.table.numeric <= set(finding.table.columns)


def test_results_of_cpus_alone_say_nothing_of_gpus() -> None:
    for claim in JUDGED:
        machines = [
            MachineResults(
                machine.name,
                [replace(row, device_kind="cpu") for row in machine.rows],
                [replace(reading, device_kind="cpu") for reading in machine.readings],
            )
            for machine in supporting()[claim.experiment]
        ]
        finding = claim.finding({claim.experiment: machines})
        if claim.name == "C4":  # equal digests are equal on any device
            assert passed(finding) == [True, None, None]
        else:
            assert finding.verdict is Verdict.NOT_MEASURED, claim.name


# C1 ------------------------------------------------------------------------------------------------------------------


def c1(speeds: dict[str, float]) -> list[bool | None]:
    """The checks of SHA-256."""
    return passed(found("C1", MachineResults("m", model_sizes(speeds), [])))[:2]


def test_a_model_over_100_gb_counts_and_a_smaller_one_does_not() -> None:
    assert c1({"bert-base": 700, "llama-3.1-70b": 900})[0] is True
    assert c1({"bert-base": 700, "llama-3.1-8b": 900})[0] is None


def test_near_real_time_is_by_the_walls_clock() -> None:
    (row,) = model_sizes({"llama-3.1-70b": 900})
    late = MachineResults("m", [replace(row, wall_seconds_median=1.01)], [])
    assert passed(found("C1", late))[0] is False
    assert "1.01 s for llama-3.1-70b, 141 GB" in answers(found("C1", late))


@pytest.mark.parametrize(("of_8b", "scales"), [(811, True), (989, True), (809, False), (991, False)])
def test_throughput_keeps_within_a_tenth_of_the_largest(of_8b: float, scales: bool) -> None:
    assert c1({"llama-3.1-8b": of_8b, "llama-3.1-70b": 900})[1] is scales


def test_models_too_small_to_fill_a_gpu_do_not_count() -> None:
    assert c1({"bert-base": 1, "llama-3.1-8b": 900, "llama-3.1-70b": 900})[1] is True
    assert c1({"bert-base": 900, "llama-3.1-70b": 900})[1] is None


def test_the_lane_with_the_largest_model_and_the_most_models_counts() -> None:
    rows = [
        *model_sizes({"llama-3.1-8b": 880, "llama-3.1-70b": 900}),
        *model_sizes({"llama-3.1-70b": 950}, chunk_size=16384),
        *model_sizes({"bert-base": 1500, "llama-3.1-8b": 990}, kernel="cupy"),
    ]
    finding = found("C1", MachineResults("m", rows, []))
    assert passed(finding)[:2] == [True, True]
    assert finding.table is not None
    assert [line[1] for line in finding.table.lines] == ["llama-3.1-8b", "llama-3.1-70b"]


# C2 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "one_core", "all_cores", "expected"),
    [(180, 1, 18, [True, True]), (179, 1, 18, [True, False]), (9, 1, 18, [False, False])],
)
def test_an_order_of_magnitude_is_ten_times(
    gpu: float, one_core: float, all_cores: float, expected: list[bool]
) -> None:
    finding = found("C2", cpu_speedup(gpu, one_core, all_cores))
    assert passed(finding) == [*expected, None, None]
    assert f"{number(gpu / all_cores)} times at least: bert-base" in answers(finding)


def test_the_fastest_program_and_the_slowest_model_count() -> None:
    machine = cpu_speedup(900, 1, 18)
    slower = replace(machine.readings[0], subject="model-signing", median=6.0)
    faster = replace(machine.readings[0], subject="hashlib", conditions="processes", median=100.0)
    slow_model = at(500, MODELS["llama-3.1-8b"], experiment="cpu-speedup", model="llama-3.1-8b")
    twin = at(50, MODELS["llama-3.1-8b"], experiment="cpu-speedup", model="llama-3.1-8b", kernel="numba-cuda")
    finding = found("C2", MachineResults("m", [*machine.rows, slow_model, twin], [slower, *machine.readings, faster]))
    assert passed(finding)[:2] == [True, False]
    assert "500 times at least: llama-3.1-8b" in answers(finding)
    assert "5 times at least: llama-3.1-8b by opencl on NVIDIA H200, against hashlib, processes" in answers(finding)


def test_programs_of_another_machine_are_no_rivals() -> None:
    machine = cpu_speedup(900, 1, 18)
    gpu, *others = machine.rows
    apart = (MachineResults("a", [gpu], []), MachineResults("b", others, machine.readings))
    assert found("C2", *apart).verdict is Verdict.NOT_MEASURED


# C3 ------------------------------------------------------------------------------------------------------------------


def test_the_cost_of_the_tree_is_that_at_its_best_chunk_size() -> None:
    speeds = {1024: (950.0, 800.0), 16384: (960.0, 955.0), 65536: (930.0, 929.0)}
    finding = found("C3", MachineResults("m", batched_vs_tree(speeds), []))
    assert passed(finding) == [True, None]
    assert "+0.5% at 16KiB: 955 GB/s as a tree, 960 GB/s batched" in answers(finding)
    dear = found("C3", MachineResults("m", batched_vs_tree({4096: (950.0, 900.0), 16384: (900.0, 890.0)}), []))
    assert passed(dear) == [False, None]


def test_a_tree_without_its_batched_twin_is_no_pair() -> None:
    rows = batched_vs_tree({4096: (950.0, 940.0)})
    apart = [rows[0], replace(rows[1], kernel="cupy")]
    assert found("C3", MachineResults("m", apart, [])).verdict is Verdict.NOT_MEASURED


# C4 ------------------------------------------------------------------------------------------------------------------


def test_one_vendors_gpus_support_it_in_part() -> None:
    finding = found("C4", vendors("NVIDIA H200", ("cupy", "opencl")))
    assert passed(finding) == [True, True, False]
    assert finding.verdict is Verdict.IN_PART


def test_digests_that_differ_are_told() -> None:
    machines = vendors("NVIDIA H200", ("cupy", "opencl")), vendors("AMD EPYC 9654", ("opencl",), "aa", "cpu")
    finding = found("C4", *machines)
    assert passed(finding)[0] is False
    assert "1 inputs have digests that differ" in answers(finding)
    assert finding.table is not None
    assert {line[finding.table.columns.index("digests")] for line in finding.table.lines} == {"differ"}


def test_a_device_whose_inputs_nobody_else_hashed_is_not_compared() -> None:
    machines = [vendors("NVIDIA H200", ("cupy", "opencl")), vendors("AMD Instinct MI300X", ("opencl",))]
    machines[1] = replace(machines[1], rows=[replace(row, bytes=4096) for row in machines[1].rows])
    table = found("C4", *machines).table
    assert table is not None
    column = table.columns.index("digests")
    assert [(line[0], line[column]) for line in table.lines] == [
        ("AMD Instinct MI300X", "not compared"),
        ("NVIDIA H200", "equal"),
    ]


def test_other_inputs_may_have_other_digests() -> None:
    machine = vendors("NVIDIA H200", ("cupy", "opencl"))
    other = replace(machine.rows[0], bytes=4096, digest=digest_of("sha256", "aa"))
    carried = replace(machine.rows[0], kernel="numba-cuda", digest="")
    assert passed(found("C4", MachineResults("m", [*machine.rows, other, carried], [])))[0] is True


@pytest.mark.parametrize(
    ("name", "vendor"),
    [
        ("NVIDIA GeForce RTX 4090", "NVIDIA"),
        ("AMD Instinct MI300X", "AMD"),
        ("gfx942:sramecc+:xnack-", "AMD"),
        ("Intel(R) Data Center GPU Max 1550", "Intel"),
        ("cpu-skylake-avx512-Intel(R) Xeon(R) Processor", "Intel"),
        ("AMD EPYC 9654 96-Core Processor", "AMD"),
        ("Neoverse-V2", "Arm"),
        ("llvmpipe", OTHER),
    ],
)
def test_a_vendor_is_told_by_the_devices_name(name: str, vendor: str) -> None:
    assert vendor_of(name) == vendor


# C5 ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("speed", "well"), [(901, True), (899, False)])
def test_the_share_is_of_the_same_gpus_limit(speed: float, well: bool) -> None:
    assert passed(found("C5", architectures(speed, 1000))) == [well, None]
    machine = architectures(speed, 1000)
    other = [replace(limit, device_name="NVIDIA H100") for limit in machine.readings]
    assert found("C5", MachineResults("m", machine.rows, other)).verdict is Verdict.NOT_MEASURED


def test_the_gpu_with_the_lowest_share_counts() -> None:
    slow = architectures(500, 1000)
    h100 = MachineResults(
        "h100",
        [replace(row, device_name="NVIDIA H100") for row in slow.rows],
        [replace(limit, device_name="NVIDIA H100") for limit in slow.readings],
    )
    finding = found("C5", architectures(950, 1000), h100)
    assert passed(finding)[0] is False
    assert "50.0% at least, by opencl on NVIDIA H100" in answers(finding)


# C6 ------------------------------------------------------------------------------------------------------------------


def test_each_of_the_other_ways_is_compared_with_in_place() -> None:
    assert passed(found("C6", end_to_end(0.005, 0.4, 0.5))) == [True, True]
    finding = found("C6", end_to_end(0.005, 0.4, 0.049))
    assert passed(finding) == [True, False]
    assert "10.20% at most" in answers(finding)


def test_the_fastest_of_the_other_ways_counts() -> None:
    machine = end_to_end(0.005, 0.4, 0.5)
    (from_file,) = (r for r in machine.readings if r.subject == "file to verdict")
    faster = replace(from_file, conditions="cupy, bert-base, memory, overlapped", median=0.04)
    finding = found("C6", MachineResults("m", [], [*machine.readings, faster]))
    assert passed(finding) == [False, True]
    assert "12.50% at most: bert-base, 0.005 s in place and 0.04 s file to verdict (memory, overlapped)" in answers(
        finding
    )


@pytest.mark.parametrize("conditions", ["cupy, gpt-2, memory", "opencl, bert-base, memory"])
def test_other_models_and_kernels_are_not_compared_with_in_place(conditions: str) -> None:
    machine = end_to_end(0.005, 0.4, 0.5)
    apart = [r if r.subject == "in place" else replace(r, conditions=conditions) for r in machine.readings]
    assert found("C6", MachineResults("m", [], apart)).verdict is Verdict.NOT_MEASURED


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(1021.4, "1,021"), (99.96, "100"), (0.15312, "0.153"), (100, "100"), (9.999, "10")]
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text
