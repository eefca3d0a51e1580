"""Triton's device code without a GPU: run by its interpreter, compiled for GPUs, and executed by AMD's emulator."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from amd_emulator import AmdEmulated, CodeObject
from apart import run_apart
from boundaries import painted, split_mix_64
from build_cache import cached_text
from folding import check_fold
from host_memory import HostMemoryKernel
from kernel_sources import kernel_sources
from reference import check
from triton_programs import EMULATED, programs

from hashbench.kernels import ALGORITHMS, STRATEGIES, Buffer, Device, layout, triton_gpu
from hashbench.kernels.device_kernel import Launch
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.triton_gpu import TritonGpu, call_of, compiled, program, round_constants
from hashbench.limits import amd_assembly, disassembly

pytest.importorskip("triton", reason="Triton is not installed: install hashbench[triton]")


def interpreted(*arguments: str) -> str:
    """The output of the interpreter."""
    return run_apart("interpret_triton.py", *arguments, TRITON_INTERPRET="1")


@pytest.mark.covers("triton-interpreter")
@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        ("sha256", []),
        pytest.param("sha256", ["--thorough"], marks=pytest.mark.thorough),
        pytest.param("sha384", ["--thorough"], marks=pytest.mark.thorough),
    ],
)
def test_device_code_on_the_host(algorithm: str, form: list[str]) -> None:
    sources = kernel_sources("interpret_triton.py", "boundaries.py", "folding.py", "host_memory.py", "reference.py")
    key: list[str | bytes] = [sys.version, version("triton"), algorithm, *form, *sources]
    output = cached_text("interpreted", *key, make=lambda: interpreted(algorithm, *form))
    digests, _, outcome = output.strip().partition(" ")
    assert outcome == "digests are right"
    assert int(digests) > 25


@pytest.mark.covers("triton-compile")
def test_functions_are_parsed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    parsing, parsed = threading.Lock(), []

    def parse(source: Any, *_: Any) -> None:
        assert parsing.acquire(blocking=False), "two threads parse"
        time.sleep(0.002)
        parsed.append(source.name)
        parsing.release()

    def compile_source(source: Any, **_: Any) -> None:
        source.hash()
        source.make_ir("target")

    for method in ("hash", "make_ir"):
        monkeypatch.setattr(triton.compiler.ASTSource, method, parse)
    monkeypatch.setattr(triton, "compile", compile_source)
    names = list(compiled(ALGORITHMS["sha256"], GPUTarget("cuda", 90, 32)))
    assert sorted(parsed) == sorted(2 * names)


# Its launches --------------------------------------------------------------------------------------------------------


class OnAnH100(HostMemoryKernel, TritonGpu):
    """What `TritonGpu` would be on an H100, without one: it keeps the launches of a call instead of running them."""

    def __init__(self, algorithm: str) -> None:
        self.kept: list[Launch] = []
        super().__init__(Device(self.name, "0", vendor="NVIDIA"), algorithm)

    def launch(self, launches: Sequence[Launch], queue: None) -> Callable[[], float]:
        self.kept += launches
        return lambda: 0.0

    def series(self, launches: Sequence[Launch]) -> Callable[[None], Callable[[], float]]:
        self.kept += launches
        return super(TritonGpu, self).series(launches)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_launch_is_of_a_function_that_is_compiled(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from triton.backends.compiler import GPUTarget

    target = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    gpu = SimpleNamespace(
        __name__="torch.cuda",
        Stream=lambda **_: None,
        device=nullcontext,
        get_device_properties=lambda _: SimpleNamespace(multi_processor_count=132),
    )
    monkeypatch.setattr("triton.runtime.driver", SimpleNamespace(active=target))
    monkeypatch.setattr(triton_gpu, "_gpu_module", lambda: gpu)
    signatures = program(ALGORITHMS[algorithm], "cuda", 90).SIGNATURES
    loaded = SimpleNamespace(_init_handles=lambda: None)
    monkeypatch.setattr(triton_gpu, "compiled", lambda *_: dict.fromkeys(signatures, loaded))
    kernel = OnAnH100(algorithm)
    size = kernel.algorithm.digest_size
    constants = kernel.put(round_constants(kernel.algorithm))

    def segments(count: int, nbytes: int) -> list[Buffer]:
        return [Buffer(None, nbytes * i, nbytes) for i in range(count)]  # nothing reads them

    for chunks in (1, 300, 20_000, 200_000):  # paired, early, and neither
        for strategy in STRATEGIES:
            kernel.prepare(strategy, segments(2, 16_384 * chunks), 16_384)
        kernel.prepare_fold(segments(2, size * chunks))
    kernel.random(9, 0)
    for launch in kernel.kept:
        name, arguments = call_of(launch, constants)
        assert len(arguments) == len(signatures[name]), launch.function
    assert {call_of(launch, constants)[0] for launch in kernel.kept} == set(signatures)
    assert {"hash_level", "reduce_tiles"} < {launch.function for launch in kernel.kept}


# Intel's GPUs ---------------------------------------------------------------------------------------------------------


def on_intel(**gpu: Any) -> Any:
    """What a kernel has of PyTorch there, with that of torch.xpu."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kernel = TritonGpu.__new__(TritonGpu)
    kernel.place, kernel.gpu = torch.device("xpu", 0), SimpleNamespace(**gpu)
    return kernel


