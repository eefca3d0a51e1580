"""The program `hashbench`, and `python -m hashbench`, which imports nothing from the working directory once this runs.

Python puts the working directory first among the places to import from, and it may be a stranger's model.
"""

import os
import sys

if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  # pathlib is not loaded yet
    del sys.path[0]

from contextlib import suppress


def main() -> None:
    """Runs the command line and exits.

    Python's exit code for what it cannot import is 1, which here says that a model is not what it should be: a broken
    installation, or one for which there is no memory, says nothing of a model.
    """
    try:
        from hashbench.cli.main import main as run

        run()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        with suppress(OSError):  # the exit code says it too
            if sys.stderr:  # None where it is closed
                sys.stderr.write(f"hashbench: cannot be started: {reason}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
