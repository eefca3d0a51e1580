"""The claims: which measurements make which verdict, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from claim_results import (
    MODELS,
    MachineResults,
    architectures,
    at,
    batched_vs_tree,
    cpu_speedup,
    digest_of,
    end_to_end,
    model_sizes,
    on_another_gpu,
    results_of,
    supporting,
    vendors,
)

from hashbench.bench.text_table import number
from hashbench.bench.vendors import OTHER, vendor_of
from hashbench.report.claims import CLAIMS, Claim
from hashbench.report.findings import Check, Finding, Verdict

JUDGED = [claim for claim in CLAIMS if claim.experiment]


def found(name: str, *machines: MachineResults, **others: MachineResults) -> Finding:
    """What these results of its experiment, and those of `others`, say of a claim."""
    (claim,) = (claim for claim in CLAIMS if claim.name == name)
    beside = {name: results_of([machine]) for name, machine in others.items()}
    return claim.finding({claim.experiment: results_of(machines)} | beside)


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


def test_there_are_nine_claims_and_an_experiment_for_each() -> None:
    assert [claim.name for claim in CLAIMS] == [f"C{i}" for i in range(1, 10)]
    assert [claim.name for claim in JUDGED] == [claim.name for claim in CLAIMS]
    assert len({claim.experiment for claim in JUDGED}) == len(JUDGED)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_what_nothing_was_measured_for_is_not_measured(claim: Claim) -> None:
    finding = claim.finding({})
    assert finding.verdict is Verdict.NOT_MEASURED
    assert finding.table is None
    assert finding.machines == ()


@pytest.mark.parametrize("claim", JUDGED, ids=lambda claim: claim.name)
def test_what_passes_every_check_is_supported(claim: Claim) -> None:
    finding = claim.finding({name: results_of(machines) for name, machines in supporting().items()})
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
        finding = claim.finding({claim.experiment: results_of(machines)})
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


def test_the_gpu_that_scales_worst_decides() -> None:
    good = MachineResults("m", model_sizes({"llama-3.1-8b": 900, "llama-3.1-70b": 900}), [])
    slow = on_another_gpu(MachineResults("", model_sizes({"llama-3.1-8b": 90, "llama-3.1-70b": 120}), []))
    for machines in ((good, slow), (slow, good)):
        finding = found("C1", *machines)
        assert passed(finding)[:2] == [False, False]
        assert "1.18 s for llama-3.1-70b, 141 GB, by opencl on NVIDIA H100" in answers(finding)
        assert "(-25.0%), by opencl on NVIDIA H100" in answers(finding)
        assert finding.table is not None
        assert {line[-1] for line in finding.table.lines} == {"opencl on NVIDIA H200", "opencl on NVIDIA H100"}


def test_a_gpu_too_small_for_a_large_model_does_not_decide_over_it() -> None:
    good = MachineResults("m", model_sizes({"llama-3.1-8b": 900, "llama-3.1-70b": 900}), [])
    small = on_another_gpu(MachineResults("", model_sizes({"llama-3.1-8b": 90}), []), "NVIDIA L4")
    assert passed(found("C1", small, good))[:2] == [True, True]


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
    faster = replace(machine.readings[0], subject="hashlib", workers="processes", median=100.0)
    slow_model = at(500, MODELS["llama-3.1-8b"], experiment="cpu-speedup", model="llama-3.1-8b")
    twin = at(50, MODELS["llama-3.1-8b"], experiment="cpu-speedup", model="llama-3.1-8b", kernel="numba-cuda")
    finding = found("C2", MachineResults("m", [*machine.rows, slow_model, twin], [slower, *machine.readings, faster]))
    assert passed(finding)[:2] == [True, False]
    assert "500 times at least: llama-3.1-8b" in answers(finding)
    assert "5 times at least: llama-3.1-8b by opencl on NVIDIA H200, against hashlib, processes" in answers(finding)


def test_the_gpus_time_is_the_walls_too() -> None:
    machine = cpu_speedup(200, 1, 18)
    gpu, hashlib = machine.rows
    late = replace(gpu, wall_seconds_median=2 * gpu.seconds_median)
    finding = found("C2", MachineResults("m", [late, hashlib], machine.readings))
    assert passed(finding)[:2] == [True, False]
    assert "100 times at least: bert-base" in answers(finding)


def test_programs_that_other_experiments_measured_on_the_machine_are_rivals() -> None:
    machine = cpu_speedup(200, 1, 18)
    openssl = replace(machine.readings[0], experiment="peers", conditions="16KiB messages", median=21.5)
    elsewhere = replace(openssl, median=90.0)
    hashlib = at(1.25, 1 << 27, experiment="throughput", kernel="hashlib", device="1-thread", device_kind="cpu")
    finding = found(
        "C2",
        machine,
        peers=MachineResults(machine.name, [], [openssl]),
        throughput=MachineResults(machine.name, [hashlib], []),
        vendors=MachineResults("another", [], [elsewhere]),
    )
    assert passed(finding)[:2] == [True, False]
    assert "9.3 times at least: bert-base by opencl on NVIDIA H200, against OpenSSL, 16 processes, 16KiB" in answers(
        finding
    )
    assert "160 times at least: bert-base by opencl on NVIDIA H200, against hashlib, 1-thread, tree of 128MiB" in (
        answers(finding)
    )


def test_this_packages_kernels_on_the_processor_are_rivals() -> None:
    machine = cpu_speedup(200, 1, 18)
    common: dict[str, Any] = {"experiment": "cpu-speedup", "model": "bert-base", "device_kind": "cpu"}
    nbytes = MODELS["bert-base"]
    all_cores = at(25, nbytes, **common, kernel="numba-cpu", device="16-threads")
    one_core = at(2.5, nbytes, **common, kernel="numba-cpu", device="1-thread")
    digests = at(40, nbytes, **common | {"strategy": "batched"}, kernel="numba-cpu", device="16-threads")
    finding = found("C2", MachineResults("m", [*machine.rows, all_cores, one_core, digests], machine.readings))
    assert passed(finding)[:2] == [True, False]
    assert "80 times at least: bert-base by opencl on NVIDIA H200, against numba-cpu, 1-thread" in answers(finding)
    assert "8 times at least: bert-base by opencl on NVIDIA H200, against numba-cpu, 16-threads" in answers(finding)


def test_a_gpu_beside_a_faster_one_in_a_machine_counts() -> None:
    machine = cpu_speedup(900, 1, 18)
    slow = replace(cpu_speedup(9, 1, 18).rows[0], device_name="NVIDIA T4")
    finding = found("C2", MachineResults("m", [*machine.rows, slow], machine.readings))
    assert passed(finding)[:2] == [False, False]
    assert "9 times at least: bert-base by opencl on NVIDIA T4" in answers(finding)


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


def test_the_best_tree_is_set_against_the_best_batched_too() -> None:
    finding = found("C3", MachineResults("m", batched_vs_tree({4096: (960.0, 900.0), 16384: (940.0, 920.0)}), []))
    assert "+2.2% at 16KiB" in answers(finding)
    assert "The best of each: +4.3% over 960 GB/s batched at 4KiB." in answers(finding)


def test_the_gpu_whose_tree_costs_most_decides() -> None:
    cheap = MachineResults("m", batched_vs_tree({4096: (960.0, 950.0)}), [])
    dear = on_another_gpu(MachineResults("", batched_vs_tree({4096: (500.0, 400.0)}), []))
    for machines in ((cheap, dear), (dear, cheap)):
        finding = found("C3", *machines)
        assert passed(finding) == [False, None]
        assert "+25.0% at 4KiB: 400 GB/s as a tree, 500 GB/s batched, by opencl on NVIDIA H100" in answers(finding)
        assert finding.table is not None
        assert len(finding.table.lines) == 2


@pytest.mark.parametrize(("tree", "answer"), [(1019.0, True), (1025.0, None)])
def test_a_tree_that_is_faster_than_its_chunks_is_no_answer(tree: float, answer: bool | None) -> None:
    fast = MachineResults("m", batched_vs_tree({4096: (1000.0, tree)}), [])
    others = on_another_gpu(MachineResults("", batched_vs_tree({4096: (1000.0, 990.0)}), []))
    finding = found("C3", others, fast)
    assert passed(finding) == [answer, None]
    assert ("A tree cannot take less: one of the two numbers is wrong." in answers(finding)) is (answer is None)


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


def test_digests_that_differ_in_another_experiment_are_told() -> None:
    machine = vendors("NVIDIA H200", ("cupy", "opencl"))
    first, second = (replace(row, experiment="throughput") for row in machine.rows)
    wrong = replace(second, digest=digest_of("sha256", "aa"))
    assert passed(found("C4", machine, throughput=MachineResults("m", [first, second], [])))[0] is True
    finding = found("C4", machine, throughput=MachineResults("m", [first, wrong], []))
    assert passed(finding)[0] is False
    assert "2 inputs, 4 digests" in answers(finding)


def test_digests_of_one_kernel_on_two_machines_that_differ_are_told() -> None:
    machines = (vendors("NVIDIA H200", ("cupy",)), vendors("NVIDIA H200", ("cupy",), "aa"))
    assert passed(found("C4", machines[0], replace(machines[1], name="another")))[0] is False
    assert passed(found("C4", machines[0], replace(machines[0], name="another")))[0] is None


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
    finding = found("C5", architectures(950, 1000), on_another_gpu(architectures(500, 1000)))
    assert passed(finding)[0] is False
    assert "50.0% at least, by opencl on NVIDIA H100" in answers(finding)


@pytest.mark.parametrize(("speed", "answer"), [(1019.0, True), (1021.0, None)])
def test_a_gpu_above_its_limit_is_no_answer(speed: float, answer: bool | None) -> None:
    finding = found("C5", architectures(950, 1000), on_another_gpu(architectures(speed, 1000)))
    assert passed(finding) == [answer, None]
    told = "102.1% by opencl on NVIDIA H100. A limit cannot be passed: one of the two numbers is wrong."
    assert (told in answers(finding)) is (answer is None)


# C6 ------------------------------------------------------------------------------------------------------------------


def test_each_of_the_other_ways_is_compared_with_in_place() -> None:
    assert passed(found("C6", end_to_end(0.005, 0.4, 0.5))) == [True, True]
    finding = found("C6", end_to_end(0.005, 0.4, 0.049))
    assert passed(finding) == [True, False]
    assert "10.20% at most" in answers(finding)


def test_the_fastest_of_the_other_ways_counts() -> None:
    machine = end_to_end(0.005, 0.4, 0.5)
    (from_file,) = (r for r in machine.readings if r.subject == "file to verdict")
    faster = replace(from_file, memory="overlapped", median=0.04)
    finding = found("C6", MachineResults("m", [], [*machine.readings, faster]))
    assert passed(finding) == [False, True]
    assert "12.50% at most: bert-base, 0.005 s in place and 0.04 s file to verdict (memory, overlapped)" in answers(
        finding
    )


def test_a_way_back_through_page_locked_memory_counts_once_it_is_measured() -> None:
    machine = end_to_end(0.005, 0.4, 0.5)
    back = next(r for r in machine.readings if r.subject == "copied back")
    pageable = replace(back, workers="hashlib in 16 processes", storage="", memory="pageable")
    others = [r for r in machine.readings if r != back]
    finding = found("C6", MachineResults("m", [], [*others, pageable]))
    assert passed(finding) == [True, True]
    assert finding.checks[1].answer.endswith(" Measured through pageable memory.")
    locked = replace(pageable, memory="page-locked", median=0.04)
    finding = found("C6", MachineResults("m", [], [*others, pageable, locked]))
    assert passed(finding) == [True, False]
    assert "0.04 s copied back (hashlib in 16 processes, page-locked)" in answers(finding)
    assert finding.checks[1].answer.endswith(" Measured through page-locked and pageable memory.")


@pytest.mark.parametrize("change", [{"model": "gpt-2"}, {"kernel": "opencl"}])
def test_other_models_and_kernels_are_not_compared_with_in_place(change: dict[str, Any]) -> None:
    machine = end_to_end(0.005, 0.4, 0.5)
    apart = [r if r.subject == "in place" else replace(r, **change) for r in machine.readings]
    assert found("C6", MachineResults("m", [], apart)).verdict is Verdict.NOT_MEASURED
