"""Monitors of processes that end or fork: nothing crashes, nothing hangs, and nothing is said without need."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")

BEGIN = """
import atexit, os, sys, threading
import torch
import hashbench.torch.memory as memory
from hashbench.torch import Monitor, manifest

memory._HOST_KERNELS = ("hashlib",)
model = torch.nn.Linear(1000, 1000)

expected = manifest(model)

def monitor_of(model):
    return Monitor(model, expected, period=0.01, budget=1.0)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, which must come."""
    return subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=120)


def test_when_a_program_ends_its_monitors_are_closed_first() -> None:
    done = run(
        """
threads = []
atexit.register(lambda: print([one.is_alive() for one in threads]))
monitor = monitor_of(model)
monitor.start()
threads.append(monitor._thread)
"""
    )
    assert (done.returncode, done.stdout) == (0, "[False]\n")
    assert "Traceback" not in done.stderr


@pytest.mark.thorough
def test_where_a_thread_outlives_the_main_thread_the_monitor_of_a_cpu_says_that_it_ends() -> None:
    done = run(
        """
monitor = monitor_of(model)
monitor.start()

def serve():
    while monitor.status().running:
        pass

threading.Thread(target=serve).start()
"""
    )
    assert done.returncode == 0
    assert done.stderr == "model: ended: the main thread has ended, and after it no thread hashes on the CPU\n"


@pytest.mark.thorough
def test_in_a_process_that_was_forked_a_monitor_has_ended() -> None:
    done = run(
        """
monitor = monitor_of(model)
monitor.start()
locked, go_on = threading.Event(), threading.Event()

def read():
    with monitor._lock, monitor._telling:  # as while a piece is read
        locked.set()
        go_on.wait()

thread = threading.Thread(target=read)
thread.start()
locked.wait()
if child := os.fork():
    _, status = os.waitpid(child, 0)
    go_on.set()
    thread.join()
    print(os.waitstatus_to_exitcode(status), monitor.status().running, flush=True)
    with monitor.updating(["bias"]):
        if child := os.fork():
            os.waitpid(child, 0)
    if child:
        print("the parent has updated", monitor.status().ended)
    else:
        print("the child has updated nothing", flush=True)
        os._exit(0)
    monitor.close()
else:
    monitor.pause()
    monitor.resume()
    with monitor.updating(["bias"]):
        pass
    print(monitor.status().running, monitor.status().ended)
    try:
        monitor.start()
    except RuntimeError as error:
        print(error)
    monitor.close()
    with monitor_of(model) as another:
        print(another.status().running, flush=True)
"""
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "False it belongs to the process that was forked",
        "the monitor of model has ended: it belongs to the process that was forked: make another",
        "True",
        "0 True",
        "the child has updated nothing",
        "the parent has updated None",
    ]
