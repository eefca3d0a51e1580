"""The CUDA C source where there is no GPU: run on the host under sanitizers, and compiled for NVIDIA's architectures.

The host's compiler takes the branches that HIP's takes, without PTX; hipRTC itself is not at hand and not tested.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_on_host import CudaOnHost, compiled

from hashbench.kernels import ALGORITHMS
from hashbench.kernels.source import device_source, functions

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)

SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
RUNTIMES = {"address": ["libasan.so", "libubsan.so"], "thread": ["libtsan.so"]}


@pytest.mark.covers("cuda-source-on-host")
@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
@pytest.mark.parametrize("variant", ["plain", "paired"])
@pytest.mark.parametrize("sanitizer", list(SANITIZERS))
def test_the_source_is_clean_under_sanitizers(sanitizer: str, variant: str, algorithm: str, tmp_path: Path) -> None:
    if reason := CudaOnHost.devices()[0].unavailable:
        pytest.skip(reason)
    library = compiled(ALGORITHMS[algorithm], variant, tmp_path, ["-g", "-O1", *SANITIZERS[sanitizer]])
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in [*RUNTIMES[sanitizer], "libstdc++.so"]
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(runtimes),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1",
    }
    program = [
        sys.executable,
        str(Path(__file__).parent.parent / "support" / "sanitized.py"),
        sanitizer,
        str(library),
        algorithm,
        variant,
    ]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr, done.stderr[-4000:]


def compile_with_nvrtc(source: str, architecture: int) -> str:
    """What NVRTC and ptxas say about `source`, compiled for one architecture."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        pytest.skip(f"NVRTC's bindings cannot be imported ({error}): install hashbench[cuda-compilers]")

    def call(function: str, *arguments: Any) -> Any:
        status, *results = getattr(nvrtc, function)(*arguments)
        assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, f"{function}: {status}"
        return results[0] if len(results) == 1 else results or None

    try:
        supported = call("nvrtcGetSupportedArchs")
    except RuntimeError as error:
        pytest.skip(f"NVRTC cannot be loaded ({error}): install hashbench[cuda-compilers]")
    if architecture not in supported:
        pytest.fail(f"this NVRTC, {call('nvrtcVersion')}, does not compile for sm_{architecture}")

    program = call("nvrtcCreateProgram", source.encode(), b"device_source.cu", 0, [], [])
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--ptxas-options=-v"]
    status, *_ = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = bytes(call("nvrtcGetProgramLogSize", program))
    call("nvrtcGetProgramLog", program, log)
    text = log.decode(errors="replace").rstrip("\0")
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS, text
    if not text:
        pytest.skip(f"this NVRTC, {call('nvrtcVersion')}, compiles, but tells nothing of registers; that of 13.5 does")
    return text


def reports(log: str) -> list[tuple[str, ...]]:
    """Of every kernel in the compiler's log: its name, bytes of stack, of spill stores and loads, registers, others."""
    found = re.findall(
        r"Function properties for (\w+)\n"
        r".*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*?Used (\d+) registers(.*)",
        log,
    )
    return found


@pytest.mark.covers("nvrtc")
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids="sm_{}".format)
@pytest.mark.parametrize(
    ("algorithm", "variant"),
    # The others lie between, and SHA-256's "unrolled" is its "plain".
    [*((algorithm, variant) for algorithm in ALGORITHMS for variant in ("paired", "plain")), ("sha384", "unrolled")],
)
def test_the_source_compiles_without_spills(algorithm: str, variant: str, architecture: int) -> None:
    log = compile_with_nvrtc(device_source(ALGORITHMS[algorithm], variant), architecture)
    found = reports(log)
    assert {name for name, *_ in found} == set(functions(variant)), log
    for name, stack, stores, loads, registers, rest in found:
        assert stack == stores == loads == "0", f"{name} uses local memory:\n{log}"
        assert "lmem" not in rest, f"{name} uses local memory:\n{log}"
        assert int(registers) <= 168, f"{name} takes more registers than three blocks can have:\n{log}"
    assert "warning" not in log, log


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_bytewise_variant_keeps_its_schedule_in_local_memory(algorithm: str) -> None:
    log = compile_with_nvrtc(device_source(ALGORITHMS[algorithm], "bytewise"), 90)
    rounds, word = {"sha256": (64, 4), "sha384": (80, 8)}[algorithm]
    stacks = {name: int(stack) for name, stack, *_ in reports(log)}
    assert stacks["hash_chunks"] >= rounds * word
    assert stacks["fill_random"] == 0
