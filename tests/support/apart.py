"""Scripts of this folder in processes of their own, whose frameworks are told by the environment to run on the host."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def run_apart(script: str, *arguments: str, **environment: str) -> str:
    """The output of a script.

    Args:
        script: its name.
        arguments: its arguments.
        environment: variables beside those of this process.
    """
    ran = subprocess.run(
        [sys.executable, SUPPORT / script, *arguments],
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
