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

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

pytest.importorskip("llvmlite", reason="Numba is not installed")

from hashbench.kernels import read_and_copy
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
