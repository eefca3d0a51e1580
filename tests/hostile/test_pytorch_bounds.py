"""Attacks by PyTorch checkpoints on time and memory: little on disk asks for much, and gets little."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytorch_files import (
    ORDERED,
    archive,
    called,
    checkpoint,
    items,
    named,
    number,
    pickled,
    several,
    storage,
    tensor,
    text,
    write_sparse,
)

DOUBLED = b")q\0" + b"h\0\x86q\0" * 8000  # each tuple has the one before twice: 2^8000 values in 40 kB
LONG_LIST = b"](" + b"K\1" * 100_000 + b"eq\1"
ALIKE = [number << 40 for number in range(1 << 16)]  # their hashes differ in high bits alone

SECONDS = 12.0  # of CPU, on a busy machine; what each of these took by the square was minutes
MEBIBYTES = 300


def put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def whole(value: bytes) -> bytes:
    return b"\x80\2" + value + b"."


def dict_of(keys: list[bytes]) -> bytes:
    return b"}(" + b"N".join(keys) + b"Nu"


# The pickle, and why it is refused, or "" where it is not.
PICKLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "one value in many places": (lambda: pickled(a=DOUBLED), "more than 1048576 values"),
    "one value in many places of metadata": (
        lambda: whole(ORDERED + b"}" + items({"_metadata": DOUBLED}) + b"b"),
        "",
    ),
    "one value in many places as a key": (lambda: whole(b"}" + DOUBLED + b"Ns"), "neither text nor an integer"),
    "one value in many places as a shape": (
        lambda: pickled(a=called("torch.Size", DOUBLED)),
        "more than 1048576 values",
    ),
    "one value in many places as an argument": (
        lambda: pickled(a=called("builtins.complex", DOUBLED, b"N")),
        "makes a number, bytes, a device or a layout of what is not plain values",
    ),
    "a storage's name in many places": (
        lambda: pickled(
            a=DOUBLED + several(text("storage"), named("torch.FloatStorage"), b"h\0", text("cpu"), number(4)) + b"Q"
        ),
        "its pickle is not valid|not described as torch.save does it",
    ),
    "sets of one long list": (
        lambda: whole(LONG_LIST + b"](" + (named("builtins.set") + b"h\1\x85R") * 5000 + b"e"),
        "more than one object|makes more than 2097152 values",
    ),
    "Counters of one long dict": (
        lambda: whole(
            dict_of([number(place) for place in range(50_000)])
            + b"q\1\x85("
            + (named("collections.Counter") + b"h\1\x85R") * 5000
            + b"t\x86"
        ),
        "makes more than 2097152 values",
    ),
    "lengths of one long shape": (
        lambda: pickled(
            a=b"(" + b"K\1" * 100_000 + b"tq\1",
            b=b"]("
            + (named("torch._utils._rebuild_tensor_v2") + several(storage(), b"K\0h\1h\1\x89", ORDERED) + b"R") * 5000
            + b"e",
        ),
        "has more than 64 dimensions",
    ),
    "keys whose hashes are alike": (lambda: whole(dict_of([number(value) for value in ALIKE])), ""),
    "keys whose hashes are one": (
        lambda: whole(dict_of([number(place * ((1 << 61) - 1)) for place in range(100_000)])),
        "neither text nor an integer of up to 64 bits",
    ),
    "memoized numbers whose hashes are alike": (
        lambda: whole(b"N" + b"".join(put((place << 16) & 0xFFFFFFFF | place >> 16) for place in range(1 << 19))),
        "",
    ),
    "empty dicts": (lambda: whole(b"](" + b"}" * 1_900_000 + b"e"), "more than 1048576 values"),
    "empty dicts that are dropped": (
        lambda: pickled(a=ORDERED + b"}" + items({"_metadata": b"](" + b"}" * 3_000_000 + b"e"}) + b"b"),
        "makes more than 2097152 values",
    ),
    "one long key in many names": (
        lambda: whole(b"}" + text("k" * 1_000_000) + b"](" + b"".join(number(1) for _ in range(1000)) + b"es"),
        "names of more than 67108864 letters",
    ),
    "one long key in many dicts": (
        lambda: whole(text("/" * 1_000_000) + b"q\1" + b"\x85](" + b"}h\1Ns" * 100_000 + b"e\x86"),
        "names of more than 67108864 letters",
    ),
    "nesting": (lambda: whole(b")" + b"\x85" * 500_000), "nests them more than 64 deep"),
    "marks": (lambda: whole(b"(" * 3_000_000), "makes more than 2097152 values"),
    "instructions": (lambda: whole(b"](" + b"N" * (9 << 20) + b"e"), "more than 8388608 instructions"),
}


READER = """if True:
    import os, re, sys, time
    from pathlib import Path
    from hashbench.model.pytorch_checkpoint import PyTorchError, read_checkpoint

    def usage():
        peak = re.search(r"VmHWM:\\s*([0-9]+) kB", Path("/proc/self/status").read_text())
        return time.process_time(), int(peak[1]) / 1024

    for path in sys.stdin:
        if child := os.fork():
            if os.waitpid(child, 0)[1]:
                print("nan nan the reader died", flush=True)
            continue
        seconds, mebibytes = usage()
        message = ""
        try:
            read_checkpoint(path.rstrip("\\n"))
        except PyTorchError as error:
            message = str(error)
        after = usage()
        print(after[0] - seconds, after[1] - mebibytes, message.replace("\\n", " "), flush=True)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def reader() -> Iterator[subprocess.Popen[str]]:
    """A process that reads each checkpoint in a new child, so that nothing but its imports is there before."""
    program = [sys.executable, "-c", READER]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def spent(process: subprocess.Popen[str], path: Path) -> tuple[float, float, str]:
    """The CPU seconds and MiB that it takes to read a checkpoint, and why it is refused."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()
    seconds, mebibytes, message = process.stdout.readline().split(" ", 2)
    return float(seconds), float(mebibytes), message.strip()


def check_bounded(process: subprocess.Popen[str], path: Path, reason: str) -> None:
    seconds, mebibytes, message = spent(process, path)
    print(f"{seconds:.2f} s, {mebibytes:.0f} MiB: {message[-150:]}")
    assert any(part in message for part in reason.split("|")) if reason else not message
    assert seconds < SECONDS
    assert mebibytes < MEBIBYTES


@pytest.mark.parametrize(("make", "reason"), PICKLES.values(), ids=PICKLES)
def test_a_pickle_asks_for_little(
    reader: subprocess.Popen[str], tmp_path: Path, make: Callable[[], bytes], reason: str
) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(archive(checkpoint(make())))
    check_bounded(reader, path, reason)


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("data", "storages", "reason"),
    [
        (HUGE, {}, f"its pickle has {HUGE} bytes; up to"),
        (
            pickled(a=tensor(storage(numel=1_600_000_000), 0, (40_000, 40_000), (1, 40_000))),
            {"0": 6_400_000_000},
            "the tensor 'a' and others are not contiguous, and together larger than the file or 1073741824 bytes",
        ),
        (
            pickled(
                **{f"t{at}": tensor(storage(numel=HUGE // 4), at, (2, 1 << 20), (HUGE // 8, 2)) for at in range(500)}
            ),
            {"0": HUGE},
            "are not contiguous, and together larger",
        ),
        (
            pickled(**{f"t{at}": tensor(storage(numel=1 << 26), at, (1 << 12,), (1 << 12,)) for at in range(200)}),
            {"0": 1 << 28},
            "are not contiguous, and too far apart in their storages to be read",
        ),
        (pickled(a=tensor(storage(numel=HUGE // 4), 5, (HUGE // 8,))), {"0": HUGE}, ""),
    ],
    ids=["pickle", "transposed", "two rows", "scattered", "contiguous"],
)
def test_zeros_that_take_no_space_take_no_memory(
    reader: subprocess.Popen[str], tmp_path: Path, data: bytes | int, storages: dict[str, int], reason: str
) -> None:
    path = tmp_path / "model.pt"
    members = checkpoint(b"", storages)
    members[0].data = data
    write_sparse(path, members)
    check_bounded(reader, path, reason)
