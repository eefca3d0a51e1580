"""`python -m hashbench`, which imports nothing from the working directory once this module runs.

Python puts the working directory first among the places to import from, and it may be a stranger's model.
"""

import os
import sys

if not sys.flags.safe_path and sys.path[0] in ("", os.getcwd()):  # noqa: PTH109  # pathlib is not loaded yet
    del sys.path[0]

from hashbench.cli.main import main

if __name__ == "__main__":
    main()
