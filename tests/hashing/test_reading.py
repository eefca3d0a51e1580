"""Threads that read: whoever waits for them goes on when nobody wants the bytes any more."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hashbench.hashing import reading
from hashbench.hashing.reading import Reader, plan
from hashbench.hashing.sources import FileRange


def test_a_reader_that_closes_lets_go_whoever_waits_for_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a program is interrupted a second time, while it ends what it interrupted before."""
    path = tmp_path / "file"
    path.write_bytes(bytes(4000))
    monkeypatch.setattr(reading, "_READ_SIZE", 1000)
    monkeypatch.setattr(reading, "reading_threads", lambda: 1)
    (stage,) = plan([FileRange(path, 0, 4000)], 4096)
    began, shut, goes_on, ended = (threading.Event() for _ in range(4))
    read: list[int] = []
    original = Reader._read_file

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            shut.set()
            super().shutdown(wait)

    def slowly(self: Reader, path: str, offset: int, target: memoryview) -> None:
        read.append(offset)
        began.set()
        assert goes_on.wait(10)
        original(self, path, offset, target)

    def fill() -> None:
        reader.fill(stage, memoryview(bytearray(4096)))
        ended.set()

    monkeypatch.setattr(reading, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(Reader, "_read_file", slowly)
    reader = Reader([FileRange(path, 0, 4000)])
    threading.Thread(target=fill, daemon=True).start()
    assert began.wait(10)
    closing = threading.Thread(target=reader.__exit__, args=(None, None, None), daemon=True)
    closing.start()
    assert shut.wait(10)
    goes_on.set()
    assert ended.wait(10)
    closing.join(10)
    assert not closing.is_alive()
    assert read == [0]
