"""The compression of `numba-cpu` in every width, its choice by what a processor has, and its parts for threads."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boundaries import painted

from hashbench.kernels import ALGORITHMS, Kernel, kernel_class, numba_cpu
from hashbench.kernels.fips180 import constants
from hashbench.kernels.numba_cpu import NumbaCpu, method_of
from hashbench.kernels.numba_programs import cached
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash

llvmlite = pytest.importorskip("llvmlite", reason="Numba is not installed")

from llvmlite import binding, ir  # noqa: E402

from hashbench.kernels import sha2_llvm  # noqa: E402
from hashbench.kernels.sha2_llvm import Method  # noqa: E402

pytestmark = pytest.mark.xdist_group("numba-cpu")

BLOCKS = 3

X86 = {"ssse3", "sse4.1"}
AVX512 = {*X86, "avx2", "avx512f", "avx512bw"}


def assembled(algorithm: str, method: Method) -> Any:
    """A module that has the compression as a function others may call."""
    module = ir.Module()
    sha2_llvm.define_compression(module, ALGORITHMS[algorithm], method).linkage = "external"
    return module


def host() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=1)


def messages(algorithm: str, method: Method) -> Any:
    """BLOCKS - 1 blocks a lane and one of padding: uint8, shape (lanes, bytes)."""
    size = ALGORITHMS[algorithm].block_size
    found = painted(method.lanes * BLOCKS * size).reshape(method.lanes, -1).copy()
    found[:, -size:] = 0
    found[:, -size] = 0x80
    found[:, -8:] = np.frombuffer(((BLOCKS - 1) * size * 8).to_bytes(8, "big"), np.uint8)
    return found


def initial_states(algorithm: str, method: Method) -> Any:
    sha = constants(algorithm)
    states = np.zeros(8 * method.lanes, f"u{sha.word_bits // 8}")
    for lane in range(method.lanes):
        for place, word in zip(method.places, sha.initial, strict=True):
            states[place + lane * method.lane_stride] = word
    return states


def check_states(algorithm: str, method: Method, states: Any, active: int) -> None:
    """Checks the digests of the first `active` lanes against hashlib."""
    found = messages(algorithm, method)
    for lane in range(active):
        words = [states[place + lane * method.lane_stride] for place in method.places]
        digest = np.array(words).astype(f">u{states.itemsize}").tobytes()[: ALGORITHMS[algorithm].digest_size]
        message = found[lane, : -ALGORITHMS[algorithm].block_size].tobytes()
        assert digest == hashlib.new(algorithm, message).digest(), f"lane {lane} of {active}"


def check_on_host(algorithm: str, method: Method) -> None:
    machine = host()
    compiled = binding.parse_assembly(str(assembled(algorithm, method)))
    (name,) = (f.name for f in compiled.functions if f.name.endswith(f".{method.name}.{method.lanes}"))
    engine = binding.create_mcjit_compiler(compiled, machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(engine.get_function_address(name))
    data = messages(algorithm, method)
    places = np.array([row.ctypes.data for row in data], np.int64)
    for active in range(1, method.lanes + 1):
        states = initial_states(algorithm, method)
        function(active, states.ctypes.data, places.ctypes.data, BLOCKS)
        check_states(algorithm, method, states, active)


@pytest.mark.parametrize(
    ("algorithm", "lanes"),
    [
        *(("sha256", 4), ("sha256", 16), ("sha384", 2), ("sha384", 8)),
        *(pytest.param(*case, marks=pytest.mark.thorough) for case in (("sha256", 8), ("sha384", 4))),
    ],
)
def test_vectors_of_every_width(algorithm: str, lanes: int) -> None:
    """LLVM makes vectors that a processor lacks of narrower ones, so all widths run on all."""
    check_on_host(algorithm, sha2_llvm.vectors(lanes))


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_scalar(algorithm: str) -> None:
    check_on_host(algorithm, sha2_llvm.scalar())


@pytest.mark.parametrize(("instructions", "zen5"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_avx512(algorithm: str, instructions: bool, zen5: bool) -> None:
    """Every number of messages, of which few are left to the SHA instructions or to plain code."""
    features = binding.get_host_cpu_features()
    if not features.get("avx512f") or (instructions and not features.get("sha")):
        pytest.skip("this processor has no AVX-512, or no SHA instructions beside it")
    check_on_host(algorithm, sha2_llvm.avx512(ALGORITHMS[algorithm], instructions=instructions, zen5=zen5))


@pytest.mark.parametrize("widths", [(1,), (1, 2), (3,), (1, 2, 4)], ids=str)
def test_sha_instructions_of_x86(widths: tuple[int, ...]) -> None:
    if not binding.get_host_cpu_features().get("sha"):
        pytest.skip("this processor has no x86 SHA instructions")
    check_on_host("sha256", sha2_llvm.x86_sha(*widths))


def for_arm(algorithm: str) -> Any:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    return target.create_target_machine(cpu="generic", features=ARM_FEATURES[algorithm], reloc="static")


ARM_FEATURES = {"sha256": "+neon,+sha2", "sha384": "+neon,+sha2,+sha3"}
ARM_METHODS = [
    sha2_llvm.armv8_sha(1, 2, 4),
    *(pytest.param(method, marks=pytest.mark.thorough) for method in (sha2_llvm.scalar(), sha2_llvm.vectors(4))),
]


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_armv8_compiles_to_its_instructions(algorithm: str) -> None:
    compiled = binding.parse_assembly(str(assembled(algorithm, sha2_llvm.armv8_sha(1, 2))))
    used = set(for_arm(algorithm).emit_assembly(compiled).split())
    size = 256 if algorithm == "sha256" else 512
    assert used.issuperset(f"sha{size}{name}" for name in ("h", "h2", "su0", "su1"))


def arm_program(algorithm: str, method: Method, active: int) -> str:
    """The assembly of a program that compresses `messages` and writes the states to standard output."""
    compiled = binding.parse_assembly(str(assembled(algorithm, method)))
    (name,) = (f.name for f in compiled.functions if f.name.endswith(f".{method.name}.{method.lanes}"))
    data, states = messages(algorithm, method), initial_states(algorithm, method).tobytes()
    return f"""
        {for_arm(algorithm).emit_assembly(compiled)}
        .text
        .globl _start
