"""Hashes memory of its own while it is told to, for the experiment `beside`: a second process on the same GPU.

Its arguments are a device, the bytes of a launch, and the bytes a second. It writes "ready"; then it hashes from each
line that it reads to the next, and writes the GB/s.
"""

from __future__ import annotations

import sys
import threading
from time import perf_counter, sleep

from hashbench.bench.experiment import SEED
from hashbench.bench.sweeps import CHUNK_SIZE
from hashbench.kernels import kernel_class


def main(device: str, piece: int, rate: float) -> None:
    """Runs until its input ends."""
    kernel_type = kernel_class("cupy")
    kernel = kernel_type(next(one for one in kernel_type.devices() if one.id == device), "sha256", priority="low")
    works = [kernel.prepare("tree", [kernel.random(piece, SEED)], CHUNK_SIZE) for _ in range(2)]
    works[0].run()
    print("ready", flush=True)
    while sys.stdin.readline():
        stop = threading.Event()
        speeds: list[float] = []

        def hash_until_told(stop: threading.Event = stop, speeds: list[float] = speeds) -> None:
            begin = due = perf_counter()
            runs = 0
            while not stop.is_set():
                sleep(max(0.0, due - perf_counter()))
                due += piece / rate
                works[runs % 2].run()
                runs += 1
            speeds.append(1e-9 * runs * piece / (perf_counter() - begin))

        thread = threading.Thread(target=hash_until_told)
        thread.start()
        ended = not sys.stdin.readline()
        stop.set()
        thread.join()
        print(speeds[0], flush=True)
        if ended:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
