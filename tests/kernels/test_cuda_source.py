"""The CUDA C source without a GPU: run on the host under sanitizers, and compiled for NVIDIA's architectures.

The host's compiler takes the branches that HIP's takes, without PTX; hipRTC itself is not tested.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from build_cache import cached
from cuda_on_host import CudaOnHost, compiled, compiler_version, host_source
from kernel_sources import kernel_sources

from hashbench.kernels import ALGORITHMS, Unavailable, beyond
from hashbench.kernels.layout import GROUP_SIZE
from hashbench.kernels.source import blocks, device_source, functions
from hashbench.limits import disassembly

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

SUPPORT = Path(__file__).parent.parent / "support"

SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
RUNTIMES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}


@pytest.mark.covers("cuda-source-on-host")
@pytest.mark.parametrize(
    ("sanitizer", "algorithm", "variant"),
    [
        ("address", "sha256", "sliced"),
        pytest.param("address", "sha384", "sliced", marks=pytest.mark.thorough),
        # Of the two, SHA-384's threads meet more often: at five barriers a block, not at one.
        pytest.param("thread", "sha256", "sliced", marks=pytest.mark.thorough),
        ("thread", "sha384", "sliced"),
        # Pairs of threads as they were before "queued"
        pytest.param("thread", "sha256", "early", marks=pytest.mark.thorough),
        pytest.param("thread", "sha384", "early", marks=pytest.mark.thorough),
    ],
)
def test_the_source_is_clean_under_sanitizers(sanitizer: str, algorithm: str, variant: str) -> None:
    if reason := CudaOnHost.devices()[0].unavailable:
        pytest.skip(reason)
    source, options = host_source(ALGORITHMS[algorithm], variant), ["-g", "-O1", *SANITIZERS[sanitizer]]

    def run() -> bytes:
        check_under_sanitizer(sanitizer, compiled(source, options), algorithm)
        return b"clean"

    program = kernel_sources("sanitized.py", "boundaries.py", "cuda_on_host.py", "host_memory.py")
    key: list[str | bytes] = [compiler_version(), sys.version, sanitizer, algorithm, source, *options, *program]
    assert cached("sanitized", *key, make=run) == b"clean"


def check_under_sanitizer(sanitizer: str, library: Path, algorithm: str) -> None:
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in [*RUNTIMES[sanitizer], "libstdc++.so"]
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "LD_PRELOAD": " ".join(runtimes),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter leaks
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
    }
    program = [sys.executable, str(SUPPORT / "sanitized.py"), sanitizer, str(library), algorithm]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr, done.stderr[-4000:]


def compiler_log(source: str, architecture: int) -> str:
    """What NVRTC and ptxas report about `source`, compiled for one architecture."""
    try:
        log = disassembly.compile_program(source, architecture).log
        toolchain = disassembly.toolchain()
    except Unavailable as error:
        pytest.skip(str(error))
    if not log:
        pytest.skip(f"{toolchain} does not report registers; NVRTC 13.5 does")
    return log


def reports(log: str) -> list[tuple[str, ...]]:
    """For each kernel in the log: its name, bytes of stack, spill stores and spill loads, registers, and the rest."""
    found = re.findall(
        r"Function properties for (\w+)\n"
        r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*?Used (\d+) registers(.*)",
        log,
    )
    return found


def programs() -> Iterator[object]:
    """Every variant for every architecture.

    The short form has "sliced" alone, which has every function, for sm_90 and, of SHA-384, whose words take two
    registers, for sm_120. The other variants are in between, and SHA-256's "unrolled" is its "plain".
    """
    variants = {"sha256": ("sliced", "plain"), "sha384": ("sliced", "plain", "unrolled")}
    short = {("sha256", "sliced", 90), ("sha384", "sliced", 90), ("sha384", "sliced", 120)}
    for algorithm in ALGORITHMS:
        for program in product([algorithm], variants[algorithm], ARCHITECTURES):
            marks = [] if program in short else [pytest.mark.thorough]
            yield pytest.param(*program, marks=marks, id="{}-{}-sm_{}".format(*program))


def registers_of(groups: int) -> int:
    """The most registers of a thread, of which a multiprocessor gives out eight at a time, if it has so many groups."""
    return (1 << 16) // (GROUP_SIZE * groups) // 8 * 8


@pytest.mark.covers("nvrtc")
@pytest.mark.parametrize(("algorithm", "variant", "architecture"), list(programs()))
def test_the_source_compiles_without_spills(algorithm: str, variant: str, architecture: int) -> None:
    """With the kernels beyond the contract where these are used as they are: "sliced" for sm_90."""
    groups = dict.fromkeys(functions(ALGORITHMS[algorithm], variant), 3)
    source = device_source(ALGORITHMS[algorithm], variant)
    if (variant, architecture) == ("sliced", 90):
        nodes, portions = blocks(ALGORITHMS[algorithm], variant)["NODE_BLOCKS"], {"sha256": 5, "sha384": 3}[algorithm]
        groups |= {"hash_confined": nodes, "reduce_short_trees": nodes, "hash_portion": portions, "let_pass": 1}
        source = beyond.program(ALGORITHMS[algorithm], variant, "confined.h", "short_trees.h", "portions.h")
    log = compiler_log(source, architecture)
    found = reports(log)
    assert {name for name, *_ in found} == groups.keys(), log
    for name, stack, stores, loads, registers, rest in found:
        assert stack == stores == loads == "0", f"{name} uses local memory:\n{log}"
        assert "lmem" not in rest, f"{name} uses local memory:\n{log}"
        assert int(registers) <= registers_of(groups[name]), f"{name} needs more registers than there are:\n{log}"
    assert "warning" not in log, log


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_bytewise_variant_keeps_its_schedule_in_local_memory(algorithm: str) -> None:
    log = compiler_log(device_source(ALGORITHMS[algorithm], "bytewise"), 90)
    rounds, word = {"sha256": (64, 4), "sha384": (80, 8)}[algorithm]
    stacks = {name: int(stack) for name, stack, *_ in reports(log)}
    assert stacks["hash_chunks"] >= rounds * word
    assert stacks["fill_random"] == 0