_start: mov x0, #{active}
        ldr x1, =states
        ldr x2, =places
        mov x3, #{BLOCKS}
        bl "{name}"
        mov x8, #64  // write
        mov x0, #1
        ldr x1, =states
        mov x2, #{len(states)}
        svc #0
        mov x8, #93  // exit
        mov x0, #0
        svc #0
        .data
        .balign 16
places: .quad {", ".join(f"messages + {data.shape[1] * lane}" for lane in range(method.lanes))}
states: .byte {", ".join(map(str, states))}
messages: .byte {", ".join(map(str, data.tobytes()))}
"""


@pytest.mark.skipif(
    not (shutil.which("qemu-aarch64") and shutil.which("aarch64-linux-gnu-as")),
    reason="there is no qemu-aarch64 or no aarch64-linux-gnu-as: install qemu-user and binutils-aarch64-linux-gnu",
)
@pytest.mark.covers("armv8")
@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("method", ARM_METHODS, ids=lambda method: f"{method.name}-{method.lanes}")
def test_armv8_hashes_under_emulation(algorithm: str, method: Method, tmp_path: Path) -> None:
    program, assembly, compiled = (tmp_path / name for name in ("program", "program.s", "program.o"))
    for active in {1, method.lanes // 2 + 1, method.lanes}:
        assembly.write_text(arm_program(algorithm, method, active))
        subprocess.run(["aarch64-linux-gnu-as", "-march=armv8.2-a+crypto+sha3", assembly, "-o", compiled], check=True)
        subprocess.run(["aarch64-linux-gnu-ld", compiled, "-o", program], check=True)
        done = subprocess.run(["qemu-aarch64", "-cpu", "max", program], capture_output=True, check=True)
        states = np.frombuffer(done.stdout, initial_states(algorithm, method).dtype)
        check_states(algorithm, method, states, active)


# What is chosen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "algorithm", "features", "name", "lanes"),
    [
        ("instructions", "sha256", {*X86, "sha", "avx2"}, "x86-sha", 4),
        ("instructions", "sha384", {*X86, "sha", "avx2"}, "vectors", 4),
        ("instructions", "sha256", {"sha", "avx2"}, "vectors", 8),
        ("instructions", "sha256", {"neon", "sha2"}, "armv8-sha", 4),
        ("instructions", "sha384", {"neon", "sha2"}, "vectors", 2),
        ("instructions", "sha384", {"neon", "sha2", "sha3"}, "armv8-sha", 4),
        ("instructions", "sha256", {*AVX512, "sha"}, "x86-sha", 4),
        ("instructions", "sha384", {*AVX512, "sha"}, "avx512", 8),
        ("vectors", "sha256", {*AVX512, "sha"}, "avx512-sha", 16),
        ("vectors", "sha256", AVX512, "avx512", 16),
        ("vectors", "sha384", AVX512, "avx512", 8),
        ("vectors", "sha256", {*X86, "avx2", "avx512f"}, "vectors", 8),
        ("vectors", "sha256", X86, "vectors", 4),
        ("vectors", "sha256", {"sse2"}, "scalar", 1),
        ("scalar", "sha256", {*AVX512, "sha"}, "scalar", 1),
        ("instructions", "sha384", set(), "scalar", 1),
    ],
)
def test_a_variant_uses_what_the_processor_has(
    variant: str, algorithm: str, features: set[str], name: str, lanes: int
) -> None:
    method = method_of(variant, ALGORITHMS[algorithm], "", frozenset(features))
    assert (method.name, method.lanes) == (name, lanes)


@pytest.mark.parametrize(("features", "name"), [(AVX512, "avx512-zen5"), (X86, "vectors")])
def test_zen_5_has_its_own_order_of_avx512(features: set[str], name: str) -> None:
    assert method_of("vectors", ALGORITHMS["sha384"], "znver5", frozenset(features)).name == name


@pytest.mark.parametrize(
    ("features", "variant"),
    [
        ({*AVX512, "sha"}, "vectors"),
        ({*X86, "avx2", "sha"}, "instructions"),
        ({"neon", "sha2"}, "instructions"),
        (set(), "instructions"),
    ],
)
def test_only_wide_vectors_go_before_instructions(
    monkeypatch: pytest.MonkeyPatch, features: set[str], variant: str
) -> None:
    monkeypatch.setattr(numba_cpu, "_processor", lambda: ("", features))
    assert NumbaCpu.default_variant(NumbaCpu.devices_of("", "")[0]) == variant


def test_without_numba_rows_of_other_machines_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba.core.registry", None)  # what importing it finds
    assert numba_cpu._processor.__wrapped__() == ("", frozenset())


# Parts for threads ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    """One kernel an algorithm, with several threads whatever the machine has."""
    (device, *_) = kernel_class("numba-cpu").devices()
    if device.unavailable:
        pytest.skip(device.unavailable)
    several = type(device)(**{**vars(device), "id": "3-threads"})
    return [NumbaCpu(several, algorithm) for algorithm in ALGORITHMS]


@pytest.mark.parametrize("leaves", [[3000], [255, 256, 257, 512, 1, 0, 700], [1] * 900, [0, 0, 1025, 0]], ids=str)
def test_parts_make_the_same_trees(kernels: list[Kernel], monkeypatch: pytest.MonkeyPatch, leaves: list[int]) -> None:
    monkeypatch.setattr(numba_cpu, "_PART_BYTES", 1024)
    content = painted(64 * max(leaves) + 5)
    for kernel in kernels:
        buffer = kernel.put(content)
        parts = [slice(i % 7, i % 7 + max(0, 64 * n - i % 3)) for i, n in enumerate(leaves)]
        segments, texts = [buffer[part] for part in parts], [content[part].tobytes() for part in parts]
        work: Any = kernel.prepare("tree", segments, 64)
        assert len(work._cuts) > 3
        work.run()
        name = kernel.algorithm.name
        assert list(map(bytes, work.digests())) == [merkle_tree_hash(chunks_of(text, 64), name) for text in texts]


def test_parts_make_the_same_digests(kernels: list[Kernel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba_cpu, "_PART_BYTES", 1024)
    content = painted(200_000)
    parts = [slice(0, 100_000), slice(3, 3), *(slice(i, 11 * i) for i in range(300)), slice(7, 90_000)]
    for kernel in kernels:
        buffer = kernel.put(content)
        work: Any = kernel.prepare("batched", [buffer[part] for part in parts], None)
        assert len(work._cuts) > 3
        work.run()
        expected = [hashlib.new(kernel.algorithm.name, content[part].tobytes()).digest() for part in parts]
        assert list(map(bytes, work.digests())) == expected


# Compiled code on disk -----------------------------------------------------------------------------------------------

HASH = """
import hashlib
from hashbench.kernels.numba_cpu import NumbaCpu
kernel = NumbaCpu(NumbaCpu.devices()[0], "sha256", "scalar")
assert kernel.batched([kernel.put(b"abc")]).tobytes() == hashlib.sha256(b"abc").digest()
print(sum(kernel.hash_slots.stats.cache_hits.values()))
"""


def test_code_is_compiled_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for hits in (0, 1):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", HASH], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) == hits


@pytest.mark.parametrize(("mode", "kept"), [(0o700, True), (0o777, False)])
def test_only_private_folders_keep_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, kept: bool) -> None:
    import numba

    tmp_path.chmod(mode)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    function = cached(numba.njit, lambda number: number + 1)
    assert function(1) == 2
    assert (function.stats.cache_path is not None) == kept
    assert any(tmp_path.rglob("*.nbc")) == kept


def test_nothing_needs_to_be_written() -> None:
    def jit(function: Any, cache: bool = False) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return function

    assert cached(jit, lambda text: len(text))("four") == 4  # the name of a function can be set
