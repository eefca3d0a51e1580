"""A program that NVBench drives: one launch of CuPy's kernel, timed by NVBench and by this harness in one process.

`python -m hashbench.experiments.nvbench_program DEVICE ALGORITHM BYTES CHUNK_SIZE FILE` writes FILE, as JSON: "nbytes",
the bytes that were hashed (fewer than asked for where they do not fit); "hashbench", the harness's summary; "nvbench",
the seconds of NVBench's samples. NVBench wants a process of its own, whose arguments and output are its own too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hashbench.bench.experiment import SEED, room
from hashbench.bench.measurement import measure
from hashbench.bench.verification import verify
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import Work
from hashbench.kernels.cupy_cuda import CupyCuda

BENCHMARK = "hash_chunks"

OPTIONS = ("--min-samples", "30", "--timeout", "30")
"""NVBench ends when there are enough samples and their spread is small, or after this many seconds."""


class NVBenchError(Exception):
    """NVBench gave no samples; the message is its reason."""


def main(arguments: Sequence[str]) -> None:
    """Measures as the arguments say, and writes the file."""
    device_id, algorithm, size, chunk_size, path = arguments
    (device,) = (device for device in CupyCuda.devices() if device.id == device_id)
    kernel = CupyCuda(device, algorithm)
    nbytes = int(size)
    while nbytes > room(kernel):
        nbytes //= 2
    memory = kernel.random(nbytes, SEED)
    work = kernel.prepare("batched", [memory], int(chunk_size))
    work.run()
    verify(kernel, "batched", [memory], int(chunk_size), work.digests(), SEED)
    ours = measure([work]).device
    samples = nvbench_samples(work, device_id, Path(path).with_name("nvbench.json"))
    given = {"nbytes": nbytes, "hashbench": asdict(ours), "nvbench": samples}
    write_atomically(Path(path), json.dumps(given).encode())


def nvbench_samples(work: Work, device: str, path: Path) -> list[float]:
    """The seconds of NVBench's cold measurements of `work`.

    Args:
        work: what is run.
        device: CUDA's ordinal.
        path: of the files that NVBench writes.

    Raises:
        NVBenchError: there are none.
    """
    import cuda.bench as nvbench
    from cuda.bench.results import BenchmarkResult

    def launcher(launch: Any) -> None:
        work.run()

    def benchmark(state: Any) -> None:
        # A run waits for its own end. NVBench must know: else it holds the launch back until the call returns.
        state.exec(launcher, sync=True, batched=False)

    nvbench.register(benchmark).set_name(BENCHMARK)
    nvbench.run_all_benchmarks(["nvbench", "--devices", device, "--jsonbin", str(path), *OPTIONS])
    (state,) = BenchmarkResult.from_json(path)[BENCHMARK].states
    if state.is_skipped or not state.samples:
        raise NVBenchError(f"NVBench gave no samples: {state.skip_reason or 'it does not say why'}")
    return [float(seconds) for seconds in state.samples]


if __name__ == "__main__":
    main(sys.argv[1:])