def test_the_free_memory_of_a_gpu_that_does_not_tell_it_is_what_this_process_leaves() -> None:
    def untold(device: Any) -> Any:
        raise RuntimeError("The device doesn't support querying the available free memory.")

    total = SimpleNamespace(total_memory=1000)
    gpu = {
        "memory_allocated": lambda _: 300,
        "memory_reserved": lambda _: 400,
        "get_device_properties": lambda _: total,
    }
    assert on_intel(mem_get_info=lambda _: (500, 1000), **gpu).free_memory() == 500 + 400 - 300
    kernel = on_intel(mem_get_info=untold, **gpu)
    assert kernel.free_memory() == 1000 - 300
    kernel.place = kernel.place.__class__("cuda", 0)
    with pytest.raises(RuntimeError, match="querying"):  # an error of CUDA's is none of these
        kernel.free_memory()


def test_a_handle_is_no_stream_of_an_intel_gpu() -> None:
    kernel = on_intel(Stream=SimpleNamespace)
    stream = SimpleNamespace()
    assert kernel.queue_for(stream) is stream
    with pytest.raises(TypeError, match=r"int is not accepted as a stream: it must be a torch\.xpu\.Stream"):
        kernel.queue_for(1)


# Why there is no device ----------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(triton_gpu, "_is_for_cpus", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    (device,) = triton_gpu.TritonGpu.devices()
    assert device.unavailable == "PyTorch sees no GPU"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    (device,) = triton_gpu.TritonGpu.devices()
    assert device.unavailable == "Triton runs its interpreter: unset TRITON_INTERPRET"


# Compiled for GPUs ---------------------------------------------------------------------------------------------------

NVIDIA = {
    "sha256": ("sm_80", "sm_90", "sm_100", "sm_120", "sm_121"),
    "sha384": ("sm_80", "sm_90", "sm_100", "sm_120", "sm_121"),
}

REGISTERS = {
    "sha256": {"hash_chunks": 72, "hash_chunks_early": 96, "hash_chunks_paired": 168},
    "sha384": {"hash_chunks": 128, "hash_chunks_early": 168, "hash_chunks_paired": 168},
}
"""The most registers: with these, as many groups fit on a multiprocessor as of CUDA C's."""

SHARED_BYTES = 48 << 10
"""The most shared memory of a group unless CUDA is asked for more, as Triton does for what it takes itself."""

INSTRUCTIONS_ON_SM_90 = {"sha256": 1_660, "sha384": 5_000}
"""The most instructions of a block; CUDA C has 1,651 and 4,882."""

AMD = {
    "sha256": {"gfx942": 1_650, "gfx950": 1_650, "gfx1100": 1_480},
    "sha384": {"gfx942": 4_040, "gfx950": 4_040, "gfx1100": 4_810},
}
"""The most vector instructions of a block."""

FOUR_WAVES = 128
"""Registers with which four waves fit on a SIMD of CDNA."""


def cases(bounds: Mapping[str, Iterable[str]], short: str) -> list[object]:
    """Every algorithm for every architecture; the short form has one."""
    return [
        pytest.param(
            algorithm, architecture, marks=[] if f"{algorithm} {architecture}" == short else [pytest.mark.thorough]
        )
        for algorithm, architectures in bounds.items()
        for architecture in architectures
    ]


