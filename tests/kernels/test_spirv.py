"""The programs that ship compiled: made from the present text, the same again from the recipe, right at every size."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import intel_programs
import pytest
from dpnp_spirv import DpnpSpirv

from hashbench.kernels import ALGORITHMS, Device, Unavailable, dpnp_sycl, opencl_drivers, spirv, spirv_recipe
from hashbench.kernels.contract import Algorithm, Strategy
from hashbench.kernels.dpnp_sycl import DpnpSycl, from_spirv
from hashbench.kernels.source import functions
from hashbench.limits import intel_assembly
from hashbench.limits.machine_code import FUNCTION
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)


@each_algorithm
def test_what_ships_was_made_from_the_present_text(algorithm: Algorithm) -> None:
    recorded = spirv.record(algorithm)
    assert recorded.text == spirv.digest(spirv.text(algorithm).encode())
    assert recorded.program == spirv.digest(spirv.program(algorithm))


@each_algorithm
def test_what_was_made_from_another_text_is_not_used(algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spirv, "device_source", lambda *_: "another text")
    with pytest.raises(Unavailable, match=rf"{algorithm.name}\.spv\.xz was not made from .*: run `make spirv`"):
        spirv.program(algorithm)


# The recipe


@pytest.fixture
def _recipe() -> None:
    try:
        spirv_recipe.clang()
    except spirv_recipe.CompilerMissing as error:
        pytest.skip(str(error))


@pytest.mark.covers("spirv-recipe")
@pytest.mark.usefixtures("_recipe")
@each_algorithm
def test_the_recipe_makes_what_ships(algorithm: Algorithm) -> None:
    assert spirv_recipe.compiled(algorithm) == spirv.program(algorithm)


@pytest.mark.covers("spirv-recipe")
@pytest.mark.usefixtures("_recipe")
@pytest.mark.parametrize(
    "algorithm", [ALGORITHMS["sha256"], pytest.param(ALGORITHMS["sha384"], marks=pytest.mark.thorough)], ids=ALGORITHMS
)
def test_a_sub_group_size_is_added_as_the_compiler_adds_it(algorithm: Algorithm) -> None:
    assert spirv_recipe.compiled(algorithm, "-DSUB_GROUP_SIZE=16") == spirv.program(algorithm, 16)


def test_another_compiler_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spirv_recipe, "version", lambda _: "0.1")
    with pytest.raises(spirv_recipe.CompilerMissing, match=r"ziglang .* is needed, and here is 0\.1:"):
        spirv_recipe.clang()


# Sub-groups


def instructions(module: bytes) -> Iterator[tuple[int, ...]]:
    words = struct.unpack(f"<{len(module) // 4}I", module)
    at = 5
    while at < len(words):
        yield words[at : at + (words[at] >> 16)]
        at += words[at] >> 16
    assert at == len(words)


@each_algorithm
def test_every_kernel_gets_the_sub_group_size_and_nothing_else_changes(algorithm: Algorithm) -> None:
    before, after = (list(instructions(spirv.program(algorithm, size))) for size in (None, 32))
    kernels = [operands[1] for operation, *operands in before if operation & 0xFFFF == 15]
    assert len(kernels) == len(functions(algorithm, "plain"))
    added = [(2 << 16 | 17, 58), *((4 << 16 | 16, kernel, 35, 32) for kernel in kernels)]
    assert [one for one in after if one in added] == added
    assert [one for one in after if one not in added] == before


@pytest.mark.thorough
@pytest.mark.xdist_group("dpnp-spirv")
@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_cpu_hashes_right_with_every_sub_group_size_of_gpus(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DpnpSpirv, "program", lambda self: from_spirv(self.device.id, self.algorithm, size))
    message = bytes(range(256)) * 500
    chunks = chunks_of(message, 1024)
    for device in DpnpSpirv.devices():
        if device.unavailable is not None:
            pytest.skip(f"dpnp: {device.unavailable}")
        kernel = DpnpSpirv(device)
        assert {function.compile_sub_group_size for function in kernel._functions.values()} == {size}
        results: dict[Strategy, list[bytes]] = {
            "batched": [hashlib.sha256(chunk).digest() for chunk in chunks],
            "tree": [merkle_tree_hash(chunks, "sha256")],
        }
        for strategy, expected in results.items():
            work = kernel.prepare(strategy, [kernel.put(message)], 1024)
            work.run()
            assert list(map(bytes, work.digests())) == expected


@pytest.mark.thorough
@pytest.mark.covers("intel-spirv")
@pytest.mark.parametrize("target", intel_assembly.LANES)
@each_algorithm
def test_intels_compiler_for_gpus_takes_the_program_and_has_room_in_the_registers(
    algorithm: Algorithm, target: str
) -> None:
    try:
        size = intel_assembly.LANES[target]
        options = dpnp_sycl.level_zero_options(algorithm, [size]).split()
        listings = intel_assembly.compile_program(spirv.program(algorithm, size), target, options)
    except Unavailable as error:
        pytest.skip(str(error))
    assert listings.keys() >= set(functions(algorithm, "plain"))
    function = intel_assembly.parse(listings[FUNCTION], FUNCTION, target)
    intel_programs.held(intel_assembly.count_block(function, algorithm), algorithm.name, target)


# Devices that are not here


def device(backend: str, kind: str = "gpu", **other: Any) -> Any:
    """What dpctl tells of a device."""
    return SimpleNamespace(
        backend=SimpleNamespace(name=backend),
        filter_string=f"{backend}:{kind}:0",
        name=" Data Center GPU ",
        vendor="Intel(R) Corporation",
        is_gpu=kind == "gpu",
        sycl_platform=SimpleNamespace(name="Level-Zero"),
        driver_version="1.6",
        has_aspect_usm_device_allocations=True,
        **other,
    )


def listed(monkeypatch: pytest.MonkeyPatch, *devices: Any) -> list[Any]:
    loaded = opencl_drivers.Loaded(SimpleNamespace(get_devices=lambda: list(devices)), [])
    monkeypatch.setattr(dpnp_sycl, "_load", lambda: loaded)
    return DpnpSycl.devices()


def test_level_zero_goes_first_and_no_gpu_is_called_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    found = listed(monkeypatch, *map(device, ("opencl", "cuda", "level_zero")), device("opencl", "cpu"))
    assert [one.id for one in found] == ["level_zero:gpu:0", "opencl:gpu:0", "opencl:cpu:0"]
    assert [one.remark for one in found] == ["not yet run on a GPU"] * 2 + [""]
    assert {one.unavailable for one in found} == {None}


def test_backends_that_take_no_such_program_are_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = listed(monkeypatch, device("cuda"), device("hip"))
    assert str(found.unavailable).startswith("SYCL finds no device of Level Zero or OpenCL: ")


def test_level_zero_gets_the_smallest_sub_group_and_whole_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    gpu = device("level_zero", sub_group_sizes=[32, 16])
    queue = SimpleNamespace(backend=gpu.backend, sycl_device=gpu)
    program = SimpleNamespace(create_program_from_spirv=lambda *arguments: built.append(arguments))
    module = SimpleNamespace(SyclQueue=lambda _: queue, program=program)
    monkeypatch.setattr(dpnp_sycl, "_load", lambda: opencl_drivers.Loaded(module, []))
    algorithm = ALGORITHMS["sha384"]
    kernel: Any = SimpleNamespace(queue=queue, device=SimpleNamespace(id="a GPU"), algorithm=algorithm)
    DpnpSycl.program(kernel)
    options = "-ze-opt-large-register-file -ze-opt-greater-than-4GB-buffer-required"
    assert built == [(queue, spirv.program(algorithm, 16), options)]


def test_opencl_gets_the_same_of_intels_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpnp_sycl, "_compiled", lambda device_id, source, options: options)
    options = "-DSUB_GROUP_SIZE=8 -cl-intel-greater-than-4GB-buffer-required"
    gpu, cpu, other = (
        Device("dpnp", vendor="Intel", kind="gpu"),
        Device("dpnp", vendor="Intel", kind="cpu"),
        Device("dpnp", vendor="another", kind="gpu"),
    )
    for its_device, expected in ((gpu, options), (cpu, ""), (other, "")):
        queue = SimpleNamespace(
            backend=SimpleNamespace(name="opencl"), sycl_device=device("opencl", sub_group_sizes=[8])
        )
        kernel: Any = SimpleNamespace(queue=queue, device=its_device, algorithm=ALGORITHMS["sha256"])
        assert DpnpSycl.program(kernel) == expected
