"""Memory in large pages."""

from __future__ import annotations

import mmap
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from hashbench.hashing.large_pages import ask_for_large_pages, large_pages
from hashbench.kernels import Bytes


def mapped(nbytes: int) -> Bytes:
    """Memory for which nothing was asked: NumPy asks for large pages itself."""
    return np.frombuffer(mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)


def flags(address: int) -> set[str]:
    """What the system says of the memory at an address: "private", and the flags of its mapping."""
    told = Path("/proc/self/smaps")
    if not (told.exists() and Path("/sys/kernel/mm/transparent_hugepage").exists()):
        pytest.skip("the system does not say which pages memory has, or has no large ones")
    found: set[str] = set()
    here = False
    for line in told.read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line):
            here = int(bounds[1], 16) <= address < int(bounds[2], 16)
            found |= {"private"} if here and bounds[3].endswith("p") else set()
        elif line.startswith("VmFlags:") and here:
            found |= set(line.split())
    return found


@pytest.mark.parametrize("nbytes", [mmap.PAGESIZE, 4 << 20])
def test_memory_for_direct_reads_asks_for_large_pages(nbytes: int) -> None:
    memory = large_pages(nbytes)
    address = np.frombuffer(memory, np.uint8).ctypes.data
    assert len(memory) == nbytes
    assert address % (2 << 20) == 0
    memory[-1] = 1
    assert {"private", "hg"} <= flags(address)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps pages from the child of a fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads of other tests do not matter to it
def test_a_fork_does_not_share_memory_for_direct_reads() -> None:
    """Pages that a fork shares are copied when they are written to, and a read under way may go to either copy."""
    memory = large_pages(mmap.PAGESIZE)
    memory[0] = 7
    child = os.fork()
    if child == 0:
        os._exit(memory[0])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory[0] == 7


def test_of_other_memory_whole_large_pages_are_asked_for() -> None:
    memory = mapped(9 << 20)
    begin = -memory.ctypes.data % (2 << 20)
    inside = memory[begin + 1 : begin + (6 << 20) + 5]  # two whole ones, from the second on
    ask_for_large_pages(inside)
    address = memory.ctypes.data + begin
    large = ["hg" in flags(address + (n << 20)) for n in (1, 2, 5, 6)]
    assert large == [False, True, True, False]


@pytest.mark.parametrize("nbytes", [0, 1, 2 << 20])
def test_memory_without_a_whole_large_page_is_left_alone(nbytes: int) -> None:
    memory = mapped(8 << 20)
    begin = -memory.ctypes.data % (2 << 20)
    ask_for_large_pages(memory[begin + 1 : begin + 1 + nbytes])
    assert "hg" not in flags(memory.ctypes.data + begin + 1)