@pytest.mark.covers("triton-compile")
@pytest.mark.parametrize(("algorithm", "architecture"), cases(NVIDIA, "sha384 sm_90"))
def test_machine_code_of_nvidia(algorithm: str, architecture: str) -> None:
    for name, found in programs(algorithm, architecture).items():
        usage = resources(found.code)
        assert (usage["STACK"], usage["LOCAL"]) == (0, 0), f"{name} spills registers"
        assert usage["REG"] <= REGISTERS[algorithm].get(name, 128), name
        assert usage["SHARED"] + found.shared_bytes <= SHARED_BYTES, name
    if architecture == "sm_90":
        code = programs(algorithm, architecture)["hash_chunks"].code
        function = disassembly.parse(disassembly.disassemble(code), "hash_chunks")
        counted = disassembly.count_block(function, ALGORITHMS[algorithm])
        assert counted.total <= INSTRUCTIONS_ON_SM_90[algorithm]


def resources(cubin: bytes) -> dict[str, int]:
    """What a kernel takes of a multiprocessor, as Triton's copy of cuobjdump tells it."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", told)}


@pytest.mark.thorough
@pytest.mark.covers("triton-compile")
@pytest.mark.parametrize(("algorithm", "architecture"), cases(AMD, ""))
def test_machine_code_of_amd(algorithm: str, architecture: str) -> None:
    for name, found in programs(algorithm, architecture).items():
        usage = amd_assembly.resources(found.assembly, name)
        assert usage.scratch_bytes == 0, f"{name} spills registers"
        assert usage.registers <= FOUR_WAVES or not architecture.startswith("gfx9"), name
    assembly = programs(algorithm, architecture)["hash_chunks"].assembly
    counted = amd_assembly.count_block(amd_assembly.parse(assembly, "hash_chunks"), ALGORITHMS[algorithm])
    assert amd_assembly.by_unit(counted)["VALU"] <= AMD[algorithm][architecture]


# Executed by an emulator ---------------------------------------------------------------------------------------------

C_TYPES = {"u32": ctypes.c_uint32, "u64": ctypes.c_uint64}


class Emulated(HostMemoryKernel):
    """The launches of `TritonGpu`, of machine code for one of AMD's architectures."""

    name = "triton"
    tabled = True

    def __init__(self, algorithm: str, architecture: str) -> None:
        super().__init__(Device(self.name), algorithm)
        self._signatures = program(self.algorithm, "hip", 0).SIGNATURES
        self._programs = programs(algorithm, architecture)
        self._objects = {name: CodeObject(found.code, architecture) for name, found in self._programs.items()}
        self._constants = self.put(round_constants(self.algorithm))

    @classmethod
    def devices(cls) -> list[Device]:
        return [Device(cls.name)]

    def launch(self, launches: Sequence[Launch], queue: None) -> Callable[[], float]:
        for launch in launches:
            name, arguments = call_of(launch, self._constants)
            typed = [C_TYPES[kind](one) for one, kind in zip(arguments, self._signatures[name], strict=True)]
            shared = self._programs[name].shared_bytes
            self._objects[name].launch(name, launch.groups, GROUP_SIZE, typed, shared)
        return lambda: 0.0


SEGMENTS = [
    *(slice(start, start + length) for start, length in ((0, 384), (16, 4 * 192 + 55), (64, 3 * 192 + 120))),
    *(slice(start, start + length) for start, length in ((1, 199), (2, 206), (3, 213), (8, 0), (9, 1), (11, 111))),
]
"""For chunks of 192 bytes: full and aligned ones, tails, an empty one, and others at any address."""


@pytest.mark.thorough
@pytest.mark.covers("triton-emulated")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("architecture", EMULATED)
def test_machine_code_of_amd_is_executed(algorithm: str, architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = next(device.unavailable for device in AmdEmulated.devices() if device.id == architecture)
    if missing is not None:
        pytest.skip(missing)
    kernel = Emulated(algorithm, architecture)
    content = painted(2000)
    buffer, messages = kernel.put(content), [content[part].tobytes() for part in SEGMENTS]
    for strategy in STRATEGIES:
        check(kernel, strategy, [buffer[part] for part in SEGMENTS], messages, 192)
    aligned = painted(GROUP_SIZE * 256)
    check(kernel, "batched", [kernel.put(aligned)], [aligned.tobytes()], 256)

    leaves = painted(301 * 64)  # two tiles of a tree
    check(kernel, "tree", [kernel.put(leaves)], [leaves.tobytes()], 64)
    monkeypatch.setattr(layout, "MANY_TILES", 1)  # a launch per level
    check(kernel, "tree", [kernel.put(leaves)], [leaves.tobytes()], 64)

    check_fold(kernel, [(1, 1), (3, 1), (20, 3), (257, 0), (2, 16)])

    assert kernel.get(kernel.random(1001, 3)).tobytes() == split_mix_64(126, 3)[:1001].tobytes()
