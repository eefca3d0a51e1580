"""A program for NVBench: one launch of CuPy's kernel, timed by NVBench and by this harness in one process.

`python -m hashbench.experiments.nvbench_program DEVICE ALGORITHM BYTES CHUNK_SIZE FILE` writes FILE, as JSON: "nbytes",
the bytes that were hashed (fewer than asked for if those do not fit); "hashbench" and "nvbench", the seconds of each
run by the harness and by NVBench. NVBench requires a process of its own, whose arguments and output it uses itself.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hashbench.bench.experiment import SEED, room
from hashbench.bench.measurement import measure
from hashbench.bench.output_check import check_output
from hashbench.hashing.atomic_write import write_atomically
from hashbench.kernels import Work
from hashbench.kernels.cupy_cuda import CupyCuda

BENCHMARK = "hash_chunks"

OPTIONS = ("--min-samples", "30", "--timeout", "30")
"""NVBench ends when there are enough samples and their spread is small, or after the timeout in seconds."""


class NVBenchError(Exception):
    """NVBench returned no samples. The message has its reason."""


def main(arguments: Sequence[str]) -> None:
    """Measures, and writes the file."""
    device_id, algorithm, size, chunk_size, path = arguments
    (device,) = (device for device in CupyCuda.devices() if device.id == device_id)
    kernel = CupyCuda(device, algorithm)
    nbytes = int(size)
    while nbytes > room(kernel):
        nbytes //= 2
    memory = kernel.random(nbytes, SEED)
    work = kernel.prepare("batched", [memory], int(chunk_size))
    work.run()
    check_output(kernel, "batched", [memory], int(chunk_size), work.digests(), SEED)
    ours = measure([work]).device
    samples = nvbench_samples(work, device_id, Path(path).with_name("nvbench.json"))
    given = {"nbytes": nbytes, "hashbench": ours.samples, "nvbench": samples}
    write_atomically(Path(path), json.dumps(given).encode())


def nvbench_samples(work: Work, device: str, path: Path) -> list[float]:
    """The seconds of NVBench's cold measurements of `work`.

    Args:
        work: the work to time.
        device: its CUDA ordinal.
        path: the file that NVBench writes, and the prefix of its other files.

    Raises:
        NVBenchError: NVBench returned no samples.
    """
    import cuda.bench as nvbench
    from cuda.bench.results import BenchmarkResult

    def launcher(launch: Any) -> None:
        work.run()

    def benchmark(state: Any) -> None:
        # A run waits for its own end. NVBench must know, or it delays the launch until the call returns.
        state.exec(launcher, sync=True, batched=False)

    nvbench.register(benchmark).set_name(BENCHMARK)
    nvbench.run_all_benchmarks(["nvbench", "--devices", device, "--jsonbin", str(path), *OPTIONS])
    (state,) = BenchmarkResult.from_json(path)[BENCHMARK].states
    if state.is_skipped or not state.samples:
        raise NVBenchError(f"NVBench returned no samples: {state.skip_reason or 'it gives no reason'}")
    return [float(seconds) for seconds in state.samples]


if __name__ == "__main__":
    main(sys.argv[1:])
