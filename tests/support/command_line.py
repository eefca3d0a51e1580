"""The command line, run in this process or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hashbench.cli.main import run

COMMAND = [sys.executable, "-m", "hashbench"]


def in_process(*arguments: str | bytes | Path) -> subprocess.CompletedProcess[bytes]:
    """Runs a command here, as quickly as can be."""
    output, errors = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with redirect_stdout(output), redirect_stderr(errors):
        code = run([os.fsdecode(argument) for argument in arguments])
    written = []
    for text in (output, errors):
        text.flush()
        assert isinstance(text.buffer, io.BytesIO)
        written.append(text.buffer.getvalue())
    return subprocess.CompletedProcess(arguments, code, *written)


def in_own_process(*arguments: str | bytes | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Runs a command as its users do, for what needs a process: pipes, signals and the environment."""
    return subprocess.run([*COMMAND, *arguments], capture_output=True, check=False, **options)
