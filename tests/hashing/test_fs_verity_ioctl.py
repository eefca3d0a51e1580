"""The kernel's digest of a protected file.

No kernel here need have fs-verity: a stand-in answers, by Linux's own header (tests/support/measured_by.c).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hashbench.hashing.fs_verity_ioctl import NotSupported, measured

EXT4, TMPFS, FUSE = "EF53", "01021994", "65735546"
SHA256, SHA512 = "ab" * 32, "cd" * 64

PROGRAM = """
import json, sys
from hashbench.hashing.fs_verity_ioctl import NotProtected, measured
for path in sys.argv[1:]:
    with open(path) as file:
        try:
            print(json.dumps(measured(file.fileno())))
        except (NotProtected, OSError) as error:
            print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not Path("/usr/include/linux/fsverity.h").exists():
        pytest.skip("no C compiler, or no header linux/fsverity.h (Debian: linux-libc-dev)")
    library = tmp_path_factory.mktemp("stand-in") / "measured_by.so"
    source = Path(__file__).parent.parent / "support" / "measured_by.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


def answers(stand_in: Path, folder: Path, kernel: list[str], file_system: str) -> list[Any]:
    """What `measured` says of files for which a kernel has these algorithms and digests."""
    files = [folder / str(number) for number in range(len(kernel))]
    for file in files:
        file.touch()
    table = folder / "measured"
    table.write_text("".join(f"{digest} {file}\n" for digest, file in zip(kernel, files, strict=True)))
    environment = {"LD_PRELOAD": str(stand_in), "MEASURED": str(table), "FILE_SYSTEM": file_system}
    command = [sys.executable, "-c", PROGRAM, *map(str, files)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.covers("fs-verity-ioctl")
def test_the_digest_is_what_fsverity_measure_prints(stand_in: Path, tmp_path: Path) -> None:
    kernel = [f"1 {SHA256}", f"2 {SHA512}", f"7 {SHA256}", "1 -", "1 !"]
    assert answers(stand_in, tmp_path, kernel, EXT4) == [
        f"sha256:{SHA256}",
        f"sha512:{SHA512}",
        f"algorithm-7:{SHA256}",
        ["NotProtected", "fs-verity is not enabled for it"],
        ["NotSupported", "its file system, or this kernel, has fs-verity turned off"],
    ]


@pytest.mark.covers("fs-verity-ioctl")
@pytest.mark.parametrize("file_system", [TMPFS, FUSE])
def test_what_other_file_systems_answer_does_not_count(stand_in: Path, tmp_path: Path, file_system: str) -> None:
    ((kind, reason),) = answers(stand_in, tmp_path, [f"1 {SHA256}"], file_system)
    assert (kind, reason) == ("NotSupported", "its file system has no fs-verity: ext4, f2fs, btrfs have")


def test_a_pipe_is_not_protected() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(NotSupported):
            measured(reading)
    finally:
        os.close(reading)
        os.close(writing)
