"""The compiled loop that reads a file and copies it: whatever the sizes, and whatever fails."""

from __future__ import annotations

import ctypes
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

pytest.importorskip("llvmlite", reason="Numba is not installed")

from hashbench.kernels import PAGE, PartsInTurn, read_and_copy
from hashbench.kernels.read_and_copy import DriverError, ReadAndCopy

DATA = hashlib.shake_128(b"a file").digest(100_000)
STREAM = 7
FILLER = 0x5A

_I64 = ctypes.c_int64
_COPY, _WAIT = ctypes.CFUNCTYPE(ctypes.c_int, *[_I64] * 4), ctypes.CFUNCTYPE(ctypes.c_int, _I64)


class Driver:
    """A device whose memory is the host's.

    Attributes:
        copied: the sizes of the copies.
        statuses: what the functions return, by their names.
    """

    def __init__(self) -> None:
        self.copied: list[int] = []
        self.statuses = {"copy": 0, "wait": 0}
        self._functions = _COPY(self._copy), _WAIT(self._wait)
        self._pending: list[tuple[int, int, int]] = []
        self.loop = ReadAndCopy(*(ctypes.cast(function, ctypes.c_void_p).value or 0 for function in self._functions))

    def _copy(self, target: int, source: int, nbytes: int, stream: int) -> int:
        assert stream == STREAM
        self.copied.append(nbytes)
        self._pending.append((target, source, nbytes))
        return self.statuses["copy"]

    def _wait(self, stream: int) -> int:
        assert stream == STREAM
        for target, source, nbytes in self._pending:
            ctypes.memmove(target, source, nbytes)
        self._pending.clear()
        return self.statuses["wait"]

    def bring(self, file: int, offset: int, nbytes: int, size: int) -> tuple[int, bytes]:
        """How many bytes came, and what is on the device."""
        block, target = (ctypes.create_string_buffer(bytes([FILLER]) * (n + 16), n + 16) for n in (size, nbytes))
        count = self.loop(file, offset, nbytes, ctypes.addressof(block), size, ctypes.addressof(target), STREAM)
        assert block.raw[size:] == bytes([FILLER]) * 16
        return count, target.raw


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path: Path = tmp_path_factory.mktemp("read") / "file"
    path.write_bytes(DATA)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(50))
@given(offset=st.integers(0, 101_000), nbytes=st.integers(0, 101_000), size=st.integers(1000, 20_000))
def test_bytes_come_as_they_are_up_to_the_end_of_the_file(file: int, offset: int, nbytes: int, size: int) -> None:
    driver = Driver()
    wanted = DATA[offset : offset + nbytes]
    count, device = driver.bring(file, offset, nbytes, size)
    assert count == len(wanted)
    assert device == wanted + bytes([FILLER]) * (nbytes + 16 - count)
    assert max(driver.copied, default=0) <= size
    assert len(driver.copied) == -(-len(wanted) // size)


def test_a_file_that_cannot_be_read_says_why(file: int) -> None:
    driver: Any = Driver()
    write_only = os.open("/dev/null", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            driver.bring(write_only, 0, 10, 1000)
    finally:
        os.close(write_only)
    assert driver.bring(file, 0, 10, 1000)[0] == 10


@pytest.mark.parametrize("failing", ["copy", "wait"])
def test_a_driver_that_fails_ends_the_loop(file: int, failing: str) -> None:
    driver = Driver()
    driver.statuses[failing] = 700
    with pytest.raises(DriverError, match="status 700") as raised:
        driver.bring(file, 0, 50_000, 1000)
    assert raised.value.status == 700
    assert driver.copied == [1000]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(50))
@given(
    ranges=st.lists(st.tuples(st.integers(0, 99_000), st.integers(1, 20_000)), max_size=8),
    threads=st.integers(1, 4),
)
def test_parts_come_in_turn_each_once(file: int, ranges: list[tuple[int, int]], threads: int) -> None:
    spans = [(offset, min(offset + nbytes, len(DATA))) for offset, nbytes in ranges]
    target = np.zeros(sum(end - begin for begin, end in spans), np.uint8)
    rows, place = [], target.ctypes.data
    for begin, end in spans:
        rows.append((file, begin - begin % PAGE, begin % PAGE, end - begin, place))
        place += end - begin
    parts = PartsInTurn(np.array(rows, np.int64).reshape(-1, 5), [])
    drivers = [Driver() for _ in range(threads)]
    left: list[int | None] = []

    def bring(driver: Driver) -> None:
        block = np.zeros(7 * PAGE, np.uint8)
        left.append(driver.loop.in_turn(parts, block.ctypes.data, STREAM))

    running = [threading.Thread(target=bring, args=(driver,)) for driver in drivers]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert left == threads * [None]
    assert target.tobytes() == b"".join(DATA[begin:end] for begin, end in spans)
    copied = sorted(nbytes for driver in drivers for nbytes in driver.copied)
    assert copied == sorted(end - begin for begin, end in spans)


def test_a_part_that_cannot_be_read_is_told_and_the_others_come(file: int) -> None:
    block, target = np.zeros(4 * PAGE, np.uint8), np.zeros(30, np.uint8)
    place = target.ctypes.data
    rows = [
        (file, 0, 5, 10, place),
        (-1, 0, 0, 10, place + 10),
        (file, 24 * PAGE, 0, 9000, place),
        (file, 0, 0, 9, place + 20),
    ]
    parts = PartsInTurn(np.array(rows, np.int64), [])
    driver = Driver()
    told = [driver.loop.in_turn(parts, block.ctypes.data, STREAM) for _ in range(3)]
    assert told == [1, 2, None]
    assert target.tobytes() == DATA[5:15] + bytes(10) + DATA[:9] + bytes(1)


def test_no_part_is_taken_after_the_end(file: int) -> None:
    block, target = np.zeros(PAGE, np.uint8), np.zeros(10, np.uint8)
    parts = PartsInTurn(np.array([(file, 0, 0, 10, target.ctypes.data)], np.int64), [])
    parts.end()
    driver = Driver()
    for _ in range(3):
        assert driver.loop.in_turn(parts, block.ctypes.data, STREAM) is None
    assert not driver.copied


@pytest.mark.parametrize("failing", ["copy", "wait"])
def test_a_driver_that_fails_ends_the_turn(file: int, failing: str) -> None:
    block, target = np.zeros(PAGE, np.uint8), np.zeros(10, np.uint8)
    parts = PartsInTurn(np.array(2 * [(file, 0, 0, 10, target.ctypes.data)], np.int64), [])
    driver = Driver()
    driver.statuses[failing] = 700
    with pytest.raises(DriverError, match="status 700"):
        driver.loop.in_turn(parts, block.ctypes.data, STREAM)
    assert driver.copied == [10]


def test_threads_that_need_it_at_the_same_time_compile_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that another thread's replaces would be freed while it runs."""
    together = threading.Barrier(8)
    compiled: list[ReadAndCopy] = []
    programs: list[Any] = []
    program = read_and_copy._program

    def slowly() -> Any:
        programs.append(program())
        time.sleep(0.05)
        return programs[-1]

    def make() -> None:
        together.wait(10)
        compiled.append(ReadAndCopy(0, 0))

    monkeypatch.setattr(read_and_copy, "_program", slowly)
    read_and_copy._compiled.cache_clear()
    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(compiled) == 8
    assert len(programs) == 1
